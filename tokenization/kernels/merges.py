"""The merges of byte pair encoding: the most frequent pair of neighbours becomes one symbol, again and again.

Sennrich, Haddow and Birch, "Neural Machine Translation of Rare Words with Subword Units" (ACL 2016), over bytes as in
GPT-2. Of equally frequent pairs the smallest (left id, then right id) is merged first. Works on the distinct words of a
corpus, weighted by how often they occur. What makes it fast:

- The bytes of a word are a row of cells, and a symbol is written in the first and the last of the cells it covers. So
  both neighbours of a pair are found beside it, and a merge touches a line of memory or two for each of its places.
- Every pair keeps the places where it occurs. A new pair gets all of them during the merge that creates its younger
  symbol, so its list is written once, contiguous, and only ever goes stale; a place is checked when it is used.
- A merge first replaces the pair everywhere, then adds up by neighbouring symbol what this does to the counts, and only
  then touches the table of pairs, once per neighbour. The loops over places do without branches that depend on the
  data: a processor guesses these wrong too often, which costs more than the work they would save.
- Most pairs are too rare to be merged ever. Only pairs above a threshold are tracked; when none is left, the threshold
  falls, the words are packed to a cell for each symbol, and the pairs are counted afresh.
- Pairs are counted by sorting: the places by left symbol, then those of each left symbol by right symbol.
"""

from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor, wait

import numpy as np

from textmill.errors import UserError
from tokenization.kernels.candidates import (
    CLASSES,
    COUNT,
    FIRST,
    KEY,
    LENGTH,
    NONE,
    enter,
    find,
    key_of,
    prefetch_pair,
    prefetch_slot,
    put,
    table_of_pairs,
    take,
    with_room,
)
from tokenization.kernels.jit import AHEAD, address, inlined, kernel, prefetch

# A symbol is an id + 1. Words lie in lines of 8 cells (int32), each word from the second cell of a line on: the cell
# before a word and those after it are EDGE. A cell inside a symbol is NONE. Each line has the weight of its word.
EDGE = 0
LINE = 8
CELL, WEIGHT = 4, 8  # bytes
BEFORE, AFTER = 0, 1  # sides of a merged pair
DONE, STOP = 0, 1  # control words shared with the thread that watches
WATCH_SECONDS = 0.02  # from one look at the merges to the next
FALL = 4096  # by how much the threshold falls when no tracked pair is left
MIN_COUNT = 2  # a pair that occurs once is no repetition


# ---- words


@kernel
def _symbols_of(data, offsets, counts, byte_ids):
    """The cells of all words of two bytes and more, and the weights of their lines: (int32[cells], int64[lines])."""
    lines = 0
    for word in range(counts.size):
        if offsets[word + 1] - offsets[word] > 1:
            lines += (offsets[word + 1] - offsets[word]) // LINE + 1
    symbols, weights = np.empty(lines * LINE + 1, np.int32), np.empty(lines, np.int64)
    line = np.int64(0)
    for word in range(counts.size):
        first, last = offsets[word], offsets[word + 1]
        if last - first < 2:
            continue
        at = line * LINE
        symbols[at] = EDGE
        for i in range(first, last):
            at += 1
            symbols[at] = byte_ids[data[i]] + 1
        line = _end_word(symbols, weights, line, at, counts[word])
    symbols[line * LINE] = EDGE
    return symbols, weights


@inlined
def _end_word(symbols, weights, line, at, weight):
    """Weigh the lines of a word from `line` to its last cell, fill up the last; returns the line after it."""
    after = at // LINE + 1
    while line < after:
        weights[line] = weight
        line += 1
    while at < line * LINE:
        at += 1
        symbols[at] = EDGE
    return line


@kernel
def _pack(symbols, weights, lines, lengths):
    """Give every symbol one cell, and leave out words that are one symbol; returns the number of lines left."""
    kept = line = np.int64(0)
    while line < lines:
        weight = weights[line]
        i, at = line * LINE + 1, kept * LINE
        symbols[at] = EDGE
        while symbols[i] != EDGE:
            symbol = symbols[i]
            at += 1
            symbols[at] = symbol
            i += lengths[symbol]
        line = (i - 1) // LINE + 1
        if at > kept * LINE + 1:
            kept = _end_word(symbols, weights, kept, at, weight)
    symbols[kept * LINE] = EDGE
    lengths[:] = 1
    return kept


