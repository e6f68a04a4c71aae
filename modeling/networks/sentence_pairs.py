"""A masked model with a head for pairs of sentences: does the second follow the first (Devlin et al. 2019, BERT)?

[SEP] alone says where the second sentence begins, without an embedding of segments, as in DistilBERT (Sanh et al.
2019). Nothing sees [PAD]: it is a document of its own.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch.nn.functional as F
from torch import Tensor, nn

from modeling.networks.language_model import ParameterKind
from modeling.networks.loss_head import cross_entropy
from modeling.networks.transformer import GPT

if TYPE_CHECKING:
    from modeling.config.network import TransformerConfig

__all__ = ["NEXT_SENTENCE_PREFIX", "SentencePairModel"]

NEXT_SENTENCE_PREFIX = "next_sentence."  # of the head's names among the weights


class SentencePairModel(GPT):
    """A masked model with one more logit, read at the first position: that the second sentence follows the first."""

    def __init__(self, config: TransformerConfig, vocab_size: int):
        super().__init__(config, vocab_size, causal=False)
        self.next_sentence = nn.Linear(config.width, 1)
        nn.init.zeros_(self.next_sentence.weight)
        nn.init.zeros_(self.next_sentence.bias)

    def next_sentence_logits(self, hidden: Tensor) -> Tensor:
        """Logits, fp32 [B], from hidden states [B, T, W]."""
        return self.next_sentence(hidden[:, 0]).squeeze(-1).float()

    def forward(  # type: ignore[override]
        self, ids: Tensor, targets: Tensor | None = None, positions: Tensor | None = None,
        is_next: Tensor | None = None, documents: Tensor | None = None,
    ) -> Tensor | tuple[Tensor, Tensor]:  # fmt: skip
        """
        Args:
            ids: int64 [B, T].
            targets: int64 [B, K], together with `is_next`.
            positions: int64 [B, K], the ones to predict at; None for all.
            is_next: bool [B], whether the second sentence follows the first.
            documents: int64 [B, T], 0 for the pair and 1 for [PAD]; None: there is no [PAD].

        Returns:
            With targets the sum of the two mean losses in nats, a scalar; without them the logits of tokens [B, K, V]
            and of following [B].
        """
        if positions is not None:  # the first as well, which the head for pairs reads
            positions = F.pad(positions, (1, 0))
        hidden = self.hidden(ids, documents=documents, positions=positions)
        follows = self.next_sentence_logits(hidden)
        chosen = hidden if positions is None else hidden[:, 1:]
        if targets is None or is_next is None:
            return self.logits(chosen), follows
        tokens = cross_entropy(chosen.flatten(0, 1), self.head.weight, targets.flatten(), self.config.softcap)
        return tokens + F.binary_cross_entropy_with_logits(follows, is_next.float())

    def parameter_kinds(self) -> dict[str, ParameterKind]:
        """As those of a GPT; the head for pairs of sentences is new."""
        kinds = super().parameter_kinds()
        return kinds | {name: "new" for name in kinds if name.startswith(NEXT_SENTENCE_PREFIX)}
