"""Exact and near-duplicate documents, and which one of each group is kept.

Two documents are near-duplicates if the Jaccard similarity of their sets of shingles (5-word n-grams) reaches the
threshold. MinHash signatures (Broder 1997) cut into bands (locality-sensitive hashing: Leskovec et al., Mining of
Massive Datasets, 2014, ch. 3) find the candidates; every candidate pair is then verified on the sets themselves, so
that no document is dropped on a hash's word.

Of duplicates the longest is kept, of equally long ones the one with the smallest id: the choice does not depend on the
order of the documents. Going from the best document to the worst, one is dropped if it resembles a document that was
kept; so everything dropped has a near-duplicate in the corpus, and no two kept candidates resemble each other.

Signatures lie on disk, a file for each column, and are compared one column at a time: memory holds 40 bytes a document,
and 100 for one that shares a band with another. The sets of these are on disk too.
"""

from __future__ import annotations

import hashlib
import os
import shutil
from array import array
from collections.abc import Callable, Iterable, Iterator, Sequence
from itertools import pairwise
from pathlib import Path
from types import TracebackType
from typing import Any, NamedTuple, Self

import numpy as np
from numpy.typing import NDArray
from rensa import RMinHash

from scraping.corpus.config import DedupConfig
from scraping.corpus.hashing import Hashes, hash_ngrams, hash_words
from scraping.corpus.kernels.buckets import Kept, add_document, find_rivals
from scraping.corpus.kernels.words import count_common, hash_rows
from scraping.corpus.ranges import RangeFile
from textmill.files import atomic_path
from textmill.progress import Progress

PERMUTATIONS = 128
_SEED = 42
_SHINGLE_WORDS = 5
_RECALL = 0.99
_SIGNED_TOGETHER = 256  # texts whose shingles are in memory at once
_CHUNK = 1 << 20  # documents whose buckets are in memory at once

Places = NDArray[np.int64]
Texts = Callable[[Places], Iterable[str]]


class Signatures(NamedTuple):
    """What duplicate search needs to know of each document; all arrays have one row a document."""

    ids: NDArray[np.bytes_]  # S32: hexadecimal
    lengths: Places  # characters
    contents: Hashes  # [documents, 2]: BLAKE2b-128 of the text
    bands: Hashes  # [documents, bands]: equal in some column for near-duplicates


DUPLICATES = np.dtype(
    [
        ("document", np.int64),  # to drop: its position in all documents together
        ("kept", np.int64),  # in its place
        ("kept_id", "S32"),
        ("is_exact", np.bool_),
        ("similarity", np.float64),
    ]
)


def deduplicate(
    documents: list[Path], signatures: list[Path], config: DedupConfig, work: Path, progress: Progress
) -> Path:
    """Write the documents to drop to a file in `work`: DUPLICATES, sorted by position, as .npy.

    Args:
        documents: files of ranges.
        signatures: what `sign` made of each, as `save_signatures` wrote it.
        config: which duplicates are dropped.
        work: a folder.
        progress: hears when this begins.
    """
    found = work / "duplicates.npy"
    if found.exists():
        return found
    known = SignatureColumns(signatures, work / "signatures")
    progress(0, known.count, unit="documents", phase="removing duplicates")

    def texts(places: Places) -> Iterator[str]:
        for path, (start, end) in zip(documents, pairwise(known.starts), strict=True):
            inside = places[np.searchsorted(places, start) : np.searchsorted(places, end)] - start
            if len(inside):
                with RangeFile(path, ["text"]) as file:
                    yield from (row["text"] for row in file.rows(inside))

    duplicates = find_duplicates(known, texts, config, work)
    with atomic_path(found) as unfinished, unfinished.open("wb") as file:
        np.save(file, duplicates)
    known.remove()
    return found


def shingles(text: str) -> Hashes:
    """The set of a text's shingles, sorted; a text of fewer words is one shingle."""
    return np.unique(_shingle_hashes(text))


def _shingle_hashes(text: str) -> Hashes:
    hashes = hash_words(text).hashes
    return hash_ngrams(hashes, min(_SHINGLE_WORDS, max(1, len(hashes))))


def sign(ids: list[str], texts: list[str], config: DedupConfig) -> Signatures:
    """The signatures of a batch of documents."""
    contents = b"".join(hashlib.blake2b(text.encode("utf-8", "replace"), digest_size=16).digest() for text in texts)
    return Signatures(
        np.array(ids, "S32"),
        np.array([len(text) for text in texts], np.int64),
        np.frombuffer(contents, "<u8").reshape(len(texts), 2),
        _bands(texts, config.threshold) if config.near else np.empty((len(texts), 0), np.uint64),
    )


def save_signatures(path: Path, signatures: Signatures) -> None:
    """Write the signatures of a batch to an .npz file, atomically."""
    with atomic_path(path) as unfinished, unfinished.open("wb") as file:
        np.savez(file, **signatures._asdict())


