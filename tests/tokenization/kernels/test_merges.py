"""Merges against the two algorithms in plain Python, rustbpe and Hugging Face tokenizers."""

import resource
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from textmill.errors import UserError
from tokenization.config import byte_characters
from tokenization.counting import count_words
from tokenization.kernels.merges import learn_merges
from tokenization.kernels.reference import learn, learn_incrementally
from tokenization.kernels.word_counts import CountedWords
from tokenization.patterns import NAMED, find_pattern
from tokenization.text import batches


def counted(words: dict[bytes, int]) -> CountedWords:
    offsets = np.cumsum([0, *map(len, words)], dtype=np.int64)
    return CountedWords(np.frombuffer(b"".join(words), np.uint8), offsets, np.array(list(words.values()), np.int64))


def learned(words: dict[bytes, int], n_merges: int) -> list[tuple[int, int]]:
    merges, merge_counts = learn_merges(counted(words), n_merges)
    assert (np.diff(merge_counts) <= 0).all()
    return [tuple(pair) for pair in merges.tolist()]


def tokens_of(merges: list[tuple[int, int]], first: list[bytes]) -> list[bytes]:
    tokens = list(first)
    for left, right in merges:
        tokens.append(tokens[left] + tokens[right])
    return tokens


few_letters = st.text("ab", min_size=1, max_size=25).map(str.encode)
runs = st.builds(lambda c, n, d: c * n + d, st.sampled_from([b"a", b"ab", b"aab"]), st.integers(1, 30), few_letters)
vocabularies = st.dictionaries(few_letters | runs | st.binary(min_size=1, max_size=12), st.integers(1, 60), min_size=1)


@pytest.mark.long
@settings(max_examples=300)
@given(vocabularies, st.integers(0, 40))
def test_equals_the_references(words, n_merges):
    expected = learn(words, n_merges)
    assert learn_incrementally(words, n_merges) == expected
    assert learned(words, n_merges) == expected


@settings(max_examples=100)
@given(vocabularies)
def test_no_token_is_made_twice(words):
    tokens = tokens_of(learned(words, 1000), [bytes([b]) for b in range(256)])
    assert len(set(tokens)) == len(tokens)


def test_many_falls_of_the_threshold_equal_the_reference():
    """Counts over many orders of magnitude, merged until nothing repeats."""
    words = {f"w{i:03}{i * i % 97}{'xyz'[i % 3] * (i % 5)}".encode(): 1 + 10**7 // (i + 1) ** 2 for i in range(250)}
    merges = learned(words, 10_000)
    assert merges == learn_incrementally(words, 10_000)
    assert len(merges) > 250


@pytest.mark.parametrize("name", ["gpt2", "cl100k"])
def test_equals_rustbpe(name, texts):
    rustbpe = pytest.importorskip("rustbpe")
    theirs = rustbpe.Tokenizer()
    theirs.train_from_iterator(iter(texts), 480, pattern=NAMED[name].regex)
    words = count_words(batches(texts), find_pattern(name)).unpack()
    merges, _ = learn_merges(words, 480 - 256)
    ranked = sorted(theirs.get_mergeable_ranks(), key=lambda item: item[1])
    assert tokens_of(merges.tolist(), [bytes([b]) for b in range(256)]) == [bytes(token) for token, _ in ranked]


def test_equals_hugging_face(texts):
    """Their bytes are numbered by the characters that stand for them, which decides ties."""
    tokenizers = pytest.importorskip("tokenizers")
    theirs = tokenizers.Tokenizer(tokenizers.models.BPE())
    theirs.pre_tokenizer = tokenizers.pre_tokenizers.Sequence(
        [
            tokenizers.pre_tokenizers.Split(tokenizers.Regex(NAMED["cl100k"].regex), "isolated"),
            tokenizers.pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False),
        ]
    )
    alphabet = tokenizers.pre_tokenizers.ByteLevel.alphabet()
    trainer = tokenizers.trainers.BpeTrainer(
        vocab_size=480, initial_alphabet=alphabet, show_progress=False, min_frequency=2
    )
    theirs.train_from_iterator(texts, trainer)
    order = sorted(range(256), key=lambda b: byte_characters()[b])
    byte_ids = np.empty(256, np.int32)
    byte_ids[order] = np.arange(256)
    merges, _ = learn_merges(count_words(batches(texts), find_pattern("cl100k")).unpack(), 480 - 256, byte_ids)
    ours = tokens_of(merges.tolist(), [bytes([b]) for b in order])
    vocabulary = sorted(theirs.get_vocab().items(), key=lambda item: item[1])
    assert ["".join(byte_characters()[b] for b in token) for token in ours] == [token for token, _ in vocabulary]


def test_merges_of_a_megabyte_word_do_not_go_quadratic():
    word = (np.random.default_rng(0).integers(97, 101, 1 << 20)).astype(np.uint8).tobytes()
    merges = learned({word: 1}, 2000)
    assert len(merges) == 2000


def test_progress_and_interruption():
    words = {f"{i:08}".encode(): i + 1 for i in range(2000)}
    reports = []
    merges, _ = learn_merges(counted(words), 500, watch=lambda made: reports.append(made.tolist()))
    assert len(merges) == 500 and reports[-1] == merges.tolist()
    assert all(reports[-1][: len(made)] == made for made in reports)

    def interrupt(merges):
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        learn_merges(counted(words), 500, watch=interrupt)


@pytest.fixture
def no_more_memory(many_words):
    """Let this process have no more than 64 MB above what it has."""
    pages = int(Path("/proc/self/statm").read_text().split()[0])
    limits = resource.getrlimit(resource.RLIMIT_AS)
    resource.setrlimit(resource.RLIMIT_AS, (pages * resource.getpagesize() + (64 << 20), limits[1]))
    yield
    resource.setrlimit(resource.RLIMIT_AS, limits)


@pytest.fixture
def many_words():
    """Three million words of eight bytes."""
    learned({b"ab": 2}, 1)  # loads the kernel while there is memory for it
    return CountedWords(np.zeros(24 << 20, np.uint8), np.arange(0, (24 << 20) + 1, 8), np.ones(3 << 20, np.int64))


@pytest.mark.usefixtures("no_more_memory")
def test_words_that_memory_does_not_hold_are_refused(many_words):
    with pytest.raises(UserError, match="the 3,145,728 distinct words of the corpus need more memory than there is"):
        learn_merges(many_words, 10)
