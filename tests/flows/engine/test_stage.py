"""The stage contract, on small real stages over real folders and real processes."""

from __future__ import annotations

import os
import shutil
import signal
import subprocess
import sys
import textwrap
import time
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path

import pytest
from pydantic import BaseModel

from flows.engine.assess import assess, what_changed
from flows.engine.materialize import commit_of, materialize
from flows.engine.stage import Context, Options, Stage
from flows.store.local import Damaged, Store
from textmill.errors import UserError
from textmill.files import sha256
from textmill.settings import execution_only


class WordsConfig(BaseModel):
    text: str = "to be or not to be"
    workers: int = execution_only(1)


class CountConfig(BaseModel):
    ignore_case: bool = True


class Words(Stage[WordsConfig]):
    name = "words"
    version = 1
    records = ("*.log",)

    def build(self, job):
        (job.out / "words.txt").write_text("\n".join(sorted(job.config.text.split())))
        (job.out / "clock.log").write_text(str(time.time_ns()))

    def headline(self, stats):
        return "words"


class Count(Stage[CountConfig]):
    name = "count"
    version = 1
    inputs = ("words",)

    def build(self, job):
        words = (job.path("words") / "words.txt").read_text().split()
        distinct = {word.lower() if job.config.ignore_case else word for word in words}
        (job.out / "count.txt").write_text(str(len(distinct)))

    def headline(self, stats):
        return "a count"


def stage_of(name: str, build, base: type[Stage] = Words) -> Stage:
    """A stage of that name whose `build` is this function of a job."""
    return type("Tried", (base,), {"name": name, "records": (), "build": lambda self, job: build(job)})()


words, count = Words(), Count()


@pytest.fixture
def store(tmp_path) -> Store:
    return Store(tmp_path / "store")


@pytest.fixture
def context(store) -> Context:
    return Context(store)


@pytest.fixture
def forced(store) -> Context:
    return Context(store, options=Options(force=True))


def test_a_second_run_reuses_the_artifact(context):
    first = materialize(words, WordsConfig(), {}, context)
    second = materialize(words, WordsConfig(workers=4), {}, context)
    assert (first.reused, second.reused) == (False, True)
    assert first.artifact == second.artifact
    assert (first.artifact.path / "words.txt").read_text().split() == ["be", "be", "not", "or", "to", "to"]
    assert first.artifact.path.parent == context.store.root / "words"


def test_other_settings_or_another_version_make_another_artifact(context):
    class Newer(Words):
        version = 2

    first = materialize(words, WordsConfig(), {}, context)
    other = materialize(words, WordsConfig(text="a b"), {}, context)
    newer = materialize(Newer(), WordsConfig(), {}, context)
    assert not other.reused and not newer.reused
    assert len({outcome.artifact.path for outcome in (first, other, newer)}) == 3


def test_the_manifest_lists_every_file_and_input(store):
    source = materialize(words, WordsConfig(), {}, Context(store, "demo")).artifact
    result = materialize(count, CountConfig(), {"words": source}, Context(store)).artifact
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
def test_a_damaged_artifact_is_rebuilt_and_only_it(context, harm, words_for_it):
    source = materialize(words, WordsConfig(), {}, context).artifact
    materialize(count, CountConfig(), {"words": source}, context)
    harm(source.path / "words.txt")
    assert words_for_it in assess(words, WordsConfig(), {}, context).reason
    again = materialize(words, WordsConfig(), {}, context)
    assert not again.reused
    assert materialize(count, CountConfig(), {"words": again.artifact}, context).reused


def test_altered_bytes_of_the_same_size_are_found_with_verify(context):
    source = materialize(words, WordsConfig(), {}, context).artifact
    file = source.path / "words.txt"
    file.write_text(file.read_text().swapcase())
    assert assess(words, WordsConfig(), {}, context).artifact
    assert "altered" in assess(words, WordsConfig(), {}, replace(context, options=Options(verify=True))).reason


def test_early_cutoff_a_forced_stage_that_comes_out_the_same_rebuilds_nothing_after_it(context, forced):
    source = materialize(words, WordsConfig(), {}, context).artifact
    materialize(count, CountConfig(), {"words": source}, context)
    again = materialize(words, WordsConfig(), {}, forced)
    assert not again.reused
    assert again.artifact.manifest.files["clock.log"] != source.manifest.files["clock.log"]
    assert again.artifact.digest == source.digest  # the clock is a record
    assert materialize(count, CountConfig(), {"words": again.artifact}, context).reused


