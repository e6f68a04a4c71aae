"""Pairs of sentences as arrays."""

import numpy as np
import pytest

from tokenization.errors import TokenizationError
from tokenization.pairs import PairsConfig, SentencePairs, make_pairs, sentences

DOCUMENTS = [" ".join(f"Document {d} has sentence {s} of it." for s in range(3 + d % 5)) for d in range(60)]


@pytest.fixture(scope="module")
def pairs(make_corpus, trained, tmp_path_factory):
    folder = tmp_path_factory.mktemp("pairs")
    make_corpus(folder / "corpus", [DOCUMENTS[:40], ["", *DOCUMENTS[40:50]]], DOCUMENTS[50:])
    make_pairs(folder / "corpus", trained, PairsConfig(), folder / "out")
    return folder


def test_sentences_of_a_text():
    text = 'He said "Go on." Then he left!\nA title without an end\n\nShort. What was it? 第一句话在这里结束了。 第二句'
    expected = ['He said "Go on."', "Then he left!", "A title without an end", "What was it?", "第一句话在这里结束了。"]
    assert sentences(text, 10) == expected


def test_half_follow_and_half_are_strangers(pairs, tokenizer):
    read = SentencePairs(pairs / "out")
    assert len(read) == sum(2 + d % 5 for d in range(50))
    batch = read.batch(np.arange(len(read)), 64)
    assert 0.35 < batch.is_next.mean() < 0.65
    cls, sep, pad = (tokenizer.special_tokens[name] for name in ("[CLS]", "[SEP]", "[PAD]"))
    for ids, segments, attention, is_next in zip(
        batch.ids.tolist(), batch.segments, batch.attention, batch.is_next, strict=True
    ):
        first = ids.index(sep)
        second = ids.index(sep, first + 1)
        assert ids[0] == cls
        assert set(ids[second + 1 :]) <= {pad}
        assert segments.tolist() == [0] * (first + 1) + [1] * (second - first) + [0] * (63 - second)
        assert attention.tolist() == [i <= second for i in range(64)]
        a, b = tokenizer.decode(ids[1:first]).split(), tokenizer.decode(ids[first + 1 : second]).split()
        assert (a[1] == b[1]) == is_next
        if is_next:
            assert int(b[4]) == int(a[4]) + 1


def test_long_pairs_are_cut(pairs, tokenizer):
    batch = SentencePairs(pairs / "out", "validation").batch(np.arange(5), 12)
    assert batch.ids.shape == (5, 12)
    assert batch.attention.all()
    assert (batch.ids == tokenizer.special_tokens["[SEP]"]).sum(axis=1).tolist() == [2] * 5


def test_the_files_are_a_function_of_the_seed(pairs, trained, tmp_path):
    for seed in (0, 1):
        make_pairs(pairs / "corpus", trained, PairsConfig(seed=seed), tmp_path / str(seed))
    for path in (pairs / "out").iterdir():
        assert (tmp_path / "0" / path.name).read_bytes() == path.read_bytes()
    assert (tmp_path / "1" / "train-pairs.npy").read_bytes() != (pairs / "out" / "train-pairs.npy").read_bytes()


def test_too_few_documents(make_corpus, trained, tmp_path):
    make_corpus(tmp_path / "corpus", [DOCUMENTS[:1]], DOCUMENTS)
    with pytest.raises(TokenizationError, match="no two documents with sentences"):
        make_pairs(tmp_path / "corpus", trained, PairsConfig(), tmp_path / "out")
    with pytest.raises(TokenizationError, match=r"meta\.json is missing"):
        SentencePairs(tmp_path / "corpus")
