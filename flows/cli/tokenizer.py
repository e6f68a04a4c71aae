"""`textmill tokenizer`: train, use, compare and convert tokenizers without a pipeline."""

from __future__ import annotations

import enum
import json
import sys
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, TypeVar

import typer

from flows.cli.arrays import app as arrays
from flows.cli.document import AsJson, print_document
from flows.cli.places import local, utf8

if TYPE_CHECKING:
    from tokenization.tokenizer import Tokenizer

app = typer.Typer(no_args_is_help=True)
app.add_typer(arrays, name="arrays", help="Token arrays from and for nanoGPT, llm.c and Megatron-LM.")

TokenizerSource = Annotated[
    str,
    typer.Argument(
        metavar="TOKENIZER",
        help="A folder of ours, a tokenizer.json, a .tiktoken file, a `bpetokenizer v1` file, or a tiktoken encoding "
        "such as o200k_base",
    ),
]
SourcePattern = Annotated[
    str | None,
    typer.Option(
        "--pattern",
        parser=utf8,
        metavar="PATTERN",
        help="Split pattern of a .tiktoken file, which holds none: gpt2, cl100k, o200k, seed, or a regular expression",
    ),
]


class Format(enum.StrEnum):
    """Formats to export."""

    hugging_face = "hugging-face"
    tiktoken = "tiktoken"
    legacy = "legacy"
    textmill = "textmill"


def _load(source: str, pattern: str | None) -> Tokenizer:
    from tokenization.interchange import load_any

    return load_any(str(local(source)), pattern)


def _not_added(tokenizer: Tokenizer) -> str | None:
    """What ids of ours lack beside those of Hugging Face."""
    from tokenization.hugging_face import tokens_around

    around = tokens_around(tokenizer.usage)
    return around and f"{around} is what Hugging Face makes of a text; Textmill encodes the text alone"


@app.command()
def train(
    corpus: Annotated[
        list[Path],
        typer.Argument(
            parser=local, help="A corpus folder with train-*.parquet, or Parquet files (column text), or texts"
        ),
    ],
    out: Annotated[
        Path,
        typer.Option(
            "--out",
            "-o",
            help="Folder to write; of a corpus folder, what a killed run left there is continued",
        ),
    ],
    vocab_size: Annotated[int, typer.Option(help="Number of ids, bytes and special tokens included")] = 32_768,
    pattern: Annotated[
        str,
        typer.Option(parser=utf8, metavar="PATTERN", help="gpt2, cl100k, o200k, seed, or a regular expression"),
    ] = "cl100k",
    special: Annotated[
        list[str], typer.Option(parser=utf8, metavar="NAME", help="A further special token; repeatable")
    ] = [],  # noqa: B006
    multiple_of: Annotated[int, typer.Option(help="Reserve ids until their number is a multiple of this")] = 1,
    threads: Annotated[int, typer.Option(help="Threads that count words; 0: one a core")] = 0,
) -> None:
    """Train a byte-level BPE tokenizer."""
    from rich.progress import Progress

    from textmill.kept import check_apart, make_folder
    from tokenization.config import TokenizerConfig
    from tokenization.formats import FILES, save_tokenizer
    from tokenization.text import read_any
    from tokenization.train import train_from_documents, train_tokenizer

    config = _config(
        TokenizerConfig,
        vocab_size=vocab_size,
        pattern=pattern,
        special_tokens=special,
        multiple_of=multiple_of,
        **({"threads": threads} if threads else {}),
    )
    for written in (out, *(out / name for name in FILES)):
        check_apart(written, *corpus)
    make_folder(out)  # what stands in the way is said before an hour of training, not after it
    with Progress(transient=True) as bar:
        task = bar.add_task("reading", total=None)

        def progress(
            done: float, total: float | None = None, *, unit: str = "", phase: str = "", **metrics: object
        ) -> None:
            bar.update(task, completed=done, total=total, description=phase)

        if len(corpus) == 1 and corpus[0].is_dir():
            train_tokenizer(corpus[0], config, out, progress=progress)
        else:
            documents = (batch for path in corpus for batch in read_any(path))
            save_tokenizer(train_from_documents(documents, config, progress)[0], out)
    typer.echo(f"{out}: {config.planned_size():,} ids")


Config = TypeVar("Config")


def _config(model: type[Config], **values: Any) -> Config:
    """A config, or its first mistake as one line."""
    from pydantic import ValidationError

    from textmill.errors import UserError

    try:
        return model(**values)
    except ValidationError as error:
        first = error.errors()[0]
        options = {"special_tokens": "special"}
        place = "".join(f"--{options.get(str(key), key)}: ".replace("_", "-") for key in first["loc"][:1])
        raise UserError(place + first["msg"].removeprefix("Value error, ")) from error


