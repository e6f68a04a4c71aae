"""Word counts: a hash table from words to how often they occur.

A word shorter than 16 bytes *is* its key, two integers compared without touching the text. Longer words are rare: their
bytes go to an arena, and a second table maps a 64-bit hash to them (hash, length and bytes are all compared).

Most words of a text are among a few thousand, whose entries the table scatters over more memory than a core's cache
holds. So words are first counted in a small table, where a word simply takes the place of another with the same hash;
those that had to go are added to the large table together, its entries being asked for ahead.
"""

import numpy as np

from tokenization.kernels.jit import (
    AHEAD,
    address,
    copy_row,
    inlined,
    kernel,
    leading_zeros,
    load8,
    load64,
    prefetch,
    store64,
)

INLINE = 16  # words shorter than this are keys themselves
# Both tables are uint64[slots, 4], the number of slots a power of two; a word's value is its count here, its ids in the
# encoder. Kernels see entries as addresses: K0 … are byte offsets in an entry.
K0, K1, VALUE = 0, 8, 16  # short words; K1 holds the length in its top byte, so 0 means empty
HASH, START, LENGTH, LONG_VALUE = 0, 8, 16, 24  # long words; the bytes are at START of the arena; HASH 0 means empty
ENTRY = 32
M0 = np.uint64(0x9E3779B97F4A7C15)
M1 = np.uint64(0xC2B2AE3D27D4EB4F)
M2 = np.uint64(0xBF58476D1CE4E5B9)
# for each length below INLINE the bytes of the two words of a key that belong to it
OWN_BYTES = np.array(
    [(1 << 8 * n) - 1 >> 64 * half & 0xFFFFFFFFFFFFFFFF for n in range(INLINE) for half in (0, 1)], np.uint64
)
RECENT = 1 << 13  # slots of the small table: 256 kB, half of a small second-level cache
COUNTED_AT_ONCE = 1 << 15  # words counted at once
EIGHT, FIFTY_SIX, ONE, ALL = np.uint64(8), np.uint64(56), np.uint64(1), ~np.uint64(0)


@inlined
def short_key(text, i, length, readable):
    """The bytes i .. i + length (below 16) of a text as two uint64, little-endian, the length in the top byte."""
    if i + INLINE <= readable:
        # whole loads, then the bytes beyond the word are masked away: no branch that the length would mispredict
        k0 = load64(text + i) & OWN_BYTES[2 * length]
        k1 = load64(text + i + 8) & OWN_BYTES[2 * length + 1]
    else:
        k0 = k1 = np.uint64(0)
        for j in range(length - 1, -1, -1):
            k1 = (k1 << EIGHT) | (k0 >> FIFTY_SIX)
            k0 = (k0 << EIGHT) | np.uint64(load8(text + i + j))
    return k0, k1 | (np.uint64(length) << FIFTY_SIX)


@inlined
def short_hash(k0, k1):
    """Hash of a short key; take its high bits."""
    return k0 * M0 + k1 * M1


@inlined
def long_hash(text, i, length):
    """Hash of length >= 8 bytes, never 0; take its high bits."""
    h = np.uint64(length) * M1
    for j in range(0, length - 7, 8):
        h = (h ^ load64(text + i + j)) * M0
        h ^= h >> np.uint64(32)
    h = (h ^ load64(text + i + length - 8)) * M0
    h = (h ^ (h >> np.uint64(32))) * M2
    return max(h, ONE)


@inlined
def same_bytes(a, b, length):
    """Whether length >= 8 bytes at two addresses are equal."""
    for j in range(0, length - 7, 8):
        if load64(a + j) != load64(b + j):
            return False
    return load64(a + length - 8) == load64(b + length - 8)


@inlined
def _home(mask, k0, k1):
    """Slot where the search for a short word begins."""
    return short_hash(k0, k1) >> np.uint64(leading_zeros(mask))


@inlined
def _entry(table, slot):
    return table + np.int64(slot) * ENTRY


@inlined
def find_short(table, mask, k0, k1):
    """Address of the entry of a short word, or of the empty entry where it belongs. table: address; mask: slots - 1."""
    slot = _home(mask, k0, k1)
    while True:
        entry = _entry(table, slot)
        found = load64(entry + K1)
        if found == 0 or (found == k1 and load64(entry + K0) == k0):
            return entry
        slot = (slot + ONE) & mask


@inlined
def find_long(table, mask, arena, h, at, length):
    """Address of the entry of a long word, or of the empty entry where it belongs. h: its hash; at: address of it."""
    slot = h >> np.uint64(leading_zeros(mask))
    while True:
        entry = _entry(table, slot)
        found = load64(entry + HASH)
        if found == 0 or (
            found == h
            and load64(entry + LENGTH) == np.uint64(length)
            and same_bytes(arena + np.int64(load64(entry + START)), at, length)
        ):
            return entry
        slot = (slot + ONE) & mask


