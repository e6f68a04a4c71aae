"""What a stage and a run leave on their pages in the Prefect UI: Markdown with metrics, tables, samples and pictures.

Each stage of a configuration has one key whatever the run ("pretraining-of-demo"), a crawl that of its site
("crawl-of-umb"), so that the UI shows how its metrics went from run to run. What a stage was made from, and what a run
reused, is linked to the page it got when it was built, if this server has it.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

from prefect.client.orchestration import SyncPrefectClient, get_client
from prefect.client.schemas.filters import ArtifactFilter, ArtifactFilterKey
from prefect.client.schemas.sorting import ArtifactSort

from flows.engine.page import Bars, Block, Picture, Sample, Table, Text, Tokens
from flows.engine.stage import Outcome, Stage
from flows.pipeline.plan import Step
from flows.service.watching.live import LivePage
from flows.service.watching.markdown import code, fenced, link, picture, plain, table
from flows.service.watching.progress import StageProgress
from flows.stages import stage_named
from flows.stages.html import flat_metrics, number
from flows.store.local import Artifact

SAMPLE_CHARACTERS = 600
BAR_CHARACTERS = 20
NEWEST_PAGES = 20  # of a timeline, among which the page of an artifact is looked for
PLANNED = {"reuse": "to be reused", "build": "to be built", "build?": "to be built if need be", "skip": "left out"}


def stage_key(stage: Stage[Any], label: str, pipeline: str) -> str:
    """The timeline of a stage's pages."""
    return key_of(stage.timeline(label, pipeline))


def key_of(text: str) -> str:
    """Keys may hold lower-case letters, digits and dashes."""
    characters = (character if character.isascii() and character.isalnum() else "-" for character in text.lower())
    return "-".join(filter(None, "".join(characters).split("-")))


def stage_page(outcome: Outcome) -> str:
    """The page of a finished stage: what to look at, metrics, and what it was made from."""
    return "\n".join(_page(outcome))


@dataclass
class Row:
    """Where a stage of a run stands.

    Attributes:
        progress: of a stage at work.
        page: its own page, live or final.
    """

    title: str
    state: str
    about: str
    progress: StageProgress | None = None
    page: LivePage | None = None
    artifact: Artifact | None = None


class RunPage:
    """The page of a run: its stages, what becomes of each, and what came out, from the plan to the end."""

    def __init__(self, steps: Sequence[Step]) -> None:
        self.rows = {step.title: Row(step.title, PLANNED[step.action], step.reason) for step in steps}

    def row(self, title: str) -> Row:
        return self.rows.setdefault(title, Row(title, "", ""))

    @contextmanager
    def at_work(self, title: str, progress: StageProgress, page: LivePage) -> Iterator[None]:
        """Show where this stage stands, while the block lasts."""
        row = self.row(title)
        row.progress, row.page = progress, page
        try:
            yield
        finally:
            row.progress = None

    def ended(self, title: str, state: str, about: str, artifact: Artifact | None = None) -> None:
        row = self.row(title)
        row.state, row.about, row.artifact = state, about, artifact

    def live(self) -> str:
        """As of now."""
        pages = {row.title: row.page for row in self._rows()}
        return self._table(
            {title: f"/artifacts/artifact/{page.id}" for title, page in pages.items() if page and page.id}
        )

    def final(self) -> str:
        """At the end, with links to the pages of what was reused."""
        known = [row for row in self._rows() if row.artifact]
        places = _places([row.artifact for row in known if row.artifact])
        return self._table({row.title: place for row, place in zip(known, places, strict=True) if place})

    def _rows(self) -> list[Row]:
        return list(self.rows.values())

    def _table(self, places: Mapping[str, str]) -> str:
        lines = []
        for row in self._rows():
            title = link(row.title, places[row.title]) if row.title in places else plain(row.title)
            progress = row.progress
            state, about = ("**at work**", progress.now) if progress else (row.state, row.about)
            lines.append((title, state, plain(about), code(row.artifact.location) if row.artifact else ""))
        return "\n".join(table(("stage", "this run", "what came out", "artifact"), lines))


def chapters(pages: Mapping[str, RunPage], show: Callable[[RunPage], str]) -> str:
    """The pages of several runs as one, each below its title; `show` says how they stand, `RunPage.live` or `final`."""
    return "\n".join(f"### {plain(title)}\n{show(page)}" for title, page in pages.items())


def _page(outcome: Outcome) -> Iterator[str]:
    artifact = outcome.artifact
    manifest = artifact.manifest
    yield f"{code(artifact.location)} · {manifest.size / 1e6:,.1f} MB · {manifest.seconds:,.1f} s\n"
    for block in outcome.stage.page(artifact):
        yield from markdown_of(block)
    metrics = flat_metrics(artifact.stats)
    yield from table(("metric", "value"), [(plain(name), plain(number(value))) for name, value in metrics.items()])
    origins = [
        (name, origin)
        for name, entries in manifest.inputs.items()
        for entry in entries
        if (origin := artifact.store.find(*entry.name))
    ]
    if origins:
        places = _places([origin for _, origin in origins])
        rows = [
            (plain(name), link(origin.title, place) if place else plain(origin.title), code(origin.location))
            for (name, origin), place in zip(origins, places, strict=True)
        ]
        yield from table(("made from", "stage", "artifact"), rows)


def markdown_of(block: Block) -> Iterator[str]:
    """A block as lines of Markdown; its texts stay text."""
    match block:
        case Table(head, rows):
            yield from table(list(map(plain, head)), [[plain(number(cell)) for cell in row] for row in rows])
        case Bars(title, counts, unit):
            yield from _bars(f"{title} ({unit})" if unit else title, counts)
        case Text(text):
            yield f"\n{plain(text)}\n"
        case Sample(title, text, url):
            text = f"{url}\n\n{text}" if url else text
            shown = text[:SAMPLE_CHARACTERS] + ("…" if len(text) > SAMPLE_CHARACTERS else "")
            yield f"\n{plain(title)}:\n{fenced(shown)}"
        case Tokens(title, tokens):
            yield from markdown_of(Sample(title, "│".join(token for token, _ in tokens)))
        case Picture(title, svg):
            yield picture(title, svg)


def _bars(title: str, counts: Mapping[str, float]) -> Iterator[str]:
    most = max(counts.values(), default=0)
    if most:
        ordered = sorted(counts.items(), key=lambda item: (-item[1], item[0]))
        rows = [(plain(name), number(count), "█" * round(BAR_CHARACTERS * count / most)) for name, count in ordered]
        yield from table((plain(title), "number", "share"), rows)


def _places(artifacts: Sequence[Artifact]) -> list[str | None]:
    """Where the pages of these artifacts are, as far as this server has them."""
    with get_client(sync_client=True) as client:
        return [_place(client, artifact) for artifact in artifacts]


def _place(client: SyncPrefectClient, artifact: Artifact) -> str | None:
    """Its own page, if that is among the newest of its timeline; else the list of them all, if there are any."""
    made = artifact.manifest
    stage = stage_named(made.stage)
    if stage is None:
        return None
    key = stage_key(stage, made.label, made.pipeline)
    wanted = ArtifactFilter(key=ArtifactFilterKey(any_=[key]))
    pages = client.read_artifacts(artifact_filter=wanted, sort=ArtifactSort.CREATED_DESC, limit=NEWEST_PAGES)
    own = (page for page in pages if str(page.data).startswith(code(artifact.location)))
    if page := next(own, None):
        return f"/artifacts/artifact/{page.id}"
    return f"/artifacts/key/{key}" if pages else None
