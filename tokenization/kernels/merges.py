"""The merges of byte pair encoding: the most frequent pair of neighbors becomes one symbol, again and again.

Sennrich, Haddow and Birch, "Neural Machine Translation of Rare Words with Subword Units" (ACL 2016), over bytes as in
GPT-2 (2019). Of equally frequent pairs the smallest (left id, then right id) is merged first. It works on the distinct
words of a corpus, weighted by how often they occur.

Plain Python: `reference.learn`, and `reference.learn_incrementally`, which this one follows. What makes it fast:

- Both neighbors of a pair are found beside it, and a merge touches a line of memory or two for each of its places
  (`cells.py`).
- Every pair keeps the places where it occurs. A new pair gets all of them during the merge that creates its younger
  symbol, so its list is written once, contiguous, and only ever goes stale; a place is checked when it is used.
- A merge first replaces the pair everywhere, then adds up by neighboring symbol what this does to the counts, and only
  then touches the table of pairs, once per neighbor. The loops over places do without branches that depend on the
  data: a processor guesses these wrong too often, which costs more than the work they would save.
- Most pairs are too rare to be merged ever. Only pairs above a threshold are tracked (`candidates.py`); when none is
  left, the threshold falls, the words are packed to a cell for each symbol, and the pairs are counted afresh.

One merge, of `a b`, in the words `xab` (twice) and `xaby` (once), whose places are the cells of the two `a`:

    replace   x ab, x ab y                                          both places, each with the symbols beside it
    add up    before x: weight 3, 2 places; after EDGE: 2, 1; after y: 1, 1
    update    `x a` loses 3, `x ab` is new with 3; `b y` loses 1, `ab y` is new with 1
    places    of `x ab`: the cells of the two `x`; of `ab y`: the cell of the second `ab`
"""

from __future__ import annotations

from collections.abc import Callable
from concurrent.futures import wait
from typing import NamedTuple

import numpy as np

from textmill.errors import UserError
from textmill.kernels.jit import AHEAD, address, inlined, kernel, prefetch
from textmill.mapping import Threads
from tokenization.kernels.candidates import (
    COUNT,
    KEY,
    NONE,
    WAITING,
    candidates_of,
    find,
    first_and_length,
    key_of,
    lacks_room,
    prefetch_pair,
    prefetch_slot,
    take,
    track,
    with_room,
)
from tokenization.kernels.cells import CELL, EDGE, LINE, WEIGHT, cells_of, count_pairs, pack
from tokenization.kernels.word_counts import CountedWords

BEFORE, AFTER = 0, 1  # sides of a merged pair
SYMBOL_AND_SIDE, SUM, PLACES, ROW = range(4)  # columns of the sums
DONE, STOP = 0, 1  # control words shared with the thread that watches
WATCH_SECONDS = 0.02  # from one look at the merges to the next
FALL = 4096  # by how much the threshold falls when no tracked pair is left
MIN_COUNT = 2  # a pair that occurs once is no repetition


class Merge(NamedTuple):
    """A pair of symbols and the symbol that replaces it (all int64)."""

    left: int
    right: int
    new: int


class Merges(NamedTuple):
    """The merges in the order in which they were made."""

    pairs: np.ndarray
    """int32[merges, 2]: left and right id; merge i makes id 256 + i."""
    counts: np.ndarray
    """int64[merges]: how often the pair occurred when it was merged."""


class Neighbors(NamedTuple):
    """Work space of one merge: what it does to the counts, added up by the symbols beside the merged pair."""

    row_at: np.ndarray
    """int32[2, symbols]: the row of `sums` about a symbol BEFORE or AFTER the pair; all NONE between merges."""
    sums: np.ndarray
    """int64[2 * symbols, 4]: the symbol and its side, the SUM of the weights of the PLACES, their number, and the ROW
    of the pair that the symbol was in. The first three are zero between merges."""
    row_of: np.ndarray
    """int32[2 * cells]: for every place of the merged pair two new pairs, as rows of `sums` …"""
    place_of: np.ndarray
    """int32[2 * cells]: … and where they are."""


# ---- one merge


@inlined
def _ask_for_places(candidates, places):
    """Ask for the places of the pair that will be merged next, most likely; returns where its first ones are.

    Most pairs have a few places, so that a merge would wait for its pair, then for its places, then for its cells.
    """
    pairs, _, _, heap, sizes, _ = candidates
    waiting = sizes[WAITING]
    for i in range(1, min(waiting, 3)):  # one of these is next after it
        prefetch_pair(heap[i, 2], pairs)
    if waiting == 0:
        return 0, 0
    first, length = first_and_length(pairs, heap[0, 2])
    prefetch(address(places) + 4 * first)
    return first, first + min(length, AHEAD)


