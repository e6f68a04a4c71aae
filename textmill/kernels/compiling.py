"""Compiling the kernels takes a while once, so it is announced, and done by one process at a time.

The machine code of a room of kernels is kept in one folder. The process that finds a kernel missing there locks the
folder (flock, which ends with the process); others that miss one wait, and then load what was compiled meanwhile.
"""

from __future__ import annotations

import fcntl
import logging
from contextlib import suppress
from pathlib import Path
from typing import IO, Any

from numba.core.caching import NullCache
from numba.core.compiler_lock import global_compiler_lock

from textmill.files import try_lock

__all__ = ["Compiling", "NoCache", "compiling"]

DURATION = "10 to 30 seconds"

logger = logging.getLogger(__name__)


class Compiling:
    """What this process loads or compiles at the moment, under Numba's lock of its threads: a context that is entered
    for each kernel, and so again for those that it calls."""

    def __init__(self) -> None:
        self._depth = 0
        self._turn: IO[bytes] | None = None  # the locked file, while it is this process's turn
        self._told: set[str] = set()

    def __enter__(self) -> None:
        global_compiler_lock.acquire()
        self._depth += 1

    def __exit__(self, *raised: object) -> None:
        self._depth -= 1
        if not self._depth and self._turn:
            self._turn.close()
            self._turn = None
        global_compiler_lock.release()

    def take_turn(self, room: str, folder: Path) -> bool:
        """Wait until no other process compiles into `folder`; whether the turn was not this process's already."""
        if self._turn:
            return False
        with suppress(OSError):  # a file system without locks: several may compile the same
            self._turn = (folder / "compiling.lock").open("wb")
            if not try_lock(self._turn.fileno()):
                self._tell(f"Another process is compiling the kernels of {room}: waiting for it")
                fcntl.flock(self._turn, fcntl.LOCK_EX)
        return True

    def announce(self, room: str) -> None:
        """Say, once for each room, that its kernels are compiled now."""
        self._tell(f"Compiling the kernels of {room}, once for this installation ({DURATION})")

    def announce_uncached(self, room: str) -> None:
        """Say the same where the machine code is lost when the process ends."""
        self._tell(
            f"Compiling the kernels of {room} ({DURATION}), in every process anew: no folder can be written for their "
            "machine code; set NUMBA_CACHE_DIR to one"
        )

    def _tell(self, message: str) -> None:
        if message not in self._told:
            self._told.add(message)
            logger.warning(message)


compiling = Compiling()


class NoCache(NullCache):
    """Keeps no machine code."""

    def __init__(self, room: str) -> None:
        self._room = room

    def load_overload(self, sig: Any, target_context: Any) -> None:
        compiling.announce_uncached(self._room)
