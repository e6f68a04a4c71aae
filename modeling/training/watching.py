"""Watching a run: rates and pauses, curve, samples on the way, `timing.jsonl`, trackers, the progress callback.

Nothing here changes what is trained. Files of the result hold no clock: `timing.jsonl` and the events of TensorBoard
and Weights & Biases are records beside it.
"""

from __future__ import annotations

import json
import os
import time
from collections import defaultdict
from collections.abc import Iterator
from contextlib import contextmanager
from secrets import token_hex
from typing import Any, Protocol

from modeling.checkpoint import METRICS
from modeling.cost import flops_per_token
from modeling.device import Compute
from modeling.training.distributed import Ranks
from modeling.training.state import TrainingRun, TrainingState
from textmill.errors import UserError, first_line
from textmill.files import atomic_path
from textmill.progress import Progress

__all__ = ["SAMPLES", "TENSORBOARD", "TIMING", "WANDB", "Watcher"]

TIMING = "timing.jsonl"
SAMPLES = "samples.jsonl"
TENSORBOARD, WANDB = "tensorboard", "wandb"  # folders of the trackers


class Watcher:
    """Reports of a run, from rank 0; a context in which its clock runs and its trackers' files are open."""

    def __init__(self, run: TrainingRun, state: TrainingState, compute: Compute, ranks: Ranks, progress: Progress):
        self.run, self.state, self.progress = run, state, progress
        self.is_first = ranks.first
        self.clock = Clock(compute, ranks.world)
        self.trackers: list[Tracker] = []

    def __enter__(self) -> Watcher:
        config = self.run.config
        kinds: list[tuple[type[Tracker], bool]] = [(TensorBoard, config.tensorboard), (WeightsAndBiases, config.wandb)]
        self.trackers = [kind(self.run) for kind, is_wanted in kinds if is_wanted and self.is_first]
        self.clock.restart()
        return self

    def __exit__(self, *_: object) -> None:
        for tracker in self.trackers:
            tracker.close()

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
        for tracker in self.trackers:
            tracker.write(step, metrics)

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


class Tracker(Protocol):
    """Where reported metrics are also written, to be looked at with a program of others."""

    def __init__(self, run: TrainingRun) -> None:
        """
        Raises:
            UserError: the library is not installed.
        """

    def write(self, step: int, metrics: dict[str, float]) -> None: ...

    def close(self) -> None: ...


class TensorBoard:
    """A `Tracker`: event files under `tensorboard/`."""

    def __init__(self, run: TrainingRun) -> None:
        try:
            from torch.utils.tensorboard import SummaryWriter
        except ImportError as error:
            raise UserError("tensorboard is not installed; pip install textmill[tensorboard]") from error
        self.writer = SummaryWriter(str(run.out / TENSORBOARD))

    def write(self, step: int, metrics: dict[str, float]) -> None:
        for name, value in metrics.items():
            self.writer.add_scalar(name, value, step)

    def close(self) -> None:
        self.writer.close()


class WeightsAndBiases:
    """A `Tracker`: an offline run under `wandb/`, which `wandb sync` uploads; with `WANDB_MODE=online` one at the
    server that `WANDB_BASE_URL` and `WANDB_API_KEY` name. A run that is continued has the same id there."""

    def __init__(self, run: TrainingRun) -> None:
        try:
            import wandb
        except ImportError as error:
            raise UserError("wandb is not installed; pip install textmill[wandb]") from error
        self.folder = run.out / WANDB
        self.folder.mkdir(exist_ok=True)
        id_file = self.folder / "run-id"
        if not id_file.is_file():
            id_file.write_text(token_hex(8))
        # nothing of the machine, its packages or the code goes along, only what we report
        silent = wandb.Settings(
            silent=True, console="off", disable_git=True, disable_code=True, x_disable_meta=True, x_disable_stats=True,
            x_save_requirements=False,
        )  # fmt: skip
        try:
            self.logged = wandb.init(
                mode=None if os.environ.get("WANDB_MODE") else "offline",
                project=os.environ.get("WANDB_PROJECT", "textmill"),
                dir=run.out, id=id_file.read_text(), resume="allow", settings=silent,
                config=json.loads(run.checkpoint_config.to_json()),
            )  # fmt: skip
        except Exception as error:  # the errors of a library that a network may fail
            hint = "leave WANDB_MODE out to log offline"
            raise UserError(f"wandb cannot start a run ({first_line(error)}); {hint}") from error

    def write(self, step: int, metrics: dict[str, float]) -> None:
        self.logged.log(metrics, step=step)

    def close(self) -> None:
        self.logged.finish()
        for link in [path for path in self.folder.rglob("*") if path.is_symlink()]:  # an artifact holds files
            link.unlink()
