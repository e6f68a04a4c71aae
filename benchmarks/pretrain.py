"""Time to nanoGPT's validation loss on the same data, windows and number of block weights.

`--nanogpt PATH`: nanoGPT runs from a copy of this checkout, once as it is (fp32 on a CPU) and once given bf16 and our
allocator settings, with the settings its README gives for small models. Both sides are processes; everything counts
from start to exit: imports, a glance at the validation loss (one batch), and the checkpoint included. The validation
loss of both is computed afterwards, by the same code on the same windows, each with its own model.

Our number of steps is fixed for each horizon (HORIZONS); if a seed does not reach nanoGPT's loss, the row says so.
"""

from __future__ import annotations

import argparse
import json
import re
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from statistics import mean, median
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn

from benchmarks.support import corpora, training_data
from benchmarks.support.peers import NANOGPT_FILE, NanoGPT, add_checkout, step_milliseconds
from benchmarks.support.report import Row, compare
from benchmarks.support.training_data import TrainingData
from modeling.checkpoint import load_model
from modeling.config.pretrain import PretrainConfig
from modeling.device import training_environment
from modeling.training.distributed import Ranks
from modeling.training.objectives import CausalLM
from modeling.training.process import command
from modeling.training.windows import TrainWindows
from tokenization.arrays import TokenArrays

EVALUATION_TOKENS = 131_072
SPEED_STEPS, SPEED_RUNS = 12, 3


