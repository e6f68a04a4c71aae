"""Optimizers, their rates, and how these change over the steps."""

from __future__ import annotations

from collections.abc import Collection
from typing import Literal

from pydantic import Field

from modeling.config.section import Section
from modeling.scaling import rounded
from textmill.settings import added

RATES = ("lr", "matrix_lr", "embedding_lr", "head_lr", "scalar_lr")
FINETUNING_RATE = 0.1  # of the rates of pretraining, where fine-tuning is given none (swept: modeling/LOG.md)


class OptimizerConfig(Section):
    """Muon for the matrices of the blocks and AdamW for the rest, or AdamW for everything."""

    name: Literal["muon", "adamw"] = Field("muon", description="muon: Muon + AdamW; adamw: AdamW alone")
    lr: float = Field(3e-4, gt=0, description="AdamW's learning rate where name is adamw")
    matrix_lr: float = Field(0.02, gt=0, description="Muon's learning rate for the matrices of the blocks")
    embedding_lr: float = Field(0.3, gt=0, description="AdamW's learning rate for token and value embeddings")
    head_lr: float = Field(0.008, gt=0, description="AdamW's learning rate for the head")
    scalar_lr: float = Field(0.02, gt=0, description="AdamW's learning rate for gates, norms, biases, and scales")
    new_lr: float = added(
        0.05, gt=0, description="AdamW's learning rate for what a checkpoint does not have: heads of fine-tuning"
    )
    weight_decay: float = Field(0.0, ge=0, description="Decoupled weight decay on matrices")
    embedding_decay: float = added(0.0, ge=0, description="muon: decoupled weight decay on embeddings and the head")
    beta1: float = Field(0.8, ge=0, lt=1, description="AdamW's first moment")
    beta2: float = Field(0.95, ge=0, lt=1, description="AdamW's second moment")
    momentum: float = Field(0.95, ge=0, lt=1, description="Muon's Nesterov momentum")
    clip: float | None = Field(None, gt=0, description="Clip the gradient's global norm; null for none")


def refuse_unused_rates(place: str, name: str, given: Collection[str]) -> None:
    """Refuse rates of which the optimizer called `name` uses none.

    Where some are used, those are what it goes by: a record of a run names all, and an override may change the name.

    Args:
        place: where the settings are, for the message.
        name: of the optimizer.
        given: names of its settings that were given.

    Raises:
        ValueError: rates were given, and none of them is used.
    """
    rates = [rate for rate in RATES if rate in given]
    used = [rate for rate in RATES if (rate == "lr") == (name == "adamw")]
    if rates and not set(rates) & set(used):
        raise ValueError(
            f"{place}: {' and '.join(rates)} would change nothing: {name} has {', '.join(used)}; give one of these, or "
            f"name: {'muon' if name == 'adamw' else 'adamw'}"
        )


def finetuning_optimizer(pretraining: OptimizerConfig, given: OptimizerConfig) -> OptimizerConfig:
    """What fine-tuning is given, and of the rest what pretraining had, with lower rates.

    The result counts as set what `given` sets, so that it can be laid over another pretraining.

    Example:
        >>> pretraining = OptimizerConfig(name="adamw", lr=3e-4, beta1=0.9)
        >>> tuning = finetuning_optimizer(pretraining, OptimizerConfig(weight_decay=0.1))
        >>> tuning.name, tuning.lr, tuning.beta1, tuning.weight_decay
        ('adamw', 3e-05, 0.9, 0.1)
    """
    values = pretraining.model_dump()
    values |= {name: rounded(FINETUNING_RATE * values[name]) for name in RATES}
    values |= given.model_dump(include=given.model_fields_set)
    return OptimizerConfig.model_construct(_fields_set=given.model_fields_set, **values)


class ScheduleConfig(Section):
    """Multiplier of every learning rate over the steps."""

    shape: Literal["wsd", "cosine", "constant"] = Field(
        "wsd", description="warm-up/stable/decay (linear decay at the end), cosine, or constant after warm-up"
    )
    warmup: int = Field(0, ge=0, description="Steps of linear warm-up")
    decay: float = Field(0.5, ge=0, le=1, description="wsd: share of the steps spent decaying")
    final: float = Field(0.0, ge=0, le=1, description="Multiplier reached at the last step")
