"""Trains a small network within a measurement, by the optimizers and the schedule of a pretraining."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any, NamedTuple

from modeling.config.optimization import OptimizerConfig, ScheduleConfig
from modeling.device import Compute
from modeling.networks.language_model import LanguageModel
from modeling.training.optim import lr_scale, optimizers, set_learning_rates

__all__ = ["Recipe", "train"]

EVALUATIONS = 10  # of a training, about evenly


class Recipe(NamedTuple):
    """How long a network is trained, and how fast.

    Attributes:
        steps: of the optimizers.
        optimizer: theirs.
        compute: where, in which precision; the model is there.
    """

    steps: int
    optimizer: OptimizerConfig
    compute: Compute

    def looks_at(self, step: int) -> bool:
        """Whether the network is looked at after so many steps; after the last in any case."""
        return step == self.steps or step % max(1, self.steps // EVALUATIONS) == 0


def train(model: LanguageModel, recipe: Recipe, batch_at: Callable[[int], Any]) -> Iterator[tuple[int, float]]:
    """Train a network, step by step; whoever takes the steps can look at it between them.

    Args:
        model: with its initial weights.
        recipe: how long, and how fast.
        batch_at: of a step (from 0) the batch, a named tuple of what the model takes, by its names, with `to`.

    Yields:
        How many steps were taken, and the loss of the last one in nats.
    """
    chosen = optimizers(model, recipe.optimizer, recipe.compute.dtype)
    for step in range(recipe.steps):
        set_learning_rates(chosen, lr_scale(ScheduleConfig(), step, recipe.steps))
        model.train()
        with recipe.compute.autocast():
            loss = model(**batch_at(step).to(recipe.compute.device)._asdict())
        loss.backward()
        for optimizer in chosen:
            optimizer.step()
            optimizer.zero_grad(set_to_none=True)
        model.eval()
        yield step + 1, loss.item()
