"""The whole chain on a real site, a real Prefect server and real models, small: what is built, reused, and why."""

from __future__ import annotations

import html
import json
import logging
import os
import re
import shutil
import subprocess
import time
from collections.abc import Iterator

import pytest
import yaml
from prefect import flow
from prefect.client.orchestration import get_client
from prefect.client.schemas.filters import (
    ArtifactFilter,
    ArtifactFilterId,
    ArtifactFilterKey,
    FlowRunFilter,
    FlowRunFilterId,
    LogFilter,
    LogFilterFlowRunId,
)
from prefect.client.schemas.sorting import FlowRunSort
from pydantic import BaseModel

from flows.engine.assess import identify
from flows.engine.stage import Outcome, Stage
from flows.pipeline.chain import STAGES
from flows.pipeline.config import load_config
from flows.pipeline.gc import garbage
from flows.pipeline.plan import plan
from flows.pipeline.request import RunRequest
from flows.pipeline.selection import Selection
from flows.service.building import Builder, build_chain
from flows.service.flows import pipeline, stage_flow, start_run
from flows.service.verify import verify
from flows.service.watching import pages
from flows.service.watching.live import Watch
from flows.service.watching.pages import RunPage
from flows.service.watching.progress import LOG_SECONDS
from flows.store.fingerprint import digest
from flows.store.local import Store
from scraping.collections.config import IngestConfig
from scraping.crawling.source import Source, load_source
from textmill.errors import Unavailable, UserError
from textmill.kernels import compiling

# and the small pipeline has none of them
ASKED_FOR = ("ingest", "import_checkpoint", "pairs", "text_pairs", "questions", "answering")
BUILT = [name for name in STAGES if name not in ASKED_FOR]


@pytest.fixture(scope="module")
def finished(tmp_path_factory, prefect_server, small_config):
    """The store of a finished run, to copy."""
    folder = tmp_path_factory.mktemp("finished")
    assert run(small_config(folder)) == dict.fromkeys(BUILT, "built")
    return folder / "store"


@pytest.fixture
def store(finished, config, tmp_path):
    """A copy of the finished store, at the place that `config` names."""
    shutil.copytree(finished, tmp_path / "store")
    return Store(tmp_path / "store")


@pytest.fixture
def read_only_store(store) -> Iterator[Store]:
    """The same on a read-only mount, where root may not write either."""
    if os.geteuid() == 0:
        if subprocess.run(["mount", "-o", "bind,ro", store.root, store.root], check=False).returncode:
            pytest.skip("this root may not mount, and modes of files do not stop it")
        yield store
        subprocess.run(["umount", "--lazy", store.root], check=True)
    else:
        paths = [store.root, *store.root.rglob("*")]
        for path in paths:
            path.chmod(path.stat().st_mode & ~0o222)
        yield store
        for path in paths:
            path.chmod(path.stat().st_mode | 0o200)


def run(config, flow=pipeline, overrides=None, **parameters) -> dict[str, str]:
    state = flow(config=str(config), overrides=overrides, **parameters, return_state=True)
    return {outcome.stage.name: "reused" if outcome.reused else "built" for outcome in state.result()}


def build_alone(config, stage, settings) -> None:
    """Visit this stage, inside a flow."""
    with Builder(RunRequest.load(config), Watch(), RunPage([])) as builder:
        builder(stage, settings)


def rebuilt(outcomes: dict[str, str]) -> list[str]:
    return [stage for stage, outcome in outcomes.items() if outcome == "built"]


def artifact_of(store: Store, stage: str):
    return next(artifact for artifact in store.artifacts() if artifact.manifest.stage == stage)


def test_every_stage_leaves_what_the_next_ones_and_a_reader_need(store):
    stats = {artifact.manifest.stage: artifact.stats for artifact in store.artifacts()}
    assert list(stats) == BUILT
    assert stats["scrape"]["pages"] == 16
    assert stats["prepare"]["documents"] > 0
    assert stats["pretrain"]["unigram_entropy"] > 3
    assert 0 <= stats["finetune"]["masked_accuracy"] <= 1
    page = html.unescape((artifact_of(store, "report").path / "index.html").read_text())
    blank = stats["finetune"]["sample_filled"]
    for wanted in ("python-docs", "unigram entropy", "bytes per token", "validation loss", blank):
        assert wanted in page, wanted
    assert page.count("<svg") == 5  # losses and attention of two models, and the curve of the vocabulary


