"""What a token file, or a folder of them, holds, and what of it is damaged."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np

from textmill.errors import UserError
from textmill.progress import Progress, quiet
from tokenization.arrays import META, TokenArrays
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
    """Read all token arrays of a folder of ours, split by split.

    Raises:
        UserError: `meta.json` is damaged, or a file is missing or of another size.
    """
    for split in TokenArrays(folder).meta["splits"]:
        arrays = TokenArrays(folder, split)
        largest = 0
        for start in range(0, len(arrays), BLOCK):
            progress(start, len(arrays), unit="tokens", phase=f"reading {split}")
            largest = max(largest, int(arrays.window(start, min(BLOCK, len(arrays) - start)).max()))
        known = f"of {arrays.vocab_size:,} ids, end of text {arrays.eot_id}"
        first = arrays.window(0, min(FIRST, len(arrays)))
        found = Inspection(
            f"{folder} ({split})", "textmill", arrays.dtype.name, len(arrays), arrays.documents, largest, known, first
        )
        try:
            arrays.document_ends()
        except UserError as error:
            found.damage.append(str(error))
        if largest >= arrays.vocab_size:
            found.damage.append(f"{folder} holds the token {largest}, which is not an id of its {arrays.vocab_size:,}")
        if tokenizer and tokenizer.vocab_size != arrays.vocab_size:
            found.damage.append(
                f"{folder} has a vocabulary of {arrays.vocab_size:,} but the tokenizer {tokenizer.vocab_size:,}"
            )
        yield found
