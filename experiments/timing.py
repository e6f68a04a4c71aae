"""How long a piece of work takes on a machine that does other things too."""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import TypeVar

__all__ = ["fastest"]

T = TypeVar("T")


def fastest(work: Callable[[], T], repeats: int, seconds: float = 0.0) -> tuple[float, T]:
    """The shortest time in seconds of so many repeats, or of as many more as take `seconds` together, and what the work
    gave."""
    times: list[float] = []
    while len(times) < repeats or sum(times) < seconds:
        start = time.perf_counter()
        result = work()
        times.append(time.perf_counter() - start)
    return min(times), result
