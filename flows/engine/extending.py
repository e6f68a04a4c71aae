"""Trainings that go on from one in the store: equal but for its schedule, so that the first steps are the same.

What a training kept for that (`modeling.training.checkpoints.extending`) is copied into the work folder of the new
one, whose result is the same, byte for byte, as if it had been trained from the start. Identity and inputs are its own.
"""

from __future__ import annotations

import shutil
from collections.abc import Iterator
from typing import Any, TypeVar

from flows.engine.assess import changes, identify
from flows.engine.stage import Job, Stage
from flows.store.local import Artifact, Damaged
from modeling.answering.config import AnsweringConfig
from modeling.config.finetune import FinetuneConfig
from modeling.config.pretrain import PretrainConfig
from textmill.files import seal_folder, temporary_path

Run = TypeVar("Run", PretrainConfig, FinetuneConfig, AnsweringConfig)

FREE = ("steps: ", "schedule.", "progressive")  # how changes begin that the first steps may not notice


def bring_earlier_steps(stage: Stage[Run], job: Job[Run]) -> None:
    """Copy into a new work folder what the store holds of the training's first steps, the most of them."""
    from modeling.training.checkpoints.extending import RESUMABLE
    from modeling.training.saving import CHECKPOINTS

    if (job.out / CHECKPOINTS).exists() or (job.out / RESUMABLE).exists():
        return  # it is under way
    for step, artifact in sorted(_resumable(stage, job), key=lambda found: -found[0]):
        try:
            kept = artifact.fetch(job.progress) / RESUMABLE
        except Damaged as error:
            job.context.log(f"Not going on from {artifact.title}: {error.damage}")
            continue
        job.context.log(f"Going on from step {step} of {artifact.title} ({artifact.location})")
        copy = temporary_path(job.out / RESUMABLE)
        shutil.copytree(kept, copy)
        seal_folder(copy, job.out / RESUMABLE)
        return


def _resumable(stage: Stage[Run], job: Job[Run]) -> Iterator[tuple[int, Artifact]]:
    """The artifacts that the training can go on from, each with the step."""
    from modeling.training.checkpoints.extending import RESUMABLE, reason_against

    own = identify(stage, job.config, job.inputs, job.context.store)
    for artifact in job.context.store.artifacts(stage.name):
        steps = {name.split("/")[1] for name in artifact.manifest.files if name.startswith(f"{RESUMABLE}/")}
        if not steps or not _differs_in_schedule_only(artifact.manifest.identity, own):
            continue
        step = int(steps.pop().removeprefix("step-"))
        earlier = type(job.config).model_validate(artifact.manifest.settings)
        if reason_against(job.config, earlier, step) is None:
            yield step, artifact


def _differs_in_schedule_only(earlier: dict[str, Any], own: dict[str, Any]) -> bool:
    return all(change.startswith(FREE) for change in changes(earlier, own))
