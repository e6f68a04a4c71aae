"""Scanners against the regex they stand for."""

import numpy as np
import pytest
import regex
from hypothesis import given, settings
from hypothesis import strategies as st

from tokenization.kernels.scanner import Scanner
from tokenization.kernels.unicode_classes import LOWER, MARK, NEWLINE, NUMBER, OTHER, SPACE, UNCASED, UPPER, class_table
from tokenization.patterns import CL100K_END, NAMED, find_pattern

PATTERNS = {**NAMED, "cl100k_end": find_pattern(CL100K_END)}
BYTE_RANKS = {bytes([i]): i for i in range(256)}
# characters of every class, the ones the patterns name, and those that case folding drags in
ALPHABET = [
    *"aAzZmMsStTdDlLvVrReEkK019\"-//._''\t\n\n\r\x0b\x0c\x1c\x85\xa0\u2003\u2028\u3000   ",
    *"’“”—…‐‧‰\u202f\u203f⁀",
    *"éÉßſKDžʰאあ漢́҈²½٣Ⅷ€☃😀𐐀𐐨\u200d\ufeff\x00͏Ωω",
]


def split(pattern, *documents):
    data = [d.encode() for d in documents]
    offsets = np.concatenate([[0], np.cumsum([len(d) for d in data], dtype=np.int64)]).astype(np.int64)
    text = np.frombuffer(b"".join(data), np.uint8)
    ends = [end for block in Scanner(pattern).blocks(text, offsets) for end in block.tolist()]
    whole = text.tobytes()
    return [whole[a:b] for a, b in zip([0, *ends], ends, strict=False)]


def agreed_code_points():
    """Code points whose class is the same to the `regex` module, which follows a newer Unicode than tiktoken."""
    every = "".join(chr(c) for c in range(0x110000) if not 0xD800 <= c < 0xE000)
    theirs = np.full(0x110000, OTHER, np.uint8)
    for value, expression in (
        (MARK, r"\p{M}+"),
        (UPPER, r"[\p{Lu}\p{Lt}]+"),
        (LOWER, r"\p{Ll}+"),
        (UNCASED, r"[\p{Lm}\p{Lo}]+"),
        (NUMBER, r"\p{N}+"),
        (SPACE, r"\s+"),
        (NEWLINE, r"[\r\n]+"),
    ):
        for match in regex.finditer(expression, every):
            theirs[[ord(c) for c in match.group()]] = value
    return theirs == class_table()


AGREED = agreed_code_points()


def by_regex(pattern, *documents):
    return [word.encode() for d in documents for word in regex.findall(pattern.regex, d)]


@pytest.mark.parametrize("name", PATTERNS)
@pytest.mark.parametrize("end", ["#\n/", "a—", "a’s", "a ’s", "a’’s", "’\n\n", "1’", "—/\n/"])
def test_equals_the_regex_wherever_a_document_ends_in_a_window(name, end):
    documents = ["ab " * (n // 3) + "c" * (n % 3) + end for n in range(70)]
    assert split(PATTERNS[name], *documents, "x" * 80) == by_regex(PATTERNS[name], *documents, "x" * 80)


anything = st.text(st.characters(exclude_categories=["Cs"]).filter(lambda c: AGREED[ord(c)]), max_size=30)
texts = st.lists(st.sampled_from(ALPHABET), max_size=90).map("".join)
long_runs = st.lists(st.tuples(st.sampled_from(ALPHABET), st.integers(1, 70)), max_size=12).map(
    lambda runs: "".join(c * n for c, n in runs)
)


@pytest.mark.long
@pytest.mark.parametrize("name", PATTERNS)
@settings(max_examples=400)
@given(documents=st.lists(texts | long_runs | anything, min_size=1, max_size=4))
def test_equals_the_regex_on_any_documents(name, documents):
    pattern = PATTERNS[name]
    # padding after the text lets the fast level see whole windows; without it the last bytes take the general level
    for padding in ([], ["x" * 80]):
        assert split(pattern, *documents, *padding) == by_regex(pattern, *documents, *padding)
