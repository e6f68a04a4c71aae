"""A store in a bucket, on a real S3 server: what is written in which order, read when, and survived."""

from __future__ import annotations

import signal
import socket
import subprocess
import sys
import textwrap
import time
from collections import Counter
from collections.abc import Callable
from datetime import timedelta
from pathlib import Path
from uuid import uuid4

import httpx
import pytest
from fsspec.registry import _registry as fsspec_registry
from pydantic import BaseModel

from flows.engine.assess import assess
from flows.engine.materialize import materialize
from flows.engine.stage import Context, Options, Outcome, Stage
from flows.pipeline.config import load_config
from flows.pipeline.plan import plan
from flows.pipeline.reproduce import write_configuration
from flows.service.flows import pipeline, stage_flow
from flows.store import remote
from flows.store.local import Artifact, Store
from flows.store.open import open_artifact, open_store
from textmill.errors import UserError

s3fs = pytest.importorskip("s3fs", reason="s3fs is not installed: pip install -e '.[dev]'")
pytest.importorskip("moto.server", reason="moto is not installed: pip install -e '.[dev]'")


class S3Server:
    """moto's S3 server as a process of its own, whose log of requests tells what was asked of it."""

    def __init__(self, folder: Path) -> None:
        with socket.socket() as free:
            free.bind(("127.0.0.1", 0))
            port = free.getsockname()[1]
        self.url = f"http://127.0.0.1:{port}"
        self.log = folder / "s3.log"
        self.process = subprocess.Popen(
            [sys.executable, "-c", "from moto.server import main; main()", "-H", "127.0.0.1", "-p", str(port)],
            stdout=subprocess.DEVNULL,
            stderr=self.log.open("w"),
        )
        deadline = time.monotonic() + 240
        while "Running on" not in self.log.read_text():
            assert self.process.poll() is None and time.monotonic() < deadline, self.log.read_text()
            time.sleep(0.05)

    def requests(self) -> list[tuple[str, str]]:
        """Method and path of every request so far."""
        lines = [line.split('"')[1].split() for line in self.log.read_text().splitlines() if 'HTTP/1.1"' in line]
        return [(method, path) for method, path, _ in lines]

    def reads_during(self, action: Callable[[], object]) -> Counter[str]:
        """How often each object, by the last two parts of its key, is downloaded by `action`."""
        before = len(self.requests())
        action()
        asked = [path for method, path in self.requests()[before:] if method == "GET" and "?" not in path]
        return Counter("/".join(path.split("/")[-2:]) for path in asked)


@pytest.fixture(scope="module")
def server(tmp_path_factory):
    """An S3 server that the environment gives access to."""
    running = S3Server(tmp_path_factory.mktemp("s3"))
    with pytest.MonkeyPatch.context() as environment:
        environment.setenv("AWS_ENDPOINT_URL", running.url)
        environment.setenv("AWS_ACCESS_KEY_ID", "test")
        environment.setenv("AWS_SECRET_ACCESS_KEY", "test")
        environment.setenv("AWS_DEFAULT_REGION", "us-east-1")
        s3fs.S3FileSystem.clear_instance_cache()
        yield running
    running.process.terminate()
    running.process.wait()


def new_bucket() -> str:
    """The URL of a store in a new bucket."""
    name = f"textmill-{uuid4()}"
    s3fs.S3FileSystem().mkdir(name)
    return f"s3://{name}/some/store"


@pytest.fixture
def bucket(server):
    return new_bucket()


@pytest.fixture
def machine(bucket, tmp_path, monkeypatch) -> Callable[[str], Store]:
    """The store as a machine of this name sees it: with a cache of its own."""

    def on(name: str) -> Store:
        monkeypatch.setenv("TEXTMILL_CACHE", str(tmp_path / name))
        return open_store(bucket)

    return on


class WordsConfig(BaseModel):
    text: str = "to be or not to be"


class CountConfig(BaseModel):
    pass


