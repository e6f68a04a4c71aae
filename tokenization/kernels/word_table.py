"""Words as keys: a hash table from words to one number, which is a count in `word_counts.py` and ids in `encoder.py`.

Plain Python: a `dict` with `bytes` as keys.

A word shorter than 16 bytes *is* its key, two integers compared without touching the text. Longer words are rare: their
bytes go to an arena, and a second table maps a 64-bit hash to them (hash, length and bytes are all compared).

    `abc`                    key 0x0000000000636261, 0x03_00000000000000   (the bytes, and the length in the top byte)
    `a quite long word`      its hash, its length 17, and where its bytes are in the arena

Both tables are open addressing with linear probing, uint64[slots, 4], the number of slots a power of two and at least
twice the number of words. The slot of a word is taken from the high bits of a multiplication (Fibonacci hashing; Knuth,
TAOCP volume 3, 1973, section 6.4). In a table in buckets, the search for a short word begins at an even slot: the two
entries of a bucket lie in one cache line and are looked at together. The encoder's is; counting is slower with buckets.

Kernels are handed a table as a record, and see it as a `WordView` (`jit.py` tells why).
"""

from __future__ import annotations

from typing import NamedTuple, Self

import numpy as np

from textmill.kernels.jit import (
    address,
    copy_row,
    inlined,
    kernel,
    leading_zeros,
    load8,
    load64,
    store64,
)

INLINE = 16  # words shorter than this are keys themselves
# Kernels see entries as addresses; these are byte offsets in an entry
ENTRY = 32
K0, K1, VALUE, MORE = 0, 8, 16, 24  # short words; K1 holds the length in its top byte, so 0 means empty
HASH, START, LENGTH, LONG_VALUE = 0, 8, 16, 24  # long words; the bytes are at START of the arena; HASH 0 means empty
M0 = np.uint64(0x9E3779B97F4A7C15)
M1 = np.uint64(0xC2B2AE3D27D4EB4F)
M2 = np.uint64(0xBF58476D1CE4E5B9)
# for each length below INLINE the bytes of the two integers of a key that belong to it; for INLINE itself none
OWN_BYTES = np.array(
    [(1 << 8 * (n % INLINE)) - 1 >> 64 * half & 0xFFFFFFFFFFFFFFFF for n in range(INLINE + 1) for half in (0, 1)],
    np.uint64,
)
EIGHT, FIFTY_SIX, ONE, ALL = np.uint64(8), np.uint64(56), np.uint64(1), ~np.uint64(0)

WORD_TABLE = np.dtype(
    [
        ("short", np.int64),  # address of the table of short words …
        ("short_mask", np.uint64),  # … and its number of slots - 1
        ("long", np.int64),
        ("long_mask", np.uint64),
        ("arena", np.int64),  # address of the bytes of long words
        ("short_words", np.int64),
        ("long_words", np.int64),
        ("arena_used", np.int64),
    ]
)


class Bytes(NamedTuple):
    """A text as kernels see it: its address, and how many bytes may be read from there on."""

    address: int
    size: int


class Slots(NamedTuple):
    """A hash table as kernels see it: its address (int64), and the number of slots - 1 (uint64)."""

    address: int
    mask: int


class WordView(NamedTuple):
    """A `WordTable` as kernels see it."""

    short: Slots
    long: Slots
    arena: int


class ShortKey(NamedTuple):
    """A word below 16 bytes: its bytes as two uint64, little-endian, the length in the top byte."""

    k0: int
    k1: int


class LongKey(NamedTuple):
    """A word of 16 bytes and more: its hash (uint64), the address of its bytes and their number (int64)."""

    hash: int
    address: int
    length: int


@inlined
def bytes_of(array):
    """array: uint8[:]."""
    return Bytes(address(array), array.size)


@inlined
def slots_of(table):
    """table: an array whose first dimension is the slots."""
    return Slots(address(table), np.uint64(table.shape[0] - 1))


@inlined
def word_view(table):
    """table: a record of WORD_TABLE."""
    return WordView(Slots(table.short, table.short_mask), Slots(table.long, table.long_mask), table.arena)