@app.command()
def pairs(
    corpus: Annotated[Path, typer.Argument(parser=local, help="A corpus folder with train-* and validation-*.parquet")],
    tokenizer: Annotated[Path, typer.Argument(parser=local, help="A folder of ours")],
    out: Annotated[Path, typer.Argument(help="Folder to write; what a killed run left there is continued")],
    seed: Annotated[int, typer.Option(help="Seed of the choice of negatives")] = 0,
    task: Annotated[str, typer.Option(help="Negatives: next-sentence (from elsewhere), sentence-order (swapped)")] = (
        "next-sentence"
    ),
    negatives: Annotated[float, typer.Option(help="Share of pairs that are negative")] = 0.5,
    min_characters: Annotated[int, typer.Option(help="Shorter sentences are left out")] = 10,
) -> None:
    """Pair the sentences of a corpus, as token arrays for fine-tuning."""
    from rich.progress import Progress

    from tokenization.config import SentencePairsConfig
    from tokenization.sentence_pairs import SentencePairs, make_pairs
    from tokenization.shard_writer import EncodingInputs

    config = _config(SentencePairsConfig, seed=seed, task=task, negatives=negatives, min_characters=min_characters)
    with Progress(transient=True) as bar:
        bar_task = bar.add_task("pairing", total=None)

        def progress(
            done: float, total: float | None = None, *, unit: str = "", phase: str = "", **metrics: object
        ) -> None:
            description = f"{done:,} {unit}, {metrics['tokens']:,} tokens"
            bar.update(bar_task, completed=done, total=total, description=description)

        make_pairs(EncodingInputs(corpus, tokenizer), config, out, progress=progress)
    train, held_out = len(SentencePairs(out)), len(SentencePairs(out, "validation"))
    typer.echo(f"{out}: {train:,} pairs to train on, {held_out:,} held out")


def _standard_input() -> str:
    """The text on standard input, with its line ends as they are."""
    from textmill.errors import UserError

    try:
        return sys.stdin.buffer.read().decode()
    except UnicodeDecodeError as error:
        raise UserError(f"standard input is not UTF-8 text (byte {error.start}); convert it first") from None


@app.command()
def encode(
    source: TokenizerSource,
    text: Annotated[str | None, typer.Argument(parser=utf8, help="The text; standard input if left out")] = None,
    special: Annotated[bool, typer.Option("--special", help="Special tokens in the text become their ids")] = False,
    pattern: SourcePattern = None,
) -> None:
    """Print the ids of a text."""
    tokenizer = _load(source, pattern)
    given = _standard_input() if text is None else text
    if note := _not_added(tokenizer):
        typer.echo(note, err=True)
    ids = tokenizer.encode(given, allowed_special="all") if special else tokenizer.encode_ordinary(given)
    typer.echo(" ".join(map(str, ids)))


@app.command()
def decode(
    source: TokenizerSource,
    ids: Annotated[list[int] | None, typer.Argument(help="The ids; from standard input if left out")] = None,
    pattern: SourcePattern = None,
) -> None:
    """Print the text of ids."""
    from textmill.errors import UserError

    tokenizer = _load(source, pattern)
    if not ids:
        try:
            ids = [int(word) for word in _standard_input().replace(",", " ").split()]
        except ValueError as error:
            raise UserError(f"ids are whole numbers between blanks or commas: {error}") from None
    sys.stdout.buffer.write(tokenizer.decode_bytes(ids))
    sys.stdout.buffer.flush()


