"""Which documents are worth training on: the filters in their order, and their thresholds.

The first filter that a document fails is the reason to drop it. The rules follow Gopher (Rae et al. 2021,
arXiv:2112.11446, table A1) and C4 (Raffel et al. 2020, arXiv:1910.10683). The papers' rules were made for prose; these
also let reference pages, lists, tables, poems and code pass. The thresholds lie between what 4,000 good pages have at
most (WCXB, OpenWebText, ten sites of documentation in 26 languages) and what junk has at least; `labelled.yaml` in the
tests holds texts of each kind. Every group of filters can be switched off, and every threshold set.

    >>> apply_filters("Too little.", recipe(FilterConfig()))
    FilterResult(reason='too short', detail='11 characters', lang=None)
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import NamedTuple

from scraping.corpus.config import FilterConfig
from scraping.corpus.filters import (
    Addresses,
    Document,
    DuplicateLines,
    DuplicateRuns,
    EllipsisLines,
    FailedDecoding,
    FewWordsWithLetters,
    Filter,
    Hashtags,
    MixedWords,
    NoSentences,
    Notices,
    NoWords,
    OtherLanguage,
    PlaceholderText,
    SingleLetters,
    TooLong,
    TooShort,
    TopNgram,
    TopWord,
    WordLength,
)


class FilterResult(NamedTuple):
    """What the filters say of a document."""

    reason: str | None  # why it is dropped; None if it passed
    detail: str  # the number that decided
    lang: str | None  # ISO 639-1; None where the text is too short to tell


def recipe(config: FilterConfig) -> list[Filter]:
    """The filters that a document passes through, in this order."""
    length, symbols, prose, repetition = config.length, config.symbols, config.prose, config.repetition
    filters: list[Filter] = []
    if length.enabled:
        filters += [TooShort(length.min_characters), TooLong(length.max_characters)]
    if symbols.enabled:
        filters += [
            FailedDecoding(symbols.max_replacement_characters),
            NoWords(),
            FewWordsWithLetters(symbols.min_alphabetic_words),
            MixedWords(symbols.max_mixed_words),
            Addresses(symbols.max_addresses),
            WordLength(symbols.max_mean_word),
            SingleLetters(symbols.max_single_letters),
        ]
    if repetition.enabled:
        filters += [
            DuplicateLines(repetition.max_duplicate_lines),
            DuplicateRuns(repetition.max_duplicate_runs),
            *(TopNgram(n, repetition.max_top_ngram) for n in (2, 3, 4)),
            TopWord(repetition.max_top_word),
        ]
    if prose.enabled:
        filters += [
            PlaceholderText(prose.max_placeholder_text),
            Notices(prose.max_notices),
            Hashtags(prose.max_hashtags),
            EllipsisLines(prose.max_ellipsis_lines),
            NoSentences(prose.min_function_words, prose.min_sentences),
        ]
    if config.language.keep:
        filters += [OtherLanguage(config.language.keep, config.language.min_score)]
    return filters


def apply_filters(text: str, filters: Iterable[Filter]) -> FilterResult:
    """Try a text, in normal form, on the filters; the first one that it fails is the reason to drop it."""
    document = Document(text)
    for filter in filters:
        if (detail := filter.failure(document)) is not None:
            return FilterResult(filter.reason, detail, document.lang)
    return FilterResult(None, "", document.lang)
