"""A small corpus and tokenizers trained on it."""

import itertools
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from tokenization.config import TokenizerConfig
from tokenization.formats import load_tokenizer
from tokenization.train import train_tokenizer

SHARED = Path(__file__).parents[2].parent / "shared" / "data"
STEMS = "train token merge pair word shard corpus model web text byte mill page crawl learn loss step héllo naïve 你好"
SUFFIXES = ["", "s", "ing", "ed", "er", "'s", "n't", "-like", "123", " 2026", "!", "...\n", "\n\n  ", "é"]


def some_texts(count: int) -> list[str]:
    """Distinct documents of words that share parts, digits, contractions, blanks and several scripts."""
    words = [a + b for a, b in itertools.product(STEMS.split(), SUFFIXES)]
    return [" ".join(words[(i * 7 + j * (i % 11 + 1)) % len(words)] for j in range(20 + i % 50)) for i in range(count)]


def write_corpus(folder: Path, train: list[list[str]], validation: list[str]) -> Path:
    folder.mkdir(parents=True, exist_ok=True)
    for i, texts in enumerate(train):
        pq.write_table(pa.table({"text": texts}), folder / f"train-{i:05}.parquet", row_group_size=100)
    pq.write_table(pa.table({"text": validation}), folder / "validation-00000.parquet")
    return folder


@pytest.fixture(scope="session")
def texts() -> list[str]:
    return some_texts(600)


@pytest.fixture(scope="session")
def make_corpus():
    """write_corpus(folder, train shards, validation texts) -> folder"""
    return write_corpus


@pytest.fixture(scope="session")
def corpus(tmp_path_factory) -> Path:
    texts = some_texts(900)
    return write_corpus(tmp_path_factory.mktemp("corpus"), [texts[:400], texts[400:800]], ["", *texts[800:], ""])


@pytest.fixture(scope="session")
def trained(corpus, tmp_path_factory) -> Path:
    out = tmp_path_factory.mktemp("tokenizer")
    train_tokenizer(corpus, TokenizerConfig(vocab_size=480, threads=2), out)
    return out


@pytest.fixture(scope="session")
def tokenizer(trained):
    return load_tokenizer(trained)


@pytest.fixture
def shared_data() -> Path:
    if not SHARED.is_dir():
        pytest.skip("needs ../shared/data, which is not part of the repository")
    return SHARED