@inlined
def enter_short(entry, k0, k1, value):
    store64(entry + K0, k0)
    store64(entry + K1, k1)
    store64(entry + VALUE, value)


@inlined
def enter_long(entry, h, start, length, value):
    store64(entry + HASH, h)
    store64(entry + START, np.uint64(start))
    store64(entry + LENGTH, np.uint64(length))
    store64(entry + LONG_VALUE, value)


@kernel
def _count(text_array, start, ends, counts, recent_table, replaced, short_table, long_table, arena_array, used):
    """Count words: word w ends at ends[w] and counts counts[w] times, or once if `counts` is empty.

    The first word starts at byte `start`. replaced: uint64[words, 3], work space.
    Returns (new short words, new long words, bytes used of the arena).
    """
    text, readable = address(text_array), text_array.size
    recent, recent_mask = address(recent_table), np.uint64(recent_table.shape[0] - 1)
    short, short_mask = address(short_table), np.uint64(short_table.shape[0] - 1)
    long, long_mask = address(long_table), np.uint64(long_table.shape[0] - 1)
    arena = address(arena_array)
    new_short = new_long = gone = 0
    one = ONE
    for word in range(ends.size):
        end = ends[word]
        length = end - start
        count = np.uint64(counts[word]) if counts.size else one
        if length < INLINE:
            k0, k1 = short_key(text, start, length, readable)
            entry = _entry(recent, _home(recent_mask, k0, k1))
            if (load64(entry + K1) == k1) & (load64(entry + K0) == k0):
                store64(entry + VALUE, load64(entry + VALUE) + count)
            else:
                replaced[gone, 0], replaced[gone, 1] = load64(entry + K0), load64(entry + K1)
                replaced[gone, 2] = load64(entry + VALUE)
                gone += replaced[gone, 1] != 0
                enter_short(entry, k0, k1, count)
        else:
            h = long_hash(text, start, length)
            entry = find_long(long, long_mask, arena, h, text + start, length)
            if load64(entry + HASH) != 0:
                store64(entry + LONG_VALUE, load64(entry + LONG_VALUE) + count)
            else:
                enter_long(entry, h, used, length, count)
                for j in range(length):
                    arena_array[used + j] = text_array[start + j]
                used += length
                new_long += 1
        start = end
    for i in range(gone):
        if i + AHEAD < gone:
            prefetch(_entry(short, _home(short_mask, replaced[i + AHEAD, 0], replaced[i + AHEAD, 1])))
        new_short += _add_short(short, short_mask, replaced[i, 0], replaced[i, 1], replaced[i, 2])
    return new_short, new_long, used


@inlined
def _add_short(table, mask, k0, k1, count):
    """Add to the count of a short word; returns whether it is new."""
    entry = find_short(table, mask, k0, k1)
    if load64(entry + K1) != 0:
        store64(entry + VALUE, load64(entry + VALUE) + count)
        return False
    enter_short(entry, k0, k1, count)
    return True


@kernel
def _merge_short(source, target_table):
    """Add every count of one table of short words to another; returns the number of new words."""
    target, mask = address(target_table), np.uint64(target_table.shape[0] - 1)
    new = 0
    for slot in range(source.shape[0]):
        k0, k1, count = source[slot, 0], source[slot, 1], source[slot, 2]
        if k1 != 0:
            new += _add_short(target, mask, k0, k1, count)
    return new


@kernel
def _merge_long(source, source_arena, target_table, arena, used):
    """Add every count of one table of long words to another; returns (number of new words, bytes used of the arena)."""
    target, mask = address(target_table), np.uint64(target_table.shape[0] - 1)
    text, store = address(source_arena), address(arena)
    new = 0
    for slot in range(source.shape[0]):
        h, start, length, count = source[slot, 0], np.int64(source[slot, 1]), np.int64(source[slot, 2]), source[slot, 3]
        if h != 0:
            entry = find_long(target, mask, store, h, text + start, length)
            if load64(entry + HASH) != 0:
                store64(entry + LONG_VALUE, load64(entry + LONG_VALUE) + count)
            else:
                enter_long(entry, h, used, length, count)
                for j in range(length):
                    arena[used + j] = source_arena[start + j]
                used += length
                new += 1
    return new, used


@kernel
def _rehash_short(source, table):
    target, mask = address(table), np.uint64(table.shape[0] - 1)
    for slot in range(source.shape[0]):
        if source[slot, 1] != 0:
            entry = find_short(target, mask, source[slot, 0], source[slot, 1])
            enter_short(entry, source[slot, 0], source[slot, 1], source[slot, 2])


@kernel
def _rehash_long(source, table):
    mask = np.uint64(table.shape[0] - 1)
    shift = np.uint64(leading_zeros(mask))
    for slot in range(source.shape[0]):
        if source[slot, 0] != 0:
            place = source[slot, 0] >> shift
            while table[place, 0] != 0:
                place = (place + ONE) & mask
            copy_row(table, place, source, slot)


