"""An encoder that reads a source, and a decoder that writes a target and looks at it (Vaswani et al. 2017).

The blocks are those of `transformer`; between self-attention and feed-forward, each of the decoder's also attends to
what the encoder made of the source. One embedding serves both sides. Positions count from 0 in the source and in the
target; across them there are none, as in T5 (Raffel et al. 2020). Padding of the source is not seen; that of the
target comes after its end, where a causal decoder does not look.

Shape suffixes are those of `transformer`, but for two:

    S  tokens of a source              T  tokens of a target
"""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, NamedTuple, cast

import torch
from torch import Tensor, nn

from modeling.networks.functional import attention, rms_norm, to_product_dtype
from modeling.networks.language_model import LanguageModel, ParameterKind, State
from modeling.networks.loss_head import cross_entropy, token_losses
from modeling.networks.transformer import (
    MLP,
    Attention,
    Block,
    KeyValueCache,
    Norm,
    at_positions,
    parameter_kinds,
    rotary_table,
    rotate,
)

if TYPE_CHECKING:
    from modeling.config.network import EncoderDecoderConfig

__all__ = ["EncoderDecoder", "SourceState", "Sources"]

Rotary = tuple[Tensor, Tensor] | None  # cosines and sines [T, D / 2]
Memory = Tensor | tuple[Tensor, Tensor]  # of a source: the encoder's states, or a layer's keys and values


class Sources(NamedTuple):
    """What targets are written from.

    Attributes:
        ids: int64 [B, S].
        lengths: int64 [B], how many tokens of each are no padding; None: all of all.
        counts: fp32 [B, T], what each target is multiplied by in the mean loss, 0 in the padding; None: 1.
    """

    ids: Tensor
    lengths: Tensor | None = None
    counts: Tensor | None = None


class SourceState(State):
    """Sources that were read, and the targets so far.

    Attributes:
        layers: what each layer of the decoder attends to: the encoder's states [B, S, W], from which it makes keys and
            values, or these, [B, G, S, D] each.
        seen: bool [B, 1, 1, S], false in the padding of the sources; None where there is none.
        written: keys and values of the targets; None: they are not kept, and a target is read in one piece.
    """

    def __init__(self, layers: list[Memory], seen: Tensor | None, written: KeyValueCache | None = None):
        self.layers, self.seen, self.written = layers, seen, written

    def reorder(self, rows: Tensor) -> None:
        """Go on with these rows of the batch (int64), in this order: a row may be left out, or go on several times."""
        self.layers = [m[rows] if isinstance(m, Tensor) else (m[0][rows], m[1][rows]) for m in self.layers]
        if self.seen is not None:
            self.seen = self.seen[rows]
        if self.written is not None:
            self.written.keys, self.written.values = self.written.keys[:, rows], self.written.values[:, rows]


class SourceAttention(Attention):
    """Attention to a source of which the padding is not seen: the encoder's to itself, and the decoder's to it."""

    def keys_values(self, source_BSW: Tensor, rotary: Rotary = None) -> tuple[Tensor, Tensor]:
        """Keys and values [B, G, S, D] of a source."""
        B, S, _ = source_BSW.shape
        k_BGSD = self.k(source_BSW).view(B, S, -1, self.config.head_size).transpose(1, 2)
        v_BGSD = self.v(source_BSW).view(B, S, -1, self.config.head_size).transpose(1, 2)
        if rotary is not None:
            k_BGSD = rotate(k_BGSD, *rotary)
        return (rms_norm(k_BGSD) if self.config.qk_norm else k_BGSD), v_BGSD

    def forward(  # type: ignore[override]
        self, x_BTW: Tensor, keys_values: tuple[Tensor, Tensor], seen: Tensor | None, rotary: Rotary = None
    ) -> Tensor:
        """[B, T, W] to [B, T, W]; the other arguments are those of `SourceState`, of one layer."""
        B, T, W = x_BTW.shape
        q_BHTD = self.q(x_BTW).view(B, T, -1, self.config.head_size).transpose(1, 2)
        if rotary is not None:
            q_BHTD = rotate(q_BHTD, *rotary)
        if self.config.qk_norm:
            q_BHTD = rms_norm(q_BHTD)
        if self.config.attention_scale == "width":  # what follows divides by the root of D
            q_BHTD = q_BHTD * math.sqrt(self.config.head_size / W)
        dropout = self.config.dropout if self.training else 0.0
        y_BHTD = attention(q_BHTD, *keys_values, seen, dropout)
        return self.out(y_BHTD.transpose(1, 2).reshape(B, T, W))


