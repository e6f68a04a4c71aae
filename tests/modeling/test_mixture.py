"""How a mixture divides a run: shares are kept, limits are never exceeded, and what cannot be had is refused."""

from __future__ import annotations

import math
from fractions import Fraction

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from modeling.config.pretrain import PretrainConfig
from modeling.config.run import SourceConfig
from modeling.mixture import WindowPlan, allocate, epoch_windows
from textmill.errors import UserError

SIZES = {"a": 10_001, "b": 20_001, "c": 70_001}


def shared(mixture: dict, count: int = 1_000, sizes: dict[str, int] = SIZES) -> dict[str, int]:
    configs = {name: SourceConfig(**source) for name, source in mixture.items()}
    return allocate(sizes, configs, WindowPlan(10, 1, count))


def test_without_weights_shares_are_those_of_the_tokens():
    assert shared({}) == {"a": 100, "b": 200, "c": 700}
    assert shared({"c": {"max_tokens": 4_000}}) == {"a": 200, "b": 400, "c": 400}


def test_weights_are_shares_whatever_their_sum():
    for scale in (1, 0.01, 1e6):
        assert shared({"a": {"weight": 2 * scale}, "b": {"weight": 3 * scale}, "c": {"weight": 5 * scale}}) == {
            "a": 200, "b": 300, "c": 500,
        }  # fmt: skip
    assert shared({"a": {"weight": 1}, "b": {"weight": 1}, "c": {"weight": 0}}) == {"a": 500, "b": 500, "c": 0}


def test_what_a_limit_cuts_off_goes_to_the_others_in_their_relation():
    weights = {"a": {"weight": 8, "repeat": 0.5}, "b": {"weight": 1}, "c": {"weight": 2}}
    assert shared(weights, 2_000) == {"a": 499, "b": 500, "c": 1_001}  # an epoch of a has 999 windows
    assert shared({"a": {"weight": 1, "repeat": 2}, "b": {"weight": 0}, "c": {"weight": 1}}, 10_000)["a"] == 1_998


def test_a_source_with_too_few_tokens_for_a_window_gives_none():
    assert shared({"a": {"weight": 1}, "b": {"weight": 1}}, 100, {"a": 10, "b": 500}) == {"a": 0, "b": 100}


def test_what_the_limits_do_not_allow_is_refused_in_a_line_that_says_what_to_change():
    with pytest.raises(UserError) as error:
        shared({"a": {"weight": 1, "repeat": 1}, "b": {"weight": 1, "max_tokens": 5_000}, "c": {"weight": 0}}, 2_000)
    assert str(error.value) == (
        "the run asks for 20,000 tokens but the mixture has 14,990: lower steps or batch to 74.9 % of what they are, "
        "or raise repeat and max_tokens of a, b"
    )
    with pytest.raises(UserError, match="mixture: b has no weight but other sources have: give it one, 0 leaves it"):
        shared({"a": {"weight": 1}, "c": {"weight": 1}})


@pytest.mark.parametrize(
    ("mixture", "message"),
    [
        ({"a": {"weight": 1}, "b": {"repeat": 2}}, "mixture.b has no weight but others have"),
        ({"a": {"weight": 0}, "b": {"weight": 0}}, "every weight of the mixture is 0"),
        ({"a": {"weight": -1}}, "greater than or equal to 0"),
        ({"a": {"weight": math.inf}}, "finite"),
        ({"a": {"wieght": 1}}, "not permitted"),
    ],
)
def test_a_mixture_that_makes_no_sense_is_no_setting(mixture, message):
    with pytest.raises(ValueError, match=message):
        PretrainConfig(mixture=mixture)


LIMITS = st.fixed_dictionaries(
    {"weight": st.floats(0, 1e6) | st.integers(0, 9)},
    optional={"max_tokens": st.integers(0, 100_000), "repeat": st.floats(0, 50)},
)


@given(
    st.dictionaries(st.sampled_from("abcdef"), st.tuples(st.integers(0, 50_000), LIMITS), min_size=1),
    st.integers(1, 20),
    st.integers(0, 1),
    st.integers(1, 20_000),
    st.booleans(),
)
@settings(max_examples=300)
def test_shares_are_exact_to_a_window_and_limits_are_kept(given_sources, length, extra, count, weighted):
    sizes = {name: size for name, (size, _) in given_sources.items()}
    configs = {
        name: SourceConfig(**(limits if weighted else {**limits, "weight": None}))
        for name, (_, limits) in given_sources.items()
    }
    shares = {name: source.weight if weighted else sizes[name] for name, source in configs.items()}
    most = {}
    for name, source in configs.items():
        epoch = epoch_windows(sizes[name], WindowPlan(length, extra, count))
        limits = [count if epoch else 0]
        limits += [source.max_tokens // length] if source.max_tokens is not None else []
        limits += [math.floor(source.repeat * epoch)] if source.repeat is not None else []
        most[name] = min(limits) if shares[name] else 0
    if sum(most.values()) < count:
        with pytest.raises(UserError, match="the run asks for"):
            allocate(sizes, configs, WindowPlan(length, extra, count))
        return
    windows = allocate(sizes, configs, WindowPlan(length, extra, count))
    assert sum(windows.values()) == count
    assert all(0 <= windows[name] <= most[name] for name in windows)
    free = [name for name in windows if windows[name] < most[name]]
    for one in free:  # those below their limits stand in the relation of their shares
        for other in free:
            relation = Fraction(shares[one]) / Fraction(shares[other])
            assert abs(windows[one] - windows[other] * relation) <= 1 + relation
