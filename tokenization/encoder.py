"""Words to token ids: a cache in front of byte pair merging by rank.

Merging follows tiktoken: of all neighbours whose joined bytes are a token, the pair with the lowest rank is merged, the
leftmost first; and a word that is itself a token is that token, even where merging would not arrive at it. What matters
is the joined bytes, so *every* way to cut a token into two tokens is a pair of its rank.

A word's ids are remembered under the word, keyed as in `tokenization/words.py`; up to three ids lie in the entry
itself. The cache starts out with the whole vocabulary. Short words merge by scanning an array for the lowest rank,
longer ones with a heap in O(n log n).
"""

from collections.abc import Mapping
from itertools import chain

import numpy as np

from tokenization.jit import address, inlined, kernel, leading_zeros, load8, load64, store32, store64
from tokenization.patterns import Pattern
from tokenization.scanner import Scanner
from tokenization.words import (
    INLINE,
    LONG_VALUE,
    M0,
    ONE,
    VALUE,
    enter_long,
    enter_short,
    find_long,
    find_short,
    long_hash,
    rehash_long,
    rehash_short,
    short_key,
)

CACHED_BYTES = 256  # longer words are merged anew each time
CACHED_WORDS = 1 << 19  # distinct words remembered at most
NEVER = np.int64(1) << 40  # rank of a pair that is no token
ID_BITS = 20
ID_LIMIT = 1 << ID_BITS
ID_MASK = np.uint64(ID_LIMIT - 1)
SPILLED = np.uint64(15)

# An entry's value: the number of ids in the top 4 bits, then up to three ids, the first lowest, each in `bits` bits: 16
# if all ids are below 65,536, so that the value can be written to uint16[:] as it is, else 20. More ids lie in `spill`;
# the number is then 15, how many there are follows in 20 bits, and where they start in 40.


@inlined
def _packed(ids, n, bits, spill, spilled):
    """(value, spilled) for n ids, at int64[:]; those that do not fit are written to `spill` from `spilled` on."""
    if n <= 3:
        value = np.uint64(n) << np.uint64(60)
        for j in range(n):
            value |= np.uint64(ids[j]) << np.uint64(bits * j)
        return value, spilled
    for j in range(n):
        spill[spilled + j] = ids[j]
    return (SPILLED << np.uint64(60)) | (np.uint64(n) << np.uint64(40)) | np.uint64(spilled), spilled + n


# ---- pairs of ids that merge


@inlined
def _pair_entry(left, right, pairs, mask):
    """Address of the entry of a pair (left << 32 | right, id), or of the empty entry where it belongs."""
    key = (np.uint64(left) << np.uint64(32)) | np.uint64(right)
    slot = (key * M0) >> np.uint64(leading_zeros(mask))
    while True:
        entry = pairs + np.int64(slot) * 16
        if load64(entry) == key or load64(entry + 8) == NEVER:
            return entry
        slot = (slot + ONE) & mask


@inlined
def _rank(left, right, pairs, mask):
    """Id of the token that two neighbours make, or NEVER."""
    return np.int64(load64(_pair_entry(left, right, pairs, mask) + 8))


