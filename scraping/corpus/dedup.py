"""Exact and near-duplicate documents, and which one of each group is kept.

Two documents are near-duplicates if the Jaccard similarity of their sets of shingles (5-word n-grams) reaches the
threshold. MinHash signatures (Broder 1997) cut into bands (locality-sensitive hashing: Leskovec et al., Mining of
Massive Datasets, 2014, ch. 3) find the candidates; every candidate pair is then verified on the sets themselves, so
that no document is dropped on a hash's word.

Of duplicates the longest is kept, of equally long ones the one with the smallest id: the choice does not depend on the
order of the documents. Going from the best document to the worst, one is dropped if it resembles a document that was
kept; so everything dropped has a near-duplicate in the corpus, and no two kept candidates resemble each other.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterable, Iterator
from itertools import pairwise
from pathlib import Path
from types import TracebackType
from typing import Any, NamedTuple, Self

import numpy as np
from numpy.typing import NDArray
from rensa import RMinHash

from scraping.corpus.config import DedupConfig
from scraping.corpus.hashing import Hashes, hash_ngrams, hash_words
from scraping.corpus.kernels.words import hash_rows
from scraping.shards import count_rows, read_at
from textmill.progress import Progress

PERMUTATIONS = 128
_SEED = 42
_SHINGLE_WORDS = 5
_RECALL = 0.99

Bucket = tuple[int, int]  # band, and number of the bucket within it


class Signatures(NamedTuple):
    """What duplicate search needs to know of each document; all arrays have one row a document."""

    ids: NDArray[np.bytes_]  # S32: hexadecimal
    lengths: NDArray[np.int64]  # characters
    contents: Hashes  # [documents, 2]: BLAKE2b-128 of the text
    bands: Hashes  # [documents, bands]: equal in some column for near-duplicates


class Duplicate(NamedTuple):
    """A document to drop, by position, and the one that is kept in its place."""

    document: int
    kept: int
    reason: str  # duplicate, near-duplicate
    similarity: float


def deduplicate(
    documents: list[Path], signatures: list[Path], config: DedupConfig, work: Path, progress: Progress
) -> dict[int, tuple[str, str]]:
    """Reason and detail for each document to drop, by its position in all documents together.

    Args:
        documents: DOCUMENTS files.
        signatures: what `sign` made of each, as .npz files.
        config: which duplicates are dropped.
        work: a folder for what does not fit into memory.
        progress: hears when this begins.
    """
    known = concatenated([Signatures(**np.load(path)) for path in signatures])
    progress(0, len(known.ids), unit="documents", phase="removing duplicates")
    starts = np.cumsum([0] + [count_rows([path]) for path in documents])

    def texts(positions: list[int]) -> Iterator[str]:
        places = np.array(positions, np.int64)
        for path, (start, end) in zip(documents, pairwise(starts), strict=True):
            inside = places[(places >= start) & (places < end)] - start
            yield from (row["text"] for row in read_at(path, inside.tolist(), ["text"]))

    return {
        duplicate.document: (
            duplicate.reason,
            f"of {known.ids[duplicate.kept].decode()}, similarity {duplicate.similarity:.3f}",
        )
        for duplicate in find_duplicates(known, texts, config, work)
    }


def shingles(text: str) -> Hashes:
    """The set of a text's shingles, sorted; a text of fewer words is one shingle."""
    hashes = hash_words(text).hashes
    return np.unique(hash_ngrams(hashes, min(_SHINGLE_WORDS, max(1, len(hashes)))))


def sign(ids: list[str], texts: list[str], config: DedupConfig) -> Signatures:
    """The signatures of a batch of documents."""
    contents = b"".join(hashlib.blake2b(text.encode("utf-8", "replace"), digest_size=16).digest() for text in texts)
    sets = [shingles(text) for text in texts] if config.near else []
    return Signatures(
        np.array(ids, "S32"),
        np.array([len(text) for text in texts], np.int64),
        np.frombuffer(contents, "<u8").reshape(len(texts), 2),
        _bands(sets, config.threshold) if config.near else np.empty((len(texts), 0), np.uint64),
    )


def concatenated(signatures: list[Signatures]) -> Signatures:
    """The signatures of several batches, one after the other; at least one."""
    return Signatures(*(np.concatenate(column) for column in zip(*signatures, strict=True)))


