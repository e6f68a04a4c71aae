"""The merges of byte pair encoding: the most frequent pair of neighbours becomes one symbol, again and again.

Sennrich, Haddow and Birch, "Neural Machine Translation of Rare Words with Subword Units" (ACL 2016), over bytes as in
GPT-2. Of equally frequent pairs the smallest (left id, then right id) is merged first. Works on the distinct words of a
corpus, weighted by how often they occur. Four ideas make it fast:

- Words are linked lists of symbols in one array, and every pair keeps the positions where it occurs, so a merge touches
  only these. A new pair gets all its positions during the merge that creates its younger symbol, so its list is written
  once, contiguous, and only ever goes stale; a position is checked when it is used.
- A merge first adds up, per neighbouring symbol, what it does to the pair counts, in arrays indexed by symbol, and
  touches the hash table of pairs once per neighbour instead of four times per occurrence.
- Pairs wait in a heap with the count they had when they were pushed. Counts of existing pairs only fall, so the top is
  right when its count is still true, and otherwise sinks to its place.
- Most pairs are too rare to be merged ever. Only pairs above a threshold are tracked; when none is left, the threshold
  falls, the words are packed without the gaps that merges left, and the pairs are counted afresh.
"""

import threading
from collections.abc import Callable

import numpy as np

from tokenization.jit import address, copy_row, inlined, kernel, leading_zeros, prefetch
from tokenization.words import M0

SYMBOL, PREVIOUS, NEXT, WORD = 0, 1, 2, 3  # columns of the cells; a cell that was merged away has symbol NONE
CELL = 16  # bytes
NONE = -1
AHEAD = 10  # how many occurrences ahead their cells are asked for
KEY, COUNT, FIRST, LENGTH = 0, 1, 2, 3  # columns of the tracked pairs: ids packed, count, slice of the positions
DONE, STOP = 0, 1  # control words shared with the thread that watches
FALL = 256  # by how much the threshold falls when no tracked pair is left
MIN_COUNT = 2  # a pair that occurs once is no repetition


# ---- pairs by key: an open-addressing table of (key, index of the pair), key NONE where empty


@inlined
def _pair_key(left, right):
    return np.int64(left) << 32 | np.int64(right)


@inlined
def _home(key, table):
    """Slot where the search for a key begins."""
    return np.int64((np.uint64(key) * M0) >> np.uint64(leading_zeros(np.uint64(table.shape[0] - 1))))


@inlined
def _find(key, table):
    """Slot of a pair in the table, or the empty slot where it belongs."""
    slot = _home(key, table)
    while table[slot, 0] != NONE and table[slot, 0] != key:
        slot = (slot + 1) & (table.shape[0] - 1)
    return slot


@inlined
def _index(key, table):
    """Index of a pair, or NONE."""
    slot = _find(key, table)
    return table[slot, 1] if table[slot, 0] == key else NONE


@kernel
def _table_of(pairs, used, slots):
    """A table of the first `used` pairs, at most half full."""
    while slots < 2 * used:
        slots *= 2
    table = np.full((slots, 2), NONE, np.int64)
    for index in range(used):
        slot = _find(pairs[index, KEY], table)
        table[slot, 0], table[slot, 1] = pairs[index, KEY], index
    return table


@kernel
def _with_room(pairs, used):
    """The pairs, in twice the room if there is none left."""
    if used < pairs.shape[0]:
        return pairs
    larger = np.empty((2 * pairs.shape[0], 4), np.int64)
    for index in range(used):
        copy_row(larger, index, pairs, index)
    return larger


# ---- the heap of (count, key), largest count first, then smallest key


@inlined
def _before(count, key, other_count, other_key):
    return count > other_count or (count == other_count and key < other_key)


@inlined
def _push(heap, size, count, key):
    """Add an entry to the heap of that size, which must have room."""
    i = size
    while i > 0:
        parent = (i - 1) >> 1
        if not _before(count, key, heap[parent, 0], heap[parent, 1]):
            break
        heap[i, 0], heap[i, 1] = heap[parent, 0], heap[parent, 1]
        i = parent
    heap[i, 0], heap[i, 1] = count, key


