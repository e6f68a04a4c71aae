"""The architecture: what each position sees, the cache, and the loss head."""

import math
from itertools import product

import pytest
import torch
import torch.nn.functional as F
from hypothesis import given, settings
from hypothesis import strategies as st
from pydantic import ValidationError

from modeling.config.network import TransformerConfig
from modeling.config.optimization import OptimizerConfig
from modeling.config.pretrain import PretrainConfig
from modeling.networks.functional import documents_in
from modeling.networks.loss_head import SLICE_ELEMENTS, cross_entropy
from modeling.networks.transformer import GPT, Attention, KeyValueCache, document_begins, positions_in_documents
from modeling.training.optim import optimizers, set_learning_rates

VOCAB = 50
SMALL = {"layers": 3, "width": 48, "heads": 4, "context": 16}
CLASSIC = {"norm": "layer", "positions": "learned", "qk_norm": False, "bias": True, "zero_init": False}
VARIANTS = {
    "modern": {},
    "swiglu": {"activation": "swiglu"},
    "grouped": {"kv_heads": 2},
    "fast": {"value_embeddings": True, "x0_skip": True, "smear": True, "bigrams": 97},
    "fast, grouped": {"value_embeddings": True, "x0_skip": True, "smear": True, "bigrams": 97, "kv_heads": 1},
    "capped": {"softcap": 15.0},
    "tied": {"tied": True},
    "classic": CLASSIC | {"activation": "relu"},
    "splines": {"feed_forward": "kan-spline"},
    "splines, classic": CLASSIC | {"feed_forward": {"kind": "kan-spline", "grid": 3, "order": 2}, "activation": "silu"},
    "gaussians": {"feed_forward": "kan-rbf", "activation": "silu"},
    "rationals": {"feed_forward": "kan-rational"},
    "rationals, classic": CLASSIC | {"feed_forward": {"kind": "kan-rational", "groups": 4}, "activation": "gelu"},
    "gpt2": CLASSIC | {"activation": "gelu", "tied": True},
    "post-norm": CLASSIC | {"activation": "relu", "norm_place": "post", "attention_scale": "width"},
    "post-norm, fast": {"norm_place": "post", "value_embeddings": True, "x0_skip": True, "smear": True, "bigrams": 97},
    "no norms": {"norm_place": "none", "qk_norm": False},
    "no residuals": {"residual": False, "zero_init": False},
    "neither": {"norm_place": "none", "residual": False, "zero_init": False, "activation": "gelu"},
}


def build(variant: str, causal: bool = True, seed: int = 0) -> GPT:
    """A model whose zero-initialized parts are not zero, so that every path carries signal."""
    torch.manual_seed(seed)
    model = GPT(TransformerConfig(**SMALL | VARIANTS[variant]), VOCAB, causal).eval()
    with torch.no_grad():
        for parameter in model.parameters():
            parameter += 0.05 * torch.randn_like(parameter)
    return model


def ids(rows: int = 2, length: int = 16) -> torch.Tensor:
    return torch.randint(VOCAB, (rows, length), generator=torch.Generator().manual_seed(1))


@pytest.mark.parametrize("variant", VARIANTS)
def test_no_position_sees_a_later_token(variant):
    model, tokens = build(variant), ids()
    changed = tokens.clone()
    changed[:, 9] = (changed[:, 9] + 1) % VOCAB
    difference = (model(tokens) - model(changed)).abs().amax(dim=(0, 2))
    assert difference[:9].max() == 0
    assert difference[9:].min() > 1e-5


def test_the_embeddings_of_pairs_are_those_of_the_last_two_tokens():
    model, tokens = build("fast"), ids(rows=1)
    nothing = torch.zeros(1, 16, 48)
    added = model.with_bigrams(nothing, tokens, None)[0]
    assert (added[0] == 0).all()  # no pair ends at the first token
    changed = tokens.clone()
    changed[0, 9] = (changed[0, 9] + 1) % VOCAB
    differs = (model.with_bigrams(nothing, changed, None)[0] != added).any(dim=1)
    assert differs.nonzero().flatten().tolist() == [9, 10]
    shifted = model.with_bigrams(nothing, tokens.roll(5, dims=1), None)[0]
    assert torch.equal(shifted[6:], added[1:-5])


@pytest.mark.parametrize("variant", VARIANTS)
def test_without_causality_every_position_sees_every_token(variant):
    model, tokens = build(variant, causal=False), ids()
    changed = tokens.clone()
    changed[:, 9] = (changed[:, 9] + 1) % VOCAB
    assert (model(tokens) - model(changed)).abs().amax(dim=(0, 2)).min() > 1e-6


