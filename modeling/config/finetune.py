"""Tunings of a checkpoint."""

from __future__ import annotations

from typing import Literal

from pydantic import Field, field_validator, model_validator

from modeling.config.objective import MaskingConfig
from modeling.config.optimization import OptimizerConfig, ScheduleConfig, finetuning_optimizer
from modeling.config.run import RunConfig
from textmill.settings import added

FINETUNING_WARMUP = 0.1  # share of the steps


class TuningConfig(RunConfig):
    """What tunings of a checkpoint have in common.

    A pipeline lays what is given of `optimizer` over that of its pretraining (`finetuning_optimizer`), and takes the
    dropout from there too.
    """

    steps: int = Field(100, gt=0, description="Optimizer steps")
    optimizer: OptimizerConfig = Field(
        default_factory=OptimizerConfig,
        description="Optimizer; what is not given is that of pretraining, with a tenth of its rates",
    )
    schedule: ScheduleConfig = Field(
        default_factory=ScheduleConfig, description="Learning-rate schedule; warms up over a tenth of the steps"
    )
    dropout: float | None = Field(None, ge=0, lt=1, description="Dropout; null: that of pretraining")

    @model_validator(mode="after")
    def _fill_in(self) -> TuningConfig:
        self.optimizer = finetuning_optimizer(OptimizerConfig(), self.optimizer)
        if "warmup" not in self.schedule.model_fields_set:
            self.schedule = self.schedule.model_copy(update={"warmup": int(FINETUNING_WARMUP * self.steps)})
        return self

    @property
    def draws_dropout(self) -> bool:
        return bool(self.dropout)


class FinetuneConfig(TuningConfig, MaskingConfig):
    """Masked language modelling (Devlin et al. 2019) from a causal checkpoint's weights (BehnamGhader et al. 2024).

    A pipeline takes `shift` from the pretraining too.
    """

    shift: bool | None = Field(  # type: ignore[assignment]
        None, description="Predict token i from position i-1, as causal weights learned to; null: as in pretraining"
    )
    attend: Literal["window", "document"] | None = added(
        None, description="What a position sees: the window, or only its own document; null: as in pretraining"
    )
    pair_length: int = Field(
        128, ge=8, description="Tokens of a window with a pair of sentences, at most the context; longer pairs are cut"
    )
    sample_blank: str = Field("The [MASK] of the", description="Text whose blank is filled for the report")

    @field_validator("sample_blank")
    @classmethod
    def _has_a_blank(cls, text: str) -> str:
        if "[MASK]" not in text:
            raise ValueError("write [MASK] where a token is to be filled in")
        return text

    @property
    def masking(self) -> MaskingConfig:
        """What decides about masking, which is among the settings here; predictions are shifted, unless said."""
        values = {name: getattr(self, name) for name in MaskingConfig.model_fields}
        return MaskingConfig.model_construct(**values | {"shift": self.shift is not False})
