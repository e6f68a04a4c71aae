"""A pretraining, or the weights of others in its place."""

from __future__ import annotations

from pathlib import Path
from typing import Any, Literal

from pydantic import BaseModel, Field, field_validator, model_validator

from modeling.config.network import (
    NETWORKS,
    EncoderDecoderConfig,
    ModelConfig,
    RecurrentConfig,
    TransformerConfig,
    network_kind,
)
from modeling.config.objective import (
    EVALUATED_SPANS,
    MaskingConfig,
    MultiTokenConfig,
    SourceTarget,
    SpanCorruptionConfig,
)
from modeling.config.optimization import refuse_unused_rates
from modeling.config.presets import PRESETS
from modeling.config.run import RunConfig
from modeling.config.section import Section
from modeling.scaling import derive
from textmill.errors import UserError
from textmill.settings import added, execution_only, merged

IMPORTED_SUFFIXES = (".json", ".safetensors", ".yaml", ".tiktoken")


class ProgressiveConfig(Section):
    """Progressive training (Bu et al. 2025, Deep Progressive Training): layers that join late, as the identity."""

    layers: int = Field(1, ge=0, description="Layers that are trained at first, evenly spaced, the last among them")
    until: float = Field(gt=0, lt=1, description="Share of the steps after which the others join them")


