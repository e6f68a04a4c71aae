"""`textmill up` and `textmill doctor`: a real server, a real worker, and what they do when things go wrong."""

from __future__ import annotations

import json
import os
import re
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path

import pytest
from prefect.client.orchestration import get_client
from prefect.exceptions import ObjectNotFound
from prefect.settings import PREFECT_API_URL, PREFECT_CLIENT_MAX_RETRIES, temporary_settings
from prefect.states import AwaitingRetry

from flows.engine.devices import LIMIT
from flows.pipeline.project import Project
from flows.service.deploying import ensure_server_objects
from flows.service.deployments import POOL, declared
from flows.service.programs import Program
from flows.service.server import _reaching, _wait_until_online
from textmill.errors import UserError

PROJECT = Path(__file__).parents[3]
TEXTMILL = str(Path(sys.executable).parent / "textmill")
# A training that goes on until it is told to stop
ENDLESS = {"steps": 1_000_000, "checkpoint_every": 500_000, "evaluate_every": 1_000_000, "log_every": 200}


def wait_for(condition, seconds: float = 90):
    deadline = time.monotonic() + seconds
    while not (result := condition()):
        assert time.monotonic() < deadline, "it never came so far"
        time.sleep(0.1)
    return result


@pytest.fixture(scope="module")
def corpus(service) -> None:
    """Everything that training needs is in the service's store."""
    service.wait(service.start("pipeline/demo"), "Completed")


@pytest.fixture
def bare_server(prefect_server) -> None:
    """The server that tests share has no work pool, whatever was deployed there before."""
    with get_client(sync_client=True) as client, suppress(ObjectNotFound):
        client.delete_work_pool(POOL)


@pytest.fixture
def endless(service, corpus):
    """Start a training that goes on until it is cancelled, at the latest when the test ends."""
    started = []

    def start(seed: int, deployment: str = "pretrain/pretrain"):
        started.append(service.start(deployment, {"pretrain": {**ENDLESS, "seed": seed}}))
        return started[-1]

    yield start
    for run in started:
        service.cancel(run)


def retry(service, run) -> None:
    """Retry as the UI does."""
    with service.client() as client:
        client.set_flow_run_state(run, AwaitingRetry())


def parent(pid: int) -> int:
    return int(Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[1])


def test_up_makes_what_it_needs_on_a_fresh_server(service):
    with service.client() as client:
        deployments = client.read_deployments()
        assert {item.name for item in deployments} == {item.name for item in declared(Project.open(service.folder))}
        assert {deployment.work_queue_name for deployment in deployments} == {"cpu", "gpu"}
        umb = client.read_deployment_by_name("scrape/umb")
        assert umb.schedules[0].schedule.timezone == "America/New_York"
        assert umb.parameters["force"] is True  # last week's snapshot would still count as fresh
        assert umb.concurrency_options.collision_strategy == "CANCEL_NEW"
        form = client.read_deployment_by_name("pretrain/pretrain").parameter_openapi_schema
        assert "configs/demo.yaml: 12" in form["properties"]["steps"]["description"]
        assert client.read_global_concurrency_limit_by_name(LIMIT).limit == 1
        assert [worker.status for worker in client.read_workers_for_work_pool(POOL)] == ["ONLINE"]
        assert client.read_automations_by_name("textmill-dead-runs")[0].enabled


def test_making_them_again_changes_nothing_not_even_what_was_switched_on_in_the_ui(service, monkeypatch):
    monkeypatch.chdir(service.folder)
    with service.client() as client:
        before = {automation.id: automation.enabled for automation in client.read_automations()}
        (example,) = client.read_automations_by_name("textmill-worse-model")
        assert not example.enabled
        client.resume_automation(example.id)
        ensure_server_objects(client)
        after = {automation.id: automation.enabled for automation in client.read_automations()}
        client.pause_automation(example.id)
        assert after == before | {example.id: True}


def test_doctor_is_content_with_a_running_service_and_names_what_is_missing(service, bare_server, textmill):
    done = service.command("doctor")
    assert done.returncode == 0, done.stdout
    assert "problem" not in done.stdout
    assert str(len(declared(Project.open(service.folder)))) in next(
        line for line in done.stdout.splitlines() if "deployments" in line
    )
    assert "export TEXTMILL_CONTACT=" in done.stdout
    out, _ = textmill("doctor").communicate(timeout=240)  # a server without pool and a folder without configuration
    assert "→ textmill deploy makes it" in out
    assert "problem  store" in out


