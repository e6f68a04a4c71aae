"""Training on a corpus."""

import itertools
import json
import time

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from pydantic import ValidationError

from textmill.errors import UserError
from tokenization import counting
from tokenization.config import SPECIAL_TOKENS, TokenizerConfig
from tokenization.formats import load_tokenizer
from tokenization.patterns import find_pattern
from tokenization.text import batches
from tokenization.train import train_from_documents, train_tokenizer

FILES = ("ranks.tiktoken", "tokenizer.yaml", "tokenizer.json", "tokenizer_config.json", "stats.json")


def content(folder):
    assert sorted(path.name for path in folder.iterdir()) == sorted(FILES)
    return {name: (folder / name).read_bytes() for name in FILES}


def test_the_same_for_any_threads_and_order_of_shards(corpus, trained, make_corpus, tmp_path):
    texts = [pq.read_table(corpus / f"train-0000{i}.parquet")["text"].to_pylist() for i in range(2)]
    swapped = make_corpus(tmp_path / "swapped", texts[::-1], [])
    train_tokenizer(swapped, TokenizerConfig(vocab_size=480, threads=1), tmp_path / "out")
    assert content(tmp_path / "out") == content(trained)


def test_statistics(corpus, trained):
    stats = json.loads((trained / "stats.json").read_text())
    text = "".join(t for i in range(2) for t in pq.read_table(corpus / f"train-0000{i}.parquet")["text"].to_pylist())
    assert stats["corpus_bytes"] == len(text.encode())
    assert (stats["vocab_size"], stats["merges"], stats["special_tokens"]) == (480, 219, 5)


def test_a_killed_count_goes_on_where_it_was(corpus, trained, tmp_path, monkeypatch):
    counted = []
    count_words = counting.count_words

    def dying(documents, pattern, threads):
        if counted:
            raise KeyboardInterrupt
        counted.append(1)
        return count_words(documents, pattern, threads)

    monkeypatch.setattr(counting, "count_words", dying)
    with pytest.raises(KeyboardInterrupt):
        train_tokenizer(corpus, TokenizerConfig(vocab_size=480), tmp_path)
    monkeypatch.setattr(counting, "count_words", lambda *args: counted.append(1) or count_words(*args))
    train_tokenizer(corpus, TokenizerConfig(vocab_size=480), tmp_path)
    assert len(counted) == 2
    assert content(tmp_path) == content(trained)


def test_a_kept_count_is_read_in_a_moment():
    """Not in 20 s: a table lists its words in an order that would crowd at the front of a smaller one."""
    letters = itertools.product("abcdefghijklmnopq", repeat=5)
    words = counting.count_words(batches(map("".join, letters)), find_pattern("gpt2")).unpack()
    started = time.process_time()
    assert len(counting.WordCounts.of(*words)) == 17**5
    assert time.process_time() - started < 4


def test_special_reserved_and_padded_ids(corpus, tmp_path):
    config = TokenizerConfig(vocab_size=300, special_tokens=["<|user|>"], reserved=2, multiple_of=64)
    train_tokenizer(corpus, config, tmp_path)
    tokenizer = load_tokenizer(tmp_path)
    assert tokenizer.vocab_size == config.planned_size() == 320
    assert list(tokenizer.special_tokens)[:8] == [
        *SPECIAL_TOKENS,
        "<|user|>",
        "<|reserved_0|>",
        "<|reserved_1|>",
    ]
    assert list(tokenizer.special_tokens.values()) == list(range(292, 320))


def test_the_first_progress_comes_before_any_shard_is_read(corpus, tmp_path, monkeypatch):
    events = []
    read_shard = counting.read_shard
    monkeypatch.setattr(counting, "read_shard", lambda shard: events.append(shard.stem) or read_shard(shard))
    train_tokenizer(
        corpus,
        TokenizerConfig(vocab_size=300),
        tmp_path,
        progress=lambda done, *_, phase="", **__: events.append(phase),
    )
    assert events[:4] == ["counting words", "train-00000", "counting words", "train-00001"]


def test_a_special_token_that_is_learned_too_has_an_id_of_its_own(texts):
    documents = list(batches(["that cat sat at a mat " * 9]))
    tokenizer, _ = train_from_documents(documents, TokenizerConfig(vocab_size=266, special_tokens=["at"]))
    learned = tokenizer.tokens[b"at"]
    assert (tokenizer.special_tokens["at"], tokenizer.vocab_size) == (265, 266)
    assert tokenizer.encode_ordinary("at") == [learned] != [265]
    assert tokenizer.encode("at", allowed_special="all") == [265]
    assert tokenizer.decode([265, learned]) == "atat"


