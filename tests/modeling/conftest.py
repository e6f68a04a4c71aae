"""A small language with structure, as token arrays of a byte-level tokenizer: enough to learn something in seconds."""

import random
from pathlib import Path

import numpy as np
import pytest
import torch

from modeling.config.finetune import FinetuneConfig
from modeling.config.pretrain import PretrainConfig
from modeling.training.finetune import finetune
from modeling.training.pretrain import pretrain
from textmill.progress import quiet
from tokenization.arrays import TOKEN_BYTES, TokenFile, write_meta
from tokenization.config import SPECIAL_TOKENS
from tokenization.formats import save_tokenizer
from tokenization.tokenizer import Tokenizer

# What a test asks for, directly or through another fixture, if it trains a model
TRAININGS = {"tiny", "pretrained", "finetuned"}

torch.set_num_threads(1)  # models this small are fastest so; tests/conftest.py tells the children


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Mark the tests that train: `make fast` leaves them out."""
    for item in items:
        if TRAININGS & set(getattr(item, "fixturenames", ())):
            item.add_marker("training")


@pytest.fixture(scope="session")
def tokenizer() -> Tokenizer:
    """The 256 bytes and the special tokens."""
    tokens = {bytes([value]): value for value in range(256)}
    return Tokenizer(tokens, "gpt2", {name: 256 + place for place, name in enumerate(SPECIAL_TOKENS)})


def text(documents: int, seed: int) -> list[str]:
    choose = random.Random(seed).choice
    subjects, verbs = ["the cat", "a dog", "the bird"], ["sees", "hears", "finds"]
    things = ["a tree", "the sea", "rain"]
    return [
        " ".join(f"{choose(subjects)} {choose(verbs)} {choose(things)}." for _ in range(12)) for _ in range(documents)
    ]


def write_tokens(out: Path, tokenizer: Tokenizer, splits: dict[str, list[str]]) -> Path:
    """Token arrays of these texts, as pretokenize lays them out; the training split in two files."""
    out.mkdir(parents=True)
    listed = {}
    for split, texts in splits.items():
        listed[split] = []
        half = len(texts) // 2 if split == "train" else 0
        for number, part in enumerate([texts[:half], texts[half:]] if half else [texts]):
            ids = [[*tokenizer.encode_ordinary(document), tokenizer.eot_id] for document in part]
            flat = np.concatenate(ids).astype(tokenizer.dtype)
            name = f"{split}-{number:05d}.bin"
            flat.tofile(out / name)
            np.cumsum([len(document) for document in ids]).astype("<u8").tofile((out / name).with_suffix(".idx"))
            size = sum(len(document.encode()) for document in part)
            listed[split].append(TokenFile(name, len(flat), len(part), size, ""))
    write_meta(out, listed, vocab_size=tokenizer.vocab_size, eot_id=tokenizer.eot_id)
    np.save(out / TOKEN_BYTES, tokenizer.byte_lengths())
    return out


@pytest.fixture(scope="session")
def tokens(tmp_path_factory, tokenizer) -> Path:
    return write_tokens(
        tmp_path_factory.mktemp("data") / "tokens",
        tokenizer,
        {"train": text(60, seed=1), "validation": text(8, seed=2)},
    )


@pytest.fixture(scope="session")
def tokenizer_folder(tmp_path_factory, tokenizer) -> Path:
    folder = tmp_path_factory.mktemp("tokenizer")
    save_tokenizer(tokenizer, folder)
    return folder


@pytest.fixture(scope="session")
def tiny():
    """Settings of a run of a second or two; keyword arguments change them."""

    def settings(**changes) -> PretrainConfig:
        base = {
            "model": {"layers": 2, "width": 32, "heads": 2, "context": 32}, "batch": 8, "steps": 40,
            "evaluate_every": 20, "evaluate_tokens": 1024, "checkpoint_every": 10, "sample_tokens": 40,
        }  # fmt: skip
        return PretrainConfig.model_validate(base | changes)

    return settings


class Killed(BaseException):
    """Ends a training where it is."""


@pytest.fixture(scope="session")
def interrupted_at():
    """Pretrain until its progress comes to a step, and leave everything as it is then."""

    def begin(step: int, tokens: Path, tokenizer_folder: Path, config: PretrainConfig, out: Path) -> None:
        def stop(done, total=None, **metrics):
            if done == step:
                raise Killed

        with pytest.raises(Killed):
            pretrain(tokens, tokenizer_folder, config, out, stop)

    return begin


@pytest.fixture(scope="session")
def pretrained(tokens, tokenizer_folder, tiny, tmp_path_factory) -> Path:
    """A checkpoint that has learned the small language."""
    out = tmp_path_factory.mktemp("pretrained")
    pretrain(tokens, tokenizer_folder, tiny(steps=120), out, quiet)
    return out


@pytest.fixture(scope="session")
def finetuned(pretrained, tokens, tmp_path_factory) -> Path:
    out = tmp_path_factory.mktemp("finetuned")
    config = FinetuneConfig(
        steps=80, batch=8, evaluate_every=40, evaluate_tokens=1024, sample_blank="the cat s[MASK]es a tree"
    )
    finetune(pretrained, tokens, config, out, quiet)
    return out
