"""The stage contract, on small real stages over real folders and real processes."""

from __future__ import annotations

import os
import shutil
import signal
import subprocess
import sys
import textwrap
import time
from pathlib import Path

import pytest
from pydantic import BaseModel

from flows.engine.stage import Options, Stage, assess, materialize, what_changed
from flows.store.local import Store
from textmill.errors import UserError
from textmill.settings import execution_only

FORCE = Options(force=True)


class Words(BaseModel):
    text: str = "to be or not to be"
    workers: int = execution_only(1)


class Count(BaseModel):
    ignore_case: bool = True


def write_words(job):
    (job.out / "words.txt").write_text("\n".join(sorted(job.config.text.split())))
    (job.out / "clock.log").write_text(str(time.time_ns()))


def count_words(job):
    words = (job.path("words") / "words.txt").read_text().split()
    (job.out / "count.txt").write_text(str(len({word.lower() if job.config.ignore_case else word for word in words})))


words = Stage(name="words", version=1, build=write_words, headline=str, records=("*.log",))
count = Stage(name="count", version=1, build=count_words, headline=str)


@pytest.fixture
def store(tmp_path):
    return Store(tmp_path / "store")


def test_a_second_run_reuses_the_artifact(store):
    first, reused_first = materialize(words, Words(), {}, store)
    second, reused_second = materialize(words, Words(workers=4), {}, store)
    assert (reused_first, reused_second) == (False, True)
    assert first == second
    assert (first.path / "words.txt").read_text().split() == ["be", "be", "not", "or", "to", "to"]
    assert first.path.parent == store.root / "words"


def test_other_settings_or_another_version_make_another_artifact(store):
    first, _ = materialize(words, Words(), {}, store)
    other, reused = materialize(words, Words(text="a b"), {}, store)
    newer, reused_newer = materialize(
        Stage(name="words", version=2, build=write_words, headline=str), Words(), {}, store
    )
    assert not reused and not reused_newer
    assert len({first.path, other.path, newer.path}) == 3


def test_the_manifest_lists_every_file_and_input(store):
    source, _ = materialize(words, Words(), {}, store, Options(pipeline="demo"))
    result, _ = materialize(count, Count(), {"words": source}, store)
    files = source.manifest.files
    assert files["words.txt"].size == (source.path / "words.txt").stat().st_size
    assert files["clock.log"].record and not files["words.txt"].record
    assert source.manifest.pipeline == "demo"
    assert result.manifest.inputs["words"][0].fingerprint == source.manifest.fingerprint
    assert result.manifest.inputs["words"][0].digest == source.digest


@pytest.mark.parametrize(
    ("harm", "words_for_it"),
    [(Path.unlink, "is missing"), (lambda file: file.write_text("to"), "bytes instead of")],
)
def test_a_damaged_artifact_is_rebuilt_and_only_it(store, harm, words_for_it):
    source, _ = materialize(words, Words(), {}, store)
    materialize(count, Count(), {"words": source}, store)
    harm(source.path / "words.txt")
    assert words_for_it in assess(words, Words(), {}, store).reason
    source, reused = materialize(words, Words(), {}, store)
    assert not reused
    assert materialize(count, Count(), {"words": source}, store)[1]


def test_altered_bytes_of_the_same_size_are_found_with_verify(store):
    source, _ = materialize(words, Words(), {}, store)
    file = source.path / "words.txt"
    file.write_text(file.read_text().swapcase())
    assert assess(words, Words(), {}, store).artifact
    assert "altered" in assess(words, Words(), {}, store, Options(verify=True)).reason


def test_early_cutoff_a_forced_stage_that_comes_out_the_same_rebuilds_nothing_after_it(store):
    source, _ = materialize(words, Words(), {}, store)
    materialize(count, Count(), {"words": source}, store)
    again, reused = materialize(words, Words(), {}, store, FORCE)
    assert not reused
    assert again.manifest.files["clock.log"] != source.manifest.files["clock.log"]
    assert again.digest == source.digest  # the clock is a record
    assert materialize(count, Count(), {"words": again}, store)[1]


