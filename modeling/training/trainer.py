"""The training loop, the same for every objective.

Each turn: save if it is time, evaluate if it is time, take one step. Saving comes before evaluating, so that a failure
of the second loses nothing. Everything random follows from (seed, step): a run continued from a checkpoint repeats what
it would have done, to the bit on a CPU.
"""

from __future__ import annotations

import json
import logging
import math
import shutil
import time
from collections.abc import Callable
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from modeling import checkpoint
from modeling.checkpoint import Checkpoints, Description
from modeling.config import RunConfig
from modeling.cost import flops_per_token
from modeling.device import Compute
from modeling.networks.transformer import GPT
from modeling.training.distributed import Ranks
from modeling.training.interruption import Interruption
from modeling.training.objectives import Objective
from modeling.training.optim import multiplier, optimizers, set_learning_rate
from modeling.training.parallel import (
    is_sharded,
    make_room,
    optimizer_state,
    parallelized,
    set_weights,
    synchronize_gradients,
)
from textmill.errors import UserError

log = logging.getLogger(__name__)

CURVE_POINTS = 1000  # most rows of the loss curve in metrics.jsonl
CHECKPOINTS = "checkpoints"
TIMING = "timing.jsonl"
STATS = "stats.json"
STEP, OPTIMIZER, TRAINED = "step", "optimizer/", "trained/"  # names in the training state


def is_finished(out: Path) -> bool:
    """Whether an earlier call came to its end in this folder; what it had no time to clear away goes now."""
    finished = (out / STATS).is_file()
    if finished:
        shutil.rmtree(out / CHECKPOINTS, ignore_errors=True)
    return finished


class StepAbandoned(Exception):
    """The run is to stop, and the step that was on its way is left off between two passes: a step may take minutes."""


