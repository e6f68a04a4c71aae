"""SIGTERM and SIGINT wait for a safe moment: a run saves a checkpoint, then the signal does what it would have done."""

from __future__ import annotations

import signal
import threading
from types import FrameType, TracebackType
from typing import Any

__all__ = ["Interruption"]


class Interruption:
    """Within the context a signal is only noted in `requested`. On leaving it is raised again, under the handlers that
    were there before (an orchestrator's that raises, or the default that ends the process).

    Signals can be caught in the main thread only; elsewhere the context does nothing.
    """

    def __init__(self) -> None:
        self.requested: int | None = None
        self._previous: dict[int, Any] = {}

    def _note(self, number: int, frame: FrameType | None) -> None:
        self.requested = number

    def __enter__(self) -> Interruption:
        if threading.current_thread() is threading.main_thread():
            for number in (signal.SIGTERM, signal.SIGINT):
                self._previous[number] = signal.signal(number, self._note)
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        for number, handler in self._previous.items():
            signal.signal(number, handler if handler is not None else signal.SIG_DFL)
        if self.requested is not None:
            signal.raise_signal(self.requested)