def test_a_moved_store_is_the_same_store(context, tmp_path):
    source = materialize(words, WordsConfig(), {}, context).artifact
    materialize(count, CountConfig(), {"words": source}, context)
    moved = Context(Store(context.store.root.rename(tmp_path / "elsewhere")))
    again = materialize(words, WordsConfig(), {}, moved)
    assert again.reused
    assert materialize(count, CountConfig(), {"words": again.artifact}, moved).reused


def test_the_reason_names_what_changed(context):
    class Newer(Words):
        version = 3

    assert assess(words, WordsConfig(), {}, context).reason == "not built yet"
    source = materialize(words, WordsConfig(), {}, context).artifact
    other = materialize(words, WordsConfig(text="other"), {}, context).artifact
    materialize(count, CountConfig(), {"words": source}, context)
    changed = assess(count, CountConfig(ignore_case=False), {"words": source}, context)
    assert changed.reason == "ignore_case: True → False"
    assert assess(count, CountConfig(), {"words": other}, context).reason == "words changed"
    assert what_changed(count, CountConfig(), context.store) is None
    assert "version 1 → 3" in assess(Newer(), WordsConfig(), {}, context).reason


def test_the_reason_never_compares_with_an_artifact_of_another_thing(context):
    class Site(Words):
        name = "site"
        label_is_subject = True

        def label(self, config):
            return config.text[0]

    site = Site()
    materialize(site, WordsConfig(text="a first site"), {}, context)
    assert assess(site, WordsConfig(text="b first site"), {}, context).reason == "not built yet"
    assert what_changed(site, WordsConfig(text="b first site"), context.store) == "not built yet"
    assert assess(site, WordsConfig(text="a new site"), {}, context).reason == "text: a first site → a new site"


def test_an_expired_snapshot_is_built_again_with_the_old_one_at_hand(context):
    seen = []

    class Snapshot(Words):
        name = "snapshot"

        def build(self, job):
            seen.append(job.previous and job.previous.path)
            super().build(job)

        def expired(self, config, artifact):
            return "too old"

    snapshot = Snapshot()
    first = materialize(snapshot, WordsConfig(), {}, context)
    second = materialize(snapshot, WordsConfig(), {}, context)
    assert not second.reused
    assert seen == [None, first.artifact.path]
    accepting = replace(context, options=Options(accept_expired=True))
    assert materialize(snapshot, WordsConfig(), {}, accepting).reused
    assert second.artifact.path == first.artifact.path


def test_a_failed_build_keeps_its_work_and_the_next_one_continues(context):
    def build(job):
        marker = job.out / "half.txt"
        if not marker.exists():
            marker.write_text("half")
            raise OSError("the network went away")
        marker.rename(job.out / "whole.txt")

    stage = stage_of("words", build)
    with pytest.raises(OSError, match="went away"):
        materialize(stage, WordsConfig(), {}, context)
    said = []
    artifact = materialize(stage, WordsConfig(), {}, replace(context, log=said.append)).artifact
    assert "continuing an interrupted build" in said[0]
    assert list(artifact.manifest.files) == ["whole.txt"]


def test_what_a_kill_left_half_written_is_not_sealed(context):
    def build(job):
        (job.out / "whole.txt").write_text("whole")
        if not killed:
            killed.append(True)
            (job.out / ".manifest.json.0a1b2c3d.tmp").write_text("{")
            raise OSError("killed")

    killed = []
    stage = stage_of("words", build)
    with pytest.raises(OSError, match="killed"):
        materialize(stage, WordsConfig(), {}, context)
    assert list(materialize(stage, WordsConfig(), {}, context).artifact.manifest.files) == ["whole.txt"]


@pytest.fixture
def snapshot():
    """A stage that comes out as what `world` holds at the time, like a crawl."""
    world = {"words.txt": "old words"}

    def build(job):
        for name, text in world.items():
            (job.out / name).write_text(text)

    return stage_of("snapshot", build), world


@pytest.mark.parametrize("name", ["words.txt", "other.txt"])  # a mix is read, or nothing is there to read
def test_an_input_that_is_rebuilt_while_it_is_read_is_an_error_and_nothing_is_sealed(context, forced, snapshot, name):
    stage, world = snapshot
    store = context.store
    source = materialize(stage, WordsConfig(), {}, context).artifact

    def build(job):
        first = (job.path("words") / "words.txt").read_text()
        if first == "old words":
            world.clear()
            world[name] = "new words"
            materialize(stage, WordsConfig(), {}, forced)
        (job.out / "both.txt").write_text(first + (job.path("words") / "words.txt").read_text())

    reader = stage_of("reader", build)
    with pytest.raises(UserError, match=rf"{source.location} was rebuilt by another run .* run again"):
        materialize(reader, CountConfig(), {"words": source}, context)
    assert list(store.artifacts("reader")) == []
    assert not list(store.root.glob("reader/.work-*"))  # not to be continued, should the old content come back
    world["words.txt"] = "new words"
    again = materialize(stage, WordsConfig(), {}, forced).artifact
    result = materialize(reader, CountConfig(), {"words": again}, context).artifact
    assert (result.path / "both.txt").read_text() == "new words" * 2


