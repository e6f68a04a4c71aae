"""A KAN against an MLP of as many parameters, on formulas: each learns eight of them from a thousand samples by L-BFGS.

The tasks are those of the KAN paper (`modeling.regression`). The figure is the geometric mean of the test errors over
the formulas, as the logarithm to base 10, so that each formula counts alike and seeds are compared by ratios.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from statistics import mean
from typing import Any

from experiments.declaration import Better, Experiment, Figure, Measured, Published, Quick
from modeling.regression import FORMULAS, Point, RegressionConfig, regress, with_mlp
from textmill.progress import Progress

HIDDEN = {"kan-spline": [5], "kan-rbf": [5], "kan-rational": [16]}  # units; the MLP has as many parameters as the first


def measure(settings: Mapping[str, Any], seed: int, progress: Progress) -> Measured:
    """Errors of one kind of network on all formulas."""
    kind, steps = settings["kind"], int(settings["steps"])
    figures: dict[str, float] = {}
    curves: list[list[Point]] = []
    for number, formula in enumerate(FORMULAS):
        progress(number, len(FORMULAS), unit="formulas", phase=formula)
        config = RegressionConfig.model_validate(
            {
                "formula": formula, "seed": seed, "steps": steps, "evaluate_every": max(1, steps // 10),
                "feed_forward": "kan-spline" if kind == "mlp" else kind,
                "hidden": HIDDEN.get(kind, HIDDEN["kan-spline"]),
            }
        )  # fmt: skip
        result = regress(with_mlp(config) if kind == "mlp" else config)
        figures |= {f"{formula}_rmse": result.test_rmse, f"{formula}_parameters": float(result.parameters)}
        curves.append(result.curve)
    figures["log10_rmse"] = mean(math.log10(figures[f"{formula}_rmse"]) for formula in FORMULAS)
    figures["seconds"] = sum(curve[-1].seconds for curve in curves)
    curve = [
        {"step": float(points[0].step), "log10_rmse": mean(math.log10(point.test_rmse) for point in points)}
        for points in zip(*curves, strict=False)
    ]
    return Measured(figures=figures, curve=curve)


EXPERIMENT = Experiment(
    claim="On formulas a KAN of splines has less than half the error of an MLP of as many parameters.",
    chapter="Kolmogorov-Arnold networks have learned functions on their edges.",
    settings={"steps": 20},
    variants={kind: {"kind": kind} for kind in ("kan-spline", "kan-rbf", "kan-rational", "mlp")},
    measure=measure,
    figure=Figure(name="log10_rmse"),
    contrasts=[Better(better="kan-spline", than="mlp", by=math.log10(2))],
    published=[
        Published(
            source="Liu et al. 2024, 'KAN: Kolmogorov-Arnold Networks', figure 3.1",
            says="On five formulas the test error of KANs falls faster with parameters than that of MLPs.",
            ours=[Better(better="kan-spline", than="mlp")],
        ),
        Published(
            source="Yu et al. 2024, 'KAN or MLP: A Fairer Comparison' (2407.16674)",
            says="At equal parameters or FLOPs MLPs are generally better, except at symbolic formulas.",
            ours=[Better(better="kan-spline", than="mlp")],
        ),
    ],
    quick=Quick(settings={"steps": 5}, variants=["kan-spline", "mlp"]),
)