class Words(Stage[WordsConfig]):
    name = "words"
    version = 1
    records = ("*.log",)

    def build(self, job):
        (job.out / "words.txt").write_text("\n".join(job.config.text.split()))
        (job.out / "more").mkdir(exist_ok=True)
        (job.out / "more" / "letters.txt").write_text(job.config.text)
        (job.out / "stats.json").write_text('{"words": 6}')
        (job.out / "clock.log").write_text(str(time.time_ns()))

    def headline(self, stats):
        return "words"


class Count(Stage[CountConfig]):
    name = "count"
    version = 1
    inputs = ("words",)

    def build(self, job):
        (job.out / "count.txt").write_text(str(len((job.path("words") / "words.txt").read_text().split())))

    def headline(self, stats):
        return "a count"


words, count = Words(), Count()


def made(stage: Stage, config: BaseModel, inputs: dict[str, Artifact], store: Store, **options: bool) -> Outcome:
    return materialize(stage, config, inputs, Context(store, options=Options(**options)))


def objects(store: Store) -> dict[str, str]:
    """Full path of each object of the store, by its path in the store."""
    return {path.removeprefix(f"{store.prefix}/"): path for path in store.fs.find(store.prefix)}


def object_of(artifact: Artifact, name: str) -> str:
    return f"{artifact.store.prefix}/{'/'.join(artifact.name)}/{artifact.manifest.upload}/{name}"


def copies(store: Store) -> list[str]:
    """Files of artifacts on this machine."""
    return [path.name for path in store.root.glob("*/[!.]*/*/**/*") if path.is_file()]


def test_an_artifact_is_files_under_a_prefix_of_its_own_and_a_manifest_that_names_it(machine):
    store = machine("a")
    outcome = made(words, WordsConfig(), {}, store)
    artifact = outcome.artifact
    stage, fingerprint = artifact.name
    prefix = f"{stage}/{fingerprint}/{artifact.manifest.upload}"
    names = ["clock.log", "more/letters.txt", "stats.json", "words.txt"]
    assert not outcome.reused
    assert sorted(objects(store)) == [
        ".probe", f"{stage}/{fingerprint}.json", *(f"{prefix}/{name}" for name in names)
    ]  # fmt: skip
    assert artifact.location == f"{store.location}/{stage}/{fingerprint}"
    assert artifact.manifest.files.keys() == set(names)
    assert (artifact.path / "more" / "letters.txt").read_text() == "to be or not to be"
    assert open_artifact(artifact.location) == artifact
    assert list(store.artifacts()) == [artifact]


def test_another_machine_reuses_it_and_downloads_only_what_a_build_needs(machine, server):
    source = made(words, WordsConfig(), {}, machine("a")).artifact
    store = machine("b")

    def find():
        found = made(words, WordsConfig(), {}, store)
        assert (found.artifact, found.reused) == (source, True)
        assert found.artifact.stats == {"words": 6}

    reads = server.reads_during(find)
    assert reads == {f"words/{source.name[1]}.json": 1, f"{source.manifest.upload}/stats.json": 1}
    assert copies(store) == []

    counted = made(count, CountConfig(), {"words": store.find(*source.name)}, store)
    assert not counted.reused
    assert (counted.artifact.path / "count.txt").read_text() == "6"
    assert sorted(copies(store)) == [
        "clock.log", "count.txt", "letters.txt", "manifest.json", "manifest.json", "stats.json", "words.txt"
    ]  # fmt: skip
    again = server.reads_during(lambda: made(count, CountConfig(), {"words": source}, store, force=True))
    assert not [name for name in again if name.endswith(".txt")]  # the copy is there


def test_the_same_settings_have_the_same_fingerprint_in_a_folder_and_in_a_bucket(machine, tmp_path):
    there = made(words, WordsConfig(), {}, machine("a")).artifact
    here = made(words, WordsConfig(), {}, Store(tmp_path / "store")).artifact
    assert (there.name, there.digest) == (here.name, here.digest)


@pytest.mark.parametrize(
    ("harm", "words_for_it"),
    [
        (lambda fs, path: fs.rm_file(path), "words.txt is missing"),
        (lambda fs, path: fs.pipe_file(path, b"to"), "words.txt has 2 bytes instead of"),
    ],
)
def test_an_object_that_is_deleted_or_truncated_rebuilds_that_artifact_only(machine, harm, words_for_it):
    store = machine("a")
    source = made(words, WordsConfig(), {}, store).artifact
    made(count, CountConfig(), {"words": source}, store)
    harm(store.fs, object_of(source, "words.txt"))
    assert words_for_it in assess(words, WordsConfig(), {}, Context(store)).reason
    again = made(words, WordsConfig(), {}, store)
    assert not again.reused
    source = again.artifact
    assert source.damage(verify=True) is None
    assert made(count, CountConfig(), {"words": source}, store).reused