@kernel
def _sink(heap, size, i, count, key):
    """Put an entry at position i, below which all is in order, or where it belongs beneath."""
    while True:
        child = 2 * i + 1
        if child >= size:
            break
        if child + 1 < size and _before(heap[child + 1, 0], heap[child + 1, 1], heap[child, 0], heap[child, 1]):
            child += 1
        if _before(count, key, heap[child, 0], heap[child, 1]):
            break
        heap[i, 0], heap[i, 1] = heap[child, 0], heap[child, 1]
        i = child
    heap[i, 0], heap[i, 1] = count, key


# ---- words


@kernel
def _cells_of(data, offsets, byte_ids):
    """Every word as a linked list of the symbols of its bytes: int32[bytes, 4]."""
    cells = np.empty((data.size, 4), np.int32)
    for word in range(offsets.size - 1):
        first, last = offsets[word], offsets[word + 1] - 1
        for i in range(first, last + 1):
            cells[i, SYMBOL] = byte_ids[data[i]]
            cells[i, PREVIOUS] = i - 1 if i > first else NONE
            cells[i, NEXT] = i + 1 if i < last else NONE
            cells[i, WORD] = word
    return cells


@kernel
def _pack(cells, used):
    """Move the symbols together over the gaps; words of one symbol go too. Returns the number of cells left."""
    kept = 0
    i = 0
    while i < used:
        if cells[i, SYMBOL] == NONE or (cells[i, PREVIOUS] == NONE and cells[i, NEXT] == NONE):
            i += 1
            continue
        previous = NONE
        while i != NONE:  # i is the first symbol of a word
            cells[kept, SYMBOL], cells[kept, WORD] = cells[i, SYMBOL], cells[i, WORD]
            following = cells[i, NEXT]
            cells[kept, PREVIOUS] = previous
            cells[kept, NEXT] = kept + 1 if following != NONE else NONE
            previous = kept
            kept += 1
            last = i
            i = following
        i = last + 1
    return kept


@kernel
def _count_pairs(cells, used, counts):
    """All pairs of neighbours: (pairs, number of pairs, index of the pair at every cell or NONE)."""
    pairs = np.empty((1 << 12, 4), np.int64)
    table = np.full((1 << 13, 2), NONE, np.int64)
    at = np.empty(used, np.int32)
    found = 0
    for i in range(used):
        j = cells[i, NEXT]
        if j == NONE:
            at[i] = NONE
            continue
        key = _pair_key(cells[i, SYMBOL], cells[j, SYMBOL])
        slot = _find(key, table)
        index = table[slot, 1]
        if table[slot, 0] != key:
            pairs = _with_room(pairs, found)
            index = found
            table[slot, 0], table[slot, 1] = key, index
            pairs[index, KEY], pairs[index, COUNT], pairs[index, FIRST], pairs[index, LENGTH] = key, 0, 0, 0
            found += 1
            if 2 * found > table.shape[0]:
                table = _table_of(pairs, found, 4 * table.shape[0])
        pairs[index, COUNT] += counts[cells[i, WORD]]
        pairs[index, LENGTH] += 1
        at[i] = index
    return pairs, found, at


@kernel
def _track(pairs, found, at, threshold, positions):
    """Keep the pairs that occur at least `threshold` times and write down where.

    Returns (pairs, how many, their table, used positions).
    """
    renamed = np.full(found, NONE, np.int32)
    kept = np.empty((found + 1, 4), np.int64)
    tracked = used = 0
    for index in range(found):
        if pairs[index, COUNT] >= threshold:
            renamed[index] = tracked
            copy_row(kept, tracked, pairs, index)
            kept[tracked, FIRST] = used
            used += pairs[index, LENGTH]
            kept[tracked, LENGTH] = 0
            tracked += 1
    for i in range(at.size):
        if at[i] != NONE and renamed[at[i]] != NONE:
            index = renamed[at[i]]
            positions[kept[index, FIRST] + kept[index, LENGTH]] = i
            kept[index, LENGTH] += 1
    return kept, tracked, _table_of(kept, tracked, 1 << 12), used


