"""A transformer that reads top to bottom; modern GPT and classic GPT are the same blocks by config.

Notable in the modern form: RMSNorm without weights, also right after the embedding; rotary positions, then queries and
keys normalized; squared ReLU; output projections that start at zero; an untied head. Optional: logits capped by tanh,
value embeddings on every other layer, a skip from the embedding into each block, a smear of the previous token, and
embeddings of bigrams, found by hash (Huang et al. 2025, Over-Tokenized Transformer). A model whose blocks start as the
identity can be trained with a few of them at first (`active_layers`). For experiments, what makes depth trainable can
be moved or taken away: the place of the norms, the residual connections, the scale of attention.

The file knows nothing of devices, precision or parallelism. Shape suffixes, so that `x_BTW` is [B, T, W]:

    B  windows of a batch              H  attention heads            W  width of the residual stream
    T  tokens of a window              G  key/value heads            V  vocabulary
    S  tokens seen: cached ones and T  D  size of a head             K  chosen positions of a window
"""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import TYPE_CHECKING, Literal, NamedTuple, cast

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from modeling.networks.functional import activate, attention, document_mask, rms_norm, to_product_dtype
from modeling.networks.kan import KANFeedForward, KANLayer, RationalFeedForward, Rationals
from modeling.networks.language_model import LanguageModel, ParameterKind, State
from modeling.networks.loss_head import cross_entropy

if TYPE_CHECKING:
    from torch.nn.attention.flex_attention import BlockMask

    from modeling.config.network import AttentionConfig, NetworkConfig, TransformerConfig

__all__ = ["GATE_INPUTS", "GPT", "KeyValueCache", "at_positions", "parameter_kinds", "rotary_table"]

GATE_INPUTS = 16  # leading channels of the stream that steer the gates of smear and value embeddings


class KeyValueCache(State):
    """Keys and values of the tokens seen so far, with the last one's id and embedding, for generation by the token."""

    def __init__(self, model: LanguageModel, batch: int):
        config, weight = cast("AttentionConfig", model.config), model.embed.weight
        shape = (config.layers, batch, config.kv_heads or config.heads, config.context, config.head_size)
        self.keys = torch.zeros(shape, device=weight.device, dtype=weight.dtype)  # [layers, B, G, context, D]
        self.values = torch.zeros_like(self.keys)
        self.last_ids: Tensor | None = None
        self.last_embedding: Tensor | None = None
        self.length = 0

    def extend(self, layer: int, k_BGTD: Tensor, v_BGTD: Tensor) -> tuple[Tensor, Tensor]:
        """Add the keys and values of new tokens; all of the layer so far, [B, G, S, D]."""
        end = self.length + k_BGTD.shape[2]
        self.keys[layer, :, :, self.length : end] = k_BGTD
        self.values[layer, :, :, self.length : end] = v_BGTD
        return self.keys[layer, :, :, :end].to(k_BGTD.dtype), self.values[layer, :, :, :end].to(v_BGTD.dtype)


class Norm(nn.Module):
    """RMSNorm without weights (Zhang & Sennrich 2019) or LayerNorm (Ba et al. 2016)."""

    def __init__(self, config: NetworkConfig):
        super().__init__()
        self.shape = (config.width,)
        self.layer_norm = config.norm == "layer"
        if self.layer_norm:
            self.weight = nn.Parameter(torch.ones(config.width))
            self.bias = nn.Parameter(torch.zeros(config.width)) if config.bias else None

    def forward(self, x: Tensor) -> Tensor:
        if self.layer_norm:
            return F.layer_norm(x, self.shape, self.weight, self.bias).to(x.dtype)
        return rms_norm(x)


def rotate(x_BHTD: Tensor, cos: Tensor, sin: Tensor) -> Tensor:
    """Rotary positions (Su et al. 2021, RoFormer) by cosines and sines [T, D / 2]; signs as nanochat has them, which
    exports need."""
    left, right = x_BHTD.chunk(2, dim=-1)
    return torch.cat((left * cos + right * sin, right * cos - left * sin), dim=-1)


