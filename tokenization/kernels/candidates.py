"""The pairs that may be merged next: found by key in a hash table, and by count in a queue.

Plain Python: `max` over the counts in `reference.most_frequent`. That looks at every pair for every merge; the queue
looks at a few.

The queue makes use of what counts do: that of a pair only falls, and a new pair occurs at most as often as the one
merged last. So the pairs are sorted into classes of similar counts and only those of the highest class are ordered, in
a heap; a pair whose count has fallen moves to its lower class when its turn comes (after the radix heap of Ahuja,
Mehlhorn, Orlin and Tarjan, "Faster Algorithms for the Shortest Path Problem", JACM 1990).

    counts 41, 40, 33, 5   classes 32-35: {33}, 40-43: {41, 40}, 5: {5}   (eight classes to a power of two)
    heap of the top class  41, 40; 41 is taken and merged, which lowers 40 to 34
    the next turn          34 is not of this class any more and moves to 32-35, which is then opened: 34, 33
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np

from textmill.kernels.jit import address, inlined, kernel, leading_zeros, prefetch
from tokenization.kernels.word_table import M0

KEY, COUNT, SLICE, NEXT = range(4)  # columns of the pairs: 32 bytes, so that no pair lies in two cache lines
TRACKED, ENTERED, WAITING, TOP, PLACED = range(5)  # entries of `sizes`
NONE = -1
FIRST_BIT = 30  # of a slice of the places, whose length is in the bits below: there are fewer than 2³⁰ cells
CLASSES = 512
SLOT = 16  # bytes of a slot of the hash table: key (NONE where it is empty) and index


class Candidates(NamedTuple):
    """The pairs that are tracked, for they occur often enough to be merged before the threshold falls.

    A tuple cannot change, so the numbers that do are in `sizes`.
    """

    pairs: np.ndarray
    """int64[:, 4], a row for each pair, which it keeps: KEY (both symbols packed), COUNT (how often it occurs), SLICE
    (which of the places are its own, see `first_and_length`), NEXT (the next pair of its class, or NONE)."""
    table: np.ndarray
    """int64[slots, 2]: key → row of the pair, by open addressing."""
    heads: np.ndarray
    """int64[CLASSES]: the first pair of each class, or NONE."""
    heap: np.ndarray
    """int64[:, 3]: count, key and row of all pairs of the class TOP, with room for every pair."""
    sizes: np.ndarray
    """int64[5]: pairs TRACKED so far, those ENTERED in the table, those WAITING in the heap, the TOP class, and how
    many places are PLACED in the slices of all pairs."""
    threshold: int
    """How often a pair must occur to be tracked."""


class HeapEntry(NamedTuple):
    """A pair in the heap with the count it had when it was put there (all int64)."""

    count: int
    key: int
    index: int


@inlined
def key_of(left, right):
    """Both symbols of a pair as one int64; smaller pairs have smaller keys."""
    return np.int64(left) << 32 | np.int64(right)


@inlined
def first_and_length(pairs, index):
    """Where the places of a pair begin, and how many there are."""
    return pairs[index, SLICE] >> FIRST_BIT, pairs[index, SLICE] & ((1 << FIRST_BIT) - 1)


# ---- all pairs


@kernel
def candidates_of(pairs, found, threshold, placed):
    """Track those of the first `found` pairs that occur often enough; takes `pairs` over and reorders them."""
    tracked = _keep_frequent(pairs, found, threshold)
    table, entered = _table_of(pairs, tracked, threshold, tracked)
    heads, heap = np.full(CLASSES, NONE, np.int64), np.empty((tracked + 1024, 3), np.int64)
    sizes = np.array([tracked, entered, 0, CLASSES, placed])
    candidates = Candidates(pairs, table, heads, heap, sizes, threshold)
    for index in range(tracked):
        _put(index, candidates)
    return candidates


@kernel
def _keep_frequent(pairs, found, threshold):
    """Move the pairs that occur at least `threshold` times to the front; returns how many these are."""
    kept = 0
    for index in range(found):
        if pairs[index, COUNT] >= threshold:
            for column in range(NEXT):
                pairs[kept, column] = pairs[index, column]
            kept += 1
    return kept


@inlined
def lacks_room(candidates, more):
    """Whether so many more pairs need `with_room`."""
    used, entered = candidates.sizes[TRACKED] + more, candidates.sizes[ENTERED] + more
    full = 3 * entered > 2 * candidates.table.shape[0]
    return full or used > candidates.pairs.shape[0] or used > candidates.heap.shape[0]


@kernel
def with_room(candidates, more):
    """The same candidates, with room for `more` pairs."""
    pairs, table, heads, heap, sizes, threshold = candidates
    rows = sizes[TRACKED] + more
    pairs, heap = _with_rows(pairs, sizes[TRACKED], rows), _with_rows(heap, sizes[WAITING], rows)
    if 3 * (sizes[ENTERED] + more) > 2 * table.shape[0]:
        table, sizes[ENTERED] = _table_of(pairs, sizes[TRACKED], threshold, more)
    return Candidates(pairs, table, heads, heap, sizes, threshold)


@kernel
def _with_rows(array, used, rows):
    """An array of at least so many rows that begins with the `used` first of this one: itself if it has them."""
    if rows <= array.shape[0]:
        return array
    larger = np.empty((max(2 * array.shape[0], rows), array.shape[1]), np.int64)
    for i in range(used):
        for column in range(array.shape[1]):
            larger[i, column] = array[i, column]
    return larger


@inlined
def track(candidates, key, count, length):
    """Add a pair, for which there must be room, and give it the next `length` places; returns the first of them."""
    pairs, sizes = candidates.pairs, candidates.sizes
    index, first = sizes[TRACKED], sizes[PLACED]
    pairs[index, KEY], pairs[index, COUNT] = key, count
    pairs[index, SLICE] = first << FIRST_BIT | length
    _enter(key, index, candidates.table)
    _put(index, candidates)
    sizes[TRACKED] += 1
    sizes[ENTERED] += 1
    sizes[PLACED] += length
    return first


# ---- by key: an open-addressing table


@inlined
def _home(key, table):
    """Slot where the search for a key begins."""
    return np.int64((np.uint64(key) * M0) >> np.uint64(leading_zeros(np.uint64(table.shape[0] - 1))))


@inlined
def prefetch_slot(key, table):
    """Ask for the slot of a key that will be looked up soon."""
    prefetch(address(table) + SLOT * _home(key, table))


@inlined
def prefetch_pair(index, pairs):
    """Ask for the row of a pair, or of any if the index is NONE."""
    prefetch(address(pairs) + 8 * pairs.shape[1] * max(index, 0))


@inlined
def _slot(key, table):
    """Slot of a key, or the empty slot where it belongs."""
    slot = _home(key, table)
    while table[slot, 0] != NONE and table[slot, 0] != key:
        slot = (slot + 1) & (table.shape[0] - 1)
    return slot


@inlined
def find(key, table):
    """Row of a pair, or NONE."""
    slot = _slot(key, table)
    return table[slot, 1] if table[slot, 0] == key else NONE


@inlined
def _enter(key, index, table):
    slot = _slot(key, table)
    table[slot, 0], table[slot, 1] = key, index


@kernel
def _table_of(pairs, used, threshold, more):
    """(table, pairs in it) of those of the first `used` pairs that occur often enough, with room for `more`."""
    frequent = 0
    for index in range(used):
        frequent += pairs[index, COUNT] >= threshold
    slots = 1 << 12
    while slots < 2 * (frequent + more):
        slots *= 2
    table = np.full((slots, 2), NONE, np.int64)
    for index in range(used):
        if pairs[index, COUNT] >= threshold:
            _enter(pairs[index, KEY], index, table)
    return table, frequent


# ---- by count: a heap of the top class, the largest count first, then the smallest key; lists of the classes below


@inlined
def _class_of(count):
    """Class of a count: counts below 16 have one each, then there are eight to a power of two."""
    exponent = 63 - leading_zeros(np.uint64(count))
    return count if exponent < 3 else ((exponent - 2) << 3) | ((count >> (exponent - 3)) & 7)


@inlined
def _entry_at(heap, i):
    return HeapEntry(heap[i, 0], heap[i, 1], heap[i, 2])


@inlined
def _write(heap, i, entry):
    heap[i, 0], heap[i, 1], heap[i, 2] = entry.count, entry.key, entry.index


@inlined
def _before(entry, other):
    return entry.count > other.count or (entry.count == other.count and entry.key < other.key)


@kernel
def _sink(heap, waiting, i, entry):
    """Put an entry at position i, below which all is in order, or where it belongs beneath."""
    while True:
        child = 2 * i + 1
        if child >= waiting:
            break
        if child + 1 < waiting and _before(_entry_at(heap, child + 1), _entry_at(heap, child)):
            child += 1
        if _before(entry, _entry_at(heap, child)):
            break
        _write(heap, i, _entry_at(heap, child))
        i = child
    _write(heap, i, entry)


@inlined
def _rise(heap, i, entry):
    """Put an entry at position i, beneath which nothing is, or where it belongs above."""
    while i > 0:
        parent = (i - 1) >> 1
        if not _before(entry, _entry_at(heap, parent)):
            break
        _write(heap, i, _entry_at(heap, parent))
        i = parent
    _write(heap, i, entry)


@inlined
def _put(index, candidates):
    """Add a pair to the queue."""
    pairs, heads, sizes = candidates.pairs, candidates.heads, candidates.sizes
    count = pairs[index, COUNT]
    its_class = _class_of(count)
    if its_class == sizes[TOP]:
        _rise(candidates.heap, sizes[WAITING], HeapEntry(count, pairs[index, KEY], index))
        sizes[WAITING] += 1
    else:
        pairs[index, NEXT] = heads[its_class]
        heads[its_class] = index


@kernel
def _open_class(candidates):
    """Make a heap of the class TOP, without the pairs that have become rarer since."""
    pairs, _, heads, heap, sizes, threshold = candidates
    top = sizes[TOP]
    waiting = np.int64(0)
    index = heads[top]
    heads[top] = NONE
    while index != NONE:
        following = pairs[index, NEXT]
        count = pairs[index, COUNT]
        if count >= threshold:
            its_class = _class_of(count)
            if its_class == top:
                _write(heap, waiting, HeapEntry(count, pairs[index, KEY], index))
                waiting += 1
            else:
                pairs[index, NEXT] = heads[its_class]
                heads[its_class] = index
        index = following
    for i in range(waiting // 2 - 1, -1, -1):
        _sink(heap, waiting, i, _entry_at(heap, i))
    sizes[WAITING] = waiting


@kernel
def take(candidates):
    """Take the most frequent pair out of the queue, of equally frequent ones the smallest: its row, or NONE."""
    pairs, _, heads, heap, sizes, threshold = candidates
    while True:
        while sizes[WAITING] == 0:
            sizes[TOP] -= 1
            if sizes[TOP] <= 0:
                sizes[TOP] = 0
                return NONE
            if heads[sizes[TOP]] != NONE:
                _open_class(candidates)
        seen, key, index = _entry_at(heap, 0)
        count = pairs[index, COUNT]
        if seen != count and count >= threshold and _class_of(count) == sizes[TOP]:
            _sink(heap, sizes[WAITING], 0, HeapEntry(count, key, index))
            continue
        sizes[WAITING] -= 1
        _sink(heap, sizes[WAITING], 0, _entry_at(heap, sizes[WAITING]))
        if seen == count:
            return index
        if count >= threshold:
            _put(index, candidates)
