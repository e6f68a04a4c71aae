"""How often every word of a text occurs.

Plain Python: `collections.Counter(words)`, to which the tests compare it.

Most words of a text are among a few thousand, whose entries a table scatters over more memory than a core's cache
holds. So words are counted in chunks, in two passes: the first makes the key of every word and asks for its entry, the
second finds the entries there and adds to their counts. Where a word is not in the first entry that is looked at, which
happens to one in thirty, the processor has guessed wrong, and goes on from a key that is ready.
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np

from textmill.kernels.jit import inlined, kernel, load8, load64, prefetch, store8, store64
from tokenization.kernels.word_table import (
    FIFTY_SIX,
    HASH,
    INLINE,
    K1,
    LONG_VALUE,
    ONE,
    VALUE,
    LongKey,
    ShortKey,
    WordTable,
    bytes_of,
    empty_slots,
    enter_long,
    enter_short,
    find_long,
    find_short,
    home_entry,
    is_entry_of,
    long_key,
    short_key,
    word_view,
)

CHUNK = 128  # words whose entries are asked for at once
COUNTED_AT_ONCE = 1 << 15  # words counted at once
ONCE = np.empty(0, np.int64)  # the counts of words that occur once each


class WordSpans(NamedTuple):
    """Consecutive words of a text: the first starts at byte `start`, word w ends at ends[w]."""

    text: np.ndarray
    """uint8[:]"""
    start: int
    ends: np.ndarray
    """int64[words]"""


class CountedWords(NamedTuple):
    """Distinct words and how often each occurs."""

    data: np.ndarray
    """uint8[:]: the bytes of all words."""
    offsets: np.ndarray
    """int64[words + 1]: word w is data[offsets[w] : offsets[w + 1]]."""
    counts: np.ndarray
    """int64[words]"""


@kernel
def _count(words, counts, keys, tables):
    """Count words (`WordSpans`): each counts[w] times, or once if `counts` is empty.

    keys: uint64[CHUNK, 3], work space. tables: WORD_TABLE[1], with room for these words.
    """
    text, start, ends = bytes_of(words.text), words.start, words.ends
    table = tables[0]
    view = word_view(table)
    short_words, long_words, used = table.short_words, table.long_words, table.arena_used
    for first in range(0, ends.size, CHUNK):
        last = min(first + CHUNK, ends.size)
        at = start
        for word in range(first, last):
            key = short_key(text, at, ends[word] - at)
            home = home_entry(view.short, key)
            prefetch(home)
            keys[word - first, 0], keys[word - first, 1], keys[word - first, 2] = key.k0, key.k1, np.uint64(home)
            at = ends[word]
        for word in range(first, last):
            key, home = ShortKey(keys[word - first, 0], keys[word - first, 1]), np.int64(keys[word - first, 2])
            count = np.uint64(counts[word]) if counts.size else ONE
            length = ends[word] - start
            if is_entry_of(home, key):
                store64(home + VALUE, load64(home + VALUE) + count)
            elif length < INLINE:
                short_words += _add_short(view, key, count)
            elif _add_long(view, long_key(text.address + start, length), used, count):
                long_words += 1
                used += length
            start = ends[word]
    table.short_words, table.long_words, table.arena_used = short_words, long_words, used


@inlined
def _add_short(view, key, count):
    """Add to the count of a short word; returns whether it is new."""
    entry = find_short(view.short, key, home_entry(view.short, key))
    if load64(entry + K1) != 0:
        store64(entry + VALUE, load64(entry + VALUE) + count)
        return False
    enter_short(entry, key, count)
    return True


@inlined
def _add_long(view, key, used, count):
    """Add to the count of a long word; returns whether it is new: its bytes are then in the arena from `used` on."""
    entry = find_long(view.long, view.arena, key)
    if load64(entry + HASH) != 0:
        store64(entry + LONG_VALUE, load64(entry + LONG_VALUE) + count)
        return False
    enter_long(entry, key, used, count)
    for j in range(key.length):
        store8(view.arena + used + j, np.uint64(load8(key.address + j)))
    return True


@kernel
def _merge_short(source, tables):
    """Add every count of a table of short words (uint64[slots, 4]) to a `WordTable`."""
    table = tables[0]
    view = word_view(table)
    for slot in range(source.shape[0]):
        k0, k1, count = source[slot, 0], source[slot, 1], source[slot, 2]
        if k1 != 0:
            table.short_words += _add_short(view, ShortKey(k0, k1), count)


@kernel
def _merge_long(source, arena, tables):
    """Add every count of a table of long words (uint64[slots, 4]) and its arena (uint8[:]) to a `WordTable`."""
    table = tables[0]
    view = word_view(table)
    text = bytes_of(arena)
    for slot in range(source.shape[0]):
        h, start, length, count = source[slot, 0], np.int64(source[slot, 1]), np.int64(source[slot, 2]), source[slot, 3]
        if h != 0 and _add_long(view, LongKey(h, text.address + start, length), table.arena_used, count):
            table.long_words += 1
            table.arena_used += length


@kernel
def _unpack(short, long, arena, words):
    """Fill `words` (`CountedWords`) with all of a `WordTable`."""
    data, offsets, counts = words
    word = used = 0
    for slot in range(short.shape[0]):
        k0, k1 = short[slot, 0], short[slot, 1]
        if k1 != 0:
            length = np.int64(k1 >> FIFTY_SIX)
            for j in range(length):
                data[used + j] = np.uint8((k0 >> np.uint64(8 * j)) if j < 8 else (k1 >> np.uint64(8 * (j - 8))))
            offsets[word] = used
            counts[word] = np.int64(short[slot, 2])
            used += length
            word += 1
    for slot in range(long.shape[0]):
        if long[slot, 0] != 0:
            start, length = np.int64(long[slot, 1]), np.int64(long[slot, 2])
            for j in range(length):
                data[used + j] = arena[start + j]
            offsets[word] = used
            counts[word] = np.int64(long[slot, 3])
            used += length
            word += 1
    offsets[word] = used


class WordCounts:
    """How often every word occurs; grows as needed. Counts of several texts or threads are merged with `update`."""

    def __init__(self) -> None:
        self._table = WordTable(empty_slots(1 << 14), empty_slots(1 << 10), np.empty(1 << 16, np.uint8))
        self._keys = np.empty((CHUNK, 3), np.uint64)

    @classmethod
    def of(cls, data: np.ndarray, offsets: np.ndarray, counts: np.ndarray) -> WordCounts:
        """The table of words given as `unpack` returns them.

        It gets its final size first: `unpack` lists words in the order of their hashes, which would all crowd at the
        front of a small table (20 s instead of 0.1 s for 800,000 words).
        """
        table = cls()
        long_words = int((np.diff(offsets) >= INLINE).sum())
        table._table.reserve(2 * (len(counts) - long_words), 2 * long_words, int(offsets[-1]))
        table._add(data, 0, offsets[1:], counts)
        return table

    def __len__(self) -> int:
        """Number of distinct words."""
        return len(self._table)

    def add(self, text: np.ndarray, start: int, ends: np.ndarray) -> None:
        """Count the consecutive words of a text (uint8[:]) from byte `start` that end at `ends` (int64[:])."""
        self._add(text, start, ends, ONCE)

    def _add(self, text: np.ndarray, start: int, ends: np.ndarray, counts: np.ndarray) -> None:
        for first in range(0, len(ends), COUNTED_AT_ONCE):
            block = slice(first, first + COUNTED_AT_ONCE)
            words = WordSpans(text, start, ends[block])
            stop = int(words.ends[-1])
            self._table.reserve(len(words.ends), len(words.ends), stop - start)
            _count(words, counts[block], self._keys, self._table.record)
            start = stop

    def update(self, other: WordCounts) -> None:
        """Add the counts of another table."""
        self._table.reserve(*other._table.sizes)
        _merge_short(other._table.short, self._table.record)
        _merge_long(other._table.long, other._table.arena, self._table.record)

    def unpack(self) -> CountedWords:
        """All words, in no particular order."""
        table = self._table
        short_bytes = int((table.short[:, 1] >> FIFTY_SIX).sum())
        data = np.empty(short_bytes + table.sizes[2], np.uint8)
        words = CountedWords(data, np.empty(len(table) + 1, np.int64), np.empty(len(table), np.int64))
        _unpack(table.short, table.long, table.arena, words)
        return words
