"""What the kernels compute, in plain Python. The tests compare both on generated inputs."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Mapping, Sequence, Set
from itertools import pairwise

import regex

from scraping.corpus.kernels.characters import UNSPACED
from scraping.corpus.kernels.counts import (
    LONG_MIXED,
    REPEATED_RUN,
    AsciiCounts,
    LineCounts,
    PlainCounts,
    RunCounts,
    SingleCounts,
    WordCounts,
)
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


# --- what filters count -----------------------------------------------------------------------------------------------

_SEGMENT = regex.compile(rf"[{UNSPACED}]|[^\s{UNSPACED}]+")
_WORD = regex.compile(r"\p{L}[\p{L}\p{M}\u200c\u200d]*+")
_CJK = regex.compile(r"[\p{Han}\p{Hiragana}\p{Katakana}\p{Hangul}]")
_PHRASE_SCRIPTS = regex.compile(r"[\p{Thai}\p{Lao}\p{Tibetan}\p{Myanmar}\p{Khmer}]")
_ELLIPSES = ("...", "…", "[...]", "[…]")
_SENTENCE_END = regex.compile(r"(?<=[\p{L}\p{M}\p{N})\]\"'”’»」』])[.!?…؟۔։।]++(?=[)\]\"'”’»]*+(?:\s|$))|[。！？]")
_BARE_COUNT = regex.compile(r"\(\d[\d,.]*\)|(?:19|20)\d\d")  # `Travel (159)`, `March 2021`: menus have them too
# Letters, perhaps with digits behind; several such words with list marks and without spaces between.
_PLAIN = regex.compile(r"[\p{L}\p{M}]+\d*(?:['’\u200c\u200d,;:|>»·•・、，；－-][\p{L}\p{M}]+\d*)*")
_CAMEL_CASE = regex.compile(r"\p{Ll}\p{Lu}")
_OUTER = regex.compile(r"^[^\p{L}\p{M}\p{N}_]+|[^\p{L}\p{M}\p{N}_]+$")


def segments(text: str) -> list[str]:
    """The runs without white space; each character of a script without spaces is one by itself."""
    return _SEGMENT.findall(text)


def text_words(text: str) -> list[str]:
    """The runs of letters, in small letters; a final sigma is a sigma."""
    return _WORD.findall(text.lower().replace("ς", "σ"))


def count_runs(text: str) -> RunCounts:
    """What `counts.count_runs` counts."""
    runs, pieces = text.split(), segments(text)
    starts = range(len(pieces) - REPEATED_RUN + 1)
    seen: set[tuple[str, ...]] = set()
    repeated: set[int] = set()
    for start in starts:
        run = tuple(pieces[start : start + REPEATED_RUN])
        if run in seen:
            repeated.update(range(start, start + REPEATED_RUN))
        seen.add(run)
    return RunCounts(
        characters=sum(map(len, runs)),
        spaces=text.count(" "),
        segments=len(pieces),
        unspaced=len(regex.findall(f"[{UNSPACED}]", text)),
        addresses=sum(len(run) for run in runs if "://" in run or "www." in run),
        hashtags=len(regex.findall(r"(?<!\S)#\p{L}\S*", text)),
        repeated=len(repeated),
    )


def count_words(
    text: str, lists: tuple[Mapping[str, Sequence[str]], Set[str], Set[str]], function_characters: Set[str]
) -> WordCounts:
    """What `counts.count_words` counts.

    Args:
        text: in normal form.
        lists: the words that hold sentences together, with their languages; those of "lorem ipsum"; those of notices.
        function_characters: those that hold sentences together.
    """
    function, placeholder, notice = lists
    words = text_words(text)
    counts = Counter(words)
    long = {word: count for word, count in counts.items() if len(word) >= 4}
    languages: Counter[str] = Counter()
    for word, names in function.items():
        languages.update(dict.fromkeys(names, counts[word.replace("ς", "σ")]))
    return WordCounts(
        words=len(words),
        single=sum(len(word) == 1 for word in words),
        letters=sum(len(word) for word in words if not _CJK.match(word)),
        top=max(counts.values(), default=0),
        long=sum(long.values()),
        top_long=max(long.values(), default=0),
        function=max(languages.values(), default=0),
        placeholder=sum(counts[word] for word in placeholder),
        notice=sum(counts[word] for word in notice),
        numbers=len(regex.findall(r"\d+", text)),
        cjk=len(_CJK.findall(text)),
        function_characters=sum(character in function_characters for character in text),
        phrase_characters=len(_PHRASE_SCRIPTS.findall(text)),
    )


def top_ngram(text: str, n: int) -> int:
    """How often the most frequent run of `n` words occurs."""
    words = text_words(text)
    ngrams = Counter(tuple(words[start : start + n]) for start in range(len(words) - n + 1))
    return max(ngrams.values(), default=0)


def count_lines(text: str) -> LineCounts:
    """What `counts.count_lines` counts."""
    lines = [line for line in map(str.strip, text.split("\n")) if line]
    trailing = [len(line) for line in lines if line.endswith(_ELLIPSES)]
    characters = sum(map(len, lines))
    return LineCounts(characters, characters - sum(map(len, set(lines))), len(trailing), sum(trailing))


def count_sentences(text: str) -> int:
    """How many sentences end."""
    return len(_SENTENCE_END.findall(text))


def count_ascii(text: str) -> AsciiCounts:
    """What `counts.count_ascii` counts."""
    words = re.findall("[A-Za-z0-9]+", text)
    mixed = [word for word in words if not word.isalpha() and not word.isdigit()]
    hexadecimal = [word for word in words if re.fullmatch("([0-9A-Fa-f]{2})+", word)]
    return AsciiCounts(len(words), len(mixed), sum(len(word) >= LONG_MIXED for word in mixed), len(hexadecimal))


def count_plain(text: str) -> PlainCounts:
    """What `counts.count_plain` counts."""
    runs = [_OUTER.sub("", run) for run in text.split() if not _BARE_COUNT.fullmatch(run)]
    plain = [_PLAIN.fullmatch(run) is not None and not _CAMEL_CASE.search(run) for run in runs if run]
    return PlainCounts(sum(plain), len(plain))


def count_single(text: str) -> SingleCounts:
    """What `counts.count_single` counts."""
    pieces = [_OUTER.sub("", piece) for piece in segments(text) if not regex.match(f"[{UNSPACED}]", piece)]
    words = [piece for piece in pieces if regex.match(r"\p{L}", piece)]
    return SingleCounts(sum(len(word) == 1 for word in words), len(words))