@kernel
def fill_vocabulary(data, offsets, ids, short_table, long_table, byte_ids, byte_pairs, pair_table):
    """Enter every token into the tables of words, and every way to cut it into two tokens into that of pairs.

    data: uint8[:], offsets: int64[tokens + 1], ids: int64[tokens]: the tokens.
    pair_table: uint64[:, 2], (left << 32 | right, id), id NEVER where empty.
    byte_pairs: int64[65536], the id for two bytes or NEVER. Long words point into `data`.
    Returns False if `pair_table` became half full: call again with a larger table.
    """
    text, readable = address(data), data.size
    short, short_mask = address(short_table), np.uint64(short_table.shape[0] - 1)
    long, long_mask = address(long_table), np.uint64(long_table.shape[0] - 1)
    pairs, pairs_mask = address(pair_table), np.uint64(pair_table.shape[0] - 1)
    for token in range(ids.size):
        i, length = offsets[token], offsets[token + 1] - offsets[token]
        value = (ONE << np.uint64(60)) | np.uint64(ids[token])
        if length == 1:
            byte_ids[data[i]] = ids[token]
        if length < INLINE:
            k0, k1 = short_key(text, i, length, readable)
            enter_short(find_short(short, short_mask, k0, k1), k0, k1, value)
        else:
            h = long_hash(text, i, length)
            enter_long(find_long(long, long_mask, text, h, text + i, length), h, i, length, value)
    byte_pairs[:] = NEVER
    entered = 0
    for token in range(ids.size):
        start, length = offsets[token], offsets[token + 1] - offsets[token]
        for cut in range(1, length):
            left = _token_at(text, start, cut, readable, short, short_mask, long, long_mask, text)
            if left == NEVER:
                continue
            right = _token_at(text, start + cut, length - cut, readable, short, short_mask, long, long_mask, text)
            if right == NEVER:
                continue
            if 2 * entered >= pair_table.shape[0]:
                return False
            entry = _pair_entry(left, right, pairs, pairs_mask)
            store64(entry, (np.uint64(left) << np.uint64(32)) | np.uint64(right))
            store64(entry + 8, np.uint64(ids[token]))
            entered += 1
            if length == 2:
                byte_pairs[np.int64(data[start]) << 8 | np.int64(data[start + 1])] = ids[token]
    return True


@kernel
def _token_at(text, i, length, readable, short, short_mask, long, long_mask, arena):
    """Id of the token with these bytes, or NEVER."""
    if length < INLINE:
        k0, k1 = short_key(text, i, length, readable)
        value = load64(find_short(short, short_mask, k0, k1) + VALUE)
    else:
        h = long_hash(text, i, length)
        value = load64(find_long(long, long_mask, arena, h, text + i, length) + LONG_VALUE)
    return np.int64(value & ID_MASK) if value != 0 else NEVER


# ---- merging a word


@kernel
def _merge_scanning(text, i, length, byte_ids, byte_pairs, pairs, mask, ids, ranks):
    """Merge a short word: the lowest rank is found by looking at all. Returns the number of ids, left in `ids`.

    All arguments but i, length and mask are addresses; ids, ranks, byte_ids and byte_pairs are of int64.
    """
    n = length
    for j in range(n):
        store64(ids + 8 * j, load64(byte_ids + 8 * load8(text + i + j)))
    for j in range(n - 1):
        two = load8(text + i + j) << 8 | load8(text + i + j + 1)
        store64(ranks + 8 * j, load64(byte_pairs + 8 * two))
    while n > 1:
        lowest, at = NEVER, -1
        for j in range(n - 1):
            rank = np.int64(load64(ranks + 8 * j))
            if rank < lowest:
                lowest, at = rank, j
        if at < 0:
            break
        store64(ids + 8 * at, np.uint64(lowest))
        n -= 1
        for j in range(at + 1, n):
            store64(ids + 8 * j, load64(ids + 8 * j + 8))
            store64(ranks + 8 * j, load64(ranks + 8 * j + 8))
        if at > 0:
            rank = _rank(load64(ids + 8 * at - 8), lowest, pairs, mask)
            store64(ranks + 8 * at - 8, np.uint64(rank))
        if at < n - 1:
            rank = _rank(lowest, load64(ids + 8 * at + 8), pairs, mask)
            store64(ranks + 8 * at, np.uint64(rank))
    return n


@kernel
def _heap_push(heap, size, value):
    i = size
    while i > 0 and heap[(i - 1) >> 1] > value:
        heap[i] = heap[(i - 1) >> 1]
        i = (i - 1) >> 1
    heap[i] = value
    return size + 1


@kernel
def _heap_pop(heap, size):
    """Remove the first entry of a heap; returns the new size."""
    size -= 1
    value = heap[size]
    i = 0
    while True:
        child = 2 * i + 1
        if child >= size:
            break
        if child + 1 < size and heap[child + 1] < heap[child]:
            child += 1
        if value <= heap[child]:
            break
        heap[i] = heap[child]
        i = child
    heap[i] = value
    return size


