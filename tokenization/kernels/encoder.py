"""Words to token ids: a cache in front of byte pair merging by rank.

Merging follows tiktoken: of all neighbours whose joined bytes are a token, the pair with the lowest rank is merged, the
leftmost first; and a word that is itself a token is that token, even where merging would not arrive at it.

What matters is the joined bytes, and yet each token has at most one pair. Merges inside the bytes of a token happen in
the same order wherever these bytes stand, because the lowest rank of a word, where it is inside them, is also the
lowest inside them. So the two tokens from which a token is made are always those that merging its own bytes arrives at.

A word's ids are remembered under the word, keyed as in `word_table.py`; up to three ids lie in the entry itself. The
cache starts out with the whole vocabulary. Words of up to 64 bytes merge with their pairs side by side in vector
registers, longer ones with a heap in O(n log n).
"""

from collections.abc import Mapping
from itertools import chain

import numpy as np

from tokenization.kernels.jit import (
    address,
    inlined,
    kernel,
    leading_zeros,
    load8,
    load32,
    load64,
    lowest_of_64,
    store32,
    store64,
    trailing_zeros,
)
from tokenization.kernels.scanner import Scanner
from tokenization.kernels.word_table import (
    ALL,
    INLINE,
    LONG_VALUE,
    M0,
    ONE,
    VALUE,
    enter_long,
    enter_short,
    find_long,
    find_short,
    larger_long,
    larger_short,
    long_hash,
    short_key,
    table_of,
)
from tokenization.patterns import Pattern

MERGED_AT_ONCE = 64  # bytes of the longest word whose pairs are looked at together
CACHED_BYTES = 256  # longer words are merged anew each time
CACHED_WORDS = 1 << 19  # distinct words remembered at most
ID_BITS = 20
ID_LIMIT = 1 << ID_BITS
ID_MASK = np.uint64(ID_LIMIT - 1)
NO_TOKEN = (1 << 26) - 1  # above all ids; with a position in 6 bits below it, 32 bits
NO_PAIR = ALL  # an empty slot of the table of pairs
SPILLED = np.uint64(15)

# An entry's value: the number of ids in the top 4 bits, then up to three ids, the first lowest, each in `bits` bits: 16
# if all ids are below 65,536, so that the value can be written to uint16[:] as it is, else 20. More ids lie in `spill`;
# the number is then 15, how many there are follows in 20 bits, and where they start in 40.


@inlined
def _packed(ids, n, bits, spill, spilled):
    """(value, spilled) for n ids; those that do not fit are written to `spill` from `spilled` on.

    ids, spill: addresses of uint32.
    """
    if n <= 3:
        value = np.uint64(n) << np.uint64(60)
        for j in range(n):
            value |= load32(ids + 4 * j) << np.uint64(bits * j)
        return value, spilled
    for j in range(n):
        store32(spill + 4 * (spilled + j), load32(ids + 4 * j))
    return (SPILLED << np.uint64(60)) | (np.uint64(n) << np.uint64(40)) | np.uint64(spilled), spilled + n


# ---- pairs of ids that merge: uint64 entries (left, right, id) of 20 bits each


@inlined
def _pair_entry(left, right, pairs, mask):
    """Address of the entry of a pair, or of the empty entry where it belongs. pairs: address; mask: slots - 1."""
    key = (np.uint64(left) << np.uint64(ID_BITS)) | np.uint64(right)
    slot = (key * M0) >> np.uint64(leading_zeros(mask))
    while True:
        entry = pairs + np.int64(slot) * 8
        found = load64(entry)
        if found >> np.uint64(ID_BITS) == key or found == NO_PAIR:
            return entry
        slot = (slot + ONE) & mask


@inlined
def _joined(left, right, pairs, mask):
    """Id of the token that two neighbours make, or NO_TOKEN."""
    found = load64(_pair_entry(left, right, pairs, mask))
    return np.int64(found & ID_MASK) if found != NO_PAIR else NO_TOKEN


