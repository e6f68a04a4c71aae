"""Read this first: what the kernels compute, each algorithm in plain Python, slow and easy to see right.

- `learn`: byte pair encoding as it is defined (Sennrich, Haddow and Birch, "Neural Machine Translation of Rare Words
  with Subword Units", ACL 2016): count all pairs, merge the most frequent, start over. `learn_incrementally` changes
  the counts only where a merge changes the words, and returns the same merges. Optimized: `merges.py`.
- `encode`: the ids of a word, by the ranks of tiktoken. Optimized: `encoder.py`.
- `permuted`: one index of a random order, without the order. Optimized: `gather.py`.

The tests compare every kernel with these. The style is that of Karpathy's minbpe (2024).
"""

from __future__ import annotations

import itertools
from collections import Counter, defaultdict
from collections.abc import Mapping, Sequence

Pair = tuple[int, int]


def merge(ids: list[int], pair: Pair, new: int) -> list[int]:
    """The ids with every occurrence of the pair, from left to right, replaced.

    Example:
        >>> merge([1, 1, 1, 2, 1, 1], pair=(1, 1), new=9)
        [9, 1, 2, 9]
    """
    result: list[int] = []
    i = 0
    while i < len(ids):
        if tuple(ids[i : i + 2]) == pair:
            result.append(new)
            i += 2
        else:
            result.append(ids[i])
            i += 1
    return result


def most_frequent(counts: Mapping[Pair, int]) -> Pair | None:
    """The pair to merge next: the most frequent, of equally frequent ones the smallest; None if no pair occurs twice.

    Example:
        >>> most_frequent({(98, 97): 3, (97, 98): 3, (97, 97): 1})
        (97, 98)
    """
    best = min(counts, key=lambda pair: (-counts[pair], pair), default=None)
    return best if best is not None and counts[best] > 1 else None


def learn(words: Mapping[bytes, int], n_merges: int) -> list[Pair]:
    """The merges of distinct words and how often each occurs; merge i makes id 256 + i.

    There are fewer than `n_merges` if no pair occurs twice any more.

    Example:
        >>> learn({b"aaabdaaabac": 1}, n_merges=3)  # aa → 256, ab → 257, and 256 257, which is aaab → 258
        [(97, 97), (97, 98), (256, 257)]
    """
    splits = [(list(word), count) for word, count in words.items()]
    merges: list[Pair] = []
    while len(merges) < n_merges:
        counts: Counter[Pair] = Counter()
        for ids, count in splits:
            for pair in itertools.pairwise(ids):
                counts[pair] += count
        best = most_frequent(counts)
        if best is None:
            break
        new = 256 + len(merges)
        splits = [(merge(ids, best, new), count) for ids, count in splits]
        merges.append(best)
    return merges


def learn_incrementally(words: Mapping[bytes, int], n_merges: int) -> list[Pair]:
    """The same merges as those of `learn`: all pairs are counted once, then only in the words that a merge changes.

    Example:
        >>> learn_incrementally({b"aaabdaaabac": 1}, n_merges=3)
        [(97, 97), (97, 98), (256, 257)]
    """
    splits = [(list(word), count) for word, count in words.items()]
    counts: Counter[Pair] = Counter()
    where: defaultdict[Pair, set[int]] = defaultdict(set)  # the words in which a pair is, or was

    def tally(index: int, sign: int) -> None:
        ids, count = splits[index]
        for pair in itertools.pairwise(ids):
            counts[pair] += sign * count
            where[pair].add(index)

    for index in range(len(splits)):
        tally(index, 1)
    merges: list[Pair] = []
    while len(merges) < n_merges and (pair := most_frequent(counts)) is not None:
        new = 256 + len(merges)
        for index in sorted(where.pop(pair)):
            tally(index, -1)
            splits[index] = (merge(splits[index][0], pair, new), splits[index][1])
            tally(index, 1)
        del counts[pair]
        merges.append(pair)
    return merges


def encode(word: bytes, ranks: Mapping[bytes, int]) -> list[int]:
    """Ids of a word: the token that it is, else its bytes merged, lowest rank of the joined bytes first, leftmost.

    Args:
        word: what the split pattern calls one.
        ranks: the id of every token, every single byte among them. The id is the rank.

    Example:
        >>> ranks = {b"a": 0, b"b": 1, b"c": 2, b"ab": 3, b"bc": 4, b"abc": 5, b"bcab": 6}
        >>> encode(b"abcab", ranks)  # a b c a b → ab c a b → ab c ab → abc ab
        [5, 3]
        >>> encode(b"bcab", ranks)  # a token, although its bytes merge to bc ab
        [6]
    """
    if word in ranks:
        return [ranks[word]]
    parts = [word[i : i + 1] for i in range(len(word))]
    while True:
        joined = [ranks.get(a + b) for a, b in itertools.pairwise(parts)]
        candidates = [(rank, i) for i, rank in enumerate(joined) if rank is not None]
        if not candidates:
            return [ranks[part] for part in parts]
        _, i = min(candidates)
        parts[i : i + 2] = [parts[i] + parts[i + 1]]


def permuted(index: int, n: int, keys: Sequence[int]) -> int:
    """Where a permutation of range(n) that the keys choose sends an index: a Feistel network with cycle walking.

    Args:
        index: in range(n).
        n: how many indices there are.
        keys: below 2**64, one for each round of the network.

    Example:
        >>> [permuted(index, 5, keys=[1, 2, 3, 4]) for index in range(5)]
        [0, 3, 2, 1, 4]
    """
    half = max(1, (max(n - 1, 1).bit_length() + 1) // 2)  # bits of each half of a number that holds every index
    while True:
        left, right = index >> half, index % (1 << half)
        for key in keys:
            left, right = right, left ^ (_mixed(right ^ key) % (1 << half))
        index = left << half | right
        if index < n:  # else walk on: the cycle comes back to an index below n, at the latest to the first
            return index


def _mixed(value: int) -> int:
    """31 bits that depend on all bits of a uint64, by two multipliers of SplitMix64 (Steele, Lea and Flood, 2014)."""
    value = value * 0x9E3779B97F4A7C15 % (1 << 64)
    value = (value ^ value >> 32) * 0xBF58476D1CE4E5B9 % (1 << 64)
    return value >> 33
