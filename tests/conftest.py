"""`--fast`, for a look within a minute: the tests that need no server, train no model and start no process.

The first two are known from the fixtures a test asks for (tests/flows/conftest.py, tests/modeling/conftest.py). A test
that starts a process is skipped at the moment when it does. What takes seconds for other reasons, or starts processes
from other threads, which a skip would not reach, is marked `long`. `make fast` shows the slowest of the rest.
"""

from __future__ import annotations

import multiprocessing.process
import os
import subprocess
import threading
from collections.abc import Callable, Iterator
from typing import Any

import hypothesis
import pytest

LEFT_OUT = ("slow", "server", "training", "long")
os.environ["OMP_NUM_THREADS"] = "1"  # models this small are trained fastest on one thread
# An example may take long: a kernel is compiled, or others have the machine.
hypothesis.settings.register_profile(
    "unhurried", deadline=None, suppress_health_check=[hypothesis.HealthCheck.too_slow]
)
hypothesis.settings.load_profile("unhurried")
STARTS = ((subprocess.Popen, "__init__"), (multiprocessing.process.BaseProcess, "start"), (os, "fork"))


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption("--fast", action="store_true", help="no server, no training, no process: under a minute")


def pytest_configure(config: pytest.Config) -> None:
    if config.getoption("--fast"):
        config.pluginmanager.register(Fast())
        hypothesis.settings.register_profile("fast", max_examples=10)
        hypothesis.settings.load_profile("fast")


def pytest_make_parametrize_id(val: object, argname: str) -> str | None:
    """Bytes that are no plain text are left out of a test's name: two workers that compress the same data a second
    apart would otherwise collect tests of different names (gzip's header holds the time), and run none."""
    return argname if isinstance(val, bytes) and not (val.isascii() and val.decode().isprintable()) else None


class Fast:
    """Leaves out what takes long."""

    @pytest.hookimpl(trylast=True)  # the packages' conftest files have set their marks
    def pytest_collection_modifyitems(self, config: pytest.Config, items: list[pytest.Item]) -> None:
        left_out = [item for item in items if any(map(item.get_closest_marker, LEFT_OUT))]
        config.hook.pytest_deselected(items=left_out)
        items[:] = [item for item in items if not any(map(item.get_closest_marker, LEFT_OUT))]

    @pytest.hookimpl(wrapper=True)
    def pytest_runtest_protocol(self) -> Iterator[None]:
        with pytest.MonkeyPatch.context() as patch:
            for owner, name in STARTS:
                patch.setattr(owner, name, skipping(getattr(owner, name)))
            return (yield)


def skipping(start: Callable[..., Any]) -> Callable[..., Any]:
    """The function, but that it skips the test if the test's own thread calls it."""

    def start_or_skip(*arguments: Any, **named: Any) -> Any:
        if threading.current_thread() is threading.main_thread():
            pytest.skip("starts a process")
        return start(*arguments, **named)

    return start_or_skip