class Gate(nn.Linear):
    """A linear layer that steers a gate from the leading channels of the stream."""

    def __init__(self, outputs: int):
        super().__init__(GATE_INPUTS, outputs, bias=False)


class Attention(nn.Module):
    """Multi-head attention (Vaswani et al. 2017), with fewer key/value heads where the config says so."""

    def __init__(self, config: AttentionConfig, layer: int, causal: bool):
        super().__init__()
        self.config, self.layer, self.causal = config, layer, causal
        kv_width = (config.kv_heads or config.heads) * config.head_size
        self.q = nn.Linear(config.width, config.width, bias=config.bias)
        self.k = nn.Linear(config.width, kv_width, bias=config.bias)
        self.v = nn.Linear(config.width, kv_width, bias=config.bias)
        self.out = nn.Linear(config.width, config.width, bias=config.bias)
        self.value_gate = Gate(config.kv_heads or config.heads) if layer in config.value_layers else None

    def forward(
        self, x_BTW: Tensor, rotary: tuple[Tensor, Tensor] | None, value: Tensor | None, cache: KeyValueCache | None,
        mask: Tensor | BlockMask | Literal["whole"] | None = None,
    ) -> Tensor:  # fmt: skip
        """[B, T, W] to [B, T, W]; `rotary`: cosines and sines [T, D / 2]; `value`: value embeddings [B, T, G * D];
        `mask`: what `document_mask` gives, "whole" where a position sees the whole window, None: as `causal` says."""
        B, T, W = x_BTW.shape
        q_BHTD, k_BGTD = self.queries_and_keys(x_BTW, rotary)
        v_BTGD = self.v(x_BTW).view(B, T, -1, self.config.head_size)
        if self.value_gate is not None and value is not None:  # gate in (0, 2), one a head: 1 at the start
            gate_BTG = 2 * torch.sigmoid(self.value_gate(x_BTW[..., :GATE_INPUTS]))
            v_BTGD = v_BTGD + gate_BTG.unsqueeze(-1) * value.view_as(v_BTGD)
        v_BGTD = v_BTGD.transpose(1, 2)
        k_BGSD, v_BGSD = (k_BGTD, v_BGTD) if cache is None else cache.extend(self.layer, k_BGTD, v_BGTD)
        seen: Tensor | BlockMask | Literal["causal"] | None = None if isinstance(mask, str) else mask
        if mask is None:
            seen = self.mask(T, k_BGSD.shape[2], x_BTW.device)
        dropout = self.config.dropout if self.training else 0.0
        y_BHTD = attention(q_BHTD, k_BGSD, v_BGSD, seen, dropout)
        return self.out(y_BHTD.transpose(1, 2).reshape(B, T, W))

    def queries_and_keys(self, x_BTW: Tensor, rotary: tuple[Tensor, Tensor] | None) -> tuple[Tensor, Tensor]:
        """Queries [B, H, T, D] and keys [B, G, T, D], whose products over the root of D are the logits."""
        B, T, W = x_BTW.shape
        D = self.config.head_size
        q_BHTD = self.q(x_BTW).view(B, T, -1, D).transpose(1, 2)
        k_BGTD = self.k(x_BTW).view(B, T, -1, D).transpose(1, 2)
        if rotary is not None:
            q_BHTD, k_BGTD = rotate(q_BHTD, *rotary), rotate(k_BGTD, *rotary)
        if self.config.qk_norm:
            q_BHTD, k_BGTD = rms_norm(q_BHTD), rms_norm(k_BGTD)
        if self.config.attention_scale == "width":  # what follows divides by the root of D
            q_BHTD = q_BHTD * math.sqrt(D / W)
        return q_BHTD, k_BGTD

    def mask(self, T: int, S: int, device: torch.device) -> Tensor | Literal["causal"] | None:
        """What the last T of S tokens see, as `functional.attention` takes it."""
        if not self.causal:
            return None
        if T == S:
            return "causal"
        return torch.ones(T, S, dtype=torch.bool, device=device).tril(S - T) if T > 1 else None  # one sees all


