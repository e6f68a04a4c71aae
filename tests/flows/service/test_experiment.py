"""Claims put to the test: what the variants share is built once, and the page says what came out."""

from __future__ import annotations

import json
import math
import os
import signal
import time
from pathlib import Path

import pytest
import yaml
from prefect.client.orchestration import get_client
from prefect.client.schemas.filters import ArtifactFilter, ArtifactFilterKey

from experiments.catalog import NAMES, load
from flows.pipeline.chain import STAGES
from flows.pipeline.config import load_config
from flows.pipeline.experiments.chapter import write_chapter
from flows.pipeline.experiments.estimate import planned
from flows.pipeline.experiments.keeping import kept, verdicts
from flows.pipeline.experiments.trials import campaign
from flows.pipeline.gc import garbage
from flows.service.experiment import experiment
from flows.store.local import Store
from modeling.config.pretrain import PretrainConfig
from textmill.errors import UserError

ROOT = Path(__file__).parents[3]
WIDTHS = {
    "claim": "Wider is better.",
    "grid": {"pretrain.model.width": [16, 32]},
    "sweep": {"pretrain.optimizer.matrix_lr": [0.01, 0.02]},
    "contrasts": [{"better": "width=32", "than": "width=16"}],
    "equal": ["steps", "tokens"],
    "seeds": 2,
}
COUNTING = """
from experiments.declaration import Experiment, Figure, Measured, Published, Slope


def measure(settings, seed, progress):
    progress(1, 1, unit="counts")
    curve = [{"step": step, "count": step * settings["n"]} for step in (1, 2)]
    return Measured(figures={"count": 2 * settings["n"] + seed}, curve=curve, pictures={"a line": "<svg></svg>"})


SIZES = {"ten": 10, "hundred": 100, "thousand": 1000}
EXPERIMENT = Experiment(
    claim="Counting is linear.", variants={name: {"n": size} for name, size in SIZES.items()}, measure=measure,
    figure=Figure(name="count"), contrasts=[Slope(over=SIZES, between=(0.9, 1.1))],
    published=[Published(source="Euclid", says="Counting is quadratic.", ours=[Slope(over=SIZES, between=(1.9, 2.1))])],
)
"""


def built(store: Store) -> list[str]:
    return sorted(artifact.manifest.stage for artifact in store.artifacts())


@pytest.fixture
def own(tmp_path, monkeypatch, config) -> Path:
    """An experiment of one's own, in a project's folder."""
    monkeypatch.chdir(tmp_path)
    path = tmp_path / "widths.yaml"
    path.write_text(yaml.safe_dump(WIDTHS, sort_keys=False))
    return path


def run(which: Path | str, config: Path, **parameters):
    return experiment(name=str(which), config=str(config), return_state=True, **parameters).result()


