"""The most likely language of a text, by a fastText model (Joulin et al. 2016, arXiv:1607.01759; compressed as in
arXiv:1612.03651).

A text's vector is the mean of the vectors of its words that the model knows and of the n-grams of all its words'
characters, `<` and `>` around each word; a binary tree of logistic decisions over that vector leads to the label
(hierarchical softmax). The labels are those of the fasttext library, the scores equal but for rounding. It takes a
small part of the library's time: the library makes a string of every n-gram, looks it up, and puts together its vector
from a code book; here vectors are made once, an n-gram is a hash that grows by a byte at a time, and the sums of words
are kept.

Plain Python: the library's `predict`, of `reference.letters`.
"""

from __future__ import annotations

import struct
from pathlib import Path
from typing import NamedTuple

import numpy as np

from scraping.corpus.kernels.words import word_hash
from textmill.kernels.jit import address, inlined, kernel

MAGIC, VERSION, HIERARCHICAL_SOFTMAX = 793712314, 12, 1
EOS = b"</s>"  # ends every text
FNV_BASIS, FNV_PRIME = 2166136261, 16777619
OPEN, CLOSE = 60, 62  # "<" and ">"
LEFT, RIGHT = 0, 1
SUM_BITS = 15


class Vocabulary(NamedTuple):
    """Which row of the vectors a word or n-gram has.

    `slots` is a hash table of words with linear probing: int32[power of two], a word's row or -1. `bytes` has the words
    one after the other, and `ends` where each ends: uint8[:], int64[words + 1].
    """

    slots: np.ndarray
    bytes: np.ndarray
    ends: np.ndarray
    buckets: np.ndarray  # int32[buckets]: row of an n-gram by its hash, -1 for none
    present: np.ndarray  # uint8[buckets / 8]: which of these are not -1, which fits the second-level cache


class Sums(NamedTuple):
    """The vectors of words that were met, summed: of all with the same slot the last one.

    A text of a thousand characters has a hundred words, most of which were met before.
    """

    keys: np.ndarray  # uint64[power of two], a hash of the word; 0 for none
    counts: np.ndarray  # int64[], how many vectors
    vectors: np.ndarray  # float32[:, dimensions]


class Model(NamedTuple):
    """A model as the kernel sees it. One thread at a time may use it, since it keeps sums."""

    vocabulary: Vocabulary
    vectors: np.ndarray  # float32[rows, dimensions]
    output: np.ndarray  # float32[labels, dimensions]: of the inner nodes of the tree; the last one is not used
    children: np.ndarray  # int32[2 * labels - 1, 2]: left and right of each node, -1 for leaves, which come first
    sizes: tuple[int, int, int]  # shortest and longest n-gram; row of the end of a text, or -1
    sums: Sums


def fnv(word):
    """The hash of some bytes: FNV-1a, with fastText's signed bytes."""
    h = FNV_BASIS
    for byte in word:
        h = (h ^ (byte if byte < 128 else byte | 0xFFFFFF00)) * FNV_PRIME & 0xFFFFFFFF
    return h


class _Reader:
    """Reads a model's file from its beginning."""

    def __init__(self, path):
        self._bytes, self._at = path.read_bytes(), 0

    def values(self, layout):
        found = struct.unpack_from(f"<{layout}", self._bytes, self._at)
        self._at += struct.calcsize(f"<{layout}")
        return found

    def array(self, dtype, count):
        found = np.frombuffer(self._bytes, np.dtype(dtype).newbyteorder("<"), count, self._at)
        self._at += found.nbytes
        return found

    def string(self):
        end = self._bytes.index(0, self._at)
        found, self._at = self._bytes[self._at : end], end + 1
        return found

    def quantizer(self):
        """Centroids of a product quantizer: float32[parts, 256, dimensions of a part]."""
        dimensions, parts, size, last = self.values("iiii")
        if size != last:
            raise ValueError("parts of different sizes are not read")
        return self.array("f4", dimensions * 256).reshape(parts, 256, size)

    def matrix(self, is_quantized):
        """A matrix of float32, put together if it is quantized."""
        if not is_quantized:
            rows, columns = self.values("qq")
            return self.array("f4", rows * columns).reshape(rows, columns)
        has_norms, rows, _, codes = self.values("?qqi")
        codes = self.array("u1", codes).reshape(rows, -1)
        centroids = self.quantizer()
        result = np.concatenate([part[codes[:, number]] for number, part in enumerate(centroids)], axis=1)
        if has_norms:
            norms = self.array("u1", rows)
            result *= self.quantizer()[0, norms]
        return result


