"""Where a long stage stands: a bar on a terminal, log lines elsewhere, a live line on the run's page."""

from __future__ import annotations

import logging
import sys
import time
from collections.abc import Callable
from datetime import UTC, datetime
from types import TracebackType
from typing import Any, cast
from uuid import UUID

import httpx
from prefect.artifacts import create_markdown_artifact, create_progress_artifact, update_progress_artifact
from prefect.client.orchestration import get_client
from prefect.client.schemas.actions import ArtifactUpdate
from prefect.context import TaskRunContext
from prefect.exceptions import PrefectException
from rich.console import Console
from rich.progress import BarColumn, Progress, TaskProgressColumn, TextColumn, TimeElapsedColumn, TimeRemainingColumn

LOG_SECONDS = 15.0
PAGE_SECONDS = 5.0

Logger = logging.Logger | logging.LoggerAdapter[Any]


class BestEffort:
    """Calls a function that reports to the Prefect server; a failure is logged once per outage, not raised."""

    def __init__(self, logger: Logger) -> None:
        self.logger = logger
        self.away = False

    def __call__(self, call: Callable[..., Any], *arguments: Any) -> None:
        try:
            call(*arguments)
            self.away = False
        except (httpx.HTTPError, PrefectException) as error:
            if not self.away:
                reason = (str(error).splitlines() or [""])[0] or type(error).__name__
                self.logger.warning("The Prefect server cannot be told how it stands (%s); the work goes on", reason)
            self.away = True


class StageProgress:
    """The `textmill.progress.Progress` of a stage: metrics in the order given, numbers rounded for people.

    Use it as a context manager, so that the bar is taken away and the last state is told.
    """

    def __init__(self, title: str, logger: Logger) -> None:
        self.title = title
        self.logger = logger
        self.started = time.monotonic()
        self.logged = self.reported_at = self.started
        self.percentage: UUID | None = None  # the artifact that shows how much of a known total is done
        self.best_effort = BestEffort(logger)
        self.note: UUID | None = None  # the one that says where work of an unknown total stands
        self.bar: Progress | None = None
        if sys.stderr.isatty():
            self.bar = Progress(
                TextColumn("{task.description}"),
                BarColumn(),
                TaskProgressColumn(),
                TextColumn("{task.fields[details]}"),
                TimeElapsedColumn(),
                TimeRemainingColumn(),
                console=Console(stderr=True),
                transient=True,
            )
            self.task = self.bar.add_task(title, total=None, details="")

    def __enter__(self) -> StageProgress:
        if self.bar:
            self.bar.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self.bar:
            self.bar.stop()
        if kind is None and self.percentage:
            self.best_effort(update_progress_artifact, self.percentage, 100.0)

    def __call__(
        self, done: float, total: float | None = None, *, unit: str = "", phase: str = "", **metrics: object
    ) -> None:
        now = time.monotonic()
        count = f"{done:,.0f}" + (f"/{total:,.0f}" if total else "") + (f" {unit}" if unit else "")
        shown = [f"{name.replace('_', ' ')} {_shown(value)}" for name, value in metrics.items()]
        details = " · ".join([phase, count, *shown] if phase else [count, *shown])
        if self.bar:
            self.bar.update(self.task, completed=done, total=total, details=details)
        if now - self.logged >= LOG_SECONDS:
            self.logged = now
            if not self.bar:
                self.logger.info("%s%s", details, self._eta(now, done, total))
        if now - self.reported_at >= PAGE_SECONDS and TaskRunContext.get():
            if total:
                description = f"{self.title}: {details}{self._eta(now, done, total)}"
                self.best_effort(self._show_percentage, 100.0 * done / total, description)
            else:
                self.best_effort(self._show_note, details)
            self.reported_at = time.monotonic()  # not `now`: a server that is away may take long to say so

    def _show_percentage(self, percent: float, description: str) -> None:
        if self.percentage is None:
            self.percentage = cast(UUID, create_progress_artifact(percent, description=self.title))
        update_progress_artifact(self.percentage, percent, description=description)

    def _show_note(self, details: str) -> None:
        if self.note is None:
            self.note = cast(UUID, create_markdown_artifact(details, description=self.title))
        text = f"**{self.title}**: {details} (at {datetime.now(UTC):%H:%M:%S} UTC)"
        with get_client(sync_client=True) as client:
            client.update_artifact(self.note, ArtifactUpdate(data=text))

    def _eta(self, now: float, done: float, total: float | None) -> str:
        if not total or not done:
            return ""
        left = (now - self.started) / done * (total - done)
        return f" · {left // 60:.0f}:{left % 60:02.0f} left"


def _shown(value: Any) -> str:
    if isinstance(value, float):
        return f"{value:,.0f}" if abs(value) >= 1000 else f"{value:.4g}"
    return f"{value:,}" if isinstance(value, int) else str(value)
