"""The CPU's forms of the model's parts against torch's own: values and gradients."""

import pytest
import torch
import torch.nn.functional as F

from modeling.networks.functional import (
    NORM_EPS,
    attention,
    document_mask,
    document_rule,
    rms_norm,
    squared_relu,
)


def gradients(function, *inputs, weight):
    leaves = [x.clone().requires_grad_() for x in inputs]
    y = function(*leaves)
    return y, torch.autograd.grad((y * weight).sum(), leaves)


def assert_same(ours, theirs, *inputs):
    weight = torch.randn_like(theirs(*inputs))
    for mine, its in zip(
        gradients(ours, *inputs, weight=weight), gradients(theirs, *inputs, weight=weight), strict=True
    ):
        torch.testing.assert_close(mine, its, rtol=1e-10, atol=1e-10)


def test_rms_norm():
    x = torch.randn(2, 3, 5, 8, dtype=torch.float64)
    x[0, 0, 0] = 0  # the epsilon alone
    assert_same(rms_norm, lambda x: F.rms_norm(x, (8,), eps=NORM_EPS), x.transpose(1, 2))  # as queries come


def test_rms_norm_in_half_precision_is_as_exact_as_its_dtype():
    x = torch.randn(64, 256) * 3
    exact = F.rms_norm(x, (256,), eps=NORM_EPS)
    torch.testing.assert_close(rms_norm(x.bfloat16()).float(), exact, rtol=2**-6, atol=2**-6)


def test_squared_relu():
    assert_same(squared_relu, lambda x: F.relu(x).square(), torch.randn(7, 9, dtype=torch.float64))


@pytest.mark.parametrize("causal", [True, False])
def test_attention(causal):
    q, k, v = (torch.randn(2, 9, 3, 4, dtype=torch.float64).transpose(1, 2) for _ in range(3))
    assert_same(
        lambda q, k, v: attention(q, k, v, "causal" if causal else None),
        lambda q, k, v: F.scaled_dot_product_attention(q, k, v, is_causal=causal),
        q, k, v,
    )  # fmt: skip


def test_attention_of_shared_keys_and_without_gradients_is_torch_s_own():
    q, k, v = torch.randn(1, 4, 6, 8), torch.randn(1, 2, 6, 8), torch.randn(1, 2, 6, 8)
    expected = F.scaled_dot_product_attention(q, k, v, is_causal=True, enable_gqa=True)
    assert torch.equal(attention(q, k, v, "causal"), expected)
    assert torch.equal(attention(q.requires_grad_(), k, v, "causal"), expected)


DOCUMENTS = torch.tensor([[0, 0, 0, 1, 1, 1, 1, 1, 2], [0, 1, 1, 1, 1, 2, 2, 3, 3]])


@pytest.mark.parametrize("length", [9, 512, 513])  # below and above the window whose scores are stored
@pytest.mark.parametrize("causal", [True, False])
def test_attention_within_documents(causal, length):
    documents = DOCUMENTS.repeat_interleave(-(-length // 9), dim=1)[:, :length]
    q, k, v = (torch.randn(2, length, 3, 4, dtype=torch.float64).transpose(1, 2) for _ in range(3))
    seen = (documents[:, :, None] == documents[:, None, :])[:, None]
    if causal:
        seen = seen & torch.ones(length, length, dtype=torch.bool).tril()
    mask = document_mask(documents, causal, 3, torch.float64, fused=True)
    assert_same(
        lambda q, k, v: attention(q, k, v, mask),
        lambda q, k, v: F.scaled_dot_product_attention(q, k, v, attn_mask=seen),
        q, k, v,
    )  # fmt: skip


@pytest.mark.parametrize("causal", [True, False])
def test_attention_of_shared_keys_within_documents(causal):
    q, k, v = torch.randn(2, 4, 9, 8), torch.randn(2, 2, 9, 8), torch.randn(2, 2, 9, 8)
    mask = document_mask(DOCUMENTS, causal, 4, torch.float32, fused=True)
    keys, values = (x.repeat_interleave(2, dim=1) for x in (k, v))
    torch.testing.assert_close(attention(q.requires_grad_(), k, v, mask), attention(q, keys, values, mask))


@pytest.mark.parametrize("causal", [True, False])
@pytest.mark.filterwarnings("ignore:flex_attention called without torch.compile")
def test_the_rule_of_flex_attention_is_the_mask(causal):
    # as a GPU is given it, which compiles it; here it is computed plainly
    from torch.nn.attention.flex_attention import create_block_mask

    documents = DOCUMENTS.repeat_interleave(30, dim=1)
    rule = document_rule(documents, causal)
    blocks = create_block_mask(rule, 2, None, 270, 270, "cpu", BLOCK_SIZE=32)
    q, k, v = torch.randn(2, 4, 270, 16), torch.randn(2, 2, 270, 16), torch.randn(2, 2, 270, 16)
    expected = attention(q, k, v, document_mask(documents, causal, 4, torch.float32, fused=True))
    torch.testing.assert_close(attention(q, k, v, blocks), expected, atol=1e-5, rtol=1e-5)
    assert blocks.sparsity() > (60 if causal else 35)  # percent of the blocks: there is nothing to look at