@kernel
def _merge_with_heap(text, i, length, byte_ids, pairs, mask, ids):
    """Merge a long word: (rank, position) in a heap, the symbols in a linked list. Returns the number of ids."""
    following = np.empty(length, np.int64)
    previous = np.empty(length, np.int64)
    heap = np.empty(3 * length, np.int64)  # every merge pushes at most two entries and takes one symbol away
    size = 0
    for j in range(length):
        ids[j] = byte_ids[load8(text + i + j)]
        following[j], previous[j] = j + 1, j - 1
    for j in range(length - 1):
        rank = _rank(ids[j], ids[j + 1], pairs, mask)
        if rank != NEVER:
            size = _heap_push(heap, size, rank << 32 | j)
    while size > 0:
        rank, j = heap[0] >> 32, heap[0] & 0xFFFFFFFF
        size = _heap_pop(heap, size)
        if ids[j] < 0:
            continue
        right = following[j]
        if right == length or _rank(ids[j], ids[right], pairs, mask) != rank:
            continue
        ids[j], ids[right] = rank, -1
        after = following[right]
        following[j] = after
        if after < length:
            previous[after] = j
            rank = _rank(ids[j], ids[after], pairs, mask)
            if rank != NEVER:
                size = _heap_push(heap, size, rank << 32 | j)
        before = previous[j]
        if before >= 0:
            rank = _rank(ids[before], ids[j], pairs, mask)
            if rank != NEVER:
                size = _heap_push(heap, size, rank << 32 | before)
    n = j = 0
    while j < length:
        ids[n] = ids[j]
        n += 1
        j = following[j]
    return n


# ---- text


@kernel
def _meet_short(
    entry, k0, k1, text, i, length, byte_ids, byte_pairs, pairs, mask, ids, ranks, bits, spill, sizes, remember
):
    """Value of a short word that is not in the table; it is entered if `remember`."""
    n = _merge_scanning(
        text, i, length, address(byte_ids), address(byte_pairs), pairs, mask, address(ids), address(ranks)
    )
    value, spilled = _packed(ids, n, bits, spill, sizes[3])
    if remember:
        enter_short(entry, k0, k1, value)
        sizes[0] += 1
        sizes[3] = spilled
    return value


@kernel
def _meet_long(entry, h, text, i, length, byte_ids, pairs, mask, ids, arena, bits, spill, sizes, remember):
    """Value of a longer word that is not in the table; it is entered if `remember`."""
    n = _merge_with_heap(text, i, length, byte_ids, pairs, mask, ids)
    value, spilled = _packed(ids, n, bits, spill, sizes[3])
    if remember:
        enter_long(entry, h, sizes[2], length, value)
        for j in range(length):
            arena[sizes[2] + j] = load8(text + i + j)
        sizes[1] += 1
        sizes[2] += length
        sizes[3] = spilled
    return value


@kernel
def _write_huge(text, i, length, byte_ids, pairs, mask, out, o):
    """Write the ids of a word too long to be remembered; returns the end."""
    ids = np.empty(length, np.int64)
    n = _merge_with_heap(text, i, length, byte_ids, pairs, mask, ids)
    for j in range(n):
        out[o + j] = ids[j]
    return o + n


@inlined
def _close_documents(offsets, document, position, out, o, out_ends, closing):
    """Close the documents from `document` on that end at a position of the text; returns (document, o)."""
    while document + 1 < offsets.size and offsets[document + 1] == position:
        if closing >= 0:
            out[o] = closing
            o += 1
        out_ends[document] = o
        document += 1
    return document, o


