"""The functions of the KANs against those of others, and their gradients."""

import math

import numpy as np
import pytest
import torch
from scipy.interpolate import BSpline

from modeling.config.network import TransformerConfig
from modeling.networks.functional import activate
from modeling.networks.kan import RATIONALS, KANFeedForward, RationalFeedForward, Rationals, rbf_basis, spline_basis

BASES = {
    "cubic": lambda x: spline_basis(x, 5, 3),
    "quadratic": lambda x: spline_basis(x, 4, 2),
    "linear": lambda x: spline_basis(x, 4, 1),
    "gaussian": lambda x: rbf_basis(x, 8),
}


def config(kind: str, **fields) -> TransformerConfig:
    return TransformerConfig.model_validate({"width": 64, "heads": 4, "feed_forward": kind} | fields)


@pytest.mark.parametrize("order", [1, 2, 3, 4, 5])
@pytest.mark.parametrize("grid", [1, 5, 12])
def test_the_spline_basis_is_that_of_scipy(grid, order):
    points, interval = torch.linspace(-6, 6, 803), 4 / grid
    knots = -2 + interval * np.arange(-order, grid + order + 1)
    ours = spline_basis(points[:, None], grid, order)[..., 0]
    assert ours.shape == (803, grid + order)
    for number in range(grid + order):
        element = BSpline.basis_element(knots[number : number + order + 2], extrapolate=False)
        theirs = np.nan_to_num(element(points.double().numpy()))
        np.testing.assert_allclose(ours[:, number].numpy(), theirs, atol=2e-5)


@pytest.mark.parametrize("order", [1, 3, 5])
def test_the_spline_basis_adds_up_to_one_on_the_grid_and_to_nothing_far_away(order):
    inside, outside = torch.linspace(-1.999, 1.999, 500), torch.tensor([-2 - 0.81 * order, 2 + 0.81 * order, 50.0])
    torch.testing.assert_close(spline_basis(inside[:, None], 5, order).sum(1), torch.ones(500, 1), atol=2e-5, rtol=0)
    assert not spline_basis(outside[:, None], 5, order).any()


@pytest.mark.parametrize("name", BASES)
def test_gradients_of_a_basis_are_those_of_finite_differences(name):
    basis, generator = BASES[name], torch.Generator().manual_seed(0)
    x = (1.5 * torch.randn(7, 5, generator=generator)).requires_grad_()
    grad = torch.randn(basis(x).shape, generator=generator)
    (ours,) = torch.autograd.grad(basis(x), x, grad)
    with torch.no_grad():
        slopes = (basis(x + 1e-3) - basis(x - 1e-3)) / 2e-3
    torch.testing.assert_close(ours, (slopes * grad).sum(1), atol=2e-3, rtol=0)


@pytest.mark.parametrize(
    ("function", "error"), [("identity", 1e-6), ("silu", 1e-4), ("gelu", 0.003), ("relu", 0.05), ("relu2", 0.03)]
)
def test_rationals_begin_as_the_function_that_they_are_to_be(function, error):
    x = torch.linspace(-4, 4, 999)[:, None].expand(-1, 8)
    expected = x if function == "identity" else activate(x, function)
    with torch.no_grad():
        torch.testing.assert_close(Rationals(4, function)(x), expected, atol=error, rtol=0)
    normal = torch.randn(200_000, 1, generator=torch.Generator().manual_seed(0))
    mean_square = Rationals(1, function)(normal).square().mean().item()
    assert RATIONALS[function][2] == pytest.approx(mean_square, rel=0.02)


def test_gradients_of_rationals_are_those_of_autograd():
    generator = torch.Generator().manual_seed(0)
    rationals, x = Rationals(4, "gelu"), torch.randn(6, 8, generator=generator, requires_grad=True)
    with torch.no_grad():
        for parameter in rationals.parameters():  # functions that differ, some with |A| of a negative A
            parameter += 0.5 * torch.randn(parameter.shape, generator=generator)
    z, above, below = x.view(6, 4, 2) / 3, rationals.above, rationals.below
    powers = [z**power for power in range(6)]
    p = sum(above[:, power, None] * powers[power] for power in range(6))
    a = sum(below[:, power - 1, None] * powers[power] for power in range(1, 5))
    assert (a < 0).any() and (a > 0).any()
    theirs, ours = (p / (1 + a.abs())).flatten(1), rationals(x)
    torch.testing.assert_close(ours, theirs)
    grad = torch.randn(6, 8, generator=generator)
    inputs = (x, rationals.above, rationals.below)
    torch.testing.assert_close(torch.autograd.grad(ours, inputs, grad), torch.autograd.grad(theirs, inputs, grad))


def test_a_group_has_a_function_of_its_own():
    rationals, x = Rationals(2, "identity"), torch.full((1, 6), 1.5)
    with torch.no_grad():
        rationals.above[1, 0] += 7
    assert (rationals(x) - x).round(decimals=4).tolist() != [[0.0] * 6]
    assert (rationals(x) - x)[0, :3].abs().max() < 1e-6


@pytest.mark.parametrize("activation", ["gelu", "silu", "relu", "relu2"])
def test_a_new_rational_feed_forward_keeps_the_variance(activation):
    torch.manual_seed(0)
    model = RationalFeedForward(config("kan-rational", width=256, activation=activation))
    model.initialize(residual_scale=1.0)
    x = torch.randn(4, 64, 256)
    assert model(x).var().item() == pytest.approx(1, rel=0.15)


@pytest.mark.parametrize("kind", ["kan-spline", "kan-rbf"])
def test_the_grid_lies_on_the_normalized_input(kind):
    torch.manual_seed(0)
    model = KANFeedForward(config(kind, activation="silu"))
    model.initialize(residual_scale=1.0)
    x = torch.randn(2, 9, 64)
    torch.testing.assert_close(model(x), model(1000 * x), atol=1e-4, rtol=1e-4)
    hidden = model.up(x)
    noise = hidden - model.up.base(activate(torch.nn.functional.rms_norm(x, (64,)), "silu"))
    assert 0 < noise.std() < 0.2 * hidden.std()


@pytest.mark.parametrize("kind", ["kan-spline", "kan-rbf", "kan-rational"])
def test_a_new_model_begins_as_its_blocks_left_out_and_in_bf16_as_in_fp32(kind):
    from modeling.networks.transformer import GPT

    torch.manual_seed(0)
    model = GPT(config(kind, layers=2, context=16), 50).eval()
    ids = torch.randint(50, (2, 16))
    whole = model(ids)
    model.active_layers = 0
    assert torch.equal(model(ids), whole)
    model.active_layers = None
    with torch.no_grad():
        for parameter in model.parameters():
            parameter += 0.02 * torch.randn_like(parameter)
    with torch.autocast("cpu", torch.bfloat16):
        half = model(ids, ids.roll(1))
    assert half.item() == pytest.approx(model(ids, ids.roll(1)).item(), abs=0.05)
    assert half.item() < math.log(50) + 3