def test_altered_bytes_of_the_same_size_are_refused_when_downloaded_and_found_with_verify(machine):
    source = made(words, WordsConfig(), {}, machine("a")).artifact
    store = machine("b")
    store.fs.pipe_file(object_of(source, "words.txt"), b"TO BE OR NOT TO BE"[: source.manifest.files["words.txt"].size])
    found = made(words, WordsConfig(), {}, store).artifact
    with pytest.raises(UserError, match=r"words.txt has been altered .*--verify"):
        made(count, CountConfig(), {"words": found}, store)
    mended = made(words, WordsConfig(), {}, store, verify=True)
    assert not mended.reused
    assert (mended.artifact.fetch() / "words.txt").read_text().split() == WordsConfig().text.split()


def test_a_manifest_that_names_another_place_writes_nothing_there(machine, tmp_path):
    """As a stranger's might, in a bucket that one was asked to look at."""
    artifact = made(words, WordsConfig(), {}, machine("a")).artifact
    store = machine("b")
    victim = tmp_path / "home"
    manifest = artifact.manifest.model_copy(update={"stage": str(victim)})
    name = artifact.name[1]
    for file in manifest.files:
        place = f"{store.prefix}/{victim}/{name}/{manifest.upload}/{file}"
        store.fs.pipe_file(place, (artifact.path / file).read_bytes())
    store.fs.pipe_file(f"{store.prefix}/words/{name}.json", manifest.model_dump_json().encode())
    with pytest.raises(UserError, match="is not an artifact"):
        open_artifact(f"{store.location}/words/{name}").fetch()
    assert not victim.exists()


def test_a_copy_that_lost_a_file_is_downloaded_again(machine):
    source = made(words, WordsConfig(), {}, machine("a")).artifact
    (source.path / "words.txt").unlink()
    (source.path / "stats.json").write_text("{")
    assert (source.fetch() / "words.txt").read_text().split() == WordsConfig().text.split()
    assert source.damage(verify=True) is None


def test_who_reads_keeps_what_it_was_given_while_it_is_rebuilt(machine):
    store = machine("a")
    given = ["old words"]

    class Given(Words):
        def build(self, job):
            (job.out / "words.txt").write_text(given[-1])

    class Reader(Count):
        def build(self, job):
            given.append("three new words")
            made(stage, WordsConfig(), {}, store, force=True)
            super().build(job)

    stage = Given()
    source = made(stage, WordsConfig(), {}, store).artifact

    counted = made(Reader(), CountConfig(), {"words": source}, store).artifact
    assert (counted.path / "count.txt").read_text() == "2"


def test_two_machines_that_build_the_same_leave_one_whole_artifact(machine, monkeypatch):
    """The second begins before the first has sealed, and seals after it."""
    first = machine("a")
    second = machine("b")
    inner = []

    class Interleaved(Words):
        def build(self, job):
            if job.context.store is second:
                inner.append(made(self, WordsConfig(), {}, first).artifact)
            super().build(job)

    stage = Interleaved()
    later = made(stage, WordsConfig(), {}, second).artifact
    (earlier,) = inner
    assert first.find(*earlier.name) == later != earlier
    assert earlier.damage() is later.damage() is None  # who read the first manifest still finds its files
    assert earlier.digest == later.digest
    assert list(second.leftovers(set())) == []  # young: it might be under way
    monkeypatch.setattr(remote, "UPLOAD_TIME", timedelta(0))
    (old,) = second.leftovers(set())
    assert old.location == f"{earlier.location}/{earlier.manifest.upload}"
    old.remove()
    assert earlier.damage() == "clock.log is missing"
    assert later.damage(verify=True) is None
    (copy,) = first.leftovers(set())
    assert copy.location == str(earlier.path)


