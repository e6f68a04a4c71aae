"""Token arrays: reading, orders."""

import json
import pickle
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from textmill.errors import UserError
from tokenization import arrays
from tokenization.arrays import TOKEN_BYTES, TokenArrays, TokenFile, shuffled, token_dtype, write_meta
from tokenization.config import TokenizerConfig
from tokenization.text import batches
from tokenization.train import train_from_documents

EOT = 9


def write_arrays(folder, shards: list[list[list[int]]], vocab_size: int = 10):
    """Shards of documents, each document without its end-of-text token."""
    files = []
    for i, documents in enumerate(shards):
        tokens = np.array([t for d in documents for t in [*d, EOT]], token_dtype(vocab_size))
        tokens.tofile(folder / f"train-{i:05}.bin")
        np.cumsum([len(d) + 1 for d in documents], dtype=np.uint64).tofile(folder / f"train-{i:05}.idx")
        files.append(TokenFile(f"train-{i:05}.bin", len(tokens), len(documents), 0, ""))
    write_meta(folder, {"train": files, "validation": []}, vocab_size=vocab_size, eot_id=EOT)
    return TokenArrays(folder)


SHARDS = [[[1, 2, 3], [4]], [], [[], [5, 6]], [[7]]]
FLAT = [1, 2, 3, 9, 4, 9, 9, 5, 6, 9, 7, 9]


@pytest.mark.parametrize("vocab_size", [10, 70_000])
def test_windows_and_documents_cross_shards(tmp_path, vocab_size):
    read = write_arrays(tmp_path, SHARDS, vocab_size)
    assert (len(read), read.documents, read.eot_id) == (12, 5, 9)
    assert read.window(0, 12).dtype == read.dtype == token_dtype(vocab_size)
    for start in range(12):
        for length in range(13 - start):
            assert read.window(start, length).tolist() == FLAT[start : start + length]
    for length in range(1, 13):
        starts = np.arange(13 - length)[::-1]
        assert read.windows(starts, length).tolist() == [FLAT[start : start + length] for start in starts]
    assert [read.document(i).tolist() for i in range(5)] == [[1, 2, 3, 9], [4, 9], [9], [5, 6, 9], [7, 9]]
    assert read.document_ends().tolist() == [4, 6, 7, 10, 12]
    assert pickle.loads(pickle.dumps(read)).window(3, 2).tolist() == [9, 4]
    assert len(TokenArrays(tmp_path, "validation")) == 0


@pytest.mark.parametrize("shards", [SHARDS, [[[1, 2, 3, 9, 4, 9, 9, 5, 6, 9, 7]]]], ids=["four files", "one file"])
def test_outside_the_arrays(tmp_path, shards):
    read = write_arrays(tmp_path, shards)
    assert len(read) == 12
    assert read.windows(np.array([11, 0]), 1).tolist() == [[9], [1]]
    for start, length in ((-1, 2), (11, 2), (13, 0), (2**62, 1), (0, 13)):
        with pytest.raises(IndexError):
            read.window(start, length)
        with pytest.raises(IndexError):
            read.windows(np.array([0, start]), length)
    with pytest.raises(IndexError):
        read.document(5)


@pytest.mark.long
def test_resident_pages_are_given_back(tmp_path, monkeypatch):
    monkeypatch.setattr(arrays, "RESIDENT_BYTES", 1 << 20)
    read = write_arrays(tmp_path, [[[1] * (16 << 20)]])

    def resident():
        status = Path("/proc/self/status").read_text()
        return next(int(line.split()[1]) for line in status.splitlines() if line.startswith("RssFile")) << 10

    if not Path("/proc/self/status").exists():
        pytest.skip("needs Linux's /proc")
    before = resident()
    for start in range(0, len(read) - 1000, 1000):
        read.window(start, 1000)
    assert resident() - before < 8 << 20


def test_damaged_folders(tmp_path):
    with pytest.raises(UserError, match=r"meta\.json is missing"):
        TokenArrays(tmp_path)
    write_arrays(tmp_path, SHARDS)
    with pytest.raises(UserError, match="no split 'test'; it has: train, validation"):
        TokenArrays(tmp_path, "test")
    (tmp_path / "train-00002.bin").write_bytes(b"1")
    with pytest.raises(UserError, match=r"train-00002\.bin has 1 bytes instead of 8"):
        TokenArrays(tmp_path)