# ---- keys


@inlined
def short_key(text, i, length):
    """The key of the bytes i .. i + length of a text (`Bytes`); of 16 bytes and more, one that no short word has."""
    at = text.address + i
    length = min(length, INLINE)
    if i + INLINE <= text.size:
        # whole loads, then the bytes beyond the word are masked away: no branch that the length would mispredict
        own = np.uint64(2 * length)  # a signed index would be tested for being negative
        k0 = load64(at) & OWN_BYTES[own]
        k1 = load64(at + 8) & OWN_BYTES[own + ONE]
    else:
        k0 = k1 = np.uint64(0)
        for j in range(length % INLINE - 1, -1, -1):
            k1 = (k1 << EIGHT) | (k0 >> FIFTY_SIX)
            k0 = (k0 << EIGHT) | np.uint64(load8(at + j))
    return ShortKey(k0, k1 | (np.uint64(length) << FIFTY_SIX))


@inlined
def long_key(at, length):
    """The key of length >= 8 bytes at an address."""
    h = np.uint64(length) * M1
    for j in range(0, length - 7, 8):
        h = (h ^ load64(at + j)) * M0
        h ^= h >> np.uint64(32)
    h = (h ^ load64(at + length - 8)) * M0
    h = (h ^ (h >> np.uint64(32))) * M2
    return LongKey(max(h, ONE), at, length)


@inlined
def _same_bytes(a, b, length):
    """Whether length >= 8 bytes at two addresses are equal."""
    for j in range(0, length - 7, 8):
        if load64(a + j) != load64(b + j):
            return False
    return load64(a + length - 8) == load64(b + length - 8)


# ---- entries


@inlined
def _hash(key):
    return key.k0 * M0 + key.k1 * M1


@inlined
def home_entry(table, key):
    """Address of the entry where the search for a short word begins."""
    return table.address + np.int64(_hash(key) >> np.uint64(leading_zeros(table.mask))) * ENTRY


@inlined
def home_bucket(table, key):
    """Address of the two entries where the search for a short word begins in a table in buckets."""
    return table.address + np.int64(_hash(key) >> np.uint64(leading_zeros(table.mask) + 1)) * (2 * ENTRY)


@inlined
def is_entry_of(entry, key):
    """Whether an entry is that of a short word."""
    return (load64(entry + K1) == key.k1) & (load64(entry + K0) == key.k0)


@inlined
def find_short(table, key, home):
    """Address of the entry of a short word, or of the empty entry where it belongs; the search begins at `home`."""
    at, last = home - table.address, np.int64(table.mask) * ENTRY
    while True:
        entry = table.address + at
        found = load64(entry + K1)
        if found == 0 or (found == key.k1 and load64(entry + K0) == key.k0):
            return entry
        at = at + ENTRY if at < last else 0


@inlined
def find_long(table, arena, key):
    """Address of the entry of a long word, or of the empty entry where it belongs."""
    slot = key.hash >> np.uint64(leading_zeros(table.mask))
    while True:
        entry = table.address + np.int64(slot) * ENTRY
        found = load64(entry + HASH)
        if found == 0 or (
            found == key.hash
            and load64(entry + LENGTH) == np.uint64(key.length)
            and _same_bytes(arena + np.int64(load64(entry + START)), key.address, key.length)
        ):
            return entry
        slot = (slot + ONE) & table.mask


@inlined
def enter_short(entry, key, value):
    """Write a short word and its value (uint64) to an empty entry."""
    store64(entry + K0, key.k0)
    store64(entry + K1, key.k1)
    store64(entry + VALUE, value)


@inlined
def enter_long(entry, key, start, value):
    """Write a long word and its value (uint64) to an empty entry; `start`: where its bytes are in the arena."""
    store64(entry + HASH, key.hash)
    store64(entry + START, np.uint64(start))
    store64(entry + LENGTH, np.uint64(key.length))
    store64(entry + LONG_VALUE, value)


# ---- whole tables


