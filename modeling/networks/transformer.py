"""A transformer that reads top to bottom; modern GPT and classic GPT are the same blocks by config.

Notable in the modern form: RMSNorm without weights, also right after the embedding; rotary positions, then queries and
keys normalised; squared ReLU; output projections that start at zero; an untied head. Optional: logits capped by tanh,
value embeddings on every other layer, a skip from the embedding into each block, a smear of the previous token, and
embeddings of pairs of tokens, found by hash (Huang et al. 2025, "Over-Tokenized Transformer"). A model whose blocks
start as the identity can be shallow at first: the others join when they are asked to (`uses`).

The file knows nothing of devices, precision or parallelism. Shapes: B windows, T tokens, W width, H heads, D head size,
V vocabulary.
"""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from modeling.networks.functional import attention, rms_norm, squared_relu
from modeling.networks.loss_head import cross_entropy, likelihoods

if TYPE_CHECKING:
    from modeling.config import ModelConfig

GATE_INPUTS = 16  # leading channels of the stream that steer the gates of smear and value embeddings


class KeyValueCache:
    """Keys and values of the tokens seen so far, with the last one's id and embedding, for generation by the token."""

    def __init__(self, model: GPT, batch: int):
        config, weight = model.config, model.embed.weight
        shape = (config.layers, batch, config.kv_heads or config.heads, config.context, config.head_size)
        self.keys = torch.zeros(shape, device=weight.device, dtype=weight.dtype)
        self.values = torch.zeros_like(self.keys)
        self.last_ids: Tensor | None = None
        self.last_embedding: Tensor | None = None
        self.length = 0

    def extend(self, layer: int, k: Tensor, v: Tensor) -> tuple[Tensor, Tensor]:
        end = self.length + k.shape[2]
        self.keys[layer, :, :, self.length : end] = k
        self.values[layer, :, :, self.length : end] = v
        return self.keys[layer, :, :, :end].to(k.dtype), self.values[layer, :, :, :end].to(v.dtype)


class Norm(nn.Module):
    """RMSNorm without weights (Zhang & Sennrich 2019) or LayerNorm."""

    def __init__(self, config: ModelConfig):
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


def rotate(x: Tensor, cos: Tensor, sin: Tensor) -> Tensor:
    """Rotary positions (Su et al. 2021) on [B, H, T, D]; the sign convention is nanochat's, as exports need it."""
    left, right = x.chunk(2, dim=-1)
    return torch.cat((left * cos + right * sin, right * cos - left * sin), dim=-1)


class Attention(nn.Module):
    def __init__(self, config: ModelConfig, layer: int, causal: bool):
        super().__init__()
        self.config, self.layer, self.causal = config, layer, causal
        kv_width = (config.kv_heads or config.heads) * config.head_size
        self.q = nn.Linear(config.width, config.width, bias=config.bias)
        self.k = nn.Linear(config.width, kv_width, bias=config.bias)
        self.v = nn.Linear(config.width, kv_width, bias=config.bias)
        self.out = nn.Linear(config.width, config.width, bias=config.bias)
        has_values = config.value_embeddings and layer % 2 == (config.layers - 1) % 2  # the last layer has them
        self.value_gate = nn.Linear(GATE_INPUTS, config.kv_heads or config.heads, bias=False) if has_values else None

    def forward(
        self, x: Tensor, rotary: tuple[Tensor, Tensor] | None, value: Tensor | None, cache: KeyValueCache | None
    ) -> Tensor:
        batch, length, width = x.shape
        q = self.q(x).view(batch, length, -1, self.config.head_size).transpose(1, 2)
        k = self.k(x).view(batch, length, -1, self.config.head_size).transpose(1, 2)
        v = self.v(x).view(batch, length, -1, self.config.head_size)
        if self.value_gate is not None:  # gate in (0, 2), one a head: 1 at the start
            gate = 2 * torch.sigmoid(self.value_gate(x[..., :GATE_INPUTS]))
            v = v + gate.unsqueeze(-1) * value.view_as(v)
        v = v.transpose(1, 2)
        if rotary is not None:
            q, k = rotate(q, *rotary), rotate(k, *rotary)
        if self.config.qk_norm:
            q, k = rms_norm(q), rms_norm(k)
        mask = None
        if cache is not None:
            k, v = cache.extend(self.layer, k, v)
            if self.causal and 1 < length < k.shape[2]:
                mask = torch.ones(length, k.shape[2], dtype=torch.bool, device=x.device).tril(k.shape[2] - length)
        dropout = self.config.dropout if self.training else 0.0
        y = attention(q, k, v, mask, self.causal and length == k.shape[2], dropout)
        return self.out(y.transpose(1, 2).reshape(batch, length, width))


