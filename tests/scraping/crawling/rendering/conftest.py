"""A Chromium to render with; tests that need one are skipped where there is none."""

from __future__ import annotations

import os
import signal
from pathlib import Path

import pytest

from scraping.crawling.rendering.chromium import find_chromium
from textmill.errors import UserError


def descendants(pid: int) -> dict[int, str]:
    """The processes below `pid` and their command lines."""
    parents, commands = {}, {}
    for folder in Path("/proc").iterdir():
        if folder.name.isdigit():
            try:
                parents[int(folder.name)] = int((folder / "stat").read_text().rpartition(")")[2].split()[1])
                commands[int(folder.name)] = (folder / "cmdline").read_text().replace("\0", " ")
            except (OSError, ValueError):  # it is gone
                continue
    found: dict[int, str] = {}
    front = {pid}
    while front:
        front = {child for child, parent in parents.items() if parent in front}
        found |= {child: commands.get(child, "") for child in front}
    return found


@pytest.fixture(scope="session")
def chromium() -> str:
    try:
        return find_chromium()
    except UserError as error:
        pytest.skip(str(error))


@pytest.fixture
def make_source(chromium, make_source):
    """A source whose pages are rendered."""
    return lambda **settings: make_source(**{"fetch": "browser", **settings})


@pytest.fixture
def below():
    """The processes below one."""
    return descendants


@pytest.fixture
def kill_chromium():
    """Kill the processes of this one's Chromium of a kind (a part of the command line); how many."""

    def kill(kind: str) -> int:
        pids = [pid for pid, command in descendants(os.getpid()).items() if kind in command]
        for pid in pids:
            os.kill(pid, signal.SIGKILL)
        return len(pids)

    return kill