class EncoderBlock(Block):
    """A block whose positions see all of the source."""

    attention: SourceAttention

    def __init__(self, config: EncoderDecoderConfig, layer: int):
        super().__init__(config, layer, causal=False)
        self.attention = SourceAttention(config, layer, causal=False)

    def forward(self, x_BSW: Tensor, seen: Tensor | None, rotary: Rotary) -> Tensor:  # type: ignore[override]
        """[B, S, W] to [B, S, W]; `seen` is that of `SourceState`."""

        def seeing(x_BSW: Tensor) -> Tensor:
            return self.attention(x_BSW, self.attention.keys_values(x_BSW, rotary), seen, rotary)

        x_BSW = self.joined(x_BSW, self.attention_norm, seeing)
        return self.joined(x_BSW, self.feed_forward_norm, self.feed_forward)


class DecoderBlock(Block):
    """A causal block that also attends to the source."""

    def __init__(self, config: EncoderDecoderConfig, layer: int):
        super().__init__(config, layer, causal=True)
        self.cross_norm = nn.Identity() if config.norm_place == "none" else Norm(config)
        self.cross_attention = SourceAttention(config, layer, causal=False)

    def forward(  # type: ignore[override]
        self, x_BTW: Tensor, memory: Memory, seen: Tensor | None, rotary: Rotary, cache: KeyValueCache | None
    ) -> Tensor:
        """[B, T, W] to [B, T, W]; `memory` and `seen` are those of `SourceState`, of this layer."""
        keys_values = self.cross_attention.keys_values(memory) if isinstance(memory, Tensor) else memory
        x_BTW = self.joined(x_BTW, self.attention_norm, lambda x: self.attention(x, rotary, None, cache))
        x_BTW = self.joined(x_BTW, self.cross_norm, lambda x: self.cross_attention(x, keys_values, seen))
        return self.joined(x_BTW, self.feed_forward_norm, self.feed_forward)


