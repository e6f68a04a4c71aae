"""`textmill embed`: vectors of texts; `textmill neighbors`: which texts are nearest to others by these."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Annotated

import typer

from flows.cli.document import AsJson, print_document
from flows.cli.model import CheckpointPath, Device
from flows.cli.places import local, utf8

SHOWN_CHARACTERS = 100  # of a neighbor's text


def register(app: typer.Typer) -> None:
    for command in (embed, neighbors):
        app.command()(command)


def embed(
    checkpoint: CheckpointPath,
    texts: Annotated[
        list[str], typer.Argument(parser=utf8, metavar="[TEXT...]", help="None: the lines of standard input")
    ] = [],  # noqa: B006 - Typer's way
    source: Annotated[
        Path | None,
        typer.Option("--from", parser=local, metavar="PATH", help="Parquet file, or a folder of them, as a corpus"),
    ] = None,
    column: Annotated[str, typer.Option(help="Column of the texts in it")] = "text",
    out: Annotated[
        Path | None, typer.Option("--out", "-o", metavar="FILE", help="Parquet file to write: id, text, embedding")
    ] = None,
    normalize: Annotated[bool, typer.Option(help="Give every vector length 1")] = False,
    device: Device = "auto",
    as_json: AsJson = False,
) -> None:
    """Write a vector for each text: the mean of the model's last hidden states over the text's tokens.

    A fine-tuned checkpoint sees a text from both sides; a pretrained one sees to the left only. A text longer than the
    window is read in several. What was killed goes on when it is started again.
    """
    from flows.cli.progress import progress_bar
    from modeling.inference.embed import embed as vectors_of
    from modeling.inference.embed import embed_rows, parquet_files, rows_of_files, rows_of_texts, sees_both_sides
    from modeling.inference.generate import load
    from textmill.errors import UserError
    from textmill.kept import check_apart

    if texts and source is not None:
        raise UserError("give either texts or --from, not both")
    if (out is None) != as_json:
        raise UserError("give either --out FILE, for a Parquet file, or --json")
    if source is not None:
        if out is None:
            raise UserError("--json is for texts that are typed or piped; give --out FILE for those of a file")
        files = parquet_files(source)
        check_apart(out, *files)
        rows = rows_of_files(files, column)
    else:
        texts = texts or _lines()
        rows = rows_of_texts(texts)
    loaded = load(checkpoint, device)
    if out is None:
        vectors = vectors_of(loaded, texts, normalized=normalize).tolist()
        print_document([{"text": text, "embedding": vector} for text, vector in zip(texts, vectors, strict=True)])
        return
    column = column if source is not None else "text"
    with progress_bar("embedding") as progress:
        count = embed_rows((checkpoint, loaded), rows, out, column=column, normalized=normalize, progress=progress)
    sees = "each token sees its whole window" if sees_both_sides(loaded) else "each token sees those before it only"
    typer.echo(f"{out}: {count:,} vectors of {loaded.model.config.width} numbers; {sees}")


def _lines() -> list[str]:
    from textmill.errors import UserError

    if sys.stdin.isatty():
        raise UserError("give texts, as arguments or on standard input, or --from a Parquet file")
    try:
        lines = sys.stdin.buffer.read().decode().removesuffix("\n").split("\n")
    except UnicodeDecodeError as error:
        raise UserError(f"standard input is not UTF-8 text (byte {error.start}); convert it first") from error
    if lines == [""]:
        raise UserError("standard input is empty; give a text in each line")
    return lines


def neighbors(
    vectors: Annotated[Path, typer.Argument(parser=local, metavar="VECTORS", help="Parquet file that embed wrote")],
    texts: Annotated[
        list[str], typer.Argument(parser=utf8, metavar="[TEXT...]", help="Texts to find neighbors of")
    ] = [],  # noqa: B006
    checkpoint: Annotated[
        Path | None,
        typer.Option("--checkpoint", "-c", parser=local, metavar="CHECKPOINT", help="For TEXT: the one of the vectors"),
    ] = None,
    ids: Annotated[
        list[str], typer.Option("--id", help="Find neighbors of the row with this id, or number; repeatable")
    ] = [],  # noqa: B006
    queries: Annotated[
        Path | None, typer.Option(parser=local, help="Find neighbors of every row of this file, which embed wrote, too")
    ] = None,
    count: Annotated[int, typer.Option("-k", min=1, help="Neighbors of each")] = 5,
    device: Device = "auto",
    as_json: AsJson = False,
) -> None:
    """Find the texts nearest to others, by the cosine of their vectors: exactly, as all of them are compared."""
    from dataclasses import asdict

    from modeling.inference.embed import digest_of
    from modeling.inference.embed import embed as vectors_of
    from modeling.inference.generate import load
    from modeling.inference.neighbors import Vectors
    from textmill.errors import UserError

    if bool(texts) + bool(ids) + (queries is not None) != 1:
        raise UserError("say whose neighbors: TEXT… with --checkpoint, --id ID, or --queries FILE")
    if bool(texts) != (checkpoint is not None):
        raise UserError("TEXT… and --checkpoint CHECKPOINT go together: it makes the vectors of these texts")
    known = Vectors(vectors)
    asked, left_out = list(texts), []
    if checkpoint is not None:
        if digest_of(checkpoint) != known.info.model:
            raise UserError(f"{vectors} was made with another checkpoint than {checkpoint}; give that one")
        wanted = vectors_of(load(checkpoint, device), texts)
    elif queries is not None:
        other = Vectors(queries)
        if other.info.model != known.info.model:
            raise UserError(f"{queries} was made with another checkpoint than {vectors}; embed both with one")
        wanted, rows = other.read(range(other.count))
        asked = [row[other.info.column] for row in rows]
    else:
        numbers = known.rows_of(ids)
        wanted, rows = known.read(numbers)
        asked, left_out = [row[known.info.column] for row in rows], [[number] for number in numbers]
    found = known.nearest(wanted, count, left_out)
    if as_json:
        answers = zip(asked, found, strict=True)
        print_document([{"query": query, "neighbors": [asdict(each) for each in near]} for query, near in answers])
        return
    for query, near in zip(asked, found, strict=True):
        typer.echo(_brief(query))
        for neighbor in near:
            name = neighbor.row if neighbor.id is None else neighbor.id
            typer.echo(f"  {neighbor.cosine:7.4f}  {name}  {_brief(neighbor.text)}")


def _brief(text: str) -> str:
    """The beginning of a text, in one line."""
    line = " ".join(text.split())
    return line if len(line) <= SHOWN_CHARACTERS else line[: SHOWN_CHARACTERS - 1] + "…"
