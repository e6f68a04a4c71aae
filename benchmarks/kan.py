"""Training with learned functions in place of the MLP: ours against efficient-kan and FastKAN.

One GPT, its feed-forwards exchanged: our splines against efficient-kan's (`--efficient-kan PATH`), our Gaussians
against FastKAN's (`--fast-kan PATH`), and beside them our rational functions and the MLP; all with about as many
parameters. A step is forward, backward and AdamW on the same windows of the campus corpus. The contestants take a step
each in turn, in one process; medians of the steps are compared, by the clock and by the CPU, so that what else the
machine does comes to all of them. Then each trains a smaller GPT on the same windows with three seeds, for the losses.
"""

from __future__ import annotations

import argparse
import importlib
import json
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn

from benchmarks.support import corpora, training_data
from benchmarks.support.peers import EFFICIENT_KAN_FILE, FAST_KAN_FILE, add_checkout
from benchmarks.support.report import Row, compare
from modeling.config.network import TransformerConfig
from modeling.config.optimization import OptimizerConfig, ScheduleConfig
from modeling.device import Compute, choose, training_environment
from modeling.networks.transformer import GPT
from modeling.training.distributed import Ranks
from modeling.training.objectives import Batch, CausalLM
from modeling.training.optim import lr_scale, optimizers, set_learning_rates
from modeling.training.windows import TrainWindows
from tokenization.arrays import TokenArrays

KINDS = ("kan-spline", "kan-rbf", "kan-rational", "mlp")
SPEED = {"layers": 4, "width": 256, "heads": 4, "context": 256, "activation": "silu"}
LEARNING = {"layers": 2, "width": 128, "heads": 2, "context": 64, "activation": "silu"}
ADAMW = OptimizerConfig(name="adamw", lr=2e-3, beta1=0.9, beta2=0.95, weight_decay=0.01)
BATCH, SPEED_STEPS, STEPS = 8, 12, 150
VOCABULARY, EVALUATION_TOKENS = 2048, 16_384
PEERS = {"kan-spline": "efficient-kan", "kan-rbf": "FastKAN"}


@dataclass(frozen=True)
class Peer:
    """Another library's feed-forward.

    Attributes:
        name: of the library.
        kind: ours that it is compared with.
        per_edge: its parameters for each edge.
        make: the feed-forward, given the width and its units.
    """

    name: str
    kind: str
    per_edge: int
    make: Callable[[int, int], nn.Module]


def options(parser: argparse.ArgumentParser) -> None:
    """Declare the options of this benchmark."""
    add_checkout(parser, "efficient-kan", EFFICIENT_KAN_FILE)
    add_checkout(parser, "fast-kan", FAST_KAN_FILE)


class Measured(NamedTuple):
    """What a contestant came to.

    Attributes:
        rate: tokens a second.
        cpu_rate: tokens a second of the CPU.
        parameters: of its model.
        losses: of its smaller model on the validation windows, one a seed, in nats.
    """

    rate: float
    cpu_rate: float
    parameters: int
    losses: list[float]


def run(quick: bool, efficient_kan: Path | None = None, fast_kan: Path | None = None) -> list[Row]:
    """Tokens a second, parameters and losses of each of our kinds beside those of the peers."""
    checkouts = {name: str(path.absolute()) for name, path in
                 (("efficient-kan", efficient_kan), ("FastKAN", fast_kan)) if path}  # fmt: skip
    with tempfile.TemporaryDirectory() as temporary:
        data = training_data.build(Path(temporary) / "data", corpora.campus(300 if quick else 3000), VOCABULARY)
        asked = json.dumps({"tokens": str(data.tokens), "checkouts": checkouts, "quick": quick})
        code = "import sys; from benchmarks.kan import measure; measure(sys.argv[1])"
        finished = subprocess.run(
            [sys.executable, "-c", code, asked], env=training_environment(), check=True, stdout=subprocess.PIPE
        )
    measured = {name: Measured(*values) for name, values in json.loads(finished.stdout.splitlines()[-1]).items()}
    rows = []
    for kind in KINDS:
        for peer in dict.fromkeys((PEERS.get(kind, "efficient-kan"), "efficient-kan")):
            rows += compared(kind, measured[kind], peer, measured.get(peer))
    return rows