def test_an_input_that_is_rebuilt_and_comes_out_the_same_is_no_error(context, forced, snapshot):
    stage, _ = snapshot
    source = materialize(stage, WordsConfig(), {}, context).artifact

    def build(job):
        count.build(job)
        materialize(stage, WordsConfig(), {}, forced)

    reader = materialize(stage_of("reader", build), CountConfig(), {"words": source}, context)
    assert reader.artifact.damage(verify=True) is None


def test_an_input_that_is_removed_while_it_is_read_is_an_error_and_the_work_is_kept(context):
    store = context.store
    source = materialize(words, WordsConfig(), {}, context).artifact

    def build(job):
        (job.out / "half.txt").write_text("half")
        store.remove(source)
        count.build(job)

    with pytest.raises(UserError, match=r"was removed while it was read; run again"):
        materialize(stage_of("reader", build), CountConfig(), {"words": source}, context)
    assert [file.name for file in store.root.glob("reader/.work-*/*")] == ["half.txt"]


def alter(artifact, name: str) -> None:
    """Other bytes, the same size, the same time of change."""
    file = artifact.path / name
    times = file.stat()
    file.write_bytes(file.read_bytes()[::-1])
    os.utime(file, ns=(times.st_atime_ns, times.st_mtime_ns))


def test_nothing_is_built_on_a_damaged_input(context):
    source = materialize(words, WordsConfig(), {}, context).artifact
    alter(source, "words.txt")
    with pytest.raises(Damaged, match=rf"{source.location} is damaged: words.txt has been altered .*--verify") as found:
        materialize(count, CountConfig(), {"words": source}, context)
    assert found.value.artifact == source
    assert list(context.store.artifacts("count")) == []
    mended = materialize(words, WordsConfig(), {}, replace(context, options=Options(verify=True)))
    assert not mended.reused and mended.artifact.digest == source.digest
    assert not materialize(count, CountConfig(), {"words": mended.artifact}, context).reused


@pytest.mark.parametrize("fails", [False, True])
def test_what_was_built_while_an_input_was_damaged_is_thrown_away(context, fails):
    source = materialize(words, WordsConfig(), {}, context).artifact

    def build(job):
        folder = job.path("words")
        alter(source, "words.txt")
        (job.out / "copy.txt").write_text((folder / "words.txt").read_text())
        if fails:
            raise ValueError("bytes that make no sense")

    with pytest.raises(Damaged, match=r"words\.txt has been altered"):
        materialize(stage_of("reader", build), CountConfig(), {"words": source}, context)
    assert list(context.store.artifacts("reader")) == []
    assert not list(context.store.root.glob("reader/.work-*"))


def test_a_file_is_hashed_once_for_all_that_read_it(context, monkeypatch):
    hashed = []

    def counted(file):
        hashed.append(file.name)
        return sha256(file)

    monkeypatch.setattr("textmill.contents.sha256", counted)
    monkeypatch.setattr("textmill.contents._digests", {})
    source = materialize(words, WordsConfig(), {}, context).artifact
    monkeypatch.setattr("textmill.contents._digests", {})  # as in another process
    for ignore_case in (True, False):
        materialize(count, CountConfig(ignore_case=ignore_case), {"words": source}, Context(Store(context.store.root)))
    assert hashed.count("words.txt") == 2  # when it was sealed, and once for both that read it


def test_a_kill_between_sealing_and_renaming_loses_nothing(context):
    artifact = materialize(words, WordsConfig(), {}, context).artifact
    artifact.path.rename(context.store.workdir("words", artifact.manifest.fingerprint))  # where a kill would leave it
    again = materialize(words, WordsConfig(), {}, context)
    assert again.reused
    assert again.artifact == artifact


def test_an_input_from_outside_is_known_although_the_store_cannot_be_written(tmp_path):
    file = tmp_path / "archive.tar"
    file.write_bytes(b"many documents")
    assert Store(Path("/proc/store")).file_digest(file) == sha256(file) == Store(tmp_path / "store").file_digest(file)
    assert (tmp_path / "store" / ".file-digests.json").exists()


