"""What a run shows on a terminal: a bar for each stage at work, below the log."""

from __future__ import annotations

import logging
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Protocol

from prefect.logging.handlers import PrefectConsoleHandler
from rich.console import Console
from rich.live import Live
from rich.progress_bar import ProgressBar
from rich.spinner import Spinner
from rich.table import Table
from rich.text import Text

BAR_WIDTH = 20


class Shown(Protocol):
    """Work that has a bar."""

    title: str

    @property
    def share(self) -> float | None: ...

    @property
    def now(self) -> str: ...


class Bars:
    """One line for each work that goes on now, read from it four times a second."""

    def __init__(self) -> None:
        self._at_work: list[Shown] = []
        self._spinner = Spinner("dots")

    @contextmanager
    def showing(self, work: Shown) -> Iterator[None]:
        """Show this work, while the block lasts."""
        self._at_work.append(work)
        try:
            yield
        finally:
            self._at_work.remove(work)

    def render(self) -> Table:
        grid = Table.grid(padding=(0, 1), expand=True)
        grid.add_column(width=1)
        grid.add_column(no_wrap=True, max_width=36, overflow="ellipsis")
        grid.add_column(width=BAR_WIDTH)
        grid.add_column(ratio=1, no_wrap=True, overflow="ellipsis")
        for work in list(self._at_work):
            share = work.share
            bar = Text() if share is None else _bar(share)
            grid.add_row(self._spinner, Text(work.title, style="bold"), bar, Text(work.now))
        return grid


def _bar(share: float) -> ProgressBar:
    """Its colors are named because the theme of Prefect's console has none for bars."""
    return ProgressBar(
        total=1.0, completed=share, width=BAR_WIDTH, style="grey37", complete_style="blue", finished_style="green"
    )


@contextmanager
def bars_on_terminal() -> Iterator[Bars | None]:
    """Bars at the end of the terminal, or None where errors and logs go to no terminal.

    Prefect's log is written through the same console, above them, so that neither breaks the other.
    """
    if not sys.stderr.isatty():
        yield None
        return
    handlers = [handler for handler in logging.getLogger().handlers if isinstance(handler, PrefectConsoleHandler)]
    console = handlers[0].console if handlers else Console(stderr=True)
    bars = Bars()
    with Live(get_renderable=bars.render, console=console, transient=True, refresh_per_second=4):
        yield bars
