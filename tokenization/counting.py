"""Count the words of a corpus, shard by shard, in parallel; a killed count continues after its finished shards."""

from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import FIRST_EXCEPTION, ThreadPoolExecutor, wait
from functools import partial
from pathlib import Path
from threading import Lock
from zipfile import BadZipFile, ZipFile

import numpy as np

from tokenization.kernels.scanner import Scanner
from tokenization.kernels.word_counts import WordCounts
from tokenization.patterns import Pattern
from tokenization.shard_writer import sync, whole_files
from tokenization.text import BATCH_BYTES, Documents, read_shard


def count_words(batches: Iterable[Documents], pattern: Pattern, threads: int = 1) -> WordCounts:
    """How often every word of these documents occurs; the same whatever the number of threads.

    Raises `UserError` if a regular expression leaves out a part of a document.
    """
    pieces = _Shared(_pieces(batches, BATCH_BYTES // 4))
    with ThreadPoolExecutor(threads) as pool:
        counts = [pool.submit(_count, pieces, pattern) for _ in range(threads)]
        try:
            wait(counts, return_when=FIRST_EXCEPTION)
        finally:
            pieces.end()
        total, *others = [count.result() for count in counts]
    for other in others:
        total.update(other)
    return total


class _Shared:
    """An iterator that threads take from in turn; the one that takes an item is the one that makes it."""

    def __init__(self, items: Iterable[Documents]):
        self._items, self._lock = iter(items), Lock()

    def __iter__(self) -> Iterator[Documents]:
        return self

    def __next__(self) -> Documents:
        with self._lock:
            return next(self._items)

    def end(self) -> None:
        """Have no more items."""
        with self._lock:
            self._items = iter(())


def _pieces(batches: Iterable[Documents], size: int) -> Iterator[Documents]:
    for documents in batches:
        yield from documents.slices(size)


def _count(pieces: Iterable[Documents], pattern: Pattern) -> WordCounts:
    scanner = Scanner(pattern)
    words = WordCounts()
    for piece in pieces:
        start = int(piece.offsets[0])
        for ends in scanner.blocks(piece.text, piece.offsets):
            words.add(piece.text, start, ends)
            start = int(ends[-1])
    return words


def count_shards(
    shards: list[Path],
    pattern: Pattern,
    threads: int,
    work: Path,
    progress: Callable[..., None],
    map_shards: Callable[..., Iterator] | None = None,
) -> WordCounts:
    """Word counts of Parquet shards. The count of every finished shard is kept in `work`, and found there again.

    Given `map_shards(function, items)`, which works like the builtin `map`, each shard is counted by one call of it, in
    one thread; otherwise `threads` share each shard.
    """
    work.mkdir(parents=True, exist_ok=True)
    kept = {path.stem for path in work.glob("*.npz") if _is_whole(path)}
    missing = [shard for shard in shards if shard.stem not in kept]
    counted = map_shards(partial(_count_alone, pattern=pattern, work=work), missing) if map_shards else None
    total = WordCounts()
    for done, shard in enumerate(shards):
        progress(done, len(shards), unit="shards", phase="counting words", words=len(total))
        if shard.stem in kept:
            counts = load_counts(_kept(work, shard))
        elif counted:
            counts = load_counts(next(counted))
        else:
            counts = count_words(read_shard(shard), pattern, threads)
            if len(shards) > 1:
                save_counts(counts, _kept(work, shard))
        total.update(counts) if len(total) else (total := counts)
    progress(len(shards), len(shards), unit="shards", phase="counting words", words=len(total))
    return total


def _count_alone(shard: Path, pattern: Pattern, work: Path) -> Path:
    """Count one shard in one thread and keep its count; what a mapped call does."""
    save_counts(count_words(read_shard(shard), pattern), _kept(work, shard))
    return _kept(work, shard)


def _kept(work: Path, shard: Path) -> Path:
    return work / f"{shard.stem}.npz"


def _is_whole(path: Path) -> bool:
    """Whether kept counts can be read: a damaged file is counted anew."""
    try:
        with ZipFile(path) as file:
            return file.testzip() is None
    except (BadZipFile, EOFError):
        return False


def save_counts(counts: WordCounts, path: Path) -> None:
    data, offsets, numbers = counts.unpack()
    with whole_files(path.parent, path, "npz") as (unfinished,), unfinished.open("wb") as file:
        np.savez(file, data=data, offsets=offsets, counts=numbers)
    sync(path.parent, path.name)


def load_counts(path: Path) -> WordCounts:
    with np.load(path, allow_pickle=False) as saved:
        return WordCounts.of(saved["data"], saved["offsets"], saved["counts"])