def test_an_unwritable_store_is_a_clear_error(tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(UserError, match=r"cannot be written.*--set store="):
        materialize(words, WordsConfig(), {}, Context(Store(tmp_path / "file" / "store")))


def test_an_unreadable_manifest_counts_as_absent(context):
    artifact = materialize(words, WordsConfig(), {}, context).artifact
    (artifact.path / "manifest.json").write_text('{"stage": "words"')
    assert not materialize(words, WordsConfig(), {}, context).reused


def test_a_copy_under_another_name_counts_as_absent(context):
    artifact = materialize(words, WordsConfig(), {}, context).artifact
    name = assess(words, WordsConfig(text="other"), {}, context).fingerprint
    shutil.copytree(artifact.path, artifact.path.with_name(name))
    assert list(context.store.artifacts()) == [artifact]
    other = materialize(words, WordsConfig(text="other"), {}, context)
    assert not other.reused
    assert (other.artifact.path / "words.txt").read_text() == "other"
    assert artifact.damage(verify=True) is None


def test_a_manifest_that_names_a_place_outside_of_the_store_counts_as_absent(context):
    artifact = materialize(words, WordsConfig(), {}, context).artifact
    outside = context.store.root.parent / "outside" / artifact.name[1]
    shutil.copytree(artifact.path, outside)
    manifest = outside / "manifest.json"
    manifest.write_text(manifest.read_text().replace('"stage": "words"', '"stage": "../outside"'))
    assert context.store.find("../outside", artifact.name[1]) is None


# Two processes, and kill -9: the stage writes one line per step, slowly, continuing where the file ends.
SLOW = textwrap.dedent(
    """
    import sys, time
    from pathlib import Path
    from pydantic import BaseModel
    from flows.engine.materialize import commit_of, materialize
    from flows.engine.stage import Context, Stage
    from flows.store.local import Store

    class Settings(BaseModel):
        steps: int = 12

    class Slow(Stage[Settings]):
        name = "slow"
        version = 1

        def build(self, job):
            log = job.out / "steps.txt"
            done = len(log.read_text().split()) if log.exists() else 0
            for step in range(done, job.config.steps):
                with log.open("a") as file:
                    file.write(f"{step}\\n")
                print("step", step, flush=True)
                time.sleep(600 if [str(step)] == sys.argv[2:] else 0.1)

        def headline(self, stats):
            return "slow"

    outcome = materialize(Slow(), Settings(), {}, Context(Store(Path(sys.argv[1]))))
    print("reused" if outcome.reused else "built", flush=True)
    """
)


def start_slow(store: Store, *stuck_after: str) -> subprocess.Popen:
    command = [sys.executable, "-c", SLOW, str(store.root), *stuck_after]
    return subprocess.Popen(command, stdout=subprocess.PIPE, text=True)


def test_two_processes_build_an_artifact_once(store):
    runs = [start_slow(store), start_slow(store)]
    endings = sorted(run.communicate(timeout=240)[0].split()[-1] for run in runs)
    assert endings == ["built", "reused"]
    assert len(list(store.artifacts())) == 1


def test_after_kill_9_the_lock_is_free_and_the_work_continues(store):
    killed = start_slow(store, "4")
    assert [killed.stdout.readline() for _ in range(5)][-1] == "step 4\n"
    os.kill(killed.pid, signal.SIGKILL)
    killed.communicate()
    assert list(store.artifacts()) == []
    out = start_slow(store).communicate(timeout=240)[0]
    assert out.startswith("step 5")  # not from the start
    artifact = next(store.artifacts())
    assert (artifact.path / "steps.txt").read_text().split() == [str(step) for step in range(12)]


def test_threads_of_one_run_may_look_at_the_same_time_whether_a_store_can_be_written(tmp_path):
    with ThreadPoolExecutor(8) as pool:
        for look in [pool.submit(Store(tmp_path).check_writable) for _ in range(2000)]:
            look.result()
    assert list(tmp_path.iterdir()) == []


def test_a_commit_is_dirty_where_code_was_changed_and_not_where_results_were(tmp_path):
    def git(*arguments: str) -> str:
        identity = ["-c", "user.name=me", "-c", "user.email=me@example.org"]
        return subprocess.check_output(["git", "-C", str(tmp_path), *identity, *arguments], text=True).strip()

    code, result = tmp_path / "flows" / "code.py", tmp_path / "experiments" / "results" / "demo" / "both.json"
    for file in (code, result):
        file.parent.mkdir(parents=True)
        file.touch()
    assert commit_of(code.parent) == ""
    git("init", "--quiet")
    git("add", ".")
    git("commit", "--quiet", "--message", "first")
    commit = git("rev-parse", "HEAD")
    for changed, is_dirty in ((None, False), (result, False), (code, True)):
        if changed:
            changed.write_text("2")
        told = commit_of(code.parent)
        assert told.endswith("-dirty") == is_dirty
        assert commit.startswith(told.removesuffix("-dirty"))