@kernel
def encode_words(
    text_array,
    offsets,
    document,
    start,
    ends,
    byte_ids,
    byte_pairs,
    pair_table,
    short_table,
    long_table,
    arena_array,
    spill,
    sizes,
    remember,
    ids,
    ranks,
    out,
    o,
    out_ends,
    closing,
):
    """Write the ids of consecutive words to out from o on; returns (document, o).

    The words start at byte `start` of the text, in `document` of those that `offsets` delimits, and end at `ends`.
    Every document that ends there gets its end in out_ends and, unless `closing` is negative, this id at its end.
    `out` is uint16[:] if all ids are below 65,536, else uint32[:], with room for an id per byte and document and three
    more.
    sizes: int64[4], entries of the tables of short and long words, and how much of the arena and of `spill` is used;
    all four have room for these words if `remember`, and `spill` for one in any case.
    ids: int64[CACHED_BYTES], ranks: int64[INLINE], work space.
    """
    text, readable = address(text_array), text_array.size
    short, short_mask = address(short_table), np.uint64(short_table.shape[0] - 1)
    long, long_mask = address(long_table), np.uint64(long_table.shape[0] - 1)
    arena, pairs, pairs_mask = address(arena_array), address(pair_table), np.uint64(pair_table.shape[0] - 1)
    target, narrow = address(out), out.itemsize == 2
    bits = 16 if narrow else ID_BITS
    document, o = _close_documents(offsets, document, start, out, o, out_ends, closing)
    document_end = offsets[document + 1] if document + 1 < offsets.size else -1
    for end in ends:
        length = end - start
        if length < INLINE:
            k0, k1 = short_key(text, start, length, readable)
            entry = find_short(short, short_mask, k0, k1)
            value = load64(entry + VALUE)
            if value == 0:
                value = _meet_short(
                    entry, k0, k1, text, start, length, byte_ids, byte_pairs, pairs, pairs_mask, ids, ranks, bits,
                    spill, sizes, remember,
                )  # fmt: skip
        else:
            h = long_hash(text, start, length)
            entry = find_long(long, long_mask, arena, h, text + start, length)
            value = load64(entry + LONG_VALUE)
            if value == 0 and length <= CACHED_BYTES:
                value = _meet_long(
                    entry, h, text, start, length, byte_ids, pairs, pairs_mask, ids, arena_array, bits, spill, sizes,
                    remember,
                )  # fmt: skip
        count = value >> np.uint64(60)
        if count - ONE < np.uint64(3):
            # always three: ids beyond the count are overwritten by the next word's
            if narrow:
                store64(target + 2 * o, value)
            else:
                store32(target + 4 * o, value & ID_MASK)
                store32(target + 4 * o + 4, (value >> np.uint64(ID_BITS)) & ID_MASK)
                store32(target + 4 * o + 8, (value >> np.uint64(2 * ID_BITS)) & ID_MASK)
            o += np.int64(count)
        elif count == SPILLED:
            first = np.int64(value & np.uint64((1 << 40) - 1))
            n = np.int64((value >> np.uint64(40)) & ID_MASK)
            for j in range(n):
                out[o + j] = spill[first + j]
            o += n
        else:
            o = _write_huge(text, start, length, byte_ids, pairs, pairs_mask, out, o)
        start = end
        if end == document_end:
            document, o = _close_documents(offsets, document, end, out, o, out_ends, closing)
            document_end = offsets[document + 1] if document + 1 < offsets.size else -1
    return document, o


class Vocabulary:
    """The tokens and the pairs that merge into them, as tables for the kernels. Shared by all threads.

    tokens: bytes → id below `ID_LIMIT`; every single byte is among them.
    """

    def __init__(self, tokens: Mapping[bytes, int]):
        lengths = np.fromiter(map(len, tokens), np.int64, len(tokens))
        self.offsets = np.concatenate([[0], np.cumsum(lengths)])
        self.data = np.frombuffer(b"".join(tokens), np.uint8)
        self.ids = np.fromiter(tokens.values(), np.int64, len(tokens))
        self.byte_ids = np.full(256, -1, np.int64)
        self.byte_pairs = np.empty(1 << 16, np.int64)
        self.short = np.zeros((_power_of_two(4 * len(tokens)), 4), np.uint64)
        self.long = np.zeros((_power_of_two(4 * int((lengths >= INLINE).sum()) + 64), 4), np.uint64)
        slots = _power_of_two(4 * len(tokens))
        complete = False
        while not complete:
            self.pairs = np.full((slots, 2), NEVER, np.uint64)
            complete = fill_vocabulary(
                self.data,
                self.offsets,
                self.ids,
                self.short,
                self.long,
                self.byte_ids,
                self.byte_pairs,
                self.pairs,
            )
            slots *= 2


