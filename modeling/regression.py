"""Regression on formulas: a small KAN or MLP learns a function of one to four variables from samples of it.

These are the tasks of Liu et al. 2024 ("KAN: Kolmogorov-Arnold Networks", sections 3.1 and 3.2) and some of Feynman's
formulas (Udrescu & Tegmark 2020) as they have them, without dimensions. A KAN has a function on each edge over a fixed
grid; the MLP to compare it with has as many layers, and about as many parameters (`with_mlp`). Everything but the
seconds follows from the config.

Example:
    >>> result = regress(RegressionConfig(formula="product", hidden=[4], steps=3))
    >>> [point.step for point in result.curve]
    [0, 3]
"""

from __future__ import annotations

import math
import time
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from typing import Any, Literal

import torch
from pydantic import Field, field_validator, model_validator
from torch import Tensor, nn

from modeling.config.network import (
    FEED_FORWARD_KINDS,
    FeedForwardConfig,
    MLPConfig,
    RationalConfig,
    RBFConfig,
    SplineConfig,
)
from modeling.config.run import MAX_SEED
from modeling.config.section import Section
from modeling.networks.functional import activate
from modeling.networks.kan import RATIONALS, KANLayer, Rationals, Stretch

__all__ = ["FORMULAS", "Formula", "Point", "Regression", "RegressionConfig", "regress", "with_mlp"]

ITERATIONS = 20  # of L-BFGS in a step
HIDDEN_RANGE = (-2.0, 2.0)  # of what a KAN's hidden layers are given: where their grids are


@dataclass(frozen=True)
class Formula:
    """A function to learn.

    Attributes:
        text: for people.
        ranges: from where to where each variable is drawn, uniformly.
        function: of the variables, each [N], to [N].
    """

    text: str
    ranges: tuple[tuple[float, float], ...]
    function: Callable[..., Tensor]

    def sample(self, count: int, generator: torch.Generator) -> tuple[Tensor, Tensor]:
        """Points [count, variables] and the formula's values [count, 1] there, in fp32."""
        low, high = torch.tensor(self.ranges, dtype=torch.float64).T
        x = low + (high - low) * torch.rand(count, len(self.ranges), generator=generator, dtype=torch.float64)
        return x.float(), self.function(*x.T).unsqueeze(1).float()


UNIT = (-1.0, 1.0)
FORMULAS = {
    # Liu et al. 2024, section 3.1
    "bessel": Formula("J0(20 x)", ((0.0, 1.0),), lambda x: torch.special.bessel_j0(20 * x)),
    "exp-sin": Formula("exp(sin(pi x) + y^2)", (UNIT, UNIT), lambda x, y: torch.exp(torch.sin(math.pi * x) + y**2)),
    "product": Formula("x y", (UNIT, UNIT), lambda x, y: x * y),
    "four": Formula(
        "exp((sin(pi (a^2 + b^2)) + sin(pi (c^2 + d^2))) / 2)", (UNIT,) * 4,
        lambda a, b, c, d: torch.exp((torch.sin(math.pi * (a**2 + b**2)) + torch.sin(math.pi * (c**2 + d**2))) / 2),
    ),
    # section 3.3: Feynman's formulas without dimensions
    "gaussian": Formula(  # I.6.2
        "exp(-t^2 / (2 s^2)) / sqrt(2 pi s^2)", ((-1.0, 1.0), (0.5, 2.0)),
        lambda t, s: torch.exp(-(t**2) / (2 * s**2)) / torch.sqrt(2 * math.pi * s**2),
    ),
    "relativistic-sum": Formula("(a + b) / (1 + a b)", ((0.0, 1.0),) * 2, lambda a, b: (a + b) / (1 + a * b)),  # I.16.6
    "interference": Formula(  # I.29.16
        "sqrt(1 + a^2 - 2 a cos(b - c))", ((0.0, 1.0), UNIT, UNIT),
        lambda a, b, c: torch.sqrt(1 + a**2 - 2 * a * torch.cos(b - c)),
    ),
    "barometer": Formula("n exp(-a)", ((0.0, 1.0), (0.0, 3.0)), lambda n, a: n * torch.exp(-a)),  # I.40.1
}  # fmt: skip