@pytest.mark.slow
def test_variants_share_what_they_have_in_common_and_are_compared(prefect_server, config, own, tmp_path):
    store = Store(tmp_path / "store")
    before = planned(campaign(str(own), config))
    assert [each.built for each in before] == [5, 1, 1, 1, 1, 1]
    assert all(each.seconds is None for each in before)
    assert [each.assumed for each in before] == [False, False, True, False, False, True]

    outcome = run(own, config)
    assert not outcome.reused
    first = outcome.artifact
    shared = ["prepare", "pretokenize", "scrape", "train_tokenizer"]
    assert built(store) == sorted([*shared, *["pretrain"] * 6, "comparison"])
    stats = first.stats
    trained = [artifact for artifact in store.artifacts() if artifact.manifest.stage == "pretrain"]
    told = {row["artifact"]: row["figures"]["bits_per_byte"] for row in stats["runs"]}
    assert told == pytest.approx({"/".join(made.name): made.stats["bits_per_byte"] for made in trained}, rel=1e-5)
    for variant, values in stats["variants"].items():
        tried = {row["point"]["pretrain.optimizer.matrix_lr"]: row["figures"]["bits_per_byte"]
                 for row in stats["runs"] if row["variant"] == variant and row["seed"] == 0}  # fmt: skip
        assert values["point"]["pretrain.optimizer.matrix_lr"] == min(tried, key=tried.get)
        assert len(values["seeds"]) == 2
        assert values["spent"]["tokens"] == 12 * 4 * 32
        assert values["spent"]["flops"] > 6 * 12 * 4 * 32 * 600 * int(variant.removeprefix("width="))
    curve = stats["runs"][0]["curve"]
    assert [row["step"] for row in curve] == [6, 12]
    assert curve[-1]["flops"] == pytest.approx(stats["runs"][0]["spent"]["flops"], rel=1e-5)
    assert 0 < curve[0]["seconds"] < curve[1]["seconds"] < stats["runs"][0]["spent"]["seconds"]

    page = (first.path / "index.html").read_text()
    assert WIDTHS["claim"] in page
    assert "<svg" in page
    [result] = kept(Path("experiments/results"))
    assert {**stats, **{name: result[name] for name in ("date", "commit", "machine", "pipeline")}} == result
    with get_client(sync_client=True) as client:
        wanted = ArtifactFilter(key=ArtifactFilterKey(any_=["comparison-of-widths"]))
        [shown] = client.read_latest_artifacts(artifact_filter=wanted)
        of_all = ArtifactFilter(key=ArtifactFilterKey(any_=["experiment-widths-of-small"]))
        [page] = client.read_latest_artifacts(artifact_filter=of_all)
    assert "width=16" in shown.data
    assert "data:image/svg+xml" in shown.data
    *runs, compared = str(page.data).split("### ")[1:]
    assert all("pretrain/" in run and "/artifacts/" in run for run in runs)
    assert len(runs) == 6
    assert first.location in compared

    again = run(own, config)
    assert again.reused
    assert again.artifact.path == first.path
    after = planned(campaign(str(own), config, seeds=3))
    assert [each.built for each in after] == [0, 0, 0, 1, 0, 0, 0, 1]
    assert all(each.seconds > 0 for each in after if each.built)

    seed_1 = {artifact.location for artifact in trained if artifact.manifest.settings["seed"] == 1}
    assert list(garbage(store, [])) == []  # no configuration asks for the models, the comparison keeps them
    latest = run(own, config, seeds=1).artifact
    assert latest.path != first.path
    assert {item.location for item in garbage(store, [])} == {first.location, *seed_1}


@pytest.mark.slow
def test_a_killed_experiment_goes_on_where_it_was(textmill, config, own, tmp_path):
    process = textmill("experiment", "run", own, "--config", config)
    store = Store(tmp_path / "store")
    deadline = time.monotonic() + 300
    while built(store).count("pretrain") < 2:
        assert process.poll() is None, process.communicate()
        assert time.monotonic() < deadline
        time.sleep(0.2)
    os.kill(process.pid, signal.SIGKILL)
    process.communicate()
    first = {artifact.name: artifact.manifest.finished for artifact in store.artifacts()}
    out, error = textmill("experiment", "run", own, "--config", config, "--json").communicate(timeout=300)
    assert json.loads(out)["experiment"] == "widths", error
    now = {artifact.name: artifact.manifest.finished for artifact in store.artifacts()}
    assert {name: now[name] for name in first} == first
    assert built(store).count("pretrain") == 6