DOCUMENTS = torch.tensor([[0] * 5 + [1] * 4 + [2] * 7, [3] + [4] * 12 + [7] * 3])


@pytest.mark.parametrize("causal", [True, False])
@pytest.mark.parametrize("variant", VARIANTS)
def test_documents_in_a_window_give_the_logits_that_each_has_alone(variant, causal):
    model, tokens = build(variant, causal).double(), ids()
    packed = model(tokens, documents=DOCUMENTS)
    alone = torch.empty_like(packed)
    for row, numbers in enumerate(DOCUMENTS):
        for number in numbers.unique():
            own = numbers == number
            alone[row, own] = model(tokens[row, own][None])[0]
    torch.testing.assert_close(packed, alone, atol=1e-6, rtol=1e-6)  # the rotary tables are in fp32
    assert (packed - model(tokens)).abs().amax() > 1e-3
    nll, _ = model.token_losses(tokens, tokens.roll(3), documents=DOCUMENTS)
    expected = F.cross_entropy(alone.transpose(1, 2), tokens.roll(3), reduction="none")
    torch.testing.assert_close(nll, expected.float(), atol=1e-5, rtol=1e-5)


@pytest.mark.parametrize("variant", VARIANTS)
def test_gradients_of_documents_in_a_window_are_those_that_they_have_alone(variant):
    model, tokens = build(variant, causal=False).double().train(), ids(rows=1)
    documents, targets = DOCUMENTS[:1], tokens.roll(3)
    model(tokens, targets, documents=documents).backward()
    packed = {name: parameter.grad for name, parameter in model.named_parameters()}
    model.zero_grad()
    for number in documents.unique():
        own = documents == number
        (model(tokens[own][None], targets[own][None]) * own.sum() / 16).backward()
    for name, parameter in model.named_parameters():
        torch.testing.assert_close(packed[name], parameter.grad, atol=1e-6, rtol=1e-6)


@pytest.mark.parametrize("variant", VARIANTS)
def test_padding_is_not_seen(variant):
    model, tokens = build(variant, causal=False), ids()
    lengths = torch.tensor([11, 16])
    padding = (torch.arange(16) >= lengths[:, None]).long()
    logits = model(tokens.masked_fill(padding > 0, 0), documents=padding)
    torch.testing.assert_close(logits[0, :11], model(tokens[:1, :11])[0], atol=1e-5, rtol=1e-5)
    torch.testing.assert_close(logits[1], model(tokens[1:])[0], atol=1e-5, rtol=1e-5)


def test_a_document_begins_with_the_end_of_text_before_it():
    documents = documents_in(torch.tensor([[5, 6, 9, 5, 9, 9, 7]]), eot_id=9)
    assert documents.tolist() == [[0, 0, 1, 1, 2, 3, 3]]
    begins = document_begins(documents)
    assert begins.int().tolist() == [[1, 0, 1, 0, 1, 1, 0]]
    assert positions_in_documents(begins).tolist() == [[0, 1, 0, 1, 0, 0, 1]]


@pytest.mark.parametrize("variant", VARIANTS)
def test_the_cache_gives_the_logits_of_the_whole_window(variant):
    model, tokens = build(variant), ids()
    whole = model(tokens)
    cache = KeyValueCache(model, len(tokens))
    with torch.no_grad():
        pieces = [model(tokens[:, a:b], state=cache) for a, b in ((0, 5), (5, 6), (6, 7), (7, 12), (12, 16))]
    torch.testing.assert_close(torch.cat(pieces, dim=1), whole, atol=1e-5, rtol=1e-5)


@pytest.mark.parametrize("variant", VARIANTS)
def test_the_loss_is_the_cross_entropy_of_the_logits(variant):
    model, tokens = build(variant), ids()
    targets = ids(2, 16).roll(3)
    expected = F.cross_entropy(model(tokens).flatten(0, 1), targets.flatten())
    torch.testing.assert_close(model(tokens, targets), expected)
    positions = torch.tensor([[0, 3, 7], [2, 2, 15]])
    chosen = F.cross_entropy(model(tokens, positions=positions).flatten(0, 1), targets.gather(1, positions).flatten())
    torch.testing.assert_close(model(tokens, targets.gather(1, positions), positions), chosen)
    torch.testing.assert_close(model(tokens, positions=positions)[1, 2], model(tokens)[1, 15])


@pytest.mark.parametrize("variant", VARIANTS)
def test_the_losses_of_tokens_are_those_of_the_logits(variant, monkeypatch):
    monkeypatch.setitem(SLICE_ELEMENTS, "cpu", 3 * VOCAB)  # the last slice is not full
    model, tokens = build(variant), ids()
    targets = ids(2, 16).roll(3)
    targets[0, :9] = model(tokens).argmax(-1)[0, :9]
    nll, is_argmax = model.token_losses(tokens, targets)
    expected = F.cross_entropy(model(tokens).transpose(1, 2), targets, reduction="none")
    torch.testing.assert_close(nll, expected)
    assert torch.equal(is_argmax, model(tokens).argmax(-1) == targets)


