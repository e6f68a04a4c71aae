"""The encoder-decoder: padding, the state that generation keeps, its loss, and that it looks at the source."""

import pytest
import torch
import torch.nn.functional as F
from torch import nn

from modeling.config.network import EncoderDecoderConfig
from modeling.cost import network_cost
from modeling.networks.encoder_decoder import EncoderDecoder, Sources

VOCABULARY = 61
VARIANTS = {
    "modern": {},
    "grouped": {"kv_heads": 2, "encoder_layers": 1, "tied": True},
    "classic": {
        "norm": "layer", "positions": "learned", "activation": "gelu", "qk_norm": False, "bias": True,
        "zero_init": False, "encoder_layers": 3,
    },
    "post": {"norm": "layer", "norm_place": "post", "attention_scale": "width"},
    "bare": {"norm_place": "none", "residual": False, "zero_init": False, "activation": "gelu"},
    "swiglu": {"activation": "swiglu", "softcap": 15.0},
    "spline": {"feed_forward": "kan-spline", "activation": "silu"},
    "rational": {"feed_forward": "kan-rational", "activation": "gelu", "bias": True},
}  # fmt: skip


@pytest.fixture(params=VARIANTS)
def model(request) -> EncoderDecoder:
    """A model whose every weight matters."""
    torch.manual_seed(0)
    shape = {"kind": "encoder-decoder", "layers": 2, "width": 32, "heads": 4, "context": 24}
    made = EncoderDecoder(EncoderDecoderConfig.model_validate(shape | VARIANTS[request.param]), VOCABULARY)
    with torch.no_grad():
        for parameter in made.parameters():
            parameter.add_(torch.randn_like(parameter), alpha=0.1)
    return made.eval()


@pytest.fixture
def sources() -> Sources:
    return Sources(torch.randint(VOCABULARY, (3, 20)), torch.tensor([20, 7, 13]))


@pytest.fixture
def ids() -> torch.Tensor:
    return torch.randint(VOCABULARY, (3, 15))


def test_padding_of_a_source_changes_nothing(model, sources, ids):
    logits = model(ids, sources=sources)
    for row, length in enumerate(sources.lengths):
        alone = model(ids[row : row + 1], sources=Sources(sources.ids[row : row + 1, :length]))
        torch.testing.assert_close(logits[row : row + 1], alone, atol=1e-5, rtol=1e-4)


@torch.inference_mode()
def test_a_target_read_by_the_token_is_the_target_read_at_once(model, sources, ids):
    state = model.read(sources, keep=True)
    pieces = [model(piece, state=state) for piece in (ids[:, :4], *ids[:, 4:].split(1, dim=1))]
    torch.testing.assert_close(torch.cat(pieces, dim=1), model(ids, sources=sources), atol=1e-5, rtol=1e-4)


@torch.inference_mode()
def test_rows_of_a_state_may_go_on_in_another_order(model, sources, ids):
    state = model.read(sources, keep=True)
    model(ids[:, :5], state=state)
    rows = torch.tensor([2, 0, 2])
    state.reorder(rows)
    expected = model(ids, sources=sources)[rows, 5:8]
    torch.testing.assert_close(model(ids[rows, 5:8], state=state), expected, atol=1e-5, rtol=1e-4)


def test_a_position_sees_nothing_after_it_and_all_of_the_source(model, sources, ids):
    logits = model(ids, sources=sources)
    changed = ids.clone()
    changed[:, 10] = (changed[:, 10] + 1) % VOCABULARY
    others = model(changed, sources=sources)
    assert torch.equal(logits[:, :10], others[:, :10])
    assert not torch.allclose(logits[:, 10:], others[:, 10:])
    for place in (0, 6):  # at the beginning of a source and at its end
        source = sources.ids.clone()
        source[:, place] = (source[:, place] + 1) % VOCABULARY
        assert (logits != model(ids, sources=Sources(source, sources.lengths))).any(dim=2).all(dim=1)[1]


def test_the_loss_is_the_weighted_cross_entropy_of_the_logits_and_so_are_its_gradients(model, sources, ids):
    targets, counts = torch.randint(VOCABULARY, ids.shape), torch.rand(ids.shape)
    counts[1, 5:] = 0
    logits = model(ids, sources=sources)
    nll = F.cross_entropy(logits.transpose(1, 2), targets, reduction="none")
    expected = torch.autograd.grad((nll * counts).mean(), list(model.parameters()))
    loss = model(ids, targets, sources=sources._replace(counts=counts))
    torch.testing.assert_close(loss, (nll * counts).mean(), atol=1e-5, rtol=1e-4)
    torch.testing.assert_close(torch.autograd.grad(loss, list(model.parameters())), expected, atol=1e-5, rtol=1e-3)
    losses, is_argmax = model.token_losses(ids, targets, model.read(sources))
    torch.testing.assert_close(losses, nll, atol=1e-5, rtol=1e-4)
    assert torch.equal(is_argmax, logits.argmax(dim=-1) == targets)


def test_the_cost_counts_the_parameters_that_there_are(model):
    cost = network_cost(model.config, VOCABULARY)
    assert cost.parameters == sum(parameter.numel() for parameter in model.parameters())
    assert cost.block_parameters == model.block_parameters()


def test_every_parameter_has_a_kind_and_gets_a_gradient(model, sources, ids):
    kinds = model.parameter_kinds()
    assert kinds.keys() == dict(model.named_parameters()).keys()
    assert kinds["blocks.0.cross_attention.k.weight"] == kinds["encoder.0.attention.q.weight"] == "matrix"
    assert kinds["embed.weight"] == ("head" if model.config.tied else "embedding")
    model(ids, ids, sources=sources).backward()
    assert all(parameter.grad is not None for parameter in model.parameters())


@pytest.mark.parametrize("zero_init", [True, False])
def test_a_new_model_guesses_all_tokens_alike(zero_init, sources, ids):
    config = EncoderDecoderConfig(kind="encoder-decoder", layers=2, width=32, heads=4, context=24, zero_init=zero_init)
    model = EncoderDecoder(config, VOCABULARY)
    assert model(ids, ids, sources=sources).item() == pytest.approx(
        torch.tensor(float(VOCABULARY)).log().item(), abs=0.3
    )
    projections = [block.cross_attention.out for block in model.decoder_blocks()]
    assert all(isinstance(out, nn.Linear) and (out.weight == 0).all() == zero_init for out in projections)
