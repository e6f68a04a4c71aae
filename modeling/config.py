"""What a training run is made of: model, optimizer, schedule, run. Presets give the values, explicit keys win.

A run is written as `{preset: nano, steps: 300, model: {layers: 6}}` or with one dial, `{depth: 6}`. Whatever the preset
or the dial decides is filled in when the configuration is read, so that a validated configuration names every value.
"""

from __future__ import annotations

from collections.abc import Collection
from pathlib import Path
from typing import Annotated, Any, Literal, NamedTuple

from pydantic import BaseModel, ConfigDict, Discriminator, Field, Tag, TypeAdapter, field_validator, model_validator

from modeling.scaling import derive, rounded
from textmill.errors import UserError
from textmill.settings import added, execution_only, merged

MAX_SEED = 2**63 - 1
IMPORTED_SUFFIXES = (".json", ".safetensors", ".yaml", ".tiktoken")


def _hide_defaults(schema: dict[str, Any]) -> None:
    """A form that prefills class defaults would silently overrule the preset."""
    for field in schema.get("properties", {}).values():
        field.pop("default", None)


class Section(BaseModel):
    """Settings that know all their keys."""

    model_config = ConfigDict(extra="forbid", json_schema_extra=_hide_defaults)


class MLPConfig(Section):
    """Two linear layers with `activation` between them."""

    kind: Literal["mlp"]

    @property
    def features(self) -> int:
        """How many values a layer's product has of each input."""
        return 1


class SplineConfig(Section):
    """A KAN whose edge functions are splines (Liu et al. 2024)."""

    kind: Literal["kan-spline"]
    grid: int = Field(5, ge=1, le=256, description="Intervals between the knots, within [-2, 2]")
    order: int = Field(3, ge=1, le=5, description="Degree of the splines")
    edges_rate: float = Field(0.1, gt=0, description="AdamW's rate of the edges' coefficients, as a share")

    @property
    def features(self) -> int:
        """How many values a layer's product has of each input: its basis functions, and the base function."""
        return self.grid + self.order + 1


class RBFConfig(Section):
    """A KAN whose edge functions are sums of Gaussians (Li 2024, FastKAN)."""

    kind: Literal["kan-rbf"]
    grid: int = Field(8, ge=2, le=256, description="Gaussians, their centers within [-2, 2]")
    edges_rate: float = Field(0.1, gt=0, description="AdamW's rate of the edges' coefficients, as a share")

    @property
    def features(self) -> int:
        """How many values a layer's product has of each input: its basis functions, and the base function."""
        return self.grid + 1


class RationalConfig(Section):
    """A KAN whose inputs go through rational functions, one for each group of them (Yang & Wang 2024, KAT)."""

    kind: Literal["kan-rational"]
    groups: int = Field(8, gt=0, description="Groups of inputs; must divide width and hidden")

    @property
    def features(self) -> int:
        """How many values a layer's product has of each input."""
        return 1


FeedForwardConfig = MLPConfig | SplineConfig | RBFConfig | RationalConfig
FEED_FORWARD_KINDS = "mlp, kan-spline, kan-rbf, kan-rational"
NETWORK_KINDS = "transformer, recurrent, encoder-decoder"


class NetworkConfig(Section):
    """What every kind of network has."""

    layers: int = Field(6, gt=0, description="Blocks")
    width: int = Field(384, gt=0, description="Size of the residual stream (embedding size)")
    context: int = Field(256, gt=0, description="Tokens a window holds")
    norm: Literal["rms", "layer"] = Field("rms", description="RMSNorm without weights, or LayerNorm")
    bias: bool = Field(False, description="Biases in linear layers and LayerNorm")
    tied: bool = Field(False, description="One matrix for embedding and head")
    dropout: float = Field(0.0, ge=0, lt=1, description="Dropout on attention, residual branches and embedding")
    zero_init: bool = Field(True, description="Start every block as the identity: output projections are zero")
    softcap: float | None = Field(None, gt=0, description="Bound logits to +-softcap by tanh; null for none")

    @property
    def edges_rate(self) -> float:
        """AdamW's rate of the coefficients of a KAN's edges, as a share of the rate of the matrices."""
        return 1.0

    @property
    def lacks_of_identity(self) -> str | None:
        """The setting without which a new block is not the identity; None: it is."""
        return None if self.zero_init else "zero_init"


