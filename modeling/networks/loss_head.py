"""The loss head: projection to the vocabulary and cross-entropy, a slice of positions at a time.

Logits of a whole batch in fp32 would be the largest tensor of the run by far. Here each slice's logits live once, and
the gradients with respect to hidden states and weight are made in the same pass (the idea of Liger's fused linear
cross-entropy, Hsu et al. 2024), so that nothing of the vocabulary's size is kept for the backward pass.

Shape suffixes: N positions (of all windows), S positions of one slice, W width, V vocabulary, K targets of a position.
"""

from __future__ import annotations

from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

__all__ = ["SLICE_ELEMENTS", "cross_entropy", "token_losses"]

# Logits of one slice: what fits a CPU cache, and enough to keep a GPU busy (measured: modeling/LOG.md)
SLICE_ELEMENTS = {"cpu": 2**22, "cuda": 2**28}


def slice_rows(hidden_NW: Tensor, weight_VW: Tensor) -> int:
    """How many positions have their logits at once."""
    return max(1, SLICE_ELEMENTS.get(hidden_NW.device.type, 2**24) // weight_VW.shape[0])


class _SlicedCrossEntropy(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: Any, hidden_NW: Tensor, weight_VW: Tensor, targets_NK: Tensor, counts_NK: Tensor | None,
        softcap: float | None, wants_grad: bool,
    ) -> Tensor:  # fmt: skip
        rows = slice_rows(hidden_NW, weight_VW)
        matrix_VW = weight_VW.to(hidden_NW.dtype)
        loss = torch.zeros((), dtype=torch.float32, device=hidden_NW.device)
        if wants_grad:
            grad_hidden_NW = torch.empty_like(hidden_NW)
            grad_weight_VW = torch.zeros_like(weight_VW, dtype=torch.float32)
        for start in range(0, hidden_NW.shape[0], rows):
            part_SW, target_SK = hidden_NW[start : start + rows], targets_NK[start : start + rows]
            logits_SV = (part_SW @ matrix_VW.T).float()
            if softcap is not None:
                capped_SV = logits_SV.div_(softcap).tanh_()
                logits_SV = capped_SV * softcap
            log_probs_SV = torch.log_softmax(logits_SV, dim=-1)
            target_log_probs_SK = log_probs_SV.gather(1, target_SK)
            count_SK = None if counts_NK is None else counts_NK[start : start + rows]
            loss -= (target_log_probs_SK if count_SK is None else target_log_probs_SK * count_SK).sum()
            if wants_grad:
                slope_SV = None if softcap is None else capped_SV.square_().neg_().add_(1)
                if count_SK is not None and target_SK.shape[1] > 1:  # two of them may be the same token
                    grad_SV = log_probs_SV.exp_().mul_(count_SK.sum(1, keepdim=True))
                    grad_SV = grad_SV.scatter_add_(1, target_SK, -count_SK)
                    grad_SV = (grad_SV if slope_SV is None else grad_SV.mul_(slope_SV)).to(hidden_NW.dtype)
                else:
                    grad_SV, grad_target_SK = log_probs_SV.exp_(), target_log_probs_SK.exp() - 1
                    if slope_SV is not None:
                        grad_target_SK *= slope_SV.gather(1, target_SK)
                        grad_SV *= slope_SV
                    if count_SK is not None:
                        grad_SV, grad_target_SK = grad_SV.mul_(count_SK), grad_target_SK * count_SK
                    # set in the dtype of the products: compiled, what precedes is then one pass over the logits
                    grad_SV = grad_SV.to(hidden_NW.dtype).scatter_(1, target_SK, grad_target_SK.to(hidden_NW.dtype))
                grad_hidden_NW[start : start + rows] = grad_SV @ matrix_VW
                grad_weight_VW += grad_SV.T @ part_SW
        if wants_grad:
            ctx.save_for_backward(grad_hidden_NW, grad_weight_VW)
        return loss / hidden_NW.shape[0]

    @staticmethod
    def backward(ctx: Any, scale: Tensor) -> tuple[Tensor | None, ...]:
        grad_hidden_NW, grad_weight_VW = ctx.saved_tensors
        scale = scale / grad_hidden_NW.shape[0]
        return grad_hidden_NW * scale.to(grad_hidden_NW.dtype), grad_weight_VW * scale, None, None, None, None


def cross_entropy(
    hidden: Tensor, weight: Tensor, targets: Tensor, softcap: float | None = None, counts: Tensor | None = None
) -> Tensor:
    """Mean negative log-likelihood of targets under the softmax of the capped hidden @ weight.T.

    Args:
        hidden: [N, W] of any float dtype, in which the products are computed.
        weight: [V, W].
        targets: int64 [N], or [N, K] for several of each position, beside `counts`.
        softcap: bounds the logits to +-softcap by tanh (Gemma Team 2024, Gemma 2); None for no bound.
        counts: fp32 of the shape of targets, what the loss of each is multiplied by before the mean over N; None: 1.

    Returns:
        A scalar in nats, fp32.
    """
    wants_grad = torch.is_grad_enabled() and (hidden.requires_grad or weight.requires_grad)
    if targets.ndim == 1:
        targets, counts = targets[:, None], None if counts is None else counts[:, None]
    return _SlicedCrossEntropy.apply(hidden, weight, targets, counts, softcap, wants_grad)


@torch.no_grad()
def token_losses(
    hidden: Tensor, weight: Tensor, targets: Tensor, softcap: float | None = None
) -> tuple[Tensor, Tensor]:
    """The loss of each target by itself. Arguments as in `cross_entropy`.

    Returns:
        nll: negative log-likelihoods in nats, fp32 [N].
        is_argmax: whether the target is the most probable token, bool [N].
    """
    rows, matrix = slice_rows(hidden, weight), weight.to(hidden.dtype)
    nll, is_argmax = [], []
    for part, target in zip(hidden.split(rows), targets.split(rows), strict=True):
        logits = (part @ matrix.T).float()
        if softcap is not None:
            logits = logits.div_(softcap).tanh_().mul_(softcap)
        nll.append(F.cross_entropy(logits, target, reduction="none"))
        is_argmax.append(logits.argmax(dim=-1) == target)
    return torch.cat(nll), torch.cat(is_argmax)
