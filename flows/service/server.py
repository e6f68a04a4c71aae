"""The service: a Prefect server, what Textmill needs on it, and workers.

`up` is all of it on one machine. `deploy` and `work` are its parts, for a server that runs elsewhere. All commands
can be repeated: they create objects on the server or bring them up to date.
"""

from __future__ import annotations

import socket
import subprocess
import time
from collections.abc import Iterator
from contextlib import contextmanager

import httpx
from prefect.client.orchestration import SyncPrefectClient, get_client
from prefect.client.schemas.filters import FlowRunFilter, FlowRunFilterState, FlowRunFilterStateType
from prefect.client.schemas.objects import FlowRun, StateType
from prefect.exceptions import ObjectNotFound
from prefect.settings import PREFECT_API_DATABASE_CONNECTION_URL, PREFECT_API_URL, temporary_settings
from prefect.states import Cancelling

from flows.pipeline.project import Project
from flows.service.database import check as check_database
from flows.service.deploying import DeployOptions, Echo, answers, check_server, deploy, environment
from flows.service.deployments import POOL
from textmill.errors import UserError
from textmill.processes import die_with_parent, python_command

# Kept in memory, the slots of a limit would stay taken for ever after a restart of the server.
LEASE_STORAGE = "prefect.server.concurrency.lease_storage.filesystem"
START_SECONDS = 180.0  # a new database takes a while on a slow disk
CANCEL_SECONDS = 40.0  # Prefect gives a cancelled run 30
STOP_SECONDS = 15.0


def up(host: str, port: int, database: str | None, echo: Echo) -> None:
    """Bring the whole service up on this machine and keep it until interrupted (KeyboardInterrupt): then runs under way
    are cancelled, so that trainings save their checkpoints, and worker and server are stopped.

    Raises:
        UserError: the wrong folder, a port in use, a database that cannot be used, or a server that does not start.
    """
    Project.open()  # a mistake in its files should not have to wait for a server to start
    address = f"http://{host}:{port}"
    if answers(f"{address}/api"):
        raise UserError(f"a server answers at {address} already: stop it, or choose another --port")
    check_database(database or PREFECT_API_DATABASE_CONNECTION_URL.value())
    with temporary_settings({PREFECT_API_URL: f"{address}/api"}), _server(host, port, database):
        echo(f"Server ready at {address}")
        deploy(DeployOptions(), echo)
        work(socket.gethostname(), [], echo)


def work(name: str, queues: list[str], echo: Echo) -> None:
    """Keep a worker at work on these queues (none: all) until interrupted (KeyboardInterrupt): then its runs are
    cancelled, so that trainings save their checkpoints. A worker that dies is replaced.

    Raises:
        UserError: no server, or a pool whose runs are not processes.
    """
    check_server()
    _check_pool()
    command = ["worker", "start", "--pool", POOL, "--type", "process", "--name", name]
    command += [word for queue in queues for word in ("--work-queue", queue)]
    while True:
        with _prefect(command, environment()) as worker:
            try:
                while worker.poll() is None and name not in online():
                    time.sleep(0.5)
                if worker.poll() is None:
                    echo(f"Worker online; watch at {PREFECT_API_URL.value().removesuffix('/api')}; Ctrl-C stops it")
                worker.wait()
            except BaseException:  # an interruption
                echo("Stopping: runs under way are told to save what they have")
                _cancel_runs(name, echo)
                raise
        echo(f"The worker ended with exit status {worker.returncode}; starting another")
        time.sleep(5)


def online() -> list[str]:
    """Names of the workers of our pool that the server has lately heard from.

    Raises:
        prefect.exceptions.ObjectNotFound: there is no such pool.
    """
    with get_client(sync_client=True) as client:
        client.read_work_pool(POOL)
        return [worker.name for worker in client.read_workers_for_work_pool(POOL) if worker.status == "ONLINE"]


def _check_pool() -> None:
    with get_client(sync_client=True) as client:
        try:
            pool = client.read_work_pool(POOL)
        except ObjectNotFound:
            raise UserError(f"the server has no work pool {POOL!r} yet: `textmill deploy` makes it") from None
    if pool.type != "process":
        raise UserError(
            f"runs of the pool {POOL!r} are not processes but {pool.type}: start `prefect worker start --pool {POOL}`"
        )


@contextmanager
def _server(host: str, port: int, database: str | None) -> Iterator[None]:
    variables = environment() | {"PREFECT_SERVER_CONCURRENCY_LEASE_STORAGE": LEASE_STORAGE}
    if database:
        variables["PREFECT_API_DATABASE_CONNECTION_URL"] = database
    with _prefect(["server", "start", "--host", host, "--port", str(port)], variables) as server:
        deadline = time.monotonic() + START_SECONDS
        while not answers(PREFECT_API_URL.value()):
            if server.poll() is not None:
                raise UserError(f"the Prefect server ended with exit status {server.returncode}; see its lines above")
            if time.monotonic() > deadline:
                raise UserError(f"the Prefect server did not answer within {START_SECONDS:.0f} s; see its lines above")
            time.sleep(0.3)
        yield


def _cancel_runs(worker: str, echo: Echo) -> None:
    """Cancel what this worker is running, and wait until it has ended."""
    try:
        with get_client(sync_client=True) as client:
            for flow_run in _runs(client, worker, StateType.RUNNING, StateType.PENDING):
                client.set_flow_run_state(flow_run.id, Cancelling(message="Its worker was stopped; retry to continue"))
            deadline = time.monotonic() + CANCEL_SECONDS
            while _runs(client, worker, StateType.CANCELLING) and time.monotonic() < deadline:
                time.sleep(0.5)
    except httpx.HTTPError:
        echo("The server does not answer, so that runs under way cannot be cancelled")


def _runs(client: SyncPrefectClient, worker: str, *states: StateType) -> list[FlowRun]:
    """The worker's runs in one of these states."""
    wanted = FlowRunFilter(state=FlowRunFilterState(type=FlowRunFilterStateType(any_=list(states))))
    found = client.read_flow_runs(flow_run_filter=wanted)
    return [run for run in found if run.work_pool_name == POOL and run.labels.get("prefect.worker.name") == worker]


@contextmanager
def _prefect(arguments: list[str], environment: dict[str, str]) -> Iterator[subprocess.Popen[bytes]]:
    """A Prefect program beside us, out of reach of the terminal's Ctrl-C: it is stopped when the context ends."""
    with subprocess.Popen(
        python_command("prefect", *arguments),
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