def test_up_and_doctor_say_which_crawls_lack_a_contact(service, textmill, small_config, tmp_path, monkeypatch):
    """The runs have the environment of `textmill up`, so it is the last moment to give them one."""
    monkeypatch.delenv("TEXTMILL_CONTACT", raising=False)
    for name in ("configs", "sources"):
        (tmp_path / name).mkdir()
    small_config(tmp_path).rename(tmp_path / "configs" / "demo.yaml")
    (tmp_path / "sources" / "mine.yaml").write_text("start: [http://example.org/]\ncontact: $TEXTMILL_CONTACT\n")
    out, _ = textmill("up", "--port", service.address.rpartition(":")[2]).communicate(timeout=240)  # in use: up ends
    assert "Crawls of mine will fail until this is started anew: source mine: set TEXTMILL_CONTACT" in out
    assert "umb" not in out  # comes with Textmill, and nobody asked for it
    assert "source mine: set TEXTMILL_CONTACT" in textmill("doctor").communicate(timeout=240)[0]


def test_up_says_what_is_in_its_way(service, textmill):
    done = service.command("up", "--port", service.address.rpartition(":")[2])
    assert (done.returncode, "choose another --port" in done.stderr) == (2, True), done.stderr
    elsewhere = textmill("up")
    assert "run this in the folder of a project" in elsewhere.communicate(timeout=240)[1]
    assert elsewhere.returncode == 2


def test_parts_of_the_service_say_what_they_lack(service, bare_server, textmill):
    assert "the server has no work pool" in textmill("worker").communicate(timeout=240)[1]
    assert "run this in the folder of a project" in textmill("deploy").communicate(timeout=240)[1]
    for command in ("worker", "deploy"):
        done = service.command(command, address="http://127.0.0.1:9/api")
        assert (done.returncode, "no Prefect server answers" in done.stderr) == (2, True), done.stderr


@pytest.mark.slow
def test_deploying_again_changes_the_limit_and_nothing_else(service):
    with service.client() as client:
        pool = client.read_work_pool(POOL)
        deployments = {deployment.id for deployment in client.read_deployments()}
        done = service.command("deploy", "--trainings", "3")
        assert (done.returncode, "Deployments ready" in done.stdout) == (0, True), done.stderr
        assert client.read_global_concurrency_limit_by_name(LIMIT).limit == 3
        assert {deployment.id for deployment in client.read_deployments()} == deployments
        assert client.read_work_pool(POOL).base_job_template == pool.base_job_template
        client.upsert_global_concurrency_limit_by_name(LIMIT, 1)


@pytest.mark.slow
def test_a_worker_that_is_stopped_ends_its_own_runs_and_no_others(service, endless):
    """Two workers; the service's own is made to sleep, so that the second run is the other's."""
    first = endless(seed=4)
    wait_for(service.trainings)
    (own,) = [pid for pid in children(service.process.pid) if b"worker" in command_of(pid)]
    os.kill(own, signal.SIGSTOP)
    other = service.popen("worker", "--name", "other", "--queue", "gpu")
    try:
        with service.client() as client:
            client.upsert_global_concurrency_limit_by_name(LIMIT, 2)
        wait_for(lambda: "Worker online" in other.stdout.readline())
        second = endless(seed=5, deployment="pipeline/demo")  # a deployment's own runs wait for each other
        wait_for(lambda: len(service.trainings()) == 2)
        other.send_signal(signal.SIGTERM)
        assert other.wait(240) == 0
    finally:
        other.kill()
        os.kill(own, signal.SIGCONT)
        with service.client() as client:
            client.upsert_global_concurrency_limit_by_name(LIMIT, 1)
    assert service.state(second).name == "Cancelled"
    assert service.state(first).name == "Running"
    assert len(service.trainings()) == 1