@settings(max_examples=60)
@given(st.integers(1, 3000), st.integers(0, 5), st.integers(0, 3))
def test_an_order_is_a_permutation(n, seed, epoch):
    order = shuffled(np.arange(n), n, seed, epoch)
    assert sorted(order.tolist()) == list(range(n))
    assert shuffled(np.array([n // 2]), n, seed, epoch)[0] == order[n // 2]


def test_orders_differ_and_look_random():
    n = 10_000
    orders = [shuffled(np.arange(n), n, seed, epoch) for seed, epoch in ((0, 0), (0, 1), (1, 0))]
    for a in range(3):
        assert abs(np.corrcoef(np.arange(n), orders[a])[0, 1]) < 0.05
        assert (orders[a] == orders[a - 1]).mean() < 0.01
    big = shuffled(np.arange(1000), 9_000_000_000, 3)
    assert len(set(big.tolist())) == 1000
    assert big.max() > 8e9


@pytest.mark.parametrize(
    "content", ["", "{", "[]", "null", "{}", '{"splits": []}', "[" * 100_000, "\udcff", "float64", "no name", "-1"]
)
def test_a_damaged_meta_is_one_line(tmp_path, content):
    write_arrays(tmp_path, SHARDS)
    meta = tmp_path / "meta.json"
    edits = {"float64": ("uint16", "float64"), "no name": ('"name"', '"nam"'), "-1": ('"tokens": ', '"tokens": -')}
    edited = meta.read_text().replace(*edits[content]) if content in edits else content
    meta.write_text(edited, errors="surrogateescape")
    with pytest.raises(UserError, match=r"meta\.json is damaged") as error:
        TokenArrays(tmp_path)
    assert "\n" not in str(error.value)


def test_damage_is_one_line_and_never_less(tmp_path):
    read = write_arrays(tmp_path, SHARDS)
    ends = tmp_path / "train-00000.idx"
    for damaged in ([4, 5], [4, 3], [7, 6], [2**40, 6]):
        np.array(damaged, np.uint64).tofile(ends)
        with pytest.raises(UserError, match=r"train-00000\.idx is damaged.*run pretokenize again"):
            read.document_ends()
    for damaged, document in (([4, 3], 1), ([7, 6], 0), ([2**40, 6], 0)):
        np.array(damaged, np.uint64).tofile(ends)
        with pytest.raises(UserError, match=r"train-00000\.idx is damaged"):
            read.document(document)


@pytest.mark.parametrize(
    ("place", "value", "message"),
    [
        (("splits", "train", "documents"), 6, "files do not add up to its documents"),
        (("splits", "train", "files", 0, "documents"), 1, "sources of train-00000.bin do not add up"),
        (("splits", "train", "files", 0, "sources", "a", "tokens"), 9, "sources of train-00000.bin do not add up"),
    ],
)
def test_numbers_that_do_not_add_up(tmp_path, place, value, message):
    np.array([1, EOT, 2, EOT], "<u2").tofile(tmp_path / "train-00000.bin")
    np.array([2, 4], np.uint64).tofile(tmp_path / "train-00000.idx")
    np.array([0, 1], "<u2").tofile(tmp_path / "train-00000.src")
    sources = {name: {"tokens": 2, "documents": 1} for name in "ab"}
    write_meta(tmp_path, {"train": [TokenFile("train-00000.bin", 4, 2, 2, "", sources)]}, vocab_size=10, eot_id=EOT)
    assert TokenArrays(tmp_path).document_sources()[1].tolist() == [0, 1]
    np.array([0, 2], "<u2").tofile(tmp_path / "train-00000.src")
    with pytest.raises(UserError, match=r"train-00000\.src is damaged \(2 is not the number of a source\)"):
        TokenArrays(tmp_path).document_sources()
    meta = json.loads((tmp_path / "meta.json").read_text())
    inner = meta
    for key in place[:-1]:
        inner = inner[key]
    inner[place[-1]] = value
    (tmp_path / "meta.json").write_text(json.dumps(meta))
    with pytest.raises(UserError, match=message):
        TokenArrays(tmp_path)


def test_arrays_know_another_tokenizer_of_the_same_size(tmp_path):
    config = TokenizerConfig(vocab_size=266)
    ours, theirs = (train_from_documents(batches([text * 50]), config)[0] for text in ("to be or not ", "a rose is a "))
    assert (ours.vocab_size, ours.eot_id) == (theirs.vocab_size, theirs.eot_id)
    write_meta(tmp_path, {"train": [], "validation": []}, vocab_size=ours.vocab_size, eot_id=ours.eot_id)
    np.save(tmp_path / TOKEN_BYTES, ours.byte_lengths())
    arrays = TokenArrays(tmp_path)
    assert arrays.differs_from(ours.eot_id, ours.byte_lengths()) == ""
    told = arrays.differs_from(theirs.eot_id, theirs.byte_lengths())
    assert told == "the tokens are of another tokenizer: token 260 stands for 2 bytes there, for 3 here"
