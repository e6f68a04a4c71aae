"""What the kernels compute, in plain Python. The tests compare both on generated inputs."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from itertools import pairwise

from scraping.corpus.kernels.edges import BLOCK, GAP

_MASK = (1 << 64) - 1
_M0, _M1, _M2 = 0x9E3779B97F4A7C15, 0xBF58476D1CE4E5B9, 0x94D049BB133111EB


def words(utf8: bytes) -> list[bytes]:
    """The words of a text: what is between bytes up to 32."""
    return bytes(byte if byte > 32 else 32 for byte in utf8).split()


def word_hash(word: bytes) -> int:
    """The 64-bit hash of a word."""
    h = len(word) * _M2 & _MASK
    for start in range(0, len(word), 8):
        h = (h ^ int.from_bytes(word[start : start + 8], "little")) * _M0 & _MASK
        h ^= h >> 32
    return _mixed(h)


def ngram_hashes(hashes: Sequence[int], n: int) -> list[int]:
    """The hash of each run of `n` >= 2 neighbors."""
    result = []
    for start in range(len(hashes) - n + 1):
        combined = 0
        for value in hashes[start : start + n]:
            combined = (combined * _M2 + value) & _MASK
        result.append(_mixed(combined))
    return result


def line_starts(utf8: bytes, longest: int) -> list[tuple[int, bool]]:
    """The first word of each line that has words, and False; each word of a line of more than `longest`, and True."""
    result, first = [], 0
    for line in utf8.split(b"\n"):
        count = len(words(line))
        if count > longest:
            result += [(first + place, True) for place in range(count)]
        elif count:
            result.append((first, False))
        first += count
    return result


def line_hashes(hashes: Sequence[int], borders: Sequence[int]) -> list[int]:
    """The hash of each line, of the words between two borders."""
    result = []
    for start, end in pairwise(borders):
        combined = end - start
        for value in hashes[start:end]:
            combined = (combined * _M2 + value) & _MASK
        result.append(_mixed(combined) | 1)
    return result


def known_blocks(hashes: Sequence[int], known: Mapping[int, int], end: int) -> list[int]:
    """On how many pages the block is that begins with each word, as far as template may reach from an edge."""
    result: list[int] = []
    for word, value in enumerate(ngram_hashes(hashes, BLOCK)):
        if word > end + GAP:
            break
        result.append(known.get(value, 0))
        end = word + BLOCK if result[-1] else end
    return result


def _mixed(value: int) -> int:
    value = (value ^ value >> 30) * _M1 & _MASK
    return value ^ value >> 31


def letters(text: str) -> str:
    """A text with a space for each run of what is not a letter: what the language is detected of."""
    return re.sub(r"[\W\d_]+", " ", text)