def _bands(sets: list[Hashes], threshold: float) -> Hashes:
    offsets = np.cumsum([0, *map(len, sets)], dtype=np.uint64)
    flat = np.concatenate([*sets, np.empty(0, np.uint64)])
    matrix = RMinHash.digest_matrix_from_flat_token_hashes(flat, offsets, PERMUTATIONS, _SEED)
    minima = np.array(matrix.to_rows(), np.uint64).reshape(len(sets), PERMUTATIONS)
    rows = rows_per_band(threshold)
    bands = minima[:, : PERMUTATIONS - PERMUTATIONS % rows].reshape(-1, rows)
    return hash_rows(bands).reshape(len(sets), PERMUTATIONS // rows)


def rows_per_band(threshold: float) -> int:
    """The most rows a band may have to still find `_RECALL` of the pairs that are just at the threshold."""
    rows = 1
    while 1 - (1 - threshold ** (rows + 1)) ** (PERMUTATIONS // (rows + 1)) >= _RECALL and rows < 32:
        rows += 1
    return rows


def find_duplicates(
    signatures: Signatures, texts: Callable[[list[int]], Iterable[str]], config: DedupConfig, work: Path
) -> list[Duplicate]:
    """All documents to drop, ordered by position.

    Args:
        signatures: of all documents.
        texts: yields the texts at ascending positions.
        config: which duplicates are dropped.
        work: a folder for the shingles of near-duplicate candidates, and only theirs, while they are compared.
    """
    order = np.lexsort((signatures.ids, -signatures.lengths))  # best first
    rank = np.empty_like(order)
    rank[order] = np.arange(len(order))
    duplicates = list(_exact_duplicates(signatures.contents, rank)) if config.exact else []
    if config.near:
        alive = np.ones(len(order), bool)
        alive[[duplicate.document for duplicate in duplicates]] = False
        buckets = _shared_buckets(signatures.bands, alive)
        candidates = sorted(buckets)
        with _ShingleFile(work / "shingles.bin", candidates, texts(candidates)) as sets:
            duplicates += _near_duplicates(buckets, rank, sets, config.threshold)
    return sorted(duplicates)


def _exact_duplicates(contents: Hashes, rank: NDArray[np.intp]) -> Iterator[Duplicate]:
    by_content = np.lexsort((rank, contents[:, 1], contents[:, 0]))
    sorted_contents = contents[by_content]
    same = np.append(False, (sorted_contents[1:] == sorted_contents[:-1]).all(axis=1))
    first = 0
    for place, position in enumerate(by_content.tolist()):
        if same[place]:
            yield Duplicate(position, first, "duplicate", 1.0)
        else:
            first = position


def _near_duplicates(
    buckets: dict[int, list[Bucket]], rank: NDArray[np.intp], sets: _ShingleFile, threshold: float
) -> Iterator[Duplicate]:
    kept: dict[Bucket, list[int]] = {}  # documents kept so far
    for document in sorted(buckets, key=lambda position: rank[position]):
        rivals = {rival for bucket in buckets[document] for rival in kept.get(bucket, ())}
        for rival in sorted(rivals, key=lambda position: rank[position]):
            similarity = _jaccard(sets[document], sets[rival], threshold)
            if similarity >= threshold:
                yield Duplicate(document, rival, "near-duplicate", similarity)
                break
        else:
            for bucket in buckets[document]:
                kept.setdefault(bucket, []).append(document)


def _shared_buckets(bands: Hashes, alive: NDArray[np.bool_]) -> dict[int, list[Bucket]]:
    """For each document that shares a band with another: the buckets that it is in."""
    buckets: dict[int, list[Bucket]] = {}
    documents = np.flatnonzero(alive)
    for band in range(bands.shape[1]):
        numbers, counts = np.unique(bands[documents, band], return_inverse=True, return_counts=True)[1:]
        for place in np.flatnonzero(counts[numbers] > 1).tolist():
            buckets.setdefault(int(documents[place]), []).append((band, int(numbers[place])))
    return buckets


def _jaccard(first: Hashes, second: Hashes, threshold: float) -> float:
    """The similarity of two sets; 0 where their sizes tell already that it is below the threshold."""
    small, large = sorted((len(first), len(second)))
    if small < threshold * large:
        return 0.0  # even if one contained the other
    common = len(np.intersect1d(first, second, assume_unique=True))
    return common / (small + large - common)


class _ShingleFile:
    """Sets of shingles on disk, memory-mapped: candidates may be many."""

    def __init__(self, path: Path, documents: list[int], texts: Iterable[str]) -> None:
        self._path = path
        self._places: dict[int, tuple[int, int]] = {}
        end = 0
        with path.open("wb") as file:
            for document, text in zip(documents, texts, strict=True):
                hashes = shingles(text)
                file.write(hashes.astype("<u8").tobytes())
                self._places[document] = (end, end + len(hashes))
                end += len(hashes)
        self._hashes: NDArray[Any] = np.memmap(path, "<u8", "r") if end else np.empty(0, np.uint64)

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self._path.unlink()

    def __getitem__(self, document: int) -> Hashes:
        first, last = self._places[document]
        return np.asarray(self._hashes[first:last])
