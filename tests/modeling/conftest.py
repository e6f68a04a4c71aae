"""A small language with structure, as token arrays of a byte-level tokenizer: enough to learn something in seconds."""

import random
from pathlib import Path

import numpy as np
import pytest
import torch

from tokenization.arrays import TOKEN_BYTES, TokenFile, write_meta
from tokenization.tokenizer import SPECIAL_TOKENS, Tokenizer

torch.set_num_threads(2)


@pytest.fixture(scope="session")
def words() -> Tokenizer:
    """The 256 bytes and the special tokens."""
    tokens = {bytes([value]): value for value in range(256)}
    return Tokenizer(tokens, "gpt2", {name: 256 + place for place, name in enumerate(SPECIAL_TOKENS)})


def text(documents: int, seed: int) -> list[str]:
    choose = random.Random(seed).choice
    subjects, verbs, things = ["the cat", "a dog", "the bird"], ["sees", "hears", "finds"], ["a tree", "the sea", "rain"]
    return [
        " ".join(f"{choose(subjects)} {choose(verbs)} {choose(things)}." for _ in range(12)) for _ in range(documents)
    ]


def write_tokens(out: Path, words: Tokenizer, splits: dict[str, list[str]]) -> Path:
    """Token arrays of these texts, as pretokenize lays them out; the training split in two files."""
    out.mkdir(parents=True)
    listed = {}
    for split, texts in splits.items():
        listed[split] = []
        half = len(texts) // 2 if split == "train" else 0
        for number, part in enumerate([texts[:half], texts[half:]] if half else [texts]):
            ids = [[*words.encode_ordinary(document), words.eot_id] for document in part]
            flat = np.concatenate(ids).astype(words.dtype)
            name = f"{split}-{number:05d}.bin"
            flat.tofile(out / name)
            np.cumsum([len(document) for document in ids]).astype("<u8").tofile((out / name).with_suffix(".idx"))
            size = sum(len(document.encode()) for document in part)
            listed[split].append(TokenFile(name, len(flat), len(part), size, ""))
    write_meta(out, listed, vocab_size=words.vocab_size, eot_id=words.eot_id)
    np.save(out / TOKEN_BYTES, words.byte_lengths())
    return out


@pytest.fixture(scope="session")
def tokens(tmp_path_factory, words) -> Path:
    return write_tokens(
        tmp_path_factory.mktemp("data") / "tokens", words, {"train": text(60, seed=1), "validation": text(8, seed=2)}
    )


@pytest.fixture(scope="session")
def tokenizer(tmp_path_factory, words) -> Path:
    folder = tmp_path_factory.mktemp("tokenizer")
    words.save(folder)
    return folder
