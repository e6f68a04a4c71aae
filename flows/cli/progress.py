"""A bar on standard error that shows how far a command is, and goes when it ends."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from textmill.progress import Progress


@contextmanager
def progress_bar(doing: str) -> Iterator[Progress]:
    """The callback that moves the bar, which is there from its first call on, and in a terminal only.

    A metric `artifact`, or the phase, says in place of `doing` what is being done.
    """
    from rich.console import Console
    from rich.progress import BarColumn, TaskProgressColumn, TextColumn, TimeRemainingColumn
    from rich.progress import Progress as Bar

    columns = (TextColumn("{task.description}"), BarColumn(), TaskProgressColumn(), TimeRemainingColumn())
    console = Console(stderr=True)
    with Bar(*columns, console=console, transient=True, disable=not console.is_terminal) as bar:
        task = bar.add_task(doing, visible=False)

        def progress(
            done: float, total: float | None = None, *, unit: str = "", phase: str = "", **metrics: object
        ) -> None:
            now = str(metrics.get("artifact", phase or doing))
            bar.update(task, completed=done, total=total, description=now, visible=True)

        yield progress
