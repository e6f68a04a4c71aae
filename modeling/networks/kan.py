"""Kolmogorov-Arnold networks in place of the feed-forward: functions that are learned, where an MLP has weights alone.

A layer of a KAN (Liu et al. 2024, "KAN: Kolmogorov-Arnold Networks") has a function on every edge from an input to an
output: a base function times a weight, plus a sum of basis functions times coefficients. So a layer computes the values
of the basis, in closed form and for all inputs at once, and one matrix product of them and the coefficients. The basis
lies on a uniform grid over [-2, 2]; beyond, the base function alone is left. A layer of a language model normalizes its
inputs, so that most of them lie there. Another layer may say otherwise how its inputs come onto the grid: where they
have a known range, `Stretch` keeps what a norm over few of them would lose.

`RationalFeedForward` is the cheaper relative (Yang & Wang 2024, "Kolmogorov-Arnold Transformer"): a function for each
group of inputs, and then the weights of a linear layer.

The gradients are written out: autograd would keep several tensors of the size of the basis, of which none is needed.
Shape suffixes: N positions, I inputs, O outputs, F basis functions, G groups, C inputs of a group.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import TYPE_CHECKING, Any, Protocol, cast

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from modeling.networks.functional import activate, rms_norm

if TYPE_CHECKING:
    from modeling.config.network import AttentionConfig, FeedForwardConfig, RationalConfig

__all__ = ["KANFeedForward", "KANLayer", "RationalFeedForward", "Rationals", "Stretch", "rbf_basis", "spline_basis"]

REACH = 2.0  # the grid covers [-REACH, REACH]
EDGE_NOISE = 0.1  # size of what the edges add to the base function in the beginning (Liu et al. 2024, section 2.2)


# -- edges that are sums of basis functions ----------------------------------------------------------------------------


def offsets(x_NI: Tensor, interval: float, functions: int) -> Tensor:
    """Distances fp32 [N, F, I], in grid intervals, of inputs from the centers of the basis functions."""
    centers = torch.arange(functions, device=x_NI.device, dtype=torch.float32) - (functions - 1) / 2
    return x_NI.float().div(interval).unsqueeze(1) - centers.unsqueeze(1)


def bspline(distance: Tensor, order: int, degree: int) -> Tensor:
    """Truncated powers of `degree` that add up to the cardinal B-spline of `order`, or, one degree lower, its slope.

    The B-spline is symmetric, so it is computed where the distance to its nearer end is small: few terms, which do not
    cancel out. For order 3 they are ((2 - |d|)+^3 - 4 (1 - |d|)+^3) / 6 (Schoenberg 1946).
    """
    inside = (order + 1) / 2 - distance.abs()
    total = torch.zeros_like(inside)
    for term in range(order // 2 + 1):
        weight = (-1) ** term * math.comb(order + 1, term) / math.factorial(degree)
        above = inside - term
        total.add_(above.clamp_(min=0).pow_(degree) if degree else (above > 0).float(), alpha=weight)
    return total


class _SplineBasis(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x_NI: Tensor, grid: int, order: int) -> Tensor:
        ctx.save_for_backward(x_NI)
        ctx.grid, ctx.order = grid, order
        return bspline(offsets(x_NI, 2 * REACH / grid, grid + order), order, order).to(x_NI.dtype)

    @staticmethod
    def backward(ctx: Any, grad_NFI: Tensor) -> tuple[Tensor | None, ...]:
        (x_NI,), interval = ctx.saved_tensors, 2 * REACH / ctx.grid
        distance_NFI = offsets(x_NI, interval, ctx.grid + ctx.order)
        slope_NFI = bspline(distance_NFI, ctx.order, ctx.order - 1).mul_(distance_NFI.sign_()).mul_(grad_NFI)
        return slope_NFI.sum(1).div_(-interval).to(x_NI.dtype), None, None


def spline_basis(x: Tensor, grid: int, order: int) -> Tensor:
    """Values [N, grid + order, I] at x [N, I] of the B-splines of degree `order` on `grid` intervals of [-2, 2].

    They add up to 1 on [-2, 2], and fall to 0 within `order` intervals outside of it.
    """
    return _SplineBasis.apply(x, grid, order)


class _RBFBasis(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x_NI: Tensor, grid: int) -> Tensor:
        values_NFI = offsets(x_NI, 2 * REACH / (grid - 1), grid).square_().neg_().exp_().to(x_NI.dtype)
        ctx.save_for_backward(x_NI, values_NFI)
        ctx.grid = grid
        return values_NFI

    @staticmethod
    def backward(ctx: Any, grad_NFI: Tensor) -> tuple[Tensor | None, ...]:
        x_NI, values_NFI = ctx.saved_tensors
        interval = 2 * REACH / (ctx.grid - 1)
        slope_NFI = offsets(x_NI, interval, ctx.grid).mul_(values_NFI).mul_(grad_NFI)
        return slope_NFI.sum(1).mul_(-2 / interval).to(x_NI.dtype), None


def rbf_basis(x: Tensor, grid: int) -> Tensor:
    """Values [N, grid, I] at x [N, I] of Gaussians exp(-((x - center) / interval)^2), centered at `grid` points of
    [-2, 2] (Li 2024, "Kolmogorov-Arnold Networks are Radial Basis Function Networks")."""
    return _RBFBasis.apply(x, grid)


class Stretch:
    """Brings inputs of the range [low, high] onto the grid, as they are but for scale and place."""

    def __init__(self, low: float, high: float):
        self.center, self.scale = (low + high) / 2, 2 * REACH / (high - low)

    def __call__(self, x: Tensor) -> Tensor:
        return (x - self.center) * self.scale


class EdgesConfig(Protocol):
    """What a layer is told: splines or Gaussians (`feed_forward`), the base function, and whether there is a bias."""

    @property
    def feed_forward(self) -> FeedForwardConfig: ...
    @property
    def activation(self) -> str: ...
    @property
    def bias(self) -> bool: ...


class KANLayer(nn.Module):
    """Learned functions on all edges from inputs to outputs. `edges` holds their coefficients, [O, F * I].

    `onto_grid` brings the inputs to where the grid is, and keeps their shape.
    """

    def __init__(
        self, inputs: int, outputs: int, config: EdgesConfig, onto_grid: Callable[[Tensor], Tensor] = rms_norm
    ):
        super().__init__()
        self.activation, self.onto_grid = config.activation, onto_grid
        self.basis: Any = config.feed_forward  # of splines or Gaussians
        self.base = nn.Linear(inputs, outputs, bias=config.bias)
        self.edges = nn.Linear(inputs * (self.basis.features - 1), outputs, bias=False)

    def forward(self, x: Tensor) -> Tensor:
        """[..., I] to [..., O]."""
        x = self.onto_grid(x)
        values_NFI = self.basis_values(x.flatten(0, -2))
        return self.base(activate(x, self.activation)) + self.edges(values_NFI.flatten(1)).view(*x.shape[:-1], -1)

    def basis_values(self, x_NI: Tensor) -> Tensor:
        """Values [N, F, I] of the basis at inputs that are on the grid."""
        match self.basis.kind:
            case "kan-spline":
                return spline_basis(x_NI, self.basis.grid, self.basis.order)
            case "kan-rbf":
                return rbf_basis(x_NI, self.basis.grid)
            case kind:
                raise ValueError(f"there is no basis {kind!r}")

    def initialize(self, scale: float = 1.0) -> None:
        """Base weights of variance 1 / I, and edges that add little to them; all times `scale`."""
        std = scale * self.base.in_features**-0.5
        nn.init.normal_(self.base.weight, std=std)
        nn.init.normal_(self.edges.weight, std=EDGE_NOISE * std)
        if self.base.bias is not None:
            nn.init.zeros_(self.base.bias)


class KANFeedForward(nn.Module):
    """Two layers of a KAN, with splines or Gaussians on the edges."""

    def __init__(self, config: AttentionConfig):
        super().__init__()
        self.up = KANLayer(config.width, config.hidden_units, config)
        self.down = KANLayer(config.hidden_units, config.width, config)

    def initialize(self, residual_scale: float) -> None:
        """Draw the weights; `residual_scale` scales what goes to the residual stream."""
        self.up.initialize()
        self.down.initialize(residual_scale)

    def forward(self, x_BTW: Tensor) -> Tensor:
        """[B, T, W] to [B, T, W]."""
        return self.down(self.up(x_BTW))


# -- rational functions ------------------------------------------------------------------------------------------------

RATIONAL_SCALE = 3.0  # powers are those of x / 3: for most inputs at most 1, so that all coefficients may move alike
# By function: coefficients of P from x^0 to x^5, of A from x^1 to x^4, and the mean of its square for a normal x.
# Fitted over [-4, 4] by least squares. A is not zero for the identity either: |0| would pass no gradient on.
RATIONALS: dict[str, tuple[tuple[float, ...], tuple[float, ...], float]] = {
    "identity": ((0.0, 3.0, 0.0, 0.9, 0.0, 0.0), (0.0, 0.3, 0.0, 0.0), 1.0),
    "relu2": ((0.00084, 0.5839, 4.48266, 10.99634, 10.65512, 3.54224), (0.0, 2.35927, 0.0, 0.0041), 1.5),
    "gelu": ((-0.00232, 1.5, 3.71667, 3.04727, 0.82659, 0.00015), (0.0, 2.03151, 0.0, 0.0001), 0.425),
    "relu": ((0.04703, 1.5, 10.83662, 27.95169, 28.65768, 9.97544), (0.0, 18.63509, 0.0, 6.65055), 0.5),
    "silu": ((0.0, 1.5, 2.2498, 1.43057, 0.45974, 0.06292), (0.0, 0.95372, 0.0, 0.04195), 0.356),
}


class _Rational(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x_NGC: Tensor, above_GA: Tensor, below_GB: Tensor) -> Tensor:
        ctx.save_for_backward(x_NGC, above_GA, below_GB)
        z_NGC = x_NGC.float().div(RATIONAL_SCALE)
        p_NGC, a_NGC = polynomial(z_NGC, above_GA.float()), polynomial(z_NGC, F.pad(below_GB.float(), (1, 0)))
        return p_NGC.div_(a_NGC.abs_().add_(1)).to(x_NGC.dtype)

    @staticmethod
    def backward(ctx: Any, grad_NGC: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        x_NGC, above_GA, below_GB = ctx.saved_tensors
        above, below = above_GA.float(), F.pad(below_GB.float(), (1, 0))
        z_NGC = x_NGC.float().div(RATIONAL_SCALE)
        p_NGC, a_NGC = polynomial(z_NGC, above), polynomial(z_NGC, below)
        q_NGC = a_NGC.abs().add_(1)
        by_p_NGC = grad_NGC.float().div(q_NGC)  # gradients with respect to P and to A
        by_a_NGC = p_NGC.div_(q_NGC).mul_(by_p_NGC).mul_(a_NGC.sign_()).neg_()
        by_z_NGC = polynomial(z_NGC, derivative(above)).mul_(by_p_NGC)
        by_z_NGC += polynomial(z_NGC, derivative(below)).mul_(by_a_NGC)
        by_above, by_below = [by_p_NGC.sum((0, 2))], []
        for power in range(1, above.shape[1]):
            by_above.append(by_p_NGC.mul_(z_NGC).sum((0, 2)))
            if power < below.shape[1]:
                by_below.append(by_a_NGC.mul_(z_NGC).sum((0, 2)))
        by_x_NGC = by_z_NGC.div_(RATIONAL_SCALE).to(x_NGC.dtype)
        return by_x_NGC, torch.stack(by_above, 1).to(above_GA.dtype), torch.stack(by_below, 1).to(below_GB.dtype)


def polynomial(z_NGC: Tensor, coefficients: Tensor) -> Tensor:
    """Its values by Horner's rule; the coefficients [G, degree + 1] are those of z^0 first."""
    value = coefficients[:, -1:].expand_as(z_NGC).contiguous()
    for power in range(coefficients.shape[1] - 2, -1, -1):
        value.mul_(z_NGC).add_(coefficients[:, power, None])
    return value


