"""A real Prefect server for the tests of flows, and a pipeline small enough to run many times."""

from __future__ import annotations

import functools
import http.server
import os
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path
from uuid import UUID

import pytest
import yaml
from prefect.client.orchestration import SyncPrefectClient
from prefect.client.schemas.filters import LogFilter, LogFilterFlowRunId
from prefect.client.schemas.objects import State
from prefect.states import Cancelling

from flows.service.embedded import COMMAND, ENVIRONMENT
from flows.store.local import Store
from textmill.processes import python_command

PROJECT = Path(__file__).parents[2]
TEXTMILL = str(Path(sys.executable).parent / "textmill")

# A site, a corpus and a model that make a whole run take seconds.
SMALL = {
    "name": "small",
    "scrape": {"sources": ["python-docs"], "max_pages": 16},
    "ingest": None,
    "prepare": {"validation_fraction": 0.25},
    "train_tokenizer": {"vocab_size": 600},
    "pretrain": {
        "steps": 12, "batch": 4, "evaluate_every": 6, "evaluate_tokens": 512, "checkpoint_every": 3,
        "sample_tokens": 8, "model": {"layers": 1, "width": 32, "heads": 2, "context": 32},
    },
    "finetune": {"steps": 6, "batch": 4, "evaluate_every": 6, "evaluate_tokens": 512, "checkpoint_every": 3},
}  # fmt: skip


# What a test asks for, directly or through another fixture, if it needs a Prefect server.
SERVERS = {"prefect_server", "start_service"}


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Mark the tests that need a server: `make fast` leaves them out."""
    for item in items:
        if SERVERS & set(getattr(item, "fixturenames", ())):
            item.add_marker("server")


@pytest.fixture(scope="session")
def prefect_server() -> Iterator[str]:
    """A Prefect server of our own with an empty database; its URL.

    Its garbage is collected as in the servers that Textmill starts: Prefect's own command now and then waits a minute.
    """
    from prefect.server.api.server import SubprocessASGIServer
    from prefect.settings import PREFECT_API_URL, get_current_settings
    from prefect.testing.utilities import prefect_test_harness

    def start(server: SubprocessASGIServer) -> subprocess.Popen:
        settings = get_current_settings().to_environment_variables(exclude_unset=True)
        command = python_command(*COMMAND, "--port", str(server.port))
        return subprocess.Popen(command, env={**os.environ, **ENVIRONMENT, **settings})

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(SubprocessASGIServer, "_run_uvicorn_command", start)
        with prefect_test_harness(server_startup_timeout=240):
            yield PREFECT_API_URL.value()


@pytest.fixture(scope="session")
def small_config() -> Callable[..., Path]:
    """Write the small pipeline's YAML into a folder, its store beside it; keyword arguments change sections."""

    def write(folder: Path, **sections: dict) -> Path:
        document = {**SMALL, "store": str(folder / "store")}
        for name, keys in sections.items():
            document[name] = {**(document.get(name) or {}), **keys} if isinstance(keys, dict) else keys
        path = folder / "small.yaml"
        path.write_text(yaml.safe_dump(document))
        return path

    return write


@pytest.fixture
def write_config(small_config, tmp_path) -> Callable[..., Path]:
    return functools.partial(small_config, tmp_path)


@pytest.fixture
def config(write_config) -> Path:
    return write_config()


@pytest.fixture
def textmill(prefect_server, tmp_path) -> Callable[..., subprocess.Popen]:
    """Start the command line as a user does, in a folder of its own."""

    def start(*arguments: str | Path) -> subprocess.Popen:
        return subprocess.Popen(
            [TEXTMILL, *map(str, arguments)],
            cwd=tmp_path,
            env={**os.environ, "PREFECT_API_URL": prefect_server, "COLUMNS": "200"},
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )

    return start


ABOUT_THE_SITE = ("/robots.txt", "/.well-known/tdmrep.json")  # what a crawl asks for besides pages


@dataclass
class Site:
    """A site on loopback whose pages link to each other.

    Attributes:
        asked: when each request came, and for which path.
        agents: the user agents that asked for a page, in order.
        broken: whether it answers 404 to everything.
    """

    address: str
    asked: list[tuple[float, str]] = field(default_factory=list)
    agents: list[str] = field(default_factory=list)
    broken: bool = False

    @property
    def pages(self) -> list[str]:
        """The pages that were asked for, in order."""
        return [path for _, path in self.asked if path not in ABOUT_THE_SITE]

    @property
    def host(self) -> str:
        return self.address.split("/")[2]

    @property
    def span(self) -> tuple[float, float]:
        """When the first request came, and the last."""
        return self.asked[0][0], self.asked[-1][0]


@pytest.fixture
def start_site() -> Iterator[Callable[[int], Site]]:
    """Serve a site of so many pages."""
    servers = []

    def start(pages: int) -> Site:
        class Pages(http.server.BaseHTTPRequestHandler):
            def do_GET(self):
                site.asked.append((time.monotonic(), self.path))
                if self.path in ABOUT_THE_SITE or site.broken:
                    self.send_error(404)
                    return
                site.agents.append(self.headers["User-Agent"])
                links = "".join(f"<p>Page {n} <a href='/{n}'>is here</a>" for n in range(1, pages))
                self.send_response(200)
                self.send_header("Content-Type", "text/html")
                self.end_headers()
                self.wfile.write(f"<title>{self.path}</title>{links}".encode())

            def log_message(self, *arguments):
                pass

        server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Pages)
        servers.append(server)
        site = Site(f"http://127.0.0.1:{server.server_port}/")
        threading.Thread(target=server.serve_forever, daemon=True).start()
        return site

    yield start
    for server in servers:
        server.shutdown()
        server.server_close()


