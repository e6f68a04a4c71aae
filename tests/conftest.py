"""`--fast`, for a look within a minute: the tests that need no server, train no model and start no process.

The first two are known from the fixtures a test asks for (tests/flows/conftest.py, tests/modeling/conftest.py). A test
that starts a process is skipped at the moment when it does; where that happens in another thread, which would not see
the skip, the module is marked `process`.
"""

from __future__ import annotations

import multiprocessing.process
import subprocess
import threading
from collections.abc import Callable, Iterator
from typing import Any

import pytest

LEFT_OUT = ("slow", "server", "training", "process")


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption("--fast", action="store_true", help="no server, no training, no process: under a minute")


def pytest_configure(config: pytest.Config) -> None:
    if config.getoption("--fast"):
        config.pluginmanager.register(Fast())


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
            for started, name in ((subprocess.Popen, "__init__"), (multiprocessing.process.BaseProcess, "start")):
                patch.setattr(started, name, skipping(getattr(started, name)))
            return (yield)


def skipping(start: Callable[..., None]) -> Callable[..., None]:
    """The function, but that it skips the test if the test's own thread calls it."""

    def skip(*arguments: Any, **named: Any) -> None:
        if threading.current_thread() is threading.main_thread():
            pytest.skip("starts a process")
        start(*arguments, **named)

    return skip