def load(path: Path):
    """Labels and `Model` of a fastText classifier in a file.

    Raises:
        ValueError: the model is of another kind than hierarchical softmax over character n-grams.
    """
    reader = _Reader(path)
    magic, version = reader.values("ii")
    arguments = reader.values("12i")
    reader.values("d")
    word_ngrams, loss, bucket, shortest, longest = (arguments[place] for place in (5, 6, 8, 9, 10))
    if (magic, version, word_ngrams, loss) != (MAGIC, VERSION, 1, HIERARCHICAL_SOFTMAX) or not 0 < shortest <= longest:
        raise ValueError(f"{path}: not a fastText classifier of the kind that is read here")
    _, words, labels, _, pruned = reader.values("iiiqq")
    entries = [(reader.string(), *reader.values("qb")) for _ in range(words + labels)]
    kept = reader.array("i4", 2 * max(0, pruned)).reshape(-1, 2)
    vectors = reader.matrix(*reader.values("?"))
    output = reader.matrix(*reader.values("?"))

    buckets = np.full(bucket, -1, np.int32)
    if pruned < 0:
        buckets[:] = words + np.arange(bucket)
    else:
        buckets[kept[:, 0]] = words + kept[:, 1]
    names = [name for name, _, _ in entries[:words]]
    vocabulary = Vocabulary(
        _slots(names),
        np.frombuffer(b"".join(names), np.uint8),
        np.cumsum([0, *map(len, names)]),
        buckets,
        np.packbits(buckets >= 0, bitorder="little"),
    )
    sizes = (shortest, longest, names.index(EOS) if EOS in names else -1)
    tree = _tree([count for _, count, _ in entries[words:]])
    met = 1 << SUM_BITS
    dimensions = vectors.shape[1]
    sums = Sums(np.zeros(met, np.uint64), np.zeros(met, np.int64), np.zeros((met, dimensions), np.float32))
    model = Model(vocabulary, np.ascontiguousarray(vectors), np.ascontiguousarray(output), tree, sizes, sums)
    return [name.decode().removeprefix("__label__") for name, _, _ in entries[words:]], model


def _slots(words):
    """The table of `Vocabulary.slots`."""
    slots = np.full(1 << (2 * len(words)).bit_length(), -1, np.int32)
    for row, word in enumerate(words):
        slot = fnv(word) % len(slots)
        while slots[slot] >= 0:
            slot = (slot + 1) % len(slots)
        slots[slot] = row
    return slots


def _tree(counts):
    """The Huffman tree of labels that are sorted by falling counts, as fastText builds it: int32[nodes, 2]."""
    labels = len(counts)
    children = np.full((2 * labels - 1, 2), -1, np.int32)
    counts = [*counts, *[10**15] * (labels - 1)]
    leaf, inner = labels - 1, labels
    for node in range(labels, 2 * labels - 1):
        for side in (LEFT, RIGHT):
            if leaf >= 0 and counts[leaf] < counts[inner]:
                children[node, side], leaf = leaf, leaf - 1
            else:
                children[node, side], inner = inner, inner + 1
        counts[node] = counts[children[node, LEFT]] + counts[children[node, RIGHT]]
    return children


@inlined
def _grown(h, byte):
    """The hash of some bytes and one more."""
    signed = np.uint32(byte) if byte < 128 else np.uint32(byte) | np.uint32(0xFFFFFF00)
    return np.uint32((h ^ signed) * np.uint32(FNV_PRIME))


@inlined
def _row_of_word(vocabulary, word, end):
    """The row of the word between `<` and `>` in word[: end], or -1."""
    h = np.uint32(FNV_BASIS)
    for i in range(1, end - 1):
        h = _grown(h, word[i])
    mask = len(vocabulary.slots) - 1
    slot = np.int64(h) & mask
    while True:
        row = vocabulary.slots[slot]
        if row < 0:
            return np.int64(-1)
        start = vocabulary.ends[row]
        if vocabulary.ends[row + 1] - start == end - 2:
            i = 0
            while i < end - 2 and vocabulary.bytes[start + i] == word[1 + i]:
                i += 1
            if i == end - 2:
                return np.int64(row)
        slot = (slot + 1) & mask


