"""Byte pair encoding twice in plain Python: slow, and easy to see right.

`naive` counts every pair again for every merge; `incremental` changes the counts where a merge changes the words. They
are the oracles of the tests and the contestants of the experiments; `tokenization/kernels/merges.py` does the work.
Both take the distinct words with their counts and return the same merges: the most frequent pair first, of equally
frequent pairs the smallest, until no pair occurs twice.
"""

import itertools
from collections import Counter, defaultdict
from collections.abc import Mapping

Pair = tuple[int, int]


def merged(symbols: list[int], pair: Pair, new: int) -> list[int]:
    """The symbols with every occurrence of the pair, from left to right, replaced."""
    result: list[int] = []
    i = 0
    while i < len(symbols):
        if tuple(symbols[i : i + 2]) == pair:
            result.append(new)
            i += 2
        else:
            result.append(symbols[i])
            i += 1
    return result


def most_frequent(counts: Mapping[Pair, int]) -> Pair | None:
    """The pair to merge next, or None if no pair occurs twice."""
    best = min(counts, key=lambda pair: (-counts[pair], pair), default=None)
    return best if best is not None and counts[best] > 1 else None


def naive(words: Mapping[bytes, int], n_merges: int) -> list[Pair]:
    """Count all pairs, merge the most frequent, start over."""
    splits = [(list(word), count) for word, count in words.items()]
    merges: list[Pair] = []
    while len(merges) < n_merges:
        counts: Counter[Pair] = Counter()
        for symbols, count in splits:
            for pair in itertools.pairwise(symbols):
                counts[pair] += count
        pair = most_frequent(counts)
        if pair is None:
            break
        new = 256 + len(merges)
        splits = [(merged(symbols, pair, new), count) for symbols, count in splits]
        merges.append(pair)
    return merges


def incremental(words: Mapping[bytes, int], n_merges: int) -> list[Pair]:
    """Count all pairs once; a merge recounts only the words that contain the pair."""
    splits = [(list(word), count) for word, count in words.items()]
    counts: Counter[Pair] = Counter()
    where: defaultdict[Pair, set[int]] = defaultdict(set)

    def tally(index: int, sign: int) -> None:
        symbols, count = splits[index]
        for pair in itertools.pairwise(symbols):
            counts[pair] += sign * count
            where[pair].add(index)

    for index in range(len(splits)):
        tally(index, 1)
    merges: list[Pair] = []
    while len(merges) < n_merges and (pair := most_frequent(counts)) is not None:
        new = 256 + len(merges)
        for index in sorted(where.pop(pair)):
            tally(index, -1)
            splits[index] = (merged(splits[index][0], pair, new), splits[index][1])
            tally(index, 1)
        del counts[pair]
        merges.append(pair)
    return merges


def encode(word: bytes, ranks: Mapping[bytes, int]) -> list[int]:
    """Ids of a word: the token it is, else its bytes merged, lowest rank of the joined bytes first, leftmost."""
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
