"""`textmill tokenizer arrays`: token arrays from and for other trainers."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal

import typer

from flows.cli.document import AsJson, print_document
from flows.cli.places import local
from flows.cli.progress import progress_bar

if TYPE_CHECKING:
    from tokenization.token_files.inspecting import Inspection
    from tokenization.tokenizer import Tokenizer

app = typer.Typer(no_args_is_help=True)


Form = Literal["nanogpt", "llm.c", "megatron"]
Dtype = Literal["uint16", "uint32", "int64"]

Files = Annotated[
    list[Path],
    typer.Argument(parser=local, metavar="FILE…", help="Token files (.bin), or a folder of them"),
]
FormOption = Annotated[
    Form | None,
    typer.Option("--format", "-f", help="Their format (llm.c: also modded-nanogpt's); what they say, if left out"),
]
DtypeOption = Annotated[Dtype | None, typer.Option(help="Integers of files without a header: uint16, if left out")]
TokenizerOption = Annotated[
    str | None,
    typer.Option("--tokenizer", "-t", help="What they were made with: as TOKENIZER of the other commands"),
]


def _load(source: str) -> Tokenizer:
    from tokenization.interchange import load_any

    return load_any(str(local(source)))


@app.command(name="import")
def import_files(
    files: Files,
    out: Annotated[Path, typer.Option("--out", "-o", help="New folder to write")],
    tokenizer: TokenizerOption = None,
    validation: Annotated[
        list[Path],
        typer.Option(
            "--validation", parser=local, help="A file held out; repeatable. Else those called val or validation"
        ),
    ] = [],  # noqa: B006
    form: FormOption = None,
    dtype: DtypeOption = None,
) -> None:
    """Make token arrays of ours from those of nanoGPT, llm.c, modded-nanogpt or Megatron-LM; they can be trained on.

    The folder gets the tokenizer, too, in `tokenizer`.
    """
    from textmill.errors import UserError
    from tokenization.token_files.importing import import_arrays
    from tokenization.token_files.readers import open_token_file, split_files

    if tokenizer is None:
        raise UserError("--tokenizer: say what the tokens were made with, for example --tokenizer gpt2")
    splits = split_files(files, validation)
    opened = {split: [open_token_file(path, form, dtype) for path in paths] for split, paths in splits.items()}
    with progress_bar("importing") as progress:
        import_arrays(opened, _load(tokenizer), out, progress)
    _say(out)


def _say(folder: Path) -> None:
    from tokenization.arrays import TokenArrays

    train, held_out = TokenArrays(folder), TokenArrays(folder, "validation")
    typer.echo(
        f"{folder}: {len(train):,} tokens of {train.documents:,} documents to train on, {len(held_out):,} held out"
    )


@app.command()
def export(
    arrays: Annotated[Path, typer.Argument(parser=local, help="A folder of token arrays")],
    out: Annotated[Path, typer.Argument(help="New folder to write")],
    form: Annotated[Form, typer.Option("--format", "-f", help="llm.c: also modded-nanogpt's")],
) -> None:
    """Write token arrays for nanoGPT, llm.c, modded-nanogpt or Megatron-LM."""
    from tokenization.token_files.exporting import export_arrays

    with progress_bar("exporting") as progress:
        files = export_arrays(arrays, out, form, progress)
    for file in files:
        typer.echo(f"{file}: {file.stat().st_size:,} bytes")


@app.command()
def inspect(
    files: Files,
    tokenizer: TokenizerOption = None,
    form: FormOption = None,
    dtype: DtypeOption = None,
    as_json: AsJson = False,
) -> None:
    """Say what token files hold, ours and others', and read all of them to find damage."""
    from textmill.errors import UserError
    from tokenization.token_files.importing import TOKENIZER
    from tokenization.token_files.inspecting import inspect_arrays, inspect_file, is_arrays
    from tokenization.token_files.readers import open_token_file, token_files

    named = _load(tokenizer) if tokenizer else None
    damage: list[str] = []
    document: list[dict[str, Any]] = []
    arrays = [place for place in files if is_arrays(place)]
    places = [*arrays, *token_files(place for place in files if place not in arrays)]
    for place in places:
        known = named
        with progress_bar("reading") as progress:
            if place in arrays:
                if known is None and (place / TOKENIZER).is_dir():
                    known = _load(str(place / TOKENIZER))
                found = list(inspect_arrays(place, known, progress))
            else:
                found = [inspect_file(open_token_file(place, form, dtype), known, progress)]
        for inspection in found:
            if as_json:
                document.append(_facts(inspection, known))
            else:
                _show(inspection, known)
            damage += inspection.damage
    if as_json:
        print_document(document)
    if damage:
        raise UserError(damage[0] + (f" (and {len(damage) - 1} more)" if len(damage) > 1 else ""))


def _facts(found: Inspection, tokenizer: Tokenizer | None) -> dict[str, Any]:
    """An inspection, as `--json` shows it."""
    text = tokenizer.decode(found.first) if tokenizer and not found.damage else None
    return vars(found) | {"first": found.first.tolist(), "text": text}


def _show(found: Inspection, tokenizer: Tokenizer | None) -> None:
    documents = "unknown without --tokenizer" if found.documents is None else f"{found.documents:,}"
    rows = {
        "format": f"{found.format}, {found.dtype}",
        "tokens": f"{found.tokens:,}",
        "documents": documents,
        "largest id": f"{found.largest:,}",
        "tokenizer": found.tokenizer or "the files do not say",
        "first tokens": " ".join(map(str, found.first.tolist())),
    }
    if tokenizer and not found.damage:
        rows["which are"] = repr(tokenizer.decode(found.first))
    typer.echo(found.name)
    for name, value in rows.items():
        typer.echo(f"  {name:13} {value}")
    for line in found.damage:
        typer.echo(f"  damaged       {line}")
