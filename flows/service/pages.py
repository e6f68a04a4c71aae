"""What a stage and a run leave on their pages in the Prefect UI: Markdown with metrics, tables, samples and pictures.

Each stage and label has one key whatever the run, so that the UI shows how its metrics went from run to run. What a
stage was made from, and what a run reused, is linked to the page it got when it was built, if this server has it.
"""

from __future__ import annotations

import base64
from collections.abc import Iterable, Iterator, Mapping, Sequence

from prefect.artifacts import create_markdown_artifact
from prefect.client.orchestration import get_client
from prefect.client.schemas.filters import ArtifactCollectionFilter, ArtifactCollectionFilterKey

from flows.engine.page import Bars, Block, Picture, Sample, Table, Text, Tokens
from flows.engine.stage import Outcome
from flows.stages.html import flat_metrics, number
from flows.store.local import Artifact
from flows.store.manifest import Manifest

SAMPLE_CHARACTERS = 600
BAR_CHARACTERS = 20


def publish(outcome: Outcome) -> None:
    """The page of a finished stage: headline, what to look at, metrics, and what it was made from."""
    page = "\n".join(_page(outcome))
    create_markdown_artifact(page, key=page_key(outcome.artifact.manifest), description=outcome.headline)


def publish_run(name: str, outcomes: Sequence[Outcome]) -> None:
    """The page of a run: which artifacts it used, with their headlines, and whether each was reused."""
    links = _links([outcome.artifact for outcome in outcomes])
    rows = [
        (
            link,
            "reused it" if outcome.reused else "**built it**",
            _cell(outcome.headline),
            f"`{outcome.artifact.location}`",
        )
        for link, outcome in zip(links, outcomes, strict=True)
    ]
    table = "\n".join(_table(("stage", "this run", "what came out", "artifact"), rows))
    create_markdown_artifact(table, key=_key(f"run-{name}"), description=name)


def page_key(manifest: Manifest) -> str:
    return _key(f"{manifest.stage}-{manifest.label}")


def _page(outcome: Outcome) -> Iterator[str]:
    artifact = outcome.artifact
    manifest = artifact.manifest
    yield f"`{artifact.location}` · {manifest.size / 1e6:,.1f} MB · {manifest.seconds:,.1f} s\n"
    for block in outcome.stage.page(artifact):
        yield from _markdown(block)
    metrics = flat_metrics(artifact.stats)
    yield from _table(("metric", "value"), [(name, _cell(number(value))) for name, value in metrics.items()])
    origins = [
        (name, origin)
        for name, entries in manifest.inputs.items()
        for entry in entries
        if (origin := artifact.store.find(*entry.name))
    ]
    if origins:
        links = _links([origin for _, origin in origins])
        rows = [(name, link, f"`{origin.location}`") for (name, origin), link in zip(origins, links, strict=True)]
        yield from _table(("made from", "stage", "artifact"), rows)


def _markdown(block: Block) -> Iterator[str]:
    match block:
        case Table(head, rows):
            yield from _table(head, [[_cell(number(cell)) for cell in row] for row in rows])
        case Bars(title, counts, unit):
            yield from _bars(f"{title} ({unit})" if unit else title, counts)
        case Text(text):
            yield f"\n{text}\n"
        case Sample(title, text, url):
            text = f"{url}\n\n{text}" if url else text
            shown = text[:SAMPLE_CHARACTERS] + ("…" if len(text) > SAMPLE_CHARACTERS else "")
            yield f"\n{title}:\n\n~~~~text\n{shown}\n~~~~\n"
        case Tokens(title, tokens):
            yield from _markdown(Sample(title, "│".join(token for token, _ in tokens)))
        case Picture(title, svg):  # in the page itself: nothing has to be served or fetched
            yield f"![{title}](data:image/svg+xml;base64,{base64.b64encode(svg.encode()).decode()})\n"


def _bars(title: str, counts: Mapping[str, float]) -> Iterator[str]:
    most = max(counts.values(), default=0)
    if most:
        ordered = sorted(counts.items(), key=lambda item: (-item[1], item[0]))
        rows = [(_cell(name), number(count), "█" * round(BAR_CHARACTERS * count / most)) for name, count in ordered]
        yield from _table((title, "number", "share"), rows)


def _table(head: Sequence[str], rows: Iterable[Sequence[str]]) -> Iterator[str]:
    yield f"\n| {' | '.join(head)} |\n|{'---|' * len(head)}"
    for row in rows:
        yield f"| {' | '.join(row)} |"
    yield ""


def _cell(text: str) -> str:
    return " ".join(text.split()).replace("|", "&#124;")


def _links(artifacts: Sequence[Artifact]) -> list[str]:
    """The artifacts' titles, each a link to its page as far as this server has one."""
    keys = [page_key(artifact.manifest) for artifact in artifacts]
    wanted = ArtifactCollectionFilter(key=ArtifactCollectionFilterKey(any_=keys))
    with get_client(sync_client=True) as client:
        pages = {page.key: page for page in client.read_latest_artifacts(artifact_filter=wanted)}
    links = []
    for key, artifact in zip(keys, artifacts, strict=True):
        page = pages.get(key)
        if page is None:
            links.append(artifact.title)
        elif f"`{artifact.location}`" in str(page.data):
            links.append(f"[{artifact.title}](/artifacts/artifact/{page.latest_id})")
        else:  # the newest of that name is about another artifact: the list of them all
            links.append(f"[{artifact.title}](/artifacts/key/{key})")
    return links


def _key(text: str) -> str:
    """Keys may hold lower-case letters, digits and dashes."""
    characters = (character if character.isascii() and character.isalnum() else "-" for character in text.lower())
    return "".join(characters).strip("-")
