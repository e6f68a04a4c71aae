"""Text that several corpora can be judged by: what one of them sets aside, less what any of them would train on.

Corpora that are made of the same pages set the same documents aside, by a hash of the id. But a duplicate of such a
document, which one corpus drops and another keeps, may be in the latter's training text, which would then know what it
is asked. So a document counts as known where a fifth of its words, or more, lie in runs of 13 words that are somewhere
in the training text of a corpus: the rule of Llama 2 (Touvron et al. 2023, arXiv:2307.09288, appendix A.6), with the
runs of GPT-3, as in `decontaminate`. No corpus is judged by it.

Few documents of a source say enough of it, and each is read by every model: the first ones by a hash of their ids are
taken until they have SOURCE_BYTES.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from scraping.corpus.kernels.words import find_words, ngrams
from scraping.corpus.safeguards.decontaminate import canonical_words
from scraping.shards import DOCUMENTS, read_rows, shards, write_shard
from textmill.errors import UserError
from textmill.progress import Progress, quiet

__all__ = ["HELD_OUT", "HeldOutCounts", "write_held_out"]

HELD_OUT = "held-out.parquet"
RUN = 13  # words
KNOWN_SHARE = 0.2  # of a document's words, from which on it is known
SOURCE_BYTES = 200_000  # of a source, at most but for the rest of a document

_Held = list[tuple[dict[str, Any], NDArray[np.uint64]]]  # documents with the hashes of their runs


class HeldOutCounts(NamedTuple):
    """Of a source: the documents and bytes that were kept, how many were set aside, and how many of these are known."""

    documents: int
    bytes: int
    set_aside: int
    known: int


def write_held_out(
    reference: Path, corpora: Sequence[Path], out: Path, progress: Progress = quiet
) -> dict[str, HeldOutCounts]:
    """Write the documents that `reference` sets aside and no corpus would train on to `out / HELD_OUT`.

    Args:
        reference: the corpus whose validation split they are of.
        corpora: all that are to be judged, `reference` among them or not.
        out: a folder.
        progress: is told how many corpora were read.

    Returns:
        The counts of each source.

    Raises:
        UserError: no document is left.
    """
    held: _Held = [(row, _runs(row["text"])) for row in read_rows(shards(reference, "validation"))]
    wanted = np.unique(np.concatenate([runs for _, runs in held] or [np.empty(0, np.uint64)]))
    is_known = np.zeros(len(wanted), np.bool_)
    read: set[bytes] = set()
    for number, corpus in enumerate(corpora, 1):
        for text in _unread(corpus, read):
            runs = _runs(text)
            places = np.searchsorted(wanted, runs)
            inside = places < len(wanted)
            places, runs = places[inside], runs[inside]
            is_known[places[wanted[places] == runs]] = True
        progress(number, len(corpora), unit="corpora")
    fresh = [(row, _known_share(is_known[np.searchsorted(wanted, runs)]) < KNOWN_SHARE) for row, runs in held]
    kept = list(_first([row for row, is_fresh in fresh if is_fresh]))
    if not kept:
        raise UserError(
            f"of {len(held):,} documents that {reference.name} sets aside none is new to all that train: raise "
            "prepare.validation_fraction, or leave out the variants that keep duplicates"
        )
    write_shard(out / HELD_OUT, kept, DOCUMENTS)
    counts = {}
    for source in sorted({row["source"] for row, _ in fresh}):
        texts = [row["text"].encode("utf-8", "replace") for row in kept if row["source"] == source]
        found = [is_fresh for row, is_fresh in fresh if row["source"] == source]
        counts[source] = HeldOutCounts(len(texts), sum(map(len, texts)), len(found), found.count(False))
    return counts


def _runs(text: str) -> NDArray[np.uint64]:
    """The hash of each run of RUN words; of a shorter text one of all its words."""
    hashes = find_words(np.frombuffer(canonical_words(text), np.uint8))[2]
    size = max(2, min(RUN, len(hashes)))
    return np.asarray(ngrams(hashes, size), np.uint64)


def _known_share(is_known: NDArray[np.bool_]) -> float:
    """The share of a document's words that lie in known runs; 1 of a document without a run."""
    if not len(is_known):
        return 1.0
    words = np.zeros(len(is_known) + RUN - 1, np.bool_)
    for offset in range(RUN):
        words[offset : offset + len(is_known)] |= is_known
    return float(words.mean())


def _unread(corpus: Path, read: set[bytes]) -> Iterator[str]:
    """The training texts of a corpus that no other had; what corpora have in common is looked at once."""
    for row in read_rows(shards(corpus, "train"), ["text"]):
        name = hashlib.blake2b(row["text"].encode("utf-8", "replace"), digest_size=16).digest()
        if name not in read:
            read.add(name)
            yield row["text"]


def _first(rows: Sequence[dict[str, Any]]) -> Iterator[dict[str, Any]]:
    """Of each source the first documents, by a hash of their ids, that together have SOURCE_BYTES."""
    taken: dict[str, int] = {}
    for row in sorted(rows, key=lambda row: hashlib.blake2b(row["id"].encode(), person=b"held-out").digest()):
        if taken.get(row["source"], 0) < SOURCE_BYTES:
            taken[row["source"]] = taken.get(row["source"], 0) + len(row["text"].encode("utf-8", "replace"))
            yield row