@dataclass
class RunningService:
    """`textmill up` in a folder of its own, where `configs/demo.yaml` is the small pipeline."""

    folder: Path
    address: str
    process: subprocess.Popen

    @property
    def store(self) -> Store:
        return Store(self.folder / "store")

    def client(self) -> SyncPrefectClient:
        return SyncPrefectClient(f"{self.address}/api")

    def start(self, deployment: str, overrides: dict | None = None, **parameters) -> UUID:
        """Start a run as the UI's form does."""
        with self.client() as client:
            found = client.read_deployment_by_name(deployment)
            changed = {"overrides": overrides} if overrides else {}
            return client.create_flow_run_from_deployment(found.id, parameters={**parameters, **changed}).id

    def state(self, flow_run: UUID) -> State:
        with self.client() as client:
            return client.read_flow_run(flow_run).state

    def wait(self, flow_run: UUID, *names: str, seconds: float = 600) -> State:
        """Wait until the run's state has one of these names."""
        deadline = time.monotonic() + seconds
        while (state := self.state(flow_run)).name not in names:
            assert not (state.is_final() and state.name != "Cancelling"), (state.name, state.message)
            assert time.monotonic() < deadline, (state.name, state.message)
            time.sleep(0.3)
        return state

    def cancel(self, flow_run: UUID) -> None:
        """Cancel as the UI does, and wait as long as Prefect gives a run to end; one that has ended stays as it is."""
        if not self.state(flow_run).is_final():
            with self.client() as client:
                client.set_flow_run_state(flow_run, Cancelling())
            self.wait(flow_run, "Cancelled", seconds=120)

    def logs(self, flow_run: UUID) -> str:
        with self.client() as client:
            wanted = LogFilter(flow_run_id=LogFilterFlowRunId(any_=[flow_run]))
            return "\n".join(line.message for line in client.read_logs(wanted, limit=200))

    def popen(self, *arguments: str | Path, address: str | None = None) -> subprocess.Popen:
        """The command line, with this server (or another) and in this folder."""
        return subprocess.Popen(
            [TEXTMILL, *map(str, arguments)],
            cwd=self.folder,
            env={**os.environ, "PREFECT_API_URL": address or f"{self.address}/api", "COLUMNS": "200"},
            stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True,
        )  # fmt: skip

    def command(self, *arguments: str | Path, address: str | None = None) -> subprocess.CompletedProcess:
        """The same, to its end."""
        process = self.popen(*arguments, address=address)
        out, err = process.communicate(timeout=240)
        return subprocess.CompletedProcess(process.args, process.returncode, out, err)

    def trainings(self) -> list[int]:
        """Process ids of the trainings under way in this store."""
        found = []
        for process in Path("/proc").glob("[0-9]*"):
            with suppress(OSError):
                command = (process / "cmdline").read_bytes().split(b"\0")
                if b"modeling.training.process" in command and any(
                    str(self.folder).encode() in word for word in command
                ):
                    found.append(int(process.name))
        return found


@pytest.fixture(scope="session")
def start_service(tmp_path_factory, small_config) -> Callable[..., AbstractContextManager[RunningService]]:
    """Bring up a real server with all deployments and a real worker, with these options of `textmill up`; Ctrl-C stops
    it at the end of the context, and nothing is left over."""

    @contextmanager
    def start(*options: str) -> Iterator[RunningService]:
        folder = tmp_path_factory.mktemp("service")
        (folder / "configs").mkdir()
        small_config(folder).rename(folder / "configs" / "demo.yaml")
        with socket.socket() as free:
            free.bind(("127.0.0.1", 0))
            port = free.getsockname()[1]
        # Not the environment's Prefect: its database is left alone, and so is whatever server it names.
        # Nor does anybody answer for crawls of real sites.
        ours = ("PREFECT_", "TEXTMILL_CONTACT")
        environment = {name: value for name, value in os.environ.items() if not name.startswith(ours)}
        environment |= {"PREFECT_HOME": str(folder / "prefect"), "PREFECT_WORKER_QUERY_SECONDS": "1"}
        output = folder / "up.log"
        with output.open("w") as log:
            process = subprocess.Popen(
                [TEXTMILL, "up", "--port", str(port), *options],
                cwd=folder,
                env=environment,
                stdout=log,
                stderr=subprocess.STDOUT,
            )
        deadline = time.monotonic() + 400
        while "Worker online" not in output.read_text():
            assert process.poll() is None, output.read_text()
            assert time.monotonic() < deadline, output.read_text()
            time.sleep(0.2)
        running = RunningService(folder, f"http://127.0.0.1:{port}", process)
        try:
            yield running
        finally:
            process.send_signal(signal.SIGINT)
            try:
                assert process.wait(240) == 0, output.read_text()
            except subprocess.TimeoutExpired:
                process.terminate()
                raise
            assert not running.trainings()
            with pytest.raises(ConnectionRefusedError):
                socket.create_connection(("127.0.0.1", port))

    return start


@pytest.fixture(scope="session")
def service(start_service) -> Iterator[RunningService]:
    with start_service() as running:
        yield running
