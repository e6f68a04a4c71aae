"""Several machines: one Prefect server, a worker for each queue, and a bucket that they share. Here they are processes
with nothing else in common: each has its own home, project folder, and cache."""

from __future__ import annotations

import os
import shutil
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import httpx
import pytest
from prefect.client.orchestration import SyncPrefectClient

from flows.engine.materialize import materialize
from flows.engine.stage import Context, Stage
from flows.pipeline.chain import chain
from flows.pipeline.config import load_config
from flows.pipeline.selection import Selection
from flows.store.local import Artifact, Store
from flows.store.open import open_store
from textmill.processes import python_command

s3fs = pytest.importorskip("s3fs", reason="s3fs is not installed: pip install -e '.[dev]'")
pytest.importorskip("moto.server", reason="moto is not installed: pip install -e '.[dev]'")

pytestmark = pytest.mark.slow

PROJECT = Path(__file__).parents[3]
TEXTMILL = Path(sys.executable).parent / "textmill"
STAGES = ["scrape", "prepare", "train_tokenizer", "pretokenize", "pretrain"]
# Each machine has the project in a folder of its own, which its worker's environment names.
FOLDER = "{{ $TEXTMILL_PROJECT }}"
BUCKET = "shared"


def free_port() -> int:
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        return free.getsockname()[1]


@contextmanager
def running(
    command: list[str], folder: Path, environment: dict[str, str], ready: Callable[[str], bool]
) -> Iterator[None]:
    """A program in a folder, once it is ready, which its output may tell; stopped at the end."""
    output = folder / f"{Path(command[0]).name}-{len(list(folder.glob('*.log')))}.log"
    with output.open("w") as log:
        process = subprocess.Popen(
            command, cwd=folder, env=environment, stdout=log, stderr=subprocess.STDOUT, start_new_session=True
        )
    try:
        deadline = time.monotonic() + 120
        while not ready(output.read_text()):
            assert process.poll() is None and time.monotonic() < deadline, output.read_text()
            time.sleep(0.1)
        yield
    finally:
        process.send_signal(signal.SIGTERM)
        try:
            process.wait(240)
        except subprocess.TimeoutExpired:
            os.killpg(process.pid, signal.SIGKILL)
            raise


def answers(url: str) -> bool:
    try:
        return httpx.get(url).is_success
    except httpx.HTTPError:
        return False


@dataclass
class Site:
    """A server, a bucket, and the folders of the machines that use them."""

    folder: Path
    environment: dict[str, str]
    store: str

    def machine(self, name: str) -> Path:
        """The project folder of a new machine."""
        project = self.folder / name / "project"
        (project / "configs").mkdir(parents=True)
        shutil.copy(self.folder / "small.yaml", project / "configs" / "demo.yaml")
        return project

    def worker(self, name: str, queue: str):
        """A worker on a new machine."""
        project = self.machine(name)
        home = project.parent
        environment = self.environment | {
            "HOME": str(home), "PREFECT_HOME": str(home / "prefect"), "TEXTMILL_PROJECT": str(project)
        }  # fmt: skip
        command = [str(TEXTMILL), "worker", "--queue", queue, "--name", name]
        return running(command, home, environment, lambda output: "Worker online" in output)

    def run(self, deployment: str) -> str:
        """Run a deployment to its end; what it says it came to."""
        with SyncPrefectClient(self.environment["PREFECT_API_URL"]) as client:
            found = client.read_deployment_by_name(deployment)
            run = client.create_flow_run_from_deployment(found.id)
            deadline = time.monotonic() + 120
            while not (state := client.read_flow_run(run.id).state).is_final():
                assert time.monotonic() < deadline, state
                time.sleep(0.2)
        assert state.is_completed(), state.message
        return state.message


