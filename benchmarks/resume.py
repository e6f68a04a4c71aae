"""What safety costs: checkpoints as a share of training time at the default interval, and the time to continue."""

from __future__ import annotations

import json
import shutil
import tempfile
import time
from pathlib import Path
from statistics import median

import torch

from benchmarks.support import corpora, training_data
from benchmarks.support.report import Row
from benchmarks.support.training_data import TrainingData
from modeling.checkpoint import CheckpointConfig
from modeling.config.pretrain import PretrainConfig
from modeling.device import choose
from modeling.training.distributed import Ranks
from modeling.training.objectives import CausalLM
from modeling.training.pretrain import pretrain, recipe
from modeling.training.state import TrainingRun
from modeling.training.trainer import Trainer
from modeling.training.watching import TIMING
from modeling.training.windows import TrainWindows
from textmill.progress import quiet
from tokenization.arrays import TokenArrays

STEPS = 8  # timed; a checkpoint's share at the default interval is worked out from them


def run(quick: bool) -> list[Row]:
    """Rows of the default preset."""
    with tempfile.TemporaryDirectory() as temporary:
        folder = Path(temporary)
        data = training_data.build(folder / "data", corpora.campus(300))
        config = PretrainConfig(steps=STEPS, evaluate_every=STEPS, evaluate_tokens=4096, sample_tokens=0)
        trainer = make(config, data.tokens, folder / "run")
        steps, saves, restores = [], [], []
        for _ in range(STEPS):
            start = time.perf_counter()
            trainer.train_step().item()  # waits for a GPU
            steps.append(time.perf_counter() - start)
            trainer.state.step += 1
        for _ in range(3 if quick else 7):
            start = time.perf_counter()
            trainer.saver.save()
            saves.append(time.perf_counter() - start)
            fresh = make(config, data.tokens, folder / "run")
            start = time.perf_counter()
            fresh.saver.restore()
            restores.append(time.perf_counter() - start)
        equal = same_bytes(config, data, folder)
    interval = PretrainConfig().checkpoint_every
    share = 100 * median(saves) / (interval * median(steps[2:]) + median(saves))
    return [
        Row("checkpoint", "s", median(saves)),
        Row(f"checkpoints every {interval} steps, share of training time", "%", share, goal="< 2"),
        Row("continue: read and restore", "s", median(restores)),
        Row("continued run equals the uninterrupted one (1: to the bit)", "", float(equal), goal="1"),
    ]


def make(config: PretrainConfig, tokens: Path, out: Path) -> Trainer:
    """A trainer as the stage makes it, before its first step."""
    torch.manual_seed(0)
    train, validation = TokenArrays(tokens, "train"), TokenArrays(tokens, "validation")
    objective = CausalLM(
        TrainWindows(train, config.model.context, 1, 0), validation, config.model.context, config.evaluate_tokens
    )
    checkpoint_config = CheckpointConfig(config.model, train.vocab_size, "causal", False, recipe(config, {}))
    run = TrainingRun(checkpoint_config.build_model(), objective, checkpoint_config, config, out)
    return Trainer(run, choose(), Ranks(), quiet)


class Stop(BaseException):
    """The interruption."""


def same_bytes(config: PretrainConfig, data: TrainingData, folder: Path) -> bool:
    """Train once without and once with an interruption; whether all files but those of times agree."""
    config = config.model_copy(update={"checkpoint_every": 3, "log_every": 1})

    def interrupt(done: int, total: int | None = None, **metrics: object) -> None:
        if done == 5:
            raise Stop

    uninterrupted, continued = folder / "uninterrupted", folder / "continued"
    for out in (uninterrupted, continued):
        shutil.rmtree(out, ignore_errors=True)
        out.mkdir()
    pretrain(data.tokens, data.tokenizer, config, uninterrupted, quiet)
    try:
        pretrain(data.tokens, data.tokenizer, config, continued, interrupt)
    except Stop:
        pretrain(data.tokens, data.tokenizer, config, continued, quiet)
    names = {path.name for path in uninterrupted.iterdir()} - {TIMING}
    assert json.loads((continued / "stats.json").read_text())["steps"] == STEPS
    return all((uninterrupted / name).read_bytes() == (continued / name).read_bytes() for name in names)
