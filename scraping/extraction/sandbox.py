"""Run a function on many inputs in child processes that may be killed at any moment.

Parsers meet pages that take minutes, gigabytes or the interpreter itself with them. Each call runs in a child with a
limit on CPU time and memory; whatever happens to the child, the parent gets a `Failure` for that one input and starts
another child. The time limit counts CPU seconds, so that the outcome does not depend on how busy the machine is.

Children are started as `python -m scraping.extraction.sandbox`, which, unlike multiprocessing, needs nothing of the
parent's `__main__`, and they speak JSON over a socket, so that nothing they send back can run code. A child ends
by itself when its parent is gone.
"""

import contextlib
import importlib
import json
import math
import os
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
from concurrent.futures import ThreadPoolExecutor
from multiprocessing.connection import Connection
from typing import Any, NamedTuple

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
    """Children that all answer calls of one function, named as in `package.module:function`; use in a `with` block."""

    def __init__(self, target: str, workers: int, *, cpu_seconds: float | None = None, memory_bytes: int | None = None):
        self._children = [_Child(target, cpu_seconds, memory_bytes) for _ in range(workers)]
        self._idle: queue.SimpleQueue[_Child] = queue.SimpleQueue()
        for child in self._children:
            self._idle.put(child)
        self._threads = ThreadPoolExecutor(workers, thread_name_prefix="sandbox")

    def __enter__(self):
        return self

    def __exit__(self, *_):
        for child in self._children:
            child.abandon()
        self._threads.shutdown(cancel_futures=True)
        for child in self._children:
            child.stop()

    def run(self, calls: Iterable[Call]) -> Iterator[Any]:
        """Yield the result (decoded JSON) or the `Failure` of each call, in the order of the calls.

        Calls are read ahead, so that a slow one does not leave the other children without work; `calls` may be endless.
        """
        pending: deque = deque()
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


class _Child:
    """One child process, started at its first call and again after each death."""

    def __init__(self, target: str, cpu_seconds: float | None, memory_bytes: int | None):
        self._arguments = [target, str(cpu_seconds or 0), str(memory_bytes or 0)]
        # A child that neither computes nor answers is stuck; a slow machine is given plenty of time first.
        self._patience = 60 + 10 * cpu_seconds if cpu_seconds else None
        self._process: subprocess.Popen | None = None
        self._connection: Connection | None = None
        self._abandoned = False

    def call(self, call: Call) -> Any:
        if self._abandoned:
            return Failure("died", "abandoned")
        answer = self._attempt(call)
        if isinstance(answer, Failure) and answer.reason == "died" and not self._abandoned:
            answer = self._attempt(call)  # an out-of-memory killer may have meant someone else
        return answer

    def abandon(self) -> None:
        """Interrupt a call that another thread waits for."""
        self._abandoned = True
        if self._process is not None:
            self._process.kill()

    def stop(self) -> int:
        """End the process; returns its exit status."""
        process, self._process = self._process, None
        if process is None:
            return 0
        process.kill()
        self._connection.close()
        return process.wait()

    def _attempt(self, call: Call) -> Any:
        if self._process is None:
            self._start()
        try:
            self._connection.send_bytes(json.dumps(call.arguments).encode())
            self._connection.send_bytes(call.payload)
            if not self._connection.poll(self._patience):
                self.stop()
                return Failure("time", "no answer")
            answer = json.loads(self._connection.recv_bytes())
        except (EOFError, OSError):
            return self._death()
        return Failure(*answer["failure"]) if "failure" in answer else answer["result"]

    def _start(self) -> None:
        ours, theirs = socket.socketpair()
        with theirs:
            self._process = subprocess.Popen(
                [sys.executable, "-m", "scraping.extraction.sandbox", str(theirs.fileno()), *self._arguments],
                stdin=subprocess.DEVNULL,
                pass_fds=[theirs.fileno()],
                env={**os.environ, "PYTHONPATH": os.pathsep.join(filter(None, sys.path))},
            )
        self._connection = Connection(ours.detach())
        try:
            ready = self._connection.poll(_START_SECONDS) and self._connection.recv_bytes()
        except (EOFError, OSError):
            ready = False
        if not ready and not self._abandoned:
            # Not a Failure: every call would fail alike, and the cause is no input's.
            raise RuntimeError(f"a child for {self._arguments[0]} did not start: exit status {self.stop()}")

    def _death(self) -> Failure:
        with contextlib.suppress(subprocess.TimeoutExpired):
            self._process.wait(10)  # let it finish dying, so that the exit status tells of what
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