def test_progress_by_merges(corpus, tmp_path):
    reports = []
    train_tokenizer(
        corpus,
        TokenizerConfig(vocab_size=400),
        tmp_path,
        progress=lambda done, total, **f: reports.append((done, total, f["unit"])),
    )
    assert reports[0] == (0, 2, "shards")
    assert reports[-1] == (139, 139, "merges")


def test_a_vocabulary_larger_than_the_corpus_supports(texts):
    documents = list(batches(texts[:40]))
    with pytest.raises(UserError, match=r"at most vocab_size \d+") as error:
        train_from_documents(documents, TokenizerConfig(vocab_size=5000))
    most = int(str(error.value).split("vocab_size ")[1].split(":")[0])
    assert train_from_documents(documents, TokenizerConfig(vocab_size=most))[0].vocab_size == most
    with pytest.raises(UserError, match=f"at most vocab_size {most}"):
        train_from_documents(documents, TokenizerConfig(vocab_size=most + 1))


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({"vocab_size": 260}, "vocab_size 260 is too small.*at least 261"),
        ({"vocab_size": 262, "reserved": 2}, "at least 263"),
        ({"pattern": "gpt5"}, "unknown split pattern 'gpt5'"),
        ({"pattern": r"\w"}, r"the split pattern leaves out ', 12.*end it with an alternative for the rest"),
        ({"special_tokens": ["[MASK]"]}, "leave out"),
        ({"special_tokens": [""]}, "needs a name"),
        ({"special_tokens": ["<|Ã©|>"]}, r"would take ordinary text for the special token '<\|Ã©\|>'; give it another"),
        ({"pattern": r"\b\w+|\W"}, "read differently"),
        ({"special_tokens": ["<|reserved_3|>"]}, r"<\|reserved_3\|> is a name of reserved ids; choose another"),
    ],
)
def test_mistakes_in_the_config(values, message):
    with pytest.raises(ValidationError, match=message):
        TokenizerConfig(**values)


def test_mistakes_in_the_corpus(tmp_path, make_corpus):
    config = TokenizerConfig(vocab_size=300)
    with pytest.raises(UserError, match=r"holds no train-\*.parquet"):
        train_tokenizer(tmp_path, config, tmp_path / "out")
    with pytest.raises(UserError, match="no text to train"):
        train_tokenizer(make_corpus(tmp_path / "empty", [["", ""]], []), config, tmp_path / "out")
    shard = tmp_path / "train-00000.parquet"
    for table, message in (
        (pa.table({"body": ["a"]}), "no column 'text'; it has body"),
        (pa.table({"text": [1]}), "holds int64, not strings"),
        (pa.table({"text": ["a", None]}), "row 1: no text"),
    ):
        pq.write_table(table, shard)
        with pytest.raises(UserError, match=message):
            train_tokenizer(tmp_path, config, tmp_path / "out")
    shard.write_bytes(b"PAR1 no")
    with pytest.raises(UserError, match=r"train-00000\.parquet is not a readable Parquet file"):
        train_tokenizer(tmp_path, config, tmp_path / "out")


def test_a_shard_without_text_is_refused_before_others_are_counted(corpus, tmp_path, monkeypatch):
    for shard in corpus.glob("train-*.parquet"):
        (tmp_path / shard.name).symlink_to(shard)
    pq.write_table(pa.table({"body": ["a"]}), tmp_path / "train-00002.parquet")
    monkeypatch.setattr(counting, "count_words", None)
    with pytest.raises(UserError, match=r"train-00002\.parquet has no column 'text'; it has body"):
        train_tokenizer(tmp_path, TokenizerConfig(vocab_size=300), tmp_path / "out")


def test_invalid_utf8_is_reported_with_shard_and_row(tmp_path):
    good = pa.array(["fine"] * 700).buffers()
    data = bytearray(good[2].to_pybytes())
    data[4 * 600 + 1] = 0xFF
    broken = pa.StringArray.from_buffers(700, good[1], pa.py_buffer(bytes(data)))
    pq.write_table(pa.table({"text": broken}), tmp_path / "train-00000.parquet")
    with pytest.raises(UserError, match=r"train-00000\.parquet, row 600: invalid UTF-8 at byte 1"):
        train_tokenizer(tmp_path, TokenizerConfig(vocab_size=300), tmp_path / "out")