class RegressionConfig(Section):
    """A network, a formula, and how the network learns it."""

    formula: str = Field("exp-sin", description="What to learn: " + ", ".join(FORMULAS))
    feed_forward: FeedForwardConfig = Field(
        MLPConfig(kind="mlp"), discriminator="kind", description=f"Kind of network: {FEED_FORWARD_KINDS}"
    )
    hidden: list[int] = Field([5], min_length=1, description="Units of the hidden layers")
    activation: Literal["gelu", "relu", "silu"] = Field("silu", description="Nonlinearity; of a KAN its base function")
    bias: bool = Field(True, description="Biases in the layers")
    optimizer: Literal["lbfgs", "adamw"] = Field("lbfgs", description="L-BFGS, as in the paper, or AdamW")
    lr: float = Field(1.0, gt=0, description="Learning rate; of L-BFGS the first step that a line search tries")
    steps: int = Field(100, gt=0, description="Optimizer steps, each on all samples")
    evaluate_every: int = Field(10, gt=0, description="Steps between two points of the curve")
    train_samples: int = Field(1000, gt=0, description="Samples to learn from")
    test_samples: int = Field(1000, gt=0, description="Samples to be judged by")
    seed: int = Field(0, ge=0, le=MAX_SEED, description="Decides samples and initial weights")

    @field_validator("feed_forward", mode="before")
    @classmethod
    def _kind_may_stand_alone(cls, given: Any) -> Any:
        return {"kind": given} if isinstance(given, str) else given

    @field_validator("formula")
    @classmethod
    def _formula_exists(cls, name: str) -> str:
        if name not in FORMULAS:
            raise ValueError(f"there is no formula {name!r}; choose from {', '.join(FORMULAS)}")
        return name

    @model_validator(mode="after")
    def _groups_divide(self) -> RegressionConfig:
        if isinstance(self.feed_forward, RationalConfig):
            for units in self.hidden:
                if units % min(self.feed_forward.groups, units):
                    raise ValueError(f"hidden {units} is not a multiple of feed_forward.groups")
        return self

    @property
    def widths(self) -> list[int]:
        """Variables, hidden units, and the one value."""
        return [len(FORMULAS[self.formula].ranges), *self.hidden, 1]


# -- networks ----------------------------------------------------------------------------------------------------------


class Scale(nn.Module):
    """Brings each variable from its range to [-1, 1]."""

    ranges_2I: Tensor

    def __init__(self, ranges: tuple[tuple[float, float], ...]):
        super().__init__()
        self.register_buffer("ranges_2I", torch.tensor(ranges).T.contiguous())

    def forward(self, x_NI: Tensor) -> Tensor:
        low, high = self.ranges_2I
        return (2 * x_NI - low - high) / (high - low)


class RationalLayer(nn.Module):
    """Rational functions of the inputs, one for each group of them, and a linear layer."""

    def __init__(self, inputs: int, outputs: int, config: RegressionConfig, function: str):
        super().__init__()
        assert isinstance(config.feed_forward, RationalConfig)
        self.rationals = Rationals(min(config.feed_forward.groups, inputs), function)
        self.linear = nn.Linear(inputs, outputs, bias=config.bias)
        nn.init.normal_(self.linear.weight, std=(RATIONALS[function][2] * inputs) ** -0.5)
        if config.bias:
            nn.init.zeros_(self.linear.bias)

    def forward(self, x_NI: Tensor) -> Tensor:
        return self.linear(self.rationals(x_NI))


class Activation(nn.Module):
    """A nonlinearity by its name."""

    def __init__(self, name: str):
        super().__init__()
        self.name = name

    def forward(self, x: Tensor) -> Tensor:
        return activate(x, self.name)


def network(config: RegressionConfig) -> nn.Sequential:
    """A new network, its weights from torch's global generator: variables [N, I] to values [N, 1]."""
    layers: list[nn.Module] = [Scale(FORMULAS[config.formula].ranges)]
    for number, (inputs, outputs) in enumerate(zip(config.widths, config.widths[1:], strict=False)):
        match config.feed_forward.kind:
            case "mlp":
                layers += [Activation(config.activation)] if number else []
                layers.append(nn.Linear(inputs, outputs, bias=config.bias))
            case "kan-spline" | "kan-rbf":
                layer = KANLayer(inputs, outputs, config, Stretch(*(HIDDEN_RANGE if number else UNIT)))
                layer.initialize()
                layers.append(layer)
            case "kan-rational":
                layers.append(RationalLayer(inputs, outputs, config, config.activation if number else "identity"))
    return nn.Sequential(*layers)


def parameters(config: RegressionConfig) -> int:
    """Numbers that the network learns."""
    with torch.random.fork_rng(devices=[]):
        return sum(parameter.numel() for parameter in network(config).parameters())


def flops(config: RegressionConfig) -> int:
    """FLOPs of the products of a forward and backward pass over all samples: 6 a weight and sample."""
    products = sum(i * o for i, o in zip(config.widths, config.widths[1:], strict=False))
    return 6 * products * config.feed_forward.features * config.train_samples


