"""What runs say together: verdicts by intervals, the best of a sweep, and what is not fair."""

from __future__ import annotations

import json
from dataclasses import replace

import pytest

from experiments.declaration import Agrees, Better, Experiment, Figure, Published, Same, Slope
from experiments.outcome import Result, document
from experiments.sweep import at_edge
from flows.stages.comparison import findings_of

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


@pytest.mark.parametrize(
    ("power", "largest", "verdict"),
    [(1.0, 1.0, "agree"), (2.0, 1.0, "disagree"), (1.0, 1.1, "disagree"), (1.0, 1.05, "cannot tell")],
)
def test_a_slope_is_fitted_and_foretells_what_was_held_out(power, largest, verdict):
    sizes = {"s": 1.0, "m": 10.0, "l": 100.0, "xl": 1000.0}
    runs = [run(name, seed, 3 * size**power * (1 + 0.002 * seed)) for name, size in sizes.items() for seed in range(2)]
    runs = [
        replace(each, figures={"loss": each.figures["loss"] * largest}) if each.variant == "xl" else each
        for each in runs
    ]
    contrast = Slope(over=sizes, between=(0.8, 1.2), foretells=0.05)
    came = document(declared(contrast, variants=sizes), runs)
    assert came["verdict"] == verdict
    numbers = came["judgements"][0]["numbers"]
    assert numbers["exponent"] == pytest.approx(power, abs=0.01)
    assert numbers["foretold"] * largest == pytest.approx(numbers["found"], rel=0.02)


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


def test_one_comparison_may_be_at_equal_seconds_where_others_are_at_the_end():
    def curve(per_step, losses):
        return [{"step": n, "seconds": per_step * n, "loss": loss} for n, loss in enumerate(losses, 1)]

    runs = [run("slow", s, 1.0 + s / 100, curve=curve(4, [4.0, 3.0, 2.0, 1.0])) for s in range(2)]
    runs += [run("fast", s, 1.5 + s / 100, curve=curve(1, [2.0, 1.8, 1.6, 1.5])) for s in range(2)]
    contrasts = Better(better="slow", than="fast"), Better(better="fast", than="slow", at_equal="seconds")
    came = document(declared(*contrasts, variants=("slow", "fast")), runs)
    at_the_end, in_as_much_time = came["judgements"]
    assert (at_the_end["verdict"], in_as_much_time["verdict"]) == ("agree", "agree")
    assert at_the_end["numbers"]["mean"] == pytest.approx(0.5)
    assert in_as_much_time["numbers"]["mean"] == pytest.approx(2.5)  # at 4 seconds
    assert in_as_much_time["says"].endswith("in loss at equal seconds")
    assert came["variants"]["slow"]["mean"] == pytest.approx(1.005)


def lost(variant, seed, *, lr=None):
    return replace(run(variant, seed, 0.0, lr=lr), figures={}, location="", diverged="the loss became nan")


def test_a_run_that_diverged_is_the_worst_of_its_sweep_and_is_counted():
    runs = [run("a", 0, 1.0, lr=0.1), run("a", 0, 0.9, lr=0.2), lost("a", 0, lr=0.4), run("a", 1, 0.91, lr=0.2)]
    runs += [run("b", seed, 2.0 + seed / 100, lr=0.2) for seed in range(2)]
    came = document(declared(Better(better="a", than="b")), runs)
    assert (came["verdict"], came["faults"]) == ("agree", [])  # what is best is not the last that was tried
    assert came["variants"]["a"]["point"] == {LR: 0.2}
    assert [each["diverged"] for each in came["variants"].values()] == ["1 of 4", "0 of 2"]
    assert [row.get("diverged") for row in came["runs"]][:4] == [None, None, "the loss became nan", None]
    json.dumps(came, allow_nan=False)