@app.command()
def inspect(
    source: TokenizerSource,
    text: Annotated[str | None, typer.Argument(parser=utf8, help="Show how this text is cut into tokens")] = None,
    pattern: SourcePattern = None,
) -> None:
    """Describe a tokenizer, or show what it does to a text."""
    from rich.console import Console
    from rich.table import Table
    from rich.text import Text

    tokenizer = _load(source, pattern)
    console, note = Console(), _not_added(tokenizer)
    if text is not None:
        pieces = Text()
        for i, token in enumerate(tokenizer.encode(text, allowed_special="all")):
            name = tokenizer.token_bytes(token).decode(errors="backslashreplace")
            pieces.append(name, style="black on bright_cyan" if i % 2 else "black on bright_yellow")
            pieces.append(f" {token} ", style="dim")
        console.print(pieces)
        if note:
            console.print(Text(note, style="dim"))
        return
    lengths = tokenizer.byte_lengths()
    longest = sorted(tokenizer.tokens, key=lambda token: (-len(token), token))[:5]
    table = Table(show_header=False, box=None)
    table.add_row("ids", f"{tokenizer.vocab_size:,}")
    table.add_row("merges", f"{len(tokenizer.tokens) - 256:,}")
    table.add_row("pattern", Text(tokenizer.pattern.name or tokenizer.pattern.regex))
    table.add_row("special tokens", Text("  ".join(f"{name} {i}" for name, i in tokenizer.special_tokens.items())))
    for name, value in (*tokenizer.rules, *tokenizer.usage):
        if value:
            told = note if name == "post_processor" and note else _shortly(value)
            table.add_row(name.replace("_", " "), Text(told))
    table.add_row("bytes a token", f"{lengths[lengths > 0].mean():.2f} on average, {lengths.max()} at most")
    table.add_row("longest", Text("  ".join(repr(token.decode(errors="backslashreplace")) for token in longest)))
    console.print(table)


def _shortly(value: object) -> str:
    if isinstance(value, (set, frozenset)):
        value = sorted(value)
    text = json.dumps(value, ensure_ascii=False)
    return text if len(text) <= 200 else f"{text[:197]}..."


@app.command(name="compare")
def compare_tokenizers(
    text: Annotated[
        Path, typer.Argument(parser=local, help="A text file, a Parquet file with a column text, or a corpus folder")
    ],
    tokenizers: Annotated[list[str], typer.Argument(metavar="TOKENIZER…", help="As for the other commands")],
    as_json: AsJson = False,
    pattern: SourcePattern = None,
) -> None:
    """Compare tokenizers on a text: bytes per token, tokens per word, unused tokens, speed."""
    from rich.console import Console
    from rich.table import Table

    from tokenization.compare import compare
    from tokenization.text import read_any

    plain = [source for source in tokenizers if source.endswith(".tiktoken")]  # which the pattern is for
    compared = {
        source: compare(_load(source, pattern if source in plain or not plain else None), read_any(text))
        for source in tokenizers
    }
    if as_json:
        print_document([{"tokenizer": source, **asdict(found)} for source, found in compared.items()])
        return
    table = Table("tokenizer", box=None)
    for column in ("ids", "tokens", "bytes/token", "tokens/word", "unused", "MB/s"):
        table.add_column(column, justify="right")
    for source, found in compared.items():
        table.add_row(
            source,
            f"{found.vocab_size:,}",
            f"{found.tokens:,}",
            f"{found.bytes_per_token:.3f}",
            f"{found.fertility:.3f}",
            f"{found.unused:,}",
            f"{found.bytes_per_second / 1e6:.1f}",
        )
    Console().print(table)


@app.command()
def export(
    source: TokenizerSource,
    out: Annotated[Path, typer.Argument(help="Folder to write; for `legacy` the file")],
    form: Annotated[Format, typer.Option("--format", "-f", help="What to write")] = Format.hugging_face,
    pattern: SourcePattern = None,
) -> None:
    """Convert a tokenizer: for Hugging Face, for tiktoken, as a `bpetokenizer v1` file, or all of ours."""
    from textmill.disk import one_line_of_disk
    from textmill.errors import UserError
    from textmill.kept import check_apart, make_folder
    from tokenization.formats import FILES, save_tokenizer, write_tiktoken
    from tokenization.hugging_face import write_hugging_face
    from tokenization.interchange import write_legacy

    write = {
        Format.hugging_face: write_hugging_face,
        Format.tiktoken: write_tiktoken,
        Format.legacy: write_legacy,
        Format.textmill: save_tokenizer,
    }
    for written in (out, *(out / name for name in FILES)):
        check_apart(written, local(source))
    if form == Format.legacy and out.is_dir():
        raise UserError(f"{out} is a folder; name a file, such as {out / 'tokenizer.model'}")
    make_folder(out.parent if form == Format.legacy else out)
    tokenizer = _load(source, pattern)
    with one_line_of_disk(out):
        write[form](tokenizer, out)
    typer.echo(str(out))
    told = [name.replace("_", " ") for name, value in tokenizer.usage if value]
    if told and form in (Format.tiktoken, Format.legacy):
        typer.echo(f"{form} knows nothing of what {source} says about {', '.join(told)}", err=True)
    elif note := _not_added(tokenizer):
        typer.echo(f"{note}. The export keeps that", err=True)
