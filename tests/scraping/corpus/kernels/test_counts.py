"""What the kernels count in a text for the filters is what plain Python counts."""

from __future__ import annotations

import numpy as np
import pytest
import regex
from hypothesis import example, given
from hypothesis import strategies as st

from scraping.corpus.filters import _MISREAD
from scraping.corpus.kernels import counts, reference
from scraping.corpus.kernels.characters import PLANES_END, SELECTORS, SELECTORS_END, character_table, every_character
from scraping.corpus.phrases import FUNCTION_CHARACTERS, FUNCTION_WORDS, NOTICE_WORDS, PLACEHOLDER_WORDS
from scraping.extraction.normalize import normalize

CHARACTERS = character_table(FUNCTION_CHARACTERS)
LISTS = counts.word_lists(FUNCTION_WORDS, PLACEHOLDER_WORDS, NOTICE_WORDS)

# what words, runs, lines and sentences are told apart by, in several scripts
PIECES = [
    *"aAzZfF0159_ .!?…。！؟।()[]\"'’»,;:|·-—#²Ⅷ\n\t",
    *"İıßςΣσЖжÉéのはー字的屯烫가을ไทยབོདမြန်မာខ្មែរ\u0307\u0301\u200d\u200c\U000e0100\U0001f600",
    *[
        "...",
        "[...]",
        "[…]",
        "…",
        "://",
        "www.",
        "#a",
        "#字",
        "(12)",
        "(1,5)",
        "2021",
        "1999",
        "20٢٣",
        "aB",
        "a1b",
        "ff00",
    ],
    *["the ", "and ", "και ", "της ", "lorem ", "ipsum ", "cookies ", "page ", "tea\n", "один ", " two", "x" * 9],
]
PARTS = st.lists(st.sampled_from(PIECES), max_size=60).map("".join)
REPEATED = st.lists(st.sampled_from(["tea ", "and ", "a\n", "字", "…\n", "x."]), max_size=60).map("".join)
TEXTS = (PARTS | REPEATED | st.text(max_size=60)).map(normalize)
# bytes of one encoding read as another, and their neighbors
MISREAD = "aé?\ufffdÂÃßà©€ï¿½ð\x9fŸ˜‚ƒ!яЯРС°»Ђ锟斤拷烫屯䄀䈀 \n"


def utf8(text: str) -> np.ndarray:
    return np.frombuffer(text.encode("utf-8", "replace"), np.uint8)


def test_every_letter_is_in_the_table():
    everything = every_character()
    outside = everything[PLANES_END:SELECTORS] + everything[SELECTORS_END:]
    assert not regex.search(r"[\p{L}\p{M}\p{N}]", outside) and outside.lower() == outside
    assert regex.fullmatch(r"\p{M}+", everything[SELECTORS:SELECTORS_END])


@given(TEXTS)
@example("")
@example("a " * 30)
@example("字" * 30)
def test_runs(text):
    assert counts.count_runs(utf8(text), CHARACTERS) == reference.count_runs(text)


@given(TEXTS)
@example("ΟΔΟΣ ΤΗΣ οδος οδός")
@example("\U0003d000")
def test_words(text):
    lists = (FUNCTION_WORDS, PLACEHOLDER_WORDS, NOTICE_WORDS)
    assert counts.count_words(utf8(text), CHARACTERS, LISTS) == reference.count_words(text, lists, FUNCTION_CHARACTERS)


@given(TEXTS, st.integers(2, 4))
def test_the_most_frequent_run_of_words(text, n):
    assert counts.top_ngram(utf8(text), CHARACTERS, n) == reference.top_ngram(text, n)


@given(TEXTS)
@example("...")
@example("a [...]\n[…]\n...]")
def test_lines(text):
    assert counts.count_lines(utf8(text)) == reference.count_lines(text)


@given(TEXTS | st.text(alphabet='ab.!?…)"” \n。1', max_size=30).map(normalize))
def test_sentences(text):
    assert counts.count_sentences(utf8(text), CHARACTERS) == reference.count_sentences(text)


@given(TEXTS | st.text(alphabet="aFz09 .-é", max_size=60))
def test_latin_words_with_digits(text):
    assert counts.count_ascii(utf8(text)) == reference.count_ascii(text)


@given(TEXTS | st.text(alphabet="aB1_²(),.'- 2019|字", max_size=40).map(normalize))
def test_plain_runs(text):
    assert counts.count_plain(utf8(text), CHARACTERS) == reference.count_plain(text)


@given(TEXTS)
def test_segments_of_one_letter(text):
    assert counts.count_single(utf8(text), CHARACTERS) == reference.count_single(text)


@given(st.text(alphabet=MISREAD, max_size=40) | TEXTS)
@example("锟斤拷" * 3 + "烫" * 9)
def test_no_misread_character_is_missed(text):
    """The bound may be too high: the pattern has the last word. In prose it is not, or all of it would be searched."""
    found = sum(len(match[0]) for match in _MISREAD.finditer(text))
    assert counts.bound_misread(utf8(text), CHARACTERS) >= found


@pytest.mark.parametrize(
    "prose",
    [
        "“Is it cold?” – she asked, ‘a bit…’ It’s 5° in the Café Müller, naïve déjà-vu à l’été.",
        "Вчера СССР «Россия» — №1, Рим и С–Петербург: «Да?»",
        "斤斤计较的人不少。",
        "Čeština, Türkçe, Ελλάδα, किताब, ไทย",
    ],
)
def test_prose_is_not_searched_for_misread_characters(prose):
    assert counts.bound_misread(utf8(prose), CHARACTERS) <= 4


@given(st.sampled_from([*FUNCTION_WORDS, *PLACEHOLDER_WORDS]))
def test_a_word_is_found_on_the_list_it_is_on(word):
    found = counts.count_words(utf8(f"{word} Xq"), CHARACTERS, LISTS)
    assert found.placeholder == (word in PLACEHOLDER_WORDS)
    assert found.function == (word in FUNCTION_WORDS) or not regex.fullmatch(r"\p{L}[\p{L}\p{M}]*", word)