@pytest.fixture(scope="module")
def site(tmp_path_factory, small_config) -> Iterator[Site]:
    folder = tmp_path_factory.mktemp("site")
    s3, server = free_port(), free_port()
    environment = {name: value for name, value in os.environ.items() if not name.startswith(("PREFECT_", "XDG_"))}
    environment |= {
        "AWS_ENDPOINT_URL": f"http://127.0.0.1:{s3}", "AWS_ACCESS_KEY_ID": "test", "AWS_SECRET_ACCESS_KEY": "test",
        "AWS_DEFAULT_REGION": "us-east-1", "PREFECT_API_URL": f"http://127.0.0.1:{server}/api",
        "PREFECT_HOME": str(folder / "prefect"), "PREFECT_WORKER_QUERY_SECONDS": "1",
    }  # fmt: skip
    store = f"s3://{BUCKET}/textmill"
    small_config(folder, store=store)
    python, bind = sys.executable, ["--host", "127.0.0.1", "--port"]
    bucket_server = [python, "-c", "from moto.server import main; main()", *bind, str(s3)]
    prefect_server = python_command("flows.service.collector", "prefect", "server", "start", *bind, str(server))
    with (
        running(bucket_server, folder, environment, lambda output: "Running on" in output),
        running(prefect_server, folder, environment, lambda _: answers(f"{environment['PREFECT_API_URL']}/health")),
        pytest.MonkeyPatch.context() as ours,
    ):
        for name in filter(lambda name: name.startswith("AWS_"), environment):
            ours.setenv(name, environment[name])
        ours.setenv("TEXTMILL_CACHE", str(folder / "looking-on"))
        s3fs.S3FileSystem.clear_instance_cache()
        s3fs.S3FileSystem().mkdir(BUCKET)
        deploy(folder, environment)
        yield Site(folder, environment, store)


def deploy(folder: Path, environment: dict[str, str]) -> None:
    (folder / "configs").mkdir()
    shutil.copy(folder / "small.yaml", folder / "configs" / "demo.yaml")
    command = [TEXTMILL, "deploy", "--folder", FOLDER]
    done = subprocess.run(
        command, cwd=folder, env=environment, capture_output=True, text=True, check=False, timeout=120
    )
    assert done.returncode == 0, done.stderr


@pytest.fixture
def alone(small_config, tmp_path) -> Callable[[str], dict[str, Artifact]]:
    """Build every stage up to this one in this process, in a folder; the artifacts by stage."""

    def build(last: str) -> dict[str, Artifact]:
        config, made = load_config(small_config(tmp_path)), {}
        store, left_out = Store(Path(config.store)), Selection(only=last).leaves_out(config)

        def visit(stage: Stage, config, /, **inputs) -> Artifact | None:
            if stage.name in left_out:
                return None
            made[stage.name] = materialize(stage, config, inputs, Context(store)).artifact
            return made[stage.name]

        chain(config, visit)
        return made

    return build


def test_what_one_machine_prepares_another_trains_on_and_it_is_what_one_alone_would_make(site, alone):
    with site.worker("scraper", "cpu"), site.worker("trainer", "gpu"):
        for stage in STAGES:
            assert site.run(f"{stage}/{stage}") == "1 built, 0 reused"
    store = open_store(site.store)
    shared = {artifact.name[0]: artifact for artifact in store.artifacts()}
    expected = alone("pretrain")
    assert list(shared) == list(expected) == STAGES
    assert not any(artifact.damage(verify=True) for artifact in shared.values())
    for stage in STAGES[1:]:  # a crawl is a snapshot, with the times of its requests
        assert shared[stage].digest == expected[stage].digest

    def held_by(name: str) -> list[str]:
        """Stages whose artifacts a machine has the files of."""
        (cache,) = (site.folder / name / ".cache" / "textmill").iterdir()
        return [stage for stage in STAGES if (cache / shared[stage].path.relative_to(store.root)).exists()]

    assert held_by("scraper") == ["scrape", "prepare", "train_tokenizer", "pretokenize"]
    assert held_by("trainer") == ["train_tokenizer", "pretokenize", "pretrain"]