def test_a_stage_run_again_from_its_form(service, corpus):
    settings = {"train_tokenizer": {"vocab_size": 480}}  # which no other test of this service builds
    changed = service.start("train_tokenizer/train_tokenizer", settings)
    assert service.wait(changed, "Completed").message == "1 built, 0 reused"
    again = service.start("train_tokenizer/train_tokenizer", settings)
    assert service.wait(again, "Completed").message == "0 built, 1 reused"
    forced = service.start("train_tokenizer/train_tokenizer", settings, force=True)
    assert service.wait(forced, "Completed").message == "1 built, 0 reused"


def test_a_cancelled_training_saves_a_checkpoint_and_a_retry_continues_there(service, endless):
    folder = service.store.root / "pretrain"
    before = set(folder.glob(".work-*"))
    run = endless(seed=2)
    (work,) = wait_for(lambda: set(folder.glob(".work-*")) - before)
    wait_for(lambda: (work / "metrics.jsonl").exists())
    service.cancel(run)
    assert not service.trainings()
    (checkpoint,) = (work / "checkpoints").glob("*[0-9]")  # none was due before
    step = int(checkpoint.name.rpartition("-")[2])
    assert step > 0

    retry(service, run)
    told = wait_for(lambda: re.search(r"continuing from step ([\d,]+)", service.logs(run)))
    assert int(told[1].replace(",", "")) == step


@pytest.mark.slow
def test_a_training_in_a_container_that_is_stopped_saves_a_checkpoint_and_is_due_again(service, endless):
    """The run as a Docker or Kubernetes pool starts it, by the command and the environment of its job template; the
    service's worker sleeps, and takes it when it is due again."""
    template = json.loads((PROJECT / "deploy" / "kubernetes.json").read_text())
    told = template["variables"]["properties"]["env"]["default"]
    folder = service.store.root / "pretrain"
    before = set(folder.glob(".work-*"))
    (own,) = [pid for pid in children(service.process.pid) if b"worker" in command_of(pid)]
    os.kill(own, signal.SIGSTOP)
    try:
        run = endless(seed=6)
        container = subprocess.Popen(
            [sys.executable, "-m", "prefect", "flow-run", "execute"],
            env={**os.environ, **told, "PREFECT_HOME": str(service.folder / "container"),
                 "PREFECT_API_URL": f"{service.address}/api", "PREFECT__FLOW_RUN_ID": str(run)},
        )  # fmt: skip
        (work,) = wait_for(lambda: set(folder.glob(".work-*")) - before)
        wait_for(lambda: (work / "metrics.jsonl").exists())
        container.terminate()
        assert container.wait(template["variables"]["properties"]["grace_period_seconds"]["minimum"]) == 0
        assert service.state(run).name == "AwaitingRetry"
        assert not service.trainings()
        (checkpoint,) = (work / "checkpoints").glob("*[0-9]")  # none was due before
    finally:
        os.kill(own, signal.SIGCONT)
    step = int(checkpoint.name.rpartition("-")[2])
    wait_for(lambda: f"continuing from step {step:,}" in service.logs(run))


@pytest.mark.slow
def test_two_flows_that_train_take_turns(service, corpus):
    longer = {"steps": 400, "evaluate_every": 400, "checkpoint_every": 400}
    runs = [
        service.start("pipeline/demo", {"pretrain": {**longer, "seed": 1}}),
        service.start("pretrain/pretrain", {"pretrain": {**longer, "seed": 2}}),
    ]
    seen: set[int] = set()
    while not all(service.state(run).is_final() for run in runs):
        trainings = service.trainings()
        assert len(trainings) <= 1
        seen.update(trainings)
        time.sleep(0.2)
    assert [service.state(run).name for run in runs] == ["Completed", "Completed"]
    assert len(seen) == 3  # two pretrainings, and the pipeline's fine-tuning


@pytest.mark.slow
def test_a_run_killed_together_with_its_worker_ends_as_crashed_and_a_retry_starts_it_again(service, endless):
    (own,) = [pid for pid in children(service.process.pid) if b"worker" in command_of(pid)]
    os.kill(own, signal.SIGSTOP)
    other = service.popen("worker", "--name", "other", "--queue", "gpu")
    try:
        wait_for(lambda: "Worker online" in other.stdout.readline())
        run = endless(seed=3)
        training = wait_for(lambda: next(iter(service.trainings()), None))
        time.sleep(5)  # a beat has been sent
        for pid in [other.pid, *ancestors(training, other.pid)]:
            with suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)
        wait_for(lambda: not service.trainings())
        assert "No heartbeat" in service.wait(run, "Crashed", seconds=240).message
    finally:
        other.kill()
        os.kill(own, signal.SIGCONT)
    retry(service, run)
    wait_for(service.trainings)


