"""What a stage and a run leave on their pages in the Prefect UI: Markdown with figures, tables, samples and pictures.

Each stage and label has one key whatever the run, so that the UI shows how its figures went from run to run. What a
stage was made from, and what a run reused, is linked to the page it got when it was built, if this server has it.
"""

from __future__ import annotations

import base64
import fnmatch
from collections.abc import Iterable, Iterator, Sequence
from typing import Any

import pyarrow.parquet as pq
from prefect.artifacts import create_markdown_artifact
from prefect.client.orchestration import get_client
from prefect.client.schemas.filters import ArtifactFilter, ArtifactFilterKey

from flows.store.local import Artifact, Manifest

SAMPLE_CHARACTERS = 600


def publish(artifact: Artifact, headline: str) -> None:
    """The page of a finished stage: headline, what to look at, figures, and what it was made from."""
    create_markdown_artifact("\n".join(_page(artifact)), key=page_key(artifact.manifest), description=headline)


def publish_run(name: str, outcomes: Sequence[tuple[Artifact, str, bool]]) -> None:
    """The page of a run: which artifacts it used, with their headlines, and whether each was reused."""
    links = _links([artifact for artifact, _, _ in outcomes])
    rows = [
        (link, "reused it" if reused else "**built it**", _cell(headline), f"`{artifact.location}`")
        for link, (artifact, headline, reused) in zip(links, outcomes, strict=True)
    ]
    table = "\n".join(_table(("stage", "this run", "what came out", "artifact"), rows))
    create_markdown_artifact(table, key=_key(f"run-{name}"), description=name)


def page_key(manifest: Manifest) -> str:
    return _key(f"{manifest.stage}-{manifest.label}")


def figures(stats: dict[str, Any], prefix: str = "") -> Iterator[tuple[str, str]]:
    """The numbers and short texts of `stats.json`, nested names joined by dots, formatted for people."""
    for name, value in stats.items():
        key = f"{prefix}{name}"
        if isinstance(value, dict):
            yield from figures(value, f"{key}.")
        elif isinstance(value, float):
            yield key, f"{value:,.4g}"
        elif isinstance(value, int):
            yield key, f"{value:,}"
        elif isinstance(value, str) and len(value) < 80:
            yield key, value


def _page(artifact: Artifact) -> Iterator[str]:
    manifest, stats = artifact.manifest, artifact.stats
    yield f"`{artifact.location}` · {manifest.size / 1e6:,.1f} MB · {manifest.seconds:,.1f} s\n"
    match manifest.stage:
        case "scrape":
            yield from _counts("change since the last crawl", stats["changes"])
            yield from _counts("left out", stats["skipped"])
        case "prepare":
            yield from _counts("dropped", stats["dropped"])
            yield from _sample("A document", _first_document(artifact))
        case "pretrain":
            yield _loss_curve(artifact)
            yield from _sample("It writes", stats["sample_prompt"] + stats["sample"])
        case "comparison":
            yield f"{stats['claim']}\n\nThe claim **{stats['verdict']}**.\n"
            with artifact.open("curves.svg") as picture:
                yield _picture("Validation loss of every run", picture.read().decode())
        case "finetune":
            yield _loss_curve(artifact)
            yield from _sample("It fills", f"{stats['sample_blank']}\n{stats['sample_filled']}")
    yield from _table(("figure", "value"), [(name, _cell(value)) for name, value in figures(stats)])
    entries = [(name, entry) for name, given in manifest.inputs.items() for entry in given]
    origins = [(name, artifact.store.find(entry.stage, entry.fingerprint)) for name, entry in entries]
    there = [(name, origin) for name, origin in origins if origin]
    if there:
        links = _links([origin for _, origin in there])
        rows = [(name, link, f"`{origin.location}`") for (name, origin), link in zip(there, links, strict=True)]
        yield from _table(("made from", "stage", "artifact"), rows)


def _counts(title: str, counts: dict[str, int]) -> Iterator[str]:
    """A table, the greatest first, with a bar that shows how they compare."""
    most = max(counts.values(), default=0)
    if most:
        ordered = sorted(counts.items(), key=lambda item: (-item[1], item[0]))
        rows = [(name, f"{count:,}", "█" * round(20 * count / most)) for name, count in ordered]
        yield from _table((title, "number", "share"), rows)


def _first_document(artifact: Artifact) -> str:
    with artifact.open(min(fnmatch.filter(artifact.manifest.files, "train-*.parquet"))) as file:
        return next(pq.ParquetFile(file).iter_batches(batch_size=1, columns=["text"]))["text"][0].as_py()


def _sample(title: str, text: str) -> Iterator[str]:
    shown = text[:SAMPLE_CHARACTERS] + ("…" if len(text) > SAMPLE_CHARACTERS else "")
    yield f"\n{title}:\n\n~~~~text\n{shown}\n~~~~\n"


def _loss_curve(artifact: Artifact) -> str:
    from flows.stages.pages import loss_figure

    return _picture("Loss over the steps", loss_figure(artifact))


def _picture(title: str, svg: str) -> str:
    """The picture itself is in the page: nothing has to be served or fetched."""
    return f"![{title}](data:image/svg+xml;base64,{base64.b64encode(svg.encode()).decode()})\n"


def _table(head: tuple[str, ...], rows: Iterable[tuple[str, ...]]) -> Iterator[str]:
    yield f"\n| {' | '.join(head)} |\n|{'---|' * len(head)}"
    for row in rows:
        yield f"| {' | '.join(row)} |"
    yield ""


def _cell(text: str) -> str:
    return " ".join(text.split()).replace("|", "&#124;")


def _links(artifacts: Sequence[Artifact]) -> list[str]:
    """The artifacts' titles, each a link to its page as far as this server has one."""
    keys = [page_key(artifact.manifest) for artifact in artifacts]
    wanted = ArtifactFilter(key=ArtifactFilterKey(any_=keys))
    with get_client(sync_client=True) as client:
        pages = {page.key: page for page in client.read_latest_artifacts(artifact_filter=wanted)}
    links = []
    for key, artifact in zip(keys, artifacts, strict=True):
        title = f"{artifact.manifest.stage} {artifact.manifest.label}".strip()
        page = pages.get(key)
        if page is None:
            links.append(title)
        elif f"`{artifact.location}`" in str(page.data):
            links.append(f"[{title}](/artifacts/artifact/{page.latest_id})")
        else:  # the newest of that name is about another artifact: the list of them all
            links.append(f"[{title}](/artifacts/key/{key})")
    return links


def _key(text: str) -> str:
    """Keys may hold lower-case letters, digits and dashes."""
    characters = (character if character.isascii() and character.isalnum() else "-" for character in text.lower())
    return "".join(characters).strip("-")