class AttentionConfig(NetworkConfig):
    """Blocks of attention and feed-forward. The defaults are the modern ones; `classic` presets are the same blocks."""

    heads: int = Field(6, gt=0, description="Attention heads; must divide width")
    kv_heads: int | None = Field(None, gt=0, description="Key/value heads, fewer for grouped-query attention")
    hidden: int | None = Field(
        None, gt=0, description="Feed-forward units; default as many weights as 4 x width have (SwiGLU: 8/3 x width)"
    )
    activation: Literal["relu2", "swiglu", "gelu", "relu", "silu"] = Field(
        "relu2", description="Feed-forward nonlinearity; of a KAN its base function, or what its rationals begin as"
    )
    feed_forward: FeedForwardConfig = added(
        MLPConfig(kind="mlp"),
        discriminator="kind",
        description=f"Feed-forward, by its kind, which may stand alone: {FEED_FORWARD_KINDS}",
    )
    norm_place: Literal["pre", "post", "none"] = added(
        "pre", description="Normalize what goes into attention and feed-forward, the stream after each, or nothing"
    )
    residual: bool = added(
        True, description="Add to the stream what attention and feed-forward make; false: replace it"
    )
    positions: Literal["rope", "learned"] = Field("rope", description="Rotary or learned absolute positions")
    rope_base: float = Field(10_000.0, gt=1, description="Base of the rotary frequencies")
    attention_scale: Literal["head", "width"] = added(
        "head", description="Divide attention logits by the root of the head size, or, as a mistake has it, of width"
    )
    qk_norm: bool = Field(True, description="Normalize queries and keys, which keeps attention logits bounded")

    @field_validator("feed_forward", mode="before")
    @classmethod
    def _kind_may_stand_alone(cls, given: Any) -> Any:
        if isinstance(given, dict) and "kind" not in given:
            raise ValueError(f"say which kind: {FEED_FORWARD_KINDS}")
        kind = given.get("kind") if isinstance(given, dict) else given
        if isinstance(kind, str) and kind not in FEED_FORWARD_KINDS.split(", "):
            raise ValueError(f"there is no such kind of feed-forward; choose from {FEED_FORWARD_KINDS}")
        return {"kind": given} if isinstance(given, str) else given

    @property
    def edges_rate(self) -> float:
        return self.feed_forward.edges_rate if isinstance(self.feed_forward, SplineConfig | RBFConfig) else 1.0

    @model_validator(mode="after")
    def _shapes_fit(self) -> AttentionConfig:
        if self.width % self.heads:
            raise ValueError(f"width {self.width} is not a multiple of heads {self.heads}")
        if self.heads % (self.kv_heads or self.heads):
            raise ValueError(f"heads {self.heads} is not a multiple of kv_heads {self.kv_heads}")
        if self.positions == "rope" and self.width // self.heads % 2:
            raise ValueError(f"rotary positions need an even head size; width {self.width} / heads {self.heads} is odd")
        return self

    @model_validator(mode="after")
    def _blocks_pass_a_signal_on(self) -> AttentionConfig:
        if self.zero_init and not self.residual:
            raise ValueError("without residual, blocks that start at zero pass nothing on; set zero_init: false")
        if not self.residual and self.norm_place == "none" and self.activation == "relu2":
            raise ValueError("without residual and norms, relu2 squares the stream over and over; choose relu or gelu")
        return self

    @model_validator(mode="after")
    def _feed_forward_fits(self) -> AttentionConfig:
        kind = self.feed_forward.kind
        if kind != "mlp" and self.activation == "swiglu":
            raise ValueError(f"feed_forward {kind} has no gate for activation swiglu; choose relu2, gelu, relu or silu")
        if isinstance(self.feed_forward, RationalConfig):
            groups = self.feed_forward.groups
            for name, units in (("width", self.width), ("hidden", self.hidden_units)):
                if units % groups:
                    raise ValueError(f"{name} {units} is not a multiple of feed_forward.groups {groups}")
        return self

    @property
    def lacks_of_identity(self) -> str | None:
        if not self.residual:
            return "residual"
        return "norm_place: pre" if self.norm_place == "post" else super().lacks_of_identity

    @property
    def head_size(self) -> int:
        return self.width // self.heads

    @property
    def value_layers(self) -> list[int]:
        """The layers with a token embedding that is added to the values of their attention."""
        return []

    @property
    def hidden_units(self) -> int:
        if self.hidden:
            return self.hidden
        if self.feed_forward.features > 1:
            return max(8, 8 * round(4 * self.width / self.feed_forward.features / 8))
        return 4 * self.width if self.activation != "swiglu" else -(-8 * self.width // (3 * 32)) * 32


class TransformerConfig(AttentionConfig):
    """A decoder of `layers` equal blocks: the GPT."""

    kind: Literal["transformer"] = added("transformer", description=f"Network: {NETWORK_KINDS}")
    value_embeddings: bool = Field(False, description="Add a gated token embedding to the values of every other layer")
    x0_skip: bool = Field(False, description="Every block also sees the normalized embedding, by a learned scale")
    smear: bool = Field(False, description="Mix a little of the previous token's embedding into each position")
    bigrams: int = Field(0, ge=0, description="Size of a hashed table of embeddings of token pairs; 0 for none")

    @property
    def bigram_channels(self) -> int:
        """Leading channels of the stream that the embeddings of bigrams are added to."""
        return min(128, self.width)

    @property
    def value_layers(self) -> list[int]:
        return list(range((self.layers - 1) % 2, self.layers, 2)) if self.value_embeddings else []  # the last has one


class EncoderDecoderConfig(AttentionConfig):
    """An encoder that reads a source, and a decoder of `layers` blocks that writes a target (Vaswani et al. 2017)."""

    kind: Literal["encoder-decoder"] = Field(description=f"Network: {NETWORK_KINDS}")
    encoder_layers: int | None = Field(None, gt=0, description="Blocks of the encoder; default: as many as layers")

    @property
    def source_layers(self) -> int:
        return self.encoder_layers or self.layers


class RecurrentConfig(NetworkConfig):
    """Recurrent layers, each with one of the cells; a row's windows follow each other, and its state is carried on."""

    kind: Literal["recurrent"] = Field(description=f"Network: {NETWORK_KINDS}")
    cell: Literal["rnn", "gru", "lstm", "mingru"] = Field("lstm", description="What a layer does with its state")
    hidden: int | None = Field(None, gt=0, description="Size of a layer's state; default: the width")
    feed_forward: int = Field(0, ge=0, description="Units of a feed-forward (squared ReLU) after each cell; 0 for none")
    norm_place: Literal["pre", "post", "none"] = Field(
        "pre", description="Normalize what goes into cell and feed-forward, the stream after each, or nothing"
    )
    residual: bool = Field(True, description="Add to the stream what cell and feed-forward make; false: replace it")

    @model_validator(mode="after")
    def _blocks_pass_a_signal_on(self) -> RecurrentConfig:
        if self.zero_init and not self.residual:
            raise ValueError("without residual, blocks that start at zero pass nothing on; set zero_init: false")
        return self

    @property
    def lacks_of_identity(self) -> str | None:
        if not self.residual:
            return "residual"
        return "norm_place: pre" if self.norm_place == "post" else super().lacks_of_identity

    @property
    def hidden_units(self) -> int:
        return self.hidden or self.width


def network_kind(given: Any) -> str:
    """The kind of network that settings are of, given as keys or read: a transformer, unless they say otherwise."""
    return str(given.get("kind", "transformer") if isinstance(given, dict) else getattr(given, "kind", "transformer"))


ModelConfig = Annotated[
    Annotated[TransformerConfig, Tag("transformer")]
    | Annotated[RecurrentConfig, Tag("recurrent")]
    | Annotated[EncoderDecoderConfig, Tag("encoder-decoder")],
    Discriminator(
        network_kind,
        custom_error_type="network_kind",
        custom_error_message=f"there is no such kind of network; choose from {NETWORK_KINDS}",
    ),
]
NETWORKS: dict[str, type[NetworkConfig]] = {
    "transformer": TransformerConfig, "recurrent": RecurrentConfig, "encoder-decoder": EncoderDecoderConfig,
}  # fmt: skip
MODEL_CONFIG: TypeAdapter[TransformerConfig | RecurrentConfig | EncoderDecoderConfig] = TypeAdapter(ModelConfig)


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


RATES = ("lr", "matrix_lr", "embedding_lr", "head_lr", "scalar_lr")
FINETUNING_RATE = 0.1  # of the rates of pretraining, where fine-tuning is given none (swept: modeling/LOG.md)
FINETUNING_WARMUP = 0.1  # share of the steps


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


class SourceTarget(NamedTuple):
    """Tokens of a source and of its target."""

    source: int
    target: int


def token_count(window: int | SourceTarget) -> int:
    """Tokens of a window, or of a source and its target together."""
    return window if isinstance(window, int) else sum(window)


class SpanCorruptionConfig(Section):
    """Which spans of a text are hidden from an encoder-decoder, which writes them (Raffel et al. 2020, T5)."""

    noise_density: float = Field(0.15, gt=0, lt=1, description="Share of the tokens that is hidden")
    mean_span: float = Field(3.0, ge=1, description="Tokens of a hidden span, on average")

    def counts(self, length: int) -> tuple[int, int]:
        """How many tokens of a window of `length` are hidden, and in how many spans: each has a token before it."""
        noise = min(max(round(length * self.noise_density), 1), length - 1)
        return noise, min(max(round(noise / self.mean_span), 1), length - noise)

    def lengths(self, length: int) -> SourceTarget:
        """Of a window of `length`: a sentinel for each span on both sides, and the end of each side."""
        noise, spans = self.counts(length)
        return SourceTarget(length - noise + spans + 1, noise + spans + 1)

    def window(self, context: int) -> int:
        """Tokens of the longest window whose source and target have at most `context` tokens each, at least 2."""
        length = 2
        while max(self.lengths(length + 1)) <= context:
            length += 1
        return length


EVALUATED_SPANS = SpanCorruptionConfig()  # whatever training hides, so that runs compare


class MultiTokenConfig(Section):
    """Multi-token prediction: what a position says of the next token also has to give account of those after it.

    Gloeckle et al. 2024 give each of them a head. Here the same logits serve all, and the model stays what it is.
    """

    weights: list[Annotated[float, Field(ge=0, le=1)]] = Field(
        min_length=1, max_length=8,
        description="What the losses of the token after the next, of the one after that, and so on weigh at first; "
        "that of the next weighs 1",
    )  # fmt: skip
    until: float = Field(0.5, gt=0, le=1, description="Share of the steps over which these weights fall to 0")

    def at(self, step: int, steps: int) -> list[float]:
        """The weights of a step (0-based) of a run; none from where they are 0."""
        left = 1 - step / (self.until * steps)
        return [left * weight for weight in self.weights] if left > 0 else []


class ProgressiveConfig(Section):
    """Progressive training (Bu et al. 2025, Deep Progressive Training): layers that join late, as the identity."""

    layers: int = Field(1, ge=0, description="Layers that are trained at first, evenly spaced, the last among them")
    until: float = Field(gt=0, lt=1, description="Share of the steps after which the others join them")


MODERN_TINY: dict[str, Any] = {"width": 256, "heads": 4, "layers": 4, "context": 256}
CLASSIC: dict[str, Any] = {
    "activation": "relu", "norm": "layer", "positions": "learned", "qk_norm": False, "bias": True,
    "zero_init": False,
}  # fmt: skip
MODERN: dict[str, Any] = {name: TransformerConfig.model_fields[name].default for name in CLASSIC}
MUON: dict[str, Any] = OptimizerConfig().model_dump(exclude={"lr"})
ADAMW: dict[str, Any] = {"name": "adamw", "beta1": 0.9, "beta2": 0.95, "weight_decay": 0.1, "clip": 1.0}

PRESETS: dict[str, dict[str, Any]] = {
    # the report's two settings; its cosine schedule is applied here
    "test": {
        "model": CLASSIC | {"width": 8, "context": 4, "heads": 4, "layers": 3, "dropout": 0.1},
        "optimizer": ADAMW | {"lr": 1e-3}, "schedule": {"shape": "cosine"}, "batch": 8, "steps": 5000,
    },
    "chimera": {
        "model": CLASSIC | {"width": 384, "context": 256, "heads": 6, "layers": 6, "dropout": 0.2},
        "optimizer": ADAMW | {"lr": 3e-4}, "schedule": {"shape": "cosine"}, "batch": 64, "steps": 5000,
    },
    # minutes on a laptop, loads in transformers without custom code
    "nano": {"model": MODERN_TINY, "batch": 16, "steps": 200, "evaluate_every": 50, "evaluate_tokens": 32_768},
    # the same with the parts that need custom code to load elsewhere but learn faster
    "nano-fast": {
        "model": MODERN_TINY | {"value_embeddings": True, "x0_skip": True, "smear": True, "bigrams": 2**17},
        "batch": 16, "steps": 300,
    },
    # a few megabytes of text, read several times: without tables, which learn by heart (modeling/LOG.md)
    "small-data": {
        "model": MODERN_TINY | {"x0_skip": True, "smear": True, "dropout": 0.1},
        "optimizer": {"weight_decay": 0.5}, "batch": 16, "steps": 1300,
    },
    # Radford et al. 2019 as trained by nanoGPT: 491,520 tokens a step
    "gpt2-124m": {
        "model": CLASSIC
        | {"width": 768, "context": 1024, "heads": 12, "layers": 12, "activation": "gelu", "tied": True},
        "optimizer": ADAMW | {"lr": 6e-4}, "schedule": {"shape": "cosine", "warmup": 2000, "final": 0.1},
        "batch": 480, "micro_batch": 12, "steps": 600_000, "evaluate_every": 1000, "checkpoint_every": 1000,
    },
}  # fmt: skip


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


class MaskingConfig(Section):
    """Which tokens are hidden from a masked model (Devlin et al. 2019), and where it predicts them."""

    mask_rate: float = Field(0.3, gt=0, lt=1, description="Share of tokens to predict in training (Wettig et al. 2023)")
    mask_random: float = Field(0.1, ge=0, le=1, description="Of these, share replaced by a random token, not [MASK]")
    mask_keep: float = Field(0.1, ge=0, le=1, description="Of these, share left as they are")
    mask_unit: Literal["token", "word", "span"] = added(
        "token", description="What is hidden whole in training: tokens, words, or spans of words"
    )
    span_length: float = added(
        5.0, ge=1, description="span: mean words of one; lengths are geometric, and cut at 10 (Joshi et al. 2020)"
    )
    evaluate_mask_rate: float = Field(0.15, gt=0, lt=1, description="Share of tokens masked in evaluation")
    shift: bool = Field(True, description="Predict token i from position i-1, as the causal weights learned to")

    @model_validator(mode="after")
    def _rates_fit(self) -> MaskingConfig:
        if self.mask_random + self.mask_keep > 1:
            raise ValueError("mask_random + mask_keep exceed 1")
        return self

    @model_validator(mode="after")
    def _spans_have_a_length(self) -> MaskingConfig:
        if self.mask_unit != "span" and self.span_length != MaskingConfig.model_fields["span_length"].default:
            raise ValueError(f"span_length is of mask_unit: span, not {self.mask_unit}; leave it out")
        return self


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