@pytest.mark.slow
@pytest.mark.parametrize("part", ["server", "worker"])
def test_up_ends_with_an_error_once_its_server_or_its_worker_has_died(part, service, tmp_path):
    """systemd then starts it again."""
    (tmp_path / "configs").symlink_to(service.folder / "configs")
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    environment = {name: value for name, value in os.environ.items() if not name.startswith("PREFECT_")}
    up = subprocess.Popen(
        [TEXTMILL, "up", "--port", str(port)],
        cwd=tmp_path, env=environment | {"PREFECT_HOME": str(tmp_path)}, stdout=subprocess.PIPE, stderr=subprocess.PIPE,
        text=True,
    )  # fmt: skip
    try:
        told = []
        while not (told and "Worker online" in told[-1]):
            told.append(up.stdout.readline())
            assert told[-1], up.stderr.read()
        assert "Starting the server on the database sqlite" in told[0]
        (pid,) = [
            pid for pid in children(up.pid) if f"prefect {part} start".encode() in command_of(pid).replace(b"\0", b" ")
        ]
        os.kill(pid, signal.SIGKILL)
        _, complaint = up.communicate(timeout=90)
    finally:
        up.kill()
    assert up.returncode == 2
    assert f"textmill: the {part} was killed by signal 9" in complaint.splitlines()[-1]
    if part == "server":
        assert complaint.endswith(f"its log: {tmp_path}/logs/server-{port}.log\n")


@pytest.fixture
def nobody() -> Iterator[str]:
    """The address of a server that is no more."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    address = f"http://127.0.0.1:{port}/api"
    with temporary_settings({PREFECT_API_URL: address, PREFECT_CLIENT_MAX_RETRIES: 0}):
        yield address


@pytest.fixture
def programs() -> Iterator[tuple[Program, Program]]:
    """Stand for a worker and a server: processes that only live."""
    command = [sys.executable, "-c", "import time; time.sleep(300)"]
    with subprocess.Popen(command) as worker, subprocess.Popen(command) as server:
        yield Program("the worker", worker, None), Program("the server", server, Path("server.log"))
        worker.kill()
        server.kill()


def test_a_server_that_dies_before_the_worker_is_online_is_one_line(nobody, programs):
    worker, server = programs
    silent = f"the Prefect server at {nobody} does not answer any more"
    for ours, told in ((server, f"{silent} .*; its log: server.log"), (None, silent)):
        with pytest.raises(UserError, match=told), _reaching(ours):
            _wait_until_online("here", worker, ours, print)
    server.process.kill()
    server.process.wait(240)
    with pytest.raises(UserError, match=r"the server was killed by signal 9; its log: server.log"), _reaching(server):
        _wait_until_online("here", worker, server, print)


@pytest.mark.parametrize("victim", [0, 1])
def test_the_wait_for_a_worker_watches_both_programs_and_says_that_it_waits(victim, programs, monkeypatch):
    looks = []

    def online() -> list[str]:
        looks.append(1)
        if len(looks) == 3:
            programs[victim].process.kill()
            programs[victim].process.wait(240)
        return ["another"]

    monkeypatch.setattr("flows.service.server.online", online)
    monkeypatch.setattr("flows.service.server.SAY_SECONDS", 0.0)
    told = []
    with pytest.raises(UserError, match=f"{programs[victim].name} was killed by signal 9"):
        _wait_until_online("here", *programs, told.append)
    assert [line.partition(", after ")[0] for line in told] == ["The worker is not online yet"] * 2


def ancestors(pid: int, up_to: int) -> list[int]:
    """The processes between these two."""
    found = []
    while (pid := parent(pid)) not in (up_to, 1):
        found.append(pid)
    return found


def children(pid: int) -> list[int]:
    return [int(child) for child in Path(f"/proc/{pid}/task/{pid}/children").read_text().split()]


def command_of(pid: int) -> bytes:
    return Path(f"/proc/{pid}/cmdline").read_bytes()
