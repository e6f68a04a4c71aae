"""The service on one machine: a Prefect server, what Textmill needs on it, and a worker.

Everything made on the server is made anew or brought up to date, so `textmill up` may follow on an older one.
"""

from __future__ import annotations

import os
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

import httpx
import yaml
from prefect.client.orchestration import SyncPrefectClient, get_client
from prefect.client.schemas.actions import WorkPoolCreate
from prefect.client.schemas.filters import FlowRunFilter, FlowRunFilterState, FlowRunFilterStateType
from prefect.client.schemas.objects import FlowRun, StateType
from prefect.events.schemas.automations import AutomationCore
from prefect.exceptions import ObjectAlreadyExists
from prefect.settings import PREFECT_API_URL, temporary_settings
from prefect.states import Cancelling
from prefect.workers.process import ProcessWorker

from flows.devices import LIMIT, gpus
from flows.errors import FlowError
from flows.training import die_with_parent

POOL = "textmill"
DEPLOYMENTS = Path("prefect.yaml")
AUTOMATIONS = Path("automations.yaml")
HEARTBEAT_SECONDS = 30  # the least that Prefect allows; automations.yaml waits for three of them
START_SECONDS = 180.0  # a new database takes a while on a slow disk
CANCEL_SECONDS = 40.0  # Prefect gives a cancelled run 30
STOP_SECONDS = 15.0


def run(host: str, port: int, database: str | None, tell: Callable[[str], None]) -> None:
    """Bring the service up and keep it until interrupted (KeyboardInterrupt): then runs under way are cancelled, so
    that trainings save their checkpoints, and worker and server are stopped.

    Raises:
        FlowError: the wrong folder, a port in use, or a server that does not start.
    """
    for needed in (DEPLOYMENTS, AUTOMATIONS):
        if not needed.is_file():
            raise FlowError(f"there is no {needed} here: run this in the folder of the project")
    address = f"http://{host}:{port}"
    environment = {
        **os.environ,
        "PREFECT_API_URL": f"{address}/api",
        "PREFECT_FLOWS_HEARTBEAT_FREQUENCY": str(HEARTBEAT_SECONDS),
        # Kept in memory, the slots of a limit would stay taken for ever after a restart of the server.
        "PREFECT_SERVER_CONCURRENCY_LEASE_STORAGE": "prefect.server.concurrency.lease_storage.filesystem",
    }
    if database:
        environment["PREFECT_API_DATABASE_CONNECTION_URL"] = database
    if _answers(address):
        raise FlowError(f"a server answers at {address} already: stop it, or choose another --port")
    with temporary_settings({PREFECT_API_URL: environment["PREFECT_API_URL"]}), _server(host, port, environment):
        with get_client(sync_client=True) as client:
            furnish(client)
        tell(f"Server ready at {address}")
        _deploy(environment)
        tell("Deployments ready: start them in the UI, or with `prefect deployment run pipeline/demo`")
        _work(environment, tell, address)


def furnish(client: SyncPrefectClient) -> None:
    """Make the work pool, the limit of trainings and the automations, or bring them up to date; the deployments make
    the pool's queues."""
    template = ProcessWorker.get_default_base_job_template()
    with suppress(ObjectAlreadyExists):
        client.create_work_pool(WorkPoolCreate(name=POOL, type="process", base_job_template=template))
    client.upsert_global_concurrency_limit_by_name(LIMIT, max(1, len(gpus())))
    for document in yaml.safe_load(AUTOMATIONS.read_text())["automations"]:
        automation = AutomationCore.model_validate(document)
        known = client.read_automations_by_name(automation.name)
        if known:
            client.update_automation(known[0].id, automation)
        else:
            client.create_automation(automation)


def online() -> list[str]:
    """Names of the workers of our pool that the server has lately heard from.

    Raises:
        prefect.exceptions.ObjectNotFound: there is no such pool.
    """
    with get_client(sync_client=True) as client:
        client.read_work_pool(POOL)
        return [worker.name for worker in client.read_workers_for_work_pool(POOL) if worker.status == "ONLINE"]


def _answers(address: str) -> bool:
    try:
        return httpx.get(f"{address}/api/health", timeout=5).is_success
    except httpx.HTTPError:
        return False


@contextmanager
def _server(host: str, port: int, environment: dict[str, str]) -> Iterator[None]:
    command = ["server", "start", "--host", host, "--port", str(port)]
    with _prefect(command, environment) as server:
        deadline = time.monotonic() + START_SECONDS
        while not _answers(f"http://{host}:{port}"):
            if server.poll() is not None:
                raise FlowError(f"the Prefect server ended with exit status {server.returncode}; see its lines above")
            if time.monotonic() > deadline:
                raise FlowError(f"the Prefect server did not answer within {START_SECONDS:.0f} s; see its lines above")
            time.sleep(0.3)
        yield


def _deploy(environment: dict[str, str]) -> None:
    done = subprocess.run(
        [sys.executable, "-m", "prefect", "--no-prompt", "deploy", "--all", "--prefect-file", str(DEPLOYMENTS)],
        env=environment, capture_output=True, text=True, check=False,
    )  # fmt: skip
    if done.returncode:
        raise FlowError(f"{DEPLOYMENTS} could not be deployed:\n{done.stdout}{done.stderr}")


def _work(environment: dict[str, str], tell: Callable[[str], None], address: str) -> None:
    """Keep a worker at work until interrupted; one that dies is replaced."""
    command = ["worker", "start", "--pool", POOL, "--type", "process", "--name", socket.gethostname()]
    while True:
        with _prefect(command, environment) as worker:
            try:
                while worker.poll() is None and not online():
                    time.sleep(0.5)
                tell(f"Worker online; watch at {address}; Ctrl-C stops everything")
                worker.wait()
            except BaseException:  # an interruption
                tell("Stopping: runs under way are told to save what they have")
                _cancel_runs()
                raise
        tell(f"The worker ended with exit status {worker.returncode}; starting another")
        time.sleep(5)


def _cancel_runs() -> None:
    """Cancel what is running and wait until it has ended."""
    with get_client(sync_client=True) as client:
        for flow_run in _runs(client, StateType.RUNNING, StateType.PENDING):
            client.set_flow_run_state(flow_run.id, Cancelling(message="`textmill up` was stopped; retry to continue"))
        deadline = time.monotonic() + CANCEL_SECONDS
        while _runs(client, StateType.CANCELLING) and time.monotonic() < deadline:
            time.sleep(0.5)


def _runs(client: SyncPrefectClient, *states: StateType) -> list[FlowRun]:
    """Runs of our pool in one of these states."""
    wanted = FlowRunFilter(state=FlowRunFilterState(type=FlowRunFilterStateType(any_=list(states))))
    return [run for run in client.read_flow_runs(flow_run_filter=wanted) if run.work_pool_name == POOL]


@contextmanager
def _prefect(arguments: list[str], environment: dict[str, str]) -> Iterator[subprocess.Popen]:
    """A Prefect program beside us, out of reach of the terminal's Ctrl-C: it is stopped when the context ends."""
    with subprocess.Popen(
        [sys.executable, "-m", "prefect", *arguments],
        env=environment,
        start_new_session=True,
        preexec_fn=die_with_parent,
    ) as process:
        try:
            yield process
        finally:
            process.terminate()
            try:
                process.wait(STOP_SECONDS)
            except subprocess.TimeoutExpired:
                process.kill()
