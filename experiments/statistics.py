"""What a few seeds can say: paired differences with their interval, and exponents of power laws with theirs.

Seeds are paired: with one seed all variants see the same data in the same order, so what a seed does to all of them
cancels out. The interval of a mean is Student's; of few seeds it is wide, as it should be.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from scipy import stats

__all__ = ["CONFIDENCE", "Difference", "PowerLaw", "RankAgreement", "paired_difference", "power_law", "rank_agreement"]

CONFIDENCE = 0.95
RESAMPLES = 2000


@dataclass(frozen=True)
class Difference:
    """How far two variants are apart, from paired seeds.

    Attributes:
        mean: of the differences.
        spread: standard deviation of the differences; NaN of one seed.
        interval: CONFIDENCE interval of the mean; infinite of one seed.
        effect: mean over spread (Cohen's d of paired samples); NaN of one seed, infinite where there is no spread.
        seeds: how many pairs.
    """

    mean: float
    spread: float
    interval: tuple[float, float]
    effect: float
    seeds: int


def paired_difference(left: Sequence[float], right: Sequence[float]) -> Difference:
    """Of `left - right`, seed by seed."""
    differences = np.asarray(left, float) - np.asarray(right, float)
    mean, seeds = float(differences.mean()), len(differences)
    if seeds < 2:
        return Difference(mean, math.nan, (-math.inf, math.inf), math.nan, seeds)
    spread = float(differences.std(ddof=1))
    reach = float(stats.t.ppf((1 + CONFIDENCE) / 2, seeds - 1)) * spread / math.sqrt(seeds)
    effect = mean / spread if spread else math.copysign(math.inf, mean) if mean else 0.0
    return Difference(mean, spread, (mean - reach, mean + reach), effect, seeds)


@dataclass(frozen=True)
class PowerLaw:
    """figure = factor * size ** exponent, by least squares of the logarithms.

    Attributes:
        exponent: the slope.
        factor: the figure at size 1.
        interval: CONFIDENCE interval of the exponent.
        r2: share of the variance of the logarithms that the line explains.
    """

    exponent: float
    factor: float
    interval: tuple[float, float]
    r2: float

    def at(self, size: float) -> float:
        """The figure that is foretold for a size."""
        return self.factor * size**self.exponent


def power_law(sizes: Sequence[float], figures: Sequence[float]) -> PowerLaw:
    """The law through points of at least three different sizes.

    Raises:
        ValueError: a figure is not positive, or there are fewer than three points.
    """
    if len(sizes) < 3 or min(figures) <= 0:
        raise ValueError("a power law needs three or more points of positive figures")
    fit = stats.linregress(np.log(sizes), np.log(figures))
    reach = float(stats.t.ppf((1 + CONFIDENCE) / 2, len(sizes) - 2) * fit.stderr)
    slope = float(fit.slope)
    return PowerLaw(slope, float(math.exp(fit.intercept)), (slope - reach, slope + reach), float(fit.rvalue**2))


@dataclass(frozen=True)
class RankAgreement:
    """In how many pairs of variants two sizes have the same winner, by the means over seeds.

    Attributes:
        agreeing, pairs: how many; pairs that are equal at one size have no winner.
        share: of the pairs; NaN without any.
        interval: CONFIDENCE interval of the share over variants that are drawn again from these (bootstrap).
        told_agreeing, told: the same of the pairs whose difference at the large size has an interval without 0.
    """

    agreeing: int
    pairs: int
    share: float
    interval: tuple[float, float]
    told_agreeing: int
    told: int


def rank_agreement(small: Sequence[Sequence[float]], large: Sequence[Sequence[float]]) -> RankAgreement:
    """Of figures of each variant, seed by seed, at two sizes, in the same order.

    Variants that are the same run at both sizes count as one: their pairs with another are one comparison.
    """
    distinct = dict.fromkeys((tuple(a), tuple(b)) for a, b in zip(small, large, strict=True))
    small, large = [a for a, _ in distinct], [b for _, b in distinct]
    count = len(distinct)
    at_small, at_large = (
        np.sign(np.subtract.outer(means, means))
        for means in (np.array([np.mean(values) for values in size]) for size in (small, large))
    )
    is_pair = (at_small != 0) & (at_large != 0)
    is_same = is_pair & (at_small == at_large)
    is_told = is_pair & np.array([[_differ(large[a], large[b]) for b in range(count)] for a in range(count)])
    pairs, agreeing, told, told_agreeing = (
        int(each.sum()) // 2 for each in (is_pair, is_same, is_told, is_told & is_same)
    )
    generator, shares = np.random.default_rng(0), []
    for _ in range(RESAMPLES if pairs else 0):
        drawn = generator.integers(count, size=count)
        chosen = np.ix_(drawn, drawn)
        if of_drawn := is_pair[chosen].sum():
            shares.append(is_same[chosen].sum() / of_drawn)
    tail = 50 * (1 - CONFIDENCE)
    low, high = np.percentile(shares, (tail, 100 - tail)) if shares else (math.nan, math.nan)
    share = agreeing / pairs if pairs else math.nan
    return RankAgreement(agreeing, pairs, share, (float(low), float(high)), told_agreeing, told)


def _differ(left: Sequence[float], right: Sequence[float]) -> bool:
    """Whether the interval of the paired differences has no 0."""
    low, high = paired_difference(left, right).interval
    return low > 0 or high < 0
