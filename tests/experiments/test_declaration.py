"""Experiments as people write them: YAML and Python files, grids, sweeps, and the mistakes in them."""

from __future__ import annotations

import sys

import pytest
import yaml

import experiments
from experiments.catalog import NAMES, code_of, load, name_of
from experiments.data import Data, choices
from experiments.declaration import Better, Experiment, nested
from modeling.config.network import MODEL_CONFIG
from modeling.cost import flops_per_token
from textmill.errors import UserError
from textmill.progress import quiet

OWN = {
    "claim": "Wider is better.",
    "grid": {"pretrain.model.width": [16, 32], "pretrain.model.layers": [1, 2]},
    "contrasts": [{"better": "width=32, layers=2", "than": "width=16, layers=1"}],
}


@pytest.fixture
def declare(tmp_path):
    def write(**changes):
        path = tmp_path / "own.yaml"
        path.write_text(yaml.safe_dump({**OWN, **changes}, sort_keys=False))
        return str(path)

    return write


def test_the_points_of_a_grid_are_the_variants(declare):
    path = declare(seeds=2)
    experiment = load(path)
    assert name_of(path) == "own"
    assert list(experiment.variants) == [f"width={w}, layers={n}" for w in (16, 32) for n in (1, 2)]
    settled = experiment.settled("width=32, layers=1", {"pretrain.optimizer.matrix_lr": 0.1}, 1)
    model = {"width": 32, "layers": 1}
    assert settled == {"pretrain": {"model": model, "seed": 1, "optimizer": {"matrix_lr": 0.1}}}


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        (
            {"contrasts": [{"better": "b", "than": "width=16, layers=1"}]},
            "no variant is called 'b'; there are 'width=16",
        ),
        ({"contrasts": []}, "contrasts"),
        (
            {"published": [{"source": "X", "says": "y", "ours": [{"better": "b", "than": "width=16, layers=1"}]}]},
            "no variant is called 'b'",
        ),
        (
            {"contrasts": [{**OWN["contrasts"][0], "at_equal": "seconds", "figure": "validation_loss"}]},
            "at_equal is of the experiment's figure",
        ),
        ({"clam": "x"}, "clam: unknown key; did you mean claim?"),
        ({"figure": {"name": "masked_accuracy"}}, "figure masked_accuracy needs a baseline"),
        ({"measure": "print"}, "measure"),
        ({"seeds": 0}, "seeds"),
        ({"seeded": []}, "every seed would be the same run"),
        ({"grid": {}, "variants": {"a": {}}}, "an experiment compares: give two variants or more"),
        ({"quick": {"variants": ["c"]}}, "no variant is called 'c'"),
        ({"figure": {"held_out": "c"}}, "no variant is called 'c'"),
        ({"figure": {"held_out": "width=16, layers=1", "stage": "finetune"}}, "held_out text is read by models"),
        (
            {"figure": {"held_out": "width=16, layers=1"}, "sweep": {"pretrain.optimizer.lr": [1e-3, 1e-2]}},
            "too late to sweep by",
        ),
        (
            {
                "contrasts": [
                    {
                        "over": {f"width={w}, layers={n}": w * n for w, n in ((16, 1), (32, 2), (16, 2))},
                        "between": [0, 1],
                        "foretells": 0.1,
                    }
                ]
            },
            "foretells needs four variants or more",
        ),
        (
            {"figure": {"held_out": "width=16, layers=1"}, "quick": {"variants": ["width=16, layers=2"]}},
            "quick.variants must have 'width=16, layers=1' too",
        ),
        ({"contrasts": [{"small": ["a", "b"], "large": ["c"]}]}, "must name as many variants"),
        ({"contrasts": [{"over": {"a": 1, "b": 1, "c": 2}, "between": [0, 1]}]}, "positive and different"),
    ],
)
def test_a_mistake_is_told_with_its_place(declare, changes, said):
    path = declare(**changes)
    with pytest.raises(UserError) as told:
        load(path)
    assert said in str(told.value)
    assert str(told.value).startswith(path)


