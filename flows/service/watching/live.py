"""The live pages of a run: artifacts that are changed in place while it works.

One thread of the run refreshes them, so that work never waits for the server. Each page is one row of the server's
database, however often it changes. The client's own `update_artifact` also sends the whole page as an event, which the
server keeps for a week; the request alone does not.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, ExitStack, contextmanager, nullcontext
from contextvars import copy_context
from typing import Any, cast
from uuid import UUID

import httpx
from prefect.artifacts import create_markdown_artifact
from prefect.client.orchestration import get_client
from prefect.exceptions import PrefectException
from prefect.settings import PREFECT_UI_URL

from flows.service.watching.markdown import plain
from flows.service.watching.progress import Logger
from flows.service.watching.terminal import Bars, Shown, bars_on_terminal
from textmill.errors import first_line

FIRST_SECONDS = 1.5  # what takes less leaves its final page alone
PAGE_SECONDS = 5.0
TICK_SECONDS = 0.5


class BestEffort:
    """Calls a function that reports to the Prefect server. A failure is logged, that of the server once per outage, and
    not raised: what is reported has been done."""

    def __init__(self, logger: Logger) -> None:
        self.logger = logger
        self.away = False

    def __call__(self, call: Callable[..., Any], *arguments: Any) -> None:
        try:
            call(*arguments)
            self.away = False
        except (httpx.HTTPError, PrefectException) as error:
            if not self.away:
                self.logger.warning(
                    "The Prefect server cannot be told how it stands (%s); the work goes on", first_line(error)
                )
            self.away = True
        except Exception as error:
            self.logger.warning("What was done cannot be shown (%r); the work goes on", error)


class LivePage:
    """One page of the run that makes it: an artifact, made when it is first shown.

    Args:
        key: the timeline that it belongs to; the next run's page follows it there.
        title: what it is about.
        render: its Markdown, as of now.
        logger: where the address of the page and outages of the server are told.
    """

    def __init__(self, key: str, title: str, render: Callable[[], str], logger: Logger) -> None:
        self.key, self.title, self.render, self.logger = key, title, render, logger
        self.id: UUID | None = None
        self.due = time.monotonic() + FIRST_SECONDS
        self._best_effort = BestEffort(logger)
        self._context = copy_context()  # of the run, or of its task: Prefect attributes the artifact to it
        self._lock = threading.RLock()
        self._closed = False

    def refresh(self) -> None:
        """Show how it stands now."""
        with self._lock:
            try:
                if not self._closed:
                    self._best_effort(self._show, self.render(), self.title)
            finally:  # counted from the end: a server that is away takes its time
                self.due = time.monotonic() + PAGE_SECONDS

    def close(self, text: str, description: str) -> None:
        """Show this, and nothing after it."""
        with self._lock:
            self._closed = True
            self._best_effort(self._show, text, description)

    @contextmanager
    def closed_with(self, render: Callable[[], str]) -> Iterator[None]:
        """However the block ends, this is what the page shows from then on."""
        try:
            yield
        finally:
            BestEffort(self.logger)(lambda: self.close(render(), self.title))

    def close_if_shown(self, text: str, description: str) -> None:
        """The same for a page that people may be looking at; one that was never shown is not made for this."""
        with self._lock:
            if self.id is None:
                self._closed = True
            else:
                self.close(text, description)

    def _show(self, text: str, description: str) -> None:
        description = plain(description)  # the UI draws it as Markdown
        if self.id is None:
            self.id = cast(UUID, self._context.run(create_markdown_artifact, text, self.key, description))
            if not self._closed and (address := PREFECT_UI_URL.value()):
                self._context.run(self.logger.info, "Watch: %s/artifacts/artifact/%s", address, self.id)
            return
        with get_client(sync_client=True) as client:
            change = {"data": text, "description": description}
            client.request("PATCH", "/artifacts/{id}", path_params={"id": self.id}, json=change)


class Watch:
    """Refreshes the pages of a run while the block lasts, and shows bars where there is a terminal.

    Attributes:
        bars: of the terminal, if there is one.
        interrupted: set once the run is being ended from outside, for work in its threads.
    """

    def __init__(self) -> None:
        self.bars: Bars | None = None
        self.interrupted = threading.Event()
        self._pages: list[LivePage] = []
        self._stack = ExitStack()

    def __enter__(self) -> Watch:
        self.bars = self._stack.enter_context(bars_on_terminal())
        ended = threading.Event()
        self._stack.callback(ended.set)
        threading.Thread(target=self._run, args=(ended,), name="watch", daemon=True).start()
        return self

    def __exit__(self, *_: object) -> None:
        self._stack.close()

    @contextmanager
    def showing(self, page: LivePage, work: Shown | None = None) -> Iterator[None]:
        """Refresh this page, and show a bar of this work, while the block lasts."""
        self._pages.append(page)
        try:
            with self.bar(work) if work else nullcontext():
                yield
        finally:
            self._pages.remove(page)

    def bar(self, work: Shown) -> AbstractContextManager[None]:
        """Show a bar of this work, where there is a terminal, while the block lasts."""
        return self.bars.showing(work) if self.bars else nullcontext()

    def _run(self, ended: threading.Event) -> None:
        failed: set[LivePage] = set()
        while not ended.wait(TICK_SECONDS):
            for page in list(self._pages):
                if time.monotonic() < page.due:
                    continue
                try:
                    page.refresh()
                except Exception as error:  # the page is wrong about the work; the other pages and the work go on
                    if page not in failed:
                        page.logger.warning("The page of %s cannot be drawn (%r)", page.title, error)
                    failed.add(page)
