"""The progress callback that long-running functions call."""

from __future__ import annotations

from typing import Protocol

__all__ = ["Progress", "quiet"]


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
            metrics: further metrics by name, in the order in which they are to be shown.
        """


def quiet(done: float, total: float | None = None, *, unit: str = "", phase: str = "", **metrics: object) -> None:
    """A `Progress` that nobody watches."""