@inlined
def _add_row(total, vectors, row):
    for d in range(len(total)):
        total[d] += vectors[row, d]


@inlined
def _add_word(model, word, end, total):
    """Add the vectors of the word in word[: end], `<` and `>` included, to `total`; returns their number."""
    vocabulary, vectors = model.vocabulary, model.vectors
    shortest, longest, _ = model.sizes
    count = 0
    row = _row_of_word(vocabulary, word, end)
    if row >= 0:
        _add_row(total, vectors, row)
        count += 1
    buckets = np.uint32(len(vocabulary.buckets))
    for start in range(end):
        if word[start] & 0xC0 == 0x80:
            continue
        h = np.uint32(FNV_BASIS)
        i = start
        size = 1
        while i < end and size <= longest:
            h = _grown(h, word[i])
            i += 1
            while i < end and word[i] & 0xC0 == 0x80:
                h = _grown(h, word[i])
                i += 1
            if size >= shortest and not (size == 1 and (start == 0 or i == end)):
                bucket = np.int64(h % buckets)
                if vocabulary.present[bucket >> 3] >> (bucket & 7) & 1:
                    _add_row(total, vectors, vocabulary.buckets[bucket])
                    count += 1
            size += 1
    return count


@inlined
def _best_label(model, hidden):
    """Label and logarithm of its score: the best leaf of the tree, branches that cannot lead to it left out."""
    children, output = model.children, model.output
    labels = len(output)
    stack = np.empty(2 * labels, np.int64)
    scores = np.empty(2 * labels, np.float32)
    stack[0], scores[0] = 2 * labels - 2, 0.0
    depth = 1
    best, best_score = 0, np.float32(-np.inf)
    while depth:
        depth -= 1
        node, score = stack[depth], scores[depth]
        if score < best_score:
            continue
        if children[node, LEFT] < 0:
            best, best_score = node, score
            continue
        dot = np.float32(0)
        for d in range(len(hidden)):
            dot += hidden[d] * output[node - labels, d]
        right = np.float32(1) / (np.float32(1) + np.exp(-dot))
        # left is looked at first, so it goes on the stack last; the library, too, adds 1e-5 to every probability
        stack[depth], scores[depth] = children[node, RIGHT], score + np.log(right + np.float32(1e-5))
        depth += 1
        stack[depth], scores[depth] = children[node, LEFT], score + np.log(np.float32(1) - right + np.float32(1e-5))
        depth += 1
    return best, best_score


@kernel
def classify(model, utf8, is_letter):
    """Label and score of a text, which is split into words where a character is not a letter.

    model: Model. utf8: uint8[:], well-formed. is_letter: bool[0x110000]. The label is -1 if the text has no vector.
    """
    hidden = np.zeros(model.vectors.shape[1], np.float32)
    size = len(utf8)
    word = np.empty(size + 2, np.uint8)
    word[0] = OPEN
    first = address(word)
    keys, counts, sums = model.sums
    end = 1
    count = 0
    i = 0
    while i < size:
        byte = np.int64(utf8[i])
        length = 1 + (byte >= 0xC0) + (byte >= 0xE0) + (byte >= 0xF0)
        code = byte
        if length > 1:
            code = byte & (0x7F >> length)
            for j in range(1, length):
                code = code << 6 | np.int64(utf8[i + j]) & 0x3F
        if is_letter[code]:
            for j in range(length):
                word[end + j] = utf8[i + j]
            end += length
        i += length
        if end > 1 and (i == size or not is_letter[code]):
            word[end] = CLOSE
            key = word_hash(first, 1, end, size + 2) | np.uint64(1)
            slot = np.int64(key >> np.uint64(64 - SUM_BITS))
            if keys[slot] != key:
                keys[slot] = key
                sums[slot] = 0
                counts[slot] = _add_word(model, word, end + 1, sums[slot])
            _add_row(hidden, sums, slot)
            count += counts[slot]
            end = 1
    end_of_text = model.sizes[2]
    if end_of_text >= 0:
        _add_row(hidden, model.vectors, end_of_text)
        count += 1
    if not count:
        return -1, 0.0
    for d in range(len(hidden)):
        hidden[d] /= np.float32(count)
    label, score = _best_label(model, hidden)
    return label, np.exp(np.float64(score))
