"""Token arrays of ours to token files of other trainers."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import numpy as np

from textmill.errors import UserError
from textmill.progress import Progress, quiet
from tokenization.arrays import TokenArrays
from tokenization.sentence_pairs import holds_pairs
from tokenization.token_files.importing import new_folder
from tokenization.token_files.readers import (
    BLOCK,
    HEADER_BYTES,
    HEADERS,
    INDEX_DTYPES,
    INDEX_HEADER,
    INDEX_MAGIC,
    Format,
)

__all__ = ["export_arrays"]

MOST_UINT16 = 65_500  # ids that Megatron writes as uint16; it writes more as int32
MOST_TOKENS = (1 << 31) - 1  # that an int32 counts


def export_arrays(arrays: Path, out: Path, form: Format, progress: Progress = quiet) -> list[Path]:
    """Write token arrays as files of another trainer in a new folder.

    - nanogpt: `train.bin` and `val.bin`.
    - llm.c: `train_000000.bin`, … and `val_000000.bin`, …, a file for each of ours.
    - megatron: `train.bin` and `.idx`, `validation.bin` and `.idx`, each document one sequence.

    Returns:
        the files, all but indices.

    Raises:
        UserError: there are no tokens, they are of pairs of sentences, their ids or numbers do not fit the format,
            documents hold the end-of-text token inside where the format has no other bounds, or `out` exists.
    """
    if holds_pairs(arrays):
        raise UserError(
            f"{arrays} holds pairs of sentences, which {form} has no place for; export the token arrays of their corpus"
        )
    splits = [TokenArrays(arrays, "train")]
    if "validation" in splits[0].meta["splits"]:
        splits.append(TokenArrays(arrays, "validation"))
    if not any(map(len, splits)):
        raise UserError(f"{arrays} holds no tokens")
    if form == "nanogpt" and splits[0].dtype.itemsize != 2:
        raise UserError(
            f"nanoGPT reads uint16, but {arrays} has {splits[0].vocab_size:,} ids; use a vocabulary of 65,536 or fewer"
        )
    write = {"nanogpt": _write_nanogpt, "llm.c": _write_llm_c, "megatron": _write_megatron}[form]
    with new_folder(out) as folder:
        names = [name for split in splits for name in write(split, folder, progress)]
    return [out / name for name in names]


def _write_nanogpt(split: TokenArrays, folder: Path, progress: Progress) -> list[str]:
    name = "val.bin" if split.split == "validation" else "train.bin"
    _check_bounds(split, "nanogpt")
    with (folder / name).open("wb") as file:
        for block in _blocks(split, 0, len(split), progress, name):
            file.write(block.data)
    return [name]


def _write_llm_c(split: TokenArrays, folder: Path, progress: Progress) -> list[str]:
    [(magic, (version, kind))] = [(magic, header) for magic, header in HEADERS.items() if header[1] == split.dtype]
    _check_bounds(split, "llm.c")
    names: list[str] = []
    start = 0
    for size in (file["tokens"] for file in split.meta["splits"][split.split]["files"]):
        if not size:
            continue
        if size > MOST_TOKENS:
            raise UserError(f"llm.c counts {MOST_TOKENS:,} tokens a file, and one of {split.path} has {size:,}")
        name = f"{'val' if split.split == 'validation' else 'train'}_{len(names):06}.bin"
        header = np.zeros(HEADER_BYTES // 4, "<i4")
        header[:3] = magic, version, size
        last = split.window(start + size - 1, 1)
        moved = int(last[0] == split.eot_id)  # from the end of the last document to the front of the first
        with (folder / name).open("wb") as file:
            file.write(header.data)
            file.write(last[:moved].astype(kind).data)
            for block in _blocks(split, start, start + size - moved, progress, name):
                file.write(block.data)
        names.append(name)
        start += size
    return names


def _write_megatron(split: TokenArrays, folder: Path, progress: Progress) -> list[str]:
    if not len(split):
        return []
    code = 8 if split.vocab_size < MOST_UINT16 else 4
    kind = INDEX_DTYPES[code]
    if split.vocab_size - 1 > np.iinfo(kind).max:
        raise UserError(f"Megatron's {kind.name} does not hold the {split.vocab_size:,} ids of {split.path}")
    ends = split.document_ends()
    lengths = np.diff(ends, prepend=0)
    if lengths.max(initial=0) > MOST_TOKENS:
        raise UserError(f"Megatron counts {MOST_TOKENS:,} tokens a document, and one of {split.path} has more")
    name = f"{split.split}.bin"
    with (folder / name).open("wb") as file:
        for block in _blocks(split, 0, len(split), progress, name):
            file.write(block.astype(kind).data)
    with (folder / name).with_suffix(".idx").open("wb") as file:
        file.write(INDEX_HEADER.pack(INDEX_MAGIC, 1, code, len(ends), len(ends) + 1))
        file.write(lengths.astype("<i4").data)
        file.write(((ends - lengths) * kind.itemsize).astype("<i8").data)
        file.write(np.arange(len(ends) + 1, dtype="<i8").data)
    return [name]


def _blocks(split: TokenArrays, start: int, stop: int, progress: Progress, name: str) -> Iterator[np.ndarray]:
    for first in range(start, stop, BLOCK):
        progress(first - start, stop - start, unit="tokens", phase=f"writing {name}")
        yield split.window(first, min(BLOCK, stop - first))


def _check_bounds(split: TokenArrays, form: Format) -> None:
    """The end-of-text token ends documents and is nowhere else, but that the last of a file may be cut off."""
    counted, start = 0, 0
    sizes = [file["tokens"] for file in split.meta["splits"][split.split]["files"]]
    for first in range(0, len(split), BLOCK):
        counted += int((split.window(first, min(BLOCK, len(split) - first)) == split.eot_id).sum())
    for size in sizes:
        start += size
        counted += int(size > 0 and split.window(start - 1, 1)[0] != split.eot_id)
    if counted != split.documents:
        raise UserError(
            f"{split.path} has {split.documents:,} documents in {split.split} but {counted:,} ends of text, and {form} "
            "knows no other bounds; export to megatron"
        )