def test_manifests_tell_where_everything_came_from(store):
    report = artifact_of(store, "report").manifest
    assert report.pipeline == "small"
    assert [entry.stage for entry in report.inputs["pretrained"]] == ["pretrain"]
    tokens = artifact_of(store, "pretokenize").manifest.files
    assert tokens["train-00000.bin"].count == artifact_of(store, "pretokenize").stats["train"]["tokens"]


def test_the_log_of_a_run_tells_what_was_done_and_nothing_of_the_libraries_below(finished):
    with get_client(sync_client=True) as client:
        runs = client.read_flow_runs(sort=FlowRunSort.START_TIME_DESC, limit=200)  # else any 200 of them
        built = next(run for run in runs if run.state.message == f"{len(BUILT)} built, 0 reused")
        of_run = LogFilter(flow_run_id=LogFilterFlowRunId(any_=[built.id]))
        deadline = time.monotonic() + 120
        text = ""
        while built.state.message not in text:
            assert time.monotonic() < deadline, text  # lines are sent every two seconds
            lines = client.read_logs(of_run, limit=200)
            text = "\n".join(line.message for line in lines)
    for stage in BUILT:
        assert f"{stage}/" in text, stage  # where it is
    lines = [line for line in lines if line.name != compiling.__name__]  # once for an installation, as a warning
    assert [line.message for line in lines if line.level != logging.INFO] == []
    ours = {"prefect", "flows", "scraping", "tokenization", "modeling"}
    assert {line.name.partition(".")[0] for line in lines} <= ours
    progress = built.total_run_time.total_seconds() / LOG_SECONDS  # lines that a slow machine adds
    assert len(lines) < 5 * len(BUILT) + progress


def test_a_second_run_reuses_every_stage_and_says_so_in_prefect(store, config):
    assert run(config) == dict.fromkeys(BUILT, "reused")
    with get_client(sync_client=True) as client:
        flow_run = client.read_flow_runs(limit=1, sort="START_TIME_DESC")[0]
        task_runs = client.read_task_runs(
            flow_run_filter=FlowRunFilter(id=FlowRunFilterId(any_=[flow_run.id])), sort="EXPECTED_START_TIME_DESC"
        )
    assert flow_run.name == "small"
    assert {task_run.state_name for task_run in task_runs} == {"Cached"}
    assert "scrape python-docs" in {task_run.name for task_run in task_runs}


def test_a_store_that_cannot_be_written_serves_what_builds_nothing(read_only_store, config):
    before = sorted(read_only_store.root.rglob("*"))
    assert run(config) == dict.fromkeys(BUILT, "reused")
    assert run(config, stage_flow("pretrain")) == {"pretrain": "reused"}
    assert read_only_store.file_digest(config) == read_only_store.file_digest(config)
    with pytest.raises(UserError, match=rf"^the store {read_only_store.root} cannot be written \("):
        run(config, overrides={"pretrain": {"steps": 13}})
    assert sorted(read_only_store.root.rglob("*")) == before


@pytest.mark.slow
def test_commands_on_a_store_that_cannot_be_written(read_only_store, config, write_config, textmill):
    model = artifact_of(read_only_store, "pretrain").path

    def told(*arguments) -> tuple[int, str]:
        process = textmill(*arguments)
        out, err = process.communicate(timeout=240)
        assert "Traceback" not in err
        return process.returncode, out or err

    for arguments, expected in [
        (["run", config], "reused"),
        (["run", config, "--verify"], "reused"),
        (["run", config, "--dry-run"], "reuse"),
        (["status", config], "would reuse"),
        (["verify", config], "every file is what was sealed"),
        (["gc", config, "--dry-run"], "would be freed"),
        (["generate", model, "Hello"], "Hello"),
    ]:
        code, said = told(*arguments)
        assert (code, expected in said) == (0, True), (arguments, said)
    for arguments in (["--set", "pretrain.steps=13"], ["--force", "report"]):
        code, said = told("run", config, *arguments)
        assert code == 2
        assert said.startswith(f"textmill: the store {read_only_store.root} cannot be written (")
        assert said.count("\n") == 1
    code, said = told("gc", write_config(pretrain={"steps": 13}))
    assert code == 2
    assert said.startswith(f"textmill: {read_only_store.root}/")
    assert "may not be written" in said and said.count("\n") == 1