def test_what_is_removed_is_gone_from_bucket_and_cache(machine):
    store = machine("a")
    artifact = made(words, WordsConfig(), {}, store).artifact
    kept = made(words, WordsConfig(text="kept"), {}, store).artifact
    store.remove(artifact)
    assert list(store.artifacts()) == [kept]
    assert not artifact.path.exists() and kept.path.exists()
    assert not [path for path in objects(store) if artifact.name[1] in path]


# A process that builds and seals an artifact of many files; kill -9 hits it when it has uploaded a given number.
# It does so itself: who watches from outside, on a busy machine, may look again only when everything is uploaded.
MANY = textwrap.dedent(
    """
    import os, signal, sys
    from pydantic import BaseModel
    from s3fs import S3FileSystem
    from flows.engine.materialize import materialize
    from flows.engine.stage import Context, Stage
    from flows.store.open import open_store

    class Settings(BaseModel):
        files: int = 60

    class Many(Stage[Settings]):
        name = "many"
        version = 1

        def build(self, job):
            print("building", flush=True)
            for number in range(job.config.files):
                (job.out / f"{number:03}.txt").write_text(str(number) * 1000)

        def headline(self, stats):
            return "many files"

    put, left = S3FileSystem.put_file, [int(sys.argv[2])]

    def put_then_die(self, *args, **kwargs):
        put(self, *args, **kwargs)
        left[0] -= 1
        if left[0] == 0:
            os.kill(os.getpid(), signal.SIGKILL)

    S3FileSystem.put_file = put_then_die
    outcome = materialize(Many(), Settings(), {}, Context(open_store(sys.argv[1])))
    print("reused" if outcome.reused else "built", flush=True)
    """
)


def test_kill_9_in_the_middle_of_an_upload_leaves_nothing_to_see_and_the_next_run_finishes(machine, monkeypatch):
    store = machine("a")

    def process(killed_after: int) -> subprocess.CompletedProcess:
        command = [sys.executable, "-c", MANY, store.location, str(killed_after)]
        return subprocess.run(command, capture_output=True, text=True, timeout=240)

    assert process(killed_after=10).returncode == -signal.SIGKILL
    assert len([path for path in objects(store) if path.startswith("many/")]) == 10
    assert list(store.artifacts()) == []

    # what was built before the kill is uploaded, not built again
    assert process(killed_after=0).stdout.split() == ["reused"]
    (artifact,) = store.artifacts()
    assert artifact.damage(verify=True) is None
    assert len(artifact.manifest.files) == 60

    monkeypatch.setattr(remote, "UPLOAD_TIME", timedelta(0))
    (interrupted,) = store.leftovers(set())
    interrupted.remove()
    assert len(objects(store)) == 60 + 2  # the manifest and the probe
    assert artifact.damage() is None


def test_mistakes_are_one_line_before_any_work(machine, bucket, server, monkeypatch):
    def refused(location: str) -> str:
        s3fs.S3FileSystem.clear_instance_cache()
        with pytest.raises(UserError) as error:
            open_store(location)
        assert "\n" not in str(error.value)
        return str(error.value)

    machine("a")
    assert "there is no bucket 'another-bucket'" in refused("s3://another-bucket/store")
    assert "Protocol not known" in refused("s4://bucket/store")
    assert "write s3://BUCKET/PREFIX" in refused("s3://")
    httpx.post(f"{server.url}/moto-api/reset-auth", content="0").raise_for_status()
    assert "check AWS_ACCESS_KEY_ID" in refused(bucket)
    httpx.post(f"{server.url}/moto-api/reset-auth", content="inf").raise_for_status()
    monkeypatch.setenv("AWS_ENDPOINT_URL", "http://127.0.0.1:9")
    assert "Could not connect" in refused(bucket)
    with pytest.raises(UserError, match="give STORE/STAGE/FINGERPRINT"):
        open_artifact("s3://bucket")
    monkeypatch.delitem(fsspec_registry, "s3")  # what was imported once is remembered
    monkeypatch.setitem(sys.modules, "s3fs", None)
    assert refused(bucket).endswith("pip install 'textmill[s3]'")


