"""`textmill gc` keeps what configurations refer to; `textmill reproduce` gets a configuration back from an artifact."""

from __future__ import annotations

import fcntl
import os
import time
from pathlib import Path

import pytest
import yaml

from flows.pipeline.config import load_config
from flows.pipeline.gc import garbage
from flows.pipeline.plan import plan
from flows.service.flows import pipeline, stage_flow
from flows.store.local import Store


@pytest.fixture(scope="module")
def trained(tmp_path_factory, prefect_server, small_config):
    """A finished run of the small pipeline, and one of its pretraining with other settings."""
    folder = tmp_path_factory.mktemp("trained")
    config = small_config(folder, name="small")
    pipeline(config=str(config), return_state=True).result()
    stage_flow("pretrain")(config=str(config), steps=7, return_state=True).result()
    return config


@pytest.fixture
def command(textmill):
    def run(*arguments) -> tuple[int, str, str]:
        process = textmill(*arguments)
        out, err = process.communicate(timeout=120)
        return process.returncode, out, err

    return run


def artifacts(config: Path, stage: str):
    return [a for a in Store(config.parent / "store").artifacts() if a.manifest.stage == stage]


def test_what_no_configuration_refers_to_is_listed_and_then_deleted(trained, command):
    store = Store(trained.parent / "store")
    wanted, other = artifacts(trained, "pretrain")
    interrupted = store.workdir("pretrain", "0123456789abcdef")
    (interrupted / "checkpoints").mkdir(parents=True)
    code, out, err = command("gc", trained, "--dry-run")
    assert code == 0, err
    listed = [line.split()[0] for line in out.splitlines()[:-1]]
    assert sorted(listed) == sorted([str(other.path), str(interrupted)])
    assert other.path.exists()

    busy = (store.root / "pretrain" / ".lock-0123456789abcdef").open("w")  # somebody builds there
    fcntl.flock(busy, fcntl.LOCK_EX)
    assert command("gc", trained)[0] == 0
    assert interrupted.exists()
    assert not other.path.exists()
    busy.close()
    assert command("gc", trained)[0] == 0
    assert not interrupted.exists()
    assert {step.action for step in plan(load_config(trained))} == {"reuse"}
    assert wanted.path.exists()


def test_a_snapshot_that_is_out_of_date_is_still_referred_to(trained, command, tmp_path):
    site = tmp_path / "python-docs.yaml"
    declared = yaml.safe_load((Path(__file__).parents[3] / "scraping/sources/python-docs.yaml").read_text())
    site.write_text(yaml.safe_dump({**declared, "max_age": "1s"}))
    config = tmp_path / "aged.yaml"
    document = yaml.safe_load(trained.read_text())
    config.write_text(yaml.safe_dump({**document, "scrape": {"sources": [str(site)], "max_pages": 16}}))
    time.sleep(1)
    assert plan(load_config(config))[0].action == "build"
    code, out, _ = command("gc", config, "--dry-run")
    assert code == 0
    assert "scrape" not in out


def without(trained: Path, path: str) -> Path:
    """The configuration whose chain was made while the optional data set at `path` was away."""
    document = {**yaml.safe_load(trained.read_text()), "ingest": {"path": path, "required": False}}
    config = trained.with_name("optional.yaml")
    config.write_text(yaml.safe_dump(document))
    return config


@pytest.mark.parametrize("path", ["hf://datasets/nobody/nothing", "nowhere/*.parquet"])
def test_gc_keeps_what_was_built_while_an_optional_data_set_was_away(trained, path):
    config = load_config(without(trained, path))
    (wanted, *_), (report, *_) = artifacts(trained, "pretrain"), artifacts(trained, "report")
    doomed = {item.location for item in garbage(Store(trained.parent / "store"), [config])}
    assert not doomed & {wanted.location, report.location}


def test_gc_keeps_what_was_built_with_an_optional_data_set_that_is_away_now(write_config, prefect_server, tmp_path):
    (tmp_path / "disk").mkdir()
    (tmp_path / "disk" / "facts.txt").write_text("\n".join(f"{i} times {i} is {i * i}." * 20 for i in range(40)))
    config = write_config(ingest={"path": str(tmp_path / "disk"), "required": False})
    for stage in ("scrape", "ingest", "prepare", "train_tokenizer"):
        stage_flow(stage)(config=str(config), return_state=True).result()
    (tmp_path / "disk").rename(tmp_path / "unmounted")
    assert not list(garbage(Store(tmp_path / "store"), [load_config(config)]))


def test_gc_wants_to_know_what_to_keep_for(command):
    code, _, err = command("gc")
    assert code == 2
    assert "name the configurations" in err


@pytest.mark.parametrize("stage", ["scrape", "train_tokenizer", "finetune"])
def test_the_configuration_of_an_artifact_is_found_again(trained, command, tmp_path, stage):
    (artifact,) = artifacts(trained, stage)
    code, out, err = command("reproduce", artifact.path, "--out", tmp_path / "then")
    assert code == 0, err
    assert "--only " + stage in out
    steps = {step.stage: step for step in plan(load_config(tmp_path / "then" / "pipeline.yaml"))}
    assert steps[stage].artifact.path == artifact.path


def test_an_artifact_is_rebuilt_to_the_same_bytes(trained, command, tmp_path):
    (artifact,) = artifacts(trained, "train_tokenizer")
    assert command("reproduce", os.path.relpath(artifact.path, tmp_path), "--out", "then")[0] == 0
    flow = stage_flow("train_tokenizer")
    [outcome] = flow(config=str(tmp_path / "then" / "pipeline.yaml"), force=True, return_state=True).result()
    assert not outcome.reused
    assert outcome.artifact.digest == artifact.digest


def test_what_cannot_be_reproduced_says_why(trained, command, tmp_path):
    code, _, err = command("reproduce", tmp_path)
    assert (code, "is not an artifact" in err) == (2, True)
    (tmp_path / "there").mkdir()
    (artifact,) = artifacts(trained, "scrape")
    code, _, err = command("reproduce", artifact.path, "--out", "there")
    assert (code, "exists already" in err) == (2, True)