class FeedForward(nn.Module):
    def __init__(self, config: ModelConfig):
        super().__init__()
        self.activation = config.activation
        self.up = nn.Linear(config.width, config.hidden_units, bias=config.bias)
        if self.activation == "swiglu":
            self.gate = nn.Linear(config.width, config.hidden_units, bias=config.bias)
        self.down = nn.Linear(config.hidden_units, config.width, bias=config.bias)

    def forward(self, x: Tensor) -> Tensor:
        match self.activation:
            case "swiglu":
                hidden = F.silu(self.gate(x)) * self.up(x)
            case "relu2":
                hidden = squared_relu(self.up(x))
            case "gelu":
                hidden = F.gelu(self.up(x), approximate="tanh")
            case "relu":
                hidden = F.relu(self.up(x))
        return self.down(hidden)


class Block(nn.Module):
    def __init__(self, config: ModelConfig, layer: int, causal: bool):
        super().__init__()
        self.attention_norm = Norm(config)
        self.attention = Attention(config, layer, causal)
        self.feed_forward_norm = Norm(config)
        self.feed_forward = FeedForward(config)
        self.dropout = nn.Dropout(config.dropout)

    def forward(
        self, x: Tensor, rotary: tuple[Tensor, Tensor] | None, value: Tensor | None, cache: KeyValueCache | None
    ) -> Tensor:
        x = x + self.dropout(self.attention(self.attention_norm(x), rotary, value, cache))
        return x + self.dropout(self.feed_forward(self.feed_forward_norm(x)))


