"""One request at a time and a pause between requests, per host, for all threads and processes of this machine.

A host's gate is a small file: whoever holds its lock may make one request, and its content is the earliest time of the
next. The kernel lets go of the lock when a process dies, the time stays: a crawl that is killed and started again does
not ask sooner than one that went on, and a pause that a server asked for binds every process.
"""

import fcntl
import logging
import os
import secrets
import struct
import tempfile
import threading
import time
from contextlib import contextmanager
from pathlib import Path

log = logging.getLogger(__name__)

LONGEST_PAUSE = 3600.0  # seconds; a server that asks for more is given up for this crawl

_WORTH_A_WORD = 10.0  # seconds; who looks on should know that a pause is meant

_STATE = struct.Struct("<dQ")  # earliest time of the next request, in seconds since the epoch; who made the last one


class Stopped(Exception):
    """The crawl is being ended while this thread waited for its turn."""


class HostGate:
    """The right to ask `host` for something, one request at a time.

    `shared` says, during a turn, that someone else had the turn before: a connection should not be kept open then.
    """

    def __init__(self, host: str, stop: threading.Event, folder: Path | None = None):
        folder = folder or _gates_folder()
        name = "".join(c if c.isalnum() or c in ".-" else "_" for c in host)[-200:]  # what file systems take
        self.host = host
        self.shared = False
        self._id = secrets.randbits(64)
        self._stop = stop
        self._lock = threading.Lock()
        self._fd = os.open(folder / name, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)

    @contextmanager
    def turn(self, delay: float):
        """Wait for the turn, hold it for one request, and leave `delay` seconds after it.

        Raises:
            Stopped: the stop event was set while waiting.
        """
        told = False
        while (wait := self._try_enter(delay)) > 0:
            if wait > delay + _WORTH_A_WORD and not told:
                log.warning("%s wants no request for %.0f s: waiting", self.host, wait)
                told = True
            if self._stop.wait(wait):
                raise Stopped
        try:
            yield self
        finally:
            self._not_before(time.time() + delay)
            self._leave()

    def pause(self, seconds: float) -> None:
        """Let nobody ask before `seconds` (at most `LONGEST_PAUSE`) from now."""
        self._not_before(time.time() + min(seconds, LONGEST_PAUSE))

    def waits(self) -> float:
        """Seconds until the next request may be made."""
        return max(0.0, self._state()[0] - time.time())

    @contextmanager
    def rest(self):
        """Keep this process's threads from asking for a moment; gives False if one of them is asking right now."""
        idle = self._lock.acquire(blocking=False)
        try:
            yield idle
        finally:
            if idle:
                self._lock.release()

    def close(self) -> None:
        os.close(self._fd)

    def _try_enter(self, delay: float) -> float:
        """Enter and return 0, or the seconds after which to try again."""
        if not self._lock.acquire(blocking=False):
            return 0.01
        try:
            fcntl.flock(self._fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            self._lock.release()
            return 0.01
        earliest, last = self._state()
        wait = earliest - time.time()
        if 0 < wait <= LONGEST_PAUSE:  # more than that can only come from a clock that was set back
            self._leave()
            return wait
        self.shared = last not in (0, self._id)
        self._write(time.time() + delay, self._id)  # holds even if this process dies during its request
        return 0.0

    def _leave(self) -> None:
        fcntl.flock(self._fd, fcntl.LOCK_UN)
        self._lock.release()

    def _state(self) -> tuple[float, int]:
        data = os.pread(self._fd, _STATE.size, 0)
        return _STATE.unpack(data) if len(data) == _STATE.size else (0.0, 0)

    def _not_before(self, moment: float) -> None:
        earliest, last = self._state()
        if moment > earliest:
            self._write(moment, last)

    def _write(self, moment: float, last: int) -> None:
        os.pwrite(self._fd, _STATE.pack(moment, last), 0)


def _gates_folder() -> Path:
    """The folder of this user's gates on this machine."""
    folder = Path(tempfile.gettempdir()) / f"textmill-hosts-{os.getuid()}"
    folder.mkdir(mode=0o700, exist_ok=True)
    if folder.stat().st_uid != os.getuid():
        raise PermissionError(f"{folder} belongs to another user")
    return folder
