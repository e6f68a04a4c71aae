"""What pretraining and fine-tuning have in common."""

from __future__ import annotations

from typing import Literal

from pydantic import Field, model_validator

from modeling.config.optimization import OptimizerConfig, ScheduleConfig
from modeling.config.section import Section
from textmill.settings import added, execution_only

MAX_SEED = 2**63 - 1


class SourceConfig(Section):
    """How much of the training order is from one source."""

    weight: float | None = Field(
        None, ge=0, allow_inf_nan=False, description="Share of the tokens, in relation to the weights of the others"
    )
    max_tokens: int | None = Field(None, ge=0, description="At most so many tokens, those that are repeated included")
    repeat: float | None = Field(
        None, ge=0, allow_inf_nan=False, description="At most so many epochs: how often each of its tokens is seen"
    )


class RunConfig(Section):
    """What pretraining and fine-tuning have in common."""

    steps: int = Field(300, gt=0, description="Optimizer steps")
    batch: int = Field(16, gt=0, description="Windows a step, over all devices")
    seed: int = Field(0, ge=0, le=MAX_SEED, description="Decides initial weights, data order, and dropout")
    mixture: dict[str, SourceConfig] = Field(
        {}, description="Weight, max_tokens and repeat of sources and collections by name; empty: all as they come"
    )
    window_start: Literal["anywhere", "document"] = added(
        "anywhere", description="Where windows begin: anywhere, or where a document (or its next window) does"
    )
    optimizer: OptimizerConfig = Field(default_factory=OptimizerConfig, description="Optimizer")
    schedule: ScheduleConfig = Field(default_factory=ScheduleConfig, description="Learning-rate schedule")
    ema: float | None = Field(None, gt=0, lt=1, description="Decay of an average of the weights, used for the result")
    precision: Literal["auto", "fp32", "bf16"] = Field("auto", description="auto: bf16 where the device is fast at it")
    evaluate_every: int = Field(100, gt=0, description="Steps between evaluations")
    evaluate_tokens: int = Field(65_536, gt=0, description="Validation tokens of an evaluation (fixed windows)")
    keep: Literal["last", "best"] = Field("last", description="Weights of the result: last, or best evaluation")
    # The following settings change speed, memory or safety, never the recipe: but for dropout, which each pass draws.
    micro_batch: int | None = execution_only(
        None,
        gt=0,
        unless="draws_dropout",
        description="Windows a forward pass on one device; smaller needs less memory",
    )
    checkpoint_every: int = execution_only(100, gt=0, description="Steps between checkpoints")
    checkpoint_minutes: float = execution_only(
        30.0, gt=0, description="Minutes after which one is due however few the steps"
    )
    keep_checkpoints: int = execution_only(2, gt=0, description="Checkpoints kept while training")
    extendable: bool | None = execution_only(
        None, description="Keep what a run of more steps can go on from; null: of models of up to 100M parameters"
    )
    device: Literal["auto", "cpu", "cuda", "mps"] = execution_only("auto", description="Device")
    compile: bool | None = execution_only(None, description="torch.compile; null: on a GPU, where it pays")
    processes: int = execution_only(
        1, gt=0, unless="draws_dropout", description="Processes to train with, one a GPU, started by torchrun"
    )
    parallel: Literal["ddp", "fsdp"] = execution_only(
        "ddp", description="On several devices: replicate, or shard weights (FSDP2)"
    )
    log_every: int = execution_only(10, gt=0, description="Steps between lines of the log")
    tensorboard: bool = execution_only(False, description="Also write TensorBoard events (needs textmill[tensorboard])")
    wandb: bool = execution_only(
        False, description="Also log to Weights & Biases, offline unless WANDB_MODE says otherwise (textmill[wandb])"
    )

    @property
    def draws_dropout(self) -> bool:
        """Whether passes draw dropout: then which windows pass together, and where, decides what is dropped."""
        return False

    @property
    def progressive_steps(self) -> int:
        """Steps, from the start, that train fewer layers than there are: none, where nothing else is said."""
        return 0

    def active_layers(self, step: int) -> int | None:
        """How many layers this step (0-based) trains; None for all of them."""
        return None

    def weights_ahead(self, step: int) -> list[float]:
        """What the losses of the tokens after the next one weigh in this step (0-based); none: they are not trained."""
        return []

    @model_validator(mode="after")
    def _weights_all_or_none(self) -> RunConfig:
        weights = {name: source.weight for name, source in self.mixture.items()}
        if any(weight is not None for weight in weights.values()):
            for name, weight in weights.items():
                if weight is None:
                    raise ValueError(f"mixture.{name} has no weight but others have: give each one, 0 leaves it out")
            if not any(weights.values()):
                raise ValueError("every weight of the mixture is 0: give at least one source more")
        return self

    @model_validator(mode="after")
    def _fits_together(self) -> RunConfig:
        if self.schedule.warmup >= self.steps:
            raise ValueError(f"schedule.warmup {self.schedule.warmup} leaves nothing of steps {self.steps}; lower it")
        if self.batch % self.processes:
            raise ValueError(f"batch {self.batch} does not divide over processes {self.processes}; make it a multiple")
        return self
