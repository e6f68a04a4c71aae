"""Count the words of a corpus, in parallel threads, shard by shard; a killed count continues at its last shard."""

from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from queue import SimpleQueue

import numpy as np

from tokenization.patterns import Pattern
from tokenization.scanner import Scanner
from tokenization.text import BATCH_BYTES, Documents, read_shard
from tokenization.words import WordCounts


def count_words(batches: Iterable[Documents], pattern: Pattern, threads: int = 1) -> WordCounts:
    """How often every word of these documents occurs; the same whatever the number of threads."""
    pieces = _pieces(batches, BATCH_BYTES // 4)
    if threads == 1:
        return _count(pieces, pattern)
    queue: SimpleQueue[Documents | None] = SimpleQueue()
    room: SimpleQueue[None] = SimpleQueue()
    for _ in range(4 * threads):  # so many pieces may wait: reading runs ahead a little, memory stays bounded
        room.put(None)

    def waiting() -> Iterator[Documents]:
        while (piece := queue.get()) is not None:
            yield piece
            room.put(None)

    with ThreadPoolExecutor(threads) as pool:
        counts = [pool.submit(_count, waiting(), pattern) for _ in range(threads)]
        try:
            for piece in pieces:
                room.get()
                queue.put(piece)
        finally:
            for _ in range(threads):
                queue.put(None)
        total, *others = [count.result() for count in counts]
    for other in others:
        total.update(other)
    return total


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
    shards: list[Path], pattern: Pattern, threads: int, work: Path, progress: Callable[..., None]
) -> WordCounts:
    """Word counts of Parquet shards. The count of every finished shard is kept in `work`, and found there again."""
    work.mkdir(parents=True, exist_ok=True)
    total = WordCounts()
    for done, shard in enumerate(shards):
        progress(done, len(shards), unit="shards", step="counting words", words=len(total))
        kept = work / f"{shard.stem}.npz"
        if kept.exists():
            total.update(load_counts(kept))
            continue
        counts = count_words(read_shard(shard), pattern, threads)
        if len(shards) > 1:
            save_counts(counts, kept)
        total.update(counts) if len(total) else (total := counts)
    progress(len(shards), len(shards), unit="shards", step="counting words", words=len(total))
    return total


def save_counts(counts: WordCounts, path: Path) -> None:
    data, offsets, numbers = counts.unpack()
    unfinished = path.with_suffix(".tmp")
    with unfinished.open("wb") as file:
        np.savez(file, data=data, offsets=offsets, counts=numbers)
    unfinished.rename(path)


def load_counts(path: Path) -> WordCounts:
    with np.load(path, allow_pickle=False) as saved:
        return WordCounts.of(saved["data"], saved["offsets"], saved["counts"])
