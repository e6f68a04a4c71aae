"""All kept results as one page, and as a Markdown file: every verdict, whatever it says."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from flows.engine.page import Table
from flows.stages.comparison import findings_of, pictures_of, verdict_in_words
from flows.stages.html import number, template
from textmill.files import atomic_write

__all__ = ["write_chapter"]

TITLE = "What the experiments say"


def write_chapter(results: Sequence[Mapping[str, Any]], page: Path, text: Path) -> None:
    """Write the page and the Markdown of these results."""
    chapters = [(result, findings_of(result), pictures_of(result)) for result in results]
    overview = Table(
        ("experiment", "on", "verdict", "date"),
        [(each["experiment"], each["pipeline"], each["verdict"], each["date"]) for each in results],
    )
    atomic_write(page, template("chapter.html").render(title=TITLE, chapters=chapters, overview=overview))
    atomic_write(text, "\n".join(_markdown(results)))


def _markdown(results: Sequence[Mapping[str, Any]]) -> Iterator[str]:
    yield f"# {TITLE}\n"
    yield "Written by `textmill experiment report` from the kept figures (`experiments/results`). A claim holds if all"
    yield "of its comparisons do, over paired seeds; what is not fair decides nothing.\n"
    yield from _table(
        Table(
            ("experiment", "on", "verdict", "claim"),
            [(_linked(r), r["pipeline"], r["verdict"], r["claim"]) for r in results],
        )
    )
    if (beside := _beside_others(results)).rows:
        yield "\n## Beside what others found\n"
        yield from _table(beside)
    for result in results:
        yield f"\n## {result['experiment']} on {result['pipeline']}\n"
        if result["chapter"]:
            yield f"> {result['chapter']}\n"
        yield f"{result['claim']} **{verdict_in_words(result)}.**\n"
        for judgement in result["judgements"]:
            yield f"- {judgement['says']}: {judgement['verdict']}. {judgement['because']}"
        for fault in result["faults"]:
            yield f"- Not fair: {fault}"
        for finding in findings_of(result):
            yield ""
            yield from _table(finding) if isinstance(finding, Table) else [finding.text]
        for other in result["published"]:
            yield f"\nPublished: {other['says']} ({other['source']}){_ours_in_words(other)}"
        yield f"\n{result['date']}, commit {result['commit']}, {result['machine']}."
    yield ""


def _ours_in_words(other: Mapping[str, Any]) -> str:
    """What our runs say of what others found; empty where they do not try it."""
    if not other.get("verdict"):
        return ""
    said = "; ".join(
        [f"{ours['says']}: {ours['verdict']}, {ours['because']}" for ours in other["ours"]]
        + [f"not fair: {fault}" for fault in other["faults"]]
    )
    return f" **Ours: {other['verdict']}.** {said}"


def _beside_others(results: Sequence[Mapping[str, Any]]) -> Table:
    """The directions that others published and our runs tried, with what these say."""
    rows = [
        (other["says"], other["source"], other["verdict"], _linked(result))
        for result in results
        for other in result["published"]
        if other.get("verdict")
    ]
    return Table(("published", "where", "ours", "experiment"), rows)


def _linked(result: Mapping[str, Any]) -> str:
    """A link to an experiment's heading, whose anchor is made as Markdown's renderers make it."""
    kept = re.sub(r"[^\w\- ]", "", f"{result['experiment']} on {result['pipeline']}".lower())
    return f"[{result['experiment']}](#{kept.replace(' ', '-')})"


def _table(table: Table) -> Iterator[str]:
    yield f"| {' | '.join(table.head)} |"
    yield f"|{' --- |' * len(table.head)}"
    for row in table.rows:
        yield f"| {' | '.join(number(cell).replace('|', chr(92) + '|') for cell in row)} |"
