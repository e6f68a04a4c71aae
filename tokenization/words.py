"""Word counts: a hash table from words to how often they occur.

A word shorter than 16 bytes *is* its key, two integers compared without touching the text. Longer words are rare: their
bytes go to an arena, and a second table maps a 64-bit hash to them (hash, length and bytes are all compared).
"""

import numpy as np

from tokenization.jit import kernel, leading_zeros, load8, load64

INLINE = 16  # words shorter than this are keys themselves
K0, K1, COUNT = 0, 1, 2  # columns of the table of short words; K1 holds the length in its top byte, so 0 means empty
HASH, START, LENGTH, LONG_COUNT = 0, 1, 2, 3  # columns of the table of long words; HASH 0 means empty
M0 = np.uint64(0x9E3779B97F4A7C15)
M1 = np.uint64(0xC2B2AE3D27D4EB4F)
M2 = np.uint64(0xBF58476D1CE4E5B9)
EIGHT, FIFTY_SIX, ONE = np.uint64(8), np.uint64(56), np.uint64(1)


@kernel
def short_key(text, i, length, readable):
    """The bytes i .. i + length (below 16) of a text as two uint64, little-endian, the length in the top byte."""
    if i + INLINE <= readable:
        k0, k1 = load64(text + i), load64(text + i + 8)
        if length < 8:
            k0 &= (ONE << np.uint64(8 * length)) - ONE
            k1 = np.uint64(0)
        else:
            k1 &= (ONE << np.uint64(8 * (length - 8))) - ONE
    else:
        k0 = k1 = np.uint64(0)
        for j in range(length - 1, -1, -1):
            k1 = (k1 << EIGHT) | (k0 >> FIFTY_SIX)
            k0 = (k0 << EIGHT) | np.uint64(load8(text + i + j))
    return k0, k1 | (np.uint64(length) << FIFTY_SIX)


@kernel
def short_hash(k0, k1):
    """Hash of a short key; take its high bits."""
    h = k0 * M0 + k1 * M1
    return (h ^ (h >> np.uint64(29))) * M2


@kernel
def long_hash(text, i, length):
    """Hash of length >= 8 bytes, never 0; take its high bits."""
    h = np.uint64(length) * M1
    for j in range(0, length - 7, 8):
        h = (h ^ load64(text + i + j)) * M0
        h ^= h >> np.uint64(32)
    h = (h ^ load64(text + i + length - 8)) * M0
    h = (h ^ (h >> np.uint64(32))) * M2
    return max(h, ONE)


@kernel
def same_bytes(a, b, length):
    """Whether length >= 8 bytes at two addresses are equal."""
    for j in range(0, length - 7, 8):
        if load64(a + j) != load64(b + j):
            return False
    return load64(a + length - 8) == load64(b + length - 8)


@kernel
def _add_short(table, k0, k1, count):
    """Add to the count of a short word; returns 1 if it is new."""
    mask = np.uint64(table.shape[0] - 1)
    slot = short_hash(k0, k1) >> np.uint64(leading_zeros(mask))
    while True:
        found = table[slot, K1]
        if found == k1 and table[slot, K0] == k0:
            table[slot, COUNT] += count
            return 0
        if found == 0:
            table[slot, K0] = k0
            table[slot, K1] = k1
            table[slot, COUNT] = count
            return 1
        slot = (slot + ONE) & mask


@kernel
def _add_long(table, arena, used, text, i, length, count):
    """Add to the count of the long word at byte i of a text; returns how many bytes of the arena it newly takes."""
    mask = np.uint64(table.shape[0] - 1)
    h = long_hash(text, i, length)
    slot = h >> np.uint64(leading_zeros(mask))
    store = np.int64(arena.ctypes.data)
    while True:
        found = table[slot, HASH]
        if (
            found == h
            and np.int64(table[slot, LENGTH]) == length
            and same_bytes(store + np.int64(table[slot, START]), text + i, length)
        ):
            table[slot, LONG_COUNT] += count
            return 0
        if found == 0:
            table[slot, HASH] = h
            table[slot, START] = np.uint64(used)
            table[slot, LENGTH] = np.uint64(length)
            table[slot, LONG_COUNT] = count
            for j in range(length):
                arena[used + j] = load8(text + i + j)
            return length
        slot = (slot + ONE) & mask


@kernel
def _count(text_array, start, ends, short, long, arena, used):
    """Count the words that end at `ends`, the first starting at `start`; returns (new short, new long, arena used)."""
    text = np.int64(text_array.ctypes.data)
    readable = text_array.size
    new_short = new_long = 0
    one = ONE
    for end in ends:
        length = end - start
        if length < INLINE:
            k0, k1 = short_key(text, start, length, readable)
            new_short += _add_short(short, k0, k1, one)
        else:
            taken = _add_long(long, arena, used, text, start, length, one)
            used += taken
            new_long += taken > 0
        start = end
    return new_short, new_long, used


@kernel
def _enter(text_array, offsets, counts, short, long, arena):
    """Count each word (the bytes offsets[w]:offsets[w + 1]) counts[w] times; returns (shorts, longs, arena used)."""
    text = np.int64(text_array.ctypes.data)
    shorts = longs = used = 0
    for word in range(counts.size):
        start, length, count = offsets[word], offsets[word + 1] - offsets[word], np.uint64(counts[word])
        if length < INLINE:
            k0, k1 = short_key(text, start, length, text_array.size)
            shorts += _add_short(short, k0, k1, count)
        else:
            taken = _add_long(long, arena, used, text, start, length, count)
            used += taken
            longs += taken > 0
    return shorts, longs, used


