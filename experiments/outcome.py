"""What a run of an experiment gave, and what all say together: the best of each sweep, what is unfair, the verdict."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from statistics import mean
from typing import Any

from experiments.declaration import AXES, Agrees, Axis, Better, Contrast, Experiment, Published, Spending
from experiments.sweep import Point, at_edge, best_point
from experiments.verdict import Judgement, judge, overall, unequal

__all__ = ["Result", "Spent", "document"]

CURVE_POINTS = 40  # of a run's curve, in the file that is kept
Spent = dict[Axis, float]


@dataclass(frozen=True)
class Result:
    """One run's.

    Attributes:
        variant, point, seed: which run.
        figures: all numbers that it gave.
        curve: rows of its evaluations, each with what was spent until then.
        spent: what it took, as far as that is known.
        location: of its artifact.
        pictures: SVG elements by title.
        diverged: why the run came to no figures; empty if it did.
    """

    variant: str
    point: Point
    seed: int
    figures: dict[str, float]
    curve: list[dict[str, float]]
    spent: Spent
    location: str
    pictures: dict[str, str] = field(default_factory=dict)
    diverged: str = ""

    def at(self, name: str, axis: Axis, amount: float) -> float:
        """The figure where so much was spent, between two evaluations by a straight line."""
        points = [(row[axis], row[name]) for row in self.curve if name in row and axis in row]
        before = [point for point in points if point[0] <= amount]
        after = [point for point in points if point[0] >= amount]
        if not before or not after:
            return math.nan
        (x0, y0), (x1, y1) = before[-1], after[0]
        return y0 if x1 == x0 else y0 + (y1 - y0) * (amount - x0) / (x1 - x0)

    def thinned(self) -> list[dict[str, float]]:
        every = -(-len(self.curve) // CURVE_POINTS) or 1
        kept = self.curve[::-1][::every][::-1]  # the last one stays
        return [{name: _short(value) for name, value in row.items()} for row in kept]

    def document(self) -> dict[str, Any]:
        return {
            "variant": self.variant, "point": dict(self.point), "seed": self.seed,
            "figures": {name: _short(value) for name, value in self.figures.items()},
            "spent": self.spent, "curve": self.thinned(), "artifact": self.location,
            **({"diverged": self.diverged} if self.diverged else {}),
        }  # fmt: skip


def document(experiment: Experiment, results: Iterable[Result]) -> dict[str, Any]:
    """What an experiment came to: the runs, the best of each sweep, what is not fair, and the verdict."""
    results = list(results)
    by_variant = {
        variant: [result for result in results if result.variant == variant] for variant in experiment.variants
    }
    best = {variant: _winners(experiment, tried) for variant, tried in by_variant.items() if tried}
    winners = {variant: runs for variant, runs in best.items() if not any(run.diverged for run in runs)}
    figures = _figures(experiment, winners, experiment.figure.at_equal)

    def faults_of(contrasts: Sequence[Contrast]) -> list[str]:
        named = {name for contrast in contrasts for name in contrast.variants}
        compared = {variant: runs for variant, runs in best.items() if variant in named}
        return [
            *_diverged(compared),
            *_unfair(experiment, {variant: runs for variant, runs in compared.items() if variant in winners}),
            *_at_edges(experiment, compared, by_variant),
            *_constant(experiment, figures),
        ]

    def judged(contrasts: Iterable[Contrast]) -> list[Judgement]:
        return [
            judge(experiment, contrast, _figures_of(contrast, experiment, winners) or figures)
            for declared in contrasts
            if (contrast := _of_those_run(declared, winners)) is not None
        ]

    judgements, faults = judged(experiment.contrasts), faults_of(experiment.contrasts)
    name = experiment.figure.name
    return {
        "claim": experiment.claim,
        "chapter": experiment.chapter,
        "figure": experiment.figure.model_dump(),
        "equal": list(experiment.equal),
        "verdict": overall(judgements, faults),
        "judgements": [judgement.document() for judgement in judgements],
        "faults": faults,
        "variants": {
            variant: {
                "point": dict(runs[0].point),
                "mean": mean(seed[name] for seed in figures[variant]) if variant in winners else None,
                "seeds": [seed[name] for seed in figures.get(variant, ())],
                "spent": {axis: value for axis in AXES if (value := _mean_spent(runs, axis)) is not None},
                "diverged": _how_many_diverged(by_variant[variant]),
                **(
                    {"baseline": _baseline(experiment, runs)}
                    if experiment.figure.baseline and variant in winners
                    else {}
                ),
            }
            for variant, runs in best.items()
        },
        "published": [_beside(other, judged(other.ours), faults_of(other.ours)) for other in experiment.published],
        "runs": [result.document() for result in results],
        "pictures": {
            f"{variant}: {title}": svg for variant, runs in winners.items() for title, svg in runs[0].pictures.items()
        },
    }


def _beside(other: Published, ours: Sequence[Judgement], faults: Sequence[str]) -> dict[str, Any]:
    """What others found, and what our runs say of the same; no verdict where they do not try it."""
    return {
        "source": other.source,
        "says": other.says,
        "verdict": overall(ours, faults) if other.ours and (ours or faults) else None,
        "ours": [each.document() for each in ours],
        "faults": faults if other.ours else [],
    }


def _of_those_run(contrast: Contrast, winners: Mapping[str, object]) -> Contrast | None:
    """A contrast all of whose variants were run; None where that leaves nothing to judge."""
    if isinstance(contrast, Agrees):
        return contrast.among(winners.keys())
    return contrast if all(name in winners for name in contrast.variants) else None


def _winners(experiment: Experiment, tried: Sequence[Result]) -> list[Result]:
    """The runs, by seed, at the best point that was tried."""
    worst, name = experiment.figure.worst, experiment.figure.name
    first = {run.point: worst if run.diverged else run.figures[name] for run in tried if run.seed == 0}
    best = best_point(first, experiment)
    return sorted((result for result in tried if result.point == best), key=lambda result: result.seed)


def _figures_of(
    contrast: Contrast, experiment: Experiment, winners: Mapping[str, Sequence[Result]]
) -> dict[str, list[dict[str, float]]] | None:
    """The figures of a contrast that is about equal spending: of its variants alone. None for any other contrast."""
    if not isinstance(contrast, Better) or contrast.at_equal is None:
        return None
    return _figures(experiment, {name: winners[name] for name in contrast.variants}, contrast.at_equal)


def _figures(
    experiment: Experiment, winners: Mapping[str, Sequence[Result]], axis: Spending | None
) -> dict[str, list[dict[str, float]]]:
    """All figures of each variant and seed; the deciding one where equally much was spent, if an axis is given."""
    figures = {variant: [dict(run.figures) for run in runs] for variant, runs in winners.items()}
    name = experiment.figure.name
    if axis is not None:
        spent = [
            row[-1] for runs in winners.values() for run in runs if (row := [r[axis] for r in run.curve if axis in r])
        ]
        least = min(spent, default=math.nan)
        for variant, runs in winners.items():
            for run, seed in zip(runs, figures[variant], strict=True):
                seed[name] = run.at(name, axis, least)
    return figures


def _unfair(experiment: Experiment, compared: Mapping[str, Sequence[Result]]) -> list[str]:
    """What was to be equal and is not."""
    if not compared:
        return []
    said = (
        unequal(axis, {name: _mean_spent(runs, axis) for name, runs in compared.items()}) for axis in experiment.equal
    )
    return [text for text in said if text]


def _at_edges(
    experiment: Experiment, winners: Mapping[str, Sequence[Result]], tried: Mapping[str, Sequence[Result]]
) -> list[str]:
    """Sweeps whose best value is the first or last that was tried, so that a better one may lie beyond."""
    said = []
    for variant, runs in winners.items():
        values = {name: sorted({dict(result.point)[name] for result in tried[variant]}) for name, _ in runs[0].point}
        for name, beyond in at_edge(runs[0].point, values).items():
            said.append(
                f"the best {name} of {variant}, {dict(runs[0].point)[name]:g}, is the last of those tried; "
                f"--extend tries {beyond[0]:g} too"
            )
    return said


def _how_many_diverged(runs: Sequence[Result]) -> str:
    return f"{sum(bool(run.diverged) for run in runs)} of {len(runs)}"


def _diverged(best: Mapping[str, Sequence[Result]]) -> list[str]:
    """Variants of which a run diverged at the best point of the sweep."""
    said = []
    for variant, runs in best.items():
        lost = [str(run.seed) for run in runs if run.diverged]
        if lost:
            at = "".join(f" at {name.rpartition('.')[2]} {value:g}" for name, value in runs[0].point)
            said.append(f"{variant} diverged{at} with seed {', '.join(lost)}; give it lower rates to choose from")
    return said


def _constant(experiment: Experiment, figures: Mapping[str, Sequence[Mapping[str, float]]]) -> list[str]:
    """That no variant does better than a constant answer, where there is one."""
    name, baseline = experiment.figure.name, experiment.figure.baseline
    if baseline is None:
        return []
    sign = 1 if experiment.figure.better == "higher" else -1
    if not figures or any(sign * (seed[name] - seed[baseline]) > 0 for seeds in figures.values() for seed in seeds):
        return []
    return [f"no variant does better than a constant answer in {name}"]


def _baseline(experiment: Experiment, runs: Sequence[Result]) -> float:
    assert experiment.figure.baseline is not None
    return mean(run.figures[experiment.figure.baseline] for run in runs)


def _mean_spent(runs: Sequence[Result], axis: Axis) -> float | None:
    known = [run.spent[axis] for run in runs if axis in run.spent]
    return mean(known) if known else None


def _short(value: float) -> float:
    """Six significant digits: a curve is for the eye."""
    return float(f"{value:.6g}") if isinstance(value, float) else value