class GPT(nn.Module):
    """Token ids [B, T] to logits [B, T, V], or straight to a loss.

    `causal=False` lets every position see the whole window: the masked objective on the same weights.
    """

    def __init__(self, config: ModelConfig, vocab_size: int, causal: bool = True):
        super().__init__()
        self.config, self.vocab_size, self.causal = config, vocab_size, causal
        self.shallow: int | None = None  # how many blocks are in use, where not all are
        self.embed = nn.Embedding(vocab_size, config.width)
        self.embed_norm = Norm(config) if config.norm == "rms" else None
        if config.positions == "learned":
            self.embed_position = nn.Embedding(config.context, config.width)
        else:
            cos, sin = rotary_table(config)
            self.register_buffer("rotary_cos", cos, persistent=False)
            self.register_buffer("rotary_sin", sin, persistent=False)
        if config.smear:
            self.smear_gate = nn.Linear(GATE_INPUTS, 1, bias=False)
            self.smear_scale = nn.Parameter(torch.zeros(1))
        if config.bigrams:
            self.bigram_embed = nn.Embedding(config.bigrams, config.bigram_channels)
        if config.x0_skip:
            self.stream_scale = nn.Parameter(torch.ones(config.layers))
            self.x0_scale = nn.Parameter(torch.full((config.layers,), 0.1))
        self.dropout = nn.Dropout(config.dropout)
        self.blocks = nn.ModuleList(Block(config, layer, causal) for layer in range(config.layers))
        kv_width = (config.kv_heads or config.heads) * config.head_size
        self.value_embeds = nn.ModuleDict(
            {
                str(layer): nn.Embedding(vocab_size, kv_width)
                for layer, block in enumerate(self.blocks)
                if block.attention.value_gate is not None
            }
        )
        self.norm = Norm(config)
        self.head = nn.Linear(config.width, vocab_size, bias=False)
        self.initialize()
        if config.tied:
            self.head.weight = self.embed.weight

    @torch.no_grad()
    def initialize(self) -> None:
        """Weights from torch's global generator. Modern: embeddings of unit variance, matrices uniform with variance
        1 / width, output projections, gates and pairs zero, a head near zero. Classic: Radford et al. 2019."""
        config = self.config
        if not config.zero_init:
            for module in self.modules():
                if isinstance(module, nn.Linear | nn.Embedding):
                    nn.init.normal_(module.weight, std=0.02)
                    if getattr(module, "bias", None) is not None:
                        nn.init.zeros_(module.bias)
            for block in self.blocks:
                for projection in (block.attention.out, block.feed_forward.down):
                    nn.init.normal_(projection.weight, std=0.02 / math.sqrt(2 * config.layers))
            return
        nn.init.normal_(self.embed.weight, std=0.02 if config.tied else 1.0)
        nn.init.normal_(self.head.weight, std=0.001)
        bound = math.sqrt(3 / config.width)
        for block in self.blocks:
            for module in block.modules():
                if isinstance(module, nn.Linear):
                    nn.init.uniform_(module.weight, -bound, bound)
                    if module.bias is not None:
                        nn.init.zeros_(module.bias)
            nn.init.zeros_(block.attention.out.weight)
            nn.init.zeros_(block.feed_forward.down.weight)
            if block.attention.value_gate is not None:
                nn.init.zeros_(block.attention.value_gate.weight)
        for table in self.value_embeds.values():
            nn.init.uniform_(table.weight, -bound, bound)
        if config.smear:
            nn.init.zeros_(self.smear_gate.weight)
        if config.bigrams:
            nn.init.zeros_(self.bigram_embed.weight)

    def hidden(self, ids: Tensor, cache: KeyValueCache | None = None) -> Tensor:
        """Ids [B, T] to the normalised last hidden states [B, T, W]."""
        start = cache.length if cache else 0
        positions = slice(start, start + ids.shape[1])
        x = self.embed(ids)
        if torch.is_autocast_enabled(x.device.type):  # the residual stream in half precision halves its traffic
            x = x.to(torch.get_autocast_dtype(x.device.type))
        rotary = None
        if self.config.positions == "rope":
            rotary = self.rotary_cos[positions].to(x.dtype), self.rotary_sin[positions].to(x.dtype)
        else:
            x = x + self.embed_position.weight[positions].to(x.dtype)
        if self.embed_norm is not None:
            x = self.embed_norm(x)
        if self.config.smear:
            x = self.smeared(x, cache)
        if self.config.bigrams:
            x = self.with_bigrams(x, ids, cache)
        x0 = x = self.dropout(x)
        for layer, block in enumerate(self.blocks):
            if self.config.x0_skip:
                x = (self.stream_scale[layer] * x + self.x0_scale[layer] * x0).to(x0.dtype)
            if not self.uses(layer):
                continue
            value = self.value_embeds[str(layer)](ids).to(x.dtype) if str(layer) in self.value_embeds else None
            x = block(x, rotary, value, cache)
        if cache is not None:
            cache.length += ids.shape[1]
        return self.norm(x)

    def uses(self, layer: int) -> bool:
        """Whether a block is in use. Those of a shallow model are evenly spaced, the last block among them; a block
        whose output projections are still zero is the identity, so that the others may join at any time."""
        if self.shallow is None:
            return True
        return (layer + 1) * self.shallow // self.config.layers > layer * self.shallow // self.config.layers

    def smeared(self, x: Tensor, cache: KeyValueCache | None) -> Tensor:
        """Add a gated share of the previous token's embedding to each position; the first has no previous one."""
        first = cache.last_embedding if cache is not None and cache.last_embedding is not None else x[:, :1] * 0
        previous = torch.cat((first, x[:, :-1]), dim=1)
        if cache is not None:
            cache.last_embedding = x[:, -1:]
        gate = self.smear_scale * torch.sigmoid(self.smear_gate(x[..., :GATE_INPUTS]))
        return x + (gate * previous).to(x.dtype)

    def with_bigrams(self, x: Tensor, ids: Tensor, cache: KeyValueCache | None) -> Tensor:
        """Add to each position the embedding of its token and the one before it; the first has no previous one."""
        seen = ids if cache is None or cache.last_ids is None else torch.cat((cache.last_ids, ids), dim=1)
        if cache is not None:
            cache.last_ids = ids[:, -1:]
        pairs = self.bigram_embed(bigram_rows(seen[:, :-1], seen[:, 1:], self.config.bigrams)).to(x.dtype)
        return x + F.pad(pairs, (0, x.shape[2] - pairs.shape[2], x.shape[1] - pairs.shape[1], 0))

    def forward(
        self, ids: Tensor, targets: Tensor | None = None, rows: Tensor | None = None, cache: KeyValueCache | None = None
    ) -> Tensor:
        """Logits [B, T, V], or [B, K, V] where `rows` (int64 [B, K]) chooses positions; with `targets` (int64, one for
        each row of logits) their mean loss in nats instead, a scalar."""
        x = self.hidden(ids, cache)
        if rows is not None:
            x = at_rows(x, rows)
        if targets is None:
            return self.logits(x)
        return cross_entropy(x.flatten(0, 1), self.head.weight, targets.flatten(), self.config.softcap)

    def likelihoods(self, ids: Tensor, targets: Tensor) -> tuple[Tensor, Tensor]:
        """Of every target [B, T] its negative log likelihood in nats (fp32), and whether it is the most likely one."""
        nats, greedy = likelihoods(
            self.hidden(ids).flatten(0, 1), self.head.weight, targets.flatten(), self.config.softcap
        )
        return nats.view(targets.shape), greedy.view(targets.shape)

    def logits(self, hidden: Tensor) -> Tensor:
        """Capped logits [..., V] of hidden states [..., W]."""
        logits = self.head(hidden)
        softcap = self.config.softcap
        return logits if softcap is None else softcap * torch.tanh(logits / softcap)

    def block_parameters(self) -> int:
        """Weights in the matrices of the blocks, the number by which models are compared."""
        return sum(p.numel() for p in self.blocks.parameters() if p.ndim == 2)


def bigram_rows(previous: Tensor, ids: Tensor, rows: int) -> Tensor:
    """Rows of a table for pairs of ids: multiplicative hashing of int64, which wraps around alike on every device."""
    return ((previous * 1_000_003 + ids) * 0x9E3779B1 >> 15) % rows


def at_rows(hidden: Tensor, rows: Tensor) -> Tensor:
    """The hidden states [B, K, W] of [B, T, W] at the positions `rows`, int64 [B, K]."""
    return hidden.gather(1, rows.unsqueeze(-1).expand(-1, -1, hidden.shape[-1]))


def rotary_table(config: ModelConfig) -> tuple[Tensor, Tensor]:
    """Cosines and sines [context, D / 2] in fp32."""
    frequencies = config.rope_base ** (-torch.arange(0, config.head_size, 2, dtype=torch.float32) / config.head_size)
    angles = torch.outer(torch.arange(config.context, dtype=torch.float32), frequencies)
    return angles.cos(), angles.sin()