class MLP(nn.Module):
    """Two linear layers with a nonlinearity between them, or SwiGLU (Shazeer 2020)."""

    def __init__(self, config: AttentionConfig):
        super().__init__()
        self.activation = config.activation
        self.up = nn.Linear(config.width, config.hidden_units, bias=config.bias)
        if self.activation == "swiglu":
            self.gate = nn.Linear(config.width, config.hidden_units, bias=config.bias)
        self.down = nn.Linear(config.hidden_units, config.width, bias=config.bias)

    def forward(self, x_BTW: Tensor) -> Tensor:
        """[B, T, W] to [B, T, W]."""
        if self.activation == "swiglu":
            return self.down(F.silu(self.gate(x_BTW)) * self.up(x_BTW))
        return self.down(activate(self.up(x_BTW), self.activation))


def feed_forward(config: AttentionConfig) -> MLP | KANFeedForward | RationalFeedForward:
    """The feed-forward of a block, by its kind."""
    match config.feed_forward.kind:
        case "mlp":
            return MLP(config)
        case "kan-spline" | "kan-rbf":
            return KANFeedForward(config)
        case "kan-rational":
            return RationalFeedForward(config)


class Shared(NamedTuple):
    """What all blocks of a pass are given, as `Attention.forward` takes it."""

    rotary: tuple[Tensor, Tensor] | None
    cache: KeyValueCache | None
    mask: Tensor | BlockMask | Literal["whole"] | None


class Block(nn.Module):
    """Attention and feed-forward, each on the normalized stream and added to it (pre-norm, Xiong et al. 2020).

    Otherwise the sum is normalized (post-norm, Vaswani et al. 2017), or nothing is; without residual connections what a
    part makes takes the place of the stream.
    """

    def __init__(self, config: AttentionConfig, layer: int, causal: bool):
        super().__init__()
        self.config = config
        norm: type[nn.Module] = nn.Identity if config.norm_place == "none" else Norm
        self.attention_norm = norm(config)
        self.attention = Attention(config, layer, causal)
        self.feed_forward_norm = norm(config)
        self.feed_forward = feed_forward(config)
        self.dropout = nn.Dropout(config.dropout)

    def forward(
        self, x_BTW: Tensor, value: Tensor | None, shared: Shared, positions_BK: Tensor | None = None
    ) -> Tensor:
        """[B, T, W] to [B, T, W], or to [B, K, W] where nothing but these positions is wanted; `value` is that of
        `Attention.forward`."""
        rotary, cache, mask = shared
        x_BTW = self.joined(x_BTW, self.attention_norm, lambda x: self.attention(x, rotary, value, cache, mask))
        if positions_BK is not None:
            x_BTW = at_positions(x_BTW, positions_BK)
        return self.joined(x_BTW, self.feed_forward_norm, self.feed_forward)

    def joined(self, x_BTW: Tensor, norm: nn.Module, part: Callable[[Tensor], Tensor]) -> Tensor:
        """The stream [B, T, W] after a part of the block."""
        is_post = self.config.norm_place == "post"
        y_BTW = self.dropout(part(x_BTW if is_post else norm(x_BTW)))
        if self.config.residual:
            y_BTW = x_BTW + y_BTW
        return norm(y_BTW) if is_post else y_BTW


