"""Going on from a finished run: a longer one whose first steps are the same.

    out/resumable/step-00000100/   beside a result: the checkpoint of the last step that a longer run has in common

Every step is a function of the seed and its number, but for the learning rate, which the schedule spreads over the
run. With `wsd` (Hu et al. 2024, MiniCPM) it is constant until the decay begins, with `constant` to the end: up to there
a run of more steps does the same, and goes on from there to the bytes that it would have come to from the start. The
losses of the steps are kept with the checkpoint, because the curve of a longer run has fewer points among them.

A folder with `resumable/` and without checkpoints of its own is gone on from: a finished one in which a longer run is
started, or one into which a pipeline put what its store holds.
"""

from __future__ import annotations

import json
import logging
from pathlib import Path

from modeling.checkpoint import (
    CHECKSUMS,
    CONFIG,
    METRICS,
    CheckpointConfig,
    Checkpoints,
    is_intact,
    link_or_copy,
    seal_draft,
    start_draft,
)
from modeling.config.optimization import ScheduleConfig
from modeling.config.pretrain import ProgressiveConfig
from modeling.config.run import RunConfig
from modeling.training.optim import lr_scale
from modeling.training.state import TrainingRun, curve
from textmill.errors import UserError
from textmill.files import remove, seal_folder

__all__ = ["RESUMABLE", "adopt", "check_extends", "keep", "kept_step", "newest_resumable", "reason_against"]

logger = logging.getLogger(__name__)

RESUMABLE = "resumable"
CHEAP_PARAMETERS = 100_000_000  # up to so many, a checkpoint is kept where nothing else is said
ROUNDING = 1e-9  # by which a share of steps may come out less than a whole number
FREE = {  # settings that a longer run may have otherwise
    "run.steps", "run.progressive",
    *(f"run.schedule.{name}" for name in ScheduleConfig.model_fields),
    *(f"run.progressive.{name}" for name in ProgressiveConfig.model_fields),
}  # fmt: skip


def kept_step(config: RunConfig, parameters: int) -> int | None:
    """The step whose checkpoint a run keeps beside its result; None if it keeps none.

    Args:
        config: the run.
        parameters: of its model.
    """
    wanted = parameters <= CHEAP_PARAMETERS if config.extendable is None else config.extendable
    return stable_steps(config) or None if wanted else None


def stable_steps(config: RunConfig) -> int:
    """How many steps, from the first, a run of more steps has in common with this one."""
    schedule, steps = config.schedule, config.steps
    if config.mixture or schedule.shape == "cosine" or config.weights_ahead(0):
        return 0
    if schedule.shape == "constant":
        return steps
    return schedule.warmup + int((1 - schedule.decay) * (steps - schedule.warmup) + ROUNDING)


def reason_against(config: RunConfig, earlier: RunConfig, step: int) -> str | None:
    """Why a run cannot go on from this step of an earlier one, whose other settings are the same; None if it can."""
    if config.mixture:
        return "a mixture is shared out over the run's steps, so that their order is another"
    if config.schedule.shape == "cosine":
        return "a cosine schedule spreads over all steps, so that a longer run has other learning rates from the start"
    if config.weights_ahead(0):
        return "multi_token spreads over the steps, so that a longer run has other weights from the start"
    if step > config.steps:
        return f"it goes on from step {step}, but this run has {config.steps}"
    if config.keep == "best" and step > config.evaluate_every:
        return "with keep: best, the best weights may be those of a step before, which are not kept"
    for at in range(step):
        rates = [lr_scale(run.schedule, at, run.steps) for run in (config, earlier)]
        if rates[0] != rates[1]:
            return f"it goes on from step {step}, but here the learning rate of step {at + 1} is another"
        if config.active_layers(at) != earlier.active_layers(at):
            return f"it goes on from step {step}, but here step {at + 1} trains other layers"
    return None


