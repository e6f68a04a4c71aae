"""Token files of other trainers to token arrays of ours."""

from __future__ import annotations

import hashlib
import json
import os
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from textmill.disk import one_line_of_disk
from textmill.errors import UserError
from textmill.files import remove, seal_folder
from textmill.kept import make_folder, only_run
from textmill.progress import Progress, quiet
from tokenization.arrays import TOKEN_BYTES, TokenFile, write_meta
from tokenization.formats import save_tokenizer
from tokenization.token_files.readers import OpenedFile, blocks_of, first_unknown, known_ids
from tokenization.tokenizer import Tokenizer

__all__ = ["TOKENIZER", "import_arrays", "new_folder"]

TOKENIZER = "tokenizer"  # folder of the tokenizer among the token arrays


def import_arrays(
    splits: dict[str, list[OpenedFile]], tokenizer: Tokenizer, out: Path, progress: Progress = quiet
) -> None:
    """Write token files as token arrays in a new folder, with the tokenizer beside them in its folder `tokenizer`.

    Documents are as ours, with the end-of-text token last: one that begins a document is moved to its end, and where an
    index tells the documents, those without one get it. Elsewhere a last document without one stays cut off.

    Args:
        splits: the files of `train` and of `validation`.
        tokenizer: what the tokens were made with.
        out: the folder, which exists when all of it is there.
        progress: told the tokens.

    Raises:
        UserError: a token is not an id of the tokenizer, it has no end of text, a split has no file, or `out` exists.
    """
    eot_id = tokenizer.eot_id
    for split in ("train", "validation"):
        if not splits.get(split):
            raise UserError(f"there are no files for {split}; a training needs both train and validation")
    total = sum(len(file.tokens) for files in splits.values() for file in files)
    lengths = tokenizer.byte_lengths().astype(np.int64)
    known, done = known_ids(tokenizer), 0
    written: dict[str, list[TokenFile]] = {}
    with new_folder(out) as folder:
        for split, files in splits.items():
            written[split] = []
            for number, file in enumerate(files):
                target = _Target(folder / f"{split}-{number:05}.bin", tokenizer.dtype, lengths, known)
                for read in target.fill(file, eot_id):
                    progress(done + read, total, unit="tokens", phase=f"importing {file.path.name}")
                written[split].append(target.finished)
                done += len(file.tokens)
        np.save(folder / TOKEN_BYTES, tokenizer.byte_lengths())
        save_tokenizer(tokenizer, folder / TOKENIZER)
        write_meta(folder, written, vocab_size=tokenizer.vocab_size, eot_id=eot_id)
        (folder / "stats.json").write_text(json.dumps(_stats(written, tokenizer), indent=2, sort_keys=True) + "\n")


def _stats(written: dict[str, list[TokenFile]], tokenizer: Tokenizer) -> dict[str, object]:
    return {"dtype": tokenizer.dtype.name, "vocab_size": tokenizer.vocab_size} | {
        split: {
            "documents": sum(file.documents for file in files),
            "tokens": sum(file.tokens for file in files),
            "bytes": sum(file.bytes for file in files),
        }
        for split, files in written.items()
    }


@contextmanager
def new_folder(out: Path) -> Iterator[Path]:
    """A folder to fill that gets the name `out` when the block ends well; what a killed call left is removed.

    Args:
        out: not there yet, or an empty folder; of a symbolic link, what it points to.

    Raises:
        UserError: `out` exists, cannot be a folder, or another call fills it; or the disk is full or forbidden.
    """
    place = Path(os.path.realpath(out))
    _check_new(place, out)
    unfinished = place.with_name(f".{place.name}.unfinished")
    make_folder(place.parent)
    with one_line_of_disk(out), only_run(unfinished, out):
        _check_new(place, out)  # another call may have ended since
        for leftover in unfinished.iterdir():
            remove(leftover)
        try:
            yield unfinished
            if place.is_dir():
                try:
                    place.rmdir()
                except OSError:
                    raise UserError(f"{out} is no longer empty; name a new folder") from None
            seal_folder(unfinished, place)
        except BaseException:
            shutil.rmtree(unfinished, ignore_errors=True)
            raise


