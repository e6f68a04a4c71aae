"""Words to token ids: a cache in front of byte pair merging by rank.

Plain Python: `reference.encode`, for each word of the text. Merging follows tiktoken (2022): of all neighbors whose
joined bytes are a token, the pair with the lowest rank is merged, the leftmost first; and a word that is itself a token
is that token, even where merging would not arrive at it.

A word's ids are remembered under the word, keyed as in `word_table.py`; up to seven ids lie in the entry itself. The
cache starts out with the whole vocabulary. A chunk of words is keyed first, and the memory of their entries asked for;
then they are looked up, both entries of a bucket at once. Words of up to 64 bytes merge with their pairs side by side
in vector registers, longer ones with a heap in O(n log n).

    tokens    a b c d, ab (256), cd (257), abcd (258); the word is `abcda`
    joined    [256, -, 257, -]    for each position the id that its symbol makes with the next one, and the position
    256 at 0  [-, ·, 257, -]      `ab` `c` is not a token; position 1 is no longer the start of a symbol
    257 at 2  [258, ·, -, ·]      `ab` `cd` is one
    258 at 0  [-, ·, ·, ·]        ids 258, 97: two, packed into the entry and remembered under `abcda`
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np

from textmill.kernels.jit import (
    address,
    inlined,
    item_size,
    kernel,
    leading_zeros,
    load8,
    load32,
    load64,
    lowest_of_64,
    prefetch,
    store8,
    store32,
    store64,
    trailing_zeros,
)
from tokenization.kernels.scanner import SCANNERS, Scanner, scan
from tokenization.kernels.unicode_classes import class_table
from tokenization.kernels.vocabulary import (
    NO_TOKEN,
    ONE_LONG_ID,
    PAIR_TABLES,
    Vocabulary,
    byte_id,
    joined_bytes_id,
    joined_id,
    pair_view,
)
from tokenization.kernels.windows import WINDOW
from tokenization.kernels.word_table import (
    ALL,
    ENTRY,
    FIFTY_SIX,
    INLINE,
    K0,
    K1,
    LONG_VALUE,
    MORE,
    ONE,
    VALUE,
    WORD_TABLE,
    ShortKey,
    bytes_of,
    enter_long,
    enter_short,
    find_long,
    find_short,
    home_bucket,
    long_key,
    short_key,
    with_room,
    word_view,
)
from tokenization.patterns import Pattern

MERGED_AT_ONCE = 64  # bytes of the longest word whose pairs are looked at together
CACHED_BYTES = 256  # longer words are merged anew each time
CACHED_WORDS = 1 << 19  # distinct words remembered at most
KEPT_BYTES = 16 << 20  # of the room for ids, at most, from one call to the next
SHORT_TEXT = 1 << 12  # bytes of a text that one call of a kernel encodes, at most
CHUNK = 128  # words whose entries are asked for together: two lines of memory each, a fifth of the first-level cache
CHUNK_KEY, CHUNK_BUCKET = 0, 16  # byte offsets in the 32 bytes of a word of a chunk

# The value of a short word: in 64 bits the first ids, in 52 more the others, in the last 12 how many there are. Ids are
# written as they lie there: seven of 16 bits if all ids are below 65,536, else three of 32 and one of 20. More ids lie
# in `spill`. Then, as for all long words, the value is how many there are in 24 bits and where they start in 40; of one
# id, the id itself.
COUNT_SHIFT = np.uint64(52)
ID_PART = (ONE << COUNT_SHIFT) - ONE
SPILLED = np.uint64((1 << 12) - 1)
SPILL_SHIFT = np.uint64(40)

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
        ("chunk", np.int64),  # address of uint64[CHUNK, 4], work space: key and bucket of the next words
        ("spill", np.int64),  # address of uint32[:], the ids that entries have no room for
        ("spilled", np.int64),  # how many of these there are
        ("closing", np.int64),  # id put after each document, or -1
        ("kind", np.int64),  # the scanner of short texts
        ("remember", np.int64),  # whether the tables have room for the words of this call
        ("cursor", CURSOR),
    ]
)


class Output(NamedTuple):
    """Where ids are written: an address, and the bits of each, 16 or 32."""

    address: int
    bits: int


class Position(NamedTuple):
    """The document that is being encoded, and the number of ids written so far (both int64)."""

    document: int
    written: int


# ---- merging a word


@kernel
def _merge_at_once(at, length, tables, ids, joined):
    """Merge a word of 2 to 64 bytes at an address; returns the number of ids, left at `ids`.

    A symbol lives at the position of its first byte; `alive` has a bit for each. `joined` holds for each position the
    id that its symbol makes with the next one, and the position: the pair to merge is the lowest entry.
    """
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
def _merge(at, length, state):
    """Merge a word of at most CACHED_BYTES bytes at an address; returns the number of ids, left at `state.ids`."""
    tables = pair_view(state.pairs)
    if length <= MERGED_AT_ONCE:
        return _merge_at_once(at, length, tables, state.ids, state.joined)
    merged = _merge_with_heap(at, length, tables)
    for j in range(merged.size):
        store32(state.ids + 4 * j, np.uint64(merged[j]))
    return merged.size


@inlined
def _packed(ids, n, bits):
    """The two integers of the value of a short word that has so few ids that they fit."""
    first = more = np.uint64(0)
    for j in range(n):
        bit = bits * j
        if bit < 64:
            first |= load32(ids + 4 * j) << np.uint64(bit)
        else:
            more |= load32(ids + 4 * j) << np.uint64(bit - 64)
    return first, more | (np.uint64(n) << COUNT_SHIFT)


@inlined
def _spill(state, n):
    """Write n ids to `spill`, not for good; returns the value that tells where they are."""
    ids, spill, spilled = state.ids, state.spill, state.spilled
    if n == 1:
        return ONE_LONG_ID | load32(ids)
    for j in range(n):
        store32(spill + 4 * (spilled + j), load32(ids + 4 * j))
    return (np.uint64(n) << SPILL_SHIFT) | np.uint64(spilled)


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


@inlined
def _write(output, written, ids, n):
    """Write n ids (uint32[:] at an address)."""
    size = output.bits >> 3
    for j in range(n):
        store32(output.address + size * (written + j), load32(ids + 4 * j))


@kernel
def _write_short(at, key, encoders, output, written):
    """Write the ids of a short word that the first look did not find, or that has many; returns their number."""
    state = encoders[0]
    table = state.words
    words = word_view(table).short
    entry = find_short(words, key, home_bucket(words, key))
    value, more = load64(entry + VALUE), load64(entry + MORE)
    if more == 0:
        n = _merge(at, np.int64(key.k1 >> FIFTY_SIX), state)
        if n <= (7 if output.bits == 16 else 4):
            value, more = _packed(state.ids, n, output.bits)
        else:
            value, more = _spill(state, n), SPILLED << COUNT_SHIFT
        if state.remember != 0:
            enter_short(entry, key, value)
            store64(entry + MORE, more)
            table.short_words += 1
            state.spilled += n if more >> COUNT_SHIFT == SPILLED else 0
        _write(output, written, state.ids, n)
        return n
    if more >> COUNT_SHIFT != SPILLED:
        place = output.address + (output.bits >> 3) * written
        store64(place, value)
        store64(place + 8, more & ID_PART)
        return np.int64(more >> COUNT_SHIFT)
    return _write_spilled(state, value, output, written)


@inlined
def _write_spilled(state, value, output, written):
    n = np.int64(value >> SPILL_SHIFT)
    first = np.int64(value & ((ONE << SPILL_SHIFT) - ONE))
    if n == 1:
        store32(output.address + (output.bits >> 3) * written, np.uint64(first))
    else:
        _write(output, written, state.spill + 4 * first, n)
    return n


@kernel
def _write_long(at, length, encoders, output, written):
    """Write the ids of a word of 16 bytes and more; returns their number."""
    state = encoders[0]
    table = state.words
    words = word_view(table)
    if length > CACHED_BYTES:
        merged = _merge_with_heap(at, length, pair_view(state.pairs))
        for j in range(merged.size):
            store32(output.address + (output.bits >> 3) * (written + j), np.uint64(merged[j]))
        return merged.size
    key = long_key(at, length)
    entry = find_long(words.long, words.arena, key)
    value = load64(entry + LONG_VALUE)
    if value == 0:
        n = _merge(at, length, state)
        value = _spill(state, n)
        if state.remember != 0:
            kept = table.arena_used
            enter_long(entry, key, kept, value)
            for j in range(length):
                store8(words.arena + kept + j, np.uint64(load8(at + j)))
            table.long_words += 1
            table.arena_used += length
            state.spilled += n if n > 1 else 0
    return _write_spilled(state, value, output, written)


@inlined
def _look_ahead(text, start, ends, words, chunk):
    """Write the keys of consecutive words and where to look for them to a chunk, and ask for that memory.

    words: `Slots` of the short words. Returns where the last word ends.
    """
    for word in range(ends.size):
        end = ends[word]
        key = short_key(text, start, end - start)
        at = home_bucket(words, key)
        prefetch(at)
        place = chunk + 32 * word
        store64(place + CHUNK_KEY, key.k0)
        store64(place + CHUNK_KEY + 8, key.k1)
        store64(place + CHUNK_BUCKET, np.uint64(at))
        start = end
    return start


@kernel
def encode_words(text_array, ends, documents, out, encoders):
    """Write the ids of consecutive words.

    text_array: uint8[:]. ends: int64[words], where each word ends in the text; the first starts at that of the cursor.
    documents: int64[2, documents]: where each document ends in the text; its end among the ids is written beside it.
    out: uint16[:] if all ids are below 65,536, else uint32[:], with room for an id per byte and document and eight
    more. encoders: ENCODER[1]; if `remember`, all in it has room for these words, and the spill for one in any case.
    """
    state = encoders[0]
    cursor, chunk, closing = state.cursor, state.chunk, state.closing
    text, words = bytes_of(text_array), word_view(state.words).short
    start = cursor.start
    size = item_size(out)
    output = Output(address(out), 8 * size)
    document, o = _close_documents(documents, start, out, closing, Position(cursor.document, cursor.written))
    first = np.int64(0)
    while first < ends.size:
        last = min(first + CHUNK, ends.size)
        if document < documents.shape[1] and documents[0, document] <= ends[last - 1]:
            last = first + np.searchsorted(ends[first:last], documents[0, document]) + 1
        after = _look_ahead(text, start, ends[first:last], words, chunk)
        for word in range(first, last):
            place = chunk + 32 * (word - first)
            k0, k1, at = (
                load64(place + CHUNK_KEY),
                load64(place + CHUNK_KEY + 8),
                np.int64(load64(place + CHUNK_BUCKET)),
            )
            is_first = (load64(at + K0) == k0) & (load64(at + K1) == k1)
            is_second = (load64(at + ENTRY + K0) == k0) & (load64(at + ENTRY + K1) == k1)
            value, more = load64(at + ENTRY + VALUE), load64(at + ENTRY + MORE)
            first_value, first_more = load64(at + VALUE), load64(at + MORE)
            value, more = (first_value, first_more) if is_first else (value, more)
            count = more >> COUNT_SHIFT
            if (is_first | is_second) & (count != SPILLED):
                # ids beyond the count are overwritten by the next word's
                store64(output.address + size * o, value)
                store64(output.address + size * o + 8, more & ID_PART)
                o += np.int64(count)
            else:
                begin = ends[word - 1] if word > first else start
                length = ends[word] - begin
                if length < INLINE:
                    o += _write_short(text.address + begin, ShortKey(k0, k1), encoders, output, o)
                else:
                    o += _write_long(text.address + begin, length, encoders, output, o)
        first, start = last, after
        document, o = _close_documents(documents, start, out, closing, Position(document, o))
    cursor.start, cursor.document, cursor.written = start, document, o


@kernel
def encode_text(text, offsets, out, classes, encoders):
    """Write the ids of one short text; returns their number. The arguments are those of `scan` and `encode_words`."""
    state = encoders[0]
    state.closing = -1
    state.cursor.start, state.cursor.document, state.cursor.written = 0, 0, 0
    length = offsets[1]
    ends = np.empty(length + WINDOW, np.int64)
    cursor = np.array((state.kind, 0, 0))
    documents = np.full((2, 1), length)
    words = scan(text, offsets, ends, classes, cursor)
    encode_words(text, ends[:words], documents, out, encoders)
    return state.cursor.written


class Encoder:
    """Encodes text with a vocabulary and a split pattern; one thread at a time, for it remembers words.

    Args:
        dtype: of the ids: uint16 if it holds all, else uint32.

    Attributes:
        longest_short: bytes of the longest text that `encode_short` takes.
    """

    def __init__(self, vocabulary: Vocabulary, pattern: Pattern, dtype: np.dtype) -> None:
        self._vocabulary = vocabulary  # which the record points into
        self._dtype = dtype
        self._scanner = Scanner(pattern)
        self._record = np.zeros(1, ENCODER)
        # views of the fields that every call changes: a record is slow to index
        self._remember, self._spilled = self._record["remember"], self._record["spilled"]
        self._cursor = self._record["cursor"].view(np.int64)
        self._words = vocabulary.words.copy(self._record["words"])
        self._record["pairs"] = vocabulary.record
        self._ids = np.empty(CACHED_BYTES, np.uint32)
        self._out = np.empty(0, dtype)
        self._chunk = np.empty((CHUNK, 4), np.uint64)
        self._record["chunk"] = self._chunk.ctypes.data
        self._joined = np.full(MERGED_AT_ONCE, 0xFFFFFFFF, np.uint32)
        self._spill = np.empty(CACHED_BYTES, np.uint32)
        self._record["ids"], self._record["joined"] = self._ids.ctypes.data, self._joined.ctypes.data
        self._record["spill"] = self._spill.ctypes.data
        self.longest_short = -1
        if pattern.kind in SCANNERS:
            self.longest_short = SHORT_TEXT
            self._record["kind"] = SCANNERS[pattern.kind]
        # short texts are written to an array that is kept; kernels are handed the same kinds of arrays as of long ones
        text, self._short_offsets = np.zeros(SHORT_TEXT + WINDOW, np.uint8), np.zeros(2, np.int64)
        self._short_text = memoryview(text)
        self._short = text[:], self._short_offsets[:], np.empty(SHORT_TEXT + 8, dtype), class_table(), self._record
        self._short[0].flags.writeable = self._short[1].flags.writeable = False
        self._reserved = 0  # bytes of text for whose words there is room

    def encode_short(self, text: bytes) -> list[int]:
        """Ids of one text, UTF-8 of at most `longest_short` bytes."""
        size = len(text)
        if size > self._reserved:
            self._remember[0] = self._reserve(4 * SHORT_TEXT, 4 * SHORT_TEXT)
            self._reserved = 4 * SHORT_TEXT
        self._reserved -= size
        self._short_text[:size] = text
        self._short_offsets[1] = size
        written = encode_text(*self._short)
        return self._short[2][:written].tolist()

    def encode(
        self, text: np.ndarray, offsets: np.ndarray, closing: int | None = None
    ) -> tuple[np.ndarray, np.ndarray]:
        """Ids of all documents, one after the other, and where each document ends among them (int64[documents]).

        Args:
            text: uint8[:], valid UTF-8.
            offsets: int64[documents + 1] into it.
            closing: an id to put after each document.
        """
        self._reserved = 0
        start, stop = int(offsets[0]), int(offsets[-1])
        documents = np.empty((2, len(offsets) - 1), np.int64)
        documents[0] = offsets[1:]
        out = self._room_for(stop - start + documents.shape[1] + 8)
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
        return out[:written].copy(), documents[1]

    def _room_for(self, ids: int) -> np.ndarray:
        """Room for so many ids: memory that is kept, unless it is much, for that of a fresh array is slow to touch."""
        if ids * self._dtype.itemsize > KEPT_BYTES:
            return np.empty(ids, self._dtype)
        if ids > len(self._out):
            self._out = np.empty(min(max(ids, 2 * len(self._out)), KEPT_BYTES // self._dtype.itemsize), self._dtype)
        return self._out[:ids]

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
