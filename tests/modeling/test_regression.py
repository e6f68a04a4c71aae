"""Formulas, learned by KANs and MLPs."""

import math

import pytest
import torch
from pydantic import ValidationError

from modeling.regression import FORMULAS, RegressionConfig, adamw, network, regress, with_mlp

KINDS = ["mlp", "kan-spline", "kan-rbf", "kan-rational"]


def config(kind: str | dict, **changes) -> RegressionConfig:
    base = {"formula": "product", "feed_forward": kind, "hidden": [8], "steps": 8, "train_samples": 300}
    return RegressionConfig.model_validate(base | changes)


@pytest.mark.parametrize(
    ("name", "point", "value"),
    [
        ("bessel", (0.1,), 0.2238907791),  # J0(2)
        ("exp-sin", (0.5, -1.0), math.e**2),
        ("product", (-0.5, 0.25), -0.125),
        ("four", (0.5, 0.5, 1.0, 0.0), math.exp(0.5)),
        ("gaussian", (1.0, 2.0), math.exp(-1 / 8) / math.sqrt(8 * math.pi)),
        ("relativistic-sum", (1.0, 0.3), 1.0),
        ("interference", (1.0, 0.4, 0.4), 0.0),
        ("barometer", (0.5, 1.0), 0.5 / math.e),
    ],
)
def test_formulas_are_what_they_are_called(name, point, value):
    variables = [torch.tensor([each], dtype=torch.float64) for each in point]
    assert FORMULAS[name].function(*variables).item() == pytest.approx(value, abs=1e-8)


@pytest.mark.parametrize("name", FORMULAS)
def test_samples_fill_the_ranges(name):
    formula = FORMULAS[name]
    x, y = formula.sample(2000, torch.Generator().manual_seed(0))
    assert y.shape == (2000, 1) and y.isfinite().all() and y.std() > 0.05
    for values, (low, high) in zip(x.T, formula.ranges, strict=True):
        assert low <= values.min() < low + 0.02 * (high - low)
        assert high >= values.max() > high - 0.02 * (high - low)


@pytest.mark.parametrize("optimizer", [{"optimizer": "lbfgs"}, {"optimizer": "adamw", "lr": 0.02, "steps": 300}])
@pytest.mark.parametrize("kind", KINDS)
def test_every_network_learns_a_product(kind, optimizer):
    result = regress(config(kind, **optimizer, evaluate_every=4))
    assert result.curve[0].test_rmse > 0.2  # the product's own spread is 1/3
    assert result.test_rmse < 0.05
    assert [point.step for point in result.curve] == list(range(0, result.config.steps + 1, 4))
    passes = [point.passes for point in result.curve]
    assert passes == sorted(passes)
    assert optimizer["optimizer"] == "lbfgs" or passes[-1] == 300
    x, y = FORMULAS["product"].sample(1000, torch.Generator().manual_seed(9))
    assert (result.network(x) - y).square().mean().sqrt() < 0.06


@pytest.mark.parametrize("kind", KINDS)
def test_a_seed_decides_everything_and_the_caller_s_random_numbers_stay(kind):
    torch.manual_seed(5)
    first = regress(config(kind, steps=2))
    follows = torch.rand(1).item()
    again, other = regress(config(kind, steps=2)), regress(config(kind, steps=2, seed=1))
    torch.manual_seed(5)
    assert torch.rand(1).item() == follows
    errors = [[(p.train_rmse, p.test_rmse) for p in result.curve] for result in (first, again, other)]
    assert errors[0] == errors[1] != errors[2]


def test_inputs_come_onto_the_grid_by_their_range_and_not_by_a_norm():
    model = network(config("kan-spline", formula="barometer"))
    corners = torch.tensor([[0.0, 0.0], [1.0, 3.0], [0.5, 1.5]])
    on_grid = model[1].onto_grid(model[0](corners))
    assert on_grid.tolist() == [[-2, -2], [2, 2], [0, 0]]
    proportional = torch.tensor([[0.2, 0.6], [0.4, 1.2]])  # which a norm over the inputs could not tell apart
    first, second = model[1].edges(model[1].basis_values(model[1].onto_grid(model[0](proportional))).flatten(1))
    assert (first - second).abs().max() > 1e-3


@pytest.mark.parametrize("kind", ["kan-spline", "kan-rbf"])
def test_adamw_moves_the_coefficients_of_edges_at_a_share_of_its_rate(kind):
    asked = config({"kind": kind, "edges_rate": 0.25}, optimizer="adamw", lr=0.04)
    model = network(asked)
    rates = {p: group["base_lr"] for group in adamw(model, asked).param_groups for p in group["params"]}
    assert rates.keys() == set(model.parameters())
    edges = {name for name, parameter in model.named_parameters() if rates[parameter] == 0.01}
    assert edges == {"1.edges.weight", "2.edges.weight"}
    assert {rates[p] for name, p in model.named_parameters() if name not in edges} == {0.04}


def test_the_mlp_to_compare_with_has_about_as_many_parameters():
    for kind in KINDS[1:]:
        kan = config(kind, hidden=[8, 8])
        mlp = with_mlp(kan)
        assert mlp.feed_forward.kind == "mlp" and len(mlp.hidden) == 2
        sizes = regress(kan.model_copy(update={"steps": 1})), regress(mlp.model_copy(update={"steps": 1}))
        assert sizes[1].parameters == pytest.approx(sizes[0].parameters, rel=0.06)
        assert sizes[0].parameters == sum(p.numel() for p in sizes[0].network.parameters())


def test_a_budget_chooses_the_last_point_within_it():
    result = regress(config("mlp", optimizer="adamw", lr=0.01, steps=20, evaluate_every=5))
    assert result.flops_per_pass == 6 * (2 * 8 + 8) * 300
    assert result.within(flops=12 * result.flops_per_pass).step == 10
    assert result.within().step == 20
    assert result.within(seconds=-1).step == 0


def test_mistakes_are_told():
    with pytest.raises(ValidationError, match="there is no formula 'sum'; choose from bessel, exp-sin"):
        RegressionConfig(formula="sum")
    with pytest.raises(ValidationError, match=r"hidden 12 is not a multiple of feed_forward\.groups"):
        config("kan-rational", hidden=[12])
