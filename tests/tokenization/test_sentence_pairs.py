"""Pairs of sentences as arrays."""

import json
import shutil

import numpy as np
import pytest

from flows.engine.executors import ExecutorConfig, open_executor
from textmill.errors import UserError
from tokenization import sentence_pairs as module
from tokenization.arrays import TokenArrays
from tokenization.config import PretokenizeConfig, SentencePairsConfig
from tokenization.formats import save_tokenizer
from tokenization.pretokenize import pretokenize
from tokenization.sentence_pairs import SentencePairs, make_pairs, sentences
from tokenization.shard_writer import EncodingInputs
from tokenization.tokenizer import Tokenizer

DOCUMENTS = [" ".join(f"Document {d} has sentence {s} of it." for s in range(3 + d % 5)) for d in range(60)]


@pytest.fixture(scope="module")
def pairs(make_corpus, trained, tmp_path_factory):
    folder = tmp_path_factory.mktemp("pairs")
    make_corpus(folder / "corpus", [DOCUMENTS[:40], ["", *DOCUMENTS[40:50]]], DOCUMENTS[50:])
    make_pairs(EncodingInputs(folder / "corpus", trained), SentencePairsConfig(), folder / "out")
    return folder


def test_sentences_of_a_text():
    text = 'He said "Go on." Then he left!\nA title without an end\n\nShort. What was it? 第一句话在这里结束了。 第二句'
    expected = ['He said "Go on."', "Then he left!", "A title without an end", "What was it?", "第一句话在这里结束了。"]
    assert sentences(text, 10) == expected


def test_half_follow_and_half_are_negatives(pairs, tokenizer):
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


def test_negatives_of_sentence_order_are_the_two_sentences_swapped(pairs, trained, tokenizer, tmp_path):
    config = SentencePairsConfig(task="sentence-order", negatives=0.4)
    make_pairs(EncodingInputs(pairs / "corpus", trained), config, tmp_path)
    read = SentencePairs(tmp_path)
    assert len(read) == len(SentencePairs(pairs / "out"))
    labels = []
    for index in range(len(read)):
        a, b, is_next = read.pair(index)
        first, second = tokenizer.decode(a).split(), tokenizer.decode(b).split()
        assert first[1] == second[1]
        assert int(second[4]) - int(first[4]) == (1 if is_next else -1)
        labels.append(is_next)
    assert np.mean(labels) == pytest.approx(0.6, abs=0.1)


def test_the_order_of_sentences_can_be_asked_of_a_single_document(trained, make_corpus, tmp_path):
    make_corpus(tmp_path / "corpus", [DOCUMENTS[:1]], DOCUMENTS[1:2])
    inputs = EncodingInputs(tmp_path / "corpus", trained)
    make_pairs(inputs, SentencePairsConfig(task="sentence-order"), tmp_path / "order")
    assert len(SentencePairs(tmp_path / "order")) == 2
    with pytest.raises(UserError, match="has no two documents with sentences to pair"):
        make_pairs(inputs, SentencePairsConfig(), tmp_path / "next")


def test_long_pairs_are_cut(pairs, tokenizer):
    batch = SentencePairs(pairs / "out", "validation").batch(np.arange(5), 12)
    assert batch.ids.shape == (5, 12)
    assert batch.attention.all()
    assert (batch.ids == tokenizer.special_tokens["[SEP]"]).sum(axis=1).tolist() == [2] * 5


def content(folder):
    return {path.name: path.read_bytes() for path in folder.iterdir()}


def test_the_files_are_a_function_of_the_settings(pairs, trained, tmp_path):
    for seed in (0, 1):
        make_pairs(EncodingInputs(pairs / "corpus", trained), SentencePairsConfig(seed=seed), tmp_path / str(seed))
    made, other = content(pairs / "out"), content(tmp_path / "1")
    assert content(tmp_path / "0") == made
    assert {name for name in made if made[name] != other[name]} >= {"train-00000.pairs", "train-00001.pairs"}
    assert other["train-00000.bin"] == made["train-00000.bin"]
    names = {f"{name}.{kind}" for name in ("train-00000", "train-00001", "validation-00000")
             for kind in ("bin", "idx", "pairs")}  # fmt: skip
    assert set(made) == names | {"meta.json", "pairs.json", "stats.json"}
    stats = json.loads(made["stats.json"])["train"]
    batch = SentencePairs(pairs / "out").batch(np.arange(stats["pairs"]), 8)
    assert stats["next"] == batch.is_next.sum()


def test_the_same_from_processes(pairs, trained, tmp_path):
    with open_executor(ExecutorConfig(kind="processes", workers=1)) as executor:
        make_pairs(EncodingInputs(pairs / "corpus", trained), SentencePairsConfig(), tmp_path, executor=executor)
    assert content(tmp_path) == content(pairs / "out")