@inlined
def _ask_for_cells(cells, places):
    """Ask for the cells at places and for their weights."""
    first_cell, first_weight = address(cells.symbols), address(cells.weights)
    for place in places:
        prefetch(first_cell + CELL * np.int64(place))
        prefetch(first_weight + WEIGHT * np.int64(place // LINE))


@kernel
def _replace(cells, places, merge, merged):
    """Replace the pair at the given places (int32[:], ascending) where it still is; returns how many these were.

    merged: int32[:, 3] gets of each the place and the symbols before and after it.
    """
    symbols, weights, lengths = cells
    left, right, new = np.int32(merge.left), np.int32(merge.right), np.int32(merge.new)
    left_length, right_length = np.int64(lengths[left]), np.int64(lengths[right])
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
def _add_up(merged, new, cells, neighbors):
    """Add up what replacing a pair by `new` at `merged` does, by neighboring symbol.

    Returns (rows of the sums, weight of those places where `left right left right` became `new new`).
    """
    _, weights, lengths = cells
    row_at, sums, row_of, place_of = neighbors
    rows = twice = np.int64(0)
    for i in range(merged.shape[0]):
        place, before, after = merged[i, 0], merged[i, 1], merged[i, 2]
        weight = weights[place // LINE]
        row = _row(rows, BEFORE, before, row_at)
        rows += row == rows
        _add(sums, row, np.int64(before) << 1 | BEFORE, weight)
        row_of[2 * i], place_of[2 * i] = row, place - lengths[before]
        row = _row(rows, AFTER, after, row_at)
        rows += row == rows
        _add(sums, row, np.int64(after) << 1 | AFTER, weight)
        row_of[2 * i + 1], place_of[2 * i + 1] = row, place
        if before == new:
            twice += weight
    return rows, twice


@inlined
def _row(rows, side, symbol, row_at):
    """The row about a neighbor, which is the next one, `rows`, if it has none yet."""
    row = np.int64(row_at[side, symbol])
    row = rows if row == NONE else row
    row_at[side, symbol] = row
    return row


@inlined
def _add(sums, row, symbol_and_side, weight):
    """Add a place to a row."""
    sums[row, SYMBOL_AND_SIDE] = symbol_and_side
    sums[row, SUM] += weight
    sums[row, PLACES] += 1


@inlined
def _pair_beside(symbol, side, merged_left, merged_right):
    """Key of the pair of a neighbor and the symbol next to it."""
    return key_of(symbol, merged_left) if side == BEFORE else key_of(merged_right, symbol)


@kernel
def _find_merged(neighbors, rows, merge, pairs, table):
    """Write into the sums the row of the pair that each neighbor was in; ask for all that its update needs.

    Leaves `row_at` as it was before the merge.
    """
    row_at, sums, _, _ = neighbors
    left, right, new = merge
    for row in range(rows):
        symbol, side = sums[row, SYMBOL_AND_SIDE] >> 1, sums[row, SYMBOL_AND_SIDE] & 1
        row_at[side, symbol] = NONE
        prefetch_slot(_pair_beside(symbol, side, left, right), table)
        prefetch_slot(_pair_beside(symbol, side, new, new), table)
    for row in range(rows):
        symbol, side = sums[row, SYMBOL_AND_SIDE] >> 1, sums[row, SYMBOL_AND_SIDE] & 1
        sums[row, ROW] = find(_pair_beside(symbol, side, left, right), table)
        prefetch_pair(sums[row, ROW], pairs)


@kernel
def _update_pairs(sums, merge, twice, candidates, nowhere):
    """Lower the counts of the pairs that were merged into, track the new ones.

    Leaves the sums as they were before the merge, but for where the places of each new pair begin, in the first column.
    """
    left, _, new = merge
    pairs, threshold = candidates.pairs, candidates.threshold
    for row in range(sums.shape[0]):
        symbol, side = sums[row, SYMBOL_AND_SIDE] >> 1, sums[row, SYMBOL_AND_SIDE] & 1
        weight, length = sums[row, SUM], sums[row, PLACES]
        sums[row, 0], sums[row, SUM], sums[row, PLACES] = nowhere, 0, 0
        if symbol == EDGE:
            continue
        if side == AFTER or symbol != new:  # a `new left` that became `new new` had not been a pair before
            old = sums[row, ROW]
            if old != NONE:
                pairs[old, COUNT] -= weight
        if side == AFTER and symbol == left:
            weight -= twice
        if weight >= threshold:
            sums[row, 0] = track(candidates, _pair_beside(symbol, side, new, new), weight, length)


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
def learn(words, byte_ids, merges, control):
    """Fill `merges` (`Merges`); returns how many there are.

    words: `CountedWords`. byte_ids: int32[256], the id of every byte, below 256.
    control: int64[2]: DONE is set to the merges made so far; STOP may be set by another thread to end early.
    """
    wanted, size = merges.counts.size, words.data.size
    cells = cells_of(words, byte_ids, 256 + wanted)
    symbols = cells.lengths.size
    lines = cells.weights.size
    # every merge takes a symbol away and places at most two pairs; places of rare pairs go `nowhere`, into no slice
    places, nowhere = np.empty(5 * size, np.int32), 3 * size
    neighbors = Neighbors(
        np.full((2, symbols), NONE, np.int32),
        np.zeros((2 * symbols, 4), np.int64),
        np.empty(2 * size, np.int32),
        np.empty(2 * size, np.int32),
    )
    merged = np.empty((size, 3), np.int32)
    found_at = np.empty(size + 1, np.int64)
    made = 0
    threshold = np.int64(0)
    while made < wanted and threshold != MIN_COUNT and control[STOP] == 0:
        if made > 0:
            lines = pack(cells, lines)
        pairs, found, placed = count_pairs(cells, lines, 256 + made, places, found_at)
        threshold = _next_threshold(pairs, found, threshold)
        candidates = candidates_of(pairs, found, threshold, placed)
        while made < wanted and control[STOP] == 0:
            index = take(candidates)
            if index == NONE:
                break
            key, count = candidates.pairs[index, KEY], candidates.pairs[index, COUNT]
            first, length = first_and_length(candidates.pairs, index)
            merge = Merge(key >> 32, key & 0xFFFFFFFF, 257 + made)
            merges.pairs[made, 0], merges.pairs[made, 1] = merge.left - 1, merge.right - 1
            merges.counts[made] = count
            made += 1
            control[DONE] = made
            cells.lengths[merge.new] = cells.lengths[merge.left] + cells.lengths[merge.right]
            candidates.pairs[index, COUNT] = 0
            soon, upto = _ask_for_places(candidates, places)
            n = _replace(cells, places[first : first + length], merge, merged)
            _ask_for_cells(cells, places[soon:upto])
            rows, twice = _add_up(merged[:n], merge.new, cells, neighbors)
            if lacks_room(candidates, rows):
                candidates = with_room(candidates, rows)
            _find_merged(neighbors, rows, merge, candidates.pairs, candidates.table)
            _update_pairs(neighbors.sums[:rows], merge, twice, candidates, nowhere)
            _write_places(neighbors.sums, neighbors.row_of[: 2 * n], neighbors.place_of[: 2 * n], places)
    return made


def learn_merges(
    words: CountedWords,
    n_merges: int,
    byte_ids: np.ndarray | None = None,
    watch: Callable[[np.ndarray], None] = lambda merges: None,
) -> tuple[np.ndarray, np.ndarray]:
    """The merges of these words and the count of each pair when it was merged: (int32[n, 2], int64[n]).

    Args:
        words: what `WordCounts.unpack` returns.
        n_merges: how many; there are fewer if no pair occurs twice any more.
        byte_ids: int32[256], which decides ties between bytes; a byte's value by default.
        watch: is called now and then with the merges made so far, and with all of them at the end.

    Raises:
        UserError: the words take more cells than 32 bits can number, or more memory than there is.
    """
    if 2 * words.data.size + LINE * len(words.counts) > np.iinfo(np.int32).max:
        raise UserError(
            f"the {len(words.counts):,} distinct words take {words.data.size / 1e9:.1f} GB, more than their places can "
            "be numbered for; train on a part of the corpus"
        )
    byte_ids = np.arange(256, dtype=np.int32) if byte_ids is None else byte_ids.astype(np.int32)
    merges = Merges(np.empty((n_merges, 2), np.int32), np.empty(n_merges, np.int64))
    control = np.zeros(2, np.int64)
    made = 0
    with Threads(1) as pool:
        # the kernel holds no GIL: this thread watches it meanwhile, and can interrupt it
        learning = pool.submit(learn, words, byte_ids, merges, control)
        try:
            while not learning.done():
                watch(merges.pairs[:made])
                # shown only after the pause, for then the merges that it counts can surely be seen by this thread too
                made = int(control[DONE])
                wait([learning], WATCH_SECONDS)
        finally:
            control[STOP] = 1
    try:
        made = learning.result()
    except MemoryError as error:
        raise UserError(
            f"the {len(words.counts):,} distinct words of the corpus need more memory than there is; train on a part "
            "of the corpus"
        ) from error
    watch(merges.pairs[:made])
    return merges.pairs[:made], merges.counts[:made]
