"""Token files of other trainers, opened.

- nanogpt: bare little-endian integers, uint16 unless told otherwise (uint32, int64); documents end with the end-of-text
  token. The `meta.pkl` that may lie beside is a pickle, and never read.
- llm.c (also modded-nanogpt): 256 int32 (a magic number, a version, the number of tokens), then the tokens; documents
  begin with the end-of-text token.
- megatron: `.bin` has the tokens and `.idx` an index: the bytes MMIDIDX and two zeros, version 1 (uint64), a code of
  the dtype (uint8), the numbers of sequences and of document bounds (uint64 both), the sequences' lengths (int32) and
  places in bytes (int64), and the bounds of documents among the sequences, from 0 on (int64).
"""

from __future__ import annotations

import mmap
import struct
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import numpy as np

from textmill.errors import UserError
from tokenization.arrays import META
from tokenization.tokenizer import Tokenizer

__all__ = [
    "BARE_DTYPES",
    "BLOCK",
    "FORMATS",
    "Format",
    "OpenedFile",
    "blocks_of",
    "first_unknown",
    "known_ids",
    "open_token_file",
    "split_files",
    "token_files",
]

Format = Literal["nanogpt", "llm.c", "megatron"]
FORMATS: tuple[Format, ...] = ("nanogpt", "llm.c", "megatron")
BLOCK = 1 << 22  # tokens read at once
HEADER_BYTES = 1024
# magic number → (version, dtype): GPT-2's and Llama 3's tokens in llm.c; modded-nanogpt writes the first
HEADERS: dict[int, tuple[int, np.dtype[Any]]] = {20240520: (1, np.dtype("<u2")), 20240801: (7, np.dtype("<u4"))}
INDEX_MAGIC = b"MMIDIDX\x00\x00"
INDEX_HEADER = struct.Struct("<9sQBQQ")
BARE_DTYPES = ("uint16", "uint32", "int64")  # of files without a header
# Megatron's codes; 6 and 7 are floating point
INDEX_DTYPES = {code: np.dtype(name) for code, name in ((1, "u1"), (2, "i1"), (3, "<i2"), (4, "<i4"), (5, "<i8"), (8, "<u2"))}  # fmt: skip  # noqa: E501


@dataclass(frozen=True)
class OpenedFile:
    """A token file.

    Attributes:
        path: of the `.bin`.
        format: of it.
        tokens: [tokens] of an integer dtype, mapped read-only.
        leading_eot: whether documents begin with the end-of-text token.
        ends: int64 [documents], where each document ends among the tokens; None where the end-of-text token tells.
    """

    path: Path
    format: Format
    tokens: np.ndarray
    leading_eot: bool = False
    ends: np.ndarray | None = None


def open_token_file(path: Path, form: Format | None = None, dtype: str | None = None) -> OpenedFile:
    """Open a token file.

    Args:
        path: the `.bin`, or Megatron's `.idx` beside it.
        form: its format; None: what the file itself says.
        dtype: one of `BARE_DTYPES`, of the integers of a file that does not say; None: uint16, unless they look wider.

    Raises:
        UserError: it is not there, empty, damaged, of another version, or not of this format or dtype.
    """
    if dtype not in (None, *BARE_DTYPES):
        raise UserError(f"tokens are {', '.join(BARE_DTYPES[:-1])} or {BARE_DTYPES[-1]}, not {dtype}")
    if path.suffix == ".idx":
        path, form = path.with_suffix(".bin"), form or "megatron"
    if not path.is_file():
        raise UserError(f"{path} is not a file; give a token file (.bin)")
    recognized = _recognize(path, form)
    if form and form != recognized:
        raise UserError(f"{path} is not a file of {form}: it reads as {recognized or 'none of ' + ', '.join(FORMATS)}")
    match recognized:
        case "megatron":
            opened = _open_megatron(path)
        case "llm.c":
            opened = _open_llm_c(path)
        case "nanogpt":
            opened = _open_bare(path, dtype)
        case _:
            raise UserError(f"{path} is not a token file; those of {', '.join(FORMATS)} end with .bin")
    if dtype and opened.tokens.dtype != np.dtype(dtype):
        raise UserError(f"{path} says that its tokens are {opened.tokens.dtype.name}, not {dtype}; leave the dtype out")
    if not len(opened.tokens):
        raise UserError(f"{path} holds no tokens")
    return opened