class GPT(LanguageModel):
    """Token ids [B, T] to logits [B, T, V], or straight to a loss.

    `causal=False` lets every position see the whole window: the masked objective on the same weights. A call can ask
    for that of a causal model too (`whole`), if it was trained to do both.
    """

    config: TransformerConfig
    rotary_cos: Tensor  # [context, D / 2]; like the sines only where positions are rotary
    rotary_sin: Tensor

    def __init__(self, config: TransformerConfig, vocab_size: int, causal: bool = True):
        super().__init__()
        self.config, self.vocab_size, self.causal = config, vocab_size, causal
        self.active_layers = None
        self.embed = nn.Embedding(vocab_size, config.width)
        self.embed_norm = Norm(config) if config.norm == "rms" and config.norm_place != "none" else None
        if config.positions == "learned":
            self.embed_position = nn.Embedding(config.context, config.width)
        else:
            cos, sin = rotary_table(config)
            self.register_buffer("rotary_cos", cos, persistent=False)
            self.register_buffer("rotary_sin", sin, persistent=False)
        if config.smear:
            self.smear_gate = Gate(1)
            self.smear_scale = nn.Parameter(torch.zeros(1))
        if config.bigrams:
            self.bigram_embed = nn.Embedding(config.bigrams, config.bigram_channels)
        if config.x0_skip:
            self.stream_scale = nn.Parameter(torch.ones(config.layers))
            self.x0_scale = nn.Parameter(torch.full((config.layers,), 0.1))
        self.dropout = nn.Dropout(config.dropout)
        blocks = [Block(config, layer, causal) for layer in range(config.layers)]
        self.blocks = nn.ModuleList(blocks)
        kv_width = (config.kv_heads or config.heads) * config.head_size
        self.value_embeds = nn.ModuleDict(
            {
                str(layer): nn.Embedding(vocab_size, kv_width)
                for layer, block in enumerate(blocks)
                if block.attention.value_gate is not None
            }
        )
        self.norm = Norm(config) if config.norm_place == "pre" else nn.Identity()
        self.head = nn.Linear(config.width, vocab_size, bias=False)
        self.initialize()
        if config.tied:
            self.head.weight = self.embed.weight

    @torch.no_grad()
    def initialize(self) -> None:
        """Draw the weights from torch's global generator.

        Modern: embeddings of unit variance, matrices uniform with variance 1 / width; output projections, gates and
        embeddings of bigrams zero; a head near zero. Classic: Radford et al. 2019. A KAN draws its own weights in both.
        Without residual connections a block has to pass on what it gets: modern, but no projection is zero.
        """
        config, blocks = self.config, cast("list[Block]", list(self.blocks))
        if not config.zero_init and config.residual:
            for module in self.modules():
                if isinstance(module, nn.Linear | nn.Embedding):
                    nn.init.normal_(module.weight, std=0.02)
                    if isinstance(module, nn.Linear) and module.bias is not None:
                        nn.init.zeros_(module.bias)
            for block in blocks:
                projections = [block.attention.out]
                if isinstance(block.feed_forward, MLP):
                    projections.append(block.feed_forward.down)
                else:
                    block.feed_forward.initialize(residual_scale=1 / math.sqrt(2 * config.layers))
                for projection in projections:
                    nn.init.normal_(projection.weight, std=0.02 / math.sqrt(2 * config.layers))
            return
        nn.init.normal_(self.embed.weight, std=0.02 if config.tied else 1.0)
        nn.init.normal_(self.head.weight, std=0.001)
        for block in blocks:
            for module in block.modules():
                if isinstance(module, nn.Linear):
                    bound = math.sqrt(3 / module.in_features)
                    nn.init.uniform_(module.weight, -bound, bound)
                    if module.bias is not None:
                        nn.init.zeros_(module.bias)
            if config.zero_init:
                nn.init.zeros_(block.attention.out.weight)
            if not isinstance(block.feed_forward, MLP):
                block.feed_forward.initialize(residual_scale=0.0 if config.zero_init else 1.0)
            elif config.zero_init:
                nn.init.zeros_(block.feed_forward.down.weight)
            if block.attention.value_gate is not None:
                nn.init.zeros_(block.attention.value_gate.weight)
        bound = math.sqrt(3 / config.width)
        for table in cast("list[nn.Embedding]", list(self.value_embeds.values())):
            nn.init.uniform_(table.weight, -bound, bound)
        if config.smear:
            nn.init.zeros_(self.smear_gate.weight)
        if config.bigrams:
            nn.init.zeros_(self.bigram_embed.weight)

    def hidden(
        self, ids: Tensor, state: State | None = None, documents: Tensor | None = None, whole: bool = False,
        positions: Tensor | None = None,
    ) -> Tensor:  # fmt: skip
        """As in `LanguageModel`; with `positions`, int64 [B, K], the hidden states [B, K, W] of these alone."""
        cache = cast("KeyValueCache | None", state)
        start = cache.length if cache else 0
        window = slice(start, start + ids.shape[1])
        x_BTW = to_product_dtype(self.embed(ids))
        begins_BT = None if documents is None else document_begins(documents)
        rotary = None
        if self.config.positions == "rope":  # relative: documents need no positions of their own
            rotary = self.rotary_cos[window].to(x_BTW.dtype), self.rotary_sin[window].to(x_BTW.dtype)
        elif begins_BT is None:
            x_BTW = x_BTW + self.embed_position.weight[window].to(x_BTW.dtype)
        else:
            x_BTW = x_BTW + self.embed_position(positions_in_documents(begins_BT)).to(x_BTW.dtype)
        if self.embed_norm is not None:
            x_BTW = self.embed_norm(x_BTW)
        if self.config.smear:
            x_BTW = self.smeared(x_BTW, cache, begins_BT)
        if self.config.bigrams:
            x_BTW = self.with_bigrams(x_BTW, ids, cache, begins_BT)
        mask: Tensor | BlockMask | Literal["whole"] | None = "whole" if whole else None
        if documents is not None:
            fused = not (self.training and self.config.dropout)
            mask = document_mask(documents, self.causal and not whole, self.config.heads, x_BTW.dtype, fused)
        shared = Shared(rotary, cache, mask)
        x0_BTW = x_BTW = self.dropout(x_BTW)
        for layer, block in enumerate(self.blocks):
            if self.config.x0_skip:
                x_BTW = (self.stream_scale[layer] * x_BTW + self.x0_scale[layer] * x0_BTW).to(x0_BTW.dtype)
            if not self.is_active(layer):
                continue
            value = self.value_embeds[str(layer)](ids).to(x_BTW.dtype) if str(layer) in self.value_embeds else None
            wanted = positions if layer == self.config.layers - 1 else None  # the last feed-forward need not see others
            x_BTW = block(x_BTW, value, shared, wanted)
        if cache is not None:
            cache.length += ids.shape[1]
        if positions is not None and not self.is_active(self.config.layers - 1):
            x_BTW = at_positions(x_BTW, positions)
        return self.norm(x_BTW)

    def smeared(self, x_BTW: Tensor, cache: KeyValueCache | None, begins_BT: Tensor | None = None) -> Tensor:
        """Add a gated share of the previous token's embedding to each position of [B, T, W]; the first has none, nor
        have those where a document begins."""
        first = cache.last_embedding if cache is not None and cache.last_embedding is not None else x_BTW[:, :1] * 0
        previous = torch.cat((first, x_BTW[:, :-1]), dim=1)
        if begins_BT is not None:
            previous = previous.masked_fill(begins_BT.unsqueeze(2), 0)
        if cache is not None:
            cache.last_embedding = x_BTW[:, -1:]
        gate = self.smear_scale * torch.sigmoid(self.smear_gate(x_BTW[..., :GATE_INPUTS]))
        return x_BTW + (gate * previous).to(x_BTW.dtype)

    def with_bigrams(
        self, x_BTW: Tensor, ids: Tensor, cache: KeyValueCache | None, begins_BT: Tensor | None = None
    ) -> Tensor:
        """Add the embedding of its token and the one before to each position of [B, T, W]; the first has none, nor
        have those where a document begins."""
        seen = ids if cache is None or cache.last_ids is None else torch.cat((cache.last_ids, ids), dim=1)
        if cache is not None:
            cache.last_ids = ids[:, -1:]
        bigrams = self.bigram_embed(bigram_index(seen[:, :-1], seen[:, 1:], self.config.bigrams)).to(x_BTW.dtype)
        if begins_BT is not None:
            bigrams = bigrams.masked_fill(begins_BT[:, 1:].unsqueeze(2), 0)
        return x_BTW + F.pad(bigrams, (0, x_BTW.shape[2] - bigrams.shape[2], x_BTW.shape[1] - bigrams.shape[1], 0))

    def forward(
        self, ids: Tensor, targets: Tensor | None = None, positions: Tensor | None = None,
        state: State | None = None, documents: Tensor | None = None, whole: bool = False,
        weights: Tensor | None = None,
    ) -> Tensor:  # fmt: skip
        """As in `LanguageModel`; with `weights`, fp32 of the shape of targets, what the loss of each is multiplied by.
        Targets may then be several of each position, [B, T, A]."""
        hidden = self.hidden(ids, state, documents, whole, positions)
        if targets is None:
            return self.logits(hidden)
        counts = None if weights is None else weights.flatten(0, 1)
        return cross_entropy(hidden.flatten(0, 1), self.head.weight, targets.flatten(0, 1), self.config.softcap, counts)

    def initial_state(self, batch: int) -> KeyValueCache:
        return KeyValueCache(self, batch)

    @property
    def memory_length(self) -> int:
        return self.config.context

    def fsdp_blocks(self) -> list[nn.Module]:
        return list(self.blocks)

    def parameter_kinds(self) -> dict[str, ParameterKind]:
        return parameter_kinds(self)


