"""Time to nanoGPT's validation loss on the same data, windows and number of block weights.

`NANOGPT=CHECKOUT python -m benchmarks pretrain`: nanoGPT runs from a copy of the given checkout, once as it is (fp32 on
a CPU) and once given bf16 and our allocator settings, with the settings its README gives for small models. Both sides
are processes; everything counts from start to exit: imports, a glance at the validation loss (one batch), and the
checkpoint included. The validation loss of both is computed afterwards, by the same code on the same windows, each
with its own model.

Our number of steps is fixed for each horizon (HORIZONS); if a seed does not reach nanoGPT's loss, the row says so.
"""

import json
import os
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

import torch
from torch import Tensor, nn

from benchmarks import corpus, nanogpt
from benchmarks.report import Row, compare
from modeling.checkpoint import load_model
from modeling.config import PretrainConfig
from modeling.device import training_environment
from modeling.training.distributed import Ranks
from modeling.training.objectives import CausalLM
from modeling.training.process import command
from tokenization.arrays import TokenArrays

EVALUATION_TOKENS = 131_072
SPEED_STEPS, SPEED_RUNS = 12, 3


@dataclass(frozen=True)
class Horizon:
    """A model and how long nanoGPT trains it; `steps` is how long we do, with these settings of the optimizer: one
    layer `until` that share of the steps, and all layers after."""

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


# Few large steps want a larger rate and shorter memories than the preset has (modeling/LOG.md)
HORIZONS = (
    Horizon("6x384, 655k tokens", 6, 384, 16, 160, 25, ("<= 0.12", "<= 0.22"),
            {"matrix_lr": 0.045, "momentum": 0.87, "beta1": 0.7}, until=0.84),
    Horizon("4x256, 1.64M tokens", 4, 256, 8, 800, 210, ("<= 0.20", "<= 0.33"),
            {"matrix_lr": 0.03, "momentum": 0.9}, until=0.8),
)  # fmt: skip
QUICK = Horizon("2x128, 41k tokens", 2, 128, 8, 40, 16, ("", ""), {}, until=0.5, context=128)


def run(quick: bool) -> list[Row]:
    """Each horizon: share of the peer's time (a ratio above 1 is that many times faster), and the losses."""
    checkout = os.environ.get("NANOGPT")
    seeds = range(int(os.environ.get("SEEDS", 1 if quick else 3)))
    chosen = os.environ.get("HORIZON")
    rows = []
    with tempfile.TemporaryDirectory() as temporary:
        folder = Path(temporary)
        tokenizer, tokens, data = corpus.build(folder / "data", corpus.texts(300 if quick else None))
        for horizon in (QUICK,) if quick else HORIZONS:
            if chosen and chosen not in horizon.name:
                continue
            ours, peers = [], {False: [], True: []}
            for seed in seeds:  # in turn, so that a machine that drifts does so for all
                ours.append(train(horizon, seed, tokens, tokenizer, folder / "ours"))
                for half in peers if checkout else ():
                    peers[half].append(peer(Path(checkout), horizon, seed, half, data, tokens, folder / "peer"))
                last = [ours[-1], *(runs[-1] for runs in peers.values() if runs)]
                told = "; ".join(f"{seconds:.1f} s to {loss:.4f}" for seconds, loss in last)
                print(f"{horizon.name}, seed {seed}: {told}", file=sys.stderr)
            rows += report(horizon, ours, peers)
            if checkout and horizon.layers > 4:
                rows.append(speed(Path(checkout), horizon, tokens, tokenizer, data, folder))
    return rows


def speed(checkout: Path, horizon: Horizon, tokens: Path, tokenizer: Path, data: Path, folder: Path) -> Row:
    """Tokens a second of nanoGPT's architecture, trained by us and by nanoGPT as shipped, in turn: medians over the
    steps of SPEED_RUNS runs."""
    model = {"layers": horizon.layers, "width": horizon.width, "heads": horizon.width // 64, "context": horizon.context,
             "bias": False}  # fmt: skip
    config = PretrainConfig.model_validate(
        {"preset": "gpt2-124m", "model": model, "batch": horizon.batch, "micro_batch": horizon.batch, "log_every": 1,
         "steps": SPEED_STEPS, "schedule": {"warmup": 1}, "evaluate_tokens": horizon.context, "sample_tokens": 0}
    )  # fmt: skip
    ours, theirs = [], []
    for _ in range(SPEED_RUNS):
        trained(config, tokens, tokenizer, folder / "ours")
        lines = map(json.loads, (folder / "ours" / "timing.jsonl").read_text().splitlines())
        ours += [line["tokens_per_second"] for line in lines if "tokens_per_second" in line]
        log = run_peer(checkout, horizon, 0, False, data, folder / "peer", SPEED_STEPS)
        theirs += [horizon.batch * horizon.context / ms * 1000 for ms in nanogpt.step_milliseconds(log)]
    return compare(
        f"{horizon.name}: its architecture", "tok/s", median(ours), median(theirs), "nanoGPT as shipped", goal=">= 2.5"
    )


