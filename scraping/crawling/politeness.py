"""One request at a time and a pause between requests, per host and per address, for all threads and processes of this
machine: many hosts may be one server.

A gate is a small file. The thread that holds its lock may make one request, and the file's content is the
earliest time of the next. The kernel releases the lock when a process dies, and the time stays: a crawl that is killed
and started again does not ask sooner than one that went on, and a pause that a server asked for binds every process.
"""

from __future__ import annotations

import fcntl
import ipaddress
import logging
import os
import secrets
import struct
import tempfile
import threading
import time
from collections import OrderedDict
from collections.abc import Iterator
from contextlib import contextmanager
from functools import lru_cache
from pathlib import Path

__all__ = ["MAX_PAUSE", "HostGate", "Stopped", "gate_of_address"]

logger = logging.getLogger(__name__)

MAX_PAUSE = 3600.0  # seconds; a host that asks for a longer pause is given up for this crawl

_RETRY_SECONDS = 0.01  # between two tries to get a turn that another thread or process has
_LOGGED_WAIT = 10.0  # seconds beyond the usual delay; a longer wait is logged, lest the crawl look hung

_MAX_IDLE_FILES = 64

_STATE = struct.Struct("<dQ")  # earliest time of the next request (seconds since the epoch), id of the last gate


class Stopped(Exception):
    """The crawl is being stopped, and this thread is not to make its request."""


class HostGate:
    """The right to make requests to a host, or to an address, one at a time.

    Args:
        host: `host` or `host:port`, as `urls.host_of` gives it, or what `gate_of_address` makes of an address.
        stop: when it is set, threads stop waiting for their turn.
        folder: where the gates' files are; by default a folder of this user in the machine's temporary folder.

    Attributes:
        shared: during a turn, whether another gate had the turn before this one, in this process or in another. Then no
            connection should be kept open, so that the host has one from this machine, not one per process.
    """

    def __init__(self, host: str, stop: threading.Event, folder: Path | None = None):
        folder = folder or _gates_folder()
        name = "".join(c if c.isalnum() or c in ".-" else "_" for c in host)[-200:]  # what file systems take
        self.host = host
        self.shared = False
        self._id = secrets.randbits(64)
        self._stop = stop
        self._lock = threading.Lock()
        self._path = folder / name
        self._held = -1  # the file's descriptor during a turn

    @contextmanager
    def turn(self, delay: float) -> Iterator[HostGate]:
        """Wait for the turn, hold it for one request, and keep the host quiet for `delay` seconds after it.

        Raises:
            Stopped: the stop event was set while waiting.
        """
        logged = False
        while (wait := self._try_enter(delay)) > 0:
            if wait > delay + _LOGGED_WAIT and not logged:
                logger.warning("%s wants no request for %.0f s: waiting", self.host, wait)
                logged = True
            if self._stop.wait(wait):
                raise Stopped
        try:
            yield self
        finally:
            try:
                if delay:
                    self._forbid_until(time.time() + delay, self._held)
            finally:
                self._leave()

    def pause(self, seconds: float) -> None:
        """Forbid requests for `seconds` (at most `MAX_PAUSE`) from now on."""
        with self._opened() as fd:
            self._forbid_until(time.time() + min(seconds, MAX_PAUSE), fd)

    def seconds_left(self) -> float:
        """Seconds until the next request may be made."""
        with self._opened() as fd:
            return max(0.0, _read(fd)[0] - time.time())

    @contextmanager
    def hold_if_idle(self) -> Iterator[bool]:
        """Keep this process's threads from making requests within the block, if none of them is making one now.

        Yields:
            whether the gate is held: False if a thread is making a request.
        """
        idle = self._lock.acquire(blocking=False)
        try:
            yield idle
        finally:
            if idle:
                self._lock.release()

    def _try_enter(self, delay: float) -> float:
        """Enter and return 0, or return the seconds after which to try again."""
        if not self._lock.acquire(blocking=False):
            return _RETRY_SECONDS
        try:
            self._held = _files.take(self._path)
        except BaseException:
            self._lock.release()
            raise
        wait = _RETRY_SECONDS
        try:
            wait = self._lock_file(delay)
        finally:
            if wait:
                self._leave()
        return wait

    def _lock_file(self, delay: float) -> float:
        """Lock the file that is held and return 0, or return the seconds after which to try again."""
        try:
            fcntl.flock(self._held, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            return _RETRY_SECONDS
        earliest, last_id = _read(self._held)
        wait = earliest - time.time()
        if 0 < wait <= MAX_PAUSE:  # a longer one can only come from a clock that was set back
            return wait
        self.shared = last_id not in (0, self._id)
        if delay or last_id != self._id:
            _write(self._held, time.time() + delay, self._id)  # holds even if this process dies during its request
        return 0.0

    def _leave(self) -> None:
        """End the turn, or what would have been one."""
        try:
            fcntl.flock(self._held, fcntl.LOCK_UN)
        finally:
            _files.give_back(self._path, self._held)
            self._lock.release()

    @contextmanager
    def _opened(self) -> Iterator[int]:
        fd = _files.take(self._path)
        try:
            yield fd
        finally:
            _files.give_back(self._path, fd)

    def _forbid_until(self, moment: float, fd: int) -> None:
        earliest, last_id = _read(fd)
        if moment > earliest:
            _write(fd, moment, last_id)


class _Files:
    """The files of gates. Those used last stay open, so many at most, however many hosts there are."""

    def __init__(self) -> None:
        self._idle: OrderedDict[Path, int] = OrderedDict()
        self._lock = threading.Lock()

    def take(self, path: Path) -> int:
        """A descriptor that nobody else in this process uses."""
        with self._lock:
            fd = self._idle.pop(path, None)
        return os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600) if fd is None else fd

    def give_back(self, path: Path, fd: int) -> None:
        with self._lock:
            surplus = self._idle.pop(path, None)
            self._idle[path] = fd
            if surplus is None and len(self._idle) > _MAX_IDLE_FILES:
                _, surplus = self._idle.popitem(last=False)
        if surplus is not None:
            os.close(surplus)


_files = _Files()


@lru_cache(maxsize=1 << 12)
def gate_of_address(address: str, port: int) -> str:
    """The name of an address's gate. On loopback, where every server is this machine, each port has its own."""
    return f"address {address} {port}" if ipaddress.ip_address(address).is_loopback else f"address {address}"


def _read(fd: int) -> tuple[float, int]:
    data = os.pread(fd, _STATE.size, 0)
    return _STATE.unpack(data) if len(data) == _STATE.size else (0.0, 0)


def _write(fd: int, moment: float, last_id: int) -> None:
    os.pwrite(fd, _STATE.pack(moment, last_id), 0)


def _gates_folder() -> Path:
    """The folder of this user's gates on this machine."""
    folder = Path(tempfile.gettempdir()) / f"textmill-hosts-{os.getuid()}"
    folder.mkdir(mode=0o700, exist_ok=True)
    if folder.stat().st_uid != os.getuid():
        raise PermissionError(f"{folder} belongs to another user")
    return folder
