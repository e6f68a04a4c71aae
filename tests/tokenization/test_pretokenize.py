"""Corpus to token arrays."""

import json
import os
import subprocess
import sys

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from textmill.errors import UserError
from tokenization import pretokenize as module
from tokenization.arrays import TokenArrays
from tokenization.config import PretokenizeConfig, SentencePairsConfig
from tokenization.formats import save_tokenizer
from tokenization.interchange import to_tiktoken
from tokenization.pretokenize import pretokenize
from tokenization.sentence_pairs import make_pairs
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


IN_A_NEW_PROCESS = """
import sys
from pathlib import Path
from tokenization.config import PretokenizeConfig
from tokenization.pretokenize import pretokenize
from tokenization.shard_writer import EncodingInputs

corpus, tokenizer, out = map(Path, sys.argv[1:])
pretokenize(EncodingInputs(corpus, tokenizer), PretokenizeConfig(threads=1), out)
print({"pyarrow.compute", "an_extension", "torch"} & set(sys.modules))
"""


def test_a_process_loads_neither_extensions_of_numba_nor_what_it_does_not_use(corpus, trained, tokens, tmp_path):
    (tmp_path / "an_extension.py").write_text("def init(): pass")
    about = tmp_path / "an_extension-1.dist-info"
    about.mkdir()
    (about / "METADATA").write_text("Metadata-Version: 2.1\nName: an_extension\nVersion: 1\n")
    (about / "entry_points.txt").write_text("[numba_extensions]\ninit = an_extension:init\n")
    environment = os.environ | {"PYTHONPATH": os.pathsep.join([str(tmp_path), *filter(None, sys.path)])}
    command = [sys.executable, "-c", IN_A_NEW_PROCESS, corpus, trained, tmp_path / "tokens"]
    done = subprocess.run(command, env=environment, capture_output=True, text=True, check=False)
    assert (done.returncode, done.stdout.strip()) == (0, "set()"), done.stderr
    assert content(tmp_path / "tokens") == content(tokens)


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


def write_columns(folder, **shards):
    folder.mkdir()
    for name, columns in shards.items():
        pq.write_table(pa.table(columns), folder / f"{name.replace('_', '-')}.parquet")
    return folder


GOOD = {"text": ["one", "two"], "source": ["b", "a"]}


@pytest.mark.parametrize(
    ("bad", "message"),
    [
        ({"text": ["one"]}, r"train-1\.parquet has no column 'source', and train-0\.parquet has one"),
        ({"body": ["one"], "source": ["a"]}, r"train-1\.parquet has no column 'text'; it has body, source"),
        ({"text": [1], "source": ["a"]}, r"column 'text' of .*train-1\.parquet holds int64, not strings"),
        ({"text": ["one", None], "source": ["a", "a"]}, r"train-1\.parquet, row 1: no text"),
        (
            {"text": ["one", "two"], "source": ["a", None]},
            r"train-1\.parquet, row 1: no source; give each",
        ),
        ({"text": ["one"], "source": [{"name": "a"}]}, r"column 'source' of .*train-1\.parquet holds no names"),
    ],
)
def test_a_shard_that_is_not_like_the_others(trained, tmp_path, bad, message):
    corpus = write_columns(tmp_path / "corpus", train_0=GOOD, train_1=bad, validation_0=GOOD)
    reports = []
    with pytest.raises(UserError, match=message):
        pretokenize(
            EncodingInputs(corpus, trained), PretokenizeConfig(), tmp_path / "out",
            progress=lambda done, *_, **__: reports.append(done),
        )  # fmt: skip
    seen_in_the_rows = "row 1" in message or "names" in message
    assert bool(reports) == seen_in_the_rows  # else before any work
    assert not (tmp_path / "out" / "meta.json").exists()


def test_empty_shards_and_documents_and_the_text_of_special_tokens(trained, tokenizer, tmp_path):
    nothing = {"text": pa.array([], pa.string()), "source": pa.array([], pa.string())}
    texts = {"text": ["", "<|endoftext|>", "a [SEP] b", ""], "source": ["x", "y", "x", "é"]}
    corpus = write_columns(tmp_path / "corpus", train_0=nothing, train_1=texts, train_2=nothing, validation_0=nothing)
    pretokenize(EncodingInputs(corpus, trained), PretokenizeConfig(), tmp_path / "out")
    read = TokenArrays(tmp_path / "out")
    ids = read.window(0, len(read)).tolist()
    assert ids.count(tokenizer.eot_id) == read.documents == 4
    assert tokenizer.special_tokens["[SEP]"] not in ids
    assert [tokenizer.decode(read.document(i)[:-1].tolist()) for i in range(4)] == texts["text"]
    assert read.document_sources()[0] == ["x", "y", "é"]
    assert read.document_sources()[1].tolist() == [0, 1, 0, 2]
    assert len(TokenArrays(tmp_path / "out", "validation")) == 0


def test_arrays_do_not_mix_with_pairs(corpus, trained, tmp_path):
    make_pairs(EncodingInputs(corpus, trained), SentencePairsConfig(), tmp_path)
    before = content(tmp_path)
    with pytest.raises(UserError, match="holds pairs of sentences; choose another folder"):
        pretokenize(EncodingInputs(corpus, trained), PretokenizeConfig(), tmp_path)
    assert content(tmp_path) == before