def table_of(slots: int) -> np.ndarray:
    """An empty table, uint64[slots, 4]: at a multiple of 64 bytes, so that no entry lies in two cache lines."""
    room = np.zeros(4 * slots + 8, np.uint64)
    first = -room.ctypes.data % 64 // 8
    return room[first : first + 4 * slots].reshape(slots, 4)


def larger_short(table: np.ndarray, slots: int) -> np.ndarray:
    """The entries of a table of short words in a new one of that many slots."""
    larger = table_of(slots)
    _rehash_short(table, larger)
    return larger


def larger_long(table: np.ndarray, slots: int) -> np.ndarray:
    """The entries of a table of long words in a new one of that many slots."""
    larger = table_of(slots)
    _rehash_long(table, larger)
    return larger


@kernel
def _unpack(short, long, arena, data, offsets, counts):
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


ONCE = np.empty(0, np.int64)


class WordCounts:
    """How often every word occurs; grows as needed. Counts of several texts or threads are merged with `update`."""

    def __init__(self):
        self._short, self._long = table_of(1 << 14), table_of(1 << 10)
        self._recent, self._replaced = table_of(RECENT), np.empty((COUNTED_AT_ONCE, 3), np.uint64)
        self._arena = np.empty(1 << 16, np.uint8)
        self._shorts = self._longs = self._used = 0

    @classmethod
    def of(cls, data: np.ndarray, offsets: np.ndarray, counts: np.ndarray) -> "WordCounts":
        """The table of words given as `unpack` returns them."""
        table = cls()
        table._add(data, 0, offsets[1:], counts)
        return table

    def __len__(self) -> int:
        """Number of distinct words."""
        self._settle()
        return self._shorts + self._longs

    def add(self, text: np.ndarray, start: int, ends: np.ndarray) -> None:
        """Count the consecutive words of a text (uint8[:]) from byte `start` that end at `ends` (int64[:])."""
        self._add(text, start, ends, ONCE)

    def _add(self, text: np.ndarray, start: int, ends: np.ndarray, counts: np.ndarray) -> None:
        for first in range(0, len(ends), COUNTED_AT_ONCE):
            block = slice(first, first + COUNTED_AT_ONCE)
            self._reserve(len(ends[block]), len(ends[block]), int(ends[block][-1]) - start)
            shorts, longs, self._used = _count(
                text,
                start,
                ends[block],
                counts[block],
                self._recent,
                self._replaced,
                self._short,
                self._long,
                self._arena,
                self._used,
            )
            self._shorts += shorts
            self._longs += longs
            start = int(ends[block][-1])

    def _settle(self) -> None:
        """Add what the small table has counted to the large one."""
        self._reserve(RECENT, 0, 0)
        self._shorts += _merge_short(self._recent, self._short)
        self._recent[:] = 0

    def update(self, other: "WordCounts") -> None:
        """Add the counts of another table."""
        self._settle()
        other._settle()
        self._reserve(other._shorts, other._longs, other._used)
        self._shorts += _merge_short(other._short, self._short)
        longs, self._used = _merge_long(other._long, other._arena, self._long, self._arena, self._used)
        self._longs += longs

    def unpack(self) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """All words as (bytes uint8[:], offsets int64[words + 1], counts int64[words]), in no particular order."""
        self._settle()
        short_bytes = int((self._short[:, 1] >> FIFTY_SIX).sum())
        data = np.empty(short_bytes + self._used, np.uint8)
        words = self._shorts + self._longs
        offsets, counts = np.empty(words + 1, np.int64), np.empty(words, np.int64)
        _unpack(self._short, self._long, self._arena, data, offsets, counts)
        return data, offsets, counts

    def _reserve(self, shorts: int, longs: int, arena_bytes: int) -> None:
        """Make room for that many more words and long-word bytes, keeping the tables at most half full.

        A block rarely brings as many new words as it has words, so a quarter of them is provided for up front; the
        tables then still have free slots for all.
        """
        short_slots, long_slots = len(self._short), len(self._long)
        while self._shorts + shorts // 4 > short_slots // 2 or self._shorts + shorts >= short_slots:
            short_slots *= 2
        if short_slots != len(self._short):
            self._short = larger_short(self._short, short_slots)
        longs = min(longs, arena_bytes // INLINE)
        while self._longs + longs // 4 > long_slots // 2 or self._longs + longs >= long_slots:
            long_slots *= 2
        if long_slots != len(self._long):
            self._long = larger_long(self._long, long_slots)
        if self._used + arena_bytes > len(self._arena):
            arena = np.empty(max(2 * len(self._arena), self._used + arena_bytes), np.uint8)
            arena[: self._used] = self._arena[: self._used]
            self._arena = arena
