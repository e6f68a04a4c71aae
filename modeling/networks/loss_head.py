"""The loss head: projection to the vocabulary and cross-entropy, a slice of rows at a time.

Logits of a whole batch in fp32 would be the largest tensor of the run by far. Here each slice's logits live once, and
the gradients with respect to hidden states and weight are made in the same pass (the idea of Liger's fused linear
cross-entropy, Hsu et al. 2024), so that nothing of the vocabulary's size is kept for the backward pass.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

# Logits of one slice: what fits a CPU cache, and enough to keep a GPU busy (measured: modeling/LOG.md)
SLICE_ELEMENTS = {"cpu": 2**22, "cuda": 2**28}


def slice_rows(hidden: Tensor, weight: Tensor) -> int:
    """How many rows of `hidden` have their logits at once."""
    return max(1, SLICE_ELEMENTS.get(hidden.device.type, 2**24) // weight.shape[0])


class _SlicedCrossEntropy(torch.autograd.Function):
    @staticmethod
    def forward(ctx, hidden: Tensor, weight: Tensor, targets: Tensor, softcap: float | None, want_grad: bool) -> Tensor:
        rows = slice_rows(hidden, weight)
        matrix = weight.to(hidden.dtype)
        loss = torch.zeros((), dtype=torch.float32, device=hidden.device)
        if want_grad:
            grad_hidden, grad_weight = torch.empty_like(hidden), torch.zeros_like(weight, dtype=torch.float32)
        for start in range(0, hidden.shape[0], rows):
            part, target = hidden[start : start + rows], targets[start : start + rows, None]
            logits = (part @ matrix.T).float()
            if softcap is not None:
                capped = logits.div_(softcap).tanh_()
                logits = capped * softcap
            log_shares = torch.log_softmax(logits, dim=-1)
            likelihood = log_shares.gather(1, target)
            loss -= likelihood.sum()
            if want_grad:
                grad, grad_target = log_shares.exp_(), likelihood.exp() - 1
                if softcap is not None:
                    slope = capped.square_().neg_().add_(1)
                    grad_target *= slope.gather(1, target)
                    grad *= slope
                # set in the dtype of the products: compiled, what precedes is then one pass over the logits
                grad = grad.to(hidden.dtype).scatter_(1, target, grad_target.to(hidden.dtype))
                grad_hidden[start : start + rows] = grad @ matrix
                grad_weight += grad.T @ part
        if want_grad:
            ctx.save_for_backward(grad_hidden, grad_weight)
        return loss / hidden.shape[0]

    @staticmethod
    def backward(ctx, scale: Tensor):
        grad_hidden, grad_weight = ctx.saved_tensors
        scale = scale / grad_hidden.shape[0]
        return grad_hidden * scale.to(grad_hidden.dtype), grad_weight * scale, None, None, None


def cross_entropy(hidden: Tensor, weight: Tensor, targets: Tensor, softcap: float | None = None) -> Tensor:
    """Mean negative log likelihood in nats (fp32 scalar) of `targets` under softmax of the capped hidden @ weight.T.

    hidden: [N, W] of any float dtype, in which the products are computed; weight: [V, W]; targets: int64 [N].
    """
    want_grad = torch.is_grad_enabled() and (hidden.requires_grad or weight.requires_grad)
    return _SlicedCrossEntropy.apply(hidden, weight, targets, softcap, want_grad)


@torch.no_grad()
def likelihoods(hidden: Tensor, weight: Tensor, targets: Tensor, softcap: float | None = None) -> tuple[Tensor, Tensor]:
    """Of each target its negative log likelihood in nats (fp32 [N]), and whether it is the most likely one (bool [N]).

    Arguments as in `cross_entropy`.
    """
    rows, matrix = slice_rows(hidden, weight), weight.to(hidden.dtype)
    nats, greedy = [], []
    for part, target in zip(hidden.split(rows), targets.split(rows), strict=True):
        logits = (part @ matrix.T).float()
        if softcap is not None:
            logits = logits.div_(softcap).tanh_().mul_(softcap)
        nats.append(F.cross_entropy(logits, target, reduction="none"))
        greedy.append(logits.argmax(dim=-1) == target)
    return torch.cat(nats), torch.cat(greedy)