@pytest.mark.parametrize("variant", VARIANTS)
def test_a_new_model_knows_nothing_and_learns_everywhere(variant):
    torch.manual_seed(0)
    model = GPT(TransformerConfig(**SMALL | VARIANTS[variant]), VOCAB)
    tokens = ids(8)
    assert model(tokens, tokens.roll(1)).item() == pytest.approx(math.log(VOCAB), rel=0.05)
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    for _ in range(4):  # zero-initialized projections let gradients through from the second step on
        optimizer.zero_grad()
        model(tokens, tokens.roll(1)).backward()
        optimizer.step()
    silent = [name for name, p in model.named_parameters() if p.grad is None or not p.grad.abs().max() > 0]
    assert silent == []


def loss_after(fields, steps, rate=1.0):
    """The loss on 8 windows of 16 random tokens, before and after learning them by heart."""
    torch.manual_seed(0)
    model = GPT(TransformerConfig(**SMALL | fields), VOCAB)
    optimizer = OptimizerConfig(name="adamw", lr=3e-3 * rate, matrix_lr=0.02 * rate)
    tokens, learners = ids(8), optimizers(model, optimizer, torch.float32)
    set_learning_rates(learners, 1.0)
    first = model(tokens[:, :-1], tokens[:, 1:]).item()
    for _ in range(steps):
        model(tokens[:, :-1], tokens[:, 1:]).backward()
        for learner in learners:
            learner.step()
            learner.zero_grad()
    return first, model(tokens[:, :-1], tokens[:, 1:]).item()


BLOCKS = {
    f"{'classic' if classic else 'modern'}, {place}, {'with' if residual else 'without'} residual, by {scale}": (
        (CLASSIC if classic else {"zero_init": residual})
        | {"activation": "relu2" if residual and not classic else "relu"}
        | {"norm_place": place, "residual": residual, "attention_scale": scale}
    )
    for classic, place, residual, scale in product(
        (False, True), ("pre", "post", "none"), (True, False), ("head", "width")
    )
}


@pytest.mark.parametrize("name", BLOCKS)
def test_every_block_learns_a_tiny_text_by_heart(name):
    first, last = loss_after(BLOCKS[name] | {"layers": 2}, steps=120)
    assert first == pytest.approx(math.log(VOCAB), rel=0.05)
    assert last < 1.0


@pytest.mark.parametrize("place", ["pre", "post", "none"])
def test_depth_trains_with_residuals_and_without_them_hardly(place):
    fields = {"layers": 12, "norm_place": place, "activation": "relu", "zero_init": False}
    with_residuals = loss_after(fields, steps=60)
    without = loss_after(fields | {"residual": False}, steps=60)
    assert with_residuals[1] < (2.5 if place == "none" else 0.3)
    assert 3.0 < without[1] < without[0]


def test_the_scale_of_attention_is_that_of_the_head_or_of_the_width():
    torch.manual_seed(0)
    config = TransformerConfig(**SMALL, qk_norm=False)
    by_head = Attention(config, 0, True)
    by_width = Attention(config.model_copy(update={"attention_scale": "width"}), 0, True)
    by_width.load_state_dict(by_head.state_dict())
    by_width.q.weight.data *= 2  # a width of 48 is four heads of 12: the roots are 2 apart
    x = torch.randn(2, 16, 48)
    torch.testing.assert_close(by_width(x, None, None, None), by_head(x, None, None, None))


def test_blocks_that_pass_nothing_on_are_refused():
    with pytest.raises(ValidationError, match="without residual, blocks that start at zero pass nothing on"):
        TransformerConfig(residual=False)
    with pytest.raises(ValidationError, match="relu2 squares the stream over and over; choose relu or gelu"):
        TransformerConfig(residual=False, zero_init=False, norm_place="none")
    for fields, cause in (
        ({"norm_place": "post"}, "norm_place: pre"),
        ({"residual": False, "zero_init": False}, "residual"),
        ({"kind": "recurrent", "norm_place": "post"}, "norm_place: pre"),
        ({"kind": "recurrent", "residual": False, "zero_init": False}, "residual"),
    ):
        with pytest.raises(ValidationError, match=f"only if they start as the identity; set model.{cause}"):
            PretrainConfig(model=fields, progressive={"until": 0.5})


