"""What a text has in common with other pages of its site, as seen from its top or its bottom.

Words and lines are counted from that edge inwards; for the bottom, a caller reverses them. `known` is a part of a
`boilerplate.Template`: records with `hash` and `pages`, sorted by hash.

Plain Python: `reference.line_starts`, `reference.line_hashes` and `reference.known_blocks`.
"""

from __future__ import annotations

import numpy as np

from scraping.corpus.kernels.words import M2, mixed
from textmill.kernels.jit import inlined, kernel

BLOCK = 32  # words; what two pages of facts share by chance is a third of that
GAP = 16  # words; a title has eight


@inlined
def _pages(hash, known):
    """On how many pages the record of a hash says that it is; 0 if there is none."""
    low, high = 0, len(known)
    while low < high:
        middle = (low + high) // 2
        if known[middle].hash < hash:
            low = middle + 1
        else:
            high = middle
    return known[low].pages if low < len(known) and known[low].hash == hash else np.int64(0)


@kernel
def line_starts(utf8, starts, ends, longest):
    """Lines of a text: int64[lines], the first word of each, and bool[lines].

    Of a line of more than `longest` words each word counts as a line, which the second array says.

    utf8: uint8[:]. starts, ends: int64[words], where its words are.
    """
    count = len(starts)
    lines, is_word = np.empty(count, np.int64), np.empty(count, np.bool_)
    size = first = 0
    for word in range(1, count + 1):
        is_end = word == count
        if not is_end:
            for place in range(ends[word - 1], starts[word]):
                is_end |= utf8[place] == 10
        if is_end and word - first > longest:
            for inside in range(first, word):
                lines[size], is_word[size] = inside, True
                size += 1
            first = word
        elif is_end:
            lines[size], is_word[size] = first, False
            size += 1
            first = word
    return lines[:size], is_word[:size]


@kernel
def line_hashes(words, borders):
    """A hash of each line: uint64[lines].

    words: uint64[:], hashes. borders: int64[lines + 1], the first word of each line, and one past the last word.
    """
    result = np.empty(len(borders) - 1, np.uint64)
    for line in range(len(result)):
        combined = np.uint64(borders[line + 1] - borders[line])
        for word in range(borders[line], borders[line + 1]):
            combined = combined * M2 + words[word]
        result[line] = mixed(combined) | np.uint64(1)  # 0 stands for no line
    return result


@kernel
def known_pages(hashes, known):
    """On how many pages each of these is: int64[:]; 0 if it is not known."""
    result = np.empty(len(hashes), np.int64)
    for i in range(len(hashes)):
        result[i] = _pages(hashes[i], known)
    return result


@kernel
def known_blocks(words, known, end):
    """On how many pages the block is that begins with each word, as far as template may reach: int64[:].

    It ends before the first word that more than `GAP` words separate from the words before `end`, and from all known
    blocks before it.

    words: uint64[:], hashes. Those of blocks are `words.ngrams(words, BLOCK)`.
    """
    count = max(0, len(words) - BLOCK + 1)
    result = np.empty(count, np.int64)
    limit = end + GAP
    for word in range(count):
        if word > limit:
            return result[:word]
        combined = words[word]
        for place in range(word + 1, word + BLOCK):
            combined = combined * M2 + words[place]
        result[word] = _pages(mixed(combined), known)
        if result[word]:
            limit = word + BLOCK + GAP
    return result