@kernel
def _merge_everywhere(cells, places, left, right, new, counts, neighbours, sums, records):
    """Replace `left right` by `new` at the given places (ascending), stale ones skipped.

    neighbours: int32[2, ids], all NONE: for a symbol before (0) or after (1) a merged pair the row of `sums` about it.
    sums: int64[:, 4], rows of (symbol, side, count of the old pair lost, count of the new pair gained).
    records: int32[:, 2], (row, position) of every occurrence of a new pair.
    Returns (rows used, records used).
    """
    rows = recorded = 0
    first_cell = address(cells)
    for i in range(places.size):
        t = places[i]
        if i + AHEAD < places.size:
            prefetch(first_cell + CELL * np.int64(places[i + AHEAD]))
        if cells[t, SYMBOL] != left:
            continue
        u = cells[t, NEXT]
        if u == NONE or cells[u, SYMBOL] != right:
            continue
        weight = counts[cells[t, WORD]]
        before, after = cells[t, PREVIOUS], cells[u, NEXT]
        cells[t, SYMBOL] = new
        cells[t, NEXT] = after
        cells[u, SYMBOL] = NONE
        if after != NONE:
            cells[after, PREVIOUS] = t
        for side in range(2):
            place = before if side == 0 else after
            if place == NONE:
                continue
            symbol = cells[place, SYMBOL]
            row = neighbours[side, symbol]
            if row == NONE:
                row = rows
                rows += 1
                neighbours[side, symbol] = row
                sums[row, 0], sums[row, 1], sums[row, 2], sums[row, 3] = symbol, side, 0, 0
            if side == 0 and symbol == new:
                # `left right left right`: the pair (new, left) just noted is gone again
                sums[neighbours[1, left], 3] -= weight
            else:
                sums[row, 2] += weight
            sums[row, 3] += weight
            records[recorded, 0] = row
            records[recorded, 1] = place if side == 0 else t
            recorded += 1
    return rows, recorded


@inlined
def _prefetch_row(symbol, side, left, right, new, table):
    """Ask for the table's slots of the old and the new pair of a row of sums."""
    old = _pair_key(symbol, left) if side == 0 else _pair_key(right, symbol)
    young = _pair_key(symbol, new) if side == 0 else _pair_key(new, symbol)
    prefetch(address(table) + 16 * _home(old, table))
    prefetch(address(table) + 16 * _home(young, table))


