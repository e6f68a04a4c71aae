"""Exact and near-duplicate documents, and which one of each group is kept.

Two documents are near-duplicates if the Jaccard similarity of their sets of 5-word runs reaches the threshold. MinHash
signatures cut into bands (Broder 1997; Leskovec et al., Mining of Massive Datasets, ch. 3) find the candidates; every
candidate pair is then verified on the sets themselves, so that no document is dropped on a hash's word.

Of duplicates the longest is kept, of equally long ones the one with the smallest id: the choice does not depend on the
order of the documents. Going from the best document to the worst, one is dropped if it resembles a document that was
kept; so everything dropped has a near-duplicate in the corpus, and no two kept candidates resemble each other.
"""

import hashlib
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from typing import NamedTuple

import numpy as np
from pydantic import BaseModel, Field
from rensa import RMinHash

from scraping.corpus.hashing import ngrams, words

PERMUTATIONS = 128
_SEED = 42
_RUN = 5
_RECALL = 0.99


class DedupConfig(BaseModel, extra="forbid"):
    exact: bool = Field(True, description="Drop documents with the same text as another")
    near: bool = Field(True, description="Drop documents that resemble another")
    threshold: float = Field(
        0.8, gt=0.3, le=1, description="Jaccard similarity of 5-word runs from which on two documents count as the same"
    )


class Fingerprints(NamedTuple):
    """What duplicate search needs to know of each document; all arrays have one row a document."""

    ids: np.ndarray  # bytes, S32: hexadecimal
    lengths: np.ndarray  # int64, characters
    contents: np.ndarray  # uint64 [documents, 2]: BLAKE2b-128 of the text
    bands: np.ndarray  # uint64 [documents, bands]: equal in some column for near-duplicates


class Duplicate(NamedTuple):
    """A document to drop, by position, and the one that is kept in its place."""

    document: int
    kept: int
    reason: str  # duplicate, near-duplicate
    similarity: float


def shingles(text: str) -> np.ndarray:
    """The set of a text's 5-word runs as sorted uint64 hashes; a shorter text is one run."""
    hashes = words(text).hashes
    return np.unique(ngrams(hashes, min(_RUN, max(1, len(hashes)))))


def fingerprint(ids: list[str], texts: list[str], config: DedupConfig) -> Fingerprints:
    """Fingerprints of a batch of documents."""
    contents = b"".join(hashlib.blake2b(text.encode("utf-8", "replace"), digest_size=16).digest() for text in texts)
    sets = [shingles(text) for text in texts] if config.near else []
    return Fingerprints(
        np.array(ids, "S32"),
        np.array([len(text) for text in texts], np.int64),
        np.frombuffer(contents, "<u8").reshape(len(texts), 2),
        _bands(sets, config.threshold) if config.near else np.empty((len(texts), 0), np.uint64),
    )


def _bands(sets: list[np.ndarray], threshold: float) -> np.ndarray:
    offsets = np.cumsum([0, *map(len, sets)], dtype=np.uint64)
    flat = np.concatenate([*sets, np.empty(0, np.uint64)])
    matrix = RMinHash.digest_matrix_from_flat_token_hashes(flat, offsets, PERMUTATIONS, _SEED)
    signatures = np.array(matrix.to_rows(), np.uint64).reshape(len(sets), PERMUTATIONS)
    rows = rows_per_band(threshold)
    columns = [ngrams(signatures[:, i : i + rows].T, rows)[0] for i in range(0, PERMUTATIONS - rows + 1, rows)]
    return np.stack(columns, axis=1)