@kernel
def _rehash_short(source, table, in_buckets):
    target = slots_of(table)
    for slot in range(source.shape[0]):
        if source[slot, 1] != 0:
            key = ShortKey(source[slot, 0], source[slot, 1])
            entry = find_short(target, key, home_bucket(target, key) if in_buckets else home_entry(target, key))
            enter_short(entry, key, source[slot, 2])
            store64(entry + MORE, source[slot, 3])


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


def empty_slots(slots: int) -> np.ndarray:
    """An empty table, uint64[slots, 4]: at a multiple of 64 bytes, so that no entry lies in two cache lines."""
    room = np.zeros(4 * slots + 8, np.uint64)
    first = -room.ctypes.data % 64 // 8
    return room[first : first + 4 * slots].reshape(slots, 4)


def with_room(array: np.ndarray, used: int, more: int) -> np.ndarray:
    """An array that begins with the `used` first values of this one and has room for `more`: itself if it has."""
    if used + more <= len(array):
        return array
    larger = np.empty(max(2 * len(array), used + more), array.dtype)
    larger[:used] = array[:used]
    return larger


class WordTable:
    """A table of words that grows.

    Attributes:
        short: uint64[slots, 4], the table of short words.
        long: uint64[slots, 4], the table of long words.
        arena: uint8[:], the bytes of long words.
        record: WORD_TABLE[1], all of it as kernels are handed it; they enter words and raise the numbers of them.
    """

    in_buckets = False

    def __init__(self, short: np.ndarray, long: np.ndarray, arena: np.ndarray, record: np.ndarray | None = None):
        self.short, self.long, self.arena = short, long, arena
        self.record = np.zeros(1, WORD_TABLE) if record is None else record
        self._sizes = self.record.view(np.int64)[-3:]  # the last three fields
        self._point()

    def _point(self) -> None:
        """Tell the record where the arrays are now."""
        record, short, long = self.record, self.short, self.long
        record["short"], record["short_mask"] = short.ctypes.data, len(short) - 1
        record["long"], record["long_mask"] = long.ctypes.data, len(long) - 1
        record["arena"] = self.arena.ctypes.data

    def copy(self, record: np.ndarray) -> Self:
        """A table of the same words, which has this record (WORD_TABLE[1])."""
        record[:] = self.record
        short, long = empty_slots(len(self.short)), empty_slots(len(self.long))
        short[:], long[:] = self.short, self.long
        return type(self)(short, long, self.arena.copy(), record)

    @property
    def sizes(self) -> list[int]:
        """Number of short words, of long words, and bytes used of the arena."""
        return self._sizes.tolist()

    def set_sizes(self, short_words: int, long_words: int, arena_used: int) -> None:
        """Say what is in the table, where a kernel that filled it did not."""
        self._sizes[:] = short_words, long_words, arena_used

    def __len__(self) -> int:
        short_words, long_words, _ = self._sizes.tolist()
        return short_words + long_words

    def reserve(self, short_words: int, long_words: int, arena_bytes: int) -> None:
        """Make room for that many more words and long-word bytes, keeping the tables at most half full.

        A block rarely brings as many new words as it has words, so a quarter of them is provided for up front; the
        tables then still have free slots for all.
        """
        shorts, longs, used = self._sizes.tolist()
        short_slots = _slots_for(shorts, short_words, len(self.short))
        long_slots = _slots_for(longs, min(long_words, arena_bytes // INLINE), len(self.long))
        if short_slots == len(self.short) and long_slots == len(self.long) and used + arena_bytes <= len(self.arena):
            return
        if short_slots != len(self.short):
            larger = empty_slots(short_slots)
            _rehash_short(self.short, larger, self.in_buckets)
            self.short = larger
        if long_slots != len(self.long):
            larger = empty_slots(long_slots)
            _rehash_long(self.long, larger)
            self.long = larger
        self.arena = with_room(self.arena, used, arena_bytes)
        self._point()


class BucketTable(WordTable):
    """A table of words whose short words are searched for from a bucket on."""

    in_buckets = True


def _slots_for(words: int, more: int, slots: int) -> int:
    while words + more // 4 > slots // 2 or words + more >= slots:
        slots *= 2
    return slots
