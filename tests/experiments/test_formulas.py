"""What the experiment on formulas measures."""

import math
from statistics import mean

import pytest

from experiments.catalog import load
from modeling.regression import FORMULAS


def test_a_run_measures_every_formula_and_the_mlp_has_as_many_parameters():
    declared = load("formulas").quickly()
    told = []
    results = {
        kind: declared.measure(declared.settled(kind, {}, 0) | {"steps": 1}, 0, lambda *done, **said: told.append(said))
        for kind in declared.variants
    }
    assert results.keys() == {"kan-spline", "mlp"}
    assert [said["phase"] for said in told] == 2 * list(FORMULAS)
    for measured in results.values():
        errors = [measured.figures[f"{formula}_rmse"] for formula in FORMULAS]
        assert measured.figures["log10_rmse"] == pytest.approx(mean(map(math.log10, errors)))
        assert [row["step"] for row in measured.curve] == [0, 1]
        assert measured.curve[1]["log10_rmse"] == pytest.approx(measured.figures["log10_rmse"])
    for formula in FORMULAS:
        sizes = [measured.figures[f"{formula}_parameters"] for measured in results.values()]
        assert sizes[1] == pytest.approx(sizes[0], rel=0.05)