def rows_per_band(threshold: float) -> int:
    """The most rows a band may have to still find `_RECALL` of the pairs that are just at the threshold."""
    rows = 1
    while 1 - (1 - threshold ** (rows + 1)) ** (PERMUTATIONS // (rows + 1)) >= _RECALL and rows < 32:
        rows += 1
    return rows


def find_duplicates(
    prints: Fingerprints, texts: Callable[[list[int]], Iterable[str]], config: DedupConfig, workdir: Path
) -> list[Duplicate]:
    """All documents to drop, ordered by position.

    `texts(positions)` yields the texts at the (ascending) positions. The word runs of near-duplicate candidates, and
    only theirs, are kept in a file in `workdir` while they are compared.
    """
    order = np.lexsort((prints.ids, -prints.lengths))  # best first
    rank = np.empty_like(order)
    rank[order] = np.arange(len(order))
    duplicates = list(_exact(prints, rank)) if config.exact else []
    if config.near:
        gone = np.zeros(len(order), bool)
        gone[[duplicate.document for duplicate in duplicates]] = True
        duplicates += _near(prints, order, rank, gone, texts, config.threshold, workdir)
    return sorted(duplicates)


def _exact(prints: Fingerprints, rank: np.ndarray) -> Iterator[Duplicate]:
    by_content = np.lexsort((rank, prints.contents[:, 1], prints.contents[:, 0]))
    sorted_contents = prints.contents[by_content]
    same = np.append(False, (sorted_contents[1:] == sorted_contents[:-1]).all(axis=1))
    first = 0
    for place, position in enumerate(by_content.tolist()):
        if same[place]:
            yield Duplicate(position, first, "duplicate", 1.0)
        else:
            first = position


def _near(prints, order, rank, gone, texts, threshold: float, workdir: Path) -> Iterator[Duplicate]:
    buckets = _shared_buckets(prints.bands, gone)
    candidates = sorted(buckets)
    with _ShingleFile(workdir / "shingles.bin", candidates, texts(candidates)) as sets:
        kept: dict[tuple[int, int], list[int]] = {}  # bucket → documents kept so far
        for document in sorted(candidates, key=lambda position: rank[position]):
            rivals = {rival for bucket in buckets[document] for rival in kept.get(bucket, ())}
            for rival in sorted(rivals, key=lambda position: rank[position]):
                similarity = _jaccard(sets[document], sets[rival], threshold)
                if similarity >= threshold:
                    yield Duplicate(document, rival, "near-duplicate", similarity)
                    break
            else:
                for bucket in buckets[document]:
                    kept.setdefault(bucket, []).append(document)


def _shared_buckets(bands: np.ndarray, gone: np.ndarray) -> dict[int, list[tuple[int, int]]]:
    """For each document that shares a band with another: the buckets it is in, as (band, bucket number)."""
    buckets: dict[int, list[tuple[int, int]]] = {}
    alive = np.flatnonzero(~gone)
    for band in range(bands.shape[1]):
        numbers, counts = np.unique(bands[alive, band], return_inverse=True, return_counts=True)[1:]
        for place in np.flatnonzero(counts[numbers] > 1).tolist():
            buckets.setdefault(int(alive[place]), []).append((band, int(numbers[place])))
    return buckets


def _jaccard(first: np.ndarray, second: np.ndarray, threshold: float) -> float:
    small, large = sorted((len(first), len(second)))
    if small < threshold * large:
        return 0.0  # even if one contained the other
    common = len(np.intersect1d(first, second, assume_unique=True))
    return common / (small + large - common)


class _ShingleFile:
    """Sets of word runs on disk, memory-mapped: candidates may be many."""

    def __init__(self, path: Path, documents: list[int], texts: Iterable[str]):
        self._path = path
        self._places: dict[int, tuple[int, int]] = {}
        end = 0
        with path.open("wb") as file:
            for document, text in zip(documents, texts, strict=True):
                runs = shingles(text)
                file.write(runs.astype("<u8").tobytes())
                self._places[document] = (end, end + len(runs))
                end += len(runs)
        self._runs = np.memmap(path, "<u8", "r") if end else np.empty(0, np.uint64)

    def __enter__(self):
        return self

    def __exit__(self, *_):
        self._path.unlink()

    def __getitem__(self, document: int) -> np.ndarray:
        first, last = self._places[document]
        return np.asarray(self._runs[first:last])
