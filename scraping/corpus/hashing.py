"""Words and word n-grams of a text as arrays of 64-bit hashes: the common ground of template detection and
near-duplicate search, at hundreds of megabytes a second.

A hash depends on the bytes alone, not on process, platform or interpreter.
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from scraping.corpus.kernels.words import find_words, ngrams

Hashes = NDArray[np.uint64]
Offsets = NDArray[np.int64]


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
    return WordHashes(utf8, *find_words(np.frombuffer(utf8, np.uint8)))


def hash_ngrams(hashes: Hashes, n: int) -> Hashes:
    """A hash of each run of `n` neighbors: [max(0, len(hashes) - n + 1)]; of one word, the word's own."""
    return ngrams(hashes, n) if n > 1 else hashes.copy()
