"""Questions about a small language whose answers a model learns to find within seconds."""

import json
import random
from pathlib import Path

import pytest

from modeling.answering.config import AnsweringConfig, QuestionsConfig
from modeling.answering.sets import make_set
from modeling.answering.tune import tune
from modeling.training.pretrain import pretrain
from textmill.progress import quiet

RATES = {"matrix_lr": 0.02, "embedding_lr": 0.3, "head_lr": 0.008, "scalar_lr": 0.02}  # there is no time for lower ones


def asked(count: int, seed: int) -> list[dict[str, object]]:
    """Who sees something, and what; now and then there is nobody."""
    choose = random.Random(seed).choice
    rows = []
    for number in range(count):
        subject, verb = choose(["the cat", "a dog", "the bird", "my aunt"]), choose(["sees", "hears", "finds"])
        thing = choose(["rain", "snow", "a tree", "the sea"])
        context = f"{number % 97}: {subject} {verb} {thing}."
        question, answer = choose([("who?", subject), ("what is it?", thing), ("where?", "")])
        rows.append({"id": str(number), "question": question, "context": context, "answer": answer})
    return rows


@pytest.fixture(scope="session")
def asked_file(tmp_path_factory) -> Path:
    path = tmp_path_factory.mktemp("asked") / "questions.jsonl"
    path.write_text("".join(json.dumps(row) + "\n" for row in asked(400, seed=1)))
    return path


@pytest.fixture(scope="session")
def questions(asked_file, tmp_path_factory) -> Path:
    out = tmp_path_factory.mktemp("questions")
    make_set(QuestionsConfig(path=str(asked_file)), None, out)
    return out


@pytest.fixture(scope="session")
def raw(tokens, tokenizer_folder, tiny, tmp_path_factory) -> Path:
    """A checkpoint that has learned next to nothing, but has a window that is long enough."""
    out = tmp_path_factory.mktemp("raw")
    model = {"layers": 2, "width": 32, "heads": 2, "context": 64}
    pretrain(tokens, tokenizer_folder, tiny(model=model, steps=4, evaluate_every=4, sample_tokens=0), out, quiet)
    return out


@pytest.fixture(scope="session")
def settings():
    def make(**changes) -> AnsweringConfig:
        base = {"steps": 4, "batch": 16, "evaluate_every": 100, "length": 48, "longest_answer": 12, "optimizer": RATES}
        return AnsweringConfig.model_validate(base | changes)

    return make


@pytest.fixture(scope="session")
def tuned(raw, questions, settings, tmp_path_factory) -> Path:
    """A checkpoint that finds answers."""
    out = tmp_path_factory.mktemp("tuned")
    tune(raw, questions, settings(steps=80), out, quiet)
    return out
