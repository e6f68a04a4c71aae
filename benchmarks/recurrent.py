"""Training recurrent networks beside a GPT with as many weights: speed, loss, and loss by position in the window.

Every cell and the GPT have blocks of about as many weights (the recurrent states are as large as that takes) and one
optimizer. They take a step each in turn, in one process; medians of the steps are compared, by the clock and by the
CPU, so that what else the machine does comes to all of them. The recurrent networks carry their state from window to
window. Then each is judged on the same validation windows, with the state that the text before them gives and without
one: the loss of the first tokens of a window, and of those after them.
"""

from __future__ import annotations

import json
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import Tensor

from benchmarks.support import corpora, training_data
from benchmarks.support.report import Row, compare
from modeling.config.network import MODEL_CONFIG, ModelConfig, RecurrentConfig
from modeling.config.optimization import OptimizerConfig, ScheduleConfig
from modeling.cost import recurrent_like
from modeling.device import Compute, choose, training_environment
from modeling.networks.language_model import LanguageModel
from modeling.networks.recurrent import CELLS, RecurrentModel
from modeling.networks.transformer import GPT
from modeling.training.optim import lr_scale, optimizers, set_learning_rates
from modeling.training.windows import StreamWindows, validation_starts
from tokenization.arrays import TokenArrays

SHAPE: dict[str, Any] = {"layers": 4, "width": 256, "context": 256}
HEADS = 4
BATCH, VOCABULARY, EVALUATION_TOKENS = 8, 2048, 32_768
POSITIONS = ((0, 8), (8, 32), (32, 128), (128, 256))  # of a window, whose losses are told apart


class Measured(NamedTuple):
    """What a network came to.

    Attributes:
        rate: tokens a second.
        cpu_rate: tokens a second of the CPU.
        block_parameters: weights in the matrices of its blocks.
        alone: its loss at `POSITIONS` of a window of which nothing before is known, in nats.
        carried: the same after the text before the window; empty for the GPT, which reads windows apart.
    """

    rate: float
    cpu_rate: float
    block_parameters: int
    alone: list[float]
    carried: list[float]


def run(quick: bool) -> list[Row]:
    """Tokens a second, weights and losses of each cell beside those of the GPT."""
    with tempfile.TemporaryDirectory() as temporary:
        data = training_data.build(Path(temporary) / "data", corpora.campus(300 if quick else 3000), VOCABULARY)
        asked = json.dumps({"tokens": str(data.tokens), "steps": 3 if quick else 150})
        code = "import sys; from benchmarks.recurrent import measure; measure(sys.argv[1])"
        finished = subprocess.run(
            [sys.executable, "-c", code, asked], env=training_environment(), check=True, stdout=subprocess.PIPE
        )
    measured = {name: Measured(*values) for name, values in json.loads(finished.stdout.splitlines()[-1]).items()}
    gpt = measured["gpt"]
    return [row for cell in CELLS for row in compared(cell, measured[cell], gpt)]


def compared(cell: str, ours: Measured, gpt: Measured) -> list[Row]:
    """Rows of one cell beside the GPT, and of its state beside none."""
    shares = [(end - start) / SHAPE["context"] for start, end in POSITIONS]
    means = [sum(map(float.__mul__, shares, losses)) for losses in (ours.carried, gpt.alone)]
    rows = [
        compare(f"{cell}: training", "tok/s", ours.rate, gpt.rate, "GPT"),
        compare(f"{cell}: training", "tok/CPU s", ours.cpu_rate, gpt.cpu_rate, "GPT"),
        compare(f"{cell}: weights in blocks", "", ours.block_parameters, gpt.block_parameters, "GPT"),
        compare(f"{cell}: loss", "nats", *means, "GPT", lower_is_better=True),
    ]
    for (start, end), carried, alone, theirs in zip(POSITIONS, ours.carried, ours.alone, gpt.alone, strict=True):
        name = f"{cell}: loss of tokens {start + 1} to {end}"
        rows.append(compare(name, "nats", carried, alone, "without state", lower_is_better=True))
        rows.append(compare(name, "nats", carried, theirs, "GPT", lower_is_better=True))
    return rows


# -- what the process does that `run` starts ---------------------------------------------------------------------------


