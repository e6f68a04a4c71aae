"""Claims put to the test: what the variants share is built once, and the page says what came out."""

from __future__ import annotations

from pathlib import Path

import pytest
import yaml
from prefect.client.orchestration import get_client
from prefect.client.schemas.filters import ArtifactFilter, ArtifactFilterKey

from experiments import NAMES, Experiment, load
from flows.pipeline.chain import STAGES
from flows.pipeline.config import load_config
from flows.pipeline.experiment import plan_experiment, runs_of
from flows.pipeline.gc import garbage
from flows.service.experiment import experiment
from flows.stages.comparison import conclusion
from flows.store.local import Store
from textmill.errors import UserError

CONFIGS = Path(__file__).parents[3] / "configs"


def built(store: Store) -> list[str]:
    return sorted(artifact.manifest.stage for artifact in store.artifacts())


@pytest.mark.slow
def test_variants_share_what_they_have_in_common_and_are_compared(prefect_server, config, tmp_path):
    store = Store(tmp_path / "store")
    outcome = experiment(name="architecture", config=str(config), seeds=2, return_state=True).result()
    assert not outcome.reused
    first = outcome.artifact
    shared = ["prepare", "pretokenize", "scrape", "train_tokenizer"]
    assert built(store) == sorted([*shared, *["pretrain"] * 8, "comparison"])
    assert first.stats["variants"].keys() == {"modern", "classic 0.01", "classic 0.02", "classic 0.04"}
    trained = [artifact for artifact in store.artifacts() if artifact.manifest.stage == "pretrain"]
    losses = [artifact.stats["bits_per_byte"] for artifact in trained]
    told = [value for variant in first.stats["variants"].values() for value in variant["seeds"]]
    assert sorted(told) == sorted(losses)
    page = (first.path / "index.html").read_text()
    assert load("architecture").claim in page
    assert first.stats["conclusion"] in page
    assert "<svg" in page
    with get_client(sync_client=True) as client:
        wanted = ArtifactFilter(key=ArtifactFilterKey(any_=["comparison-of-architecture"]))
        [shown] = client.read_latest_artifacts(artifact_filter=wanted)
    assert "classic" in shown.data
    assert "data:image/svg+xml" in shown.data
    with get_client(sync_client=True) as client:
        of_all = ArtifactFilter(key=ArtifactFilterKey(any_=["experiment-architecture-of-small"]))
        [page] = client.read_latest_artifacts(artifact_filter=of_all)
    *runs, compared = str(page.data).split("### ")[1:]
    assert all("pretrain/" in run and "/artifacts/" in run for run in runs)
    assert len(runs) == 8
    assert first.location in compared

    again = experiment(name="architecture", config=str(config), seeds=2, return_state=True).result()
    assert again.reused
    assert again.artifact.path == first.path

    seed_1 = {artifact.location for artifact in trained if artifact.manifest.settings["seed"] == 1}
    assert list(garbage(store, [])) == []  # no configuration asks for the models, the comparison keeps them
    latest = experiment(name="architecture", config=str(config), seeds=1, return_state=True).result().artifact
    assert latest.path != first.path
    assert {item.location for item in garbage(store, [])} == {first.location, *seed_1}


def test_an_experiment_has_a_page_of_all_its_runs_from_its_first_line_on(prefect_server, config, monkeypatch, caplog):
    def build(request, watch, page, suspects):
        page.ended("scrape python-docs", "**built it**", "16 pages")
        raise UserError("that is enough")

    monkeypatch.setattr("flows.service.experiment.build_chain", build)
    with pytest.raises(UserError, match="that is enough"):
        experiment(name="optimizer", config=str(config))
    with get_client(sync_client=True) as client:
        wanted = ArtifactFilter(key=ArtifactFilterKey(any_=["experiment-optimizer-of-small"]))
        [page] = client.read_artifacts(artifact_filter=wanted)
    [watch] = [line for line in caplog.messages if line.startswith("Watch: ")]
    assert watch.endswith(f"/artifacts/artifact/{page.id}")
    runs = page.data.split("### ")[1:]
    assert [run.partition("\n")[0] for run in runs] == [
        *(f"{variant}, seed 0" for variant in load("optimizer").variants), "comparison",
    ]  # fmt: skip
    assert "| scrape python-docs | **built it** | 16 pages |" in runs[0]
    assert all("| scrape python-docs | to be built |" in run for run in runs[1:-1])


