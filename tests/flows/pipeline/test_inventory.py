"""What a store holds, in every state an artifact can be in."""

from __future__ import annotations

import fcntl
import json
import shutil
from pathlib import Path

import pytest

from flows.engine.materialize import materialize
from flows.engine.stage import Context, Stage
from flows.pipeline.inventory import inventory
from flows.pipeline.plan import Step
from flows.stages.report import ReportConfig
from flows.store.local import Artifact, Store
from textmill.files import folder_size


class Counted(Stage[ReportConfig]):
    """Stands for a stage: one file, named after its configuration's title."""

    name = "prepare"
    version = 1

    def build(self, job):
        (job.out / "words.txt").write_text(job.config.title)
        (job.out / "stats.json").write_text(json.dumps({}))

    def label(self, config):
        return config.title

    def headline(self, stats):
        return "counted"


@pytest.fixture
def store(tmp_path) -> Store:
    return Store(tmp_path)


def counted(store: Store, title: str) -> Artifact:
    return materialize(Counted(), ReportConfig(title=title), {}, Context(store, pipeline="demo")).artifact


def states(items) -> dict[str, str]:
    return {item.title: item.state for item in items}


def test_an_artifact_is_whole_damaged_or_stale_and_says_what_a_run_would_do(store):
    whole, damaged, stale = (counted(store, title) for title in ("whole", "damaged", "stale"))
    (damaged.path / "words.txt").write_text("")
    reuse = Step("prepare", whole.title, "reuse", "built", whole, whole.manifest.fingerprint)
    again = Step("prepare", stale.title, "build", "it is 9 days old", fingerprint=stale.manifest.fingerprint)
    items = inventory(store, [reuse, again])

    assert states(items) == {"prepare whole": "whole", "prepare damaged": "damaged", "prepare stale": "stale"}
    by_title = {item.title: item for item in items}
    assert by_title["prepare damaged"].detail == "words.txt has 0 bytes instead of 7"
    assert by_title["prepare damaged"].step is None
    assert by_title["prepare whole"].step == reuse
    assert by_title["prepare stale"].step == again
    assert by_title["prepare whole"].pipeline == "demo"
    assert by_title["prepare whole"].size == len("whole") + len("{}")


def test_a_work_folder_is_building_while_a_process_holds_its_lock_and_else_interrupted(store):
    work = store.workdir("pretrain", "0123456789abcdef")
    work.mkdir(parents=True)
    (work / "half").write_bytes(b"12345")
    step = Step("pretrain", "pretrain 2 x 32", "build", "not built yet", fingerprint="0123456789abcdef")
    [item] = inventory(store, [step])
    assert (item.title, item.state, item.size, item.step) == ("pretrain 2 x 32", "interrupted", 5, step)

    with (work.parent / ".lock-0123456789abcdef").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        assert [item.state for item in inventory(store, [step])] == ["building"]


def test_files_and_folders_that_vanish_while_they_are_looked_at_do_no_harm(store, monkeypatch):
    """A build at work renames and removes files at any moment."""
    works = [store.workdir("pretrain", name) for name in ("0123456789abcdef", "fedcba9876543210")]
    for work in works:
        work.mkdir(parents=True)
        (work / "half").write_bytes(b"12345")
        (work / ".half.1a2b.tmp").write_bytes(b"123")
    going, sealed = works
    stat, iterdir = Path.stat, Path.iterdir

    def gone_by_now(path: Path, **options):
        if path.suffix == ".tmp":
            path.unlink(missing_ok=True)
        return stat(path, **options)

    def sealed_by_now(path: Path):
        if path == sealed:
            shutil.rmtree(path)
        return iterdir(path)

    monkeypatch.setattr(Path, "stat", gone_by_now)
    monkeypatch.setattr(Path, "iterdir", sealed_by_now)
    assert [(item.fingerprint, item.size) for item in inventory(store)] == [("0123456789abcdef", 5)]
    (going / ".other.3c4d.tmp").write_bytes(b"123")
    assert folder_size(going) == 5
    assert folder_size(sealed) == 0


def test_what_a_run_would_make_is_missing_and_stands_in_the_order_of_the_chain(store):
    counted(store, "here")
    steps = [
        Step("scrape", "scrape site", "build", "not built yet", fingerprint="abc"),
        Step("ingest", "ingest texts", "skip", "not there"),
        Step("pretrain", "pretrain 2 x 32", "build?", "only if prepare comes out different"),
    ]
    items = inventory(store, steps)
    assert list(states(items).items()) == [
        ("scrape site", "missing"),
        ("prepare here", "whole"),
        ("pretrain 2 x 32", "missing"),
    ]
    assert [item.fingerprint for item in items if item.state == "missing"] == ["abc", None]
