"""What runs say together: verdicts by intervals, the best of a sweep, and what is not fair."""

from __future__ import annotations

import pytest

from experiments.declaration import Better, Experiment, Figure, Same, Slope
from experiments.outcome import Result, document
from experiments.sweep import at_edge

LR = "pretrain.optimizer.lr"


def run(variant, seed, loss, *, lr=None, curve=(), **spent):
    point = ((LR, lr),) if lr is not None else ()
    figures = {"loss": loss, "guess_accuracy": loss, "always": 0.5}
    return Result(variant, point, seed, figures, list(curve), spent, "pretrain/0")


def declared(*contrasts, variants=("a", "b"), **more):
    more = {"figure": Figure(name="loss"), **more}
    settings = {name: {"x": number} for number, name in enumerate(variants)}
    return Experiment(claim="c.", variants=settings, contrasts=list(contrasts), **more)


@pytest.mark.parametrize(
    ("a", "b", "by", "verdict"),
    [
        ([1.0, 1.1, 1.0], [1.5, 1.61, 1.5], 0.0, "agree"),
        ([1.5, 1.61, 1.5], [1.0, 1.1, 1.0], 0.0, "disagree"),
        ([1.0, 1.1, 1.0], [1.5, 1.61, 1.5], 0.6, "disagree"),  # better, but not by so much
        ([1.0, 1.6, 1.0], [1.3, 1.2, 1.6], 0.0, "cannot tell"),
        ([1.0], [9.0], 0.0, "cannot tell"),  # one seed
        ([1.0, 1.0], [1.0, 1.0], 0.0, "cannot tell"),
    ],
)
def test_the_whole_interval_decides(a, b, by, verdict):
    runs = [run(name, seed, value) for name, values in {"a": a, "b": b}.items() for seed, value in enumerate(values)]
    came = document(declared(Better(better="a", than="b", by=by)), runs)
    assert came["verdict"] == verdict
    assert came["variants"]["a"]["seeds"] == a


@pytest.mark.parametrize(
    ("b", "verdict"), [([1.01, 1.02, 1.0], "agree"), ([1.5, 1.51, 1.5], "disagree"), ([1.0, 1.2, 1.1], "cannot tell")]
)
def test_sameness_is_to_be_shown_too(b, verdict):
    runs = [run("a", seed, 1.0) for seed in range(3)] + [run("b", seed, value) for seed, value in enumerate(b)]
    assert document(declared(Same(same=("a", "b"), within=0.1)), runs)["verdict"] == verdict


@pytest.mark.parametrize(("power", "verdict"), [(1.0, "agree"), (2.0, "disagree")])
def test_a_slope_is_fitted_and_foretells_what_was_held_out(power, verdict):
    sizes = {"s": 1.0, "m": 10.0, "l": 100.0, "xl": 1000.0}
    runs = [run(name, seed, 3 * size**power * (1 + 0.01 * seed)) for name, size in sizes.items() for seed in range(2)]
    contrast = Slope(over=sizes, between=(0.8, 1.2), holds_out=True)
    came = document(declared(contrast, variants=sizes), runs)
    assert came["verdict"] == verdict
    numbers = came["judgements"][0]["numbers"]
    assert numbers["exponent"] == pytest.approx(power, abs=0.01)
    assert numbers["foretold"] == pytest.approx(numbers["found"], rel=0.02)


def test_the_best_of_a_sweep_goes_on_and_an_edge_is_told():
    losses = {0.1: 3.0, 0.2: 2.0, 0.4: 2.5}
    runs = [run("a", 0, loss, lr=lr) for lr, loss in losses.items()] + [run("a", 1, 2.1, lr=0.2)]
    runs += [run("b", 0, loss - 1, lr=lr) for lr, loss in {0.1: 3.0, 0.2: 2.0, 0.4: 1.9}.items()]
    runs += [run("b", 1, 0.8, lr=0.4)]
    came = document(declared(Better(better="b", than="a"), sweep={LR: [0.1, 0.2, 0.4]}), runs)
    assert (came["variants"]["a"]["point"], came["variants"]["a"]["seeds"]) == ({LR: 0.2}, [2.0, 2.1])
    assert came["variants"]["b"]["point"] == {LR: 0.4}
    [fault] = came["faults"]
    assert "of b, 0.4, is the last of those tried; --extend tries 0.8 too" in fault
    assert came["verdict"] == "cannot tell"


@pytest.mark.parametrize(
    ("best", "values", "beyond"),
    [(0.2, [0.1, 0.2, 0.4], {}), (0.4, [0.1, 0.2, 0.4], {LR: [0.8]}), (0.1, [0.1, 0.3], {LR: [0.0333]}), (1, [1], {})],
)
def test_beyond_the_edge_goes_the_same_ratio(best, values, beyond):
    assert at_edge(((LR, best),), {LR: values}) == beyond


def test_what_was_to_be_equal_and_is_not_decides_nothing():
    runs = [run("a", seed, 1.0 + seed / 100, parameters=100) for seed in range(3)]
    runs += [run("b", seed, 2.0 + seed / 90, parameters=112) for seed in range(3)]
    came = document(declared(Better(better="a", than="b"), equal=["parameters", "flops"]), runs)
    assert came["judgements"][0]["verdict"] == "agree"
    assert came["verdict"] == "cannot tell"
    assert came["faults"] == ["parameters are not equal: 100 of a, 112 of b", "flops of a, b are not known"]


def test_an_accuracy_has_to_beat_a_constant_answer():
    figure = Figure(name="guess_accuracy", better="higher", baseline="always")
    runs = [run(name, seed, value + seed / 1000) for name, value in {"a": 0.4, "b": 0.3}.items() for seed in range(3)]
    came = document(declared(Better(better="a", than="b"), figure=figure), runs)
    assert came["faults"] == ["no variant does better than a constant answer in guess_accuracy"]
    assert came["variants"]["a"]["baseline"] == 0.5


def test_at_equal_flops_the_one_that_spent_less_sets_the_budget():
    def curve(per_step, losses):
        return [{"step": n, "flops": per_step * n, "loss": loss} for n, loss in enumerate(losses, 1)]

    runs = [run("a", s, 1.0, curve=curve(10, [4.0, 3.0, 2.0, 1.0])) for s in range(2)]
    runs += [run("b", s, 1.5, curve=curve(5, [2.0, 1.8, 1.6, 1.5])) for s in range(2)]
    figure = Figure(name="loss", at_equal="flops")
    came = document(declared(Better(better="b", than="a"), figure=figure), runs)
    assert came["variants"]["a"]["mean"] == 3.0  # at 20, where b ended
    assert came["variants"]["b"]["mean"] == 1.5
    assert came["verdict"] == "agree"


def test_a_kept_curve_is_short_and_ends_where_the_run_did():
    long = run("a", 0, 1.0, curve=[{"step": n, "loss": 1 / n} for n in range(1, 1002)]).document()["curve"]
    assert len(long) <= 41
    assert long[-1]["step"] == 1001
