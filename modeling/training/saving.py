"""Saving a run, continuing it, and making its result.

    out/checkpoints/step-00000100/   on the way: checkpoints, the newest ones and the best
    out/checkpoints/diverged         says that the run diverged: one with other settings may take its place
    out/model.safetensors, …         at the end: the weights of one of them, as a checkpoint of its own
    out/resumable/step-00000100/     what a longer run can go on from (`extending`)
    out/stats.json                   written last: the folder is finished

A checkpoint of the way may be sharded over ranks; the result never is.
"""

from __future__ import annotations

import json
import logging
import shutil
import time
from pathlib import Path
from typing import Any

import safetensors.torch
import torch
from torch import Tensor

from modeling import checkpoint
from modeling.checkpoint import METRICS, WEIGHTS, CheckpointConfig, Checkpoints
from modeling.config.run import RunConfig
from modeling.training.checkpoints import extending
from modeling.training.distributed import Ranks
from modeling.training.optim import is_dtensor
from modeling.training.parallel import allocate_optimizer_state, is_sharded, optimizer_state
from modeling.training.state import LOSSES, TrainingRun, TrainingState
from modeling.training.watching import SAMPLES, TENSORBOARD, TIMING, WANDB
from textmill.errors import UserError
from textmill.files import atomic_path, atomic_write, remove_temporary

__all__ = ["CHECKPOINTS", "STATS", "Saver", "is_finished", "separate_head"]

logger = logging.getLogger(__name__)

CHECKPOINTS = "checkpoints"
DIVERGED = "diverged"
STATS = "stats.json"
# Names in the training state
STEP, OPTIMIZER, TRAINED, CARRIED = "step", "optimizer/", "trained/", "carried/"
SAMPLE_BLANK = "run.sample_blank"  # decides nothing that is trained: an unfinished run goes on with another


def is_finished(out: Path, about: CheckpointConfig, config: RunConfig) -> bool:
    """Whether an earlier call came to its end in this folder; what it had no time to clear away goes now. One that this
    run goes on from is no longer finished.

    Raises:
        UserError: it did so with other settings, and this run cannot go on from it.
    """
    if not (out / STATS).is_file():
        return False
    if about.differences(CheckpointConfig.read(out)):
        extending.check_extends(out, about, config)
        shutil.rmtree(out / CHECKPOINTS, ignore_errors=True)
        (out / STATS).unlink(missing_ok=True)  # another rank may have been first
        return False
    shutil.rmtree(out / CHECKPOINTS, ignore_errors=True)
    logger.info("%s is finished; nothing to do", out)
    return True


