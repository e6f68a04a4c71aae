"""Ids against tiktoken, with vocabularies trained and made up."""

import random
import time

import numpy as np
import pytest
import tiktoken
from hypothesis import given, settings
from hypothesis import strategies as st

from textmill.errors import UserError
from tokenization.interchange import to_tiktoken
from tokenization.kernels import encoder, reference
from tokenization.patterns import NAMED
from tokenization.text import documents_of
from tokenization.tokenizer import Tokenizer

BYTES = {bytes([b]): b for b in range(256)}


def made_up_vocabulary(seed: int) -> dict[bytes, int]:
    """Tokens over few letters, many of which merging cannot reach, and which can be cut in several ways."""
    rng = random.Random(seed)
    letters = [b"a", b"b", b" ", b"\xc3", b"\xa9"]
    tokens = dict(BYTES)
    while len(tokens) < 400:
        tokens.setdefault(
            b"".join(rng.choices(letters, k=rng.randint(2, 5))) * rng.choice([1, 1, 1, 2, 4]), len(tokens)
        )
    return tokens


def letters(number: int) -> str:
    """A word for each number; digits would be words of their own."""
    return "".join(chr(ord("a") + int(digit)) for digit in str(number))


MADE_UP = [Tokenizer(made_up_vocabulary(seed), "cl100k", {}) for seed in range(4)]


@settings(max_examples=300)
@given(st.sampled_from(MADE_UP), st.text("ab é ", max_size=200) | st.text(max_size=60))
def test_equals_tiktoken_for_any_vocabulary(tokenizer, text):
    expected = to_tiktoken(tokenizer).encode_ordinary(text)
    assert tokenizer.encode_ordinary(text) == tokenizer.encode_batch([text])[0].tolist() == expected


@pytest.mark.parametrize("tokenizer", MADE_UP)
def test_words_of_every_length_equal_tiktoken(tokenizer):
    """Short ones are their own keys, those of up to 64 bytes merge at once, and beyond 256 none is remembered."""
    rng = random.Random(0)
    words = ["".join(rng.choices("aab", k=length)) for length in range(1, 300) for _ in range(3)]
    theirs = to_tiktoken(tokenizer)
    for _ in range(2):  # met for the first time, and remembered
        assert [ids.tolist() for ids in tokenizer.encode_batch(words)] == theirs.encode_ordinary_batch(words)


@settings(max_examples=200)
@given(st.sampled_from(MADE_UP), st.text("ab", min_size=1, max_size=150).map(str.encode))
def test_reference_is_what_tiktoken_does(tokenizer, word):
    assert reference.encode(word, tokenizer.tokens) == to_tiktoken(tokenizer)._encode_single_piece(word)


