"""What a token file, or a folder of them, holds, and what of it is damaged."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np

from textmill.errors import UserError
from textmill.files import sha256
from textmill.progress import Progress, quiet
from tokenization.arrays import META, TOKEN_BYTES, MappedFile, TokenArrays
from tokenization.sentence_pairs import holds_pairs
from tokenization.token_files.readers import BLOCK, OpenedFile, blocks_of, first_unknown, known_ids
from tokenization.tokenizer import Tokenizer

__all__ = ["FIRST", "Inspection", "inspect_arrays", "inspect_file", "is_arrays"]

FIRST = 32  # tokens that are shown
MADE_WITH = {"uint16": "GPT-2's, or another of 65,536 ids or fewer", "uint32": "Llama 3's, or another"}


@dataclass
class Inspection:
    """What was found.

    Attributes:
        name: of the file, or of the split of ours.
        format: of it.
        dtype: of its tokens.
        tokens: how many.
        documents: how many; None where that cannot be known without a tokenizer.
        largest: the largest id.
        tokenizer: what is known of it, in words.
        first: the first `FIRST` tokens.
        damage: what is wrong, each in one line.
    """

    name: str
    format: str
    dtype: str
    tokens: int
    documents: int | None
    largest: int
    tokenizer: str
    first: np.ndarray
    damage: list[str] = field(default_factory=list)


def is_arrays(place: Path) -> bool:
    """Whether a folder has token arrays of ours."""
    return (place / META).is_file()


def inspect_file(file: OpenedFile, tokenizer: Tokenizer | None, progress: Progress = quiet) -> Inspection:
    """Read all of a token file of another trainer.

    Args:
        file: opened, so that its header and index fit.
        tokenizer: what its ids are compared with; None: with nothing.
        progress: told the tokens.
    """
    known_id = known_ids(tokenizer) if tokenizer else None
    largest, smallest, ends_of_text = 0, 0, 0
    unknown: int | None = None
    for start, block in blocks_of(file.tokens):
        progress(start, len(file.tokens), unit="tokens", phase=f"reading {file.path.name}")
        largest, smallest = max(largest, int(block.max())), min(smallest, int(block.min()))
        if unknown is None and known_id is not None and (at := first_unknown(block, known_id)) is not None:
            unknown = int(block[at])
        ends_of_text += int((block == tokenizer.eot_id).sum()) if tokenizer else 0
    documents = len(file.ends) if file.ends is not None else None
    if documents is None and tokenizer:
        edge = file.tokens[0] if file.leading_eot else file.tokens[-1]
        documents = ends_of_text + int(edge != tokenizer.eot_id)
    known = MADE_WITH[file.tokens.dtype.name] if file.format == "llm.c" else ""
    found = Inspection(
        str(file.path), file.format, file.tokens.dtype.name, len(file.tokens), documents, largest, known,
        np.array(file.tokens[:FIRST]),
    )  # fmt: skip
    if unknown is not None:
        found.damage.append(f"{file.path} holds the token {unknown}, which is not an id of this tokenizer")
    elif smallest < 0:
        found.damage.append(f"{file.path} holds the token {smallest}, and ids are not negative")
    return found


def inspect_arrays(folder: Path, tokenizer: Tokenizer | None, progress: Progress = quiet) -> Iterator[Inspection]:
    """Read all token arrays of a folder of ours, split by split, and compare them with what `meta.json` says.

    Raises:
        UserError: `meta.json` is damaged, or a file is missing or of another size.
    """
    damage = _damage_of_folder(folder, tokenizer)
    for split in TokenArrays(folder).meta["splits"]:
        arrays = TokenArrays(folder, split)
        known = f"of {arrays.vocab_size:,} ids, end of text {arrays.eot_id}"
        first = arrays.window(0, min(FIRST, len(arrays)))
        found = Inspection(
            f"{folder} ({split})", "textmill", arrays.dtype.name, len(arrays), arrays.documents, 0, known, first
        )
        found.damage, damage = damage, []
        if split == "train" and not len(arrays):
            found.damage.append(f"{folder} holds no tokens to train on")
        known_id = np.ones(arrays.vocab_size, np.bool_)
        if tokenizer and tokenizer.vocab_size == arrays.vocab_size:
            known_id = known_ids(tokenizer)
        for entry in arrays.meta["splits"][split]["files"]:
            file = MappedFile(folder / entry["name"], arrays.dtype, entry["tokens"])
            digest = hashlib.sha256()
            unknown: int | None = None
            for start in range(0, file.length, BLOCK):
                progress(start, file.length, unit="tokens", phase=f"reading {entry['name']}")
                block = file.read(start, min(start + BLOCK, file.length))
                digest.update(block.data)
                found.largest = max(found.largest, int(block.max()))
                if unknown is None and (at := first_unknown(block, known_id)) is not None:
                    unknown = int(block[at])
            if unknown is not None:
                found.damage.append(
                    f"{folder / entry['name']} holds the token {unknown}, which is not an id of its "
                    f"{arrays.vocab_size:,}"
                )
            elif digest.hexdigest() != entry["sha256"]:
                found.damage.append(f"{folder / entry['name']} is not what {META} says: its SHA-256 is another")
        found.damage += _damage_of_documents(arrays) or list(_damage_of_indexes(arrays))
        yield found


def _damage_of_folder(folder: Path, tokenizer: Tokenizer | None) -> list[str]:
    """What is wrong beside the splits: the vocabulary, and the bytes of each token."""
    arrays, damage = TokenArrays(folder), []
    same = tokenizer is not None and tokenizer.vocab_size == arrays.vocab_size
    if tokenizer and not same:
        damage.append(f"{folder} has a vocabulary of {arrays.vocab_size:,} but the tokenizer {tokenizer.vocab_size:,}")
    if arrays.eot_id >= arrays.vocab_size:
        damage.append(f"{folder / META} has the end of text {arrays.eot_id} outside its {arrays.vocab_size:,} ids")
    if holds_pairs(folder):  # nothing is measured in bytes there
        return damage
    try:
        lengths = arrays.token_bytes
    except UserError as error:
        return [*damage, str(error)]
    if tokenizer and same and (lengths != tokenizer.byte_lengths()).any():
        damage.append(f"{folder / TOKEN_BYTES} has other bytes of tokens than the tokenizer")
    return damage


def _damage_of_indexes(arrays: TokenArrays) -> Iterator[str]:
    for entry in arrays.meta["splits"][arrays.split]["files"]:
        index = (arrays.path / entry["name"]).with_suffix(".idx")
        if entry.get("index_sha256") not in (None, sha256(index)):  # arrays that were imported have it
            yield f"{index} is not what {META} says: its SHA-256 is another"


def _damage_of_documents(arrays: TokenArrays) -> list[str]:
    """What is wrong with the ends and the sources of a split's documents."""
    try:
        ends = arrays.document_ends()
        files = arrays.meta["splits"][arrays.split]["files"]
        if not holds_pairs(arrays.path):
            file_ends = np.cumsum([file["tokens"] for file in files], dtype=np.int64)
            inside = ends[~np.isin(ends, file_ends)]  # the last document of a file may be cut off
            for first in range(0, len(inside), BLOCK):
                places = inside[first : first + BLOCK] - 1
                if (places < 0).any() or (arrays.windows(places, 1)[:, 0] != arrays.eot_id).any():
                    return [f"{arrays.path} ({arrays.split}): documents end, by an .idx, without an end of text"]
        if not any(file.get("sources") for file in files):
            return []
        names, numbers = arrays.document_sources()
    except UserError as error:
        return [str(error)]
    sizes = np.bincount(numbers, np.diff(ends, prepend=0), minlength=len(names)).astype(np.int64).tolist()
    if dict(zip(names, sizes, strict=True)) != arrays.source_tokens():
        return [f"{arrays.path} ({arrays.split}) has other tokens of sources in its .src than {META} says"]
    return []
