"""A training of more steps goes on from a shorter one in the store, and is the artifact that it would have been."""

from __future__ import annotations

import random
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from pydantic import BaseModel

from flows.engine.materialize import materialize
from flows.engine.stage import Context, Stage
from flows.stages.finetune import finetune
from flows.stages.pretokenize import pretokenize
from flows.stages.pretrain import pretrain
from flows.stages.train_tokenizer import train_tokenizer
from flows.store.local import Store
from modeling.config.finetune import FinetuneConfig
from modeling.config.pretrain import PretrainConfig
from tokenization.config import PretokenizeConfig, TokenizerConfig

pytestmark = pytest.mark.slow  # trainings in processes of their own


class NoConfig(BaseModel):
    pass


class Corpus(Stage[NoConfig]):
    """A few sentences."""

    name, version = "prepare", 1

    def build(self, job):
        choose = random.Random(0).choice
        for split, count in (("train", 60), ("validation", 10)):
            texts = [" ".join(f"the {choose(['cat', 'dog'])} sees rain." for _ in range(20)) for _ in range(count)]
            columns = {"id": [f"{split} {n}" for n in range(count)], "text": texts, "source": ["it"] * count}
            pq.write_table(pa.table(columns), job.out / f"{split}-00000.parquet")
        (job.out / "stats.json").write_text("{}")

    def headline(self, stats):
        return "texts"


def settings(steps: int, **changes) -> PretrainConfig:
    base = {
        "model": {"layers": 1, "width": 32, "heads": 2, "context": 32}, "batch": 4, "steps": steps, "device": "cpu",
        "evaluate_every": 5, "evaluate_tokens": 256, "checkpoint_every": 5, "log_every": 1, "sample_tokens": 8,
    }  # fmt: skip
    return PretrainConfig.model_validate(base | changes)


class Chain:
    """The stages up to a training, in a store of its own; what they say and tell."""

    def __init__(self, folder: Path) -> None:
        self.lines: list[str] = []
        self.steps: list[float] = []
        self.context = Context(Store(folder), log=self.lines.append, progress=self.progress)
        corpus = materialize(Corpus(), NoConfig(), {}, self.context).artifact
        self.tokenizer = materialize(
            train_tokenizer, TokenizerConfig(vocab_size=270), {"corpus": corpus}, self.context
        ).artifact
        inputs = {"corpus": corpus, "tokenizer": self.tokenizer}
        self.tokens = materialize(pretokenize, PretokenizeConfig(), inputs, self.context).artifact

    def progress(self, done: float, *_: object, unit: str = "", **__: object) -> None:
        if unit == "steps":
            self.steps.append(done)

    def pretrain(self, config: PretrainConfig):
        self.lines.clear(), self.steps.clear()
        return materialize(
            pretrain, config, {"tokens": self.tokens, "tokenizer": self.tokenizer}, self.context
        ).artifact


@pytest.fixture(scope="module")
def long(tmp_path_factory):
    """A run of 40 steps from the start."""
    return Chain(tmp_path_factory.mktemp("long")).pretrain(settings(40))


def test_a_longer_pretraining_goes_on_from_a_shorter_one_in_the_store(long, tmp_path):
    chain = Chain(tmp_path / "store")
    short = chain.pretrain(settings(20))
    kept = [name for name in short.manifest.files if name.startswith("resumable/")]
    assert {name.split("/")[1] for name in kept} == {"step-00000010"}
    assert all(short.manifest.files[name].record for name in kept)  # outside of the digest
    longer = chain.pretrain(settings(40))
    assert f"Going on from step 10 of {short.title} ({short.location})" in chain.lines
    assert min(chain.steps) >= 10
    assert longer.manifest.fingerprint == long.manifest.fingerprint
    assert longer.digest == long.digest  # to the byte what it would have been
    assert not longer.damage(verify=True) and not short.damage(verify=True)
    again = chain.pretrain(settings(60))
    assert f"Going on from step 20 of {longer.title} ({longer.location})" in chain.lines  # the most steps
    assert min(chain.steps) >= 20 and again.manifest.fingerprint != longer.manifest.fingerprint


def test_a_run_of_other_settings_or_of_damaged_files_begins_anew(long, tmp_path):
    chain = Chain(tmp_path / "store")
    short = chain.pretrain(settings(20))
    chain.pretrain(settings(40, seed=1))
    assert min(chain.steps) == 1
    kept = short.path / "resumable" / "step-00000010" / "training.safetensors"
    content = bytearray(kept.read_bytes())
    content[-1] ^= 1
    kept.write_bytes(content)
    longer = chain.pretrain(settings(40))
    assert any(line.startswith(f"Not going on from {short.title}: resumable/step-00000010/") for line in chain.lines)
    assert min(chain.steps) == 1 and longer.digest == long.digest


def test_a_longer_fine_tuning_goes_on_where_its_warm_up_is_the_same(long, tmp_path):
    tokens = Chain(tmp_path / "store")

    def tune(steps: int, warmup: int):
        tokens.lines.clear()
        config = FinetuneConfig(
            steps=steps, batch=4, evaluate_every=10, evaluate_tokens=256, schedule={"warmup": warmup}, device="cpu"
        )
        inputs = {"checkpoint": long, "tokens": tokens.tokens}
        return materialize(finetune, config, inputs, tokens.context).artifact

    tune(20, 4)
    tune(40, 2)
    assert not [line for line in tokens.lines if line.startswith("Going on")]
    tune(40, 4)
    assert [line for line in tokens.lines if line.startswith("Going on from step 12 of finetune")]