@pytest.mark.parametrize("pattern", [*NAMED, r"\p{L}+|\p{N}|[^\p{L}\p{N}]+"])
@pytest.mark.parametrize("highest", [410, 70_000])
def test_short_texts_equal_tiktoken(texts, pattern, highest):
    """One after the other, shorter and longer than what one kernel call takes, between calls of the other way."""
    limit = encoder.SHORT_TEXT
    tokens = {**made_up_vocabulary(0), b"th": highest - 1, b"the": highest}
    tokenizer = Tokenizer(tokens, pattern, {"<|endoftext|>": highest + 1})
    theirs = to_tiktoken(tokenizer)
    words = " ".join(f"the {i} naïve Word's" for i in range(limit))
    around = [
        words[:n] + c for n in (0, 1, 63, 64, limit - 2, limit - 1, limit, 9 * limit) for c in ("", "é", " ", "\ud800")
    ]
    for text in (*texts[:100], *around, *texts[100:200], "é" * (limit // 2), "é" * limit, "x" * limit):
        assert tokenizer.encode_ordinary(text) == theirs.encode_ordinary(text)
        documents = documents_of([text, "", text[:7]])
        ids, _ = tokenizer.encode_documents(documents, closing=tokenizer.eot_id)
        assert ids.tolist() == [
            i for part in (text, "", text[:7]) for i in (*theirs.encode_ordinary(part), tokenizer.eot_id)
        ]


def test_memory_of_words_of_short_texts_is_bounded(monkeypatch, tokenizer):
    monkeypatch.setattr(encoder, "CACHED_WORDS", 1000)
    fresh = Tokenizer(tokenizer.tokens, "cl100k", {})
    theirs = to_tiktoken(fresh)
    for i in range(3000):
        text = " ".join(letters(20 * i + j) for j in range(20))
        assert fresh.encode_ordinary(text) == theirs.encode_ordinary(text)
    assert len(fresh._borrow_encoder()._words) < 1000 + len(fresh.tokens) + 4 * encoder.SHORT_TEXT


def test_the_room_for_ids_that_is_kept_is_bounded(monkeypatch, tokenizer):
    monkeypatch.setattr(encoder, "KEPT_BYTES", 50_000)
    fresh = Tokenizer(tokenizer.tokens, "cl100k", {})
    for characters in (15_000, 20_000, 40_000):
        fresh.encode_batch(["a " * (characters // 2)])
        kept = fresh._idle_encoders.get()
        assert kept._out.nbytes <= 50_000
        fresh._idle_encoders.put(kept)


@pytest.mark.parametrize("pattern", [*NAMED, r"\p{L}+|\p{N}|[^\p{L}\p{N}]+"])
def test_equals_tiktoken_on_text(tokenizer, texts, pattern):
    ours = Tokenizer(tokenizer.tokens, pattern, {})
    theirs = to_tiktoken(ours)
    texts = [*texts[:300], "", " ", "\n", "x" * 5000, "a b  c\t\n d" * 50, "It's IT'S 123456789 ???\n\n"]
    for threads in (1, 3):
        batch = ours.encode_batch(texts, threads=threads)
        assert [ids.tolist() for ids in batch] == theirs.encode_ordinary_batch(texts)


def test_a_megabyte_word_takes_no_quadratic_time(tokenizer):
    """Words without blanks: random letters, and one letter; the ids of a piece of it are tiktoken's."""
    rng = np.random.default_rng(1)
    letters = bytes(rng.choice(list(b"tokenmrgpair"), 1 << 20).astype(np.uint8)).decode()
    theirs = to_tiktoken(tokenizer)
    for word in (letters, "a" * (1 << 20)):
        tokenizer.encode_ordinary(word[:1000])
        started = time.process_time()
        ids = tokenizer.encode_ordinary(word)
        assert time.process_time() - started < 5
        assert tokenizer.decode(ids) == word
        assert tokenizer.encode_ordinary(word[:20_000]) == theirs.encode_ordinary(word[:20_000])


def test_memory_of_words_is_bounded(monkeypatch, tokenizer):
    monkeypatch.setattr(encoder, "CACHED_WORDS", 1000)
    texts = [" ".join(letters(500 * i + j) for j in range(500)) for i in range(200)]
    fresh = Tokenizer(tokenizer.tokens, "cl100k", {})
    theirs = to_tiktoken(fresh)
    assert [ids.tolist() for ids in fresh.encode_batch(texts)] == theirs.encode_ordinary_batch(texts)
    assert len(fresh._borrow_encoder()._words) < 1000 + len(fresh.tokens) + 2 * (1 << 15)


@pytest.mark.long
def test_ids_up_to_twenty_bits():
    last = (1 << 20) - 1
    tokenizer = Tokenizer({**BYTES, b"ab": last - 1, b"abc": last}, "cl100k", {})
    assert tokenizer.encode_ordinary("abc abx abc") == [last, 32, last - 1, 120, 32, last]
    assert tokenizer.dtype == np.uint32
    with pytest.raises(UserError, match="must be below 1,048,576"):
        Tokenizer({**BYTES, b"ab": last + 1}, "cl100k", {})


def test_a_vocabulary_needs_all_bytes():
    with pytest.raises(UserError, match="lacks the byte 0xff"):
        Tokenizer({bytes([b]): b for b in range(255)}, "cl100k", {})


def test_long_and_short_words_at_the_end_of_the_buffer(tokenizer):
    theirs = to_tiktoken(tokenizer)
    text = "tokens merge pairs of words " * 4
    for length in range(len(text)):
        assert tokenizer.encode_batch([text[:length]])[0].tolist() == theirs.encode_ordinary(text[:length])


def test_campus_corpus_and_web_text_equal_tiktoken(shared_data):
    import pyarrow.parquet as pq

    ours = Tokenizer(tiktoken_like_ranks(shared_data), "cl100k", {})
    theirs = to_tiktoken(ours)
    for name in ("umb_site_text.parquet", "openwebtext/train-00000-of-00002.parquet"):
        texts = pq.read_table(shared_data / name)["text"].to_pylist()[:600]
        assert [ids.tolist() for ids in ours.encode_batch(texts)] == theirs.encode_ordinary_batch(texts)


def tiktoken_like_ranks(shared_data):
    from tokenization.interchange import from_legacy

    return from_legacy(shared_data / "umb100k-1.model").tokens


def test_named_encodings_of_tiktoken_are_recognized():
    """Their patterns have scanners, whatever tiktoken's spelling."""
    import inspect

    from tiktoken_ext import openai_public

    from tokenization.patterns import Kind, find_pattern

    assert find_pattern(openai_public.r50k_pat_str).kind == Kind.GPT2
    source = inspect.getsource(openai_public.cl100k_base)
    spelling = next(line for line in source.splitlines() if "pat_str" in line).split('r"""')[1].split('"""')[0]
    assert find_pattern(spelling).kind == Kind.CL100K_END
    assert isinstance(tiktoken.list_encoding_names(), list)