@pytest.mark.parametrize(
    ("code", "said"),
    [
        ("EXPERIMENT = 1", "it gives no EXPERIMENT = Experiment(...)"),
        ("import nowhere_to_be_found", "ModuleNotFoundError: No module named 'nowhere_to_be_found'"),
        (
            "from experiments.declaration import Experiment\nEXPERIMENT = Experiment(claim='c')",
            "contrasts: Field required",
        ),
    ],
)
def test_a_mistake_in_a_module_is_one_line(tmp_path, code, said):
    path = tmp_path / "own.py"
    path.write_text(code)
    with pytest.raises(UserError) as told:
        load(str(path))
    assert said in str(told.value)
    assert len(str(told.value).splitlines()) == 1


def test_what_is_not_there_is_told(tmp_path):
    for which, said in {
        "optimiser": "the experiments are architecture, ",
        str(tmp_path / "no.py"): "there is no such file",
        str(tmp_path / "no.yaml"): "give the path of a YAML file",
    }.items():
        with pytest.raises(UserError, match=said):
            load(which)


@pytest.mark.parametrize("name", NAMES)
def test_every_claim_of_the_chapter_can_be_contradicted(name):
    experiment = load(name)
    assert experiment.claim.endswith(".")
    assert experiment.contrasts
    quick = experiment.quickly()
    assert quick.seeds == 1
    assert all(len(values) == 1 for variant in quick.variants for values in quick.swept(variant).values())


def sizes_of(experiment):
    """The names of the variants of an experiment about data, without their sizes."""
    names = {}
    for variant in experiment.variants:
        name, _, size = variant.rpartition(", ")
        names.setdefault(name, []).append(size)
    assert all(sizes == ["small", "large"] for sizes in names.values())
    return list(names)


def test_every_choice_about_data_that_a_configuration_has_is_a_variant_at_two_sizes():
    site, news = {"kind": "main", "selector": "main"}, {"path": "news.parquet", "name": "news"}
    data = Data(
        prepare={"filters": {"language": {"keep": ["en"]}, "prose": {"enabled": False}}, "dedup": {"near": False}},
        extractors={"site": site}, sites={"site": "sources/site.yaml"}, collections={"news": news},
        there=("site", "news"),
    )  # fmt: skip
    experiment = load("data", lambda: data)
    assert sizes_of(experiment) == [
        "as configured", "all cleaning", "text of pages by a model of kinds of pages", "text of pages by their looks",
        "all text of pages", "templates kept", "near-duplicates dropped", "kept: too short or too long",
        "kept: not made of words", "dropped: menus, notices, keyword lists", "kept: repeating themselves",
        "kept: other languages", "nothing filtered", "without site", "without news", "sources in equal parts",
        "mostly site", "mostly news",
    ]  # fmt: skip
    assert experiment.figure.held_out == "all cleaning, small"
    settled = {name: experiment.settled(f"{name}, large", {}, 0) for name in sizes_of(experiment)}
    assert settled["all cleaning"]["prepare"] == {"filters": {"prose": {"enabled": True}}, "dedup": {"near": True}}
    assert settled["without site"]["scrape"] == {"sources": []}
    assert settled["without news"]["ingest"] == []
    assert settled["mostly news"]["pretrain"]["mixture"] == {"site": {"weight": 0.25}, "news": {"weight": 0.75}}
    filters = settled["nothing filtered"]["prepare"]["filters"]
    assert filters["language"] == {"keep": []}
    assert "prose" not in filters  # it is off already
    models = [experiment.settled(f"as configured, {size}", {}, 0)["pretrain"]["model"] for size in ("small", "large")]
    small, large = (flops_per_token(MODEL_CONFIG.validate_python(model), 2048) for model in models)
    assert large / small == pytest.approx(10, rel=0.05)