class EncoderDecoder(LanguageModel):
    """Ids of sources [B, S] and of targets [B, T] to logits [B, T, V], or straight to a loss.

    A target is written from a token that begins it; what each of its positions is to predict is the next one. There
    are no packed documents: every source and every target is one.
    """

    config: EncoderDecoderConfig
    rotary_cos: Tensor  # [context, D / 2]; like the sines only where positions are rotary
    rotary_sin: Tensor

    def __init__(self, config: EncoderDecoderConfig, vocab_size: int):
        super().__init__()
        self.config, self.vocab_size, self.causal, self.active_layers = config, vocab_size, True, None
        self.embed = nn.Embedding(vocab_size, config.width)
        self.embed_norm = Norm(config) if config.norm == "rms" and config.norm_place != "none" else None
        if config.positions == "learned":
            self.embed_position = nn.Embedding(config.context, config.width)
        else:
            cos, sin = rotary_table(config)
            self.register_buffer("rotary_cos", cos, persistent=False)
            self.register_buffer("rotary_sin", sin, persistent=False)
        self.dropout = nn.Dropout(config.dropout)
        self.encoder = nn.ModuleList([EncoderBlock(config, layer) for layer in range(config.source_layers)])
        self.encoder_norm = Norm(config) if config.norm_place == "pre" else nn.Identity()
        self.blocks = nn.ModuleList([DecoderBlock(config, layer) for layer in range(config.layers)])
        self.norm = Norm(config) if config.norm_place == "pre" else nn.Identity()
        self.head = nn.Linear(config.width, vocab_size, bias=False)
        self.initialize()
        if config.tied:
            self.head.weight = self.embed.weight

    @torch.no_grad()
    def initialize(self) -> None:
        """Draw the weights from torch's global generator, as `GPT.initialize` does."""
        config = self.config
        is_classic = not config.zero_init and config.residual
        scale = 1 / math.sqrt(2 * config.layers) if is_classic else 0.0 if config.zero_init else 1.0
        for module in self.modules():
            if isinstance(module, nn.Embedding):
                nn.init.normal_(module.weight, std=0.02 if is_classic or config.tied else 1.0)
            elif isinstance(module, nn.Linear):
                bound = math.sqrt(3 / module.in_features)
                nn.init.normal_(module.weight, std=0.02) if is_classic else nn.init.uniform_(
                    module.weight, -bound, bound
                )
                if module.bias is not None:
                    nn.init.zeros_(module.bias)
        nn.init.normal_(self.head.weight, std=0.02 if is_classic else 0.001)
        for block in cast("list[EncoderBlock | DecoderBlock]", self.fsdp_blocks()):
            projections = [block.attention.out]
            if isinstance(block, DecoderBlock):
                projections.append(block.cross_attention.out)
            if isinstance(block.feed_forward, MLP):
                projections.append(block.feed_forward.down)
            else:
                block.feed_forward.initialize(residual_scale=scale)
            for projection in projections:
                projection.weight.mul_(scale)

    def embedded(self, ids: Tensor, start: int = 0) -> tuple[Tensor, Rotary]:
        """The stream [B, T, W] that a stack begins with, and its rotary positions; ids [B, T] from position `start`."""
        window = slice(start, start + ids.shape[1])
        x_BTW = to_product_dtype(self.embed(ids))
        rotary = None
        if self.config.positions == "rope":
            rotary = self.rotary_cos[window].to(x_BTW.dtype), self.rotary_sin[window].to(x_BTW.dtype)
        else:
            x_BTW = x_BTW + self.embed_position.weight[window].to(x_BTW.dtype)
        if self.embed_norm is not None:
            x_BTW = self.embed_norm(x_BTW)
        return self.dropout(x_BTW), rotary

    def encode(self, source: Tensor, seen: Tensor | None = None) -> Tensor:
        """What the decoder attends to, [B, S, W]; `source` int64 [B, S], `seen` as in `SourceState`."""
        x_BSW, rotary = self.embedded(source)
        for block in self.encoder:
            x_BSW = block(x_BSW, seen, rotary)
        return self.encoder_norm(x_BSW)

    def read(self, sources: Sources, keep: bool = False) -> SourceState:
        """The state with these sources read. `keep` says whether a target is to be read by the token: then keys and
        values are kept, of the sources as of the targets."""
        S, seen = sources.ids.shape[1], None
        if sources.lengths is not None:
            seen = (torch.arange(S, device=self.device) < sources.lengths[:, None])[:, None, None]
        memory_BSW = self.encode(sources.ids, seen)
        if not keep:
            return SourceState([memory_BSW] * self.config.layers, seen)
        layers: list[Memory] = [block.cross_attention.keys_values(memory_BSW) for block in self.decoder_blocks()]
        return SourceState(layers, seen, KeyValueCache(self, len(sources.ids)))

    def initial_state(self, batch: int) -> SourceState:
        """
        Raises:
            TypeError: always; a target is written from sources, which `read` makes a state of.
        """
        raise TypeError(f"{batch} targets need sources to be written from: call read")

    @property
    def memory_length(self) -> int:
        return self.config.context

    def hidden(self, ids: Tensor, state: State | None = None) -> Tensor:  # type: ignore[override]
        """Targets so far, [B, T], to the decoder's normalized last hidden states [B, T, W].

        Args:
            ids: int64 [B, T]; the first of all is a token that begins the target.
            state: of `read`.
        """
        read = cast("SourceState", state)
        written = read.written
        x_BTW, rotary = self.embedded(ids, written.length if written is not None else 0)
        for block, memory in zip(self.blocks, read.layers, strict=True):
            x_BTW = block(x_BTW, memory, read.seen, rotary, written)
        if written is not None:
            written.length += ids.shape[1]
        return self.norm(x_BTW)

    def forward(  # type: ignore[override]
        self, ids: Tensor, targets: Tensor | None = None, positions: Tensor | None = None, state: State | None = None,
        sources: Sources | None = None,
    ) -> Tensor:  # fmt: skip
        """
        Args:
            ids: int64 [B, T], of the targets.
            targets: int64 [B, T], the tokens that follow those of `ids`; or [B, K] beside `positions`.
            positions: int64 [B, K], the ones to predict at; None for all.
            state: with the sources read, as in `hidden`.
            sources: the sources, where there is no state.

        Returns:
            Logits [B, T, V] or [B, K, V]; with targets their mean loss in nats instead, a scalar.
        """
        hidden = self.hidden(ids, self.read(sources) if sources is not None else state)
        if positions is not None:
            hidden = at_positions(hidden, positions)
        if targets is None:
            return self.logits(hidden)
        counts = sources.counts.flatten() if sources is not None and sources.counts is not None else None
        return cross_entropy(hidden.flatten(0, 1), self.head.weight, targets.flatten(), self.config.softcap, counts)

    def token_losses(  # type: ignore[override]
        self, ids: Tensor, targets: Tensor, state: State | None = None
    ) -> tuple[Tensor, Tensor]:
        hidden_NW = self.hidden(ids, state).flatten(0, 1)
        nll, is_argmax = token_losses(hidden_NW, self.head.weight, targets.flatten(), self.config.softcap)
        return nll.view(targets.shape), is_argmax.view(targets.shape)

    def decoder_blocks(self) -> list[DecoderBlock]:
        return cast("list[DecoderBlock]", list(self.blocks))

    def fsdp_blocks(self) -> list[nn.Module]:
        return [*self.encoder, *self.blocks]

    def parameter_kinds(self) -> dict[str, ParameterKind]:
        return parameter_kinds(self)