def test_a_changed_pretrain_setting_rebuilds_pretrain_and_what_follows(store, config):
    changed = {"pretrain": {"steps": 13}}
    planned = {step.stage: (step.action, step.reason) for step in plan(load_config(config, changed))}
    assert planned["pretokenize"][0] == "reuse"
    assert planned["pretrain"] == ("build", "steps: 12 → 13")
    assert planned["finetune"][0] == planned["report"][0] == "build?"
    assert rebuilt(run(config, overrides=changed)) == ["pretrain", "finetune", "report"]
    assert rebuilt(run(config)) == []  # the old artifacts are still there


def test_a_forced_stage_that_comes_out_the_same_rebuilds_nothing_after_it(store, config):
    assert rebuilt(run(config, force=["pretokenize"])) == ["pretokenize"]


def test_from_a_stage_onward(store, config):
    assert rebuilt(run(config, start="pretokenize")) == ["pretokenize", "pretrain", "finetune", "report"]


def test_an_unchanged_site_crawled_again_costs_nothing_after_the_crawl(store, config):
    before = artifact_of(store, "scrape")
    assert rebuilt(run(config, force=["scrape"])) == ["scrape"]
    after = artifact_of(store, "scrape")
    assert after.stats["changes"]["unchanged"] == after.stats["pages"] == before.stats["pages"]
    assert after.manifest.finished > before.manifest.finished
    assert not list(garbage(store, [load_config(config)]))


@pytest.mark.parametrize("stage", ["prepare", "pretokenize", "finetune"])
def test_a_deleted_or_truncated_file_rebuilds_that_artifact_only(store, config, stage):
    artifact = artifact_of(store, stage)
    victim = artifact.path / max(artifact.manifest.files, key=lambda name: artifact.manifest.files[name].size)
    if stage == "prepare":
        victim.unlink()
    else:
        victim.write_bytes(victim.read_bytes()[:-7])
    assert rebuilt(run(config)) == [stage]
    assert artifact_of(store, stage).digest == artifact.digest


def test_the_flow_verify_fails_with_the_list_of_what_is_damaged_of_a_configuration_or_a_store(store, config):
    found = verify(str(config), return_state=True)
    assert found.name == "Completed" and "7 artifacts" in found.message
    artifact = artifact_of(store, "pretokenize")
    victim = artifact.path / "train-00000.bin"
    victim.write_bytes(victim.read_bytes()[::-1])
    for failed in (verify(str(config), return_state=True), verify(store=str(store.root), return_state=True)):
        assert failed.name == "Failed"
        assert f"{artifact.location}: train-00000.bin has been altered" in failed.message
        assert "--verify" in failed.message
    with get_client(sync_client=True) as client:
        wanted = ArtifactFilter(key=ArtifactFilterKey(like_="verify-%"))
        pages = [str(page.data) for page in client.read_artifacts(artifact_filter=wanted, sort="CREATED_DESC", limit=9)]
    assert any("train-00000.bin has been altered" in page for page in pages)


def test_a_run_is_named_after_its_configuration_and_a_stage_alone_with_its_sites(store, config, tmp_path):
    run(config, stage_flow("scrape"))
    run(config, stage_flow("prepare"))
    with pytest.raises(UserError):  # named before it is found that this site is not there
        run(config, stage_flow("scrape"), {"scrape": {"sources": [str(tmp_path / "nowhere.yaml")]}})
    with get_client(sync_client=True) as client:
        names = [flow_run.name for flow_run in client.read_flow_runs(limit=3, sort="START_TIME_DESC")]
    assert names == ["scrape of small", "prepare of small", "scrape python-docs of small"]


def test_crawls_of_different_sites_have_timelines_of_their_own(prefect_server, config, monkeypatch):
    monkeypatch.setenv("TEXTMILL_CONTACT", "https://example.org")
    monkeypatch.setattr("flows.service.building.build_chain", lambda *_: [])
    for sources in (["python-docs"], ["umb"]):
        stage_flow("scrape")(config=str(config), sources=sources)
    keys = ["run-of-scrape-python-docs-of-small", "run-of-scrape-umb-of-small"]
    with get_client(sync_client=True) as client:
        pages = client.read_artifacts(artifact_filter=ArtifactFilter(key=ArtifactFilterKey(any_=keys)))
    assert {page.key for page in pages} == set(keys)