def test_what_is_no_pipeline_is_measured_kept_and_reported(prefect_server, config, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    path = tmp_path / "counting.py"
    path.write_text(COUNTING)
    assert [each.built for each in planned(campaign(str(path), config))] == [1] * 9
    outcome = run(path, config)
    assert outcome.artifact.stats["verdict"] == "agree"
    assert outcome.headline == "The figures agree with the claim"
    assert built(Store(tmp_path / "store")) == ["comparison", *["measurement"] * 9]
    assert [each.built for each in planned(campaign(str(path), config))] == [0] * 9
    assert run(path, config).reused
    path.write_text(COUNTING.replace("2 * settings", "3 * settings"))  # other code measures anew
    asked = planned(campaign(str(path), config))
    assert all(each.built == 1 and each.seconds > 0 for each in asked)
    assert not run(path, config).reused
    other = tmp_path / "other.py"
    other.write_text(COUNTING)  # what another experiment's measurements took says nothing of its own
    assert all(each.seconds is None for each in planned(campaign(str(other), config)))

    write_chapter(kept(), tmp_path / "page.html", tmp_path / "RESULTS.md")
    text, page = (tmp_path / "RESULTS.md").read_text(), (tmp_path / "page.html").read_text()
    for wanted in ("Counting is linear.", "exponent", "cores", "hundred"):
        assert wanted in text
        assert wanted in page
    assert "| Counting is quadratic. | Euclid | disagree | [counting](#counting-on-small) |" in text
    assert "Ours: <b>disagree</b>" in page
    assert page.count("<svg") == 4  # the curves, and a picture of each variant


def test_what_a_claim_came_to_on_two_pipelines_is_kept_of_both(prefect_server, write_config, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    path = tmp_path / "counting.py"
    path.write_text(COUNTING)
    for name in ("one", "The/other", ".."):
        run(path, write_config(name=name))
        path.write_text(COUNTING.replace("0.9, 1.1", "2, 3"))
    assert verdicts() == {"counting": {"one": "agree", "The/other": "disagree", "..": "disagree"}}
    write_chapter(kept(), tmp_path / "page.html", tmp_path / "RESULTS.md")
    text, page = (tmp_path / "RESULTS.md").read_text(), (tmp_path / "page.html").read_text()
    assert "[counting](#counting-on-one) | one | agree" in text
    assert "[counting](#counting-on-theother) | The/other | disagree" in text
    for name in ("one", "The/other"):
        assert f"\n## counting on {name}\n" in text
        assert page.count(f'"counting-on-{name}"') == 1
        assert page.count(f'"#counting-on-{name}"') == 1


def test_a_result_of_no_pipeline_is_not_passed_over(tmp_path):
    (tmp_path / "old.json").write_text("{}")
    with pytest.raises(UserError, match=r"old\.json: results lie in a folder of their pipeline; move it"):
        kept(tmp_path)


def test_a_measurement_that_is_not_finite_is_the_worst_of_its_sweep(prefect_server, config, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    path = tmp_path / "counting.py"
    path.write_text(
        COUNTING.replace("measure=measure,", "measure=measure, sweep={'more': [0, 1]},").replace(
            "2 * settings", "(float('inf') if settings['more'] else 2) * settings"
        )
    )
    stats = run(path, config).artifact.stats
    assert [row["diverged"] for row in stats["runs"] if "diverged" in row]
    assert {each["diverged"] for each in stats["variants"].values()} == {"1 of 4"}
    assert {each["point"]["more"] for each in stats["variants"].values()} == {0}


def test_what_was_only_tried_is_kept_apart(prefect_server, config, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    path = tmp_path / "counting.py"
    path.write_text(COUNTING)
    outcome = run(path, config, quick=True)
    assert "only tried" in outcome.headline
    with pytest.raises(UserError, match="there are no results"):
        kept()
    [result] = kept(quick=True)
    assert (result["quick"], len(result["runs"])) == (True, 3)


def test_an_experiment_has_a_page_of_all_its_runs_from_its_first_line_on(
    prefect_server, config, own, monkeypatch, caplog
):
    def build(request, watch, page, suspects):
        page.ended("scrape python-docs", "**built it**", "16 pages")
        raise UserError("that is enough")

    monkeypatch.setattr("flows.service.experiment.build_chain", build)
    with pytest.raises(UserError, match="that is enough"):
        experiment(name=str(own), config=str(config))
    with get_client(sync_client=True) as client:
        wanted = ArtifactFilter(key=ArtifactFilterKey(any_=["experiment-widths-of-small"]))
        pages = client.read_artifacts(artifact_filter=wanted)  # those of other runs on this server among them
    [watch] = [line for line in caplog.messages if line.startswith("Watch: ")]
    [page] = [each for each in pages if watch.endswith(f"/artifacts/artifact/{each.id}")]
    runs = page.data.split("### ")[1:]
    assert runs[0].startswith("width=16, matrix_lr 0.01, seed 0\n")  # what comes next depends on how it goes
    assert "| scrape python-docs | **built it** | 16 pages |" in runs[0]


@pytest.mark.parametrize("shipped", ["configs/demo", "configs/chimera", "experiments/chapter"])
@pytest.mark.parametrize("name", NAMES)
def test_every_run_is_a_configuration_of_its_own(name, shipped):
    config = ROOT / f"{shipped}.yaml"
    asked = campaign(name, config, {"finetune": {"steps": 70}}, seeds=2)
    trials = list(asked.trials(lambda trial: None))
    assert len(trials) >= 2 * len(asked.experiment.variants)
    if asked.experiment.measure is None:
        assert asked.experiment.figure.stage in STAGES
        settled = [trial.request.config.model_dump_json() for trial in trials]
        assert len(set(settled)) == len(settled)


@pytest.mark.parametrize("name", NAMES)
def test_every_claim_can_be_tried_quickly_on_what_the_chapter_is_decided_on(name):
    asked = campaign(name, ROOT / "experiments" / "chapter.yaml", quick=True)
    runs = list(asked.trials(lambda trial: None))
    assert {run.variant for run in runs} == {*asked.experiment.variants} >= {*asked.declared.quick.variants}


@pytest.mark.parametrize("name", [name for name in NAMES if load(name).measure])
def test_what_a_claim_measures_is_planned(config, name):
    asked = campaign(name, config, seeds=1)
    assert {each.built for each in planned(asked)} == {1}


def test_what_makes_a_variant_wins_over_overrides_for_all(config, own):
    own.write_text(yaml.safe_dump({**WIDTHS, "sweep": {}}, sort_keys=False))
    asked = campaign(str(own), config, {"pretrain": {"steps": 9, "model": {"width": 64}}}, seeds=1)
    made = [trial.request.config.pretrain for trial in asked.trials(lambda trial: None)]
    assert [(each.model.width, each.steps) for each in made] == [(16, 9), (32, 9)]


@pytest.mark.parametrize("shipped", ["demo", "chimera"])
def test_variants_differ_in_what_they_are_named_for_whatever_the_configuration(shipped):
    def configs(name):
        trials = campaign(name, ROOT / f"configs/{shipped}.yaml", seeds=1).trials(lambda trial: None)
        return {trial.variant: trial.request.config for trial in trials}

    for vocabulary, run in configs("vocabulary").items():
        assert (run.train_tokenizer.vocab_size, run.train_tokenizer.encoding) == (int(vocabulary), None)
    assert {name: run.pretrain.model.norm for name, run in configs("architecture").items()} == {
        "modern": "rms", "classic": "layer",
    }  # fmt: skip
    assert {name: run.pretrain.optimizer.name for name, run in configs("optimizer").items()} == {
        "muon": "muon", "adamw": "adamw",
    }  # fmt: skip


@pytest.mark.parametrize("shipped", ["demo", "chimera"])
def test_masked_training_alone_takes_as_much_as_pretraining_and_tuning_together(shipped):
    spent, rates = {}, {}
    for trial in campaign("transfer_compute", ROOT / f"configs/{shipped}.yaml", seeds=1).trials(lambda trial: None):
        config = trial.request.config
        spent[trial.variant] = sum(run.steps * run.batch for run in (config.pretrain, config.finetune))
        rates[trial.variant] = config.finetune.optimizer.name, config.finetune.optimizer.embedding_lr
    assert spent == {"pretrained, then masked": 500 * 16, "masked alone": 500 * 16}
    assert rates == {"pretrained, then masked": ("muon", 0.03), "masked alone": ("muon", 0.3)}


def test_a_sweep_goes_on_beyond_its_edge_if_it_is_to(config, own):
    def losses(trial):
        return dict(trial.point)["pretrain.optimizer.matrix_lr"]  # the lower the better, without end

    asked = campaign(str(own), config, extend=True)
    rates = [dict(trial.point)["pretrain.optimizer.matrix_lr"] for trial in asked.trials(losses)]
    assert rates[:8] == [0.01, 0.02, 0.005, 0.0025, 0.00125, 0.000625, 0.000625, 0.01]  # then seed 1, and the other


def test_a_model_of_another_kind_takes_the_place_of_the_configurations_own(write_config, tmp_path):
    config = write_config(pretrain={"steps": 6, "model": {"heads": 2, "width": 32, "context": 32}})
    path = tmp_path / "kinds.yaml"
    models = {"gpt": {"width": 16}, "gru": {"kind": "recurrent", "cell": "gru"}}
    declared = {
        "claim": "c",
        "variants": {name: {"pretrain": {"model": model}} for name, model in models.items()},
        "contrasts": [{"better": "gpt", "than": "gru"}],
        "replaces": ["pretrain.model"],
    }
    path.write_text(yaml.safe_dump(declared))
    runs = [trial.request.config.pretrain for trial in campaign(str(path), config, seeds=1).trials(lambda trial: None)]
    assert [each.model.kind for each in runs] == ["transformer", "recurrent"]
    assert [each.steps for each in runs] == [6, 6]
    preset = PretrainConfig().model
    assert (runs[0].model.heads, runs[0].model.context) == (preset.heads, preset.context)
    for replaces, said in (
        ([], "heads: unknown key of this kind"),
        (["pretrain.modle"], r"pretrain.modle: unknown key; did you mean pretrain.model\?"),
        (["scrape.sources.0"], "scrape.sources.0: unknown key"),
    ):
        path.write_text(yaml.safe_dump({**declared, "replaces": replaces}))
        with pytest.raises(UserError, match=said):
            campaign(str(path), config, seeds=1)


def test_a_sweep_goes_on_downwards_while_all_diverge_and_no_seed_is_lost_on_what_does(config, own):
    def losses(trial):
        rate = dict(trial.point)["pretrain.optimizer.matrix_lr"]
        return 1.0 if rate < 0.003 and trial.variant == "width=16" else math.inf

    asked = campaign(str(own), config, extend=True)
    made = [(t.variant, dict(t.point)["pretrain.optimizer.matrix_lr"], t.seed) for t in asked.trials(losses)]
    narrow, wide = ([run[1:] for run in made if run[0] == f"width={width}"] for width in (16, 32))
    assert narrow == [(0.01, 0), (0.02, 0), (0.005, 0), (0.0025, 0), (0.00125, 0), (0.000625, 0), (0.000625, 1)]
    assert wide == [(0.01, 0), (0.02, 0), (0.005, 0), (0.0025, 0), (0.00125, 0), (0.000625, 0)]


def test_variants_that_come_to_the_same_are_refused(config, own):
    same = {"a": {}, "b": {"pretrain": {"batch": 4}}}
    contrasts = [{"better": "a", "than": "b"}]
    own.write_text(yaml.safe_dump({"claim": "c", "variants": same, "contrasts": contrasts}))
    with pytest.raises(UserError, match="a, seed 0 and b, seed 0 would be the same run"):
        campaign(str(own), config)


def test_a_figure_that_no_run_gives_is_told_after_the_first_one(prefect_server, config, own, tmp_path):
    path = tmp_path / "counting.py"
    path.write_text(COUNTING.replace("between=", "figure='cuont', between="))
    with pytest.raises(UserError, match="counting: measurement gives no figure 'cuont'; it gives count"):
        run(path, config)
    assert built(Store(tmp_path / "store")) == ["measurement"]


def test_mistakes_are_told_before_anything_runs(config):
    with pytest.raises(UserError, match="the experiments are architecture, "):
        campaign("architectur", config)
    with pytest.raises(UserError, match="give 1 or more"):
        campaign("architecture", config, seeds=0)
    with pytest.raises(UserError, match="did you mean"):
        campaign("architecture", config, {"pretrain": {"step": 5}})


def test_the_configuration_of_an_experiment_may_leave_fine_tuning_out(write_config):
    config = write_config(finetune=None)
    assert load_config(config).finetune is None
    trials = campaign("architecture", config, seeds=1).trials(lambda trial: None)
    assert all(trial.request.config.finetune is None for trial in trials)


@pytest.mark.slow
def test_a_rate_at_which_training_diverges_is_the_worst_of_its_sweep(prefect_server, config, own, tmp_path, caplog):
    sweep = {"pretrain.optimizer.lr": [1e-3, 1e30]}
    settings = {"pretrain": {"optimizer": {"name": "adamw"}}}
    own.write_text(yaml.safe_dump({**WIDTHS, "sweep": sweep, "settings": settings}, sort_keys=False))
    outcome = run(own, config)
    variants, runs = outcome.artifact.stats["variants"], outcome.artifact.stats["runs"]
    assert [each["point"]["pretrain.optimizer.lr"] for each in variants.values()] == [1e-3, 1e-3]
    assert [each["diverged"] for each in variants.values()] == ["1 of 3", "1 of 3"]
    assert [row["diverged"][:20] for row in runs if "diverged" in row] == ["the loss became nan "] * 2
    assert "width=16, lr 1e+30, seed 0 diverged, and counts as the worst" in caplog.text
    page = (outcome.artifact.path / "index.html").read_text()
    assert "1 of 3" in page
    write_chapter(kept(), tmp_path / "page.html", tmp_path / "RESULTS.md")
    assert "| 1 of 3 |" in (tmp_path / "RESULTS.md").read_text()


@pytest.mark.slow
def test_experiments_of_each_kind_run_as_deployed(service, tmp_path):
    """In a store of its own, because what they build is what other tests of a service expect to build."""
    store, names = tmp_path / "store", ["bpe_work", "optimizer", "transfer"]
    for name in names:
        run = service.start(f"experiment/{name}", {"store": str(store)}, quick=True)
        service.wait(run, "Completed", seconds=600)
    compared = [artifact for artifact in Store(store).artifacts() if artifact.manifest.stage == "comparison"]
    assert sorted(artifact.stats["claim"] for artifact in compared) == sorted(load(name).claim for name in names)


@pytest.mark.slow
def test_models_of_different_text_are_judged_by_the_same_text_which_none_trains_on(
    prefect_server, write_config, tmp_path, monkeypatch
):
    """As `textmill experiment run data` does it, with models of seconds."""
    monkeypatch.chdir(tmp_path)
    config = write_config(prepare={"validation_fraction": 0.5})
    sizes = {"small": 16, "large": 32}
    kinds = {"as it is": {}, "by looks": {"prepare": {"extractor": {"kind": "article"}}},
             "the same": {"prepare": {"limits": {"page_bytes": 9_000_000}}}}  # fmt: skip
    path = tmp_path / "texts.yaml"
    variants = {
        f"{kind} {size}": {**settings, "pretrain": {"model": {"width": width}}}
        for size, width in sizes.items()
        for kind, settings in kinds.items()
    }
    ranking = {size: [f"{kind} {size}" for kind in kinds] for size in sizes}
    declared = {"claim": "c.", "variants": variants, "contrasts": [ranking], "figure": {"held_out": "as it is small"}}
    path.write_text(yaml.safe_dump({**declared, "seeds": 1}, sort_keys=False))
    outcome = run(path, config)

    store = Store(tmp_path / "store")
    stages = [artifact.manifest.stage for artifact in store.artifacts()]
    assert (stages.count("held_out"), stages.count("evaluation"), stages.count("pretrain")) == (1, 4, 4)
    stats = outcome.artifact.stats
    [judgement] = stats["judgements"]
    assert judgement["numbers"]["pairs"] == 1  # the two of the same text count as one
    ranked = judgement["numbers"]["ranking"]
    assert sum(row["same_run"] for row in ranked) == 2
    assert all(row["by_source"]["python-docs"] == pytest.approx(row["at_large"]) for row in ranked)
    work = stats["work"]
    assert 0 < work["built"] < work["alone"]
    assert work["variants"]["the same large"]["built"] == 0  # all of its stages were there by then
    text, page = tmp_path / "RESULTS.md", tmp_path / "page.html"
    write_chapter(kept(), page, text)
    for wanted in (
        "the same text, so the same run",
        "so the cache saved",
        "documents that no variant trains",
        "rank at the small size",
    ):
        assert wanted in text.read_text()
        assert wanted in page.read_text()
    assert run(path, config).reused


def test_what_a_pipeline_says_of_its_text_makes_the_variants(write_config, tmp_path):
    (tmp_path / "news.jsonl").write_text('{"text": "Some news."}\n')
    there = {"path": str(tmp_path / "news.jsonl"), "name": "news"}
    gone = {"path": str(tmp_path / "no.jsonl"), "name": "gone", "required": False}
    config = write_config(ingest=[there, gone])
    trials = campaign("data", config, seeds=1).trials(lambda trial: None)
    settled = {trial.variant: trial.request.config for trial in trials}
    assert [each.name for each in settled["without news, small"].ingest] == ["gone"]
    assert settled["without python-docs, small"].scrape.sources == []
    weights = {name: source.weight for name, source in settled["mostly news, large"].pretrain.mixture.items()}
    assert weights == {"python-docs": 0.25, "gone": 0, "news": 0.75}
    assert "without gone, small" not in settled
    assert settled["all text of pages, small"].prepare.extractor.selector == "body"


def test_data_are_judged_by_models_of_their_own_whatever_the_configuration_trains(write_config):
    def runs(**pretrain):
        config = write_config(pretrain=pretrain)
        trials = campaign("data", config, seeds=1).trials(lambda trial: None)
        return [trial.request.config.pretrain.model_dump(exclude={"mixture", "device"}) for trial in trials]

    network = {"kind": "recurrent", "cell": "gru", "width": 48}
    others = runs(model=network, steps=7, batch=3, train_share=0.5, device="cpu")
    assert others == runs(preset="nano-fast", objective="masked")
    assert {made["steps"] for made in others} == {160}


def test_data_are_judged_on_the_mixture_of_the_configuration(write_config):
    config = write_config(pretrain={"mixture": {"python-docs": {"max_tokens": 99}}})
    first = next(campaign("data", config, seeds=1).trials(lambda trial: None))
    assert first.request.config.pretrain.mixture["python-docs"].max_tokens == 99
