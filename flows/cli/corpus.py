"""`textmill corpus`: what is in a corpus, what was left out of it and why, and how it differs from another."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from flows.cli.document import AsJson, print_document
from flows.cli.pipeline import Overrides
from flows.cli.places import utf8

if TYPE_CHECKING:
    from flows.pipeline.exploration import Answer


def register(app: typer.Typer) -> None:
    app.command()(corpus)


def corpus(
    corpus: Annotated[
        str,
        typer.Argument(metavar="CORPUS", help="CONFIG, STORE/prepare/FINGERPRINT, FINGERPRINT, or a corpus's folder"),
    ],
    overrides: Overrides = [],  # noqa: B006
    sample: Annotated[bool, typer.Option("--sample", help="Show random documents")] = False,
    search: Annotated[
        str | None,
        typer.Option(
            parser=utf8, metavar="PHRASE", help="Find the documents that hold a phrase, in any case and spacing"
        ),
    ] = None,
    dropped: Annotated[
        str | None,
        typer.Option(metavar="REASON", help="Show what was left out for this reason: random documents, URLs, records"),
    ] = None,
    duplicates: Annotated[
        bool, typer.Option("--duplicates", help="Show the largest groups of duplicates, and what was kept of each")
    ] = False,
    templates: Annotated[
        bool, typer.Option("--templates", help="Show what was taken out of which sites' pages as menus and footers")
    ] = False,
    against: Annotated[
        str | None,
        typer.Option(metavar="CORPUS", help="Show what came and went since another corpus, or `previous`, and why"),
    ] = None,
    url: Annotated[
        str | None, typer.Option("--url", help="Say why this URL, or document id, is there or is not")
    ] = None,
    source: Annotated[str | None, typer.Option(help="Ask of this source or collection alone")] = None,
    number: Annotated[int, typer.Option("--number", "-n", min=1, max=1000, help="Documents, or groups, to show")] = 10,
    seed: Annotated[int, typer.Option(help="The same seed draws the same documents")] = 0,
    chars: Annotated[int, typer.Option(min=1, help="Characters to show of each text")] = 500,
    html: Annotated[
        Path | None, typer.Option(metavar="FILE", help="Write a page with the answers, or with a bit of everything")
    ] = None,
    as_json: AsJson = False,
) -> None:
    """Look into a corpus: how many documents came from where, what was left out by which rule, samples, a search.

    Without a question it counts: from the URLs that were found and the records that were read, step by step, to the
    documents that were kept. Each question adds an answer. Nothing is changed.
    """
    from flows.cli.blocks import print_blocks, print_title, wide_console
    from flows.cli.progress import progress_bar
    from flows.pipeline.config import parse_overrides
    from flows.pipeline.corpus import compared_corpus, find_corpus
    from flows.pipeline.exploration import explored
    from scraping.explorer.corpus import Sampling

    place = find_corpus(corpus, parse_overrides(overrides))
    before = compared_corpus(place, against) if against is not None else None

    with progress_bar("downloading") as progress:  # what a bucket holds, and is not here yet
        for asked in filter(None, (place, before)):
            asked.files(progress)
    with explored(place, Sampling(number, source, seed, chars)) as exploration:
        answers = [
            *([exploration.trace(url)] if url is not None else []),
            *([exploration.search(search)] if search is not None else []),
            *([exploration.difference(before)] if before else []),
            *([exploration.dropped(dropped)] if dropped is not None else []),
            *([exploration.duplicates()] if duplicates else []),
            *([exploration.templates()] if templates else []),
            *([exploration.sample()] if sample else []),
        ]
        if html:
            shown = answers or exploration.overview()
            _write_page(html, place.location, [exploration.counts(), *shown])
            typer.echo(f"Wrote {html}", err=as_json)
        answers = answers or [exploration.counts()]
    if as_json:
        print_document({"corpus": place.location, **{answer.name: answer.data for answer in answers}})
        return
    if html:
        return
    console = wide_console()
    console.print(place.location, style="bold", markup=False, soft_wrap=True)
    for answer in answers:
        print_title(console, answer.title)
        print_blocks(console, answer.blocks)


def _write_page(path: Path, location: str, answers: list[Answer]) -> None:
    from flows.stages.html import template
    from textmill.errors import UserError
    from textmill.files import atomic_write

    page = template("corpus.html").render(title="Corpus", location=location, answers=answers)
    try:
        atomic_write(path, page)
    except OSError as error:
        raise UserError(f"{path} cannot be written ({error.strerror}): choose another place for --html") from error