@flow
def in_a_flow(request: RunRequest) -> list[Outcome]:
    with Watch() as watch:
        return build_chain(request, watch, RunPage(request.steps))


def alter(artifact) -> None:
    """Other bytes of the same size in the largest file."""
    victim = artifact.path / max(artifact.manifest.files, key=lambda name: artifact.manifest.files[name].size)
    victim.write_bytes(victim.read_bytes()[::-1])


@pytest.mark.parametrize("damaged", ["scrape", "prepare", "train_tokenizer"])
def test_altered_bytes_are_built_again_before_anything_is_made_of_them(store, config, damaged):
    before = {stage: artifact_of(store, stage).digest for stage in ("scrape", "prepare", "pretokenize")}
    alter(artifact_of(store, damaged))
    reader = {"scrape": "prepare"}.get(damaged, "pretokenize")
    request = RunRequest.load(config, selection=Selection(force=frozenset([reader]), until="pretokenize"))
    outcomes = {outcome.stage.name: outcome for outcome in in_a_flow(request)}
    assert [stage for stage, outcome in outcomes.items() if not outcome.reused] == [damaged, reader]
    assert list(outcomes) == ["scrape", "prepare", "train_tokenizer", "pretokenize"]
    assert {stage: artifact_of(store, stage).digest for stage in before} == before
    assert artifact_of(store, damaged).damage(verify=True) is None


def test_a_stage_alone_names_its_damaged_input_and_how_to_build_it(store, config):
    alter(artifact_of(store, "prepare"))
    state = stage_flow("train_tokenizer")(config=str(config), force=True, return_state=True)
    with pytest.raises(UserError) as error:
        state.result()
    told = str(error.value)
    assert "train_tokenizer alone needs prepare python-docs, which is damaged (" in told
    assert ".parquet has been altered" in told
    assert f"textmill run {config} --only prepare --verify" in told
    assert rebuilt(run(config, stage_flow("prepare"), verify=True)) == ["prepare"]
    assert rebuilt(run(config, stage_flow("train_tokenizer"), force=True)) == ["train_tokenizer"]


def test_one_stage_alone_uses_what_is_in_the_store(store, config):
    changed = {"train_tokenizer": {"vocab_size": 500}}
    assert rebuilt(run(config, stage_flow("train_tokenizer"), changed)) == ["train_tokenizer"]
    assert run(config, stage_flow("pretrain"), force=True) == {"pretrain": "built"}


def test_one_stage_with_what_is_missing_builds_that_and_nothing_after(store, config):
    shutil.rmtree(store.root / "pretokenize")
    shutil.rmtree(store.root / "finetune")
    flow = stage_flow("train_tokenizer")
    assert run(config, flow, build_missing=True).keys() == {"scrape", "prepare", "train_tokenizer"}
    outcomes = run(config, stage_flow("pretrain"), steps=7, build_missing=True)
    assert list(outcomes) == ["scrape", "prepare", "train_tokenizer", "pretokenize", "pretrain"]
    assert rebuilt(outcomes) == ["pretokenize", "pretrain"]


def test_a_run_from_the_terminal_has_the_parameters_that_its_form_would_send(store, config):
    overrides = {"train_tokenizer": {"vocab_size": 500}, "name": "other"}
    selection = Selection(only="train_tokenizer", build_missing=True, verify=True)
    start_run(RunRequest.load(config, overrides, selection))
    with get_client(sync_client=True) as client:
        [latest] = client.read_flow_runs(sort=FlowRunSort.START_TIME_DESC, limit=1)
    assert latest.parameters == {
        "config": str(config), "vocab_size": 500, "overrides": {"name": "other"},
        "force": False, "build_missing": True, "verify": True,
    }  # fmt: skip
    again = stage_flow("train_tokenizer")(**latest.parameters, return_state=True).result()
    assert all(outcome.reused for outcome in again)


def test_a_stage_with_what_is_missing_takes_a_snapshot_however_old(store, write_config, tmp_path):
    site = tmp_path / "python-docs.yaml"
    old = {"max_age": "PT0S"}
    site.write_text(yaml.safe_dump(load_source("python-docs").model_dump(mode="json") | old))
    config = load_config(write_config(scrape={"sources": [str(site)]}))
    assert plan(config)[0].action == "build"
    selection = Selection(only="prepare", build_missing=True)
    assert [step.action for step in plan(config, selection)] == ["reuse", "reuse"]