class Trainer:
    """One run: a model, an objective, and the folder its checkpoints go to."""

    def __init__(
        self, model: GPT, objective: Objective, description: Description, config: RunConfig, out: Path,
        compute: Compute, ranks: Ranks, progress: Callable[..., None], shallow: tuple[int, int] = (0, 0),
    ):  # fmt: skip
        """`shallow`: how many steps train how many layers only, before all of them."""
        if config.batch % ranks.world:
            raise UserError(f"batch {config.batch} does not divide over {ranks.world} ranks; make it a multiple")
        self.objective, self.description, self.config, self.out = objective, description, config, out
        self.compute, self.ranks, self.progress = compute, ranks, progress
        self.model = model.to(compute.device)
        if config.compile if config.compile is not None else compute.device.type == "cuda":
            self.model.compile()
        self.shallow_steps, self.shallow_layers = shallow
        self.module: nn.Module = parallelized(self.model, ranks, compute, config.parallel, grows=self.shallow_steps > 0)
        self.optimizers = optimizers(self.model, config.optimizer, compute.dtype)
        self.average = {n: p.detach().clone() for n, p in self.model.named_parameters()} if config.ema else None
        self.checkpoints = Checkpoints(out / CHECKPOINTS, config.keep_checkpoints)
        self.interruption = Interruption()
        self.rows: list[dict[str, Any]] = []
        self.step = 0
        self.rank_rows = ranks.share(config.batch)
        self.micro = min(config.micro_batch or len(self.rank_rows), len(self.rank_rows))

    # -- the loop ------------------------------------------------------------------------------------------------

    def run(self) -> None:
        """Train from the newest intact checkpoint, or from the start, to the last step."""
        self.restore()
        saved, saved_at, clock, losses = self.step, time.monotonic(), Clock(self), []
        with ExitStack() as stack:
            stack.enter_context(self.interruption)
            watcher = (
                stack.enter_context(TensorBoard(self.out)) if self.config.tensorboard and self.ranks.first else None
            )
            while True:
                last = self.step == self.config.steps
                evaluate = last or (self.step and self.step % self.config.evaluate_every == 0)
                overdue = time.monotonic() - saved_at > 60 * self.config.checkpoint_minutes
                stop, overdue = self.agreed(self.interruption.requested is not None, overdue)
                due = evaluate or stop or overdue or self.step % self.config.checkpoint_every == 0
                if due and self.step > saved:
                    self.record(losses)
                    with clock.paused("checkpoint"):
                        self.save()
                    saved, saved_at = self.step, time.monotonic()
                if stop:
                    log.info("interrupted: saved a checkpoint at step %d", self.step)
                    break
                if evaluate:
                    with clock.paused("evaluation"):
                        self.rows.append({"step": self.step} | self.evaluate())
                        self.checkpoints.prune(self.best_step()) if self.ranks.first else None
                    self.report(clock, self.rows[-1], watcher)
                if last:
                    break
                set_learning_rate(self.optimizers, self.rate_scale(self.step))
                try:
                    loss = self.train_step_if_it_fits()
                except StepAbandoned:
                    continue
                if loss is None:
                    raise UserError(self.too_large())
                losses.append(loss)
                clock.count(self.model.shallow)
                self.step += 1
                if self.step % self.config.log_every == 0:
                    figures = {"loss": self.record(losses), "learning_rate": self.rate_scale(self.step - 1)}
                    self.report(clock, figures, watcher)
        if not last:  # the signal's own handler chose to go on
            raise InterruptedError(f"training was interrupted at step {self.step}; run it again to continue")

    def train_step(self) -> Tensor:
        """One optimizer step over this rank's rows of the global batch; its mean loss (scalar, still on the device).

        Raises StepAbandoned, with everything as it was before, where a lone process is asked to stop meanwhile.
        """
        seed = np.random.SeedSequence([self.config.seed, self.step, self.ranks.rank]).generate_state(1, np.uint64)[0]
        torch.manual_seed(int(seed >> np.uint64(1)))  # dropout: a function of (seed, step, rank)
        self.module.train()
        self.model.shallow = self.shallow_layers if self.step < self.shallow_steps else None
        total = torch.zeros((), device=self.compute.device)
        stop = self.rank_rows.stop
        for start in range(self.rank_rows.start, stop, self.micro):
            rows = range(start, min(start + self.micro, stop))
            batch = self.objective.train_batch(self.step, self.config.batch, rows).to(self.compute.device)
            synchronize_gradients(self.module, rows.stop == stop)
            with self.compute.autocast():
                loss = self.module(*batch) * (len(rows) / len(self.rank_rows))
            loss.backward()
            total += loss.detach()
            if self.interruption.requested is not None and self.ranks.world == 1 and rows.stop < stop:
                for optimizer in self.optimizers:
                    optimizer.zero_grad(set_to_none=True)
                raise StepAbandoned
        if self.config.optimizer.clip is not None:
            nn.utils.clip_grad_norm_(self.model.parameters(), self.config.optimizer.clip)
        for optimizer in self.optimizers:
            optimizer.step()
            optimizer.zero_grad(set_to_none=True)
        if self.average is not None:
            # an average over few steps forgets sooner, or the initial weights would stay in it for long
            decay = min(self.config.ema, (1 + self.step) / (10 + self.step))
            for name, parameter in self.model.named_parameters():
                self.average[name].lerp_(parameter.detach(), 1 - decay)
        return total

    def train_step_if_it_fits(self) -> Tensor | None:
        """None where the device's memory does not suffice for it; the weights are spoilt then."""
        try:
            return self.train_step()
        except RuntimeError as error:
            if "out of memory" not in str(error) and "can't allocate memory" not in str(error):  # a device, the CPU
                raise
        return None

    def too_large(self) -> str:
        """What to do about a step that did not fit, found by trying smaller ones; all that is left to do is to end."""
        asked = self.micro
        if self.ranks.world > 1 and asked > 1:  # ranks would have to try together, and not all of them have failed
            return f"{asked} windows at once do not fit into memory; set micro_batch to {asked // 2} or less"
        while self.micro > 1:
            self.micro //= 2
            if self.train_step_if_it_fits() is not None:
                return f"{asked} windows at once do not fit into memory, {self.micro} do; set micro_batch: {self.micro}"
        return "not even one window fits into memory; lower model.context or model.width, or set parallel: fsdp"

    @torch.no_grad()
    def evaluate(self) -> dict[str, float]:
        """Figures on the validation windows, with the averaged weights where an average is kept.

        Raises UserError for weights that give none, and drops their checkpoint: the one before it is the last good.
        """
        trained = None
        if self.average is not None:
            trained = {name: value.clone() for name, value in self.model.state_dict().items()}
            set_weights(self.model, self.average)
        self.module.eval()
        with self.compute.autocast():
            figures = self.objective.evaluate(self.module, self.ranks, self.compute.device, self.micro)
        if trained is not None:
            set_weights(self.model, trained)
        if not all(map(math.isfinite, figures.values())):
            if self.ranks.first:
                shutil.rmtree(self.checkpoints.path(self.step))
            raise self.diverged("validation loss", figures["validation_loss"], self.step)
        return figures

    def agreed(self, *wishes: bool) -> list[bool]:
        """Whether any rank wishes each: all save and stop at the same step. Asked through the CPU: no GPU waits."""
        return self.ranks.sum(torch.tensor(wishes, dtype=torch.float32), torch.device("cpu")).bool().tolist()

    def rate_scale(self, step: int) -> float:
        """What the learning rates of this step are multiplied by."""
        return multiplier(self.config.schedule, step, self.config.steps)

    def record(self, losses: list[Tensor]) -> float | None:
        """Put the losses of the last steps on the curve and empty the list; the newest, as a mean over ranks.

        Only here a GPU is waited for, so that it always has the next step's work before it. Raises UserError,
        naming the step, for a loss that is not finite.
        """
        if not losses:
            return None
        values = (self.ranks.sum(torch.stack(losses).cpu(), self.compute.device) / self.ranks.world).tolist()
        losses.clear()
        curve_every = max(1, self.config.steps // CURVE_POINTS)
        for step, value in enumerate(values, self.step - len(values) + 1):
            if not math.isfinite(value):
                raise self.diverged("loss", value, step)
            if step % curve_every == 0:
                self.rows.append({"step": step, "loss": value, "learning_rate": self.rate_scale(step - 1)})
        return values[-1]

    def diverged(self, what: str, value: float, step: int) -> UserError:
        good = self.checkpoints.steps()
        kept = f"the checkpoint of step {good[-1]} is kept" if good else "there is no checkpoint yet"
        return UserError(f"the {what} became {value} at step {step} ({kept}); lower the learning rates of `optimizer`")

    # -- saving and continuing -----------------------------------------------------------------------------------

    def state(self) -> tuple[dict[str, Tensor], dict[str, Tensor]]:
        """The weights to use, and what continuing needs beside them: the run's own tensors, sharded where it is."""
        weights = checkpoint.untied(self.model.state_dict(), self.model)
        state = {STEP: torch.tensor(self.step)}
        if self.step < self.config.steps:
            state |= {OPTIMIZER + name: value for name, value in optimizer_state(self.model, self.optimizers).items()}
            if self.average is not None:
                state |= {TRAINED + name: value for name, value in weights.items()}
        return weights | (self.average or {}), state

    def save(self) -> None:
        """Write a checkpoint of this step: each rank its part of a sharded model, else rank 0 what all ranks hold."""
        folder = self.checkpoints.path(self.step)
        weights, state = self.state()
        if is_sharded(self.module):
            from modeling.training import sharded  # here and below: a second that a single process need not wait

            sharded.write(folder, weights | state, self.description, self.metrics(), self.ranks)
        elif self.ranks.first:
            checkpoint.write(folder, weights, self.description, state, self.metrics())
        if self.ranks.first:
            self.checkpoints.prune(self.best_step())
        self.ranks.barrier()

    def restore(self) -> None:
        """Continue from the newest intact checkpoint, whatever ranks it is from.

        Raises UserError if it is of a run with other settings.
        """
        self.checkpoints.folder.mkdir(parents=True, exist_ok=True)
        newest = next(self.checkpoints.usable(), 0) if self.ranks.first else 0
        self.step = int(self.ranks.sum(torch.tensor(newest), self.compute.device))
        if not self.step:
            return
        from modeling.training import sharded

        folder = self.checkpoints.path(self.step)
        if differences := self.description.differences(Description.read(folder)):
            raise UserError(
                f"{self.out} holds an unfinished run with other settings ({'; '.join(differences)}); continue it with "
                "its own, or give another folder"
            )
        saved = sharded.contents(folder).items()
        moments = {name.removeprefix(OPTIMIZER): size for name, size in saved if name.startswith(OPTIMIZER)}
        make_room(self.model, self.optimizers, moments)
        weights, state = self.state()
        sharded.fill(weights | state, folder)
        self.rows = [json.loads(line) for line in (folder / checkpoint.METRICS).read_text().splitlines()]
        log.info("continuing from step %d of %d", self.step, self.config.steps)

    # -- the result ----------------------------------------------------------------------------------------------

    def publish(self) -> dict[str, float]:
        """Write the chosen checkpoint's files to `out` itself; its validation figures."""
        step = self.best_step() if self.config.keep == "best" else self.config.steps
        folder = self.checkpoints.path(step)
        if checkpoint.is_whole(folder):
            checkpoint.publish(folder, self.out)
        else:
            self.gather(folder)
        checkpoint.describe(self.out, self.description, self.metrics())
        return next(row for row in reversed(self.rows) if row["step"] == step and "validation_loss" in row)

    def gather(self, folder: Path) -> None:
        """Write to `out` what the ranks wrote in parts."""
        from modeling.training import sharded

        tensors = sharded.read(folder)
        weights = {n: t for n, t in tensors.items() if n != STEP and not n.startswith((OPTIMIZER, TRAINED))}
        checkpoint.write_tensors(self.out / checkpoint.WEIGHTS, weights)

    def finish(self, stats: dict[str, Any]) -> None:
        """Write `stats.json`, which says that the result is whole, and drop the checkpoints of the way."""
        checkpoint.write_file(self.out / STATS, (json.dumps(stats, indent=2, sort_keys=True) + "\n").encode())
        checkpoint.sync(self.out)
        shutil.rmtree(self.checkpoints.folder)

    def best_step(self) -> int | None:
        evaluations = [row for row in self.rows if "validation_loss" in row]
        return min(evaluations, key=lambda row: row["validation_loss"])["step"] if evaluations else None

    def metrics(self) -> str:
        return "".join(json.dumps(row) + "\n" for row in self.rows)

    # -- watching ------------------------------------------------------------------------------------------------

    def report(self, clock: Clock, figures: dict[str, Any], watcher: TensorBoard | None) -> None:
        if not self.ranks.first:
            return
        checkpoint.write_file(self.out / checkpoint.METRICS, self.metrics().encode())
        figures = {name: value for name, value in figures.items() if name != "step"} | clock.figures()
        with (self.out / TIMING).open("a") as file:
            file.write(json.dumps({"step": self.step, "time": time.time()} | figures) + "\n")
        self.progress(self.step, self.config.steps, unit="steps", **figures)
        if watcher is not None:
            watcher.write(self.step, figures)


class Clock:
    """Rates of the steps since the last figures were taken; evaluations and checkpoints are timed apart."""

    def __init__(self, trainer: Trainer):
        self.length, self.description = trainer.objective.length, trainer.description
        self.tokens_a_step = trainer.config.batch * self.length
        self.compute, self.peak = trainer.compute, trainer.compute.peak_flops
        self.ranks = trainer.ranks.world
        self.steps, self.flops, self.pause, self.since = 0, 0, 0.0, time.perf_counter()
        self.spent: dict[str, float] = {}

    def count(self, layers: int | None) -> None:
        """A step has been taken, with so many layers."""
        per_token = flops_per_token(self.description.model, self.description.vocab_size, self.length, layers)
        self.flops += self.tokens_a_step * per_token
        self.steps += 1

    def paused(self, what: str) -> Pause:
        return Pause(self, what)

    def figures(self) -> dict[str, float]:
        now = time.perf_counter()
        seconds = now - self.since - self.pause
        figures = {f"{what}_seconds": spent for what, spent in self.spent.items()}
        if self.steps and seconds > 0:
            figures["tokens_per_second"] = self.steps * self.tokens_a_step / seconds
            if self.peak:
                figures["mfu"] = self.flops / seconds / (self.peak * self.ranks)
            if self.compute.peak_memory:
                figures["gpu_gib"] = self.compute.peak_memory
        self.steps, self.flops, self.pause, self.since, self.spent = 0, 0, 0.0, now, {}
        return figures


class Pause:
    def __init__(self, clock: Clock, what: str):
        self.clock, self.what = clock, what

    def __enter__(self) -> None:
        self.start = time.perf_counter()

    def __exit__(self, *_: object) -> None:
        seconds = time.perf_counter() - self.start
        self.clock.pause += seconds
        self.clock.spent[self.what] = self.clock.spent.get(self.what, 0.0) + seconds


class TensorBoard:
    """Event files of the reported figures under `tensorboard/`."""

    def __init__(self, out: Path):
        try:
            from torch.utils.tensorboard import SummaryWriter
        except ImportError as error:
            raise UserError("tensorboard is not installed; pip install textmill[tensorboard]") from error
        self.writer = SummaryWriter(str(out / "tensorboard"))

    def __enter__(self) -> TensorBoard:
        return self

    def __exit__(self, *_: object) -> None:
        self.writer.close()

    def write(self, step: int, figures: dict[str, float]) -> None:
        for name, value in figures.items():
            self.writer.add_scalar(name, value, step)
