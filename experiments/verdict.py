"""From the figures of the runs to a verdict: agree, disagree, or cannot tell, with the reason in words.

Nothing is decided by means alone: a contrast holds where the whole interval lies on its side, and is contradicted where
the whole interval lies on the other. Only a share of pairs (`Agrees`) is counted, and decided as it is.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from statistics import fmean
from typing import Any, Literal

from experiments.declaration import Agrees, Axis, Better, Contrast, Experiment, Same, Slope
from experiments.statistics import CONFIDENCE, paired_difference, power_law, rank_agreement

__all__ = ["EQUAL_WITHIN", "Judgement", "Verdict", "judge", "overall", "unequal"]

Verdict = Literal["agree", "disagree", "cannot tell"]
EQUAL_WITHIN = 0.05  # share by which variants may differ in what is to be equal
Figures = Mapping[str, Sequence[Mapping[str, float]]]  # by variant, of each seed, by name


@dataclass(frozen=True)
class Judgement:
    """What became of one contrast.

    Attributes:
        says: the contrast in words.
        verdict: whether it holds.
        because: the numbers that say so, in one sentence.
        numbers: the same for programs.
    """

    says: str
    verdict: Verdict
    because: str
    numbers: dict[str, Any]

    def document(self) -> dict[str, Any]:
        return asdict(self)


def judge(experiment: Experiment, contrast: Contrast, figures: Figures) -> Judgement:
    """What the runs say of a contrast, all of whose variants were run."""
    name = contrast.figure or experiment.figure.name
    values = {variant: [seed[name] for seed in figures[variant]] for variant in contrast.variants}
    match contrast:
        case Better():
            return _better(contrast, values, name, experiment.figure.better)
        case Same():
            return _same(contrast, values, name)
        case Slope():
            return _slope(contrast, values, name)
        case Agrees():
            return _agrees(contrast, figures, name, experiment.figure.better)


def overall(judgements: Sequence[Judgement], faults: Sequence[str] = ()) -> Verdict:
    """All contrasts together: a claim holds if all hold, and is contradicted by any. What is unfair decides nothing."""
    if faults or not judgements:
        return "cannot tell"
    return _all_of([judgement.verdict for judgement in judgements])


def _all_of(verdicts: Sequence[Verdict]) -> Verdict:
    """What holds if all hold, and is contradicted by any."""
    if "disagree" in verdicts:
        return "disagree"
    return "cannot tell" if "cannot tell" in verdicts else "agree"


def _within(interval: tuple[float, float], least: float, greatest: float) -> Verdict:
    """Whether a number lies between two others, by its interval."""
    low, high = interval
    if least <= low and high <= greatest:
        return "agree"
    return "disagree" if low > greatest or high < least else "cannot tell"


def unequal(axis: Axis, spent: Mapping[str, float | None]) -> str:
    """How the variants differ in what is to be equal, in words; empty where they do not.

    Args:
        axis: what it is.
        spent: by variant; None where it is not known.
    """
    unknown = [variant for variant, amount in spent.items() if amount is None]
    if unknown:
        return f"{axis} of {', '.join(unknown)} are not known"
    known = {variant: amount for variant, amount in spent.items() if amount is not None}
    least, most = min(known, key=known.__getitem__), max(known, key=known.__getitem__)
    if known[most] <= known[least] * (1 + EQUAL_WITHIN):
        return ""
    return f"{axis} are not equal: {known[least]:.4g} of {least}, {known[most]:.4g} of {most}"


def _better(contrast: Better, values: Mapping[str, list[float]], name: str, better: str) -> Judgement:
    ours, theirs = values[contrast.better], values[contrast.than]
    gain = paired_difference(theirs, ours) if better == "lower" else paired_difference(ours, theirs)
    low, high = gain.interval
    verdict: Verdict = "agree" if low > contrast.by else "disagree" if high < contrast.by else "cannot tell"
    if math.isnan(gain.mean):
        return Judgement(_better_in_words(contrast, name), "cannot tell", "the curves do not reach as far", {})
    because = _gained(gain.mean, gain.interval, gain.effect, gain.seeds)
    return Judgement(_better_in_words(contrast, name), verdict, because, asdict(gain))


def _better_in_words(contrast: Better, name: str) -> str:
    margin = f" by more than {contrast.by:g}" if contrast.by else ""
    where = f" at equal {contrast.at_equal}" if contrast.at_equal else ""
    return f"{contrast.better} is better than {contrast.than}{margin} in {_words(name)}{where}"


def _same(contrast: Same, values: Mapping[str, list[float]], name: str) -> Judgement:
    left, right = contrast.same
    apart = paired_difference(values[left], values[right])
    verdict = _within(apart.interval, -contrast.within, contrast.within)
    says = f"{left} and {right} differ by at most {contrast.within:g} in {_words(name)}"
    if math.isnan(apart.mean):
        return Judgement(says, "cannot tell", "the curves do not reach as far", {})
    return Judgement(says, verdict, _gained(apart.mean, apart.interval, apart.effect, apart.seeds), asdict(apart))


def _slope(contrast: Slope, values: Mapping[str, list[float]], name: str) -> Judgement:
    largest = max(contrast.over, key=contrast.over.__getitem__)
    points = [
        (contrast.over[variant], value)
        for variant in contrast.over
        for value in values[variant]
        if not (contrast.foretells and variant == largest)
    ]
    least, greatest = contrast.between
    says = f"{_words(name)} goes as a power of the {contrast.size} between {least:g} and {greatest:g}"
    if contrast.foretells:
        says += f", and the others foretell {largest} to within {contrast.foretells:.0%}"
        if min(values[largest]) <= 0:
            return Judgement(says, "cannot tell", f"a figure of {largest} is not positive", {})
    try:
        law = power_law([size for size, _ in points], [value for _, value in points])
    except ValueError as error:
        return Judgement(says, "cannot tell", str(error), {})
    low, high = law.interval
    verdict = _within((low, high), least, greatest)
    because = f"exponent {law.exponent:.3f} ({CONFIDENCE:.0%} interval {low:.3f} to {high:.3f}, R² {law.r2:.4f})"
    numbers = asdict(law)
    if contrast.foretells:
        foretold, found = law.at(contrast.over[largest]), values[largest]
        off = paired_difference([math.log(value) for value in found], [math.log(foretold)] * len(found))
        share = contrast.foretells
        verdict = _all_of([verdict, _within(off.interval, math.log1p(-share), math.log1p(share))])
        because += f"; of {largest} it foretells {foretold:.4g}, and {fmean(found):.4g} was found"
        because += f" ({math.expm1(off.mean):+.1%})"
        numbers |= {"foretold": foretold, "found": fmean(found)}
    return Judgement(says, verdict, because, numbers)


def _agrees(contrast: Agrees, figures: Figures, name: str, better: str) -> Judgement:
    small, large = (
        [[seed[name] for seed in figures[variant]] for variant in size] for size in (contrast.small, contrast.large)
    )
    found = rank_agreement(small, large)
    says = f"small runs rank variants as large ones do in {contrast.least:.0%} of the pairs or more, by {_words(name)}"
    numbers = {**asdict(found), "ranking": _ranking(contrast, figures, name, better)}
    if not found.pairs:
        return Judgement(says, "cannot tell", "no two variants differ", numbers)
    low, high = found.interval
    because = f"{found.agreeing} of {found.pairs} pairs, {found.share:.0%} "
    because += f"({CONFIDENCE:.0%} interval over variants {low:.0%} to {high:.0%})"
    if found.told:
        because += f"; of those that the seeds tell apart at the large size {found.told_agreeing} of {found.told}"
    return Judgement(says, _within((low, high), contrast.least, 1), because, numbers)


def _ranking(contrast: Agrees, figures: Figures, name: str, better: str) -> list[dict[str, Any]]:
    """The variants as the large runs rank them: the best first, each with what it gains over the first one named."""
    sign = 1 if better == "lower" else -1
    base = [seed[name] for seed in figures[contrast.large[0]]]
    rows: list[dict[str, Any]] = []
    for small, large in zip(contrast.small, contrast.large, strict=True):
        values = [seed[name] for seed in figures[large]]
        gain = paired_difference(base, values) if better == "lower" else paired_difference(values, base)
        low, high = gain.interval
        parts = {
            other: sum(seed[other] for seed in figures[large]) / len(values)
            for other in figures[large][0]
            if other.startswith("sources.") and other.endswith(f".{name}")
        }
        rows.append(
            {
                "small": small,
                "large": large,
                "at_small": sum(seed[name] for seed in figures[small]) / len(figures[small]),
                "at_large": sum(values) / len(values),
                "gain": gain.mean,
                "interval": [low, high] if math.isfinite(low) else None,
                "is_first": large == contrast.large[0],
                "same_run": values == base,
                "by_source": {other.removeprefix("sources.").removesuffix(f".{name}"): v for other, v in parts.items()},
            }
        )
    by_small = sorted(rows, key=lambda row: sign * row["at_small"])
    for row in rows:
        row["rank_at_small"] = 1 + by_small.index(row)
    return sorted(rows, key=lambda row: sign * row["at_large"])


def _gained(mean: float, interval: tuple[float, float], effect: float, seeds: int) -> str:
    if seeds < 2:
        return f"{mean:+.4g} with one seed, which has no spread to judge by"
    size = f", effect {effect:.1f}" if math.isfinite(effect) else ""
    return f"{mean:+.4g} ({CONFIDENCE:.0%} interval {interval[0]:+.4g} to {interval[1]:+.4g}{size}, {seeds} seeds)"


def _words(name: str) -> str:
    return name.replace("_", " ")
