"""What is drawn of the attention of a transformer."""

import pytest
import torch

from modeling.checkpoint import load_model
from modeling.config.network import TransformerConfig
from modeling.inference.attention_maps import attention_maps, attention_weights
from modeling.networks.transformer import GPT

TEXT = "the cat sees the sea. a dog hears rain."


@pytest.mark.parametrize("causal", [True, False])
@pytest.mark.parametrize(
    "shape",
    [
        {},
        {"kv_heads": 2},
        {"attention_scale": "width", "qk_norm": False, "positions": "learned"},
        {"value_embeddings": True, "smear": True, "x0_skip": True},
    ],
)
def test_the_weights_are_those_that_the_block_mixes_values_with(shape, causal):
    torch.manual_seed(0)
    config = TransformerConfig(layers=2, width=32, heads=4, context=16, zero_init=False, **shape)
    model = GPT(config, 50, causal).eval()
    ids = torch.randint(50, (2, 12))
    weights = attention_weights(model, ids, 1)
    assert weights.shape == (2, 4, 12, 12)
    seen = {}
    attention = model.blocks[1].attention
    attention.register_forward_hook(lambda module, inputs, output: seen.update(inputs=inputs, output=output))
    attention.out.register_forward_pre_hook(lambda module, inputs: seen.update(mixed=inputs[0]))
    model.hidden(ids)
    x, _, value, *_ = seen["inputs"]
    v = attention.v(x).view(2, 12, -1, 8)
    if value is not None:
        v = v + 2 * torch.sigmoid(attention.value_gate(x[..., :16])).unsqueeze(-1) * value.view_as(v)
    v = v.transpose(1, 2).repeat_interleave(4 // v.shape[2], dim=1)
    expected = (weights @ v).transpose(1, 2).reshape(2, 12, 32)
    torch.testing.assert_close(seen["mixed"], expected, atol=1e-5, rtol=1e-4)
    assert bool((weights.triu(1) == 0).all()) == causal


def test_the_first_heads_of_the_middle_block_are_shown_over_the_beginning_of_a_text(pretrained, finetuned):
    _, config = load_model(pretrained)
    maps = attention_maps(pretrained, TEXT)
    assert maps == attention_maps(pretrained, TEXT)
    middle = config.model.layers // 2 + 1
    heads = min(4, config.model.heads)
    assert [shown.title for shown in maps] == [f"block {middle}, head {head}" for head in range(1, heads + 1)]
    for shown in maps:
        assert "".join(shown.tokens) == TEXT[: len(shown.tokens)]
        assert len(shown.tokens) == min(24, config.model.context)
        assert all(sum(row) == pytest.approx(1, abs=1e-5) for row in shown.weights)
        assert shown.weights[0] == [1, *[0] * (len(shown.tokens) - 1)]
    assert attention_maps(finetuned, TEXT)[0].weights[0][-1] > 0  # it sees what follows


def test_a_text_of_one_token_has_no_map(pretrained):
    assert attention_maps(pretrained, "a") == []
