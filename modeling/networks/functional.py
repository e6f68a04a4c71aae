"""Parts of the model in the form that trains fastest: on a GPU torch's own, which are fused; on a CPU others.

There, what is no matrix product is a pass over memory. Autograd makes two to three times as many of them for RMSNorm
and squared ReLU as their gradients need when written out, and the fused attention takes twice as long in training as
whole products over a short window (measured: modeling/LOG.md).
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

NORM_EPS = 1e-6
WHOLE_ATTENTION = 512  # longest window whose scores are kept whole for the backward pass


class _RMSNorm(torch.autograd.Function):
    @staticmethod
    def forward(ctx, x: Tensor) -> Tensor:
        # summed in fp32 at least, without a copy of x in it
        exact = torch.promote_types(x.dtype, torch.float32)
        norm = torch.linalg.vector_norm(x, dim=-1, keepdim=True, dtype=exact)
        scale = (norm.square_().div_(x.shape[-1]).add_(NORM_EPS)).rsqrt_().to(x.dtype)
        y = x * scale
        ctx.save_for_backward(y, scale)
        return y

    @staticmethod
    def backward(ctx, grad: Tensor) -> Tensor:
        y, scale = ctx.saved_tensors
        along = (grad * y).mean(-1, keepdim=True)
        return torch.addcmul(grad, y, along, value=-1).mul_(scale)


def rms_norm(x: Tensor) -> Tensor:
    """x over the root of its mean square along the last axis (Zhang & Sennrich 2019), without weights; in x's dtype."""
    if x.device.type == "cpu":
        return _RMSNorm.apply(x)
    return F.rms_norm(x, (x.shape[-1],), eps=NORM_EPS).to(x.dtype)  # autocast has it return fp32


class _SquaredReLU(torch.autograd.Function):
    @staticmethod
    def forward(ctx, x: Tensor) -> Tensor:
        positive = F.relu(x)
        ctx.save_for_backward(positive)
        return positive * positive

    @staticmethod
    def backward(ctx, grad: Tensor) -> Tensor:
        (positive,) = ctx.saved_tensors
        return (grad * positive).mul_(2)


def squared_relu(x: Tensor) -> Tensor:
    """max(x, 0)² (So et al. 2021)."""
    return _SquaredReLU.apply(x) if x.device.type == "cpu" else F.relu(x).square()


def attention(
    q: Tensor, k: Tensor, v: Tensor, mask: Tensor | None = None, causal: bool = False, dropout: float = 0.0
) -> Tensor:
    """Scaled dot-product attention (Vaswani et al. 2017) of q [B, H, T, D] over k and v [B, G, S, D], G dividing H.

    mask: bool [T, S], true where a position is seen; causal: each position sees itself and those before it (T = S).
    """
    length, size = q.shape[-2:]
    if (
        q.device.type == "cpu" and q.requires_grad and mask is None and not dropout
        and q.shape == k.shape and length <= WHOLE_ATTENTION
    ):  # fmt: skip
        hidden = torch.full((length, length), -torch.inf if causal else 0.0, dtype=q.dtype).triu(1)
        rows = q.shape[0] * q.shape[1]
        scores = torch.baddbmm(hidden.expand(rows, -1, -1), (q * size**-0.5).flatten(0, 1), k.flatten(0, 1).mT)
        return (scores.softmax(-1) @ v.flatten(0, 1)).view_as(q)
    return F.scaled_dot_product_attention(
        q, k, v, attn_mask=mask, is_causal=causal, dropout_p=dropout, enable_gqa=k.shape[1] != q.shape[1]
    )