def test_a_stage_alone_asks_for_what_it_is_made_from_and_nothing_else(store, write_config, tmp_path):
    (tmp_path / "lines.jsonl").write_text('{"text": "A line that anybody can read."}\n')
    pairs = {"pairs": {}, "ingest": {"path": str(tmp_path / "lines.jsonl"), "required": False}}
    config = load_config(write_config(**pairs, store=str(tmp_path / "empty")))
    assert [step.stage for step in plan(config, Selection(only="ingest"))] == ["ingest"]
    with pytest.raises(UserError, match="prepare alone needs scrape python-docs, which is not in the store") as refused:
        plan(config, Selection(only="prepare"))
    for way_in in ("textmill run CONFIG --only scrape,", "the deployment scrape/scrape)", "--build-missing"):
        assert way_in in str(refused.value)
    assert len(str(refused.value).splitlines()) == 1
    asked = [step.stage for step in plan(load_config(write_config(pairs={})), Selection(only="pretrain"))]
    assert asked == ["scrape", "prepare", "train_tokenizer", "pretokenize", "pretrain"]
    with pytest.raises(UserError, match="the configuration has no pairs: give it a section `pairs`"):
        plan(load_config(write_config()), Selection(only="pairs"))
    optional = load_config(write_config(ingest=pairs["ingest"]))
    [ingest] = [step for step in plan(optional, Selection(only="prepare")) if step.stage == "ingest"]
    assert (ingest.action, ingest.reason) == ("skip", "not in the store, and not required")


def test_the_first_crawl_of_a_source_and_what_follows_are_not_built_yet_whatever_other_sources_there_are(
    store, write_config, tmp_path
):
    site = tmp_path / "other-docs.yaml"
    site.write_text(yaml.safe_dump(load_source("python-docs").model_dump(mode="json") | {"name": "other-docs"}))
    both = load_config(write_config(scrape={"sources": ["python-docs", str(site)]}))
    planned = {step.title: (step.action, step.reason) for step in plan(both)}
    first = ("build", "not built yet")
    assert planned["scrape other-docs"] == planned["prepare other-docs, python-docs"] == first
    assert planned["train_tokenizer 600 tokens"] == planned["report"] == first
    assert planned["scrape python-docs"][0] == "reuse"


def test_a_contact_is_asked_for_only_where_something_is_crawled(store, write_config, tmp_path, monkeypatch):
    monkeypatch.delenv("TEXTMILL_CONTACT", raising=False)
    declared = load_source("python-docs").model_dump(mode="json")
    site = tmp_path / "python-docs.yaml"
    site.write_text(yaml.safe_dump(declared))
    config = load_config(write_config(scrape={"sources": [str(site)]}))
    assert {step.action for step in plan(config)} == {"reuse"}
    site.write_text(yaml.safe_dump(declared | {"contact": "$TEXTMILL_CONTACT"}))
    anonymous = load_config(write_config(scrape={"sources": [str(site)]}, store=str(tmp_path / "empty")))
    with pytest.raises(UserError, match="set TEXTMILL_CONTACT"):
        plan(anonymous)
    with pytest.raises(UserError, match="pretrain alone needs scrape"):
        plan(anonymous, Selection(only="pretrain"))


def test_an_improved_extractor_reads_the_kept_pages_again_and_does_not_crawl(store, config, monkeypatch):
    from scraping.crawling.source import load_source
    from scraping.extraction.config import ArticleExtractor

    changed = load_source("python-docs").model_copy(update={"extractor": ArticleExtractor()})
    monkeypatch.setattr("flows.pipeline.config.load_source", lambda name: changed)
    assert [step.stage for step in plan(load_config(config)) if step.action == "build"] == ["prepare"]


def test_openwebtext_that_cannot_be_had_is_skipped_where_the_configuration_allows_it(
    store, write_config, tmp_path, caplog
):
    for path in (str(tmp_path / "nowhere"), "http://127.0.0.1:9/openwebtext.tar.xz"):
        optional = write_config(ingest={"path": path, "required": False})
        actions = {step.stage: step.action for step in plan(load_config(optional))}
        assert actions == {"ingest": "skip"} | dict.fromkeys(BUILT, "reuse")
        assert rebuilt(run(optional)) == []
        assert "is left out" in caplog.text
        caplog.clear()
    required = write_config(ingest={"path": str(tmp_path / "nowhere")})
    with pytest.raises(UserError, match="nowhere"):
        run(required)