@kernel
def _count_pairs(symbols, weights, lines, last_symbol, places, found_at):
    """All pairs of neighbours of packed words: (pairs, how many, used places). A pair's places ascend.

    places: int32[cells]; found_at: int64[cells + 1], work space.
    """
    starts = np.zeros(last_symbol + 2, np.int64)  # of what is found of each left symbol
    for i in range(lines * LINE):
        starts[symbols[i] + 1] += (symbols[i] != EDGE) & (symbols[i + 1] != EDGE)
    for symbol in range(1, last_symbol + 2):
        starts[symbol] += starts[symbol - 1]
    for i in range(lines * LINE):
        left, right = symbols[i], symbols[i + 1]
        neighbours = (left != EDGE) & (right != EDGE)
        at = starts[left] if neighbours else found_at.size - 1
        found_at[at] = i << 32 | right
        starts[left] += neighbours  # at last where the next symbol's began
    pairs = np.empty((starts[last_symbol], 5), np.int64)
    found = placed = begin = np.int64(0)
    pair_with = np.full(last_symbol + 1, NONE, np.int32)  # index of the pair of this left symbol and a right one
    for left in range(1, last_symbol + 1):
        end = starts[left]
        known = found
        for k in range(begin, end):
            place, right = found_at[k] >> 32, found_at[k] & 0xFFFFFFFF
            index = np.int64(pair_with[right])
            if index == NONE:
                index = found
                found += 1
                pair_with[right] = index
                pairs[index, KEY], pairs[index, COUNT], pairs[index, LENGTH] = key_of(left, right), 0, 0
            pairs[index, COUNT] += weights[place // LINE]
            pairs[index, LENGTH] += 1
        for index in range(known, found):
            pairs[index, FIRST] = placed
            placed += pairs[index, LENGTH]
        for k in range(begin, end):
            index = np.int64(pair_with[found_at[k] & 0xFFFFFFFF])
            places[pairs[index, FIRST]] = found_at[k] >> 32
            pairs[index, FIRST] += 1
        for index in range(known, found):
            pairs[index, FIRST] -= pairs[index, LENGTH]
            pair_with[pairs[index, KEY] & 0xFFFFFFFF] = NONE
        begin = end
    return pairs, found, placed


@kernel
def _keep_frequent(pairs, found, threshold):
    """Move the pairs that occur at least `threshold` times to the front; returns how many these are."""
    kept = 0
    for index in range(found):
        if pairs[index, COUNT] >= threshold:
            for column in range(LENGTH + 1):
                pairs[kept, column] = pairs[index, column]
            kept += 1
    return kept


# ---- one merge


@kernel
def _replace(symbols, weights, places, left, right, new, left_length, right_length, merged):
    """Replace the pair at the given places (ascending) where it still is; returns how many these were.

    merged: int32[:, 3] gets of each the place and the symbols before and after it.
    """
    left, right, new = np.int32(left), np.int32(right), np.int32(new)
    left_length, right_length = np.int64(left_length), np.int64(right_length)
    first_cell, first_weight = address(symbols), address(weights)
    n = 0
    for i in range(places.size):
        if i + AHEAD < places.size:
            prefetch(first_cell + CELL * np.int64(places[i + AHEAD]))
            prefetch(first_weight + WEIGHT * np.int64(places[i + AHEAD] // LINE))
        place = np.int64(places[i])
        middle = place + left_length
        after = middle + right_length
        there = (symbols[place] == left) & (symbols[middle] == right)
        merged[n, 0], merged[n, 1], merged[n, 2] = place, symbols[place - 1], symbols[after]
        # in this order, for these cells are the same where a symbol has only one
        symbols[middle - 1] = NONE if there else symbols[middle - 1]
        symbols[middle] = NONE if there else symbols[middle]
        symbols[place] = new if there else symbols[place]
        symbols[after - 1] = new if there else symbols[after - 1]
        n += there
    return n


@kernel
def _add_up(merged, left, new, lengths, weights, row_at, sums, row_of, place_of):
    """What replacing a pair at `merged` does, by neighbouring symbol.

    row_at: int32[2, symbols], all NONE: the row of `sums` about a symbol before or after the pair.
    sums: int64[:, 4], all zero: symbol and side, weight and number of the places, and room for the index of the pair.
    row_of, place_of: int32[:], for every place two new pairs, as rows of `sums` and where they are.
    Returns (rows, weight of those places where `left right left right` became `new new`).
    """
    rows = twice = np.int64(0)
    for i in range(merged.shape[0]):
        place, before, after = merged[i, 0], merged[i, 1], merged[i, 2]
        weight = weights[place // LINE]
        rows, row = _row(rows, BEFORE, before, weight, row_at, sums)
        row_of[2 * i], place_of[2 * i] = row, place - lengths[before]
        rows, row = _row(rows, AFTER, after, weight, row_at, sums)
        row_of[2 * i + 1], place_of[2 * i + 1] = row, place
        if before == new:
            twice += weight
    return rows, twice


@inlined
def _row(rows, side, symbol, weight, row_at, sums):
    """Add a place to the row about a neighbour; returns (rows, row)."""
    row = np.int64(row_at[side, symbol])
    fresh = row == NONE
    row = rows if fresh else row
    row_at[side, symbol] = row
    sums[row, 0] = np.int64(symbol) << 1 | side
    sums[row, 1] += weight
    sums[row, 2] += 1
    return rows + fresh, row


@inlined
def _pair_beside(symbol, side, merged_left, merged_right):
    """Key of the pair of a neighbour and the symbol next to it."""
    return key_of(symbol, merged_left) if side == BEFORE else key_of(merged_right, symbol)


@kernel
def _find_merged(sums, left, right, new, row_at, pairs, table):
    """Write into `sums` the index of the pair that each neighbour was in; ask for all that its update needs.

    Leaves `row_at` as it was before the merge.
    """
    for row in range(sums.shape[0]):
        symbol, side = sums[row, 0] >> 1, sums[row, 0] & 1
        row_at[side, symbol] = NONE
        prefetch_slot(_pair_beside(symbol, side, left, right), table)
        prefetch_slot(_pair_beside(symbol, side, new, new), table)
    for row in range(sums.shape[0]):
        symbol, side = sums[row, 0] >> 1, sums[row, 0] & 1
        sums[row, 3] = find(_pair_beside(symbol, side, left, right), table)
        prefetch_pair(sums[row, 3], pairs)


@kernel
def _update_pairs(sums, left, new, twice, threshold, pairs, tracked, placed, nowhere, table, heads, heap, waiting, top):
    """Lower the counts of the pairs that were merged into, track the new ones; returns (tracked, placed, waiting).

    Leaves `sums` as it was before the merge, but for where the places of each new pair begin.
    """
    for row in range(sums.shape[0]):
        symbol, side, weight, length = sums[row, 0] >> 1, sums[row, 0] & 1, sums[row, 1], sums[row, 2]
        sums[row, 0], sums[row, 1], sums[row, 2] = nowhere, 0, 0
        if symbol == EDGE:
            continue
        if side == AFTER or symbol != new:  # a `new left` that became `new new` had not been a pair before
            old = sums[row, 3]
            if old != NONE:
                pairs[old, COUNT] -= weight
        if side == AFTER and symbol == left:
            weight -= twice
        if weight >= threshold:
            pairs[tracked, KEY], pairs[tracked, COUNT] = _pair_beside(symbol, side, new, new), weight
            pairs[tracked, FIRST], pairs[tracked, LENGTH] = placed, length
            enter(pairs[tracked, KEY], tracked, table)
            waiting = put(tracked, pairs, heads, heap, waiting, top)
            tracked += 1
            sums[row, 0] = placed
            placed += length
    return tracked, placed, waiting


@kernel
def _write_places(sums, row_of, place_of, places):
    """Write the places of each new pair side by side."""
    for r in range(row_of.size):
        at = sums[row_of[r], 0]
        places[at] = place_of[r]
        sums[row_of[r], 0] = at + 1


# ---- all merges


@kernel
def _next_threshold(pairs, found, threshold):
    """How often a pair must occur to be tracked; `threshold` is the one before, or 0."""
    most = np.int64(0)
    for index in range(found):
        most = max(most, pairs[index, COUNT])
    if threshold == 0:
        return max(most // FALL, MIN_COUNT)
    return max(min(threshold // FALL, most // 2), MIN_COUNT)


@kernel
def learn(data, offsets, counts, byte_ids, merges, merge_counts, control):
    """Fill merges (int32[n, 2], pairs of ids) and merge_counts (int64[n]); returns how many merges there are.

    data: uint8[:], offsets: int64[words + 1], counts: int64[words]: the distinct words and how often each occurs.
    byte_ids: int32[256], the id of every byte, below 256; merge i makes id 256 + i.
    control: int64[2]: DONE is set to the merges made so far; STOP may be set by another thread to end early.
    """
    symbols, weights = _symbols_of(data, offsets, counts, byte_ids)
    lines = weights.size
    cells = data.size
    lengths = np.ones(257 + merges.shape[0], np.int32)  # cells of every symbol
    row_at = np.full((2, lengths.size), NONE, np.int32)
    sums = np.zeros((2 * lengths.size, 4), np.int64)
    # every merge takes a symbol away and places at most two pairs; where those of rare pairs go nobody looks
    places = np.empty(5 * cells, np.int32)
    nowhere = 3 * cells
    merged = np.empty((cells, 3), np.int32)
    row_of, place_of = np.empty(2 * cells, np.int32), np.empty(2 * cells, np.int32)
    found_at = np.empty(cells + 1, np.int64)
    made = 0
    threshold = np.int64(0)
    while made < merges.shape[0] and threshold != MIN_COUNT and control[STOP] == 0:
        if made > 0:
            lines = _pack(symbols, weights, lines, lengths)
        pairs, found, placed = _count_pairs(symbols, weights, lines, 256 + made, places, found_at)
        threshold = _next_threshold(pairs, found, threshold)
        tracked = _keep_frequent(pairs, found, threshold)
        table, in_table = table_of_pairs(pairs, tracked, threshold, tracked)
        heads, heap = np.full(CLASSES, NONE, np.int64), np.empty((1024, 3), np.int64)
        waiting, top = np.int64(0), np.int64(CLASSES)
        for index in range(tracked):
            put(index, pairs, heads, heap, waiting, top)
        while made < merges.shape[0] and control[STOP] == 0:
            index, heap, waiting, top = take(pairs, heads, heap, waiting, top, threshold)
            if index == NONE:
                break
            left, right, new = pairs[index, KEY] >> 32, pairs[index, KEY] & 0xFFFFFFFF, 257 + made
            merges[made, 0], merges[made, 1], merge_counts[made] = left - 1, right - 1, pairs[index, COUNT]
            made += 1
            control[DONE] = made
            lengths[new] = lengths[left] + lengths[right]
            of_pair = places[pairs[index, FIRST] : pairs[index, FIRST] + pairs[index, LENGTH]]
            pairs[index, COUNT] = 0
            n = _replace(symbols, weights, of_pair, left, right, new, lengths[left], lengths[right], merged)
            rows, twice = _add_up(merged[:n], left, new, lengths, weights, row_at, sums, row_of, place_of)
            pairs, heap = with_room(pairs, tracked, rows), with_room(heap, waiting, rows)
            if 3 * (in_table + rows) > 2 * table.shape[0]:
                table, in_table = table_of_pairs(pairs, tracked, threshold, rows)
            _find_merged(sums[:rows], left, right, new, row_at, pairs, table)
            before = tracked
            tracked, placed, waiting = _update_pairs(
                sums[:rows],
                left,
                new,
                twice,
                threshold,
                pairs,
                tracked,
                placed,
                nowhere,
                table,
                heads,
                heap,
                waiting,
                top,
            )
            in_table += tracked - before
            _write_places(sums, row_of[: 2 * n], place_of[: 2 * n], places)
    return made


def learn_merges(
    words: tuple[np.ndarray, np.ndarray, np.ndarray],
    n_merges: int,
    byte_ids: np.ndarray | None = None,
    watch: Callable[[np.ndarray], None] = lambda merges: None,
) -> tuple[np.ndarray, np.ndarray]:
    """The merges of these words and the count of each pair when it was merged: (int32[n, 2], int64[n]).

    words: what `WordCounts.unpack` returns. There are fewer than `n_merges` if no pair occurs twice any more. byte_ids
    (int32[256]) decides ties between bytes; a byte's value by default. `watch` is called now and then with the merges
    made so far, and with all of them at the end.
    """
    data, offsets, counts = words
    if 2 * data.size + LINE * len(counts) > np.iinfo(np.int32).max:
        raise UserError(
            f"the {len(counts):,} distinct words take {data.size / 1e9:.1f} GB, more than their places can be numbered "
            "for; train on a part of the corpus"
        )
    byte_ids = np.arange(256, dtype=np.int32) if byte_ids is None else byte_ids.astype(np.int32)
    merges, merge_counts = np.empty((n_merges, 2), np.int32), np.empty(n_merges, np.int64)
    control = np.zeros(2, np.int64)
    made = 0
    with ThreadPoolExecutor(1) as pool:
        # the kernel holds no GIL: this thread watches it meanwhile, and can interrupt it
        learning = pool.submit(learn, data, offsets, counts, byte_ids, merges, merge_counts, control)
        try:
            while not learning.done():
                watch(merges[:made])
                # shown only after the pause, for then the merges that it counts can surely be seen by this thread too
                made = int(control[DONE])
                wait([learning], WATCH_SECONDS)
        finally:
            control[STOP] = 1
    made = learning.result()
    watch(merges[:made])
    return merges[:made], merge_counts[:made]