def test_a_moved_store_is_the_same_store(store, tmp_path):
    source, _ = materialize(words, Words(), {}, store)
    materialize(count, Count(), {"words": source}, store)
    moved = Store(store.root.rename(tmp_path / "elsewhere"))
    source, reused = materialize(words, Words(), {}, moved)
    assert reused
    assert materialize(count, Count(), {"words": source}, moved)[1]


def test_the_reason_names_what_changed(store):
    assert assess(words, Words(), {}, store).reason == "not built yet"
    source, _ = materialize(words, Words(), {}, store)
    other, _ = materialize(words, Words(text="other"), {}, store)
    materialize(count, Count(), {"words": source}, store)
    assert assess(count, Count(ignore_case=False), {"words": source}, store).reason == "ignore_case: True → False"
    assert assess(count, Count(), {"words": other}, store).reason == "words changed"
    assert what_changed(count, Count(), store) is None
    newer = Stage(name="words", version=3, build=write_words, headline=str)
    assert "version 1 → 3" in assess(newer, Words(), {}, store).reason


def test_an_expired_snapshot_is_built_again_with_the_old_one_at_hand(store):
    seen = []

    def build(job):
        seen.append(job.previous and job.previous.path)
        write_words(job)

    snapshot = Stage(
        name="snapshot", version=1, build=build, headline=str, expired=lambda *_: "too old", records=("*.log",)
    )
    first, _ = materialize(snapshot, Words(), {}, store)
    second, reused = materialize(snapshot, Words(), {}, store)
    assert not reused
    assert seen == [None, first.path]
    assert materialize(snapshot, Words(), {}, store, Options(accept_expired=True))[1]
    assert second.path == first.path


def test_a_failed_build_keeps_its_work_and_the_next_one_continues(store):
    def build(job):
        marker = job.out / "half.txt"
        if not marker.exists():
            marker.write_text("half")
            raise OSError("the network went away")
        marker.rename(job.out / "whole.txt")

    stage = Stage(name="words", version=1, build=build, headline=str)
    with pytest.raises(OSError, match="went away"):
        materialize(stage, Words(), {}, store)
    said = []
    artifact, _ = materialize(stage, Words(), {}, store, announce=said.append)
    assert "continuing an interrupted build" in said[0]
    assert list(artifact.manifest.files) == ["whole.txt"]


@pytest.fixture
def snapshot():
    """A stage that comes out as what `world` holds at the time, like a crawl."""
    world = {"words.txt": "old words"}

    def build(job):
        for name, text in world.items():
            (job.out / name).write_text(text)

    return Stage(name="snapshot", version=1, build=build, headline=str), world


@pytest.mark.parametrize("name", ["words.txt", "other.txt"])  # a mix is read, or nothing is there to read
def test_an_input_that_is_rebuilt_while_it_is_read_is_an_error_and_nothing_is_sealed(store, snapshot, name):
    stage, world = snapshot
    source, _ = materialize(stage, Words(), {}, store)

    def build(job):
        first = (job.path("words") / "words.txt").read_text()
        if first == "old words":
            world.clear()
            world[name] = "new words"
            materialize(stage, Words(), {}, store, FORCE)
        (job.out / "both.txt").write_text(first + (job.path("words") / "words.txt").read_text())

    reader = Stage(name="reader", version=1, build=build, headline=str)
    with pytest.raises(UserError, match=rf"{source.location} was rebuilt by another run .* run again"):
        materialize(reader, Count(), {"words": source}, store)
    assert list(store.artifacts("reader")) == []
    assert not list(store.root.glob("reader/.work-*"))  # not to be continued, should the old content come back
    world["words.txt"] = "new words"
    again, _ = materialize(stage, Words(), {}, store, FORCE)
    result, _ = materialize(reader, Count(), {"words": again}, store)
    assert (result.path / "both.txt").read_text() == "new words" * 2


def test_an_input_that_is_rebuilt_and_comes_out_the_same_is_no_error(store, snapshot):
    stage, _ = snapshot
    source, _ = materialize(stage, Words(), {}, store)
    reader = Stage(
        name="reader",
        version=1,
        build=lambda job: (count_words(job), materialize(stage, Words(), {}, store, FORCE)),
        headline=str,
    )
    assert materialize(reader, Count(), {"words": source}, store)[0].damage(verify=True) is None