def load_signatures(path: Path) -> Signatures:
    """What `save_signatures` wrote."""
    with np.load(path) as arrays:
        return Signatures(**arrays)


def load_duplicates(path: Path) -> NDArray[np.void]:
    """What `deduplicate` wrote, mapped."""
    return np.load(path, mmap_mode="r")


def _bands(texts: list[str], threshold: float) -> Hashes:
    rows = rows_per_band(threshold)
    result = np.empty((len(texts), PERMUTATIONS // rows), np.uint64)
    for first in range(0, len(texts), _SIGNED_TOGETHER):
        sets = [_shingle_hashes(text) for text in texts[first : first + _SIGNED_TOGETHER]]
        offsets = np.cumsum([0, *map(len, sets)], dtype=np.uint64)
        matrix = RMinHash.digest_matrix_from_flat_token_hashes(np.concatenate(sets), offsets, PERMUTATIONS, _SEED)
        minima = np.array(matrix.to_rows(), np.uint64)[:, : PERMUTATIONS - PERMUTATIONS % rows]
        result[first : first + len(sets)] = hash_rows(minima.reshape(-1, rows)).reshape(len(sets), -1)
    return result


def rows_per_band(threshold: float) -> int:
    """The most rows a band may have to still find `_RECALL` of the pairs that are just at the threshold."""
    rows = 1
    while 1 - (1 - threshold ** (rows + 1)) ** (PERMUTATIONS // (rows + 1)) >= _RECALL and rows < 32:
        rows += 1
    return rows


class SignatureColumns:
    """The signatures of all documents, as a file for each column: what is asked for is read, and kept by the caller.

    Args:
        parts: the signatures of batches, as `save_signatures` wrote them.
        folder: for the files; emptied first.
    """

    def __init__(self, parts: Sequence[Path], folder: Path) -> None:
        shutil.rmtree(folder, ignore_errors=True)
        folder.mkdir()
        self._folder = folder
        self.bands = 0
        self.starts = [0]  # of each part; the number of all documents
        for part in parts:
            signatures = load_signatures(part)
            self.starts.append(self.starts[-1] + len(signatures.ids))
            self.bands = signatures.bands.shape[1]
            bands = {f"band{number}": signatures.bands[:, number] for number in range(self.bands)}
            columns = {"ids": signatures.ids, "lengths": signatures.lengths, "contents": signatures.contents, **bands}
            for name, column in columns.items():
                with (folder / name).open("ab") as file:
                    file.write(np.ascontiguousarray(column).tobytes())

    @property
    def count(self) -> int:
        """How many documents there are."""
        return self.starts[-1]

    def ids(self, places: Places) -> NDArray[np.bytes_]:
        """Ids of some documents."""
        return self._values("ids", "S32")[places]

    def lengths(self) -> Places:
        """Characters of all documents."""
        return self._values("lengths", np.int64)

    def contents(self) -> Hashes:
        """BLAKE2b-128 of all texts: [documents, 2]."""
        return self._values("contents", np.uint64).reshape(-1, 2)

    def band(self, number: int) -> Hashes:
        """One band of all documents."""
        return self._values(f"band{number}", np.uint64)

    def remove(self) -> None:
        """Delete the files."""
        shutil.rmtree(self._folder)

    def _values(self, name: str, dtype: str | type) -> NDArray[Any]:
        path = self._folder / name
        return np.memmap(path, dtype, "r") if self.count else np.empty(0, dtype)


def find_duplicates(signatures: SignatureColumns, texts: Texts, config: DedupConfig, work: Path) -> NDArray[np.void]:
    """All documents to drop, ordered by position: DUPLICATES[duplicates].

    Args:
        signatures: of all documents.
        texts: yields the texts at ascending positions.
        config: which duplicates are dropped.
        work: a folder for the shingles of near-duplicate candidates, and only theirs, while they are compared.
    """
    found = [_exact_duplicates(signatures)] if config.exact else []
    if config.near:
        alive = np.ones(signatures.count, np.bool_)
        for duplicates in found:
            alive[duplicates["document"]] = False
        found.append(_near_duplicates(signatures, alive, texts, config.threshold, work))
    duplicates = np.concatenate([np.empty(0, DUPLICATES), *found])
    duplicates["kept_id"] = signatures.ids(duplicates["kept"])
    return duplicates[np.argsort(duplicates["document"])]


def _exact_duplicates(signatures: SignatureColumns) -> NDArray[np.void]:
    contents = signatures.contents()
    order = np.argsort(contents[:, 0], kind="stable")
    firsts = contents[order, 0]
    shared = np.flatnonzero(_has_equal_neighbor(firsts))  # by half a hash: hardly any that is not equal by the whole
    places = order[shared]
    halves, ids = contents[places], signatures.ids(places)
    by_content = np.lexsort((ids, halves[:, 1], halves[:, 0]))  # equal texts are equally long: the smallest id is kept
    places, halves = places[by_content], halves[by_content]
    same = np.append(np.zeros(min(1, len(places)), np.bool_), (halves[1:] == halves[:-1]).all(axis=1))
    leaders = np.maximum.accumulate(np.where(same, 0, np.arange(len(places))))
    result = np.zeros(int(same.sum()), DUPLICATES)
    result["document"], result["kept"] = places[same], places[leaders[same]]
    result["is_exact"], result["similarity"] = True, 1.0
    return result


def _near_duplicates(
    signatures: SignatureColumns, alive: NDArray[np.bool_], texts: Texts, threshold: float, work: Path
) -> NDArray[np.void]:
    buckets = work / "buckets"
    candidates, total = _write_buckets(signatures, alive, buckets)
    lengths = signatures.lengths()[candidates]
    best_first = np.lexsort((signatures.ids(candidates), -lengths))
    found: list[tuple[int, int, float]] = []
    with _ShingleFile(work / "shingles.bin", texts(candidates)) as sets:
        kept = Kept.empty(total)
        for first in range(0, len(candidates), _CHUNK):
            chunk = best_first[first : first + _CHUNK]
            columns = [np.fromfile(buckets / str(band), np.int32)[chunk] for band in range(signatures.bands)]
            table = np.stack(columns, axis=1) if columns else np.empty((len(chunk), 0), np.int32)
            for candidate, row in zip(chunk.tolist(), table, strict=True):
                own = sets[candidate]
                for place in find_rivals(kept, row).tolist():
                    rival = int(kept.documents[place])
                    similarity = _jaccard(own, sets[rival], threshold)
                    if similarity >= threshold:
                        found.append((candidate, rival, similarity))
                        break
                else:
                    kept = add_document(kept, row, candidate)
    shutil.rmtree(buckets)
    result = np.zeros(len(found), DUPLICATES)
    if found:
        dropped, rivals, similarities = zip(*found, strict=True)
        result["document"], result["kept"] = candidates[list(dropped)], candidates[list(rivals)]
        result["similarity"] = similarities
    return result


def _write_buckets(signatures: SignatureColumns, alive: NDArray[np.bool_], folder: Path) -> tuple[Places, int]:
    """The documents that share a band with another, and the number of buckets: groups of documents with equal bands.

    `folder` gets a file for each band: the bucket of each of these documents, or -1; int32.
    """
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir()
    documents = np.flatnonzero(alive)
    is_candidate = np.zeros(signatures.count, np.bool_)
    total = 0
    for band in range(signatures.bands):
        values = signatures.band(band)[documents]
        order = np.argsort(values, kind="stable")
        values = values[order]
        shared = np.flatnonzero(_has_equal_neighbor(values))
        members, values = documents[order[shared]], values[shared]
        is_first = np.append(np.ones(min(1, len(values)), np.bool_), values[1:] != values[:-1])
        is_candidate[members] = True
        np.save(folder / f"members{band}.npy", members)
        np.save(folder / f"numbers{band}.npy", (total - 1 + np.cumsum(is_first)).astype(np.int32))
        total += int(is_first.sum())
    candidates = np.flatnonzero(is_candidate)
    for band in range(signatures.bands):
        buckets = np.full(len(candidates), -1, np.int32)
        places = np.searchsorted(candidates, np.load(folder / f"members{band}.npy"))
        buckets[places] = np.load(folder / f"numbers{band}.npy")
        buckets.tofile(folder / str(band))
    return candidates, total


def _has_equal_neighbor(values: Hashes) -> NDArray[np.bool_]:
    """Which of some sorted values occur more than once."""
    equal = values[1:] == values[:-1]
    result = np.zeros(len(values), np.bool_)
    result[1:] |= equal
    result[:-1] |= equal
    return result


def _jaccard(first: Hashes, second: Hashes, threshold: float) -> float:
    """The similarity of two sorted sets; 0 where their sizes tell already that it is below the threshold."""
    small, large = sorted((len(first), len(second)))
    if small < threshold * large:
        return 0.0  # even if one contained the other
    common = count_common(first, second)
    return common / (small + large - common)


class _ShingleFile:
    """Sets of shingles on disk, by the number of the text: candidates may be many."""

    def __init__(self, path: Path, texts: Iterable[str]) -> None:
        self._path = path
        ends = array("q", [0])
        with path.open("wb") as file:
            for text in texts:
                hashes = shingles(text)
                file.write(hashes.tobytes())
                ends.append(ends[-1] + hashes.nbytes)
        self._ends = np.frombuffer(ends, np.int64)
        self._file = path.open("rb")

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self._file.close()
        self._path.unlink()

    def __getitem__(self, number: int) -> Hashes:
        first, end = self._ends[number : number + 2].tolist()
        return np.frombuffer(os.pread(self._file.fileno(), end - first, first), np.uint64)