@dataclass(frozen=True)
class Horizon:
    """A model and how long each side trains it.

    Attributes:
        name: of the model and of nanoGPT's number of tokens, in the rows.
        layers, width, context: the model.
        batch: rows of a step.
        peer_steps: steps of nanoGPT.
        steps: steps of ours.
        goals: our share of nanoGPT's time, as shipped and in bf16.
        optimizer: our settings of the optimizer.
        until: the fraction of our steps that train one layer; all layers join after them.
    """

    name: str
    layers: int
    width: int
    batch: int
    peer_steps: int
    steps: int
    goals: tuple[str, str]
    optimizer: dict[str, float]
    until: float
    context: int = 256

    @property
    def model(self) -> dict[str, int]:
        """The settings of the model."""
        return {"layers": self.layers, "width": self.width, "heads": self.width // 64, "context": self.context}


# Few large steps want a larger rate and shorter memories than the preset has (modeling/LOG.md)
HORIZONS = {
    "6x384": Horizon("6x384, 655k tokens", 6, 384, 16, 160, 25, ("<= 0.12", "<= 0.22"),
                     {"matrix_lr": 0.045, "momentum": 0.87, "beta1": 0.7}, until=0.84),
    "4x256": Horizon("4x256, 1.64M tokens", 4, 256, 8, 800, 210, ("<= 0.20", "<= 0.33"),
                     {"matrix_lr": 0.03, "momentum": 0.9}, until=0.8),
}  # fmt: skip
QUICK = Horizon("2x128, 41k tokens", 2, 128, 8, 40, 16, ("", ""), {}, until=0.5, context=128)


class Training(NamedTuple):
    """Seconds from the start of the process to its exit, and the validation loss in nats."""

    seconds: float
    loss: float


def options(parser: argparse.ArgumentParser) -> None:
    """Declare the options of this benchmark."""
    add_checkout(parser, "nanogpt", NANOGPT_FILE)
    parser.add_argument("--seeds", type=int, metavar="N", help="train with seeds 0 to N-1 (3, with --quick 1)")
    parser.add_argument("--horizon", choices=HORIZONS, help="only this model (without --quick)")


def run(quick: bool, nanogpt: Path | None = None, seeds: int | None = None, horizon: str | None = None) -> list[Row]:
    """Each horizon: share of the peer's time (a ratio above 1 is that many times faster), and the losses."""
    horizons = [QUICK] if quick else [HORIZONS[horizon]] if horizon else list(HORIZONS.values())
    rows = []
    with tempfile.TemporaryDirectory() as temporary:
        folder = Path(temporary)
        data = training_data.build(folder / "data", corpora.campus(300 if quick else None))
        peer = NanoGPT(nanogpt, data.nanogpt, folder / "peer") if nanogpt else None
        for one in horizons:
            ours: list[Training] = []
            peers: dict[bool, list[Training]] = {False: [], True: []}  # as shipped, and in bf16
            for seed in range(seeds or (1 if quick else 3)):  # in turn, so that a machine that drifts does so for all
                ours.append(train(one, seed, data, folder / "ours"))
                for bf16 in peers if peer else ():
                    peers[bf16].append(train_peer(peer, one, seed, bf16, data.tokens))
                last = [ours[-1], *(runs[-1] for runs in peers.values() if runs)]
                losses = "; ".join(f"{seconds:.1f} s to {loss:.4f}" for seconds, loss in last)
                print(f"{one.name}, seed {seed}: {losses}", file=sys.stderr)
            rows += report(one, ours, peers)
            if peer and one.layers > 4:
                rows.append(speed(peer, one, data, folder / "ours"))
    return rows


def speed(peer: NanoGPT, horizon: Horizon, data: TrainingData, out: Path) -> Row:
    """Tokens a second of nanoGPT's architecture, trained by us and by nanoGPT as shipped, in turn: medians over the
    steps of SPEED_RUNS runs."""
    config = PretrainConfig.model_validate(
        {"preset": "gpt2-124m", "model": {**horizon.model, "bias": False}, "batch": horizon.batch,
         "micro_batch": horizon.batch, "log_every": 1, "steps": SPEED_STEPS, "schedule": {"warmup": 1},
         "evaluate_tokens": horizon.context, "sample_tokens": 0}
    )  # fmt: skip
    ours, theirs = [], []
    for _ in range(SPEED_RUNS):
        seconds_of_training(config, data, out)
        lines = map(json.loads, (out / "timing.jsonl").read_text().splitlines())
        ours += [line["tokens_per_second"] for line in lines if "tokens_per_second" in line]
        log = run_peer(peer, horizon, SPEED_STEPS)
        theirs += [horizon.batch * horizon.context / ms * 1000 for ms in step_milliseconds(log)]
    return compare(
        f"{horizon.name}: its architecture", "tok/s", median(ours), median(theirs), "nanoGPT as shipped", goal=">= 2.5"
    )


def report(horizon: Horizon, ours: list[Training], peers: dict[bool, list[Training]]) -> list[Row]:
    """Rows of seconds and losses, means over the seeds."""
    mine = mean_of(ours)
    rows = []
    for (bf16, runs), goal in zip(peers.items(), horizon.goals, strict=True):
        name = "nanoGPT in bf16, tunables" if bf16 else "nanoGPT as shipped"
        theirs = mean_of(runs) if runs else None
        conclusion = ""
        if theirs:
            conclusion = "reached" if mine.loss <= theirs.loss else "NOT reached: its time is not a result"
        for label, unit, field, note in (
            ("time to train", "s", "seconds", goal and f"share of its time {goal}"),
            ("validation loss", "nats", "loss", conclusion),
        ):
            pair = getattr(mine, field), theirs and getattr(theirs, field)
            rows.append(compare(f"{horizon.name}: {label}", unit, *pair, name, goal=note, lower_is_better=True))
    return rows


def mean_of(runs: list[Training]) -> Training:
    """Means of seconds and losses."""
    return Training(mean(run.seconds for run in runs), mean(run.loss for run in runs))


def train(horizon: Horizon, seed: int, data: TrainingData, out: Path) -> Training:
    """Train ours in a process of its own."""
    seconds = seconds_of_training(PretrainConfig.model_validate(settings(horizon, seed)), data, out)
    model, _ = load_model(out)
    return Training(seconds, validation_loss(model, data.tokens, horizon))


def seconds_of_training(config: PretrainConfig, data: TrainingData, out: Path) -> float:
    """Train in a process of its own, into an `out` without anything from before; its seconds from start to exit."""
    shutil.rmtree(out, ignore_errors=True)
    start = time.perf_counter()
    arguments = command(config, data.tokens, data.tokenizer, out)
    subprocess.run(arguments, env=training_environment(), check=True, capture_output=True)
    return time.perf_counter() - start


def settings(horizon: Horizon, seed: int) -> dict[str, Any]:
    """Our settings of a training."""
    return {
        "preset": "nano-fast", "model": horizon.model, "batch": horizon.batch, "steps": horizon.steps, "seed": seed,
        "progressive": {"layers": 1, "until": horizon.until},
        "evaluate_every": horizon.steps, "evaluate_tokens": horizon.batch * horizon.context,
        "checkpoint_every": horizon.steps, "optimizer": horizon.optimizer, "sample_tokens": 0,
    }  # fmt: skip


def train_peer(peer: NanoGPT, horizon: Horizon, seed: int, bf16: bool, tokens: Path) -> Training:
    """Train nanoGPT; its validation loss is that of our windows."""
    start = time.perf_counter()
    run_peer(peer, horizon, horizon.peer_steps, seed, bf16)
    seconds = time.perf_counter() - start
    model = peer_model(peer.out)
    return Training(
        seconds, validation_loss(lambda ids, targets, **_: model(ids, targets.contiguous())[1], tokens, horizon)
    )


def run_peer(peer: NanoGPT, horizon: Horizon, steps: int, seed: int = 0, bf16: bool = False) -> str:
    """Train nanoGPT on the CPU; what it prints."""
    changes = {"torch.manual_seed(1337": f"torch.manual_seed({1337 + seed}"}
    if bf16:
        changes["ctx = nullcontext() if device_type == 'cpu' else"] = "ctx ="
    options = {
        "device": "cpu", "compile": False, "eval_interval": steps, "block_size": horizon.context,
        "batch_size": horizon.batch, "gradient_accumulation_steps": 1, "n_layer": horizon.layers,
        "n_head": horizon.width // 64, "n_embd": horizon.width, "max_iters": steps, "lr_decay_iters": steps,
        "learning_rate": 1e-3, "min_lr": 1e-4, "beta2": 0.99, "warmup_iters": steps // 20,
    }  # fmt: skip
    return peer.train(options, changes, training_environment() if bf16 else None)


def peer_model(folder: Path) -> nn.Module:
    """The model that nanoGPT saved, of its own code."""
    sys.path.insert(0, str(folder))
    try:
        sys.modules.pop("model", None)
        from model import GPT, GPTConfig
    finally:
        sys.path.remove(str(folder))
    saved = torch.load(folder / "out" / "ckpt.pt", map_location="cpu", weights_only=True)
    model = GPT(GPTConfig(**saved["model_args"]))
    model.load_state_dict({re.sub("^_orig_mod.", "", name): value for name, value in saved["model"].items()})
    return model.eval()


@torch.no_grad()
def validation_loss(loss: Callable[..., Tensor], tokens: Path, horizon: Horizon) -> float:
    """Nats a token on fixed windows, in fp32. `loss` is called as a model is, for all positions."""
    validation = TokenArrays(tokens, "validation")
    objective = CausalLM(
        TrainWindows(validation, horizon.context, 1, 0), validation, horizon.context, EVALUATION_TOKENS
    )
    return objective.evaluate(loss, Ranks(), torch.device("cpu"), 16)["validation_loss"]
