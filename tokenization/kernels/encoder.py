"""Words to token ids: a cache in front of byte pair merging by rank.

Plain Python: `reference.encode`, for each word of the text. Merging follows tiktoken (2022): of all neighbors whose
joined bytes are a token, the pair with the lowest rank is merged, the leftmost first; and a word that is itself a token
is that token, even where merging would not arrive at it.

A word's ids are remembered under the word, keyed as in `word_table.py`; up to three ids lie in the entry itself. The
cache starts out with the whole vocabulary. Words of up to 64 bytes merge with their pairs side by side in vector
registers, longer ones with a heap in O(n log n).

    tokens    a b c d, ab (256), cd (257), abcd (258); the word is `abcda`
    joined    [256, -, 257, -]    for each position the id that its symbol makes with the next one, and the position
    256 at 0  [-, ·, 257, -]      `ab` `c` is not a token; position 1 is no longer the start of a symbol
    257 at 2  [258, ·, -, ·]      `ab` `cd` is one
    258 at 0  [-, ·, ·, ·]        ids 258, 97: two, packed into one uint64 and remembered under `abcda`
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np

from textmill.kernels.jit import (
    address,
    inlined,
    kernel,
    leading_zeros,
    load8,
    load32,
    load64,
    lowest_of_64,
    store8,
    store32,
    store64,
    trailing_zeros,
)
from tokenization.kernels.scanner import Scanner
from tokenization.kernels.vocabulary import (
    COUNT_SHIFT,
    ID_BITS,
    ID_MASK,
    NO_TOKEN,
    PAIR_TABLES,
    Vocabulary,
    byte_id,
    joined_bytes_id,
    joined_id,
    pair_view,
)
from tokenization.kernels.word_table import (
    ALL,
    INLINE,
    LONG_VALUE,
    ONE,
    VALUE,
    WORD_TABLE,
    bytes_of,
    enter_long,
    enter_short,
    find_long,
    find_short,
    long_key,
    short_key,
    with_room,
    word_view,
)
from tokenization.patterns import Pattern

MERGED_AT_ONCE = 64  # bytes of the longest word whose pairs are looked at together
CACHED_BYTES = 256  # longer words are merged anew each time
CACHED_WORDS = 1 << 19  # distinct words remembered at most
SPILLED = np.uint64(15)
SPILL_SHIFT = np.uint64(40)

# An entry's value: the number of ids in the top 4 bits, then up to three ids, the first lowest, each in `bits` bits: 16
# if all ids are below 65,536, so that the value can be written to uint16[:] as it is, else 20. More ids lie in `spill`;
# the number is then 15, how many there are follows in 20 bits, and where they start in 40.

CURSOR = np.dtype(
    [
        ("start", np.int64),  # of the next word in the text
        ("document", np.int64),  # in which it is
        ("written", np.int64),  # ids so far
    ]
)
ENCODER = np.dtype(
    [
        ("words", WORD_TABLE),  # the cache
        ("pairs", PAIR_TABLES),
        ("ids", np.int64),  # address of uint32[CACHED_BYTES]: work space, the ids of a word
        ("joined", np.int64),  # address of uint32[64], work space: all ones between words
        ("spill", np.int64),  # address of uint32[:], the ids of words that have more than three
        ("spilled", np.int64),  # how many of these there are
        ("closing", np.int64),  # id put after each document, or -1
        ("remember", np.int64),  # whether the tables have room for the words of this call
        ("cursor", CURSOR),
    ]
)


class Work(NamedTuple):
    """Work space to merge a word and to keep its ids: addresses, and how many bits an id takes."""

    ids: int
    joined: int
    spill: int
    bits: int


class Position(NamedTuple):
    """The document that is being encoded, and the number of ids written so far (both int64)."""

    document: int
    written: int


# ---- merging a word


@kernel
def _merge_at_once(at, length, tables, work):
    """Merge a word of 2 to 64 bytes at an address; returns the number of ids, left in `work.ids`.

    A symbol lives at the position of its first byte; `alive` has a bit for each. `joined` holds for each position the
    id that its symbol makes with the next one, and the position: the pair to merge is the lowest entry.
    """
    ids, joined = work.ids, work.joined
    alive = ALL >> np.uint64(64 - length)
    left = load8(at)
    store32(ids, np.uint64(byte_id(tables, left)))
    for j in range(1, length):
        right = load8(at + j)
        store32(ids + 4 * j, np.uint64(byte_id(tables, right)))
        _store_joined(joined, j - 1, joined_bytes_id(tables, left, right))
        left = right
    while True:
        lowest = lowest_of_64(joined)
        if lowest >> np.uint64(6) == NO_TOKEN:
            break
        token, position = np.int64(lowest >> np.uint64(6)), np.int64(lowest & np.uint64(63))
        after = alive & (ALL << np.uint64(position + 1))
        taken = trailing_zeros(after)
        after &= after - ONE
        alive &= ~(ONE << np.uint64(taken))
        store32(ids + 4 * position, np.uint64(token))
        _store_joined(joined, taken, NO_TOKEN)
        made = NO_TOKEN
        if after != 0:
            made = joined_id(tables.pairs, token, load32(ids + 4 * trailing_zeros(after)))
        _store_joined(joined, position, made)
        before = alive & ((ONE << np.uint64(position)) - ONE)
        if before != 0:
            previous = 63 - leading_zeros(before)
            _store_joined(joined, previous, joined_id(tables.pairs, load32(ids + 4 * previous), token))
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
def _merge_with_heap(at, length, tables):
    """Merge a word of any length: (id, position) in a heap, the symbols in a linked list. Returns the ids, int64[:]."""
    pairs = tables.pairs
    ids = np.empty(length, np.int64)
    following = np.empty(length, np.int64)
    previous = np.empty(length, np.int64)
    heap = np.empty(3 * length, np.int64)  # every merge pushes at most two entries and takes one symbol away
    size = 0
    for j in range(length):
        ids[j] = byte_id(tables, load8(at + j))
        following[j], previous[j] = j + 1, j - 1
    for j in range(length - 1):
        token = joined_id(pairs, ids[j], ids[j + 1])
        if token != NO_TOKEN:
            size = _heap_push(heap, size, token << 32 | j)
    while size > 0:
        token, j = heap[0] >> 32, heap[0] & 0xFFFFFFFF
        size = _heap_pop(heap, size)
        if ids[j] < 0:
            continue
        right = following[j]
        if right == length or joined_id(pairs, ids[j], ids[right]) != token:
            continue
        ids[j], ids[right] = token, -1
        after = following[right]
        following[j] = after
        if after < length:
            previous[after] = j
            token = joined_id(pairs, ids[j], ids[after])
            if token != NO_TOKEN:
                size = _heap_push(heap, size, token << 32 | j)
        before = previous[j]
        if before >= 0:
            token = joined_id(pairs, ids[before], ids[j])
            if token != NO_TOKEN:
                size = _heap_push(heap, size, token << 32 | before)
    n = j = 0
    while j < length:
        ids[n] = ids[j]
        n += 1
        j = following[j]
    return ids[:n]


@kernel
def _meet(at, length, tables, work, spilled):
    """(value, spilled) of a word of at most CACHED_BYTES bytes at an address that is not in the tables."""
    if length <= MERGED_AT_ONCE:
        n = _merge_at_once(at, length, tables, work)
    else:
        merged = _merge_with_heap(at, length, tables)
        n = merged.size
        for j in range(n):
            store32(work.ids + 4 * j, np.uint64(merged[j]))
    return _packed(work, n, spilled)


@inlined
def _packed(work, n, spilled):
    """(value, spilled) for n ids; those that do not fit are written to `spill` from `spilled` on."""
    if n <= 3:
        value = np.uint64(n) << COUNT_SHIFT
        for j in range(n):
            value |= load32(work.ids + 4 * j) << np.uint64(work.bits * j)
        return value, spilled
    for j in range(n):
        store32(work.spill + 4 * (spilled + j), load32(work.ids + 4 * j))
    return (SPILLED << COUNT_SHIFT) | (np.uint64(n) << SPILL_SHIFT) | np.uint64(spilled), spilled + n


# ---- text


@inlined
def _close_documents(documents, end, out, closing, position):
    """Close the documents from that of the position on that end at a byte of the text; returns the new position."""
    document, written = position
    while document < documents.shape[1] and documents[0, document] == end:
        if closing >= 0:
            out[written] = closing
            written += 1
        documents[1, document] = written
        document += 1
    return Position(document, written)


@kernel
def encode_words(text_array, ends, documents, out, encoders):
    """Write the ids of consecutive words.

    text_array: uint8[:]. ends: int64[words], where each word ends in the text; the first starts at that of the cursor.
    documents: int64[2, documents]: where each document ends in the text; its end among the ids is written beside it.
    out: uint16[:] if all ids are below 65,536, else uint32[:], with room for an id per byte and document and three
    more. encoders: ENCODER[1]; if `remember`, all in it has room for these words, and the spill for one in any case.
    """
    state = encoders[0]
    table, cursor = state.words, state.cursor
    text, words, tables = bytes_of(text_array), word_view(table), pair_view(state.pairs)
    short_words, long_words, kept = table.short_words, table.long_words, table.arena_used
    start, remember, closing, spilled = cursor.start, state.remember != 0, state.closing, state.spilled
    target, narrow = address(out), out.itemsize == 2
    work = Work(state.ids, state.joined, state.spill, 16 if narrow else ID_BITS)
    document, o = _close_documents(documents, start, out, closing, Position(cursor.document, cursor.written))
    document_end = documents[0, document] if document < documents.shape[1] else -1
    for end in ends:
        length = end - start
        at = text.address + start
        if length < INLINE:
            key = short_key(text, start, length)
            entry = find_short(words.short, key)
            value = load64(entry + VALUE)
            if value == 0:
                value, after = _meet(at, length, tables, work, spilled)
                if remember:
                    enter_short(entry, key, value)
                    short_words, spilled = short_words + 1, after
        else:
            long = long_key(at, length)
            entry = find_long(words.long, words.arena, long)
            value = load64(entry + LONG_VALUE)
            if value == 0 and length <= CACHED_BYTES:
                value, after = _meet(at, length, tables, work, spilled)
                if remember:
                    enter_long(entry, long, kept, value)
                    for j in range(length):
                        store8(words.arena + kept + j, np.uint64(load8(at + j)))
                    long_words, kept, spilled = long_words + 1, kept + length, after
        count = value >> COUNT_SHIFT
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
            first = np.int64(value & ((ONE << SPILL_SHIFT) - ONE))
            n = np.int64((value >> SPILL_SHIFT) & ID_MASK)
            for j in range(n):
                out[o + j] = load32(work.spill + 4 * (first + j))
            o += n
        else:
            merged = _merge_with_heap(at, length, tables)
            for j in range(merged.size):
                out[o + j] = merged[j]
            o += merged.size
        start = end
        if end == document_end:
            document, o = _close_documents(documents, end, out, closing, Position(document, o))
            document_end = documents[0, document] if document < documents.shape[1] else -1
    table.short_words, table.long_words, table.arena_used = short_words, long_words, kept
    cursor.start, cursor.document, cursor.written, state.spilled = start, document, o, spilled


class Encoder:
    """Encodes text with a vocabulary and a split pattern; one thread at a time, for it remembers words."""

    def __init__(self, vocabulary: Vocabulary, pattern: Pattern) -> None:
        self._vocabulary = vocabulary  # which the record points into
        self._scanner = Scanner(pattern)
        self._record = np.zeros(1, ENCODER)
        # views of the fields that every call changes: a record is slow to index
        self._remember, self._spilled = self._record["remember"], self._record["spilled"]
        self._cursor = self._record["cursor"].view(np.int64)
        self._words = vocabulary.words.copy(self._record["words"])
        self._record["pairs"] = vocabulary.record
        self._ids = np.empty(CACHED_BYTES, np.uint32)
        self._joined = np.full(MERGED_AT_ONCE, 0xFFFFFFFF, np.uint32)
        self._spill = np.empty(CACHED_BYTES, np.uint32)
        self._record["ids"], self._record["joined"] = self._ids.ctypes.data, self._joined.ctypes.data
        self._record["spill"] = self._spill.ctypes.data

    def encode(
        self, text: np.ndarray, offsets: np.ndarray, dtype: np.dtype, closing: int | None = None
    ) -> tuple[np.ndarray, np.ndarray]:
        """Ids of all documents, one after the other, and where each document ends among them (int64[documents]).

        Args:
            text: uint8[:], valid UTF-8.
            offsets: int64[documents + 1] into it.
            dtype: uint16 if it holds all ids, else uint32.
            closing: an id to put after each document.
        """
        start, stop = int(offsets[0]), int(offsets[-1])
        documents = np.empty((2, len(offsets) - 1), np.int64)
        documents[0] = offsets[1:]
        out = np.empty(stop - start + documents.shape[1] + 3, dtype)
        self._record["closing"] = -1 if closing is None else closing
        self._cursor[:] = start, 0, 0
        # empty documents are closed with the word before them, and if there is none, by a call without words
        blocks = self._scanner.blocks(text, offsets) if start < stop else [np.empty(0, np.int64)]
        for ends in blocks:
            last = int(ends[-1]) if len(ends) else start
            self._remember[0] = self._reserve(len(ends), last - start)
            encode_words(text, ends, documents, out, self._record)
            start = last
        _, _, written = self._cursor.tolist()
        return out[:written], documents[1]

    def _reserve(self, words: int, text_bytes: int) -> bool:
        """Make room to remember so many words; False if as many as may be are remembered already."""
        remember = len(self._words) <= CACHED_WORDS + len(self._vocabulary)
        if remember:
            self._words.reserve(words, words, text_bytes)
        spill = with_room(self._spill, self._spilled.item(), text_bytes if remember else CACHED_BYTES)
        if spill is not self._spill:
            self._spill = spill
            self._record["spill"] = spill.ctypes.data
        return remember