def earlier_run(config: RunConfig, saved: CheckpointConfig) -> RunConfig:
    """The run that wrote a checkpoint: this one with the other's schedule."""
    update = {"steps": saved.run["steps"], "schedule": ScheduleConfig.model_validate(saved.run["schedule"])}
    if progressive := saved.run.get("progressive"):
        progressive = ProgressiveConfig.model_validate(progressive)
    return config.model_copy(update={**update, "progressive": progressive})


def newest_resumable(out: Path) -> Path | None:
    """The checkpoint beside a result, if there is one and it is whole."""
    folders = sorted((out / RESUMABLE).glob("step-*"))
    return folders[-1] if folders and is_intact(folders[-1]) else None


def check_extends(out: Path, about: CheckpointConfig, config: RunConfig) -> None:
    """Check that a run can go on from the finished one in `out`.

    Args:
        out: the folder.
        about: what the run's checkpoints say.
        config: the run.

    Raises:
        UserError: it cannot, because of its settings or because nothing was kept.
    """
    finished = CheckpointConfig.read(out)
    differences = about.differences(finished)
    says = f"{out} holds a finished run with other settings ({'; '.join(differences)})"
    if about.differences(finished, beside=FREE):
        raise UserError(f"{says}; give another folder")
    kept, earlier = newest_resumable(out), earlier_run(config, finished)
    step = step_of(kept) if kept else 0
    reason = reason_against(config, earlier, step)
    if reason is None and not stable_steps(earlier):
        reason = "its learning rate falls from the first step, so that every step of a longer run is another"
    elif reason is None and kept is None:
        reason = "it kept no checkpoint to go on from, as `extendable: true` would have had it"
    if reason:
        raise UserError(f"{says} and cannot be gone on from: {reason}; give another folder")


def step_of(folder: Path) -> int:
    """The step of a checkpoint by its folder's name."""
    return int(folder.name.removeprefix("step-"))


def adopt(run: TrainingRun, checkpoints: Checkpoints) -> int:
    """Make a checkpoint of this run of the one beside an earlier run's result, in the folder that this run fills.

    Returns:
        its step; 0 if there is none from which the run can go on.
    """
    from modeling.training.checkpoints import sharded  # a second that a run from the start need not wait

    about, config = run.checkpoint_config, run.config
    kept = newest_resumable(run.out)
    if kept is None:
        return 0
    saved, step = CheckpointConfig.read(kept), step_of(kept)
    earlier = earlier_run(config, saved)
    differences = "; ".join(about.differences(saved, beside=FREE))
    losses = sharded.losses(kept)
    if reason := differences or reason_against(config, earlier, step):
        logger.info("not going on from the run in %s: %s", kept, reason)
        return 0
    if len(losses) < step:
        logger.info("not going on from the run in %s: another version wrote it", kept)
        return 0
    place = checkpoints.path(step)
    draft = start_draft(place)
    checksums = json.loads((kept / CHECKSUMS).read_text())
    tensors = {name: checksum for name, checksum in checksums.items() if name not in (CONFIG, METRICS)}
    for name in tensors:
        link_or_copy(kept / name, draft / name)
    rows = map(json.loads, (kept / METRICS).read_text().splitlines())
    evaluations = [row for row in rows if "validation_loss" in row]
    metrics = sorted([*curve(config, losses), *evaluations], key=lambda row: (row["step"], "validation_loss" in row))
    seal_draft(place, about, "".join(json.dumps(row) + "\n" for row in metrics), tensors)
    logger.info("going on from step %d of a finished run of %d steps, to step %d", step, earlier.steps, config.steps)
    return step


def keep(place: Path, out: Path) -> None:
    """Keep a checkpoint, if it is there, beside the result in `out`, in place of that of an earlier run."""
    folder = out / RESUMABLE
    remove(folder)
    if place.exists():
        draft = start_draft(folder / place.name)
        for file in place.iterdir():
            link_or_copy(file, draft / file.name)
        seal_folder(draft, folder / place.name)