@kernel
def learn(data, offsets, counts, byte_ids, merges, merge_counts, control):
    """Fill merges (int32[n, 2], pairs of ids) and merge_counts (int64[n]); returns how many merges there are.

    data: uint8[:], offsets: int64[words + 1], counts: int64[words]: the distinct words and how often each occurs.
    byte_ids: int32[256], the id of every byte, below 256; merge i makes id 256 + i.
    control: int64[2]: DONE is set to the merges made so far; STOP may be set by another thread to end early.
    """
    cells = _cells_of(data, offsets, byte_ids)
    used = data.size
    ids = 256 + merges.shape[0]
    neighbours = np.full((2, ids), NONE, np.int32)
    sums = np.empty((2 * ids, 4), np.int64)
    made = 0
    threshold = np.int64(0)  # decided when the pairs have been counted
    while made < merges.shape[0] and threshold != MIN_COUNT and control[STOP] == 0:
        used = _pack(cells, used)
        pairs, found, at = _count_pairs(cells, used, counts)
        top = np.int64(0)
        for index in range(found):
            top = max(top, pairs[index, COUNT])
        threshold = max(top // FALL, MIN_COUNT) if threshold == 0 else max(min(threshold // FALL, top // 2), MIN_COUNT)
        # every merge takes a cell away and adds at most two positions
        positions = np.empty(3 * used, np.int32)
        records = np.empty((2 * used, 2), np.int32)
        pairs, tracked, table, placed = _track(pairs, found, at, threshold, positions)
        heap = np.empty((2 * tracked + 1024, 2), np.int64)
        waiting = tracked
        for index in range(tracked):
            heap[index, 0], heap[index, 1] = pairs[index, COUNT], pairs[index, KEY]
        for i in range(waiting // 2 - 1, -1, -1):
            _sink(heap, waiting, i, heap[i, 0], heap[i, 1])
        while waiting > 0 and made < merges.shape[0] and control[STOP] == 0:
            count, key = heap[0, 0], heap[0, 1]
            index = _index(key, table)
            if pairs[index, COUNT] != count and pairs[index, COUNT] >= threshold:
                _sink(heap, waiting, 0, pairs[index, COUNT], key)
                continue
            waiting -= 1
            _sink(heap, waiting, 0, heap[waiting, 0], heap[waiting, 1])
            if pairs[index, COUNT] < threshold:
                continue
            left, right, new = key >> 32, key & 0xFFFFFFFF, 256 + made
            merges[made, 0], merges[made, 1], merge_counts[made] = left, right, count
            made += 1
            control[DONE] = made
            first = pairs[index, FIRST]
            places = positions[first : first + pairs[index, LENGTH]]
            rows, recorded = _merge_everywhere(cells, places, left, right, new, counts, neighbours, sums, records)
            pairs[index, COUNT] = 0
            if waiting + rows > heap.shape[0]:
                larger = np.empty((2 * (waiting + rows), 2), np.int64)
                for i in range(waiting):
                    larger[i, 0], larger[i, 1] = heap[i, 0], heap[i, 1]
                heap = larger
            for row in range(rows):
                _prefetch_row(sums[row, 0], sums[row, 1], left, right, new, table)
            for row in range(rows):
                symbol, side, lost, gained = sums[row, 0], sums[row, 1], sums[row, 2], sums[row, 3]
                neighbours[side, symbol] = NONE
                old = _index(_pair_key(symbol, left) if side == 0 else _pair_key(right, symbol), table)
                if old != NONE:
                    pairs[old, COUNT] -= lost
                sums[row, 0] = NONE
                if gained >= threshold:
                    pairs = _with_room(pairs, tracked)
                    key = _pair_key(symbol, new) if side == 0 else _pair_key(new, symbol)
                    pairs[tracked, KEY], pairs[tracked, COUNT], pairs[tracked, LENGTH] = key, gained, 0
                    slot = _find(key, table)
                    table[slot, 0], table[slot, 1] = key, tracked
                    sums[row, 0] = tracked
                    tracked += 1
                    if 2 * tracked > table.shape[0]:
                        table = _table_of(pairs, tracked, 2 * table.shape[0])
                    _push(heap, waiting, gained, key)
                    waiting += 1
            # each new pair's positions side by side: first how many, then where
            for r in range(recorded):
                if sums[records[r, 0], 0] != NONE:
                    pairs[sums[records[r, 0], 0], LENGTH] += 1
            for row in range(rows):
                if sums[row, 0] != NONE:
                    pairs[sums[row, 0], FIRST] = placed
                    placed += pairs[sums[row, 0], LENGTH]
                    pairs[sums[row, 0], LENGTH] = 0
            for r in range(recorded):
                index = sums[records[r, 0], 0]
                if index != NONE:
                    positions[pairs[index, FIRST] + pairs[index, LENGTH]] = records[r, 1]
                    pairs[index, LENGTH] += 1
    return made


def learn_merges(
    words: tuple[np.ndarray, np.ndarray, np.ndarray],
    n_merges: int,
    byte_ids: np.ndarray | None = None,
    progress: Callable[[int], None] = lambda done: None,
) -> tuple[np.ndarray, np.ndarray]:
    """The merges of these words and the count of each pair when it was merged: (int32[n, 2], int64[n]).

    words: what `WordCounts.unpack` returns. There are fewer than `n_merges` if no pair occurs twice any more. byte_ids
    (int32[256]) decides ties between bytes; a byte's value by default. `progress(done)` is called now and then.
    """
    data, offsets, counts = words
    if data.size > np.iinfo(np.int32).max // 4:
        raise ValueError("the distinct words take more than half a gigabyte")
    byte_ids = np.arange(256, dtype=np.int32) if byte_ids is None else byte_ids.astype(np.int32)
    merges, merge_counts = np.empty((n_merges, 2), np.int32), np.empty(n_merges, np.int64)
    control = np.zeros(2, np.int64)
    outcome: list = []

    def work():
        try:
            outcome.append(learn(data, offsets, counts, byte_ids, merges, merge_counts, control))
        except BaseException as error:
            outcome.append(error)

    # the kernel holds no GIL: this thread watches its progress and can interrupt it
    thread = threading.Thread(target=work)
    thread.start()
    try:
        while True:
            thread.join(0.1)
            progress(int(control[DONE]))
            if outcome:
                break
    finally:
        control[STOP] = 1
        thread.join()
    if isinstance(outcome[0], BaseException):
        raise outcome[0]
    made = outcome[0]
    return merges[:made], merge_counts[:made]