def compared(kind: str, ours: Measured, name: str, theirs: Measured | None) -> list[Row]:
    """Rows of one of our kinds beside a peer. The losses' goal says how far apart the seeds of either are."""
    goal = ">= 1.6" if PEERS.get(kind) == name == "efficient-kan" else ""
    means = [each and statistics.mean(each.losses) for each in (ours, theirs)]
    spread = max(max(each.losses) - min(each.losses) for each in (ours, theirs) if each)
    return [
        compare(f"{kind}: training", "tok/s", ours.rate, theirs and theirs.rate, name, goal=goal),
        compare(f"{kind}: training", "tok/CPU s", ours.cpu_rate, theirs and theirs.cpu_rate, name, goal=goal),
        compare(f"{kind}: parameters", "", ours.parameters, theirs and theirs.parameters, name, lower_is_better=True),
        compare(f"{kind}: loss", "nats", *means, name, goal=f"same; seeds {spread:.3f} apart", lower_is_better=True),
    ]


# -- models ------------------------------------------------------------------------------------------------------------


def build(name: str, peers: list[Peer], shape: dict[str, Any], vocab_size: int) -> GPT:
    """A new GPT whose feed-forwards are of our kind `name`, or of the peer of that name with about as many parameters
    as those of our kind have."""
    peer = next((peer for peer in peers if peer.name == name), None)
    config = TransformerConfig.model_validate({**shape, "feed_forward": peer.kind if peer else name})
    model = GPT(config, vocab_size)
    if peer:
        ours = 2 * config.width * config.hidden_units * config.feed_forward.features
        units = round(ours / (2 * config.width * peer.per_edge))
        for block in model.blocks:
            block.feed_forward = peer.make(config.width, units)
    return model


def efficient_kan(checkout: Path) -> Peer:
    """efficient-kan's layers, on our grid: a scale for each edge beside its coefficients and the base weight."""
    KAN = imported(checkout / "src", "efficient_kan").KAN
    return Peer("efficient-kan", "kan-spline", 10, lambda width, units: KAN([width, units, width], grid_range=[-2, 2]))


def fast_kan(checkout: Path) -> Peer:
    """FastKAN's layers, which have our grid."""
    FastKAN = imported(checkout, "fastkan").FastKAN
    return Peer("FastKAN", "kan-rbf", 9, lambda width, units: FastKAN([width, units, width]))


LOAD = {"efficient-kan": efficient_kan, "FastKAN": fast_kan}


def imported(folder: Path, name: str) -> Any:
    """A package of a checkout."""
    sys.path.insert(0, str(folder))
    try:
        return importlib.import_module(name)
    finally:
        sys.path.remove(str(folder))


# -- speed and loss ----------------------------------------------------------------------------------------------------


@dataclass
class Contestant:
    """A model and its optimizer."""

    model: GPT
    optimizer: torch.optim.Optimizer
    compute: Compute

    @classmethod
    def new(cls, name: str, peers: list[Peer], shape: dict[str, Any], vocab_size: int) -> Contestant:
        compute = choose()
        model = build(name, peers, shape, vocab_size).to(compute.device)
        if name in KINDS:
            [optimizer] = optimizers(model, ADAMW, compute.dtype)
        else:
            trained = [
                parameter for parameter in model.parameters() if parameter.requires_grad
            ]  # FastKAN's grid is not
            optimizer = torch.optim.AdamW(
                [{"params": trained, "base_lr": ADAMW.lr}],
                lr=ADAMW.lr, betas=(ADAMW.beta1, ADAMW.beta2), weight_decay=ADAMW.weight_decay, fused=True,
            )  # fmt: skip
        return cls(model, optimizer, compute)

    def step(self, data: Batch) -> Tensor:
        """Forward, backward and optimizer; the loss."""
        with self.compute.autocast():
            loss = self.model(**data.to(self.compute.device)._asdict())
        loss.backward()
        self.optimizer.step()
        self.optimizer.zero_grad(set_to_none=True)
        return loss.detach()


