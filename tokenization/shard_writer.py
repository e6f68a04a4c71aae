"""A corpus into token arrays shard by shard, in order; a killed run continues after the shards that were finished.

The files of a shard get their names when they are whole. Once they are on the disk a note says so, and what they were
made with: a note of other settings, or of files that are not there in these sizes, counts for nothing.
"""

import hashlib
import json
import os
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import contextmanager, suppress
from dataclasses import asdict
from functools import lru_cache, partial
from pathlib import Path
from secrets import token_hex
from typing import NamedTuple

import numpy as np

from tokenization.arrays import TokenFile
from tokenization.formats import RANKS, SETTINGS, load_tokenizer
from tokenization.text import rows_of, shards
from tokenization.tokenizer import Tokenizer

SPLITS = ("train", "validation")
Report = Callable[[int, int], None]  # called with the documents and tokens of a shard so far
Note = Callable[[Path, TokenFile], None]  # writes down that a shard's files are finished
Encode = Callable[[Path, Report], TokenFile]  # writes a shard's files (`write_shard`)


class Piece(NamedTuple):
    """Some documents of a shard: ids, int64 positions among them where sequences end, and bytes of text encoded."""

    documents: int
    ids: np.ndarray
    ends: np.ndarray
    text_bytes: int


def _unheard(documents: int, tokens: int) -> None:
    """Elsewhere there is nobody to report to; a shard's end is seen here."""


def encode_shards(
    corpus: Path,
    tokenizer: Path,
    out: Path,
    encode: Encode,
    progress: Callable[..., None],
    map_shards: Callable[..., Iterator] | None = None,
    settings: str = "",
) -> dict[str, list[TokenFile]]:
    """Call `encode` for the shards of every split that are not finished in `out`; the token files of all, by split.

    `settings` says what the files depend on besides shard and tokenizer. Given `map_shards(function, items)`, which
    works like the builtin `map`, the calls are made through it, and `encode` must be one that can be pickled.
    Raises `UserError` if a split is missing or a shard cannot be read.
    """
    splits = {split: shards(corpus, split) for split in SPLITS}
    files = [shard for split in splits.values() for shard in split]
    recipe = _recipe(tokenizer, settings)
    rows = {shard: rows_of(shard) for shard in files}
    total = sum(rows.values())
    out.mkdir(parents=True, exist_ok=True)
    finished = {shard: file for shard in files if (file := _finished(out, shard, recipe))}
    missing = [shard for shard in files if shard not in finished]
    done, tokens = sum(rows[shard] for shard in finished), sum(file.tokens for file in finished.values())

    def report(more_documents: int, more_tokens: int) -> None:
        progress(done + more_documents, total, unit="documents", tokens=tokens + more_tokens)

    note = partial(_note, out=out, recipe=recipe)
    if map_shards:
        encoded = map_shards(partial(_encode_and_note, encode=encode, note=note), missing)
    else:
        encoded = _encode_here(missing, report, encode, note)
    for shard, file in zip(missing, encoded, strict=True):
        finished[shard] = file
        done += rows[shard]
        tokens += file.tokens
        report(0, 0)
    return {split: [finished[shard] for shard in shards] for split, shards in splits.items()}


def _recipe(tokenizer: Path, settings: str) -> str:
    digest = hashlib.sha256(settings.encode())
    for name in (RANKS, SETTINGS):
        digest.update((tokenizer / name).read_bytes())
    return digest.hexdigest()


def _encode_and_note(shard: Path, *, encode: Encode, note: Note) -> TokenFile:
    """What a mapped call does."""
    file = encode(shard, _unheard)
    note(shard, file)
    return file


def _encode_here(missing: list[Path], report: Report, encode: Encode, note: Note) -> Iterator[TokenFile]:
    """Encode shards in this process; the disk is waited for while the next shard is encoded."""
    noted: Future | None = None
    with ThreadPoolExecutor(1) as background:
        for shard in missing:
            file = encode(shard, report)
            if noted:
                noted.result()
            noted = background.submit(note, shard, file)
            yield file
        if noted:
            noted.result()


