"""Networks: their kinds, shapes and parts."""

from __future__ import annotations

from typing import Annotated, Any, Literal

from pydantic import Discriminator, Field, Tag, TypeAdapter, field_validator, model_validator

from modeling.config.section import Section
from textmill.settings import added


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
    norm_place: Literal["pre", "post", "none"] = added(
        "pre", description="Normalize what goes into attention and feed-forward, the stream after each, or nothing"
    )
    residual: bool = added(
        True, description="Add to the stream what attention and feed-forward make; false: replace it"
    )
    bias: bool = Field(False, description="Biases in linear layers and LayerNorm")
    tied: bool = Field(False, description="One matrix for embedding and head")
    dropout: float = Field(0.0, ge=0, lt=1, description="Dropout on attention, residual branches and embedding")
    zero_init: bool = Field(True, description="Start every block as the identity: output projections are zero")
    softcap: float | None = Field(None, gt=0, description="Bound logits to +-softcap by tanh; null for none")

    @property
    def edges_rate(self) -> float:
        """AdamW's rate of the coefficients of a KAN's edges, as a share of the rate of the matrices."""
        return 1.0

    @model_validator(mode="after")
    def _blocks_pass_a_signal_on(self) -> NetworkConfig:
        if self.zero_init and not self.residual:
            raise ValueError("without residual, blocks that start at zero pass nothing on; set zero_init: false")
        return self

    @property
    def lacks_of_identity(self) -> str | None:
        """The setting without which a new block is not the identity; None: it is."""
        if not self.residual:
            return "residual"
        if self.norm_place == "post":
            return "norm_place: pre"
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
    def _squares_do_not_pile_up(self) -> AttentionConfig:
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
    # not `added`, as above: these two were in the fingerprints of recurrent networks from the first
    norm_place: Literal["pre", "post", "none"] = Field(
        "pre", description="Normalize what goes into cell and feed-forward, the stream after each, or nothing"
    )
    residual: bool = Field(True, description="Add to the stream what cell and feed-forward make; false: replace it")

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