def test_an_input_that_is_removed_while_it_is_read_is_an_error_and_the_work_is_kept(store):
    source, _ = materialize(words, Words(), {}, store)

    def build(job):
        (job.out / "half.txt").write_text("half")
        store.remove(source)
        count_words(job)

    with pytest.raises(UserError, match=r"was removed while it was read; run again"):
        materialize(Stage(name="reader", version=1, build=build, headline=str), Count(), {"words": source}, store)
    assert [file.name for file in store.root.glob("reader/.work-*/*")] == ["half.txt"]


def test_a_kill_between_sealing_and_renaming_loses_nothing(store):
    artifact, _ = materialize(words, Words(), {}, store)
    artifact.path.rename(store.workdir("words", artifact.manifest.fingerprint))  # where a kill would leave it
    again, reused = materialize(words, Words(), {}, store)
    assert reused
    assert again == artifact


def test_an_unwritable_store_is_a_clear_error(tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(UserError, match=r"cannot be written.*--set store="):
        materialize(words, Words(), {}, Store(tmp_path / "file" / "store"))


def test_an_unreadable_manifest_counts_as_absent(store):
    artifact, _ = materialize(words, Words(), {}, store)
    (artifact.path / "manifest.json").write_text('{"stage": "words"')
    assert materialize(words, Words(), {}, store)[1] is False


def test_a_copy_under_another_name_counts_as_absent(store):
    artifact, _ = materialize(words, Words(), {}, store)
    name = assess(words, Words(text="other"), {}, store).fingerprint
    shutil.copytree(artifact.path, artifact.path.with_name(name))
    assert list(store.artifacts()) == [artifact]
    other, reused = materialize(words, Words(text="other"), {}, store)
    assert not reused
    assert (other.path / "words.txt").read_text() == "other"
    assert artifact.damage(verify=True) is None


def test_a_manifest_that_names_a_place_outside_of_the_store_counts_as_absent(store):
    artifact, _ = materialize(words, Words(), {}, store)
    outside = store.root.parent / "outside" / artifact.name[1]
    shutil.copytree(artifact.path, outside)
    manifest = outside / "manifest.json"
    manifest.write_text(manifest.read_text().replace('"stage": "words"', '"stage": "../outside"'))
    assert store.find("../outside", artifact.name[1]) is None


# Two processes, and kill -9: the stage writes one line per step, slowly, continuing where the file ends.
SLOW = textwrap.dedent(
    """
    import sys, time
    from pathlib import Path
    from pydantic import BaseModel
    from flows.engine.stage import Stage, materialize
    from flows.store.local import Store

    class Settings(BaseModel):
        steps: int = 12

    def build(job):
        log = job.out / "steps.txt"
        done = len(log.read_text().split()) if log.exists() else 0
        for step in range(done, job.config.steps):
            with log.open("a") as file:
                file.write(f"{step}\\n")
            print("step", step, flush=True)
            time.sleep(0.1)

    stage = Stage(name="slow", version=1, build=build, headline=str)
    artifact, reused = materialize(stage, Settings(), {}, Store(Path(sys.argv[1])))
    print("reused" if reused else "built", flush=True)
    """
)


def start_slow(store: Store) -> subprocess.Popen:
    return subprocess.Popen([sys.executable, "-c", SLOW, str(store.root)], stdout=subprocess.PIPE, text=True)


def test_two_processes_build_an_artifact_once(store):
    runs = [start_slow(store), start_slow(store)]
    endings = sorted(run.communicate(timeout=60)[0].split()[-1] for run in runs)
    assert endings == ["built", "reused"]
    assert len(list(store.artifacts())) == 1


def test_after_kill_9_the_lock_is_free_and_the_work_continues(store):
    killed = start_slow(store)
    for line in killed.stdout:
        if line == "step 4\n":
            os.kill(killed.pid, signal.SIGKILL)
            break
    killed.wait()
    assert list(store.artifacts()) == []
    out = start_slow(store).communicate(timeout=60)[0]
    assert out.startswith(("step 5", "step 6"))  # never from the start, whatever the moment of the kill
    artifact = next(store.artifacts())
    assert (artifact.path / "steps.txt").read_text().split() == [str(step) for step in range(12)]
