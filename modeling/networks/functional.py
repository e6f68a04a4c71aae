"""Parts of the model in the form that trains fastest: on a GPU torch's own, which are fused; on a CPU others.

On a CPU everything but a matrix product is a pass over memory. Autograd makes two to three times as many passes for
RMSNorm and squared ReLU as their gradients need when written out, and the fused attention takes twice as long in
training as plain products over a short window (measured: modeling/LOG.md).

Documents that share a window are told apart by numbers, int64 [B, T]: positions of one number see each other and no
others. Padding is a document by itself.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Any, Literal

import torch
import torch.nn.functional as F
from torch import Tensor

if TYPE_CHECKING:
    from torch.nn.attention.flex_attention import BlockMask

__all__ = [
    "NORM_EPS", "activate", "attention", "document_mask", "document_rule", "documents_in", "rms_norm", "squared_relu",
    "to_product_dtype",
]  # fmt: skip

NORM_EPS = 1e-6
STORED_SCORES_LENGTH = 512  # longest window whose scores are kept as a matrix for the backward pass


def to_product_dtype(x: Tensor) -> Tensor:
    """`x` in the dtype of matrix products, where autocast sets another: a residual stream in it halves its traffic."""
    return x.to(torch.get_autocast_dtype(x.device.type)) if torch.is_autocast_enabled(x.device.type) else x


class _RMSNorm(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x: Tensor) -> Tensor:
        # summed in fp32 at least, without a copy of x in it
        exact = torch.promote_types(x.dtype, torch.float32)
        norm = torch.linalg.vector_norm(x, dim=-1, keepdim=True, dtype=exact)
        scale = (norm.square_().div_(x.shape[-1]).add_(NORM_EPS)).rsqrt_().to(x.dtype)
        y = x * scale
        ctx.save_for_backward(y, scale)
        return y

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> Tensor:
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
    def forward(ctx: Any, x: Tensor) -> Tensor:
        positive = F.relu(x)
        ctx.save_for_backward(positive)
        return positive * positive

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> Tensor:
        (positive,) = ctx.saved_tensors
        return (grad * positive).mul_(2)


def squared_relu(x: Tensor) -> Tensor:
    """max(x, 0)² (So et al. 2021, Primer)."""
    return _SquaredReLU.apply(x) if x.device.type == "cpu" else F.relu(x).square()


def activate(x: Tensor, activation: str) -> Tensor:
    """The nonlinearity of this name (`TransformerConfig.activation`), which is not `swiglu`."""
    match activation:
        case "relu2":
            return squared_relu(x)
        case "gelu":
            return F.gelu(x, approximate="tanh")
        case "relu":
            return F.relu(x)
        case "silu":
            return F.silu(x)
    raise ValueError(f"there is no activation {activation!r} of one input")


def documents_in(ids: Tensor, eot_id: int) -> Tensor:
    """The number of the document that each of the ids [B, T] belongs to, int64 like them.

    A document begins with the end of text before it, as prompts do; that token ends the one before as a target alone.
    """
    return (ids == eot_id).cumsum(dim=1)


def document_mask(documents: Tensor, causal: bool, heads: int, dtype: torch.dtype, fused: bool) -> Tensor | BlockMask:
    """What positions see of their own document, as `attention` takes it, made once for all layers.

    Args:
        documents: numbers of the documents, int64 [B, T].
        causal: whether a position sees nothing after it.
        heads: of the attention that the mask is for.
        dtype: of its queries.
        fused: whether attention weights need not be at hand, as they do for dropout.
    """
    B, T = documents.shape
    if fused and documents.device.type == "cuda" and torch.compiler.is_compiling():  # flex attention is compiled code
        from torch.nn.attention.flex_attention import create_block_mask

        return create_block_mask(document_rule(documents, causal), B, None, T, T, documents.device)
    seen = documents.unsqueeze(2) == documents.unsqueeze(1)
    seen = (seen.tril() if causal else seen).unsqueeze(1)
    if documents.device.type != "cpu" or T > STORED_SCORES_LENGTH:
        return seen
    return torch.zeros(seen.shape, dtype=dtype).masked_fill_(~seen, -torch.inf).repeat(1, heads, 1, 1)


def document_rule(documents: Tensor, causal: bool) -> Callable[[Tensor, Tensor, Tensor, Tensor], Tensor]:
    """The same for flex attention (Dong et al. 2024), which skips the blocks of a window where nothing is seen."""

    def sees(row: Tensor, head: Tensor, query: Tensor, key: Tensor) -> Tensor:
        same = documents[row, query] == documents[row, key]
        return same & (query >= key) if causal else same

    return sees


def attention(
    q: Tensor, k: Tensor, v: Tensor, mask: Tensor | BlockMask | Literal["causal"] | None = None, dropout: float = 0.0
) -> Tensor:
    """Scaled dot-product attention (Vaswani et al. 2017); query heads share keys and values (Ainslie et al. 2023, GQA).

    Args:
        q: queries [B, H, T, D].
        k: keys [B, G, S, D], G dividing H.
        v: values, shaped like the keys.
        mask: bool [T, S], true where a position is seen; "causal": each position sees itself and those before it
            (T = S); what `document_mask` gives; None: each sees all.
        dropout: share of the attention weights that are zeroed.

    Returns:
        [B, H, T, D]
    """
    length, size = q.shape[-2:]
    is_causal, seen = isinstance(mask, str), mask if isinstance(mask, Tensor) else None
    is_added = seen is not None and seen.is_floating_point()  # [B, H, T, T], 0 or -inf
    if (
        q.device.type == "cpu" and q.requires_grad and (seen is None or is_added) and not dropout
        and q.shape == k.shape and length <= STORED_SCORES_LENGTH
    ):  # fmt: skip
        batch_heads = q.shape[0] * q.shape[1]
        if seen is not None:
            hidden = seen.flatten(0, 1)
        else:
            hidden = torch.full((length, length), -torch.inf if is_causal else 0.0, dtype=q.dtype).triu(1)
            hidden = hidden.expand(batch_heads, -1, -1)
        scores = torch.baddbmm(hidden, (q * size**-0.5).flatten(0, 1), k.flatten(0, 1).mT)
        return (scores.softmax(-1) @ v.flatten(0, 1)).view_as(q)
    shares_keys = k.shape[1] != q.shape[1]
    if mask is None or isinstance(mask, Tensor | str):
        return F.scaled_dot_product_attention(
            q, k, v, attn_mask=seen, is_causal=is_causal, dropout_p=dropout, enable_gqa=shares_keys
        )
    from torch.nn.attention.flex_attention import flex_attention

    return flex_attention(q, k, v, block_mask=mask, enable_gqa=shares_keys)
