"""Corpus to token arrays."""

import json

import numpy as np
import pyarrow.parquet as pq
import pytest

from textmill.errors import UserError
from tokenization import pretokenize as module
from tokenization.arrays import TokenArrays
from tokenization.config import PretokenizeConfig
from tokenization.formats import save_tokenizer
from tokenization.interchange import to_tiktoken
from tokenization.pretokenize import pretokenize
from tokenization.shard_writer import EncodingInputs
from tokenization.tokenizer import Tokenizer


def content(folder):
    return {path.name: path.read_bytes() for path in folder.iterdir()}


@pytest.fixture(scope="module")
def tokens(corpus, trained, tmp_path_factory):
    out = tmp_path_factory.mktemp("tokens")
    pretokenize(EncodingInputs(corpus, trained), PretokenizeConfig(threads=1), out)
    return out


def test_documents_are_tiktokens_ids_and_an_end(corpus, tokenizer, tokens):
    theirs = to_tiktoken(tokenizer)
    for split, files in (("train", 2), ("validation", 1)):
        read = TokenArrays(tokens, split)
        names = [f"{split}-{i:05}" for i in range(files)]
        texts = [t for name in names for t in pq.read_table(corpus / f"{name}.parquet")["text"].to_pylist()]
        assert read.documents == len(texts)
        assert [read.document(i).tolist() for i in range(len(texts))] == [
            [*theirs.encode_ordinary(text), tokenizer.eot_id] for text in texts
        ]
        assert [file["name"] for file in read.meta["splits"][split]["files"]] == [f"{name}.bin" for name in names]
        assert read.meta["splits"][split]["bytes"] == sum(len(text.encode()) for text in texts)


def test_files_of_the_artifact(tokens, tokenizer):
    names = {f"{name}{end}" for name in ("train-00000", "train-00001", "validation-00000") for end in (".bin", ".idx")}
    assert set(content(tokens)) == names | {"meta.json", "stats.json", "token_bytes.npy"}
    stats = json.loads((tokens / "stats.json").read_text())
    read = TokenArrays(tokens)
    assert stats["train"]["tokens"] == len(read)
    assert (read.token_bytes == tokenizer.byte_lengths()).all()
    assert int(read.token_bytes[read.window(0, len(read))].sum()) == stats["train"]["bytes"]


def test_the_same_for_any_threads(corpus, trained, tokens, tmp_path, monkeypatch):
    monkeypatch.setattr(module, "SLICE_BYTES", 1000)
    pretokenize(EncodingInputs(corpus, trained), PretokenizeConfig(threads=3), tmp_path)
    assert content(tmp_path) == content(tokens)


def test_a_killed_run_goes_on_after_its_finished_shards(corpus, trained, tokens, tmp_path, monkeypatch):
    encoded = []
    read_shard = module.read_shard

    def dying(shard):
        encoded.append(shard.name)
        for i, batch in enumerate(read_shard(shard)):
            if len(encoded) == 2 and i == 1:
                raise KeyboardInterrupt
            yield batch

    monkeypatch.setattr(module, "read_shard", dying)
    with pytest.raises(KeyboardInterrupt):
        pretokenize(EncodingInputs(corpus, trained), PretokenizeConfig(), tmp_path)
    pretokenize(EncodingInputs(corpus, trained), PretokenizeConfig(), tmp_path)
    assert encoded == ["train-00000.parquet", "train-00001.parquet", "train-00001.parquet", "validation-00000.parquet"]
    assert content(tmp_path) == content(tokens)


def test_progress_by_documents(corpus, trained, tmp_path):
    reports = []

    def progress(done, total, **metrics):
        reports.append((done, total, metrics))

    pretokenize(EncodingInputs(corpus, trained), PretokenizeConfig(), tmp_path, progress=progress)
    done = [report[0] for report in reports]
    assert done == sorted(done)
    assert reports[-1][:2] == (902, 902)
    assert reports[-1][2]["unit"] == "documents"


def test_large_vocabularies_take_four_bytes(corpus, tokenizer, tmp_path):
    large = Tokenizer(tokenizer.tokens, "cl100k", {"<|endoftext|>": 70_000})
    save_tokenizer(large, tmp_path / "tokenizer")
    pretokenize(EncodingInputs(corpus, tmp_path / "tokenizer"), PretokenizeConfig(), tmp_path / "out")
    read = TokenArrays(tmp_path / "out")
    assert read.dtype == np.dtype("<u4")
    assert read.document(0)[-1] == 70_000


def test_mistakes(corpus, trained, tmp_path):
    with pytest.raises(UserError, match="holds no tokenizer"):
        pretokenize(EncodingInputs(corpus, tmp_path), PretokenizeConfig(), tmp_path / "out")
    with pytest.raises(UserError, match=r"holds no train-\*.parquet"):
        pretokenize(EncodingInputs(tmp_path, trained), PretokenizeConfig(), tmp_path / "out")