@pytest.mark.parametrize("losses", [{1}, {0, 1}])
def test_a_variant_that_diverges_is_in_no_comparison(losses):
    runs = [lost("a", seed, lr=0.1) if seed in losses else run("a", seed, 1.0, lr=0.1) for seed in range(2)]
    runs += [run(name, seed, 2.0 + seed / 100, lr=0.1) for name in ("b", "c") for seed in range(2)]
    contrasts = Better(better="a", than="b"), Same(same=("b", "c"), within=0.5)
    came = document(declared(*contrasts, variants=("a", "b", "c")), runs)
    seeds = ", ".join(map(str, sorted(losses)))
    assert came["faults"] == [f"a diverged at lr 0.1 with seed {seeds}; give it lower rates to choose from"]
    assert came["verdict"] == "cannot tell"
    assert [judgement["verdict"] for judgement in came["judgements"]] == ["agree"]
    assert (came["variants"]["a"]["mean"], came["variants"]["a"]["seeds"]) == (None, [])
    json.dumps(came, allow_nan=False)


def test_what_is_in_no_comparison_spoils_none():
    runs = [run(name, s, loss + s / 100, lr=0.1) for name, loss in {"a": 1.0, "b": 2.0}.items() for s in range(2)]
    runs += [lost("c", seed, lr=0.1) for seed in range(2)]
    other = Published(source="X 2020", says="c is better.", ours=[Better(better="c", than="a")])
    came = document(declared(Better(better="a", than="b"), variants=("a", "b", "c"), published=[other]), runs)
    assert (came["verdict"], came["faults"]) == ("agree", [])
    [beside] = came["published"]
    assert (beside["verdict"], beside["ours"]) == ("cannot tell", [])  # it was tried
    assert beside["faults"][0].startswith("c diverged at lr 0.1 with seed 0, 1")
    work = {"built": 1.0, "alone": 2.0, "variants": {name: {"built": 1.0, "alone": 1.0} for name in ("a", "b")}}
    [table, text] = findings_of({**came, "quick": False, "work": work})
    assert [row[0] for row in table.rows] == ["a", "b", "c"]
    assert all(len(row) == len(table.head) for row in table.rows)
    assert "Runs that diverged are not counted." in text.text


def test_what_only_others_compare_has_to_be_equal_too():
    runs = [run(name, s, 1.0 + s / 100, tokens=10) for name in ("a", "b") for s in range(2)]
    runs += [run("c", s, 0.5 + s / 100, tokens=1000) for s in range(2)]
    other = Published(source="X 2020", says="c is better.", ours=[Better(better="c", than="a")])
    same = Same(same=("a", "b"), within=0.1)
    came = document(declared(same, variants=("a", "b", "c"), published=[other], equal=["tokens"]), runs)
    assert (came["verdict"], came["published"][0]["verdict"]) == ("agree", "cannot tell")


def test_a_curve_that_does_not_reach_as_far_tells_nothing():
    runs = [run(name, s, 1.0 + s / 100, curve=[{"step": 1, "loss": 1.0}]) for name in ("a", "b") for s in range(2)]
    came = document(declared(Better(better="a", than="b", at_equal="seconds")), runs)
    assert (came["verdict"], came["judgements"][0]["because"]) == ("cannot tell", "the curves do not reach as far")
    json.dumps(came, allow_nan=False)


def test_what_is_not_positive_follows_no_law():
    sizes = {"s": 1.0, "m": 10.0, "l": 100.0, "xl": 1000.0}
    runs = [run(name, 0, 0.0 if name == "xl" else size) for name, size in sizes.items()]
    [said] = document(declared(Slope(over=sizes, between=(0.8, 1.2), foretells=0.05), variants=sizes), runs)[
        "judgements"
    ]
    assert (said["verdict"], said["because"]) == ("cannot tell", "a figure of xl is not positive")
    assert said["says"].endswith("and the others foretell xl to within 5%")


def test_what_others_found_is_judged_beside_the_claim_and_is_no_part_of_it():
    runs = [run(name, s, loss + s / 100) for name, loss in {"a": 1.0, "b": 2.0}.items() for s in range(2)]
    others = [
        Published(source="X 2020", says="b is better.", ours=[Better(better="b", than="a")]),
        Published(source="Y 2021", says="Something else."),
    ]
    came = document(declared(Better(better="a", than="b"), published=others), runs)
    assert came["verdict"] == "agree"
    assert [each["verdict"] for each in came["published"]] == ["disagree", None]
    assert came["published"][0]["ours"][0]["says"] == "b is better than a in loss"
    unfair = document(declared(Better(better="a", than="b"), published=others, equal=["tokens"]), runs)
    assert unfair["published"][0]["verdict"] == "cannot tell"