@kernel
def _copy_short(source, target):
    """Add every count of one table to another; returns the number of new words."""
    new = 0
    for slot in range(source.shape[0]):
        if source[slot, K1] != 0:
            new += _add_short(target, source[slot, K0], source[slot, K1], source[slot, COUNT])
    return new


@kernel
def _copy_long(source, source_arena, target, arena, used):
    """Add every count of one table to another; returns (number of new words, arena used)."""
    text = np.int64(source_arena.ctypes.data)
    new = 0
    for slot in range(source.shape[0]):
        if source[slot, HASH] != 0:
            start, length = np.int64(source[slot, START]), np.int64(source[slot, LENGTH])
            taken = _add_long(target, arena, used, text, start, length, source[slot, LONG_COUNT])
            used += taken
            new += taken > 0
    return new, used


@kernel
def rehash_short(source, slots):
    """The entries of a table keyed by short words in a new one of that many slots (a power of two)."""
    target = np.zeros((slots, 4), np.uint64)
    mask = np.uint64(slots - 1)
    shift = np.uint64(leading_zeros(mask))
    for slot in range(source.shape[0]):
        if source[slot, K1] != 0:
            place = short_hash(source[slot, K0], source[slot, K1]) >> shift
            while target[place, K1] != 0:
                place = (place + ONE) & mask
            target[place] = source[slot]
    return target


@kernel
def rehash_long(source, slots):
    """The entries of a table of long words in a new one of that many slots (a power of two)."""
    target = np.zeros((slots, 4), np.uint64)
    mask = np.uint64(slots - 1)
    shift = np.uint64(leading_zeros(mask))
    for slot in range(source.shape[0]):
        if source[slot, HASH] != 0:
            place = source[slot, HASH] >> shift
            while target[place, HASH] != 0:
                place = (place + ONE) & mask
            target[place] = source[slot]
    return target


@kernel
def _unpack(short, long, arena, data, offsets, counts):
    word = used = 0
    for slot in range(short.shape[0]):
        k0, k1 = short[slot, K0], short[slot, K1]
        if k1 != 0:
            length = np.int64(k1 >> FIFTY_SIX)
            for j in range(length):
                data[used + j] = np.uint8((k0 >> np.uint64(8 * j)) if j < 8 else (k1 >> np.uint64(8 * (j - 8))))
            offsets[word] = used
            counts[word] = np.int64(short[slot, COUNT])
            used += length
            word += 1
    for slot in range(long.shape[0]):
        if long[slot, HASH] != 0:
            start, length = np.int64(long[slot, START]), np.int64(long[slot, LENGTH])
            data[used : used + length] = arena[start : start + length]
            offsets[word] = used
            counts[word] = np.int64(long[slot, LONG_COUNT])
            used += length
            word += 1
    offsets[word] = used


def _table(slots: int) -> np.ndarray:
    return np.zeros((slots, 4), np.uint64)


class WordCounts:
    """How often every word occurs; grows as needed. Counts of several texts or threads are merged with `update`."""

    def __init__(self):
        self._short, self._long = _table(1 << 14), _table(1 << 10)
        self._arena = np.empty(1 << 16, np.uint8)
        self._shorts = self._longs = self._used = 0

    @classmethod
    def of(cls, data: np.ndarray, offsets: np.ndarray, counts: np.ndarray) -> "WordCounts":
        """The table of words given as `unpack` returns them."""
        table = cls()
        table._reserve(len(counts), len(counts), len(data))
        table._shorts, table._longs, table._used = _enter(
            data, offsets, counts, table._short, table._long, table._arena
        )
        return table

    def __len__(self) -> int:
        """Number of distinct words."""
        return self._shorts + self._longs

    def add(self, text: np.ndarray, start: int, ends: np.ndarray) -> None:
        """Count the consecutive words of a text (uint8[:]) from byte `start` that end at `ends` (int64[:])."""
        self._reserve(len(ends), len(ends), int(ends[-1]) - start)
        shorts, longs, self._used = _count(text, start, ends, self._short, self._long, self._arena, self._used)
        self._shorts += shorts
        self._longs += longs

    def update(self, other: "WordCounts") -> None:
        """Add the counts of another table."""
        self._reserve(other._shorts, other._longs, other._used)
        self._shorts += _copy_short(other._short, self._short)
        longs, self._used = _copy_long(other._long, other._arena, self._long, self._arena, self._used)
        self._longs += longs

    def unpack(self) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """All words as (bytes uint8[:], offsets int64[words + 1], counts int64[words]), in no particular order."""
        short_bytes = int((self._short[:, K1] >> FIFTY_SIX).sum())
        data = np.empty(short_bytes + self._used, np.uint8)
        offsets, counts = np.empty(len(self) + 1, np.int64), np.empty(len(self), np.int64)
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
            self._short = rehash_short(self._short, short_slots)
        longs = min(longs, arena_bytes // INLINE)
        while self._longs + longs // 4 > long_slots // 2 or self._longs + longs >= long_slots:
            long_slots *= 2
        if long_slots != len(self._long):
            self._long = rehash_long(self._long, long_slots)
        if self._used + arena_bytes > len(self._arena):
            arena = np.empty(max(2 * len(self._arena), self._used + arena_bytes), np.uint8)
            arena[: self._used] = self._arena[: self._used]
            self._arena = arena