def parameter_kinds(model: LanguageModel) -> dict[str, ParameterKind]:
    """`LanguageModel.parameter_kinds` of a network that is made of the parts of this file.

    Raises:
        TypeError: a module has parameters of its own and is not listed here.
    """
    modules = dict(model.named_modules())
    edges = {module.edges for module in modules.values() if isinstance(module, KANLayer)}
    kinds: dict[str, ParameterKind] = {}
    for name, parameter in model.named_parameters():
        owner, _, own_name = name.rpartition(".")
        match modules[owner]:
            case _ if parameter is model.head.weight:
                kinds[name] = "head"
            case nn.Embedding():
                kinds[name] = "embedding"
            case Gate():
                kinds[name] = "gate"
            case nn.Linear() as module if module in edges:
                kinds[name] = "edges"
            case nn.Linear():
                kinds[name] = "matrix" if own_name == "weight" else "scalar"
            case Norm() | Rationals() | LanguageModel():
                kinds[name] = "scalar"
            case module:
                raise TypeError(f"say in transformer.parameter_kinds what the parameter {name} of {type(module)} is")
    return kinds


def document_begins(documents: Tensor) -> Tensor:
    """Where documents begin, bool like their numbers [B, T]: each row begins one."""
    return F.pad(documents.diff(dim=1) != 0, (1, 0), value=True)