def test_a_mixture_is_changed_where_there_is_one():
    mixture = {"site": {"weight": 3.0}, "news": {"weight": 1.0}}
    data = Data(sites={"site": "site"}, collections={"news": {"name": "news"}}, there=("site", "news"), mixture=mixture)
    settled = {name: load("data", lambda: data).settled(f"{name}, small", {}, 0) for name in dict(choices(data))}
    assert settled["without site"]["pretrain"]["mixture"] == {"site": {"weight": 0}}
    assert settled["sources by their size"]["pretrain"]["mixture"] == {
        "site": {"weight": None}, "news": {"weight": None},
    }  # fmt: skip


def test_one_source_has_no_mixture():
    assert not any("source" in name or "mostly" in name for name in dict(choices(Data(there=("site",)))))


def test_what_quick_leaves_out_is_not_run():
    experiment = Experiment(
        claim="c.", variants={"a": {}, "b": {"x": 1}, "c": {"x": 2}}, contrasts=[Better(better="a", than="c")],
        quick={"variants": ["a", "b"], "settings": {"steps": 3}}, sweep={"lr": [3, 1, 2]},
    )  # fmt: skip
    quick = experiment.quickly()
    assert (list(quick.variants), quick.settled("b", {}, 0)["steps"]) == (["a", "b"], 3)
    assert quick.swept("a") == {"lr": [2]}


def test_dotted_names_are_nested():
    assert nested({"a.b": 1, "a.c.d": 2, "e": 3}) == {"a": {"b": 1, "c": {"d": 2}}, "e": 3}


def test_what_a_merge_costs_is_measured_of_all_three_algorithms():
    from experiments.claims.tokenizers.bpe_work import measure

    figures = measure({"bytes": 100_000, "merges": 50}, 0, quiet).figures
    names = ("naive", "incremental", "ours")
    assert figures.keys() == {"distinct_words", *(f"{name}_us_per_merge" for name in names)}
    assert all(value > 0 for value in figures.values())


@pytest.mark.parametrize(
    "imported",
    [
        "from experiments.helper import ONE", "from experiments import helper", "import experiments.helper",
        "def late():\n    from experiments.helper import ONE", "from experiments.between import helper",
    ],
)  # fmt: skip
def test_what_measures_is_the_file_and_what_it_imports_from_experiments(imported, tmp_path, monkeypatch):
    monkeypatch.setattr(experiments, "__path__", [*experiments.__path__, str(tmp_path / "more")])
    helper, between, own = tmp_path / "more" / "helper.py", tmp_path / "more" / "between.py", tmp_path / "own.py"
    helper.parent.mkdir()
    helper.write_text("ONE = 1")
    between.write_text("from experiments import helper")

    def code(constant: int, claim: str, measure: str = "lambda *given: 1") -> str:
        own.write_text(
            f"from experiments.declaration import Experiment\n{imported}\n@str\ndef f():\n    return {constant}\n"
            f"EXPERIMENT = Experiment(claim='{claim}', measure={measure})\n"
        )
        return code_of(str(own))

    try:
        first = code(2, "It is so.")
        assert code(2, "It is not.") == first
        assert code(3, "It is so.") != first
        assert code(2, "It is so.", "lambda *given: 2") != first
        own.write_text(own.read_text().replace("@str", "@repr"))
        assert code_of(str(own)) not in (first, code(2, "It is so.", "lambda *given: 2"))
        helper.write_text("ONE = 2")
        assert code(2, "It is so.") != first
    finally:
        for name in ("helper", "between"):
            sys.modules.pop(f"experiments.{name}", None)
            experiments.__dict__.pop(name, None)


def test_every_measuring_claim_has_code_of_its_own():
    measuring = [name for name in NAMES if load(name).measure]
    assert len({code_of(name) for name in measuring}) == len(measuring)