@pytest.mark.parametrize("shipped", ["demo", "chimera"])
@pytest.mark.parametrize("name", NAMES)
def test_every_variant_is_a_configuration_of_its_own(name, shipped):
    declared = load(name)
    assert declared.stage in STAGES
    config = CONFIGS / f"{shipped}.yaml"
    runs = runs_of(declared, config, {"finetune": {"steps": 7}}, seeds=2)
    assert len(runs) == 2 * len(declared.variants)
    settled = [run.request.config.model_dump_json() for run in runs]
    assert len(set(settled)) == len(settled)
    assert all(run.request.config.finetune.steps == 7 for run in runs)


def test_what_makes_a_variant_wins_over_overrides_for_all(config):
    declared = Experiment(claim="c", favored="a", variants={"a": {"pretrain": {"steps": 5}}, "b": {}})
    steps = [
        run.request.config.pretrain.steps for run in runs_of(declared, config, {"pretrain": {"steps": 9}}, seeds=1)
    ]
    assert steps == [5, 9]


@pytest.mark.parametrize(
    ("favored", "other", "lower_is_better", "said"),
    [
        ([1.0, 1.1], [1.2, 1.3], True, "holds (with 2 of 2 seeds; fewer than 3 may be luck: --seeds 3)"),
        ([1.0, 1.4], [1.2, 1.3], True, "is undecided (with 1 of 2 seeds)"),
        ([1.0], [1.0], True, "does not hold (with 0 of 1 seeds)"),
        ([0.2], [0.1], False, "holds (with 1 of 1 seeds; fewer than 3 may be luck: --seeds 3)"),
        ([1.0, 1.1, 1.0], [1.2, 1.3, 1.4], True, "holds (with 3 of 3 seeds)"),
    ],
)
def test_a_claim_holds_only_if_its_variant_wins_with_every_seed(favored, other, lower_is_better, said):
    assert conclusion({"x": other, "ours": favored}, "ours", lower_is_better=lower_is_better) == said


@pytest.mark.parametrize("shipped", ["demo", "chimera"])
def test_variants_differ_in_what_they_are_named_for_whatever_the_configuration(shipped):
    config = CONFIGS / f"{shipped}.yaml"
    runs = {name: {r.variant: r.request.config for r in runs_of(load(name), config, {}, 1)} for name in NAMES}
    for vocabulary, run in runs["vocabulary"].items():
        assert (run.train_tokenizer.vocab_size, run.train_tokenizer.encoding) == (int(vocabulary), None)
    blocks = {variant: run.pretrain.model for variant, run in runs["architecture"].items()}
    assert blocks["modern"].norm == "rms"
    assert {block.norm for variant, block in blocks.items() if variant != "modern"} == {"layer"}
    optimizers = {run.pretrain.optimizer.name for variant, run in runs["optimizer"].items() if variant != "muon"}
    assert (runs["optimizer"]["muon"].pretrain.optimizer.name, optimizers) == ("muon", {"adamw"})


def test_variants_that_come_to_the_same_are_refused(config, monkeypatch):
    same = Experiment(claim="c", favored="a", variants={"a": {}, "b": {"pretrain": {"seed": 0}}})
    monkeypatch.setattr("flows.pipeline.experiment.load", lambda name: same)
    with pytest.raises(UserError, match="a, seed 0 and b, seed 0 would be the same run"):
        plan_experiment("architecture", config, {}, 1)


def test_mistakes_are_told_before_anything_runs(config):
    with pytest.raises(UserError, match="the experiments are architecture, "):
        plan_experiment("architectur", config, {}, 1)
    with pytest.raises(UserError, match="give 1 or more"):
        plan_experiment("architecture", config, {}, 0)
    with pytest.raises(UserError, match="did you mean"):
        plan_experiment("architecture", config, {"pretrain": {"step": 5}}, 1)


def test_the_configuration_of_an_experiment_may_leave_fine_tuning_out(write_config):
    config = write_config(finetune=None)
    assert yaml.safe_load(config.read_text())["finetune"] is None
    assert load_config(config).finetune is None
    assert all(run.request.config.finetune is None for run in runs_of(load("architecture"), config, {}, 1))


WHOLE_SITE = {"vocabulary": {"scrape": {"max_pages": 250}}}  # fewer pages do not hold 8,192 tokens


@pytest.mark.slow
def test_every_experiment_runs_as_deployed(service, tmp_path):
    """In a store of its own, because what they build is what other tests of a service expect to build."""
    store = tmp_path / "store"
    for name in NAMES:
        run = service.start(f"experiment/{name}", {"store": str(store), **WHOLE_SITE.get(name, {})})
        service.wait(run, "Completed", seconds=600)
    compared = [artifact for artifact in Store(store).artifacts() if artifact.manifest.stage == "comparison"]
    assert sorted(artifact.stats["claim"] for artifact in compared) == sorted(load(name).claim for name in NAMES)
