"""Prefect's own programs, started beside us: they end with us, and what they write goes into a file."""

from __future__ import annotations

import subprocess
import time
from collections.abc import Callable, Mapping
from contextlib import nullcontext
from dataclasses import dataclass
from pathlib import Path
from typing import IO

import httpx
from prefect.settings import PREFECT_HOME

from textmill.errors import UserError
from textmill.processes import tethered_command

LOG_BYTES = 10_000_000  # a longer log is put aside, in place of the one before, when its program starts again


@dataclass(frozen=True)
class Program:
    """A program that runs; `log` is the file that holds what it writes, or None if that goes where our lines go."""

    name: str
    process: subprocess.Popen[bytes]
    log: Path | None

    def check(self) -> None:
        """Raises UserError once the program has ended."""
        status = self.process.poll()
        if status is not None:
            how = f"was killed by signal {-status}" if status < 0 else f"ended with exit status {status}"
            raise UserError(f"{self.name} {how}{f'; its log: {self.log}' if self.log else ''}")

    def stop(self, seconds: float) -> None:
        """Ask it to end, and kill it if it has not after so long."""
        self.process.terminate()
        try:
            self.process.wait(seconds)
        except subprocess.TimeoutExpired:
            self.process.kill()


def start_program(name: str, command: list[str], environment: Mapping[str, str], log: Path | None = None) -> Program:
    """Start a Python module with arguments: out of reach of the terminal's Ctrl-C, and ended when this process is gone,
    kill -9 included."""
    with _open_log(log) if log else nullcontext() as file:
        process = subprocess.Popen(
            tethered_command(*command),
            env=dict(environment),
            stdin=subprocess.PIPE,
            stdout=file,
            stderr=file,
            start_new_session=True,
        )
    return Program(name, process, log)


def log_path(name: str) -> Path:
    """Where the program of this name writes its log."""
    return PREFECT_HOME.value() / "logs" / f"{name}.log"


def _open_log(path: Path) -> IO[bytes]:
    path.parent.mkdir(parents=True, exist_ok=True)
    if path.exists() and path.stat().st_size > LOG_BYTES:
        path.replace(path.with_suffix(".old.log"))
    return path.open("ab")


def _silent(elapsed: float) -> None:
    """Nothing is said while a server starts."""


def wait_until_it_answers(
    server: Program, api: str, seconds: float, waiting: Callable[[float], None] = _silent
) -> None:
    """Wait for a server that was started; `waiting` is told the seconds now and then.

    Raises:
        UserError: it ended, or did not answer in time.
    """
    started = time.monotonic()
    while not answers(api):
        server.check()
        elapsed = time.monotonic() - started
        if elapsed > seconds:
            raise UserError(f"{server.name} did not answer within {seconds:.0f} s; its log: {server.log}")
        waiting(elapsed)
        time.sleep(0.2)


def answers(api: str) -> bool:
    """Whether a Prefect server answers at this address."""
    try:
        return httpx.get(f"{api}/health", timeout=5).is_success
    except httpx.HTTPError:
        return False