def test_an_optional_data_set_that_is_there_but_cannot_be_read_is_not_left_out(config, prefect_server, tmp_path):
    (tmp_path / "lines.jsonl").write_text('{"text": "A line that anybody can read."}\n')
    settings = IngestConfig(path=str(tmp_path / "lines.jsonl"), text_column="body", required=False)

    @flow
    def one_stage():
        return build_alone(config, STAGES["ingest"], settings)

    with pytest.raises(UserError, match="body"):
        one_stage()


def test_ingested_documents_join_the_corpus_wherever_their_files_lie(store, write_config, tmp_path):
    import pyarrow as pa
    import pyarrow.parquet as pq

    texts = [
        f"Document {i} says that {i} times {i} is {i * i}, which anybody can check by hand. " * 8 for i in range(40)
    ]
    (tmp_path / "here").mkdir()
    pq.write_table(pa.table({"text": texts}), tmp_path / "here" / "data.parquet")
    config = write_config(ingest={"path": str(tmp_path / "here")})
    assert rebuilt(run(config, stage_flow("ingest"))) == ["ingest"]
    assert artifact_of(store, "ingest").stats["documents"] == 40
    (tmp_path / "here").rename(tmp_path / "there")
    moved = load_config(write_config(ingest={"path": str(tmp_path / "there")}))
    assert next(step.action for step in plan(moved) if step.stage == "ingest") == "reuse"


@pytest.mark.slow
def test_fine_tuning_on_pairs_of_sentences_where_the_configuration_asks_for_it(store, write_config, textmill):
    paired = write_config(pairs={"negatives": 0.25})
    assert rebuilt(run(paired)) == ["pairs", "finetune", "report"]
    assert rebuilt(run(paired)) == []
    assert rebuilt(run(paired, stage_flow("pairs"), force=True)) == ["pairs"]
    made, tuned, report = (list(store.artifacts(stage))[-1] for stage in ("pairs", "finetune", "report"))
    counts = {name: file.count for name, file in made.manifest.files.items()}
    assert counts["train-00000.pairs"] == made.stats["train"]["pairs"] > 100
    assert counts["train-00000.idx"] == made.stats["train"]["sentences"]
    assert counts["train-00000.bin"] == made.stats["train"]["tokens"]
    assert 0.65 < made.stats["validation"]["next"] / made.stats["validation"]["pairs"] < 0.85
    assert [entry.stage for entry in tuned.manifest.inputs["tokens"]] == ["pairs"]
    told = f"{tuned.stats['next_sentence_accuracy']:.4g}"
    assert told in html.unescape((report.path / "index.html").read_text())
    judged, _ = textmill("next-sentence", tuned.path, "Lists change.", "They grow.", "Snakes shed skin.").communicate()
    assert [line.split("%  ")[1] for line in judged.splitlines()] == ["They grow.", "Snakes shed skin."]


