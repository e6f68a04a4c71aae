"""The pairs that may be merged next: found by key in a hash table, and by count in a queue.

`pairs` is int64[:, 5], a row for each; a pair keeps its row, and the hash table maps its key to the index of the row.

The queue makes use of what counts do: that of a pair only falls, and a new pair occurs at most as often as the one
merged last. So the pairs are sorted into classes of similar counts and only those of the highest class are ordered, in
a heap; a pair whose count has fallen moves to its lower class when its turn comes (after the radix heap of Ahuja,
Mehlhorn, Orlin and Tarjan, "Faster Algorithms for the Shortest Path Problem", JACM 1990).
"""

import numpy as np

from tokenization.kernels.jit import address, inlined, kernel, leading_zeros, prefetch
from tokenization.kernels.word_table import M0

# columns of the pairs: both symbols packed, how often the pair occurs, its slice of the places, the next of its class
KEY, COUNT, FIRST, LENGTH, NEXT = 0, 1, 2, 3, 4
NONE = -1
CLASSES = 512
SLOT = 16  # bytes of a slot of the hash table: key (NONE where it is empty) and index


@inlined
def key_of(left, right):
    return np.int64(left) << 32 | np.int64(right)


@kernel
def with_room(rows, used, more):
    """Rows that begin with the `used` first of these and have room for `more`."""
    if used + more <= rows.shape[0]:
        return rows
    larger = np.empty((max(2 * rows.shape[0], used + more), rows.shape[1]), np.int64)
    for i in range(used):
        for column in range(rows.shape[1]):
            larger[i, column] = rows[i, column]
    return larger


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
    """Index of a pair, or NONE."""
    slot = _slot(key, table)
    return table[slot, 1] if table[slot, 0] == key else NONE


@inlined
def enter(key, index, table):
    slot = _slot(key, table)
    table[slot, 0], table[slot, 1] = key, index


@kernel
def table_of_pairs(pairs, used, threshold, more):
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
            enter(pairs[index, KEY], index, table)
    return table, frequent


# ---- by count: `heads` (int64[CLASSES]) has the first pair of each class; `heap` (int64[:, 3]: count, key, index) has
# all of the class `top`, the largest count first, then the smallest key; `waiting` is how many these are


@inlined
def _class_of(count):
    """Class of a count: counts below 16 have one each, then there are eight to a power of two."""
    exponent = 63 - leading_zeros(np.uint64(count))
    return count if exponent < 3 else ((exponent - 2) << 3) | ((count >> (exponent - 3)) & 7)


@inlined
def _before(count, key, other_count, other_key):
    return count > other_count or (count == other_count and key < other_key)


@kernel
def _sink(heap, waiting, i, count, key, index):
    """Put an entry at position i, below which all is in order, or where it belongs beneath."""
    while True:
        child = 2 * i + 1
        if child >= waiting:
            break
        if child + 1 < waiting and _before(heap[child + 1, 0], heap[child + 1, 1], heap[child, 0], heap[child, 1]):
            child += 1
        if _before(count, key, heap[child, 0], heap[child, 1]):
            break
        heap[i, 0], heap[i, 1], heap[i, 2] = heap[child, 0], heap[child, 1], heap[child, 2]
        i = child
    heap[i, 0], heap[i, 1], heap[i, 2] = count, key, index


@inlined
def _rise(heap, i, count, key, index):
    """Put an entry at position i, beneath which nothing is, or where it belongs above."""
    while i > 0:
        parent = (i - 1) >> 1
        if not _before(count, key, heap[parent, 0], heap[parent, 1]):
            break
        heap[i, 0], heap[i, 1], heap[i, 2] = heap[parent, 0], heap[parent, 1], heap[parent, 2]
        i = parent
    heap[i, 0], heap[i, 1], heap[i, 2] = count, key, index


@inlined
def put(index, pairs, heads, heap, waiting, top):
    """Add a pair to the queue; the heap must have room. Returns how many wait in it now."""
    count = pairs[index, COUNT]
    its_class = _class_of(count)
    if its_class == top:
        _rise(heap, waiting, count, pairs[index, KEY], index)
        return waiting + 1
    pairs[index, NEXT] = heads[its_class]
    heads[its_class] = index
    return waiting


@kernel
def _open_class(pairs, heads, heap, top, threshold):
    """Make a heap of a class, without the pairs that have become rarer since. Returns (heap, waiting)."""
    waiting = np.int64(0)
    index = heads[top]
    heads[top] = NONE
    while index != NONE:
        following = pairs[index, NEXT]
        count = pairs[index, COUNT]
        if count >= threshold:
            its_class = _class_of(count)
            if its_class == top:
                heap = with_room(heap, waiting, 1)
                heap[waiting, 0], heap[waiting, 1], heap[waiting, 2] = count, pairs[index, KEY], index
                waiting += 1
            else:
                pairs[index, NEXT] = heads[its_class]
                heads[its_class] = index
        index = following
    for i in range(waiting // 2 - 1, -1, -1):
        _sink(heap, waiting, i, heap[i, 0], heap[i, 1], heap[i, 2])
    return heap, waiting


@kernel
def take(pairs, heads, heap, waiting, top, threshold):
    """Take the most frequent pair out of the queue: (its index or NONE, heap, waiting, top)."""
    while True:
        while waiting == 0:
            top -= 1
            if top <= 0:
                return NONE, heap, waiting, np.int64(0)
            if heads[top] != NONE:
                heap, waiting = _open_class(pairs, heads, heap, top, threshold)
        seen, key, index = heap[0, 0], heap[0, 1], heap[0, 2]
        count = pairs[index, COUNT]
        if seen != count and count >= threshold and _class_of(count) == top:
            _sink(heap, waiting, 0, count, key, index)
            continue
        waiting -= 1
        _sink(heap, waiting, 0, heap[waiting, 0], heap[waiting, 1], heap[waiting, 2])
        if seen == count:
            return index, heap, waiting, top
        if count >= threshold:
            waiting = put(index, pairs, heads, heap, waiting, top)
