"""Token files of other trainers: nanoGPT's bare `.bin`, and the `.bin` with a header of llm.c and modded-nanogpt.

A header is 256 int32: a magic number, a version, the number of tokens. With it documents *begin* with the end-of-text
token; in nanoGPT's files they end with it, as in ours.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from textmill.errors import UserError
from textmill.progress import Progress, quiet
from tokenization.arrays import TokenArrays, TokenFile, token_dtype, write_meta

__all__ = ["Bin", "import_bins", "open_bin", "write_nanogpt"]

HEADER_BYTES = 1024
# magic number → (version, dtype): GPT-2's and Llama 3's tokens in llm.c; modded-nanogpt writes the first
HEADERS: dict[int, tuple[int, np.dtype[Any]]] = {20240520: (1, np.dtype("<u2")), 20240801: (7, np.dtype("<u4"))}
BLOCK = 1 << 22  # tokens read at once


@dataclass(frozen=True)
class Bin:
    """An opened token file.

    Attributes:
        tokens: uint16 or uint32 [tokens], mapped read-only.
        leading_eot: whether documents begin with the end-of-text token.
    """

    tokens: np.ndarray
    leading_eot: bool


def open_bin(path: Path, dtype: str = "uint16") -> Bin:
    """Open a token file; a header is recognized, a bare file holds integers of `dtype`.

    Raises:
        UserError: the file is not there, truncated or of an unknown version, or `dtype` is another.
    """
    if dtype not in ("uint16", "uint32"):
        raise UserError(f"tokens are uint16 or uint32, not {dtype}")
    if not path.is_file():
        raise UserError(f"{path} is not a file; give a token file (.bin)")
    size = path.stat().st_size
    if size >= HEADER_BYTES:
        header = np.fromfile(path, "<i4", 256)
        if int(header[0]) in HEADERS:
            version, kind = HEADERS[int(header[0])]
            count = int(header[2])
            if header[1] != version:
                raise UserError(f"{path} has version {header[1]} of its format; only {version} can be read")
            if size != HEADER_BYTES + count * kind.itemsize:
                raise UserError(f"{path} should hold {count:,} tokens but has {size:,} bytes; fetch it again")
            return Bin(_mapped(path, kind, HEADER_BYTES, count), leading_eot=True)
    kind = np.dtype(dtype).newbyteorder("<")
    if size % kind.itemsize:
        raise UserError(f"{path} has {size:,} bytes, which is not a multiple of {dtype}'s size; give its dtype")
    return Bin(_mapped(path, kind, 0, size // kind.itemsize), leading_eot=False)


def _mapped(path: Path, kind: np.dtype[Any], offset: int, count: int) -> np.ndarray:
    return np.memmap(path, kind, "r", offset, (count,)) if count else np.empty(0, kind)


def import_bins(
    splits: dict[str, list[Path]], out: Path, *, vocab_size: int, eot_id: int, dtype: str = "uint16"
) -> None:
    """Write files of nanoGPT, llm.c or modded-nanogpt as token arrays.

    Documents are written as ours are, with the end-of-text token last. The number of their bytes of text is unknown,
    and 0 in `meta.json`.

    Args:
        splits: the files of each split, e.g. {"train": […], "validation": […]}.
        out: the folder of the token arrays.
        vocab_size: it decides the dtype of the token arrays.
        eot_id: the end-of-text token.
        dtype: the dtype of files without a header.

    Raises:
        UserError: as `open_bin` does; or a token, or the end-of-text token, is not an id of such a vocabulary.
    """
    if not 0 <= eot_id < vocab_size:
        raise UserError(f"eot_id {eot_id} is not an id of {vocab_size:,} (0 to {vocab_size - 1})")
    out.mkdir(parents=True, exist_ok=True)
    finished = {
        split: [
            _import_bin(_within(path, dtype, vocab_size), out / f"{split}-{i:05}.bin", token_dtype(vocab_size), eot_id)
            for i, path in enumerate(paths)
        ]
        for split, paths in splits.items()
    }
    write_meta(out, finished, vocab_size=vocab_size, eot_id=eot_id)


def _within(path: Path, dtype: str, vocab_size: int) -> Bin:
    """The token file, all of whose tokens are ids of a vocabulary.

    Raises:
        UserError: one is not, or as `open_bin` does.
    """
    opened = open_bin(path, dtype)
    for start in range(0, len(opened.tokens), BLOCK):
        block = opened.tokens[start : start + BLOCK]
        if block.max() >= vocab_size:
            at = int(np.argmax(block >= vocab_size))
            raise UserError(
                f"{path} has the token {block[at]} at {start + at:,}, which is not an id of {vocab_size:,}; give the "
                f"vocab_size and the dtype of the file (read as {opened.tokens.dtype.name})"
            )
    return opened


def _import_bin(source: Bin, target: Path, dtype: np.dtype[Any], eot_id: int) -> TokenFile:
    digest = hashlib.sha256()
    ends: list[np.ndarray] = []
    written = 0
    with target.open("wb") as file:
        for block in _trailing_eot(source, eot_id):
            block = block.astype(dtype)
            ends.append(np.flatnonzero(block == eot_id) + written + 1)
            written += len(block)
            digest.update(block.data)
            file.write(block.data)
    every = np.concatenate(ends) if ends else np.empty(0, np.int64)
    if written and (not len(every) or every[-1] != written):
        every = np.append(every, written)  # the last document is cut off
    target.with_suffix(".idx").write_bytes(every.astype("<u8").tobytes())
    return TokenFile(name=target.name, tokens=written, documents=len(every), bytes=0, sha256=digest.hexdigest())


def _trailing_eot(source: Bin, eot_id: int) -> Iterator[np.ndarray]:
    """The tokens in blocks, with a leading end-of-text token moved from the first document's front to the end."""
    tokens = source.tokens
    moved = source.leading_eot and len(tokens) > 0 and tokens[0] == eot_id
    for start in range(int(moved), len(tokens), BLOCK):
        yield tokens[start : start + BLOCK]
    if moved:
        yield tokens[:1]


def write_nanogpt(tokens: Path, out: Path, progress: Progress = quiet) -> None:
    """Write token arrays as nanoGPT's `train.bin` and `val.bin`.

    Raises:
        UserError: the vocabulary does not fit nanoGPT's uint16.
    """
    out.mkdir(parents=True, exist_ok=True)
    for split, name in (("train", "train.bin"), ("validation", "val.bin")):
        arrays = TokenArrays(tokens, split)
        if arrays.dtype.itemsize != 2:
            raise UserError(
                f"nanoGPT reads uint16, but {tokens} has {arrays.vocab_size:,} ids; use a vocabulary of 65,536 or fewer"
            )
        with (out / name).open("wb") as file:
            for start in range(0, len(arrays), BLOCK):
                file.write(arrays.window(start, min(BLOCK, len(arrays) - start)).data)
                progress(start, len(arrays), unit="tokens", phase=name)
