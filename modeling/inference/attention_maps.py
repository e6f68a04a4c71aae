"""Where the heads of a transformer look, to be drawn: the attention weights of one block over a short text.

Of a checkpoint only a few heads can be looked at. Shown are the first heads of the block in the middle, whichever they
are, so that nothing is chosen for its looks.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from pathlib import Path
from typing import Any, cast

import torch
from torch import Tensor, nn

from modeling.checkpoint import load_model, load_tokenizer_of
from modeling.networks.transformer import GPT, Attention

__all__ = ["AttentionMap", "attention_maps", "attention_weights"]

HEADS = 4  # that are shown
TOKENS = 24  # of the text


@dataclass(frozen=True)
class AttentionMap:
    """Where one head looks.

    Attributes:
        title: the block and the head, both counted from 1.
        tokens: what the model reads, each as text.
        weights: a row for each token that looks, with a share for each that it looks at.
    """

    title: str
    tokens: list[str]
    weights: list[list[float]]


@torch.no_grad()
def attention_maps(checkpoint: Path, text: str) -> list[AttentionMap]:
    """The first heads of the middle block; none if the model is not a GPT, or reads fewer than two tokens.

    Args:
        checkpoint: its folder.
        text: what the model reads; its first tokens.

    Raises:
        UserError: the folder is not a checkpoint.
    """
    model, config = load_model(checkpoint)
    if not isinstance(model, GPT):
        return []
    tokenizer = load_tokenizer_of(checkpoint, config)
    ids = tokenizer.encode_ordinary(text)[: min(TOKENS, model.config.context)]
    if len(ids) < 2:
        return []
    number = model.config.layers // 2
    weights_HTT = attention_weights(model, torch.tensor([ids]), number)[0, :HEADS]
    tokens = [tokenizer.decode([token]) for token in ids]
    return [
        AttentionMap(f"block {number + 1}, head {head}", tokens, rows.tolist())
        for head, rows in enumerate(weights_HTT, 1)
    ]


def attention_weights(model: GPT, ids: Tensor, layer: int) -> Tensor:
    """The weights [B, H, T, T] with which a block's heads mix the values of tokens: each row sums to 1.

    Args:
        model: ready for evaluation; one that is causal looks back only.
        ids: int64 [B, T].
        layer: number of the block, from 0.
    """
    found: list[Tensor] = []

    def note(module: nn.Module, arguments: tuple[Any, ...]) -> None:
        attention = cast("Attention", module)
        q_BHTD, k_BGTD = attention.queries_and_keys(*arguments[:2])
        k_BHTD = k_BGTD.repeat_interleave(q_BHTD.shape[1] // k_BGTD.shape[1], dim=1)
        scores = q_BHTD @ k_BHTD.mT / math.sqrt(q_BHTD.shape[-1])
        if attention.causal:
            scores = scores.masked_fill(torch.ones(scores.shape[-2:], dtype=torch.bool).triu(1), -torch.inf)
        found.append(scores.softmax(-1))

    hook = cast("Attention", model.blocks[layer].attention).register_forward_pre_hook(note)
    model.hidden(ids)
    hook.remove()
    return found[0]
