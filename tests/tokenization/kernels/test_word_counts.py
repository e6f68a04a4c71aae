"""Word counts against collections.Counter."""

from collections import Counter

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from textmill.errors import UserError
from tokenization import counting
from tokenization.counting import count_words, load_counts, save_counts
from tokenization.kernels.word_counts import WordCounts
from tokenization.patterns import find_pattern
from tokenization.text import batches

# lengths around the 8 and 16 bytes where keys change their form, with shared beginnings and ends
repeated = st.builds(lambda b, n: b * n, st.sampled_from([b"a", b"\0", b"\xff"]), st.integers(1, 40))
words = st.binary(min_size=1, max_size=40) | repeated


def counted(*texts: list[bytes]) -> WordCounts:
    counts = WordCounts()
    for text in texts:
        if text:
            counts.add(np.frombuffer(b"".join(text), np.uint8), 0, np.cumsum([len(w) for w in text], dtype=np.int64))
    return counts


def as_dict(counts: WordCounts) -> dict[bytes, int]:
    data, offsets, numbers = counts.unpack()
    return {data[a:b].tobytes(): n for a, b, n in zip(offsets[:-1], offsets[1:], numbers.tolist(), strict=True)}


@settings(max_examples=200)
@given(st.lists(st.lists(words, max_size=60), max_size=4))
def test_counts_equal_counter(texts):
    expected = Counter(word for text in texts for word in text)
    assert as_dict(counted(*texts)) == expected
    merged = WordCounts()
    for text in texts:
        merged.update(counted(text))
    assert as_dict(merged) == expected
    assert len(merged) == len(expected)


def test_tables_grow():
    text = [b"%d" % i for i in range(60_000)] + [b"a long word, number %d" % i for i in range(30_000)]
    counts = counted(text, text[::2])
    assert as_dict(counts) == Counter(text + text[::2])
    assert as_dict(WordCounts.of(*counts.unpack())) == as_dict(counts)


def test_saved_counts_come_back(tmp_path):
    counts = counted([b"a", b"b", b"a", b"something rather long"])
    save_counts(counts, tmp_path / "counts.npz")
    assert as_dict(load_counts(tmp_path / "counts.npz")) == as_dict(counts)


@pytest.mark.long
@pytest.mark.parametrize("pattern", ["cl100k", r"\w+|\W+"])
def test_threads_count_the_same(pattern):
    texts = [f"document {i} of {i % 7} words, and a loooooooooooooooooong one {i % 13}" * 40 for i in range(3000)]
    one = as_dict(count_words(batches(texts), find_pattern(pattern), threads=1))
    assert as_dict(count_words(batches(texts), find_pattern(pattern), threads=3)) == one


def test_an_error_while_reading_ends_the_threads():
    def failing():
        yield from batches(["text"] * 10)
        raise OSError("the disk is gone")

    with pytest.raises(OSError, match="the disk is gone"):
        count_words(failing(), find_pattern("cl100k"), threads=2)


@pytest.mark.timeout(60)
def test_an_error_while_counting_ends_the_reading(monkeypatch):
    monkeypatch.setattr(counting, "BATCH_BYTES", 400)
    read = []

    def endless():
        while len(read) < 100_000:
            read.append(1)
            yield from batches(["some words"] * 10)

    with pytest.raises(UserError, match="leaves out ' words'"):
        count_words(endless(), find_pattern(r"\w"), threads=2)
    assert len(read) < 100