def _recognize(path: Path, form: Format | None) -> Format | None:
    """The format that the file itself says; `form`, which somebody insists on, where nothing contradicts it."""
    with path.open("rb") as file:
        begin = file.read(HEADER_BYTES)
    index, magic = path.with_suffix(".idx"), b""
    if index.is_file():
        with index.open("rb") as file:
            magic = file.read(len(INDEX_MAGIC))
        if magic == INDEX_MAGIC:
            return "megatron"
    if len(begin) >= 4 and int.from_bytes(begin[:4], "little") in HEADERS:
        return "llm.c"
    if path.suffix != ".bin":
        return None
    if index.is_file() and form != "nanogpt":
        raise UserError(
            f"{index} is not an index of Megatron-LM: it begins with {magic!r} instead of {INDEX_MAGIC!r}; fetch it "
            f"again, or give the format nanogpt if {path.name} is that"
        )
    if len(begin) == HEADER_BYTES and not any(begin[12:]) and form != "nanogpt":
        raise UserError(
            f"{path} begins as llm.c's header of {HEADER_BYTES:,} bytes does, but with an unknown number "
            f"({int.from_bytes(begin[:4], 'little')}); fetch it again, or give the format nanogpt if it is that"
        )
    return "nanogpt"


def _open_bare(path: Path, dtype: str | None) -> OpenedFile:
    kind = np.dtype(dtype or "uint16").newbyteorder("<")
    size = path.stat().st_size
    if size % kind.itemsize:
        raise UserError(f"{path} has {size:,} bytes, which is not a multiple of {kind.name}'s size; give its dtype")
    tokens = _mapped(path, kind, 0, size // kind.itemsize)
    if dtype is None and _looks_wide(tokens[:BLOCK]):
        wide = "int64" if size % 8 == 0 and _alternates(tokens[: 2 * BLOCK].view("<u4")) else "uint32"
        raise UserError(f"{path} looks like {wide}: give its dtype, {wide}, or uint16 if it is that all the same")
    if dtype == "uint32" and _alternates(tokens[:BLOCK]):
        raise UserError(f"{path} looks like int64, because every second uint32 is 0: give its dtype, int64")
    return OpenedFile(path, "nanogpt", tokens)


def _looks_wide(tokens: np.ndarray) -> bool:
    """Whether every second uint16 is nearly nothing, as the upper halves of ids are."""
    low, high = tokens[::2], tokens[1::2]
    return len(low) == len(high) >= 8 and bool((high < 16).all() and (low >= 16).any())


def _alternates(tokens: np.ndarray) -> bool:
    """Whether every second uint32 is 0, and not all are, as the upper halves of int64 are."""
    low, high = tokens[::2], tokens[1::2]
    return len(low) == len(high) >= 4 and not high.any() and bool(low.any())


def _open_llm_c(path: Path) -> OpenedFile:
    size = path.stat().st_size
    if size < HEADER_BYTES:
        raise UserError(f"{path} has {size:,} bytes, fewer than its header of {HEADER_BYTES:,}; fetch it again")
    magic, found, count = (int(value) for value in np.fromfile(path, "<i4", 3))
    version, kind = HEADERS[magic]
    if found != version:
        raise UserError(f"{path} has version {found} of its format; only {version} can be read")
    if size != HEADER_BYTES + count * kind.itemsize:
        raise UserError(f"{path} should hold {count:,} tokens but has {size:,} bytes; fetch it again")
    return OpenedFile(path, "llm.c", _mapped(path, kind, HEADER_BYTES, count), leading_eot=True)


def _open_megatron(path: Path) -> OpenedFile:
    index = path.with_suffix(".idx")
    size = index.stat().st_size
    if size < INDEX_HEADER.size:
        raise UserError(f"{index} has {size:,} bytes, fewer than its header of {INDEX_HEADER.size}; fetch it again")
    with index.open("rb") as file:
        _, version, code, sequences, bounds = INDEX_HEADER.unpack(file.read(INDEX_HEADER.size))
    if version != 1:
        raise UserError(f"{index} has version {version} of its format; only 1 can be read")
    if code not in INDEX_DTYPES:
        raise UserError(f"{index} names the dtype {code}, which is none of integers; tokens are integers")
    kind = INDEX_DTYPES[code]
    expected = INDEX_HEADER.size + sequences * (4 + 8) + bounds * 8
    if size != expected:
        modes = " (it has a mode for each sequence, as data of images have)" if size == expected + sequences else ""
        raise UserError(f"{index} should have {expected:,} bytes for {sequences:,} sequences but has {size:,}{modes}")
    places = INDEX_HEADER.size + 4 * sequences
    lengths = _mapped(index, np.dtype("<i4"), INDEX_HEADER.size, sequences)
    pointers = _mapped(index, np.dtype("<i8"), places, sequences)
    documents = _mapped(index, np.dtype("<i8"), places + 8 * sequences, bounds)
    ends = np.concatenate([[0], np.cumsum(lengths, dtype=np.int64)])
    if (lengths < 0).any() or (pointers != ends[:-1] * kind.itemsize).any():
        raise UserError(f"{index} is damaged: its sequences do not follow one another in {path.name}; fetch it again")
    if not bounds or documents[0] != 0 or documents[-1] != sequences or (np.diff(documents) < 0).any():
        raise UserError(f"{index} is damaged: its bounds of documents are not in order; fetch it again")
    if path.stat().st_size != ends[-1] * kind.itemsize:
        raise UserError(
            f"{path} has {path.stat().st_size:,} bytes but its index is of {ends[-1] * kind.itemsize:,}; fetch it again"
        )
    return OpenedFile(path, "megatron", _mapped(path, kind, 0, int(ends[-1])), ends=ends[documents[1:]])


def _mapped(path: Path, kind: np.dtype[Any], offset: int, count: int) -> np.ndarray:
    return np.memmap(path, kind, "r", offset, (count,)) if count else np.empty(0, kind)


def blocks_of(tokens: np.ndarray, start: int = 0) -> Iterator[tuple[int, np.ndarray]]:
    """Copies of the tokens from `start` on in blocks, each with its place; the memory of mapped ones is given back."""
    for first in range(start, len(tokens), BLOCK):
        yield first, np.array(tokens[first : first + BLOCK])
        if isinstance(tokens, np.memmap) and hasattr(mmap, "MADV_DONTNEED"):
            tokens._mmap.madvise(mmap.MADV_DONTNEED)  # type: ignore[attr-defined]


def split_files(places: Iterable[Path], held_out: Iterable[Path] = ()) -> dict[str, list[Path]]:
    """The `.bin` files that places name, each once, by split.

    Args:
        places: files, or folders of them.
        held_out: those for validation, also where `places` has them under another path; none: the files whose names
            speak of validation (`val`, `valid`).

    Raises:
        UserError: a place is not there, a folder has no token files, or the name of a file speaks of validation but
            others are held out.
    """
    found = {path: _speaks_of_validation(path) for path in token_files(places)}
    if named := token_files(held_out):
        real = {path.resolve() for path in named}
        found = {path: speaks for path, speaks in found.items() if path.resolve() not in real}
        if unclear := [path for path, speaks in found.items() if speaks]:
            raise UserError(
                f"{unclear[0]} is held out by its name, but --validation names other files; name it there too, leave "
                "it out, or rename it to train on it"
            )
    return {
        "train": [path for path, speaks in found.items() if not speaks],
        "validation": named or [path for path, speaks in found.items() if speaks],
    }


def _speaks_of_validation(path: Path) -> bool:
    words = path.stem.lower().replace("-", "_").replace(".", "_").split("_")
    return bool({"val", "valid", "validation"} & set(words))


def token_files(places: Iterable[Path]) -> list[Path]:
    """The `.bin` files that places name, each once, however often and by whatever path it is named.

    Args:
        places: files (also the `.idx` beside), or folders of them.

    Raises:
        UserError: a place is not there, or a folder has no token files.
    """
    found: dict[Path, Path] = {}
    for place in places:
        if (place / META).is_file():
            raise UserError(f"{place} has token arrays of ours already, as {META} says; train on it as it is")
        inside = (
            sorted(place.glob("*.bin"))
            if place.is_dir()
            else [place.with_suffix(".bin") if place.suffix == ".idx" else place]
        )
        if not inside:
            raise UserError(f"{place} holds no token files (*.bin)")
        for path in inside:
            found.setdefault(path.resolve(), path)
    return list(found.values())


def known_ids(tokenizer: Tokenizer) -> np.ndarray:
    """bool [vocab_size]: which ids the tokenizer has; a vocabulary may have gaps."""
    known = np.zeros(tokenizer.vocab_size, np.bool_)
    known[[*tokenizer.tokens.values(), *tokenizer.special_tokens.values()]] = True
    return known


def first_unknown(block: np.ndarray, known: np.ndarray) -> int | None:
    """Where among the tokens the first is that is no id; None if there is none. known: as of `known_ids`."""
    inside = np.clip(block, 0, len(known) - 1)
    unknown = (inside != block) | ~known[inside]
    return int(unknown.argmax()) if unknown.any() else None