def test_a_kept_curve_is_short_and_ends_where_the_run_did():
    long = run("a", 0, 1.0, curve=[{"step": n, "loss": 1 / n} for n in range(1, 1002)]).document()["curve"]
    assert len(long) <= 41
    assert long[-1]["step"] == 1001


LETTERS = "abcd"
RANKS = Agrees(small=[f"{name} small" for name in LETTERS], large=[f"{name} large" for name in LETTERS])


def ranked(small, large, *, contrast=RANKS, seeds=3, noise=0.001):
    """What came of a ranking of four variants by their losses at two sizes."""
    runs = [
        run(f"{name} {size}", seed, loss + noise * seed * place)
        for size, losses in (("small", small), ("large", large))
        for place, (name, loss) in enumerate(zip(LETTERS, losses, strict=True), 1)
        for seed in range(seeds)
        if loss is not None
    ]
    return document(declared(contrast, variants=RANKS.variants), runs)


@pytest.mark.parametrize(
    ("small", "agreeing", "verdict"),
    [
        ([4, 5, 6, 7], 6, "agree"),
        ([5, 4, 6, 7], 5, "cannot tell"),  # 83 %: so few variants do not tell
        ([5, 4, 7, 6], 4, "cannot tell"),  # 67 %
        ([7, 6, 5, 4], 0, "disagree"),
    ],
)
def test_small_runs_rank_as_large_ones_do_in_most_pairs_or_not(small, agreeing, verdict):
    came = ranked(small, [1, 2, 3, 4])
    [judgement] = came["judgements"]
    numbers = judgement["numbers"]
    assert (numbers["agreeing"], numbers["pairs"], came["verdict"]) == (agreeing, 6, verdict)
    low, high = numbers["interval"]
    assert 0 <= low <= numbers["share"] <= high <= 1
    assert (numbers["told_agreeing"], numbers["told"]) == (agreeing, 6)
    assert [row["large"] for row in numbers["ranking"]] == list(RANKS.large)
    assert numbers["ranking"][1]["gain"] == pytest.approx(-1, abs=0.01)


def test_what_the_seeds_do_not_tell_apart_is_counted_but_not_as_told():
    [judgement] = ranked([5, 4, 6, 7], [1, 1.0001, 3, 4], noise=0.1)["judgements"]
    numbers = judgement["numbers"]
    assert (numbers["agreeing"], numbers["pairs"], numbers["told_agreeing"], numbers["told"]) == (5, 6, 5, 5)
    assert "of those that the seeds tell apart at the large size 5 of 5" in judgement["because"]


def test_variants_that_are_the_same_run_count_as_one():
    [judgement] = ranked([4, 4, 6, 7], [1, 1, 3, 4], noise=0)["judgements"]
    assert judgement["numbers"]["pairs"] == 3
    assert [row["same_run"] for row in judgement["numbers"]["ranking"]] == [True, True, False, False]
    same = ranked([4, 4, 4, 4], [1, 1, 1, 1], noise=0)
    assert (same["verdict"], same["judgements"][0]["because"]) == ("cannot tell", "no two variants differ")


def test_a_ranking_is_of_the_variants_that_were_run_at_both_sizes():
    [judgement] = ranked([4, None, 6, 7], [1, None, 3, None])["judgements"]
    assert [row["large"] for row in judgement["numbers"]["ranking"]] == ["a large", "c large"]
    assert ranked([4, None, None, None], [1, 2, 3, 4])["judgements"] == []


def test_a_ranking_tells_each_source_apart():
    runs = [
        Result(name, (), 0, {"loss": loss, "sources.news.loss": loss + 1, "sources.news.tokens": 3}, [], {}, "x/0")
        for name, loss in zip(RANKS.variants, [4, 5, 6, 7, 1, 2, 3, 4], strict=True)
    ]
    [judgement] = document(declared(RANKS, variants=RANKS.variants), runs)["judgements"]
    first = judgement["numbers"]["ranking"][0]
    assert (first["by_source"], first["interval"]) == ({"news": 2}, None)