def measure(asked: str) -> None:
    """Print a JSON object of the networks' measures by name."""
    wanted = json.loads(asked)
    train, validation = (TokenArrays(Path(wanted["tokens"]), split) for split in ("train", "validation"))
    windows = StreamWindows(BATCH, train, SHAPE["context"], 1, seed=0)
    contestants = {name: Contestant(config, train.vocab_size) for name, config in configs().items()}
    taken: dict[str, list[tuple[float, float]]] = {name: [] for name in contestants}
    for step in range(wanted["steps"]):
        ids = torch.from_numpy(windows.read(step * BATCH, range(BATCH)))
        for name, contestant in contestants.items():
            started, cpu_started = time.perf_counter(), time.process_time()
            contestant.step(ids, lr_scale(ScheduleConfig(), step, wanted["steps"]), windows.begins(step, range(BATCH)))
            taken[name].append((time.perf_counter() - started, time.process_time() - cpu_started))
    measured = {}
    for name, contestant in contestants.items():
        seconds, cpu_seconds = (statistics.median(column) for column in zip(*taken[name][1:], strict=True))  # warm
        tokens = BATCH * SHAPE["context"]
        measured[name] = Measured(
            tokens / seconds, tokens / cpu_seconds, contestant.model.block_parameters(),
            *contestant.losses(validation),
        )  # fmt: skip
    print(json.dumps(measured))


def configs() -> dict[str, ModelConfig]:
    """The GPT, and each cell with states of the size at which its blocks have about as many weights."""
    gpt = MODEL_CONFIG.validate_python(SHAPE | {"heads": HEADS})
    return {"gpt": gpt, **{cell: recurrent_like(gpt, cell) for cell in CELLS}}


class Contestant:
    """A network in training."""

    def __init__(self, config: ModelConfig, vocab_size: int):
        torch.manual_seed(0)
        self.compute: Compute = choose()
        model: LanguageModel = (
            RecurrentModel(config, vocab_size) if isinstance(config, RecurrentConfig) else GPT(config, vocab_size)
        )
        self.model = model.to(self.compute.device)
        self.optimizers = optimizers(self.model, OptimizerConfig(), self.compute.dtype)
        self.state = self.model.initial_state(BATCH) if isinstance(model, RecurrentModel) else None

    def step(self, windows: Tensor, scale: float, begins: np.ndarray) -> None:
        """Forward, backward and optimizers on windows [B, T + 1], which follow those of the step before or begin."""
        if self.state is not None:
            self.state.forget(torch.from_numpy(begins))
        set_learning_rates(self.optimizers, scale)
        windows = windows.to(self.compute.device)
        with self.compute.autocast():
            loss = self.model(windows[:, :-1], windows[:, 1:], state=self.state)
        loss.backward()
        for optimizer in self.optimizers:
            optimizer.step()
            optimizer.zero_grad(set_to_none=True)
        loss.item()  # a GPU has done its work then

    @torch.no_grad()
    def losses(self, validation: TokenArrays) -> tuple[list[float], list[float]]:
        """Losses at `POSITIONS`, without a state and with that of the text before."""
        context = SHAPE["context"]
        starts = validation_starts(validation, context, 1, EVALUATION_TOKENS)
        starts = starts[starts >= context]
        alone, carried = [], []
        for first in range(0, len(starts), BATCH):
            chosen = starts[first : first + BATCH]
            before, windows = (
                torch.from_numpy(validation.windows(begin, length)).to(self.compute.device)
                for begin, length in ((chosen - context, context), (chosen, context + 1))
            )
            with self.compute.autocast():
                alone.append(self.model.token_losses(windows[:, :-1], windows[:, 1:])[0])
                if isinstance(self.model, RecurrentModel):
                    state = self.model.initial_state(len(chosen))
                    self.model.hidden(before, state)
                    carried.append(self.model.token_losses(windows[:, :-1], windows[:, 1:], state=state)[0])
        return by_position(alone), by_position(carried)


def by_position(losses: list[Tensor]) -> list[float]:
    """Means of losses [B, T] at `POSITIONS`."""
    if not losses:
        return []
    nll = torch.cat(losses)
    return [nll[:, start:end].double().mean().item() for start, end in POSITIONS]
