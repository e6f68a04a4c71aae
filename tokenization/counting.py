"""Count the words of a corpus, shard by shard, in parallel; a killed count continues after its finished shards."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from concurrent.futures import FIRST_EXCEPTION, wait
from functools import partial
from pathlib import Path
from threading import Lock

import numpy as np

from textmill.kept import KeptWork, Made
from textmill.mapping import Executor, Threads
from textmill.progress import Progress
from tokenization.config import TokenizerConfig
from tokenization.kernels.scanner import Scanner
from tokenization.kernels.word_counts import WordCounts
from tokenization.patterns import Pattern, portable_pattern
from tokenization.text import BATCH_BYTES, Documents, check_listed, look_at, read_shard, shards

__all__ = ["count_corpus", "count_words", "load_counts", "save_counts"]

COUNTS = "counts.npz"  # of one shard


def count_words(batches: Iterable[Documents], pattern: Pattern, threads: int = 1) -> WordCounts:
    """How often every word of these documents occurs; the same whatever the number of threads.

    Raises:
        UserError: a regular expression leaves out a part of a document.
    """
    slices = _Shared(part for documents in batches for part in documents.slices(BATCH_BYTES))
    with Threads(threads) as pool:
        counts = [pool.submit(_count, slices, pattern) for _ in range(threads)]
        try:
            wait(counts, return_when=FIRST_EXCEPTION)
        finally:
            slices.end()
        total, *others = [count.result() for count in counts]
    for other in others:
        total.update(other)
    return total


class _Shared:
    """An iterator that threads take from in turn; the thread that takes an item is the one that makes it."""

    def __init__(self, items: Iterable[Documents]) -> None:
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


def _count(slices: Iterable[Documents], pattern: Pattern) -> WordCounts:
    scanner = Scanner(pattern)
    counts = WordCounts()
    for documents in slices:
        start = int(documents.offsets[0])
        for ends in scanner.blocks(documents.text, documents.offsets):
            counts.add(documents.text, start, ends)
            start = int(ends[-1])
    return counts


def count_corpus(
    corpus: Path, config: TokenizerConfig, work: KeptWork, progress: Progress, executor: Executor
) -> WordCounts:
    """Word counts of corpus/train-*.parquet.

    `work` keeps the count of every finished shard, where a run that continues a killed one finds it.

    Raises:
        UserError: there are no shards, one cannot be read, a regular expression leaves out a part of it, or the corpus
            changed meanwhile.
    """
    every = shards(corpus, "train")
    pattern = portable_pattern(config.pattern)
    count = partial(_count_shard, pattern=pattern, threads=executor.threads(config.threads))
    total = WordCounts()
    progress(0, len(every), unit="shards", phase="counting words", words=0)
    for shard in every:
        look_at(shard)  # what cannot be read is said before an hour of counting, not after it
    counted = work.map(count, every, executor)
    for done, piece in enumerate(counted, 1):
        counts = load_counts(piece.folder / COUNTS)
        total.update(counts) if done > 1 else (total := counts)
        progress(done, len(every), unit="shards", phase="counting words", words=len(total))
    check_listed(corpus, "train", every)
    return total


def _count_shard(shard: Path, folder: Path, *, pattern: Pattern, threads: int) -> Made:
    """Count the words of one shard by `threads` threads."""
    save_counts(count_words(read_shard(shard), pattern, threads), folder / COUNTS)
    return Made()


def save_counts(counts: WordCounts, path: Path) -> None:
    """Write counts as arrays: data uint8 [bytes], offsets int64 [words + 1], counts int64 [words]."""
    data, offsets, numbers = counts.unpack()
    with path.open("wb") as file:
        np.savez(file, data=data, offsets=offsets, counts=numbers)


def load_counts(path: Path) -> WordCounts:
    """The counts that `save_counts` wrote."""
    with np.load(path, allow_pickle=False) as saved:
        return WordCounts.of(saved["data"], saved["offsets"], saved["counts"])