@kernel
def fill_vocabulary(data, offsets, ids, short_table, long_table, byte_ids, byte_pairs, pair_table, starts, joined):
    """Enter every token into the tables of words, and the pair that makes it into that of pairs.

    data: uint8[:], offsets: int64[tokens + 1], ids: int64[tokens]: the tokens.
    byte_ids: uint32[256]. byte_pairs: uint32[65536], the id for two bytes, NO_TOKEN where it is none. pair_table:
    uint64[:], all NO_PAIR, with room for a pair per token. Long words point into `data`.
    starts, joined: int64[longest token + 1], work space.
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
    byte_pairs[:] = NO_TOKEN
    for token in range(ids.size):
        start, stop = offsets[token], offsets[token + 1]
        if stop - start < 2:
            continue
        middle = _last_cut(text, start, stop, readable, short, short_mask, long, long_mask, starts, joined)
        if middle == stop:
            continue
        left = _token_at(text, start, middle, readable, short, short_mask, long, long_mask)
        right = _token_at(text, middle, stop, readable, short, short_mask, long, long_mask)
        entry = _pair_entry(left, right, pairs, pairs_mask)
        store64(entry, (np.uint64(left) << np.uint64(2 * ID_BITS)) | np.uint64(right << ID_BITS | ids[token]))
        if stop - start == 2:
            byte_pairs[np.int64(data[start]) << 8 | np.int64(data[start + 1])] = ids[token]


@kernel
def _last_cut(text, start, stop, readable, short, short_mask, long, long_mask, starts, joined):
    """Where the last two parts meet when the bytes of a token merge; `stop` if merging ends with more than two."""
    parts = stop - start
    for j in range(parts + 1):
        starts[j] = start + j
    for j in range(parts - 1):
        joined[j] = _token_at(text, start + j, start + j + 2, readable, short, short_mask, long, long_mask)
    while parts > 2:
        lowest, at = NO_TOKEN, -1
        for j in range(parts - 1):
            if joined[j] < lowest:
                lowest, at = joined[j], j
        if at < 0:
            return stop
        parts -= 1
        for j in range(at + 1, parts):
            starts[j] = starts[j + 1]
            joined[j - 1] = joined[j]
        starts[parts] = stop
        for j in range(max(at - 1, 0), min(at + 1, parts - 1)):
            joined[j] = _token_at(text, starts[j], starts[j + 2], readable, short, short_mask, long, long_mask)
    return starts[1]


@kernel
def _token_at(text, start, stop, readable, short, short_mask, long, long_mask):
    """Id of the token with these bytes, or NO_TOKEN."""
    if stop - start < INLINE:
        k0, k1 = short_key(text, start, stop - start, readable)
        value = load64(find_short(short, short_mask, k0, k1) + VALUE)
    else:
        h = long_hash(text, start, stop - start)
        value = load64(find_long(long, long_mask, text, h, text + start, stop - start) + LONG_VALUE)
    return np.int64(value & ID_MASK) if value != 0 else NO_TOKEN


# ---- merging a word


@kernel
def _merge_at_once(text, i, length, byte_ids, byte_pairs, pairs, mask, ids, joined):
    """Merge a word of 2 to 64 bytes; returns the number of ids, left in `ids`.

    A symbol lives at the position of its first byte; `alive` has a bit for each. `joined` holds for each position the
    id that its symbol makes with the next one, and the position: the pair to merge is the lowest entry.
    All arguments but i, length and mask are addresses of uint32. joined: 64, all NO_TOKEN before and after.
    """
    alive = ALL >> np.uint64(64 - length)
    left = load8(text + i)
    store32(ids, load32(byte_ids + 4 * left))
    for j in range(1, length):
        right = load8(text + i + j)
        store32(ids + 4 * j, load32(byte_ids + 4 * right))
        _store_joined(joined, j - 1, np.int64(load32(byte_pairs + 4 * (left << 8 | right))))
        left = right
    while True:
        lowest = lowest_of_64(joined)
        if lowest >> np.uint64(6) == NO_TOKEN:
            break
        token, at = np.int64(lowest >> np.uint64(6)), np.int64(lowest & np.uint64(63))
        after = alive & (ALL << np.uint64(at + 1))
        taken = trailing_zeros(after)
        after &= after - ONE
        alive &= ~(ONE << np.uint64(taken))
        store32(ids + 4 * at, np.uint64(token))
        _store_joined(joined, taken, NO_TOKEN)
        made = NO_TOKEN
        if after != 0:
            made = _joined(token, load32(ids + 4 * trailing_zeros(after)), pairs, mask)
        _store_joined(joined, at, made)
        before = alive & ((ONE << np.uint64(at)) - ONE)
        if before != 0:
            previous = 63 - leading_zeros(before)
            _store_joined(joined, previous, _joined(load32(ids + 4 * previous), token, pairs, mask))
    n = 0
    while alive != 0:
        store32(ids + 4 * n, load32(ids + 4 * trailing_zeros(alive)))
        alive &= alive - ONE
        n += 1
    return n


@inlined
def _store_joined(joined, position, token):
    store32(joined + 4 * position, np.uint64(token << 6 | position))


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
def _merge_with_heap(text, i, length, byte_ids, pairs, mask):
    """Merge a word of any length: (id, position) in a heap, the symbols in a linked list. Returns the ids, int64[:]."""
    ids = np.empty(length, np.int64)
    following = np.empty(length, np.int64)
    previous = np.empty(length, np.int64)
    heap = np.empty(3 * length, np.int64)  # every merge pushes at most two entries and takes one symbol away
    size = 0
    for j in range(length):
        ids[j] = load32(byte_ids + 4 * load8(text + i + j))
        following[j], previous[j] = j + 1, j - 1
    for j in range(length - 1):
        token = _joined(ids[j], ids[j + 1], pairs, mask)
        if token != NO_TOKEN:
            size = _heap_push(heap, size, token << 32 | j)
    while size > 0:
        token, j = heap[0] >> 32, heap[0] & 0xFFFFFFFF
        size = _heap_pop(heap, size)
        if ids[j] < 0:
            continue
        right = following[j]
        if right == length or _joined(ids[j], ids[right], pairs, mask) != token:
            continue
        ids[j], ids[right] = token, -1
        after = following[right]
        following[j] = after
        if after < length:
            previous[after] = j
            token = _joined(ids[j], ids[after], pairs, mask)
            if token != NO_TOKEN:
                size = _heap_push(heap, size, token << 32 | j)
        before = previous[j]
        if before >= 0:
            token = _joined(ids[before], ids[j], pairs, mask)
            if token != NO_TOKEN:
                size = _heap_push(heap, size, token << 32 | before)
    n = j = 0
    while j < length:
        ids[n] = ids[j]
        n += 1
        j = following[j]
    return ids[:n]


# ---- text


@kernel
def _meet(text, i, length, byte_ids, byte_pairs, pairs, mask, ids, joined, bits, spill, spilled):
    """(value, spilled) of a word of at most CACHED_BYTES bytes that is not in the tables."""
    if length <= MERGED_AT_ONCE:
        n = _merge_at_once(text, i, length, byte_ids, byte_pairs, pairs, mask, ids, joined)
    else:
        merged = _merge_with_heap(text, i, length, byte_ids, pairs, mask)
        n = merged.size
        for j in range(n):
            store32(ids + 4 * j, np.uint64(merged[j]))
    return _packed(ids, n, bits, spill, spilled)


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
    spill_array,
    sizes,
    remember,
    ids_array,
    joined_array,
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
    sizes: int64[4], entries of the tables of short and long words, and how much of the arena and of the spill is used;
    all four have room for these words if `remember`, and the spill for one in any case.
    ids_array: uint32[CACHED_BYTES], joined_array: uint32[64], all ones: work space. spill_array: uint32[:].
    """
    text, readable = address(text_array), text_array.size
    short, short_mask = address(short_table), np.uint64(short_table.shape[0] - 1)
    long, long_mask = address(long_table), np.uint64(long_table.shape[0] - 1)
    arena, pairs, pairs_mask = address(arena_array), address(pair_table), np.uint64(pair_table.shape[0] - 1)
    singles, doubles = address(byte_ids), address(byte_pairs)
    ids, joined, spill = address(ids_array), address(joined_array), address(spill_array)
    shorts, longs, kept, spilled = sizes[0], sizes[1], sizes[2], sizes[3]
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
                value, after = _meet(
                    text, start, length, singles, doubles, pairs, pairs_mask, ids, joined, bits, spill, spilled
                )
                if remember:
                    enter_short(entry, k0, k1, value)
                    shorts, spilled = shorts + 1, after
        else:
            h = long_hash(text, start, length)
            entry = find_long(long, long_mask, arena, h, text + start, length)
            value = load64(entry + LONG_VALUE)
            if value == 0 and length <= CACHED_BYTES:
                value, after = _meet(
                    text, start, length, singles, doubles, pairs, pairs_mask, ids, joined, bits, spill, spilled
                )
                if remember:
                    enter_long(entry, h, kept, length, value)
                    for j in range(length):
                        arena_array[kept + j] = text_array[start + j]
                    longs, kept, spilled = longs + 1, kept + length, after
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
                out[o + j] = spill_array[first + j]
            o += n
        else:
            merged = _merge_with_heap(text, start, length, singles, pairs, pairs_mask)
            for j in range(merged.size):
                out[o + j] = merged[j]
            o += merged.size
        start = end
        if end == document_end:
            document, o = _close_documents(offsets, document, end, out, o, out_ends, closing)
            document_end = offsets[document + 1] if document + 1 < offsets.size else -1
    sizes[0], sizes[1], sizes[2], sizes[3] = shorts, longs, kept, spilled
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
        self.byte_ids = np.empty(256, np.uint32)
        self.byte_pairs = np.empty(1 << 16, np.uint32)
        self.short = table_of(_power_of_two(4 * len(tokens)))
        self.long = table_of(_power_of_two(4 * int((lengths >= INLINE).sum()) + 64))
        self.pairs = np.full(_power_of_two(2 * len(tokens)), NO_PAIR)
        starts, joined = np.empty((2, int(lengths.max()) + 1), np.int64)
        fill_vocabulary(
            self.data,
            self.offsets,
            self.ids,
            self.short,
            self.long,
            self.byte_ids,
            self.byte_pairs,
            self.pairs,
            starts,
            joined,
        )


class Encoder:
    """Encodes text with a vocabulary and a split pattern; one thread at a time, for it remembers words."""

    def __init__(self, vocabulary: Vocabulary, pattern: Pattern):
        self._vocabulary = vocabulary
        self._scanner = Scanner(pattern)
        self._short, self._long = table_of(len(vocabulary.short)), table_of(len(vocabulary.long))
        self._short[:], self._long[:] = vocabulary.short, vocabulary.long
        self._arena = vocabulary.data.copy()
        self._spill = np.empty(CACHED_BYTES, np.uint32)
        long_tokens = int((np.diff(vocabulary.offsets) >= INLINE).sum())
        self._sizes = np.array([len(vocabulary.ids) - long_tokens, long_tokens, len(self._arena), 0], np.int64)
        self._ids = np.empty(CACHED_BYTES, np.uint32)
        self._joined = np.full(MERGED_AT_ONCE, 0xFFFFFFFF, np.uint32)

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
                self._joined,
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
            self._short = larger_short(self._short, slots)
        long_words = min(words, text_bytes // INLINE)
        slots = len(self._long)
        while longs + long_words // 4 > slots // 2 or longs + long_words >= slots:
            slots *= 2
        if slots != len(self._long):
            self._long = larger_long(self._long, slots)
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