@pytest.mark.slow
def test_an_encoder_decoder_learns_hidden_spans_and_pairs_up_to_the_report(store, write_config, tmp_path):
    rows = [{"source": f"list {number}", "target": f"lists {number}"} for number in range(40)]
    (tmp_path / "pairs.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    model = {"kind": "encoder-decoder", "layers": 1, "width": 32, "heads": 2, "context": 32}
    pairs = {"paths": [str(tmp_path / "pairs.jsonl")]}

    def page_of(**sections) -> tuple[list[str], str]:
        outcomes = run(write_config(pretrain={"model": model}, **sections))
        newest = max(store.artifacts("report"), key=lambda artifact: artifact.manifest.finished)
        return rebuilt(outcomes), html.unescape((newest.path / "index.html").read_text())

    built, page = page_of(finetune=None)
    assert built == ["train_tokenizer", "pretokenize", "pretrain", "report"]
    assert "It writes" in page and "unigram entropy" in page and "target token" not in page
    built, page = page_of(finetune=None, text_pairs={**pairs, "use": "pretrain"})
    assert built == ["text_pairs", "pretrain", "report"]
    assert "To the source 'The' it writes" in page and "It writes" not in page
    assert "nats a target token, 38 pairs" in page and "(unigram entropy" not in page
    built, page = page_of(text_pairs={**pairs, "use": "finetune"})
    assert built == ["finetune", "report"]
    assert "finetune 6 steps" in page and "finetune masked" not in page
    assert "It writes" in page and "To a source it writes" in page and "(the target is: lists " in page


def test_data_sets_at_different_addresses_are_different_inputs(config, tmp_path):
    store = Store(tmp_path / "store")
    addresses = ["https://example.org/a.tar.xz", "https://example.org/b.tar.xz", "hf://datasets/example/texts"]
    identities = [identify(STAGES["ingest"], IngestConfig(path=path), {}, store) for path in addresses]
    assert len({digest(identity) for identity in identities}) == 3


def test_figures_of_a_finished_stage_are_on_its_page(store, config):
    run(config, stage_flow("train_tokenizer"), force=True)
    with get_client(sync_client=True) as client:
        shown = client.read_artifacts(sort="CREATED_DESC", limit=20)
    page = next(artifact for artifact in shown if artifact.key == "tokenizer-of-small")
    assert "| vocab_size | 600 |" in page.data
    assert json.dumps(artifact_of(store, "prepare").manifest.fingerprint).strip('"') in page.data


def test_a_run_links_an_artifact_to_its_own_page_where_its_timeline_has_newer_ones(store, config, monkeypatch):
    def linked() -> str:
        """Where the page of a run that reuses everything says that its tokenizer is."""
        assert rebuilt(run(config)) == []
        with get_client(sync_client=True) as client:
            wanted = ArtifactFilter(key=ArtifactFilterKey(any_=["run-of-small"]))
            [page] = client.read_artifacts(artifact_filter=wanted, sort="CREATED_DESC", limit=1)
        return re.search(r"\[train_tokenizer 600 tokens\]\((\S+)\)", page.data)[1]

    ours = artifact_of(store, "train_tokenizer")
    for vocab_size in (600, 500):
        run(config, stage_flow("train_tokenizer"), {"train_tokenizer": {"vocab_size": vocab_size}}, force=True)
    place, _, page = linked().rpartition("/")
    assert place == "/artifacts/artifact"
    with get_client(sync_client=True) as client:
        [shown] = client.read_artifacts(artifact_filter=ArtifactFilter(id=ArtifactFilterId(any_=[page])))
    assert f"`{ours.location}`" in shown.data and "| vocab_size | 600 |" in shown.data
    monkeypatch.setattr(pages, "NEWEST_PAGES", 1)
    assert linked() == "/artifacts/key/tokenizer-of-small"


class Nothing(BaseModel):
    pass


@pytest.mark.parametrize(
    ("name", "settings"),
    [
        ("ingest", IngestConfig(path="http://127.0.0.1:9/openwebtext.tar.xz")),
        (
            "scrape",
            Source(
                name="gone", start=["http://127.0.0.1:9/"], contact="me@example.org", private_addresses=True,
                delay=0, backoff=0.05,
            ),
        ),
    ],
)  # fmt: skip
def test_a_site_or_a_data_set_that_cannot_be_reached_is_tried_again(
    config, prefect_server, monkeypatch, caplog, name, settings
):
    monkeypatch.setattr("flows.service.building.RETRY_SECONDS", 0.05)

    @flow
    def one_stage():
        return build_alone(config, STAGES[name], settings)

    with pytest.raises(Unavailable, match=r"127\.0\.0\.1"):
        one_stage()
    assert [f"Retry {number}/2" in caplog.text for number in (1, 2)] == [True, True]


@pytest.mark.parametrize(
    ("error", "attempts"), [(ConnectionError("the network is away"), 3), (UserError("no such site"), 1)]
)
def test_failures_of_the_outside_world_are_tried_again_and_mistakes_are_not(
    config, prefect_server, monkeypatch, caplog, error, attempts
):
    seen = []

    class Failing(Stage[Nothing]):
        name = "scrape"
        version = 1
        retries = 2

        def build(self, job):
            seen.append(job)
            raise error

        def headline(self, stats):
            return "never"

    monkeypatch.setattr("flows.service.building.RETRY_SECONDS", 0.05)

    @flow
    def one_stage():
        return build_alone(config, Failing(), Nothing())

    with pytest.raises(type(error), match=str(error)):
        one_stage()
    assert len(seen) == attempts
    assert ("Traceback" in caplog.text) == (attempts > 1)  # a bug or an outage shows where; a mistake is one line
