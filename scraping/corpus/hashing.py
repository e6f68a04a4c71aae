"""Words and word n-grams of a text as arrays of 64-bit hashes: the common ground of template detection, repetition
filters and near-duplicate search, at tens of megabytes a second.

A word's hash is a polynomial in its bytes, mixed as by SplitMix64 (Steele, Lea and Flood 2014). It depends on the bytes
alone, not on process, platform or interpreter.
"""

from __future__ import annotations

from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

Hashes = NDArray[np.uint64]
Offsets = NDArray[np.int64]

_BASE = np.uint64(0x9E3779B97F4A7C15)
_MIX = np.uint64(0xBF58476D1CE4E5B9)
_GRAM = np.uint64(0x94D049BB133111EB)
_PERIOD = 4096  # powers repeat in words longer than this
_POWERS = np.cumprod(np.full(_PERIOD, _BASE, np.uint64))


class WordHashes(NamedTuple):
    """The words (runs without white space) of a text: where they lie, and their hashes."""

    utf8: bytes  # the text
    starts: Offsets  # [words], into utf8
    ends: Offsets  # [words]
    hashes: Hashes  # [words]


def hash_words(text: str) -> WordHashes:
    """Split `text` at white space and hash every word.

    Example:
        >>> one, two, again = hash_words("tea and tea").hashes
        >>> one == again, one == two
        (np.True_, np.False_)
    """
    utf8 = text.encode("utf-8", "replace")
    array = np.frombuffer(utf8, np.uint8)
    inside = array > 32
    edges = np.flatnonzero(np.diff(inside, prepend=False, append=False))
    starts, ends = edges[::2], edges[1::2]
    if not len(starts):
        return WordHashes(utf8, starts, ends, np.empty(0, np.uint64))
    lengths = ends - starts
    firsts = np.cumsum(lengths) - lengths
    position = np.arange(firsts[-1] + lengths[-1]) - np.repeat(firsts, lengths)
    values = (array[inside].astype(np.uint64) + np.uint64(1)) * _POWERS[position % _PERIOD]
    return WordHashes(utf8, starts, ends, _mixed(np.add.reduceat(values, firsts)))


def hash_ngrams(hashes: NDArray[Any], n: int) -> Hashes:
    """A hash of each run of `n` neighbors along the first axis: [max(0, len(hashes) - n + 1), ...]."""
    count = max(0, len(hashes) - n + 1)
    combined = hashes[:count].copy()
    for offset in range(1, n):
        combined *= _GRAM
        combined += hashes[offset : offset + count]
    return _mixed(combined) if n > 1 else combined


def _mixed(values: Hashes) -> Hashes:
    values = (values ^ (values >> np.uint64(30))) * _MIX
    return values ^ (values >> np.uint64(31))
