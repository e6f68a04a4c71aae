"""The server of a run for which none is named: Prefect's own, for as long as the run lasts.

Prefect would start one by itself, but leave it behind where the run is killed, and let it write on the terminal. This
one ends with the run, whatever ends that, and writes into a file.
"""

from __future__ import annotations

import atexit
import os
import socket
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import httpx
import prefect
from prefect.settings import (
    PREFECT_API_URL,
    PREFECT_SERVER_EPHEMERAL_STARTUP_TIMEOUT_SECONDS,
    get_current_settings,
)

from flows.service.programs import answers, log_path, start_program, wait_until_it_answers
from textmill.errors import UserError

COMMAND = [
    "flows.service.collector",
    "uvicorn", "--app-dir", str(Path(prefect.__file__).parents[1]), "--factory", "prefect.server.api.server:create_app",
    "--host", "127.0.0.1", "--log-level", "error", "--lifespan", "on",
]  # fmt: skip
# as Prefect starts it: without UI, and with no more services than a run needs
ENVIRONMENT = {"PREFECT_UI_ENABLED": "0", "PREFECT__SERVER_EPHEMERAL": "1", "PREFECT__SERVER_FINAL": "1"}
STOP_SECONDS = 10.0


@contextmanager
def served() -> Iterator[None]:
    """Have a server for the runs of this process: the one that PREFECT_API_URL names, or one of our own, which stays
    until the process has sent it everything and ends.

    Raises:
        UserError: the server does not answer or start; in the block: it was lost.
    """
    address = PREFECT_API_URL.value()
    if not address:
        _start_own()
    elif not answers(address):
        raise UserError(
            f"no Prefect server answers at {address} (PREFECT_API_URL): start it with `textmill up`, or unset the "
            "variable to run without one"
        )
    try:
        yield
    except httpx.TransportError as error:
        where = f"at {address}" if address else f"of this run (its log: {log_path('run-server')})"
        reason = str(error) or type(error).__name__
        raise UserError(
            f"the Prefect server {where} was lost: {reason}. What was finished is kept: run again"
        ) from error


def _start_own() -> None:
    """Start the server and let Prefect have it as the one that it would start itself."""
    print("Starting a Prefect server for this run (`textmill up` keeps one running)", file=sys.stderr)
    from prefect.server.api.server import SubprocessASGIServer  # a second of imports, which a named server spares

    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    settings = get_current_settings().to_environment_variables(exclude_unset=True)
    program = start_program(
        "the run's own Prefect server",
        [*COMMAND, "--port", str(port)],
        {**os.environ, **ENVIRONMENT, **settings},
        log_path("run-server"),
    )
    atexit.register(program.stop, STOP_SECONDS)  # after Prefect has sent what is left, because that is registered later
    server = SubprocessASGIServer()
    server.port, server.server_process, server.running = port, program.process, True
    seconds = PREFECT_SERVER_EPHEMERAL_STARTUP_TIMEOUT_SECONDS.value()
    wait_until_it_answers(program, server.api_url, seconds)
