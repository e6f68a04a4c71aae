"""What a run is (`TrainingRun`, fixed) and how far it is (`TrainingState`, which the loop changes)."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from modeling.checkpoint import CheckpointConfig
from modeling.config.objective import token_count
from modeling.config.run import RunConfig
from modeling.networks.language_model import LanguageModel
from modeling.networks.recurrent import RecurrentState
from modeling.training.objectives import Objective
from modeling.training.optim import lr_scale, main_learning_rate

__all__ = ["LOSSES", "TrainingRun", "TrainingState", "curve", "curve_point"]

LOSSES = "losses"  # in the training state
CURVE_POINTS = 1000  # most points of the loss curve in metrics.jsonl


@dataclass(frozen=True)
class TrainingRun:
    """What is trained, on what, by which recipe, and into which folder.

    Attributes:
        model: with its initial weights, on any device.
        objective: makes the batches and judges the model.
        checkpoint_config: what the checkpoint's `config.json` is to say.
        config: the recipe, and how it is executed.
        out: the folder to fill.
        sample: what a model on the CPU writes, to be kept on the way; None: nothing.
    """

    model: LanguageModel
    objective: Objective
    checkpoint_config: CheckpointConfig
    config: RunConfig
    out: Path
    sample: Callable[[LanguageModel], str] | None = None

    def stats(self, metrics: Mapping[str, Any]) -> dict[str, Any]:
        """What every result says in `stats.json`, with the metrics of the weights that were chosen."""
        return {
            "parameters": sum(parameter.numel() for parameter in self.model.parameters()),
            "steps": self.config.steps,
            "tokens_seen": self.config.steps * self.tokens_per_step,
            **{name: value for name, value in metrics.items() if name != "step"},
        }

    @property
    def tokens_per_step(self) -> int:
        return self.config.batch * token_count(self.objective.length)


@dataclass
class TrainingState:
    """Everything that changes as a run goes on: a checkpoint holds it, and a continued run starts from it.

    Attributes:
        model: on the device that trains it, sharded where it is to be.
        optimizers: together they hold every parameter once.
        average: exponential moving average of the weights by parameter name, or None where none is kept.
        step: how many optimizer steps have been taken.
        carried: what a recurrent network remembers after the last step's windows, of all rows of the global batch, of
            which a rank knows its own; None where windows do not follow each other.
        losses: of the steps up to this one; of a run that an older version began only the last ones.
        metrics: lines of `metrics.jsonl`: points of the loss curve, and evaluations.
    """

    model: LanguageModel
    optimizers: list[torch.optim.Optimizer]
    average: dict[str, Tensor] | None = None
    step: int = 0
    carried: RecurrentState | None = None
    losses: list[float] = field(default_factory=list)
    metrics: list[dict[str, Any]] = field(default_factory=list)

    def metrics_jsonl(self) -> str:
        return "".join(json.dumps(line) + "\n" for line in self.metrics)

    def evaluations(self) -> list[dict[str, Any]]:
        """Those of the metrics that an evaluation gave, in the order of their steps."""
        return [line for line in self.metrics if "validation_loss" in line]

    def best_evaluation(self) -> dict[str, Any]:
        """The first one with the lowest validation loss."""
        return min(self.evaluations(), key=lambda line: line["validation_loss"])

    def best_step(self) -> int | None:
        """The step of the best evaluation; None before the first one."""
        return self.best_evaluation()["step"] if self.evaluations() else None


def curve_point(config: RunConfig, step: int, losses: Sequence[float]) -> dict[str, Any] | None:
    """The point of the loss curve at a step (from 1): the mean loss of the steps since the point before, and the
    learning rate; None where there is none.

    Args:
        config: the run.
        step: steps taken.
        losses: the last ones of these steps, perhaps fewer than the point is of.
    """
    between = max(1, config.steps // CURVE_POINTS)
    if step % between:
        return None
    total = 0.0
    for loss in losses[-between:]:  # one after the other, in whichever pieces they come: to the same bits
        total += loss
    return {
        "step": step,
        "loss": total / len(losses[-between:]),
        "learning_rate": main_learning_rate(config.optimizer) * lr_scale(config.schedule, step - 1, config.steps),
    }


def curve(config: RunConfig, losses: Sequence[float]) -> list[dict[str, Any]]:
    """The points of the loss curve up to the last of these losses, which begin at step 1."""
    points = (curve_point(config, step, losses[:step]) for step in range(1, len(losses) + 1))
    return [point for point in points if point]
