"""The command line as a user meets it: plans, mistakes, kill -9, two runs at once."""

from __future__ import annotations

import json
import os
import shutil
import signal
import sqlite3
import subprocess
import sys
import time
from contextlib import closing
from datetime import UTC, datetime
from pathlib import Path

import pyarrow.parquet as pq
import pytest

from flows.cli.pipeline import print_steps
from flows.pipeline.plan import Step
from flows.store.local import Artifact, Store


def finish(process) -> tuple[int, str, str]:
    out, err = process.communicate(timeout=240)
    return process.returncode, out, err


def told(err: str) -> str:
    """The line that the user is meant to read."""
    return next(line for line in err.splitlines() if line.startswith("textmill: "))


def kill_when(process, ready) -> None:
    """kill -9 as soon as `ready()` holds."""
    deadline = time.monotonic() + 120
    while not ready():
        assert process.poll() is None, process.communicate()[1]
        assert time.monotonic() < deadline, "it never came so far"
        time.sleep(0.02)
    os.kill(process.pid, signal.SIGKILL)
    process.communicate()


def work_of(store: Store, stage: str) -> Path | None:
    return next(iter((store.root / stage).glob(".work-*")), None)


def made(store: Store, stage: str) -> Artifact:
    return next(artifact for artifact in store.artifacts() if artifact.manifest.stage == stage)


def pages_stored(store: Store) -> int:
    """Pages that the crawl under way has safe in its frontier."""
    work = work_of(store, "scrape")
    try:
        with closing(sqlite3.connect(f"file:{work / 'frontier.sqlite'}?mode=ro", uri=True)) as frontier:
            return frontier.execute("SELECT count(*) FROM urls WHERE outcome = 'stored'").fetchone()[0]
    except (TypeError, sqlite3.Error):  # not yet there
        return 0


@pytest.mark.parametrize(
    ("arguments", "expected"),
    [
        (["run", "nowhere.yaml"], "nowhere.yaml: No such file or directory; give the path of a YAML file"),
        (["run", "CONFIG", "--set", "pretrain.stepz=4"], "did you mean pretrain.steps?"),
        (["run", "CONFIG", "--set", "pretrain.steps=few"], "pretrain.steps: input should be a valid integer"),
        (["run", "CONFIG", "--set", "store=/proc/store"], "the store /proc/store cannot be written"),
        (["run", "CONFIG", "--set", "train_tokenizer.vocab_size=200"], "vocab_size 200 is too small"),
        (["run", "CONFIG", "--set", "ingest.path=missing/*.parquet"], "missing/*.parquet"),
        (["run", "CONFIG", "--only", "pretrain"], "which is not in the store (not built yet)"),
        (["run", "CONFIG", "--force", "pretraining"], "there is no stage 'pretraining'"),
        (["run", "CONFIG", "--only", "pretrain", "--force", "pretokenize"], "pretokenize cannot be built again"),
        (["run", "CONFIG", "--only", "pretrain", "--from", "prepare"], "prepare cannot be built again"),
        (["source", "new", "http://127.0.0.1:9/", "-o", "missing/x.yaml"], "there is no folder missing"),
        (["generate", ".", "Hello"], "checkpoint"),
        (["source", "check", "umb-cources"], "did you mean umb-courses?"),
    ],
)
def test_a_mistake_is_one_line_and_exit_code_2_before_any_work(textmill, write_config, tmp_path, arguments, expected):
    config = write_config()
    code, _, err = finish(textmill(*[config if word == "CONFIG" else word for word in arguments]))
    assert code == 2
    assert expected in told(err)
    assert "Traceback" not in err
    assert not list((tmp_path / "store").glob("*/[!.]*"))


@pytest.mark.slow
@pytest.mark.parametrize(
    ("settings", "expected"),
    [
        (["train_tokenizer.vocab_size=500000"], "vocab_size"),
        (["pretrain.model.context=5000000"], "context"),
        (["prepare.filters.length.min_characters=1900000"], "no document is left"),
    ],
)
def test_a_mistake_that_only_the_data_shows_loses_nothing(textmill, write_config, tmp_path, settings, expected):
    config = write_config()
    code, _, err = finish(textmill("run", config, *(word for setting in settings for word in ("--set", setting))))
    assert code == 2
    assert expected in told(err)
    assert "Traceback" not in err
    made = {artifact.manifest.stage for artifact in Store(tmp_path / "store").artifacts()}
    assert "scrape" in made  # what was finished before the mistake showed is kept
    code, out, _ = finish(textmill("run", config, "--dry-run"))
    assert code == 0
    assert "reuse" in out


@pytest.mark.slow  # it is tried again
def test_an_unreachable_site_is_one_line(textmill, write_config, tmp_path):
    site = tmp_path / "gone.yaml"
    site.write_text(
        "start: ['http://127.0.0.1:9/']\ncontact: me@example.org\nprivate_addresses: true\ndelay: 0\nbackoff: 0.05\n"
    )
    code, _, err = finish(textmill("run", write_config(scrape={"sources": [str(site)]})))
    assert code == 2
    assert "127.0.0.1:9" in told(err)
    assert "Traceback" not in err