def _note(shard: Path, file: TokenFile, *, out: Path, recipe: str) -> None:
    sizes = _sizes(out, shard)
    sync(out, *sizes)
    with whole_files(out, shard, "done") as (note,):
        note.write_text(json.dumps({"made_with": _made_with(shard, recipe), "file": asdict(file), "sizes": sizes}))


def _finished(out: Path, shard: Path, recipe: str) -> TokenFile | None:
    """What the note of a killed run says about a shard, if it was made just so."""
    with suppress(OSError, ValueError, TypeError, KeyError):
        note = json.loads((out / f"{shard.stem}.done").read_text())
        if note["made_with"] == _made_with(shard, recipe) and note["sizes"] == _sizes(out, shard):
            return TokenFile(**note["file"])
    return None


def _made_with(shard: Path, recipe: str) -> dict:
    return {"recipe": recipe, "shard_bytes": shard.stat().st_size}


def _sizes(out: Path, shard: Path) -> dict[str, int]:
    """Bytes of each file that was written for a shard."""
    found = [path for path in out.glob(f"{shard.stem}.*") if path.suffix not in (".done", ".tmp")]
    return {path.name: path.stat().st_size for path in found}


def load_once(tokenizer: Path) -> Tokenizer:
    """The tokenizer of all shards that a process encodes: it remembers the words it has seen."""
    return _load(tokenizer, (tokenizer / RANKS).stat().st_mtime_ns)


@lru_cache(maxsize=1)
def _load(tokenizer: Path, changed: int) -> Tokenizer:
    return load_tokenizer(tokenizer)


def forget_notes(out: Path) -> None:
    """Remove the notes, and what killed runs left unfinished, once everything that is made of the shards is written."""
    for leftover in (*out.glob("*.done"), *out.glob("*.tmp")):
        leftover.unlink()


def write_shard(out: Path, shard: Path, pieces: Iterable[Piece], report: Report) -> TokenFile:
    """Write `<shard>.bin` and `<shard>.idx`, whole or not at all."""
    digest = hashlib.sha256()
    documents = tokens = sequences = text_bytes = 0
    with (
        whole_files(out, shard, "bin", "idx") as (bin_path, idx_path),
        bin_path.open("wb") as tokens_file,
        idx_path.open("wb") as ends_file,
    ):
        for piece in pieces:
            digest.update(piece.ids)
            tokens_file.write(piece.ids)
            ends_file.write((piece.ends + tokens).astype("<u8"))
            documents += piece.documents
            tokens += len(piece.ids)
            sequences += len(piece.ends)
            text_bytes += piece.text_bytes
            report(documents, tokens)
    return TokenFile(f"{shard.stem}.bin", tokens, sequences, text_bytes, digest.hexdigest())


@contextmanager
def whole_files(out: Path, shard: Path, *kinds: str) -> Iterator[list[Path]]:
    """Paths to write; when the block ends well, they become `<shard>.<kind>` in `out`.

    A cluster may run a shard twice at once, where it took a slow worker for a dead one: unfinished files have names of
    their own, and whoever is last replaces finished files by equal ones.
    """
    attempt = token_hex(4)
    unfinished = {kind: out / f"{shard.stem}.{kind}.{attempt}.tmp" for kind in kinds}
    yield list(unfinished.values())
    for kind, path in unfinished.items():
        path.rename(out / f"{shard.stem}.{kind}")


def sync(folder: Path, *names: str) -> None:
    """Have these files of a folder on the disk, and then their names."""
    for path in (*(folder / name for name in names), folder):
        descriptor = os.open(path, os.O_RDONLY)
        try:
            os.fsync(descriptor)
        finally:
            os.close(descriptor)
