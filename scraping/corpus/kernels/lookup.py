"""Which runs of a text's words are among many known ones.

Plain Python: the first place at which `ngrams(hashes, n)` has a member of a set.

The set is a hash table with linear probing: `slots`, uint64[power of two], has hashes, or 0 where a slot is free.
"""

from __future__ import annotations

import numpy as np

from scraping.corpus.kernels.words import M2, mixed
from textmill.kernels.jit import inlined, kernel

FREE = np.uint64(0)


@inlined
def _slot(slots, hash):
    """The slot that has a hash, or the free one where it would be."""
    mask = np.uint64(len(slots) - 1)
    slot = hash & mask
    while slots[slot] != FREE and slots[slot] != hash:
        slot = (slot + np.uint64(1)) & mask
    return slot


@kernel
def insert(slots, owners, hashes, owner):
    """Put hashes into a table that has room for them, and `owner` beside each that was not there: int32[slots]."""
    added = 0
    for hash in hashes:
        slot = _slot(slots, hash | np.uint64(1))
        if slots[slot] == FREE:
            slots[slot], owners[slot] = hash | np.uint64(1), owner
            added += 1
    return added


@kernel
def first_known(slots, hashes, n, start):
    """Place from `start` on of the first run of n words that is known, and its slot; -1 and -1 if none is.

    hashes: uint64[words].
    """
    for place in range(start, len(hashes) - n + 1):
        combined = hashes[place]
        for j in range(1, n):
            combined = combined * M2 + hashes[place + j]
        hash = mixed(combined) | np.uint64(1)
        slot = _slot(slots, hash)
        if slots[slot] == hash:
            return place, np.int64(slot)
    return -1, np.int64(-1)