@pytest.mark.slow
def test_a_run_killed_in_scrape_pretokenize_and_pretrain_continues_each_time(textmill, write_config, tmp_path):
    site = tmp_path / "slow-docs.yaml"
    site.write_text(
        "start: ['http://python-docs.localhost/']\ncontact: me@example.org\nserve: python-docs\n"
        "private_addresses: true\ndelay: 0.15\nextractor: {kind: main}\nlimits: {pages: 24}\n"
    )
    sections = {
        "scrape": {"sources": [str(site)], "max_pages": None},
        "pretrain": {"steps": 120, "checkpoint_every": 10},
    }
    config = write_config(**sections)
    store = Store(tmp_path / "store")

    kill_when(textmill("run", config), lambda: pages_stored(store) >= 4)
    stored, killed = pages_stored(store), datetime.now(UTC)
    kill_when(textmill("run", config), lambda: work_of(store, "pretokenize"))
    pages = pq.read_table(made(store, "scrape").path / "fetches.parquet", columns=["url", "fetched_at"])
    assert len(set(pages["url"].to_pylist())) == pages.num_rows
    assert made(store, "scrape").stats["pages"] == pages.num_rows
    assert sum(fetched < killed for fetched in pages["fetched_at"].to_pylist()) >= stored  # none of them fetched again

    kill_when(
        textmill("run", config),
        lambda: (work := work_of(store, "pretrain")) and list(work.glob("checkpoints/*[0-9]")),
    )
    code, _, err = finish(textmill("run", config))
    assert code == 0, err
    assert "continuing an interrupted build" in err
    assert "continuing from step" in err

    smooth = Store(tmp_path / "smooth")
    shutil.copytree(store.root / "scrape", smooth.root / "scrape")
    code, _, err = finish(textmill("run", config, "--set", f"store={smooth.root}"))
    assert code == 0, err
    for stage in ("prepare", "pretokenize", "pretrain", "finetune"):  # to the bit what an undisturbed run makes
        assert made(smooth, stage).digest == made(store, stage).digest, stage


@pytest.mark.slow
def test_two_runs_at_once_build_each_artifact_once(textmill, write_config, tmp_path):
    config = write_config()
    runs = [textmill("run", config), textmill("run", config)]
    outputs = [finish(run) for run in runs]
    assert [code for code, _, _ in outputs] == [0, 0]
    built = [line.split("│")[1].strip() for _, out, _ in outputs for line in out.splitlines() if "│ built" in line]
    assert sorted(built) == sorted(set(built))
    assert len(built) == 7


def test_status_and_dry_run_tell_what_is_there_and_what_would_be_done(textmill, write_config, tmp_path):
    config = write_config()
    code, _, err = finish(textmill("run", config))
    assert code == 0, err
    code, out, _ = finish(textmill("status", config, "--set", "pretrain.steps=14"))
    assert code == 0
    assert "steps: 12 → 14" in out
    assert "scrape python-docs" in out
    assert "whole" in out
    code, out, err = finish(textmill("run", config, "--json"))
    assert code == 0, err
    result = json.loads(out)["result"]
    assert {outcome["action"] for outcome in result} == {"reuse"}
    assert result[-1]["stats"] == {"figures": 5, "stages": 6}
    code, out, _ = finish(textmill("run", config, "--dry-run", "--force", "train_tokenizer"))
    assert code == 0
    assert "forced" in out
    assert "only if train_tokenizer comes out different" in out


def test_brackets_in_what_is_told_are_no_markup(capsys):
    print_steps([Step("prepare", "prepare [docs]", "build", "pattern: [a-z]+ → [/x]")], "a [b]")
    out = capsys.readouterr().out
    for told in ("prepare [docs]", "[a-z]+ → [/x]", "Plan of a [b]"):
        assert told in out


SLOW_TO_IMPORT = ("torch", "numba", "numpy", "pyarrow", "prefect", "matplotlib", "trafilatura", "tiktoken", "fsspec")


@pytest.mark.parametrize("command", [["--help"], ["status"], ["run", "CONFIG", "--dry-run"]])
def test_what_only_looks_answers_without_the_libraries_that_do_the_work(write_config, command):
    config = write_config()
    command = [str(config) if part == "CONFIG" else part for part in command]
    program = f"import sys, flows.cli; sys.argv = ['textmill', *{command!r}]; flows.cli.main()"
    told = subprocess.run([sys.executable, "-X", "importtime", "-c", program], capture_output=True, text=True)

    assert told.returncode == 0, told.stderr[-2000:]
    imported = {line.rsplit("|", 1)[1].strip() for line in told.stderr.splitlines() if line.startswith("import time:")}
    assert "flows.cli" in imported
    assert imported.isdisjoint(SLOW_TO_IMPORT)
