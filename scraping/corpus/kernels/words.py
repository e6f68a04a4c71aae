"""The words of a text, which are runs of bytes above 32, with a hash of each, and hashes of runs of words.

Plain Python: `reference.word_hash` and `reference.ngram_hashes`.

A word's hash takes its bytes eight at a time, as little-endian integers; the last one may be filled with zeros, which
the length tells from bytes that are zero. Each integer is mixed in by a multiplication and a shift, as in MurmurHash
(Appleby 2008), and the result once more as by SplitMix64 (Steele, Lea and Flood 2014).
"""

from __future__ import annotations

import numpy as np

from textmill.kernels.jit import address, inlined, kernel, load8, load64

SPACE = 32  # bytes up to this one separate words
M0 = np.uint64(0x9E3779B97F4A7C15)
M1 = np.uint64(0xBF58476D1CE4E5B9)
M2 = np.uint64(0x94D049BB133111EB)
OWN_BYTES = np.array([(1 << 8 * n) - 1 for n in range(8)], np.uint64)  # of an integer, the lowest n bytes


@inlined
def mixed(value):
    """Half of SplitMix64."""
    value = (value ^ (value >> np.uint64(30))) * M1
    return value ^ (value >> np.uint64(31))


@inlined
def word_hash(first, start, end, size):
    """The hash of the bytes start .. end of the `size` bytes at an address."""
    h = np.uint64(end - start) * M2
    at = start
    while at + 8 <= end:
        h = (h ^ load64(first + at)) * M0
        h ^= h >> np.uint64(32)
        at += 8
    if at < end:
        rest = np.uint64(0)
        if at + 8 <= size:
            rest = load64(first + at) & OWN_BYTES[end - at]
        else:
            for place in range(end - 1, at - 1, -1):
                rest = (rest << np.uint64(8)) | np.uint64(load8(first + place))
        h = (h ^ rest) * M0
        h ^= h >> np.uint64(32)
    return mixed(h)


@kernel
def find_words(utf8):
    """Start, end and hash of each word of a text: int64[words], int64[words], uint64[words].

    utf8: uint8[:].
    """
    size = len(utf8)
    count = 0
    for i in range(1, size):
        count += (utf8[i] > SPACE) & (utf8[i - 1] <= SPACE)
    if size and utf8[0] > SPACE:
        count += 1
    starts, ends, hashes = np.empty(count, np.int64), np.empty(count, np.int64), np.empty(count, np.uint64)
    first = address(utf8)
    i = 0
    for word in range(count):
        while utf8[i] <= SPACE:
            i += 1
        start = i
        while i < size and utf8[i] > SPACE:
            i += 1
        starts[word], ends[word], hashes[word] = start, i, word_hash(first, start, i, size)
    return starts, ends, hashes


@kernel
def hash_rows(values):
    """The hash of each row of a table: uint64[rows, columns] to uint64[rows]."""
    result = np.empty(len(values), np.uint64)
    for i in range(len(values)):
        combined = values[i, 0]
        for j in range(1, values.shape[1]):
            combined = combined * M2 + values[i, j]
        result[i] = mixed(combined)
    return result


@kernel
def ngrams(hashes, n):
    """The hash of each run of n >= 2 neighbors: uint64[max(0, len(hashes) - n + 1)]."""
    count = max(0, len(hashes) - n + 1)
    result = np.empty(count, np.uint64)
    for i in range(count):
        combined = hashes[i]
        for j in range(1, n):
            combined = combined * M2 + hashes[i + j]
        result[i] = mixed(combined)
    return result


@kernel
def count_common(first, second):
    """How many values two sorted arrays without repetitions have in common."""
    i = j = common = 0
    while i < len(first) and j < len(second):
        a, b = first[i], second[j]
        common += a == b
        i += a <= b
        j += b <= a
    return common