def test_a_cache_that_cannot_be_written_is_named(bucket, tmp_path, monkeypatch):
    (tmp_path / "file").write_text("")
    monkeypatch.setenv("TEXTMILL_CACHE", str(tmp_path / "file"))
    with pytest.raises(UserError, match="set TEXTMILL_CACHE"):
        made(words, WordsConfig(), {}, open_store(bucket))


@pytest.mark.parametrize("location", ["memory://textmill-test", "file://{folder}/store"])
def test_any_file_system_that_fsspec_knows_will_do(location, tmp_path, monkeypatch):
    monkeypatch.setenv("TEXTMILL_CACHE", str(tmp_path / "cache"))
    store = open_store(location.format(folder=tmp_path))
    artifact = made(words, WordsConfig(), {}, store).artifact
    monkeypatch.setenv("TEXTMILL_CACHE", str(tmp_path / "another"))
    elsewhere = open_store(store.location)
    found = made(words, WordsConfig(), {}, elsewhere)
    assert (found.artifact, found.reused) == (artifact, True)
    counted = made(count, CountConfig(), {"words": artifact}, elsewhere).artifact
    assert (counted.fetch() / "count.txt").read_text() == "6"
    store.remove(artifact)
    assert list(store.artifacts()) == [counted]


@pytest.fixture(scope="module")
def trained(server, prefect_server, small_config, tmp_path_factory):
    """The small pipeline's configuration, run to its end by a machine named "first"."""
    folder = tmp_path_factory.mktemp("trained")
    config = small_config(folder, store=new_bucket(), finetune=None)
    with pytest.MonkeyPatch.context() as environment:
        environment.setenv("TEXTMILL_CACHE", str(folder / "first"))
        assert not any(outcome.reused for outcome in run(config))
    return config


@pytest.fixture
def second(trained, tmp_path, monkeypatch):
    """The store of that run as another machine sees it."""
    monkeypatch.setenv("TEXTMILL_CACHE", str(tmp_path / "second"))
    return open_store(load_config(trained).store)


def run(config: Path, flow=pipeline, **overrides) -> list[Outcome]:
    return flow(config=str(config), overrides=overrides, return_state=True).result()


@pytest.mark.slow
def test_a_plan_reads_manifests_and_a_run_that_reuses_everything_figures_too(trained, second, server):
    manifests = {f"{artifact.name[0]}/{artifact.name[1]}.json" for artifact in second.artifacts()}
    figures = {f"{artifact.manifest.upload}/stats.json" for artifact in second.artifacts()}
    assert len(manifests) == len(figures) == 6
    [snapshot] = second.artifacts("scrape")
    lacking = {f"{snapshot.manifest.upload}/stats.json"}  # what a crawl left out decides whether it is reused
    assert server.reads_during(lambda: plan(load_config(trained))).keys() == manifests | lacking
    outcomes = []
    reads = server.reads_during(lambda: outcomes.extend(run(trained)))
    assert len(outcomes) == 6
    assert all(outcome.reused for outcome in outcomes)
    assert reads.keys() == manifests | figures
    assert copies(second) == []


@pytest.mark.slow
def test_a_model_is_trained_on_copies_of_what_another_machine_made(trained, second, textmill, tmp_path):
    [trained_again] = run(trained, stage_flow("pretrain"), pretrain={"seed": 7})
    assert not trained_again.reused
    model = trained_again.artifact
    assert {path.parent.parent.parent.name for path in second.root.glob("*/*/*/manifest.json")} == {
        "pretokenize", "train_tokenizer", "pretrain"
    }  # fmt: skip

    def command(*arguments) -> str:
        process = textmill(*arguments)
        out, err = process.communicate(timeout=120)
        assert process.returncode == 0, err
        return out

    assert command("generate", model.location, "The", "--max-tokens", 4).startswith("The")
    then = load_config(write_configuration(open_artifact(model.location), tmp_path / "then"))
    assert (then.pretrain.seed, then.store) == (7, second.location)
    line, _ = command("gc", trained).splitlines()
    assert line.split()[0] == model.location
    assert second.find(*model.name) is None
    assert not model.path.exists()
    assert {step.action for step in plan(load_config(trained))} == {"reuse"}