class PretrainConfig(RunConfig):
    """Pretraining from scratch: `preset` or `depth` fills in the settings that are not given."""

    preset: str = execution_only(
        "nano",
        description="Where settings come from that are not given: " + ", ".join(PRESETS),
        json_schema_extra={"enum": list(PRESETS)},
    )
    depth: int | None = execution_only(None, gt=0, description="One dial: derives width, heads, batch, steps, rates")
    model: ModelConfig = Field(default_factory=TransformerConfig, description="Architecture")
    progressive: ProgressiveConfig | None = Field(
        None, description="Train a few layers first, and let the others join later; null: all from the start"
    )
    attend: Literal["window", "document"] = added(
        "window", description="What a position sees: the window, or only its own document"
    )
    multi_token: MultiTokenConfig | None = added(
        None, description="Also predict the tokens after the next, at first; null: the next alone"
    )
    train_share: float = added(
        1.0, gt=0, le=1, description="Share of the tokens to train on, in whole documents, the same for every seed"
    )
    spans: SpanCorruptionConfig = added(
        SpanCorruptionConfig(), description="What is hidden from an encoder-decoder on running text"
    )
    objective: Literal["causal", "masked", "mixed"] = added(
        "causal", description="Predict the next token, hidden ones, or both in turn (Charpentier & Samuel 2024)"
    )
    masked_share: float = added(
        1 / 64,
        ge=0,
        lt=1,
        description="mixed: share of the windows in which hidden tokens are predicted; 0: only in evaluations",
    )
    masking: MaskingConfig = added(MaskingConfig(), description="masked, mixed: which tokens are hidden")
    sample_prompt: str = Field("The", description="Prompt of the sample text in the report")
    sample_tokens: int = Field(100, ge=0, description="Tokens of the sample text")

    @model_validator(mode="before")
    @classmethod
    def _fill_in(cls, given: Any) -> Any:
        if not isinstance(given, dict):
            return given
        explicit: dict[str, Any] = {  # null and {} say nothing, and of a model only what was set
            key: value.model_dump(exclude_unset=True) if isinstance(value, BaseModel) else value
            for key, value in given.items()
            if value is not None
        }
        preset = PRESETS.get(explicit.get("preset", "nano"), {})
        depth = explicit.get("depth")
        derived = derive(depth) if isinstance(depth, int) and depth > 0 else {}
        known = merged(preset, derived)
        if network := NETWORKS.get(network_kind(explicit.get("model"))):  # a preset may be of another kind
            own = {key: value for key, value in known.get("model", {}).items() if key in network.model_fields}
            known["model"] = own
        said = {key: value for key, value in explicit.items() if value != {}}
        settled = merged(known, said)
        if isinstance(given_optimizer := said.get("optimizer"), dict):
            refuse_unused_rates("optimizer", settled["optimizer"].get("name", "muon"), given_optimizer)
        return settled

    @model_validator(mode="after")
    def _layers_can_join(self) -> PretrainConfig:
        if self.progressive and (lacks := self.model.lacks_of_identity):
            raise ValueError(
                f"layers can join later only if they start as the identity; set model.{lacks}, or progressive: null"
            )
        return self

    @model_validator(mode="after")
    def _objective_fits(self) -> PretrainConfig:
        if self.objective != "causal" and not isinstance(self.model, TransformerConfig):
            kind = network_kind(self.model)
            raise ValueError(f"objective: {self.objective} is of model.kind: transformer, not {kind}; leave it out")
        if self.objective == "causal" and self.masking != MaskingConfig():
            raise ValueError("masking hides nothing from objective: causal; set objective: masked or mixed")
        if self.objective != "mixed" and self.masked_share != PretrainConfig.model_fields["masked_share"].default:
            raise ValueError(f"masked_share is of objective: mixed, not {self.objective}; leave it out")
        if self.objective == "mixed" and not self.masking.shift:
            raise ValueError("mixed predicts blanks from the position before them, as next tokens; set masking.shift")
        return self

    @model_validator(mode="after")
    def _mixed_fits_the_run(self) -> PretrainConfig:
        if self.objective != "mixed":
            return self
        windows = self.steps * self.batch
        if 0 < windows * self.masked_share < 1:
            raise ValueError(
                f"masked_share {self.masked_share:g} of {windows:,} windows is less than one; raise it, or set "
                "masked_share: 0, which predicts hidden tokens only in evaluations"
            )
        if self.parallel == "fsdp":  # each pass gathers the shards, and ranks may have windows of one kind or of both
            raise ValueError("objective: mixed does not train with shared out weights; set parallel: ddp")
        return self

    @model_validator(mode="after")
    def _multi_token_fits(self) -> PretrainConfig:
        if self.multi_token and (self.objective != "causal" or not isinstance(self.model, TransformerConfig)):
            raise ValueError("multi_token is of objective: causal and model.kind: transformer; leave it out")
        return self

    @model_validator(mode="after")
    def _train_share_fits(self) -> PretrainConfig:
        if self.train_share < 1 and self.mixture:
            raise ValueError("train_share is of all sources alike; leave it out, or the mixture")
        return self

    @property
    def learned(self) -> Literal["causal", "masked", "mixed"]:
        """The objective that windows are trained on."""
        return "causal" if self.objective == "mixed" and not self.masked_share else self.objective

    @model_validator(mode="after")
    def _encoder_decoder_fits(self) -> PretrainConfig:
        if not isinstance(self.model, EncoderDecoderConfig):
            if self.spans != EVALUATED_SPANS:
                raise ValueError("spans are hidden from an encoder-decoder alone; set model.kind, or leave spans out")
        elif self.progressive:
            raise ValueError("layers of an encoder-decoder do not join late; leave progressive out")
        elif self.attend != "window":
            raise ValueError("an encoder-decoder sees all of its source; leave attend out")
        elif (least := max(max(spans.lengths(2)) for spans in (self.spans, EVALUATED_SPANS))) > self.model.context:
            raise ValueError(
                f"model.context {self.model.context} has no room for a span and its end; set {least} or more"
            )
        return self

    @property
    def window(self) -> int | SourceTarget:
        """Tokens of a window of running text, as the model is shown it."""
        context = self.model.context
        if isinstance(self.model, EncoderDecoderConfig):
            return self.spans.lengths(self.spans.window(context))
        return context

    def sentinels(self) -> int:
        """How many sentinels the tokenizer has to have: one for each span of a window."""
        if not isinstance(self.model, EncoderDecoderConfig):
            return 0
        each = (self.spans, EVALUATED_SPANS)
        return max(spans.counts(spans.window(self.model.context))[1] for spans in each)

    @model_validator(mode="after")
    def _a_recurrent_network_reads_on(self) -> PretrainConfig:
        if isinstance(self.model, RecurrentConfig):
            for name, changes in {
                "mixture": self.mixture, "window_start": self.window_start != "anywhere",
                "attend": self.attend != "window",
            }.items():  # fmt: skip
                if changes:
                    raise ValueError(f"a recurrent network reads the whole corpus in its order; leave {name} out")
        return self

    @property
    def draws_dropout(self) -> bool:
        return self.model.dropout > 0

    @property
    def progressive_steps(self) -> int:
        """Steps, from the start, that train fewer layers than there are."""
        progressive = self.progressive
        if progressive is None or progressive.layers >= self.model.layers:
            return 0
        return round(progressive.until * self.steps)

    def active_layers(self, step: int) -> int | None:
        return self.progressive.layers if self.progressive and step < self.progressive_steps else None

    def weights_ahead(self, step: int) -> list[float]:
        return self.multi_token.at(step, self.steps) if self.multi_token else []

    @field_validator("preset")
    @classmethod
    def _preset_exists(cls, name: str) -> str:
        if name not in PRESETS:
            raise ValueError(f"there is no preset {name!r}; choose from {', '.join(PRESETS)}")
        return name


class ImportConfig(Section):
    """Weights of others, to start from in place of a pretraining."""

    path: str = execution_only(
        min_length=1, description="Folder of a transformers checkpoint of a supported class, with its tokenizer"
    )

    def files(self) -> list[Path]:
        """What is read of the folder: settings, weights and tokenizer, in the order of their names.

        Raises:
            UserError: there is no such folder.
        """
        folder = Path(self.path)
        if not folder.is_dir():
            raise UserError(f"{folder} is no folder; give one that transformers' save_pretrained wrote")
        return sorted(path for path in folder.iterdir() if path.suffix in IMPORTED_SUFFIXES and path.is_file())
