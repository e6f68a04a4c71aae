"""Watching a run: rates and pauses, curve, samples on the way, `timing.jsonl`, TensorBoard, the progress callback.

Nothing here changes what is trained. Files of the result hold no clock: `timing.jsonl` and the events of TensorBoard
are records beside it.
"""

from __future__ import annotations

import json
import time
from collections import defaultdict
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from modeling.checkpoint import METRICS
from modeling.cost import flops_per_token
from modeling.device import Compute
from modeling.training.distributed import Ranks
from modeling.training.state import TrainingRun, TrainingState
from textmill.errors import UserError
from textmill.files import atomic_path
from textmill.progress import Progress

__all__ = ["SAMPLES", "TENSORBOARD", "TIMING", "Watcher"]

TIMING = "timing.jsonl"
SAMPLES = "samples.jsonl"
TENSORBOARD = "tensorboard"


class Watcher:
    """Reports of a run, from rank 0; a context in which its clock runs and its TensorBoard file is open."""

    def __init__(self, run: TrainingRun, state: TrainingState, compute: Compute, ranks: Ranks, progress: Progress):
        self.run, self.state, self.progress = run, state, progress
        self.is_first = ranks.first
        self.clock = Clock(compute, ranks.world)
        self.tensorboard: TensorBoard | None = None

    def __enter__(self) -> Watcher:
        if self.run.config.tensorboard and self.is_first:
            self.tensorboard = TensorBoard(self.run.out)
        self.clock.restart()
        return self

    def __exit__(self, *_: object) -> None:
        if self.tensorboard is not None:
            self.tensorboard.close()

    def count_step(self) -> None:
        """A step has been taken, with the layers that the model uses now."""
        config, length = self.run.checkpoint_config, self.run.objective.length
        per_token = flops_per_token(config.model, config.vocab_size, length, self.state.model.active_layers)
        self.clock.count(self.run.tokens_per_step, self.run.tokens_per_step * per_token)

    def report(self, metrics: dict[str, Any]) -> None:
        """Tell the metrics of the current step, with the rates since the last report, wherever somebody may look."""
        if not self.is_first:
            return
        step, out = self.state.step, self.run.out
        with atomic_path(out / METRICS, durable=False) as unfinished:
            unfinished.write_text(self.state.metrics_jsonl())
        metrics = metrics | self.clock.rates()
        with (out / TIMING).open("a") as file:
            file.write(json.dumps({"step": step, "time": time.time()} | metrics) + "\n")
        self.progress(step, self.run.config.steps, unit="steps", **metrics)
        if self.tensorboard is not None:
            self.tensorboard.write(step, metrics)

    def keep_sample(self) -> None:
        """Keep what the model writes at the first evaluation, the second, the fourth, and so on, so that a reader sees
        it learn: as many texts as the run's length has binary digits.

        A copy of the weights writes on the CPU, in fp32: nothing that trains is compiled or seeded anew. Weights that
        are shared out over several devices write nothing.
        """
        run, state = self.run, self.state
        evaluation = state.step // run.config.evaluate_every
        is_due = state.step % run.config.evaluate_every == 0 and evaluation.bit_count() == 1
        if run.sample is None or not self.is_first or not is_due or state.step == run.config.steps:
            return
        model = run.checkpoint_config.build_model()
        weights = state.model.state_dict() | (state.average or {})
        model.load_state_dict({name: value.cpu() for name, value in weights.items()})
        model.active_layers = state.model.active_layers
        file = run.out / SAMPLES
        kept = [json.loads(line) for line in file.read_text().splitlines()] if file.exists() else []
        samples = {line["step"]: line["sample"] for line in kept} | {state.step: run.sample(model.eval())}
        lines = [json.dumps({"step": step, "sample": text}) + "\n" for step, text in sorted(samples.items())]
        with atomic_path(file, durable=False) as unfinished:
            unfinished.write_text("".join(lines))


class Clock:
    """Rates of the steps since the rates were last taken; evaluations and checkpoints are timed apart."""

    def __init__(self, compute: Compute, world: int):
        self.compute, self.world = compute, world
        self.restart()

    def restart(self) -> None:
        self.tokens, self.flops, self.since = 0, 0, time.perf_counter()
        self.pauses: defaultdict[str, float] = defaultdict(float)

    def count(self, tokens: int, flops: int) -> None:
        """These tokens have been trained on, over all ranks."""
        self.tokens += tokens
        self.flops += flops

    @contextmanager
    def paused(self, reason: str) -> Iterator[None]:
        """The time of this block belongs to `reason` and not to the steps."""
        start = time.perf_counter()
        try:
            yield
        finally:
            self.pauses[reason] += time.perf_counter() - start

    def rates(self) -> dict[str, float]:
        """Seconds of the pauses, tokens a second, share of the devices' peak (MFU), and most GiB taken; then restart.

        What is not known (the peak of a CPU) or did not happen (no step, no pause) is left out.
        """
        seconds = time.perf_counter() - self.since - sum(self.pauses.values())
        rates = {f"{reason}_seconds": spent for reason, spent in self.pauses.items()}
        if self.tokens and seconds > 0:
            rates["tokens_per_second"] = self.tokens / seconds
            if peak := self.compute.peak_flops:
                rates["mfu"] = self.flops / seconds / (peak * self.world)
            if memory := self.compute.peak_memory:
                rates["gpu_gib"] = memory
        self.restart()
        return rates


class TensorBoard:
    """Event files of the reported metrics under `tensorboard/`."""

    def __init__(self, out: Path):
        try:
            from torch.utils.tensorboard import SummaryWriter
        except ImportError as error:
            raise UserError("tensorboard is not installed; pip install textmill[tensorboard]") from error
        self.writer = SummaryWriter(str(out / TENSORBOARD))

    def write(self, step: int, metrics: dict[str, float]) -> None:
        for name, value in metrics.items():
            self.writer.add_scalar(name, value, step)

    def close(self) -> None:
        self.writer.close()