def positions_in_documents(begins_BT: Tensor) -> Tensor:
    """The place of each position in its document, from 0, int64 [B, T]."""
    places = torch.arange(begins_BT.shape[1], device=begins_BT.device).expand(begins_BT.shape)
    return places - torch.where(begins_BT, places, 0).cummax(dim=1).values


def bigram_index(previous: Tensor, ids: Tensor, table_size: int) -> Tensor:
    """Rows of a table for pairs of ids, int64 like these and of their shape.

    Multiplicative hashing (Knuth 1973) of int64, which wraps around alike on every device.
    """
    return ((previous * 1_000_003 + ids) * 0x9E3779B1 >> 15) % table_size


def at_positions(hidden_BTW: Tensor, positions_BK: Tensor) -> Tensor:
    """Hidden states [B, K, W] at these positions (int64)."""
    return hidden_BTW.gather(1, positions_BK.unsqueeze(-1).expand(-1, -1, hidden_BTW.shape[-1]))


def rotary_table(config: AttentionConfig) -> tuple[Tensor, Tensor]:
    """Cosines and sines [context, D / 2] in fp32."""
    frequencies = config.rope_base ** (-torch.arange(0, config.head_size, 2, dtype=torch.float32) / config.head_size)
    angles = torch.outer(torch.arange(config.context, dtype=torch.float32), frequencies)
    return angles.cos(), angles.sin()
