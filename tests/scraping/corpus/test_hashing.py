"""Hashes of words and n-grams: equal where the words are."""

from __future__ import annotations

import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from scraping.corpus.hashing import hash_ngrams, hash_words


@given(st.text(alphabet="ab é\n\t ", max_size=80))
def test_words_are_those_of_split(text):
    words = hash_words(text)
    assert [words.utf8[a:b].decode() for a, b in zip(words.starts, words.ends, strict=True)] == text.split()
    hashes = dict(zip(text.split(), words.hashes.tolist(), strict=True))
    assert len(set(hashes.values())) == len(hashes)


@given(st.lists(st.integers(0, 3), max_size=30), st.integers(1, 5))
def test_ngrams_are_equal_where_runs_are(numbers, n):
    grams = hash_ngrams(np.array(numbers, np.uint64) * np.uint64(12345678912345), n).tolist()
    runs = [tuple(numbers[i : i + n]) for i in range(len(numbers) - n + 1)]
    assert len(grams) == len(runs)
    assert all((a == b) == (x == y) for a, x in zip(grams, runs, strict=True) for b, y in zip(grams, runs, strict=True))
