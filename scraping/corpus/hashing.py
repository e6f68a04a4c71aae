"""Words and word n-grams of a text as arrays of 64-bit hashes: the common ground of template detection, repetition
filters and near-duplicate search, at tens of megabytes a second.

The hashes depend on the bytes alone, not on process, platform or interpreter.
"""

from typing import NamedTuple

import numpy as np

_BASE = np.uint64(0x9E3779B97F4A7C15)
_MIX = np.uint64(0xBF58476D1CE4E5B9)
_GRAM = np.uint64(0x94D049BB133111EB)
_PERIOD = 4096  # powers repeat in words longer than this
_POWERS = np.cumprod(np.full(_PERIOD, _BASE, np.uint64))


class Words(NamedTuple):
    """The words (runs without white space) of a text."""

    data: bytes  # the text as UTF-8
    starts: np.ndarray  # int64 [words], offsets into data
    ends: np.ndarray  # int64 [words]
    hashes: np.ndarray  # uint64 [words]


def words(text: str) -> Words:
    """Split `text` at white space and hash every word."""
    data = text.encode("utf-8", "replace")
    array = np.frombuffer(data, np.uint8)
    inside = array > 32
    edges = np.flatnonzero(np.diff(inside, prepend=False, append=False))
    starts, ends = edges[::2], edges[1::2]
    if not len(starts):
        return Words(data, starts, ends, np.empty(0, np.uint64))
    lengths = ends - starts
    firsts = np.cumsum(lengths) - lengths
    position = np.arange(firsts[-1] + lengths[-1]) - np.repeat(firsts, lengths)
    values = (array[inside].astype(np.uint64) + np.uint64(1)) * _POWERS[position % _PERIOD]
    return Words(data, starts, ends, _mixed(np.add.reduceat(values, firsts)))


def ngrams(hashes: np.ndarray, n: int) -> np.ndarray:
    """uint64 [max(0, len(hashes) - n + 1)]: a hash of each run of `n` neighbours."""
    count = max(0, len(hashes) - n + 1)
    combined = hashes[:count].copy()
    for offset in range(1, n):
        combined *= _GRAM
        combined += hashes[offset : offset + count]
    return _mixed(combined) if n > 1 else combined


def _mixed(values: np.ndarray) -> np.ndarray:
    values = (values ^ (values >> np.uint64(30))) * _MIX
    return values ^ (values >> np.uint64(31))
