"""A vocabulary as tables: from words to ids, and from two ids to the id of the token that they make.

Plain Python: `ranks.get(a + b)` in `reference.encode`, which looks up the joined bytes of two tokens. A kernel has the
ids of both and looks up these.

What matters is the joined bytes, and yet each token has at most one pair. Merges inside the bytes of a token happen in
the same order wherever these bytes stand, because the lowest rank of a word, where it is inside them, is also the
lowest inside them. So the two tokens from which a token is made are always those that merging its own bytes arrives at.

    tokens     a b c, ab (256), bc (257), abc (258)
    `abc`      merging its bytes: a b c → ab c, for 256 < 257. So (ab, c) makes abc, and (a, bc) is not in the table
    elsewhere  a part `a` beside a part `bc` cannot be: in the bytes a b c the pair `a b` is always merged first

A token that merging its bytes does not arrive at has no pair, and is found only as a whole word.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import NamedTuple

import numpy as np

from textmill.kernels.jit import inlined, kernel, leading_zeros, load32, load64, store32, store64
from tokenization.kernels.word_table import (
    ALL,
    INLINE,
    LONG_VALUE,
    M0,
    MORE,
    ONE,
    VALUE,
    BucketTable,
    Slots,
    bytes_of,
    empty_slots,
    enter_long,
    enter_short,
    find_long,
    find_short,
    home_bucket,
    long_key,
    short_key,
    word_view,
)

ID_BITS = 20
ID_LIMIT = 1 << ID_BITS
ID_MASK = np.uint64(ID_LIMIT - 1)
NO_TOKEN = (1 << 26) - 1  # above all ids; with a position in 6 bits below it, 32 bits
NO_PAIR = ALL  # an empty slot of the table of pairs
ONE_ID = ONE << np.uint64(52)  # the second integer of the value of a short word that is one id, which is the first
ONE_LONG_ID = ONE << np.uint64(40)  # beside the id, the value of a long word that is one id

PAIR_TABLES = np.dtype(
    [
        ("byte_ids", np.int64),  # address of uint32[256], the id of every byte
        ("byte_pairs", np.int64),  # address of uint32[65536], the id for two bytes, NO_TOKEN where it is none
        ("pairs", np.int64),  # address of uint64[slots]: (left, right, id) of 20 bits each, or NO_PAIR …
        ("pairs_mask", np.uint64),  # … and its number of slots - 1
    ]
)


class Tokens(NamedTuple):
    """Tokens and their ids."""

    data: np.ndarray
    """uint8[:]: the bytes of all tokens."""
    offsets: np.ndarray
    """int64[tokens + 1]: token t is data[offsets[t] : offsets[t + 1]]."""
    ids: np.ndarray
    """int64[tokens]"""


class PairView(NamedTuple):
    """The tables of PAIR_TABLES as kernels see them."""

    byte_ids: int
    byte_pairs: int
    pairs: Slots


class Parts(NamedTuple):
    """Work space to merge the bytes of a token: where each part starts, and the id that it makes with the next one.

    Both are int64[longest token + 1].
    """

    starts: np.ndarray
    joined: np.ndarray


@inlined
def pair_view(tables):
    """tables: a record of PAIR_TABLES."""
    return PairView(tables.byte_ids, tables.byte_pairs, Slots(tables.pairs, tables.pairs_mask))


@inlined
def _pair_entry(pairs, left, right):
    """Address of the entry of a pair, or of the empty entry where it belongs."""
    key = (np.uint64(left) << np.uint64(ID_BITS)) | np.uint64(right)
    slot = (key * M0) >> np.uint64(leading_zeros(pairs.mask))
    while True:
        entry = pairs.address + np.int64(slot) * 8
        found = load64(entry)
        if found >> np.uint64(ID_BITS) == key or found == NO_PAIR:
            return entry
        slot = (slot + ONE) & pairs.mask


@inlined
def joined_id(pairs, left, right):
    """Id of the token that two neighbors make, or NO_TOKEN."""
    found = load64(_pair_entry(pairs, left, right))
    return np.int64(found & ID_MASK) if found != NO_PAIR else NO_TOKEN


@inlined
def byte_id(tables, byte):
    return np.int64(load32(tables.byte_ids + 4 * byte))


@inlined
def joined_bytes_id(tables, left, right):
    """Id of the token of two bytes, or NO_TOKEN."""
    return np.int64(load32(tables.byte_pairs + 4 * (left << 8 | right)))


@kernel
def fill_vocabulary(tokens, words, pair_tables, parts):
    """Enter every token into the table of words, and the pair that makes it into that of pairs.

    tokens: `Tokens`. words: WORD_TABLE[1], empty, with room for all, the arena a copy of the data of the tokens.
    pair_tables: PAIR_TABLES[1], empty. parts: `Parts`.
    """
    data, offsets, ids = tokens
    text = bytes_of(data)
    view, tables = word_view(words[0]), pair_view(pair_tables[0])
    for token in range(ids.size):
        i, length = offsets[token], offsets[token + 1] - offsets[token]
        token_id = np.uint64(ids[token])
        if length == 1:
            store32(tables.byte_ids + 4 * np.int64(data[i]), np.uint64(ids[token]))
        if length < INLINE:
            key = short_key(text, i, length)
            entry = find_short(view.short, key, home_bucket(view.short, key))
            enter_short(entry, key, token_id)
            store64(entry + MORE, ONE_ID)
        else:
            long = long_key(text.address + i, length)
            enter_long(find_long(view.long, view.arena, long), long, i, ONE_LONG_ID | token_id)
    for token in range(ids.size):
        start, stop = offsets[token], offsets[token + 1]
        if stop - start < 2:
            continue
        middle = _last_cut(text, start, stop, view, parts)
        if middle == stop:
            continue
        left, right = _token_at(text, start, middle, view), _token_at(text, middle, stop, view)
        entry = _pair_entry(tables.pairs, left, right)
        store64(entry, (np.uint64(left) << np.uint64(2 * ID_BITS)) | np.uint64(right << ID_BITS | ids[token]))
        if stop - start == 2:
            both = np.int64(data[start]) << 8 | np.int64(data[start + 1])
            store32(tables.byte_pairs + 4 * both, np.uint64(ids[token]))


@kernel
def _last_cut(text, start, stop, view, parts):
    """Where the last two parts meet when the bytes of a token merge; `stop` if merging ends with more than two."""
    starts, joined = parts
    n = stop - start
    for j in range(n + 1):
        starts[j] = start + j
    for j in range(n - 1):
        joined[j] = _token_at(text, start + j, start + j + 2, view)
    while n > 2:
        lowest, at = NO_TOKEN, -1
        for j in range(n - 1):
            if joined[j] < lowest:
                lowest, at = joined[j], j
        if at < 0:
            return stop
        n -= 1
        for j in range(at + 1, n):
            starts[j] = starts[j + 1]
            joined[j - 1] = joined[j]
        starts[n] = stop
        for j in range(max(at - 1, 0), min(at + 1, n - 1)):
            joined[j] = _token_at(text, starts[j], starts[j + 2], view)
    return starts[1]


@kernel
def _token_at(text, start, stop, view):
    """Id of the token with the bytes start .. stop of a text, or NO_TOKEN."""
    if stop - start < INLINE:
        short = short_key(text, start, stop - start)
        entry = find_short(view.short, short, home_bucket(view.short, short))
        return np.int64(load64(entry + VALUE)) if load64(entry + MORE) != 0 else NO_TOKEN
    value = load64(find_long(view.long, view.arena, long_key(text.address + start, stop - start)) + LONG_VALUE)
    return np.int64(value & ID_MASK) if value != 0 else NO_TOKEN


class Vocabulary:
    """The tokens and the pairs that merge into them, as tables for the kernels. Shared by all threads.

    Args:
        tokens: bytes → id below `ID_LIMIT`; every single byte is among them.

    Attributes:
        words: every token, its value one id as in the encoder's table.
        record: PAIR_TABLES[1].
    """

    def __init__(self, tokens: Mapping[bytes, int]) -> None:
        lengths = np.fromiter(map(len, tokens), np.int64, len(tokens))
        data = np.frombuffer(b"".join(tokens), np.uint8)
        ids = np.fromiter(tokens.values(), np.int64, len(tokens))
        self._byte_ids = np.empty(256, np.uint32)
        self._byte_pairs = np.full(1 << 16, NO_TOKEN, np.uint32)
        self._pairs = np.full(_power_of_two(2 * len(tokens)), NO_PAIR)
        self.record = np.zeros(1, PAIR_TABLES)
        self.record["byte_ids"], self.record["byte_pairs"] = self._byte_ids.ctypes.data, self._byte_pairs.ctypes.data
        self.record["pairs"], self.record["pairs_mask"] = self._pairs.ctypes.data, len(self._pairs) - 1
        long_tokens = int((lengths >= INLINE).sum())
        slots = _power_of_two(8 * len(tokens)), _power_of_two(4 * long_tokens + 64)
        self.words = BucketTable(empty_slots(slots[0]), empty_slots(slots[1]), data.copy())
        offsets = np.concatenate([[0], np.cumsum(lengths)])
        parts = Parts(*np.empty((2, int(lengths.max()) + 1), np.int64))
        fill_vocabulary(Tokens(data, offsets, ids), self.words.record, self.record, parts)
        self.words.set_sizes(len(tokens) - long_tokens, long_tokens, len(data))

    def __len__(self) -> int:
        """Number of tokens."""
        return len(self.words)


def _power_of_two(least: int) -> int:
    return 1 << max(least - 1, 1).bit_length()