class Saver:
    """The checkpoints of a run, and the result that is made of one of them.

    `saved_step` is the step of the last checkpoint, or the one the run began at; `saved_at` is when that was.
    `kept_step` is the step whose checkpoint stays beside the result, for a longer run; None for none.
    """

    def __init__(self, run: TrainingRun, state: TrainingState, ranks: Ranks):
        self.run, self.state, self.ranks = run, state, ranks
        self.checkpoints = Checkpoints(run.out / CHECKPOINTS, run.config.keep_checkpoints)
        self.saved_step, self.saved_at = 0, time.monotonic()
        self.kept_step = extending.kept_step(run.config, sum(p.numel() for p in state.model.parameters()))

    @property
    def overdue(self) -> bool:
        """Whether the last checkpoint is older than it may be, however few steps ago it was."""
        return time.monotonic() - self.saved_at > 60 * self.run.config.checkpoint_minutes

    def save(self) -> None:
        """Write a checkpoint of this step: each rank its part of a sharded model, else rank 0 what all ranks hold."""
        folder = self.checkpoints.path(self.state.step)
        weights, training_state = self.tensors()
        config, metrics = self.run.checkpoint_config, self.state.metrics_jsonl()
        if is_sharded(self.state.model):
            from modeling.training.checkpoints import (
                sharded,  # here and below: a second that a single process need not wait
            )

            sharded.write(folder, weights | training_state, config, metrics, self.ranks)
        elif self.ranks.first:
            checkpoint.write_checkpoint(folder, weights, config, training_state, metrics)
        self.prune()
        if self.ranks.first:
            (self.checkpoints.folder / DIVERGED).unlink(missing_ok=True)
        self.ranks.barrier()
        self.saved_step, self.saved_at = self.state.step, time.monotonic()

    def prune(self) -> None:
        """Drop the checkpoints that are neither among the newest, nor the best, nor the one that stays."""
        if self.ranks.first:
            self.checkpoints.prune(also_keep=(self.state.best_step(), self.kept_step))

    def is_finite(self) -> bool:
        """Whether everything that a checkpoint of this step would hold is finite, on all ranks."""
        values = (tensor for tensors in self.tensors() for tensor in tensors.values())
        finite = checkpoint.all_finite(v.to_local() if is_dtensor(v) else v for v in values)
        return not self.ranks.any(not finite)[0]

    def diverged(self, reason: str, spoilt: int) -> int | None:
        """Note that the run diverged, and drop the checkpoint of the step whose weights turned out to be spoilt.

        Returns:
            The step of the newest checkpoint that remains; None if there is none.
        """
        if self.ranks.first:
            shutil.rmtree(self.checkpoints.path(spoilt), ignore_errors=True)
            (self.checkpoints.folder / DIVERGED).write_text(reason + "\n")
        return max((step for step in self.checkpoints.steps() if step != spoilt), default=None)

    def tensors(self) -> tuple[dict[str, Tensor], dict[str, Tensor]]:
        """The weights to use, and what continuing needs beside them: the run's own tensors, sharded where it is."""
        state = self.state
        weights = checkpoint.without_tied_head(state.model.state_dict(), state.model)
        training_state = {STEP: torch.tensor(state.step)}
        if state.step < self.run.config.steps or state.step == self.kept_step:
            training_state[LOSSES] = torch.tensor(state.losses, dtype=torch.float64)
            moments = optimizer_state(state.model, state.optimizers)
            training_state |= {OPTIMIZER + name: value for name, value in moments.items()}
            if state.carried is not None:
                training_state |= {CARRIED + name: value for name, value in state.carried.tensors.items()}
            if state.average is not None:
                training_state |= {TRAINED + name: value for name, value in weights.items()}
        return weights | (state.average or {}), training_state

    def restore(self) -> None:
        """Continue from the newest usable checkpoint, whatever number of ranks wrote it; without one, from the start.

        Raises:
            UserError: it is of a run with other settings, which has not diverged.
        """
        newest = self.newest() if self.ranks.first else 0
        self.state.step = int(self.ranks.sum(torch.tensor(newest), torch.device("cpu")))
        if self.state.step:
            self.check_settings()
            self.read(self.checkpoints.path(self.state.step))
            logger.info("continuing from step %d of %d", self.state.step, self.run.config.steps)
        if self.ranks.first:
            self.checkpoints.drop_after(self.state.step)
        self.saved_step, self.saved_at = self.state.step, time.monotonic()

    def newest(self) -> int:
        """The step of the newest usable checkpoint, 0 without one. Leftovers of killed writers go, and so does a run
        that diverged, if this one has other settings. A run without checkpoints goes on from a finished one whose first
        steps are the same, or begins anew; it has no older records."""
        out, folder = self.run.out, self.checkpoints.folder
        remove_temporary(out)
        folder.mkdir(parents=True, exist_ok=True)
        newest = next(self.checkpoints.usable(), 0)
        if newest and (folder / DIVERGED).is_file() and self.differences(newest):
            logger.info("the run in %s diverged: beginning anew with other settings", out)
            shutil.rmtree(folder)
            folder.mkdir()
            newest = 0
        if not newest:
            newest = extending.adopt(self.run, self.checkpoints)
            self.drop_records_after(newest)
        return newest

    def drop_records_after(self, step: int) -> None:
        """Drop what the run's folder holds of later steps of an earlier run, and its clocks."""
        out = self.run.out
        for name in (METRICS, TIMING):
            (out / name).unlink(missing_ok=True)
        for name in (TENSORBOARD, WANDB):
            shutil.rmtree(out / name, ignore_errors=True)
        if (out / SAMPLES).is_file():
            lines = (out / SAMPLES).read_text().splitlines(keepends=True)
            kept = [line for line in lines if json.loads(line)["step"] <= step]
            atomic_write(out / SAMPLES, "".join(kept)) if kept else (out / SAMPLES).unlink()

    def differences(self, step: int) -> list[str]:
        """In what the run's settings differ from those of a checkpoint."""
        saved = CheckpointConfig.read(self.checkpoints.path(step))
        return self.run.checkpoint_config.differences(saved, beside={SAMPLE_BLANK})

    def check_settings(self) -> None:
        """
        Raises:
            UserError: the checkpoint of this step is of a run with other settings.
        """
        if differences := self.differences(self.state.step):
            raise UserError(
                f"{self.run.out} holds an unfinished run with other settings ({'; '.join(differences)}); continue it "
                "with its own, or give another folder"
            )

    def read(self, folder: Path) -> None:
        """Fill the state's tensors, losses and metrics from a checkpoint.

        Raises:
            UserError: a version that keeps other tensors wrote it. `LOSSES` may be missing: the curve's next point is
                then of the steps from here.
        """
        from modeling.training.checkpoints import sharded

        saved = sharded.tensor_shapes(folder)
        moments = {name.removeprefix(OPTIMIZER): shape for name, shape in saved.items() if name.startswith(OPTIMIZER)}
        allocate_optimizer_state(self.state.model, self.state.optimizers, moments)
        weights, training_state = self.tensors()
        wanted = {name: value for name, value in (weights | training_state).items() if name != LOSSES}
        if missing := sorted(wanted.keys() - saved.keys()):
            raise UserError(
                f"{folder} lacks {missing[0]}, which this version keeps; continue the run with the version that wrote "
                "it, or give another folder"
            )
        sharded.fill(wanted, folder)
        self.state.losses[:] = sharded.losses(folder)
        self.state.metrics[:] = map(json.loads, (folder / METRICS).read_text().splitlines())

    def publish(self) -> dict[str, float]:
        """Write the chosen checkpoint's files to `out` itself.

        Returns:
            The metrics of its evaluation, with its step.
        """
        state, keep = self.state, self.run.config.keep
        evaluation = state.best_evaluation() if keep == "best" else state.evaluations()[-1]
        folder = self.checkpoints.path(evaluation["step"])
        if checkpoint.is_sharded(folder):
            self.gather(folder)
        else:
            checkpoint.publish_weights(folder, self.run.out)
        checkpoint.publish_texts(self.run.out, self.run.checkpoint_config, state.metrics_jsonl())
        return evaluation

    def gather(self, folder: Path) -> None:
        """Write to `out`, in one file, the weights that the ranks wrote in parts."""
        from modeling.training.checkpoints import sharded

        tensors = sharded.read(folder)
        weights = {name: tensors[name] for name in self.tensors()[0]}
        with atomic_path(self.run.out / WEIGHTS) as unfinished:
            checkpoint.write_tensors(unfinished, weights)

    def finish(self, stats: dict[str, Any]) -> None:
        """Write `stats.json`, which says that the result is finished, and drop the checkpoints of the way but for the
        one that a longer run can go on from."""
        extending.keep(self.checkpoints.path(self.kept_step or 0), self.run.out)
        atomic_write(self.run.out / STATS, json.dumps(stats, indent=2, sort_keys=True) + "\n")
        shutil.rmtree(self.checkpoints.folder)


def separate_head(out: Path, prefix: str, name: str) -> None:
    """Move the head of a task into a file of its own; what is left is a language model like any other.

    Args:
        out: folder of a checkpoint.
        prefix: of the head's weights.
        name: of its file.
    """
    weights = safetensors.torch.load_file(out / WEIGHTS)
    head = {weight: weights.pop(weight) for weight in list(weights) if weight.startswith(prefix)}
    for file, tensors in ((name, head), (WEIGHTS, weights)):  # the weights last: a killed call is repeated
        with atomic_path(out / file) as unfinished:
            checkpoint.write_tensors(unfinished, tensors)
