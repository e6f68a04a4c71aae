"""Distinct words as rows of cells, where both neighbors of a pair are found beside it, and the counts of all pairs.

Plain Python: the lists of symbols in `reference.learn_incrementally`, and its `tally`.

A symbol is an id + 1. Words lie in lines of 8 cells, each word from the second cell of a line on: the cell before a
word and those after it are EDGE. Each line has the weight of its word, which is how often the word occurs. A symbol is
written in the first and in the last of the cells that it covers, one for each byte; cells between them are NONE.

    `ababc`, which occurs 3 times, and `ab`, which occurs once, before and after `a b` and then `ab c` are merged:

    cells    [ EDGE  a   b   a   b   c  EDGE EDGE | EDGE a  b  EDGE EDGE EDGE EDGE EDGE | EDGE ]   weights [3 | 1]
    `a b`    [ EDGE  ab  ab  ab  ab  c  EDGE EDGE | EDGE ab ab EDGE …
    `ab c`   [ EDGE  ab  ab  abc  ·  abc EDGE …

So a merge writes at most four cells, in a line of memory or two, and moves nothing.
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np

from textmill.kernels.jit import inlined, kernel
from tokenization.kernels.candidates import COUNT, FIRST_BIT, KEY, NONE, SLICE, first_and_length, key_of

EDGE = 0
LINE = 8
CELL, WEIGHT = 4, 8  # bytes


class Cells(NamedTuple):
    """The words of a corpus, cut into symbols."""

    symbols: np.ndarray
    """int32[LINE * lines + 1]: the cells."""
    weights: np.ndarray
    """int64[lines]: how often the word of each line occurs."""
    lengths: np.ndarray
    """int32[symbols + 1]: how many cells each symbol covers."""


@kernel
def cells_of(words, byte_ids, last_symbol):
    """The words of two bytes and more, a symbol for each byte; `words` are `CountedWords`, byte_ids: int32[256]."""
    data, offsets, counts = words
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
    return Cells(symbols, weights, np.ones(last_symbol + 1, np.int32))


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
def pack(cells, lines):
    """Give every symbol one cell, and leave out words that are one symbol; returns the number of lines left."""
    symbols, weights, lengths = cells
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
def count_pairs(cells, lines, last_symbol, places, found_at):
    """All pairs of neighbors of packed words: (pairs as in `Candidates`, how many, used places).

    They are counted by sorting: the places by left symbol, then those of each left symbol by right symbol. The places
    of a pair ascend.

    places: int32[:], at least one for each cell; found_at: int64[cells + 1], work space.
    """
    symbols, weights, _ = cells
    starts = np.zeros(last_symbol + 2, np.int64)  # of what is found of each left symbol
    for i in range(lines * LINE):
        starts[symbols[i] + 1] += (symbols[i] != EDGE) & (symbols[i + 1] != EDGE)
    for symbol in range(1, last_symbol + 2):
        starts[symbol] += starts[symbol - 1]
    for i in range(lines * LINE):
        left, right = symbols[i], symbols[i + 1]
        neighbors = (left != EDGE) & (right != EDGE)
        at = starts[left] if neighbors else found_at.size - 1
        found_at[at] = i << 32 | right
        starts[left] += neighbors  # at last where the next symbol's began
    pairs = np.empty((starts[last_symbol], 4), np.int64)
    found = placed = begin = np.int64(0)
    pair_with = np.full(last_symbol + 1, NONE, np.int32)  # row of the pair of this left symbol and a right one
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
                pairs[index, KEY], pairs[index, COUNT], pairs[index, SLICE] = key_of(left, right), 0, 0
            pairs[index, COUNT] += weights[place // LINE]
            pairs[index, SLICE] += 1
        for index in range(known, found):
            length = pairs[index, SLICE]
            pairs[index, SLICE] |= placed << FIRST_BIT
            placed += length
        for k in range(begin, end):
            index = np.int64(pair_with[found_at[k] & 0xFFFFFFFF])
            places[pairs[index, SLICE] >> FIRST_BIT] = found_at[k] >> 32
            pairs[index, SLICE] += 1 << FIRST_BIT
        for index in range(known, found):
            _, length = first_and_length(pairs, index)
            pairs[index, SLICE] -= length << FIRST_BIT
            pair_with[pairs[index, KEY] & 0xFFFFFFFF] = NONE
        begin = end
    return pairs, found, placed