def measure(asked: str) -> None:
    """Print a JSON object of the contestants' measures by name: what the process does that `run` starts."""
    wanted = json.loads(asked)
    quick, tokens = wanted["quick"], Path(wanted["tokens"])
    peers = [LOAD[name](Path(checkout)) for name, checkout in wanted["checkouts"].items()]
    arrays = TokenArrays(tokens, "train"), TokenArrays(tokens, "validation")
    measured = {
        name: speed._replace(
            losses=[
                trained_loss(name, peers, arrays, seed, 10 if quick else STEPS) for seed in range(1 if quick else 3)
            ]
        )
        for name, speed in speeds(peers, arrays, steps=2 if quick else SPEED_STEPS).items()
    }
    print(json.dumps(measured))


def speeds(peers: list[Peer], arrays: tuple[TokenArrays, TokenArrays], steps: int) -> dict[str, Measured]:
    """Tokens a second, medians of steps that all take in turn, and parameters, by name."""
    windows, vocab_size = objective(arrays, SPEED["context"]), arrays[0].vocab_size
    names = (*KINDS, *(peer.name for peer in peers))
    contestants = {name: Contestant.new(name, peers, SPEED, vocab_size) for name in names}
    taken: dict[str, list[tuple[float, float]]] = {name: [] for name in names}
    for number in range(steps + 2):
        data = windows.train_batch(number, BATCH, range(BATCH))
        for name, contestant in contestants.items():
            started, cpu_started = time.perf_counter(), time.process_time()
            contestant.step(data).item()
            taken[name].append((time.perf_counter() - started, time.process_time() - cpu_started))
    measured = {}
    for name, contestant in contestants.items():
        seconds, cpu_seconds = (statistics.median(column) for column in zip(*taken[name][2:], strict=True))  # warm
        size, tokens = sum(p.numel() for p in contestant.model.parameters()), BATCH * SPEED["context"]
        measured[name] = Measured(tokens / seconds, tokens / cpu_seconds, size, [])
        print(f"{name}: {tokens / seconds:.0f} tok/s, {tokens / cpu_seconds:.0f} tok/CPU s", file=sys.stderr)
    return measured


def trained_loss(name: str, peers: list[Peer], arrays: tuple[TokenArrays, TokenArrays], seed: int, steps: int) -> float:
    """Validation loss in nats of a new model after `steps` steps; the windows are the same for all."""
    torch.manual_seed(seed)
    windows = objective(arrays, LEARNING["context"], seed)
    contestant = Contestant.new(name, peers, LEARNING, arrays[0].vocab_size)
    schedule = ScheduleConfig(warmup=steps // 20)
    for number in range(steps):
        set_learning_rates([contestant.optimizer], lr_scale(schedule, number, steps))
        contestant.step(windows.train_batch(number, BATCH, range(BATCH)))
    model, compute = contestant.model.eval(), contestant.compute
    with torch.no_grad(), compute.autocast():
        loss = windows.evaluate(model, Ranks(), compute.device, BATCH)["validation_loss"]
    print(f"{name}, seed {seed}: {loss:.4f}", file=sys.stderr)
    return loss


def objective(arrays: tuple[TokenArrays, TokenArrays], context: int, seed: int = 0) -> CausalLM:
    """Windows of the corpus."""
    train, validation = arrays
    return CausalLM(TrainWindows(train, context, 1, seed), validation, context, EVALUATION_TOKENS)
