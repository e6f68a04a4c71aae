"""What a few seeds can say, against SciPy's own tests and numbers made to a law."""

from __future__ import annotations

import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy import stats

from experiments.statistics import paired_difference, power_law

VALUES = st.floats(-100, 100, allow_nan=False)


@given(st.lists(st.tuples(VALUES, VALUES), min_size=2, max_size=8))
def test_a_paired_difference_is_that_of_a_t_test(pairs):
    left, right = zip(*pairs, strict=True)
    found = paired_difference(left, right)
    assert found.mean == pytest.approx(np.mean(left) - np.mean(right), abs=1e-9)
    low, high = found.interval
    assert low <= found.mean <= high
    if found.spread > 1e-6:
        reference = stats.ttest_rel(left, right)
        assert [low, high] == pytest.approx([*reference.confidence_interval(0.95)], rel=1e-6, abs=1e-9)
        assert (low > 0 or high < 0) == (reference.pvalue < 0.05) or reference.pvalue == pytest.approx(0.05)


def test_one_seed_has_no_interval():
    found = paired_difference([2.0], [1.0])
    assert (found.mean, found.interval) == (1.0, (-math.inf, math.inf))
    assert math.isnan(found.effect)


@given(st.floats(-3, 3), st.floats(0.1, 10), st.lists(st.floats(1, 1e6), min_size=3, max_size=6, unique=True))
def test_a_law_is_found_again(exponent, factor, sizes):
    if max(sizes) < 1.5 * min(sizes):
        return
    law = power_law(sizes, [factor * size**exponent for size in sizes])
    assert law.exponent == pytest.approx(exponent, abs=1e-6)
    assert law.at(sizes[0]) == pytest.approx(factor * sizes[0] ** exponent, rel=1e-6)


@pytest.mark.parametrize(("sizes", "figures"), [([1.0, 2.0], [1.0, 2.0]), ([1.0, 2.0, 3.0], [1.0, 0.0, 1.0])])
def test_no_law_goes_through_less(sizes, figures):
    with pytest.raises(ValueError, match="three or more points of positive figures"):
        power_law(sizes, figures)
