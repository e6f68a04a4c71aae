"""What long work tells while it goes on: how far it is, by a callback, and whether it works or waits, by its clock."""

from __future__ import annotations

import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Protocol

__all__ = ["Clock", "Interrupted", "Progress", "duration", "quiet"]


class Progress(Protocol):
    """A callback that long work calls as often as it likes; showing it rarely enough is the callback's business.

    Example:
        >>> progress(120, 300, unit="steps", phase="training", loss=3.21)  # doctest: +SKIP
    """

    def __call__(
        self, done: float, total: float | None = None, *, unit: str = "", phase: str = "", **metrics: object
    ) -> None:
        """Say that `done` of `total` is finished.

        Args:
            done: amount of work finished, in `unit`; it never falls within a phase.
            total: amount of all work of this phase; None while unknown.
            unit: what is counted, in the plural ("pages", "tokens", "MB").
            phase: which part of the work this is, where it has several ("extracting").
            metrics: further metrics by name, in the order in which they are to be shown: a number, a text, a list of
                texts, or counts by name.
        """


def quiet(done: float, total: float | None = None, *, unit: str = "", phase: str = "", **metrics: object) -> None:
    """A `Progress` that nobody watches."""


class Interrupted(BaseException):
    """The run is being ended, so work in one of its threads ends too. As KeyboardInterrupt, it is no `Exception`."""


class Clock:
    """Seconds of work: the time since the clock was made, without the time that was spent waiting for others.

    Args:
        interrupted: set when the work is to end, whichever thread it is in; it does at its next `sleep` or `check`.

    Attributes:
        waits_for: what the work waits for at the moment, in words; empty while it goes on.
    """

    def __init__(self, interrupted: threading.Event | None = None) -> None:
        self.waits_for = ""
        self._started = time.monotonic()
        self._waited = 0.0  # in waits that are over
        self._waiting_since = 0.0
        self._interrupted = interrupted or threading.Event()

    @property
    def seconds(self) -> float:
        """Seconds of work so far; it stands still during a wait."""
        now = self._waiting_since if self.waits_for else time.monotonic()
        return now - self._started - self._waited

    @property
    def waiting_seconds(self) -> float:
        """How long the wait that goes on at the moment has lasted."""
        return time.monotonic() - self._waiting_since if self.waits_for else 0.0

    @contextmanager
    def waiting(self, reason: str) -> Iterator[None]:
        """The time of this block is a wait for `reason`, which is not empty. Waits are not nested."""
        self._waiting_since = time.monotonic()
        self.waits_for = reason
        try:
            yield
        finally:
            self._waited += time.monotonic() - self._waiting_since
            self.waits_for = ""

    def check(self) -> None:
        """Go on.

        Raises:
            Interrupted: the work is to end.
        """
        if self._interrupted.is_set():
            raise Interrupted

    def sleep(self, seconds: float) -> None:
        """Let time pass, as between two looks at whether a wait is over.

        Raises:
            Interrupted: the work is to end; at once.
        """
        self._interrupted.wait(seconds)
        self.check()


def duration(seconds: float) -> str:
    """Seconds for people, in the unit that suits them.

    Example:
        >>> duration(7), duration(600), duration(100_000)
        ('7.0 seconds', '10.0 minutes', '27.8 hours')
    """
    for unit, size in (("days", 86_400), ("hours", 3600), ("minutes", 60)):
        if seconds >= 2 * size:
            return f"{seconds / size:.1f} {unit}"
    return f"{seconds:.1f} seconds"
