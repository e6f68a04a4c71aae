"""A model with a head for spans: where in its window an answer begins and ends (Devlin et al. 2019, BERT, section 4.2).

A window without the answer points at its first position, as there for SQuAD v2.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from modeling.networks.language_model import ParameterKind
from modeling.networks.transformer import GPT

if TYPE_CHECKING:
    from modeling.config.network import TransformerConfig

__all__ = ["SPAN_PREFIX", "SpanModel"]

SPAN_PREFIX = "span."  # of the head's names among the weights


class SpanModel(GPT):
    """A masked model with two more logits at each position: that the answer begins there, and that it ends there.

    The head for tokens is kept as it was, and not trained.
    """

    def __init__(self, config: TransformerConfig, vocab_size: int):
        super().__init__(config, vocab_size, causal=False)
        self.span = nn.Linear(config.width, 2)
        nn.init.zeros_(self.span.weight)
        nn.init.zeros_(self.span.bias)
        if not config.tied:
            self.head.weight.requires_grad_(False)

    def forward(  # type: ignore[override]
        self, ids: Tensor, allowed: Tensor, documents: Tensor, starts: Tensor | None = None, ends: Tensor | None = None
    ) -> Tensor:
        """
        Args:
            ids: int64 [B, T].
            allowed: bool [B, T], where an answer may begin and end.
            documents: int64 [B, T], 0 for question and context and 1 for [PAD], which nothing sees.
            starts: int64 [B], where it begins.
            ends: int64 [B], the last position of it.

        Returns:
            With starts and ends the mean of the two mean losses in nats, a scalar; without them the logits of beginning
            and end, fp32 [B, T, 2], -inf where not allowed.
        """
        logits = self.span(self.hidden(ids, documents=documents)).float().masked_fill(~allowed.unsqueeze(2), -torch.inf)
        if starts is None or ends is None:
            return logits
        return (F.cross_entropy(logits[..., 0], starts) + F.cross_entropy(logits[..., 1], ends)) / 2

    def parameter_kinds(self) -> dict[str, ParameterKind]:
        """As those of a GPT; the head for spans is new."""
        kinds = super().parameter_kinds()
        return kinds | {name: "new" for name in kinds if name.startswith(SPAN_PREFIX)}
