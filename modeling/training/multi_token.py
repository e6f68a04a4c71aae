"""Multi-token prediction: positions also predict the tokens after the next one (Gloeckle et al. 2024).

Their losses are on the same logits, with weights that fall to zero, so that the model ends as one of next tokens and
nothing of this is in it: a position first learns what comes soon, and then in which order.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import torch
from torch import Tensor

from modeling.config.pretrain import PretrainConfig
from modeling.training.objectives import Batch, CausalLM, to_device
from modeling.training.windows import training_windows
from tokenization.arrays import TokenArrays

__all__ = ["MultiTokenBatch", "MultiTokenLM", "with_targets_ahead"]


class MultiTokenBatch(NamedTuple):
    """Windows, and several targets of each position.

    Attributes:
        ids: int64 [B, T].
        targets: int64 [B, T, A]: the next token, the one after it, and so on.
        weights: fp32 [B, T, A], what the loss of each target is multiplied by; 0 where there is none.
        documents: as in `Batch`.
    """

    ids: Tensor
    targets: Tensor
    weights: Tensor
    documents: Tensor | None

    def to(self, device: torch.device) -> MultiTokenBatch:
        return MultiTokenBatch(*to_device(self, device))


class MultiTokenLM(CausalLM):
    """Predict every next token, and at first the tokens after it. It is judged on next tokens alone."""

    def __init__(self, train: TokenArrays, validation: TokenArrays, config: PretrainConfig):
        context = config.model.context
        super().__init__(
            training_windows(train, config, context, 1), validation, context, config.evaluate_tokens, config.attend
        )
        self.config = config

    def train_batch(self, step: int, batch: int, batch_rows: range) -> Batch | MultiTokenBatch:  # type: ignore[override]
        plain = super().train_batch(step, batch, batch_rows)
        ahead = self.config.weights_ahead(step)
        return with_targets_ahead(plain, ahead, self.eot_id) if ahead else plain


def with_targets_ahead(batch: Batch, ahead: Sequence[float], eot_id: int) -> MultiTokenBatch:
    """A batch of next tokens with targets further ahead: those in the window, and before its document ends.

    Args:
        batch: windows with their next tokens.
        ahead: weights of the token after the next, of the one after that, and so on.
        eot_id: the last token of a document.
    """
    targets = [batch.targets]
    weights = [torch.ones(batch.targets.shape)]
    goes_on = torch.ones(batch.targets.shape, dtype=torch.bool)
    for distance, weight in enumerate(ahead, 1):
        goes_on = goes_on & (targets[-1] != eot_id)
        goes_on[:, -distance:] = False  # the window has no such token
        targets.append(batch.targets.roll(-distance, dims=1))
        weights.append(goes_on * weight)
    return MultiTokenBatch(batch.ids, torch.stack(targets, 2), torch.stack(weights, 2), batch.documents)
