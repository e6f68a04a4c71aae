"""The tokenizer: special tokens as tiktoken's, decoding, batches."""

import pickle
import timeit
from concurrent.futures import ThreadPoolExecutor
from functools import partial

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from textmill.errors import UserError
from tokenization.interchange import to_tiktoken
from tokenization.tokenizer import Tokenizer

BYTES = {bytes([b]): b for b in range(256)}
SPECIAL = {"<|endoftext|>": 300, "<|end|>": 301, "[MASK]": 303}
PLAIN = Tokenizer({**BYTES, b"<|": 256, b"end": 257, b"|>": 258}, "cl100k", SPECIAL)
pieces = st.lists(st.sampled_from([*SPECIAL, "<|", "end", "|>", "of", "text", " ", "[MASK", "é", "\n"]), max_size=12)


@settings(max_examples=300)
@given(pieces.map("".join), st.sampled_from(["all", frozenset(), frozenset({"<|end|>", "[MASK]"})]))
def test_special_tokens_as_tiktoken(text, allowed):
    theirs = to_tiktoken(PLAIN)
    expected = theirs.encode(text, allowed_special=set(allowed) if allowed != "all" else "all", disallowed_special=())
    assert PLAIN.encode(text, allowed_special=allowed, disallowed_special=()) == expected
    try:
        strict = theirs.encode(text, allowed_special=allowed)
    except ValueError:
        with pytest.raises(UserError, match="allowed_special"):
            PLAIN.encode(text, allowed_special=allowed)
    else:
        assert PLAIN.encode(text, allowed_special=allowed) == strict


@settings(max_examples=200)
@given(st.text())
def test_decoding_is_exact(text):
    ids = PLAIN.encode_ordinary(text)
    assert PLAIN.decode(ids) == PLAIN.decode(np.array(ids, np.uint16)) == text
    assert b"".join(PLAIN.token_bytes(i) for i in ids) == PLAIN.decode_bytes(ids) == text.encode()


def test_of_two_special_tokens_the_longer_is_found():
    tokenizer = Tokenizer(BYTES, "cl100k", {"<|end|>": 256, "<|end|>of": 257})
    assert tokenizer.encode("<|end|>of<|end|>", allowed_special="all") == [257, 256]


@settings(max_examples=300)
@given(st.lists(st.text("ab[|", min_size=1, max_size=5), min_size=1, unique=True), st.text("ab[|", max_size=30))
def test_at_each_place_the_longest_special_token_is_found(names, text):
    tokenizer = Tokenizer(BYTES, "cl100k", {name: 256 + i for i, name in enumerate(names)})
    expected, at = [], 0
    while at < len(text):
        found = max((name for name in names if text.startswith(name, at)), key=len, default="")
        expected.append(256 + names.index(found) if found else ord(text[at]))
        at += max(1, len(found))
    assert tokenizer.encode(text, allowed_special="all") == expected


def test_names_that_begin_with_one_another_may_be_many():
    tokenizer = Tokenizer(BYTES, "cl100k", {"x" * i: 300 + i for i in range(1, 2000)})
    assert tokenizer.encode("x" * 3000 + "y", allowed_special="all") == [2299, 1301, ord("y")]


def test_decoding_what_is_no_text():
    assert PLAIN.decode([0xC3, 104]) == "�h"
    with pytest.raises(UnicodeDecodeError):
        PLAIN.decode([0xC3, 104], errors="strict")
    with pytest.raises(UserError, match=r"280 is not an id of this tokenizer \(0 to 303\)"):
        PLAIN.decode([104, 280])
    assert PLAIN.decode([300, 104]) == "<|endoftext|>h"


def test_lone_surrogates_become_replacements_as_with_tiktoken():
    text = "a\ud800b \udc00"
    assert PLAIN.encode_ordinary(text) == to_tiktoken(PLAIN).encode_ordinary(text)
    assert [ids.tolist() for ids in PLAIN.encode_batch(["x", text])][1] == PLAIN.encode_ordinary(text)


def test_batches_and_threads_agree(tokenizer, texts):
    single = [tokenizer.encode_ordinary(text) for text in texts]
    assert [ids.tolist() for ids in tokenizer.encode_batch(texts)] == single
    assert [ids.tolist() for ids in tokenizer.encode_batch(texts * 3, threads=2)] == single * 3
    assert tokenizer.encode_batch([]) == []
    with ThreadPoolExecutor(4) as pool:
        assert list(pool.map(tokenizer.encode_ordinary, texts)) == single


def test_facts_of_a_tokenizer(tokenizer):
    assert tokenizer.vocab_size == 480
    assert tokenizer.special_tokens == {"<|endoftext|>": 475, "[MASK]": 476, "[SEP]": 477, "[CLS]": 478, "[PAD]": 479}
    assert tokenizer.eot_id == 475
    lengths = tokenizer.byte_lengths()
    assert lengths.dtype == np.uint32
    assert lengths[:256].tolist() == [1] * 256
    assert lengths[475:].tolist() == [0] * 5
    assert all(lengths[i] == len(tokenizer.token_bytes(i)) for i in range(475))


def test_pickles(tokenizer, texts):
    assert pickle.loads(pickle.dumps(tokenizer)).encode_ordinary(texts[0]) == tokenizer.encode_ordinary(texts[0])


def test_mistakes():
    with pytest.raises(UserError, match="share an id"):
        Tokenizer(BYTES, "gpt2", {"<|endoftext|>": 255})
    with pytest.raises(UserError, match=r"no <\|endoftext\|>"):
        _ = Tokenizer(BYTES, "gpt2", {}).eot_id
    with pytest.raises(UserError, match="unknown split pattern 'gpt3'"):
        Tokenizer(BYTES, "gpt3", {})
    with pytest.raises(UserError, match="not a valid regular expression"):
        Tokenizer(BYTES, "(", {})
    with pytest.raises(UserError, match=r"leaves out ' b'"):
        Tokenizer(BYTES, r"\w+", {}).encode_ordinary("a b")


@pytest.mark.parametrize("ids", [[104.0], [104, 105.5], np.array([104.0]), ["104"], [None]])
def test_what_is_no_whole_number_is_no_id(ids):
    with pytest.raises(UserError, match="is not an id of this tokenizer"):
        PLAIN.decode(ids)
    assert PLAIN.decode([np.uint16(104), np.int64(105)]) == "hi"


def test_a_thousand_special_tokens_take_about_as_long_as_with_tiktoken():
    special = {f"<|reserved_{i}|>": 300 + i for i in range(1000)}
    ours = Tokenizer(BYTES, "cl100k", special)
    theirs = to_tiktoken(ours)
    text = "a short text<|reserved_7|> of two parts"

    assert ours.encode(text, allowed_special="all") == theirs.encode(text, allowed_special="all")
    ordinary = text.replace("<|", "")
    for given_text, allowed in (
        (text, "all"),
        (text, {"<|reserved_7|>"}),
        (ordinary, {"<|reserved_7|>"}),
        (ordinary, set()),
    ):
        mine, other = (
            min(timeit.repeat(partial(encode, given_text, allowed_special=allowed), number=20, repeat=15))
            for encode in (ours.encode, theirs.encode)
        )
        assert mine < 2 * other, allowed