def test_rotary_attention_depends_on_distance_alone():
    # the first token leaves the window: with learned positions everything after it would change
    torch.manual_seed(0)
    model = GPT(TransformerConfig(layers=1, width=32, heads=2, context=32), VOCAB, causal=True).eval()
    torch.nn.init.normal_(model.blocks[0].attention.out.weight)
    block, x = model.blocks[0].attention, torch.randn(1, 8, 32)
    tables = model.rotary_cos, model.rotary_sin
    here = block(x, (tables[0][:8], tables[1][:8]), None, None)
    there = block(x, (tables[0][20:28], tables[1][20:28]), None, None)
    torch.testing.assert_close(here, there, atol=1e-5, rtol=1e-5)


@given(st.integers(1, 40), st.integers(2, 30), st.sampled_from([None, 5.0]), st.integers(1, 200), st.integers(0, 9))
@settings(max_examples=40)
def test_the_sliced_head_equals_the_plain_one(rows, vocab, softcap, slice_elements, seed):
    generator = torch.Generator().manual_seed(seed)
    hidden = torch.randn(rows, 6, generator=generator, requires_grad=True)
    weight = torch.randn(vocab, 6, generator=generator, requires_grad=True)
    targets = torch.randint(vocab, (rows,), generator=generator)
    logits = hidden @ weight.T
    expected = F.cross_entropy(logits if softcap is None else softcap * torch.tanh(logits / softcap), targets)
    kept, SLICE_ELEMENTS["cpu"] = SLICE_ELEMENTS["cpu"], slice_elements
    try:
        loss = cross_entropy(hidden, weight, targets, softcap)
        torch.testing.assert_close(loss, expected)
        ours, theirs = (torch.autograd.grad(3 * value, (hidden, weight)) for value in (loss, expected))
    finally:
        SLICE_ELEMENTS["cpu"] = kept
    torch.testing.assert_close(ours, theirs, atol=1e-6, rtol=1e-4)


@given(st.integers(1, 40), st.integers(2, 30), st.sampled_from([None, 5.0]), st.integers(1, 200), st.integers(0, 9))
@settings(max_examples=40)
def test_several_targets_of_a_position_are_a_weighted_sum(rows, vocab, softcap, slice_elements, seed):
    generator = torch.Generator().manual_seed(seed)
    hidden = torch.randn(rows, 6, generator=generator, requires_grad=True)
    weight = torch.randn(vocab, 6, generator=generator, requires_grad=True)
    targets = torch.randint(vocab, (rows, 3), generator=generator)
    counts = torch.rand(rows, 3, generator=generator)
    logits = hidden @ weight.T
    capped = logits if softcap is None else softcap * torch.tanh(logits / softcap)
    each = [F.cross_entropy(capped, targets[:, number], reduction="none") for number in range(3)]
    expected = (torch.stack(each, dim=1) * counts).sum() / rows
    kept, SLICE_ELEMENTS["cpu"] = SLICE_ELEMENTS["cpu"], slice_elements
    try:
        loss = cross_entropy(hidden, weight, targets, softcap, counts)
        torch.testing.assert_close(loss, expected)
        ours, theirs = (torch.autograd.grad(3 * value, (hidden, weight)) for value in (loss, expected))
    finally:
        SLICE_ELEMENTS["cpu"] = kept
    torch.testing.assert_close(ours, theirs, atol=1e-6, rtol=1e-4)


def test_parameters_of_the_presets():
    gpt2 = PretrainConfig(preset="gpt2-124m").model
    with torch.device("meta"):
        model = GPT(gpt2, 50257)
    assert sum(p.numel() for p in model.parameters()) == 124_439_808  # as published
    chimera = PretrainConfig(preset="chimera").model
    assert (chimera.width, chimera.context, chimera.heads, chimera.layers, chimera.dropout) == (384, 256, 6, 6, 0.2)


@pytest.mark.parametrize(("active", "used"), [(0, []), (1, [5]), (2, [2, 5]), (3, [1, 3, 5]), (6, [0, 1, 2, 3, 4, 5])])
def test_a_model_with_few_active_layers_is_the_new_one_with_some_blocks_left_out(active, used):
    torch.manual_seed(0)
    fields = SMALL | {"layers": 6, "value_embeddings": True, "x0_skip": True, "smear": True}
    model = GPT(TransformerConfig(**fields), VOCAB).eval()
    whole = model(ids())
    model.active_layers = active
    positions = torch.tensor([[0, 5, 5], [15, 1, 2]])
    assert torch.equal(model(ids(), positions=positions)[0, 2], model(ids(), positions=positions)[0, 1])
    torch.testing.assert_close(model(ids(), positions=positions)[1], whole[1, positions[1]])
    assert [layer for layer in range(6) if model.is_active(layer)] == used
    assert torch.equal(model(ids()), whole)
