"""A model that learns to continue text and to fill blanks at once (Charpentier & Samuel 2024, GPT-BERT).

Its weights are those of a causal `GPT`, and so is its use: a call says whether positions see the whole window. A blank
is predicted from the position before it, so that both tasks ask a hidden state for the same: the token that follows.
"""

from __future__ import annotations

from torch import Tensor

from modeling.networks.language_model import State
from modeling.networks.transformer import GPT

__all__ = ["MixedModel"]


class MixedModel(GPT):
    """A GPT that takes windows of both kinds in one batch."""

    def forward(
        self, ids: Tensor | None = None, targets: Tensor | None = None, positions: Tensor | None = None,
        state: State | None = None, documents: Tensor | None = None, whole: bool = False,
        masked_ids: Tensor | None = None, masked_targets: Tensor | None = None,
        masked_positions: Tensor | None = None, masked_documents: Tensor | None = None,
    ) -> Tensor:  # fmt: skip
        """As `GPT.forward`; with `masked_ids` [M, T] the mean, over these windows and those of `ids` [B, T], of each
        one's mean loss. `ids` is None where a batch has masked windows alone."""
        if masked_ids is None:
            assert ids is not None
            return super().forward(ids, targets, positions, state, documents, whole)
        masked = super().forward(masked_ids, masked_targets, masked_positions, documents=masked_documents, whole=True)
        if ids is None:
            return masked
        causal = super().forward(ids, targets, positions, documents=documents)
        return (len(ids) * causal + len(masked_ids) * masked) / (len(ids) + len(masked_ids))
