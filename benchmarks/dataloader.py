"""Making batches: our windows against nanoGPT's `get_batch`, and the share of a training step they take.

nanoGPT's way is written out here: a memory map opened anew for each batch, and a slice, a copy and a conversion for
each window.
"""

from __future__ import annotations

import tempfile
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path
from statistics import median

import numpy as np
import torch

from benchmarks.support import corpora, training_data
from benchmarks.support.report import Row, compare
from modeling.config.pretrain import PretrainConfig
from modeling.device import choose
from modeling.networks.transformer import GPT
from modeling.training.objectives import CausalLM
from modeling.training.optim import optimizers
from modeling.training.windows import TrainWindows
from tokenization.arrays import TokenArrays

SHAPES = ((16, 256), (12, 1024), (64, 256))


def run(quick: bool) -> list[Row]:
    """Million tokens a second for three shapes of batch, and the wait of a step."""
    with tempfile.TemporaryDirectory() as temporary:
        data = training_data.build(Path(temporary) / "data", corpora.campus(300 if quick else None))
        train = TokenArrays(data.tokens, "train")
        rows = []
        for batch, context in SHAPES:
            objective = CausalLM(TrainWindows(train, context, 1, 0), train, context, context)
            make = partial(objective.train_batch, batch=batch, batch_rows=range(batch))
            peers = partial(get_batch, path=data.nanogpt / "train.bin", batch=batch, context=context)
            pairs = [(rate(make, batch * context), rate(peers, batch * context)) for _ in range(5)]
            ours, theirs = (median(column) for column in zip(*pairs, strict=True))
            rows.append(compare(f"batches of {batch} x {context}", "Mtok/s", ours, theirs, "nanoGPT", goal=">= 20"))
        rows.append(waiting(train, quick))
    return rows


def rate(make: Callable[[int], object], tokens: int, seconds: float = 0.2) -> float:
    """Million tokens a second of `make`, which makes the batch of a step."""
    make(0)
    start, step = time.perf_counter(), 0
    while time.perf_counter() - start < seconds:
        step += 1
        make(step)
    return step * tokens / (time.perf_counter() - start) / 1e6


def get_batch(step: int, path: Path, batch: int, context: int) -> tuple[torch.Tensor, torch.Tensor]:
    """nanoGPT's way to a batch (train.py)."""
    data = np.memmap(path, dtype=np.uint16, mode="r")
    starts = torch.randint(len(data) - context, (batch,))
    inputs = torch.stack([torch.from_numpy(data[i : i + context].astype(np.int64)) for i in starts])
    targets = torch.stack([torch.from_numpy(data[i + 1 : i + 1 + context].astype(np.int64)) for i in starts])
    return inputs, targets


def waiting(train: TokenArrays, quick: bool) -> Row:
    """Share of a step of the default preset that goes into its batch."""
    config, compute = PretrainConfig(), choose()
    model = GPT(config.model, train.vocab_size).to(compute.device)
    chosen = optimizers(model, config.optimizer, compute.dtype)
    objective = CausalLM(
        TrainWindows(train, config.model.context, 1, 0), train, config.model.context, config.model.context
    )
    waits, steps = [], []
    for step in range(4 if quick else 12):
        start = time.perf_counter()
        batch = objective.train_batch(step, config.batch, range(config.batch)).to(compute.device)
        waits.append(time.perf_counter() - start)
        with compute.autocast():
            loss = model(**batch._asdict())
        loss.backward()
        for optimizer in chosen:
            optimizer.step()
            optimizer.zero_grad()
        loss.item()
        steps.append(time.perf_counter() - start)
    return Row("data wait, share of a step", "%", 100 * median(waits) / median(steps), goal="< 1")