def _check_new(place: Path, out: Path) -> None:
    if not os.path.lexists(place):
        return
    with one_line_of_disk(out):
        if not place.is_dir() or any(place.iterdir()):
            raise UserError(f"{out} exists already; name a new folder")
    if place.is_mount() or place == Path.cwd():  # neither can be replaced by the finished folder
        raise UserError(f"{out} is the current folder or one of a mounted disk; name a new folder inside of it")


@dataclass
class _Target:
    """One file of token arrays that is being written."""

    path: Path
    dtype: np.dtype[Any]
    lengths: np.ndarray  # int64 [vocab_size], bytes of each token
    known: np.ndarray  # bool [vocab_size], whether it is an id

    def fill(self, source: OpenedFile, eot_id: int) -> Iterator[int]:
        """Write the tokens; yields how many of the source are read."""
        digest = hashlib.sha256()
        ends: list[np.ndarray] = []
        written = text_bytes = 0
        blocks = _trailing_eot(source, eot_id) if source.ends is None else _with_eot(source, source.ends, eot_id)
        with self.path.open("wb") as file:
            for block in blocks:
                self._check(block, source, written)
                narrow = block.astype(self.dtype.newbyteorder("<"))
                text_bytes += int(self.lengths[narrow].sum())
                ends.append(np.flatnonzero(narrow == eot_id) + written + 1)
                written += len(narrow)
                digest.update(narrow.data)
                file.write(narrow.data)
                yield min(written, len(source.tokens))
        every = np.concatenate(ends)
        if source.ends is not None:
            every = source.ends + np.cumsum(_lacking(source, source.ends, eot_id))
        elif not len(every) or every[-1] != written:
            every = np.append(every, written)  # the last document is cut off
        index = every.astype("<u8").tobytes()
        self.path.with_suffix(".idx").write_bytes(index)
        self.finished = TokenFile(
            self.path.name, written, len(every), text_bytes, digest.hexdigest(),
            index_sha256=hashlib.sha256(index).hexdigest(),
        )  # fmt: skip

    def _check(self, block: np.ndarray, source: OpenedFile, start: int) -> None:
        at = first_unknown(block, self.known)
        if at is not None:
            raise UserError(
                f"{source.path} has the token {block[at]} near {start + at:,}, which is not an id of the tokenizer's "
                f"{len(self.known):,} (read as {source.tokens.dtype.name}); name the tokenizer and the dtype that "
                "it was made with"
            )


def _trailing_eot(source: OpenedFile, eot_id: int) -> Iterator[np.ndarray]:
    """The tokens in blocks, with a leading end-of-text token moved from the first document's front to the end."""
    tokens = source.tokens
    moved = source.leading_eot and tokens[0] == eot_id
    for _, block in blocks_of(tokens, int(moved)):
        yield block
    if moved:
        yield np.array(tokens[:1])


def _lacking(source: OpenedFile, ends: np.ndarray, eot_id: int) -> np.ndarray:
    """bool [documents]: whether a document does not end with the end-of-text token."""
    empty = np.diff(ends, prepend=0) == 0
    return empty | (source.tokens[np.maximum(ends - 1, 0)] != eot_id)


def _with_eot(source: OpenedFile, ends: np.ndarray, eot_id: int) -> Iterator[np.ndarray]:
    """The tokens in blocks, each document with the end-of-text token at its end."""
    missing = ends[_lacking(source, ends, eot_id)]
    first = 0
    for start, block in blocks_of(source.tokens):
        last = int(np.searchsorted(missing, start + len(block), side="right"))
        yield np.insert(block.astype(np.int64), missing[first:last] - start, eot_id)
        first = last