class Encoder:
    """Encodes text with a vocabulary and a split pattern; one thread at a time, for it remembers words."""

    def __init__(self, vocabulary: Vocabulary, pattern: Pattern):
        self._vocabulary = vocabulary
        self._scanner = Scanner(pattern)
        self._short, self._long = vocabulary.short.copy(), vocabulary.long.copy()
        self._arena = vocabulary.data.copy()
        self._spill = np.empty(CACHED_BYTES, np.int32)
        long_tokens = int((np.diff(vocabulary.offsets) >= INLINE).sum())
        self._sizes = np.array([len(vocabulary.ids) - long_tokens, long_tokens, len(self._arena), 0], np.int64)
        self._ids, self._ranks = np.empty(CACHED_BYTES, np.int64), np.empty(INLINE, np.int64)

    def encode(
        self, text: np.ndarray, offsets: np.ndarray, dtype: np.dtype, closing: int | None = None
    ) -> tuple[np.ndarray, np.ndarray]:
        """Ids of all documents, one after the other, and where each document ends among them (int64[documents]).

        text: uint8[:], valid UTF-8; offsets: int64[documents + 1]; dtype: uint16 if it holds all ids, else uint32;
        closing: an id to put after each document.
        """
        documents = len(offsets) - 1
        start, stop = int(offsets[0]), int(offsets[-1])
        out = np.empty(stop - start + documents + 3, dtype)
        out_ends = np.empty(documents, np.int64)
        document = o = 0
        vocabulary = self._vocabulary
        for ends in chain(self._scanner.blocks(text, offsets), [np.empty(0, np.int64)]):
            last = int(ends[-1]) if len(ends) else start
            remember = self._reserve(len(ends), last - start)
            document, o = encode_words(
                text,
                offsets,
                document,
                start,
                ends,
                vocabulary.byte_ids,
                vocabulary.byte_pairs,
                vocabulary.pairs,
                self._short,
                self._long,
                self._arena,
                self._spill,
                self._sizes,
                remember,
                self._ids,
                self._ranks,
                out,
                o,
                out_ends,
                -1 if closing is None else closing,
            )
            start = last
        return out[:o], out_ends

    def _reserve(self, words: int, text_bytes: int) -> bool:
        """Make room to remember so many words; False if as many as may be are remembered already."""
        shorts, longs, arena_used, spilled = self._sizes.tolist()
        if shorts + longs > CACHED_WORDS + len(self._vocabulary.ids):
            self._spill = _with_room(self._spill, spilled, CACHED_BYTES)
            return False
        slots = len(self._short)
        while shorts + words // 4 > slots // 2 or shorts + words >= slots:
            slots *= 2
        if slots != len(self._short):
            self._short = rehash_short(self._short, slots)
        long_words = min(words, text_bytes // INLINE)
        slots = len(self._long)
        while longs + long_words // 4 > slots // 2 or longs + long_words >= slots:
            slots *= 2
        if slots != len(self._long):
            self._long = rehash_long(self._long, slots)
        self._arena = _with_room(self._arena, arena_used, text_bytes)
        self._spill = _with_room(self._spill, spilled, text_bytes)
        return True


def _with_room(array: np.ndarray, used: int, more: int) -> np.ndarray:
    if used + more <= len(array):
        return array
    larger = np.empty(max(2 * len(array), used + more), array.dtype)
    larger[:used] = array[:used]
    return larger


def _power_of_two(least: int) -> int:
    return 1 << max(least - 1, 1).bit_length()