def report(
    horizon: Horizon, ours: list[tuple[float, float]], peers: dict[bool, list[tuple[float, float]]]
) -> list[Row]:
    """Rows of (seconds, loss) pairs, means over the seeds."""
    seconds, loss = (mean(column) for column in zip(*ours, strict=True))
    rows = []
    for (half, runs), goal in zip(peers.items(), horizon.goals, strict=True):
        name = "nanoGPT in bf16, tunables" if half else "nanoGPT as shipped"
        theirs = [mean(column) for column in zip(*runs, strict=True)] if runs else [None, None]
        verdict = "" if theirs[1] is None else "reached" if loss <= theirs[1] else "NOT reached: its time is no result"
        for what, unit, pair, note in (
            ("time to train", "s", (seconds, theirs[0]), goal and f"share of its time {goal}"),
            ("validation loss", "nats", (loss, theirs[1]), verdict),
        ):
            rows.append(compare(f"{horizon.name}: {what}", unit, *pair, name, goal=note, lower_is_better=True))
    return rows


def train(horizon: Horizon, seed: int, tokens: Path, tokenizer: Path, out: Path) -> tuple[float, float]:
    """Seconds from start to exit, and the validation loss."""
    seconds = trained(PretrainConfig.model_validate(settings(horizon, seed)), tokens, tokenizer, out)
    model, _ = load_model(out)
    return seconds, validation_loss(model, tokens, horizon)


def trained(config: PretrainConfig, tokens: Path, tokenizer: Path, out: Path) -> float:
    """Train in a process of its own, into an `out` without anything from before; its seconds from start to exit."""
    shutil.rmtree(out, ignore_errors=True)
    start = time.perf_counter()
    subprocess.run(command(config, tokens, tokenizer, out), env=training_environment(), check=True, capture_output=True)
    return time.perf_counter() - start


def settings(horizon: Horizon, seed: int) -> dict:
    model = {"layers": horizon.layers, "width": horizon.width, "heads": horizon.width // 64, "context": horizon.context}
    return {
        "preset": "nano-fast", "model": model, "batch": horizon.batch, "steps": horizon.steps, "seed": seed,
        "progressive": {"layers": 1, "until": horizon.until},
        "evaluate_every": horizon.steps, "evaluate_tokens": horizon.batch * horizon.context,
        "checkpoint_every": horizon.steps, "optimizer": horizon.optimizer, "sample_tokens": 0,
    }  # fmt: skip


def peer(
    checkout: Path, horizon: Horizon, seed: int, half: bool, data: Path, tokens: Path, out: Path
) -> tuple[float, float]:
    """nanoGPT's seconds from start to exit, and its validation loss on our windows."""
    start = time.perf_counter()
    run_peer(checkout, horizon, seed, half, data, out, horizon.peer_steps)
    seconds = time.perf_counter() - start
    model = peer_model(out)
    return seconds, validation_loss(lambda ids, targets, rows: model(ids, targets.contiguous())[1], tokens, horizon)


def run_peer(checkout: Path, horizon: Horizon, seed: int, half: bool, data: Path, out: Path, steps: int) -> str:
    """Train nanoGPT on the CPU; what it prints."""
    changes = {"torch.manual_seed(1337": f"torch.manual_seed({1337 + seed}"}
    if half:
        changes["ctx = nullcontext() if device_type == 'cpu' else"] = "ctx ="
    options = {
        "device": "cpu", "compile": False, "eval_interval": steps, "block_size": horizon.context,
        "batch_size": horizon.batch, "gradient_accumulation_steps": 1, "n_layer": horizon.layers,
        "n_head": horizon.width // 64, "n_embd": horizon.width, "max_iters": steps, "lr_decay_iters": steps,
        "learning_rate": 1e-3, "min_lr": 1e-4, "beta2": 0.99, "warmup_iters": steps // 20,
    }  # fmt: skip
    return nanogpt.train(checkout, data, out, options, changes, training_environment() if half else None)


def peer_model(folder: Path) -> nn.Module:
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
    """Nats a token on fixed windows, in fp32. `loss` is called with ids, targets and None, for all rows."""
    validation = TokenArrays(tokens, "validation")
    objective = CausalLM(validation, validation, horizon.context, 0, EVALUATION_TOKENS)
    return objective.evaluate(loss, Ranks(), torch.device("cpu"), 16)["validation_loss"]
