"""Run a function on many inputs in child processes that may be killed at any moment.

Parsers meet pages that take minutes, gigabytes or the interpreter itself with them. Each call runs in a child with a
limit on CPU time and memory; whatever happens to the child, the parent gets a `Failure` for that one input and starts
another child. The time limit counts CPU seconds, so that the outcome does not depend on how busy the machine is.

Children are started as `python -P -m scraping.extraction.sandbox`, which, unlike multiprocessing, needs nothing of the
parent's `__main__`; they import from where the parent does. They speak JSON over a socket, so that nothing they send
back can run code. A child ends by itself when its parent is gone.
"""

from __future__ import annotations

import contextlib
import importlib
import json
import math
import queue
import resource
import signal
import socket
import subprocess
import sys
import time
import traceback
from collections import deque
from collections.abc import Iterable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from multiprocessing.connection import Connection
from types import TracebackType
from typing import Any, NamedTuple, Self

from textmill.processes import python_command, python_environment

_START_SECONDS = 300
_AHEAD_CALLS = 128  # for each child
_AHEAD_BYTES = 64 << 20


class Failure(NamedTuple):
    """Why a call gave no result: `reason` is rejected (a ValueError), error, time, memory or died."""

    reason: str
    detail: str


class Call(NamedTuple):
    """`target(payload, **arguments)`; the arguments are what JSON can hold."""

    arguments: dict[str, Any]
    payload: bytes = b""


class Sandbox:
    """Children that all answer calls of one function; use it in a `with` block, which ends them.

    Args:
        target: the function, as in `package.module:function`; it takes the payload and the arguments of a `Call`.
        workers: number of children; each starts at its first call.
        cpu_seconds: CPU time that one call may take.
        memory_bytes: address space that a child may have.
    """

    def __init__(
        self, target: str, workers: int, *, cpu_seconds: float | None = None, memory_bytes: int | None = None
    ) -> None:
        self._children = [_Child(target, cpu_seconds, memory_bytes) for _ in range(workers)]
        self._idle: queue.SimpleQueue[_Child] = queue.SimpleQueue()
        for child in self._children:
            self._idle.put(child)
        self._threads = ThreadPoolExecutor(workers, thread_name_prefix="sandbox")

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        for child in self._children:
            child.abandon()
        self._threads.shutdown(cancel_futures=True)
        for child in self._children:
            child.stop()

    def run(self, calls: Iterable[Call]) -> Iterator[Any]:
        """Yield the result (decoded JSON) or the `Failure` of each call, in the order of the calls.

        Calls are read ahead, so that a slow one does not leave the other children without work; `calls` may be endless.
        """
        pending: deque[tuple[Future[Any], int]] = deque()
        waiting = 0  # bytes of the pending calls
        for call in calls:
            pending.append((self._threads.submit(self._answer, call), len(call.payload)))
            waiting += len(call.payload)
            while len(pending) >= _AHEAD_CALLS * len(self._children) or waiting > _AHEAD_BYTES:
                answer, size = pending.popleft()
                yield answer.result()
                waiting -= size
        for answer, _ in pending:
            yield answer.result()

    def _answer(self, call: Call) -> Any:
        child = self._idle.get()
        try:
            return child.call(call)
        finally:
            self._idle.put(child)


class _Process(NamedTuple):
    """A running child, and the line to it."""

    popen: subprocess.Popen[bytes]
    connection: Connection


class _Child:
    """One child process, started at its first call and again after each death."""

    def __init__(self, target: str, cpu_seconds: float | None, memory_bytes: int | None) -> None:
        self._arguments = [target, str(cpu_seconds or 0), str(memory_bytes or 0)]
        # A child that neither computes nor answers is stuck; a slow machine is given plenty of time first.
        self._patience = 60 + 10 * cpu_seconds if cpu_seconds else None
        self._process: _Process | None = None
        self._abandoned = False

    def call(self, call: Call) -> Any:
        """The result, or the `Failure`."""
        if self._abandoned:
            return Failure("died", "abandoned")
        answer = self._attempt(call)
        if isinstance(answer, Failure) and answer.reason == "died" and not self._abandoned:
            answer = self._attempt(call)  # an out-of-memory killer may have meant another process
        return answer

    def abandon(self) -> None:
        """Interrupt a call that another thread waits for."""
        self._abandoned = True
        if self._process is not None:
            self._process.popen.kill()

    def stop(self) -> int:
        """End the process; returns its exit status."""
        process, self._process = self._process, None
        if process is None:
            return 0
        process.popen.kill()
        process.connection.close()
        return process.popen.wait()

    def _attempt(self, call: Call) -> Any:
        process = self._process or self._start()
        try:
            process.connection.send_bytes(json.dumps(call.arguments).encode())
            process.connection.send_bytes(call.payload)
            if not process.connection.poll(self._patience):
                self.stop()
                return Failure("time", "no answer")
            answer = json.loads(process.connection.recv_bytes())
        except (EOFError, OSError):
            return self._death(process)
        return Failure(*answer["failure"]) if "failure" in answer else answer["result"]

    def _start(self) -> _Process:
        ours, theirs = socket.socketpair()
        with theirs:
            popen = subprocess.Popen(
                python_command("scraping.extraction.sandbox", str(theirs.fileno()), *self._arguments),
                stdin=subprocess.DEVNULL,
                pass_fds=[theirs.fileno()],
                env=python_environment(),
            )
        self._process = process = _Process(popen, Connection(ours.detach()))
        try:
            ready = process.connection.poll(_START_SECONDS) and process.connection.recv_bytes()
        except (EOFError, OSError):
            ready = False
        if not ready and not self._abandoned:
            # Not a Failure: every call would fail alike, and no input is the cause.
            raise RuntimeError(f"a child for {self._arguments[0]} did not start: exit status {self.stop()}")
        return process

    def _death(self, process: _Process) -> Failure:
        with contextlib.suppress(subprocess.TimeoutExpired):
            process.popen.wait(10)  # let it finish dying, so that the exit status tells of what
        status = self.stop()
        if status == -signal.SIGXCPU:
            return Failure("time", "CPU time limit reached")
        return Failure("died", signal.Signals(-status).name if status < 0 else f"exit status {status}")


def _serve(descriptor: int, target: str, cpu_seconds: float, memory_bytes: int) -> None:
    """The child's loop: answer calls until the parent hangs up."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # ^C is the parent's to handle
    module, _, name = target.partition(":")
    function = getattr(importlib.import_module(module), name)
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    if memory_bytes:
        resource.setrlimit(resource.RLIMIT_AS, (memory_bytes, memory_bytes))
    connection = Connection(descriptor)
    connection.send_bytes(b"ready")
    while True:
        try:
            arguments = json.loads(connection.recv_bytes())
            payload = connection.recv_bytes()
        except (EOFError, OSError):
            return
        if cpu_seconds:
            limit = math.ceil(time.process_time() + cpu_seconds)
            resource.setrlimit(resource.RLIMIT_CPU, (limit, resource.RLIM_INFINITY))
        try:
            answer = json.dumps({"result": function(payload, **arguments)})
        except MemoryError:
            answer = json.dumps({"failure": ["memory", "memory limit reached"]})
        except ValueError as error:
            answer = json.dumps({"failure": ["rejected", str(error)]})
        except Exception:
            answer = json.dumps({"failure": ["error", traceback.format_exc()]})
        try:
            connection.send_bytes(answer.encode())
        except OSError:
            return


if __name__ == "__main__":
    _serve(int(sys.argv[1]), sys.argv[2], float(sys.argv[3]), int(sys.argv[4]))