def with_mlp(config: RegressionConfig) -> RegressionConfig:
    """The same with an MLP of as many layers, all hidden ones alike, and about as many parameters."""
    wanted = parameters(config)

    def mlp(units: int) -> RegressionConfig:
        return config.model_copy(update={"feed_forward": MLPConfig(kind="mlp"), "hidden": [units] * len(config.hidden)})

    units = 1
    while parameters(mlp(units + 1)) <= wanted:
        units += 1
    return min(mlp(units), mlp(units + 1), key=lambda other: abs(parameters(other) - wanted))


# -- training ----------------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Point:
    """How well a network does after so many steps.

    Attributes:
        step: steps taken.
        passes: forward and backward passes made; a step of L-BFGS takes several.
        seconds: by the CPU, without evaluations.
        train_rmse, test_rmse: roots of the mean squared errors.
    """

    step: int
    passes: int
    seconds: float
    train_rmse: float
    test_rmse: float


@dataclass(frozen=True)
class Regression:
    """What a network came to.

    Attributes:
        config: as it was asked for.
        parameters: numbers that the network learned.
        flops_per_pass: of a forward and backward pass over all samples; basis functions are not counted.
        curve: from step 0 to the last.
        network: as it is in the end.
    """

    config: RegressionConfig
    parameters: int
    flops_per_pass: int
    curve: list[Point]
    network: nn.Sequential

    @property
    def test_rmse(self) -> float:
        """After the last step."""
        return self.curve[-1].test_rmse

    def within(self, *, flops: float = math.inf, seconds: float = math.inf) -> Point:
        """The last point that took no more than so many FLOPs and seconds."""
        affordable = [
            point for point in self.curve if point.passes * self.flops_per_pass <= flops and point.seconds <= seconds
        ]
        return affordable[-1] if affordable else self.curve[0]


def regress(config: RegressionConfig) -> Regression:
    """Train a network on samples of a formula. It stops early where the loss is no longer finite: the rest of the curve
    is missing then."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(config.seed)
        model = network(config)
    formula, generator = FORMULAS[config.formula], torch.Generator().manual_seed(config.seed)
    train, test = (formula.sample(count, generator) for count in (config.train_samples, config.test_samples))
    passes = 0

    def closure() -> Tensor:
        nonlocal passes
        passes += 1
        optimizer.zero_grad(set_to_none=True)
        loss = (model(train[0]) - train[1]).square().mean()
        loss.backward()
        return loss

    optimizer: torch.optim.Optimizer
    if config.optimizer == "lbfgs":
        optimizer = torch.optim.LBFGS(
            model.parameters(), config.lr, max_iter=ITERATIONS, history_size=10, line_search_fn="strong_wolfe",
            tolerance_grad=0.0, tolerance_change=0.0,
        )  # fmt: skip
    else:
        optimizer = adamw(model, config)
    measure = partial(rmse, model)
    curve, seconds = [Point(0, 0, 0.0, measure(*train), measure(*test))], 0.0
    for step in range(1, config.steps + 1):
        started = time.process_time()
        if config.optimizer == "adamw":
            for group in optimizer.param_groups:
                group["lr"] = group["base_lr"] * 0.5 * (1 + math.cos(math.pi * (step - 1) / config.steps))
        optimizer.step(closure)
        seconds += time.process_time() - started
        if step % config.evaluate_every == 0 or step == config.steps:
            point = Point(step, passes, seconds, measure(*train), measure(*test))
            if not math.isfinite(point.train_rmse):
                break
            curve.append(point)
    return Regression(config, parameters(config), flops(config), curve, model)


def adamw(model: nn.Sequential, config: RegressionConfig) -> torch.optim.AdamW:
    """AdamW without decay, the edges of a KAN at their own rate; each group keeps its rate in `base_lr`."""
    edges = [layer.edges.weight for layer in model if isinstance(layer, KANLayer)]
    known = {id(parameter) for parameter in edges}
    groups = [{"params": [p for p in model.parameters() if id(p) not in known], "base_lr": config.lr}]
    if isinstance(config.feed_forward, SplineConfig | RBFConfig):
        groups.append({"params": edges, "base_lr": config.lr * config.feed_forward.edges_rate})
    return torch.optim.AdamW(groups, weight_decay=0.0)


@torch.no_grad()
def rmse(model: nn.Module, x: Tensor, y: Tensor) -> float:
    """The root of the mean squared error."""
    return (model(x) - y).square().mean().sqrt().item()