def derivative(coefficients: Tensor) -> Tensor:
    """The coefficients [G, degree] of a polynomial's derivative."""
    return coefficients[:, 1:] * torch.arange(1, coefficients.shape[1], device=coefficients.device)


class Rationals(nn.Module):
    """A rational function for each of `groups` groups of inputs: P(x) / (1 + |A(x)|), P of degree 5, A of degree 4
    without a constant, which has no poles (Molina et al. 2020, Padé activation units)."""

    def __init__(self, groups: int, function: str):
        super().__init__()
        self.groups, self.function = groups, function
        above, below, _ = RATIONALS[function]
        self.above = nn.Parameter(torch.tensor(above).repeat(groups, 1))
        self.below = nn.Parameter(torch.tensor(below).repeat(groups, 1))

    def forward(self, x: Tensor) -> Tensor:
        """[..., I] to [..., I]; group g has the g-th part of the inputs."""
        return _Rational.apply(x.reshape(-1, self.groups, x.shape[-1] // self.groups), self.above, self.below).view_as(
            x
        )


class RationalFeedForward(nn.Module):
    """Rationals and a linear layer, twice: the first begin as the identity, the second as the activation."""

    def __init__(self, config: AttentionConfig):
        super().__init__()
        groups = cast("RationalConfig", config.feed_forward).groups
        self.before = Rationals(groups, "identity")
        self.up = nn.Linear(config.width, config.hidden_units, bias=config.bias)
        self.between = Rationals(groups, config.activation)
        self.down = nn.Linear(config.hidden_units, config.width, bias=config.bias)

    def initialize(self, residual_scale: float) -> None:
        """Draw weights that keep a variance of 1, given what the functions do to it (Yang & Wang 2024, section 4.3);
        `residual_scale` scales what goes to the residual stream."""
        for rationals, linear, scale in ((self.before, self.up, 1.0), (self.between, self.down, residual_scale)):
            mean_square = RATIONALS[rationals.function][2]
            nn.init.normal_(linear.weight, std=scale * (mean_square * linear.in_features) ** -0.5)
            if linear.bias is not None:
                nn.init.zeros_(linear.bias)

    def forward(self, x_BTW: Tensor) -> Tensor:
        """[B, T, W] to [B, T, W]."""
        return self.down(self.between(self.up(self.before(x_BTW))))
