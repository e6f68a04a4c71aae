"""Which documents are worth training on: the filters in their order, and their thresholds.

The first filter that a document fails is the reason to drop it. The rules follow Gopher (Rae et al. 2021,
arXiv:2112.11446, table A1) and C4 (Raffel et al. 2020, arXiv:1910.10683). The papers' thresholds were made for prose;
the defaults here are wider, so that reference pages, lists and code, which a source was added for, pass, and text that
people do not read is dropped. Every group of filters can be switched off, and every threshold set.

    >>> apply_filters("Too little.", recipe(FilterConfig()))
    FilterResult(reason='too short', detail='11 characters', lang=None)
"""

from __future__ import annotations

import re
from collections.abc import Iterable
from typing import NamedTuple

from pydantic import BaseModel, Field, field_validator

from scraping.corpus.filters import (
    BulletLines,
    Document,
    DuplicateLines,
    DuplicateRuns,
    EllipsisLines,
    FewWordsWithLetters,
    Filter,
    HashesAndEllipses,
    NoWords,
    OtherLanguage,
    PlaceholderText,
    ReplacementCharacters,
    TooLong,
    TooShort,
    TopNgram,
    WordLength,
)


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


class FilterResult(NamedTuple):
    """What the filters say of a document."""

    reason: str | None  # why it is dropped; None if it passed
    detail: str  # the number that decided
    lang: str | None  # ISO 639-1; None where the text is too short to tell


def recipe(config: FilterConfig) -> list[Filter]:
    """The filters that a document passes through, in this order."""
    length, symbols, repetition, language = config.length, config.symbols, config.repetition, config.language
    filters: list[Filter] = []
    if length.enabled:
        filters += [TooShort(length.min_characters), TooLong(length.max_characters)]
    if symbols.enabled:
        filters += [
            NoWords(),
            ReplacementCharacters(symbols.max_replacement_characters),
            *([PlaceholderText()] if symbols.placeholder_text else []),
            HashesAndEllipses(symbols.max_hashes_and_ellipses),
            BulletLines(symbols.max_bullet_lines),
            EllipsisLines(symbols.max_ellipsis_lines),
            FewWordsWithLetters(symbols.min_alphabetic_words),
            WordLength(symbols.min_mean_word, symbols.max_mean_word),
        ]
    if repetition.enabled:
        filters += [
            DuplicateLines(repetition.max_duplicate_lines),
            DuplicateRuns(repetition.max_duplicate_runs),
            *(TopNgram(n, repetition.max_top_ngram) for n in (2, 3, 4)),
        ]
    if language.keep:
        filters += [OtherLanguage(language.keep, language.min_score)]
    return filters


def apply_filters(text: str, filters: Iterable[Filter]) -> FilterResult:
    """Try a text, in normal form, on the filters; the first one that it fails is the reason to drop it."""
    document = Document(text)
    for filter in filters:
        if (detail := filter.failure(document)) is not None:
            return FilterResult(filter.reason, detail, document.lang)
    return FilterResult(None, "", document.lang)
