"""The command line as a user meets it: plans, mistakes, kill -9, two runs at once."""

from __future__ import annotations

import os
import signal
import time
from pathlib import Path

import pytest

from flows.store import Store


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


def work_of(store: Path, stage: str) -> Path | None:
    return next(iter((store / stage).glob(".work-*")), None)


@pytest.mark.parametrize(
    ("arguments", "expected"),
    [
        (["run", "nowhere.yaml"], "nowhere.yaml: No such file or directory; give a configuration"),
        (["run", "CONFIG", "--set", "pretrain.stepz=4"], "did you mean pretrain.steps?"),
        (["run", "CONFIG", "--set", "pretrain.steps=few"], "pretrain.steps: input should be a valid integer"),
        (["run", "CONFIG", "--set", "store=/proc/store"], "the store /proc/store cannot be written"),
        (["run", "CONFIG", "--set", "train_tokenizer.vocab_size=200"], "vocab_size 200 is too small"),
        (["run", "CONFIG", "--set", "ingest.path=missing/*.parquet"], "missing/*.parquet"),
        (["run", "CONFIG", "--only", "pretrain"], "which is not in the store (not built yet)"),
        (["run", "CONFIG", "--force", "pretraining"], "there is no stage 'pretraining'"),
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
        (["prepare.min_chars=10000000"], "corpus"),
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
    config = write_config(
        scrape={"sources": [str(site)], "max_pages": None}, pretrain={"steps": 120, "checkpoint_every": 10}
    )
    store = tmp_path / "store"

    kill_when(textmill("run", config), lambda: (work := work_of(store, "scrape")) and _pages_fetched(work) >= 4)
    fetched = _pages_fetched(work_of(store, "scrape"))
    kill_when(textmill("run", config), lambda: work_of(store, "pretokenize"))
    pages = next(a for a in Store(store).artifacts() if a.manifest.stage == "scrape")
    assert pages.stats["pages"] == 24
    assert fetched >= 4
    kill_when(
        textmill("run", config),
        lambda: (work := work_of(store, "pretrain")) and list(work.glob("checkpoints/*[0-9]")),
    )
    code, out, err = finish(textmill("run", config))
    assert code == 0, err
    assert "continuing an interrupted build" in err
    assert "continuing from step" in err
    interrupted = next(a for a in Store(store).artifacts() if a.manifest.stage == "pretrain")

    other = tmp_path / "other"
    code, _, err = finish(textmill("run", config, "--set", f"store={other}"))  # the same, never interrupted
    assert code == 0, err
    smooth = next(a for a in Store(other).artifacts() if a.manifest.stage == "pretrain")
    assert smooth.digest == interrupted.digest
    assert "Result" in out


def _pages_fetched(work: Path) -> int:
    import sqlite3

    try:
        with sqlite3.connect(f"file:{work / 'frontier.sqlite'}?mode=ro", uri=True) as frontier:
            return frontier.execute("SELECT count(*) FROM urls WHERE state = 'done'").fetchone()[0]
    except sqlite3.Error:
        return 0


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
    code, out, _ = finish(textmill("run", config, "--dry-run", "--force", "train_tokenizer"))
    assert code == 0
    assert "forced" in out
    assert "unless train_tokenizer comes out as before" in out