def interrupt(monkeypatch, shard_name):
    """Die in the middle of a shard; the names of the shards that were begun."""
    begun, read_shard = [], module.read_shard

    def dying(shard):
        begun.append(shard.stem)
        for batch in read_shard(shard):
            yield batch
            if shard.stem == shard_name and begun.count(shard_name) == 1:
                raise KeyboardInterrupt

    monkeypatch.setattr(module, "read_shard", dying)
    return begun


def test_a_killed_run_goes_on_after_its_finished_shards(pairs, trained, tmp_path, monkeypatch):
    begun = interrupt(monkeypatch, "train-00001")
    reports = []

    def progress(done, total, **figures):
        reports.append((done, total, figures["unit"]))

    with pytest.raises(KeyboardInterrupt):
        make_pairs(EncodingInputs(pairs / "corpus", trained), SentencePairsConfig(), tmp_path, progress=progress)
    with pytest.raises(UserError, match="holds no pairs of sentences"):
        SentencePairs(tmp_path)
    del reports[:]
    make_pairs(EncodingInputs(pairs / "corpus", trained), SentencePairsConfig(), tmp_path, progress=progress)
    assert begun == ["train-00000", "train-00001", "train-00001", "validation-00000"]
    assert content(tmp_path) == content(pairs / "out")
    assert reports[:2] == [(40, 61, "documents"), (51, 61, "documents")]  # the shard of 40 is not done again
    assert reports == sorted(reports)
    assert reports[-1] == (61, 61, "documents")


def test_what_was_made_with_other_settings_is_not_continued(pairs, trained, tmp_path, monkeypatch):
    begun = interrupt(monkeypatch, "train-00001")
    with pytest.raises(KeyboardInterrupt):
        make_pairs(EncodingInputs(pairs / "corpus", trained), SentencePairsConfig(seed=1), tmp_path)
    make_pairs(EncodingInputs(pairs / "corpus", trained), SentencePairsConfig(), tmp_path)
    assert begun.count("train-00000") == 2
    assert content(tmp_path) == content(pairs / "out")


def test_other_token_arrays_are_left_alone(pairs, trained, tmp_path):
    pretokenize(EncodingInputs(pairs / "corpus", trained), PretokenizeConfig(), tmp_path)
    before = content(tmp_path)
    with pytest.raises(UserError, match="holds the token arrays of a corpus; choose another folder"):
        make_pairs(EncodingInputs(pairs / "corpus", trained), SentencePairsConfig(), tmp_path)
    assert content(tmp_path) == before


def test_sentences_are_token_arrays_and_pairs_lie_within_their_shard(pairs):
    arrays, read = TokenArrays(pairs / "out"), SentencePairs(pairs / "out")
    first_shard = sum(3 + d % 5 for d in range(40))
    everywhere = [tuple(arrays.document(number).tolist()) for number in range(arrays.documents)]
    for index in range(len(read)):
        a, b, _ = (tuple(part.tolist()) if isinstance(part, np.ndarray) else part for part in read.pair(index))
        assert (everywhere.index(a) < first_shard) == (everywhere.index(b) < first_shard)


def test_mistakes(make_corpus, trained, tokenizer, tmp_path):
    make_corpus(tmp_path / "corpus", [DOCUMENTS[:1]], DOCUMENTS)
    with pytest.raises(UserError, match="no two documents with sentences"):
        make_pairs(EncodingInputs(tmp_path / "corpus", trained), SentencePairsConfig(), tmp_path / "out")
    with pytest.raises(UserError, match=r"pairs\.json is missing"):
        SentencePairs(tmp_path / "corpus")
    bare = Tokenizer(tokenizer.tokens, "cl100k", {"<|endoftext|>": 500, "[CLS]": 501})
    save_tokenizer(bare, tmp_path / "bare")
    with pytest.raises(UserError, match=r"no \[SEP\] \[PAD\] \[MASK\]"):
        make_pairs(EncodingInputs(tmp_path / "corpus", tmp_path / "bare"), SentencePairsConfig(), tmp_path / "out")
    (tmp_path / "corpus" / "train-00000.parquet").write_bytes(b"no Parquet")
    with pytest.raises(UserError, match="not a readable Parquet file"):
        make_pairs(EncodingInputs(tmp_path / "corpus", trained), SentencePairsConfig(), tmp_path / "out")


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("pairs.json", b"{", "pairs.json is damaged .*run make_pairs again"),
        ("pairs.json", b'{"pairs": {"train": [1]}}', "pairs.json is damaged .*Field required"),
        ("pairs.json", b'{"pairs": {"train": [1]}, "special_tokens": {}}', "damaged .it does not fit meta.json"),
        ("train-00000.pairs", None, "a file of pairs in .* is damaged .pair 0 is 4294967295, "),
    ],
)
def test_damaged_pairs(pairs, tmp_path, name, content, message):
    out = tmp_path / "out"
    shutil.copytree(pairs / "out", out)
    file = out / name
    file.write_bytes(b"\xff" * 4 + file.read_bytes()[4:] if content is None else content)
    with pytest.raises(UserError, match=message):
        SentencePairs(out).pair(0)
