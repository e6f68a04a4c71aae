"""The service: a Prefect server, what Textmill needs on it, and workers.

`up` is all of it on one machine. `deploy` and `work` are its parts, for a server that runs elsewhere. All commands
can be repeated: they create objects on the server or bring them up to date.
"""

from __future__ import annotations

import socket
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
from sqlalchemy.engine import make_url

from flows.pipeline.project import Project
from flows.service.database import check as check_database
from flows.service.deploying import DeployOptions, Echo, check_server, deploy, environment
from flows.service.deployments import POOL
from flows.service.programs import Program, answers, log_path, start_program, wait_until_it_answers
from textmill.errors import UserError

# Kept in memory, the slots of a limit would stay taken for ever after a restart of the server.
LEASE_STORAGE = "prefect.server.concurrency.lease_storage.filesystem"
START_SECONDS = 180.0  # a new database takes a while on a slow disk
CANCEL_SECONDS = 40.0  # Prefect gives a cancelled run 30
STOP_SECONDS = 15.0
WATCH_SECONDS = 1.0  # between looks at server and worker
SILENT_SECONDS = 90.0  # a server that works hard may be silent for a while
SAY_SECONDS = 10.0


def up(host: str, port: int, database: str | None, echo: Echo) -> None:
    """Bring the whole service up on this machine and keep it until interrupted (KeyboardInterrupt): then runs under way
    are cancelled, so that trainings save their checkpoints, and worker and server are stopped.

    Raises:
        UserError: the wrong folder, a port in use, a database that cannot be used, a server that does not start; later,
            the server or the worker died. What starts services starts this one again.
    """
    # A mistake in the project's files should not have to wait for a server to start.
    _say_what_cannot_be_crawled(Project.open(), echo)
    address = f"http://{host}:{port}"
    if answers(f"{address}/api"):
        raise UserError(f"a server answers at {address} already: stop it, or choose another --port")
    database = database or PREFECT_API_DATABASE_CONNECTION_URL.value()
    check_database(database)
    with temporary_settings({PREFECT_API_URL: f"{address}/api"}), _server(host, port, database, echo) as server:
        echo("Deploying what the project declares")
        with _reaching(server):
            deploy(DeployOptions(), echo)
        work(socket.gethostname(), [], echo, server)


def _say_what_cannot_be_crawled(project: Project, echo: Echo) -> None:
    """The runs of a service have its environment: a contact that is missing now is missing in every crawl."""
    for crawl in project.crawls():
        try:
            crawl.source.user_agent_header()
        except UserError as error:
            if crawl.wanted:
                echo(f"Crawls of {crawl.source.name} will fail until this is started anew: {error}")


def work(name: str, queues: list[str], echo: Echo, server: Program | None = None) -> None:
    """Keep a worker at work on these queues (none: all) until interrupted (KeyboardInterrupt): then its runs are
    cancelled, so that trainings save their checkpoints.

    Raises:
        UserError: no server, or a pool whose runs are not processes; the server cannot be reached any more before the
            worker is online; later, the worker or its `server` died.
    """
    check_server()
    _check_pool()
    command = ["prefect", "worker", "start", "--pool", POOL, "--type", "process", "--name", name]
    command += [word for queue in queues for word in ("--work-queue", queue)]
    echo("Starting the worker")
    with _running(start_program("the worker", command, environment())) as worker:
        try:
            with _reaching(server):
                _wait_until_online(name, worker, server, echo)
            echo(f"Worker online; watch at {PREFECT_API_URL.value().removesuffix('/api')}; Ctrl-C stops it")
            _watch(worker, server)
        except KeyboardInterrupt:
            echo("Stopping: runs under way are told to save what they have")
            _cancel_runs(name, echo)
            raise


def _wait_until_online(name: str, worker: Program, server: Program | None, echo: Echo) -> None:
    """Until the server has heard from the worker; one of them gone is a UserError."""
    say = _now_and_then(echo)
    started = time.monotonic()
    while name not in online():
        worker.check()
        if server:
            server.check()
        say(f"The worker is not online yet, after {time.monotonic() - started:.0f} s")
        time.sleep(0.5)


def _now_and_then(echo: Echo) -> Echo:
    """Prints a line only if the one before is some seconds old, the first after so long."""
    said = time.monotonic()

    def say(line: str) -> None:
        nonlocal said
        if time.monotonic() - said > SAY_SECONDS:
            said = time.monotonic()
            echo(line)

    return say


@contextmanager
def _reaching(server: Program | None) -> Iterator[None]:
    """In the block, a server that cannot be reached any more is a UserError: ours has ended, or it does not answer."""
    try:
        yield
    except httpx.TransportError as error:
        if server:
            server.check()
        where = PREFECT_API_URL.value()
        raise UserError(
            f"the Prefect server at {where} does not answer any more ({str(error) or type(error).__name__})"
            f"{f'; its log: {server.log}' if server else ''}"
        ) from None


def _watch(worker: Program, server: Program | None) -> None:
    """Until one of them is gone, which is a UserError. A server of our own that has fallen silent is gone, too; one
    elsewhere is waited for."""
    heard = time.monotonic()
    while True:
        worker.check()
        if server:
            server.check()
            if answers(PREFECT_API_URL.value()):
                heard = time.monotonic()
            elif time.monotonic() - heard > SILENT_SECONDS:
                raise UserError(f"{server.name} has not answered for {SILENT_SECONDS:.0f} s; its log: {server.log}")
        time.sleep(WATCH_SECONDS)


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
def _server(host: str, port: int, database: str, echo: Echo) -> Iterator[Program]:
    log = log_path(f"server-{port}")
    shown = make_url(database).render_as_string(hide_password=True)
    echo(f"Starting the server on the database {shown} (its log: {log})")
    variables = environment() | {
        "PREFECT_SERVER_CONCURRENCY_LEASE_STORAGE": LEASE_STORAGE,
        "PREFECT_API_DATABASE_CONNECTION_URL": database,
    }
    command = ["flows.service.collector", "prefect", "server", "start", "--host", host, "--port", str(port)]
    say = _now_and_then(echo)
    started = time.monotonic()

    def waiting(elapsed: float) -> None:
        say(f"The server is not ready yet, after {elapsed:.0f} s; a new database takes longest")

    with _running(start_program("the server", command, variables, log)) as server:
        wait_until_it_answers(server, PREFECT_API_URL.value(), START_SECONDS, waiting)
        echo(f"Server ready at http://{host}:{port} after {time.monotonic() - started:.0f} s")
        yield server


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
def _running(program: Program) -> Iterator[Program]:
    """The program is stopped when the context ends."""
    with program.process:
        try:
            yield program
        finally:
            program.stop(STOP_SECONDS)
