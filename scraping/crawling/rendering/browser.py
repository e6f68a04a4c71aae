"""From a server's answer to the page that a browser makes of it: `Browser.render`.

The crawl has fetched the page as any other, and the browser is given that answer. What the page then asks for is
answered by `resources`, so that the server sees requests of the crawl alone. Each page has a profile of its own, which
is gone with it: no cookie, no stored item and no service worker outlives a page.

A page's clock is virtual (Chromium's `Emulation.setVirtualTimePolicy`): it stands still while the page waits for
something to load, however long a server wants to be left in peace, and runs ahead while the page waits for its own
timers. So a page is taken after the same seconds of its own time everywhere, and one that never comes to rest, because
it polls or plays, is taken like any other. What takes long in earnest (an endless loop) ends after `limits.seconds`.
A request that is refused, or answered with what the crawl has already, stops the clock as well: a page that asks again
and again after `limits.requests` would never come to its end, so it is taken some seconds later as it is.

Playwright and its event loop run in a thread of their own; the crawl's threads hand pages to it and wait.
"""

from __future__ import annotations

import asyncio
import logging
import threading
import time
from collections import Counter
from collections.abc import Coroutine, Iterator
from concurrent.futures import Future
from concurrent.futures import wait as wait_for
from contextlib import closing, contextmanager, suppress
from contextvars import Context, copy_context
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

from urllib3 import HTTPHeaderDict

from scraping.crawling.answers.reservations import PathRules, page_reservation
from scraping.crawling.fetch import Fetcher, FetchError, Response, Stopped
from scraping.crawling.links import ParsedPage, parse_page
from scraping.crawling.rendering.chromium import check_browser, find_chromium, launch
from scraping.crawling.rendering.resources import LOADED, Asked, Resources
from scraping.crawling.robots import RobotsTxt
from scraping.crawling.source import Source
from scraping.crawling.urls import normalize, origin_of
from scraping.extraction.charset import decode
from scraping.extraction.sniff import is_html
from textmill.errors import first_line

if TYPE_CHECKING:
    from playwright.async_api import Browser as Chromium
    from playwright.async_api import BrowserContext, CDPSession, Page, Playwright, Route

__all__ = ["Browser", "NotRendered", "open_browser"]

logger = logging.getLogger(__name__)

T = TypeVar("T")

PAGE_SECONDS = 5.0  # of a page's own time, after which it is taken
_PAGES_AT_ONCE = 4
_WORKER_SECONDS = 1.0  # for workers to ask for something, after which they are taken to be at rest
_MAX_ROUNDS = 5  # of a page's own time: what its workers asked for came when it was over
_LOOK_SECONDS = 0.1  # between two looks at what a page does
_STOP_SECONDS = 0.2  # after which a waiting thread looks whether the crawl is being stopped
_CLOSE_SECONDS = 10.0
_GONE_SECONDS = 1.0  # after which a Chromium that has died is known to be gone
_SERIALIZE = Path(__file__).with_name("serialize.js").read_text("utf-8")
# Headers of an answer that are the connection's, or would make the browser do something by itself
_KEPT_BACK = {
    "alt-svc", "clear-site-data", "connection", "content-disposition", "content-encoding", "content-length",
    "keep-alive", "link", "nel", "refresh", "report-to", "reporting-endpoints", "set-cookie",
    "strict-transport-security", "transfer-encoding",
}  # fmt: skip


class NotRendered(FetchError):
    """The browser came to no end with a page, or died of it, which another time it may not: the page alone, and not its
    host, is to be asked for again."""


@contextmanager
def open_browser(source: Source, fetcher: Fetcher) -> Iterator[Browser | None]:
    """The browser that a source asks for, if it asks for one.

    Raises:
        UserError: Playwright or Chromium is missing.
    """
    check_browser(source)
    if source.fetch == "http":
        yield None
        return
    with closing(Browser(source, fetcher)) as browser:
        yield browser


class Browser:
    """Renders the pages of one crawl. Threads share it; Chromium is started for the first page.

    Args:
        source: whose rules hold for what the pages load.
        fetcher: makes the requests. It is interrupted before `close` is called.
    """

    def __init__(self, source: Source, fetcher: Fetcher):
        self._source, self._fetcher, self._path = source, fetcher, find_chromium()
        self._loop = asyncio.new_event_loop()
        self._thread = threading.Thread(target=self._loop.run_forever, name="browser", daemon=True)
        self._thread.start()
        self._resources = Resources(source, fetcher)
        self._starting, self._free = asyncio.Lock(), asyncio.Semaphore(_PAGES_AT_ONCE)
        self._playwright: Playwright | None = None
        self._chromium: Chromium | None = None
        self._told: set[str] = set()

    def render(self, response: Response, robots: RobotsTxt, tdm: PathRules) -> Response:
        """The answer with the page as rendered, in UTF-8; the answer itself if it is no page, or one not to be kept.

        A script that leads elsewhere does so as a `Refresh` header does: the page is taken, and its target is a link.
        What the page's `<meta>` elements asked of crawlers before scripts changed them still holds.

        Args:
            response: what the server gave for a page.
            robots: the rules of its origin.
            tdm: those about text and data mining.

        Raises:
            NotRendered: the page cannot be rendered now: why.
            FetchError: rendered, it is too large.
            UserError: Chromium does not start.
            Stopped: the crawl is being stopped.
        """
        if response.status != 200 or response.skip_reason or not is_html(response.body, response.content_type):
            return response
        page = parse_page(response, self._source.user_agent)
        reserved = self._source.reservations == "obey" and page_reservation(page, response, robots, tdm)
        if page.directives.noindex or reserved:
            return response
        self._loop.call_soon_threadsafe(self._resources.learn, origin_of(response.url), robots, tdm)
        html, tab = self._wait(self._render(response))
        for reason in sorted(tab.not_loaded.keys() - self._told):
            self._told.add(reason)
            logger.warning("source %s: pages could not load all: %s, as on %s", self._source.name, reason, response.url)
        return replace(
            response,
            headers=_headers(response, page, tab.moved_to),
            body=html.encode("utf-8", "replace"),
            not_loaded=dict(tab.not_loaded),
        )

    def refusal(self, origin: str) -> FetchError | None:
        """Why what pages load is not asked of `origin` any more; None if it is."""
        return self._resources.refusals.get(origin)

    def close(self) -> None:
        """End Chromium."""
        with suppress(Exception):  # it may be gone already
            asyncio.run_coroutine_threadsafe(self._close(), self._loop).result(3 * _CLOSE_SECONDS)
        self._resources.close()
        self._loop.call_soon_threadsafe(self._loop.stop)
        self._thread.join()
        self._loop.close()

    def _wait(self, work: Coroutine[Any, Any, T]) -> T:
        """Have the browser's thread do `work`, unless the crawl is stopped."""
        future: Future[T] = asyncio.run_coroutine_threadsafe(work, self._loop)
        try:
            while not wait_for([future], _STOP_SECONDS).done:
                self._fetcher.sleep(0.0)
            return future.result()
        except BaseException:
            future.cancel()
            raise

    # --- in the browser's thread ---

    async def _render(self, response: Response) -> tuple[str, _Tab]:
        """The HTML of the rendered page, and what happened on the way."""
        from playwright.async_api import Error

        async with self._free:
            for _ in range(2):  # Chromium may die of another page
                chromium = await self._started()
                try:
                    context = await chromium.new_context(
                        user_agent=self._source.user_agent_header(), service_workers="block", accept_downloads=False
                    )
                    try:
                        tab = _Tab(context, response, self._resources, self._source)
                        return await tab.render(), tab
                    finally:
                        with suppress(Error):
                            await context.close()
                except (Error, _Crashed) as error:
                    problem = first_line(error)
                    await asyncio.sleep(_GONE_SECONDS)
                    self._fetcher.sleep(0.0)  # when the crawl is being stopped, Chromium may be, too
                    if chromium.is_connected():
                        break
            raise NotRendered(f"cannot be rendered ({problem})")

    async def _started(self) -> Chromium:
        from playwright.async_api import async_playwright

        async with self._starting:
            if self._chromium is None or not self._chromium.is_connected():
                self._playwright = self._playwright or await async_playwright().start()
                self._chromium = await launch(self._playwright, self._path)
            return self._chromium

    async def _close(self) -> None:
        """End Chromium, then Playwright, which ends a Chromium that does not do so by itself."""
        for end in (self._chromium and self._chromium.close, self._playwright and self._playwright.stop):
            if end:
                with suppress(Exception):
                    await asyncio.wait_for(end(), _CLOSE_SECONDS)
        others = asyncio.all_tasks() - {asyncio.current_task()}
        for task in others:
            task.cancel()
        await asyncio.gather(*others, return_exceptions=True)


class _Crashed(Exception):
    """A page's renderer crashed, perhaps with all of Chromium."""


class _Tab:
    """One page while it is rendered.

    Attributes:
        not_loaded: how many of its requests came to nothing, by reason.
        moved_to: where a script wanted to go.
    """

    def __init__(self, context: BrowserContext, response: Response, resources: Resources, source: Source):
        self.not_loaded: Counter[str] = Counter()
        self.moved_to: str | None = None
        self._browser_context, self._response, self._resources = context, response, resources
        self._limits = source.limits
        self._page: Page | None = None
        self._given = False  # whether the page itself was
        self._requests = self._pending = 0
        self._waiting = 0  # requests that wait for a server, or for its turn
        self._overtime = 0.0  # seconds of its own since it has asked for more than it may
        self._expired = asyncio.Event()  # the page's own time
        self._failure: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self._failure.add_done_callback(lambda failure: failure.exception())  # nobody may be waiting for it
        self._tasks: set[asyncio.Task[None]] = set()
        self._context: Context = copy_context()

    async def render(self) -> str:
        """The page's HTML.

        Raises:
            NotRendered: it took too long.
            FetchError: it is too large.
            _Crashed: its renderer crashed.
            Stopped: the crawl is being stopped.
        """
        context = self._browser_context
        await context.route("**/*", self._on_request)
        page = self._page = await context.new_page()
        context.on("page", lambda popup: self._start(popup.close()))
        page.on("dialog", lambda dialog: self._start(dialog.dismiss()))
        page.on("close", lambda _: self._fail(_Crashed("it was closed")))  # Chromium is gone
        page.on("crash", lambda _: self._fail(_Crashed("its renderer crashed")))
        session = await context.new_cdp_session(page)
        session.on("Emulation.virtualTimeBudgetExpired", lambda _: self._expired.set())
        try:
            await self._within_limits(page.goto(self._response.url, wait_until="commit", timeout=0))
            for _ in range(_MAX_ROUNDS):
                self._expired.clear()
                budget = {"policy": "pauseIfNetworkFetchesPending", "budget": PAGE_SECONDS * 1000}
                await self._within_limits(session.send("Emulation.setVirtualTimePolicy", budget))
                await self._within_limits(self._expired.wait())
                if self._is_over or not await self._within_limits(self._is_waiting_for_workers(page)):
                    break
            return await self._within_limits(self._serialize(session))
        finally:
            for task in self._tasks:
                task.cancel()
            if self._tasks:
                await asyncio.wait(self._tasks, timeout=_CLOSE_SECONDS)

    async def _within_limits(self, work: Coroutine[Any, Any, T]) -> T:
        """What `work` gives, unless the page fails; the time in which it waits for a server is not the page's own."""
        task: asyncio.Future[T] = asyncio.ensure_future(work)
        either: list[asyncio.Future[Any]] = [task, self._failure]
        spent = 0.0
        try:
            while not task.done():
                started, is_waiting = time.monotonic(), self._waiting > 0
                await asyncio.wait(either, timeout=_LOOK_SECONDS, return_when=asyncio.FIRST_COMPLETED)
                if self._failure.done():
                    self._failure.result()
                seconds = 0.0 if is_waiting else time.monotonic() - started
                spent += seconds
                self._overtime += seconds if self._requests > self._limits.requests else 0.0
                if self._is_over:
                    self._expired.set()
                if spent > self._limits.seconds:
                    raise NotRendered(f"cannot be rendered (its scripts ran for more than {self._limits.seconds:g} s)")
            return task.result()
        finally:
            task.cancel()

    @property
    def _is_over(self) -> bool:
        return self._overtime > PAGE_SECONDS

    async def _is_waiting_for_workers(self, page: Page) -> bool:
        """Give the page's workers time to ask for something, and to tell the page; whether they did ask.

        They do not stop the page's clock, which stands still meanwhile.
        """
        requests = self._requests - self._pending
        if page.workers:
            await asyncio.sleep(_WORKER_SECONDS)
        while self._pending and not self._is_over:
            await asyncio.sleep(_LOOK_SECONDS)
        return self._requests > requests

    async def _serialize(self, session: CDPSession) -> str:
        """The page's DOM, read in a world of its own, whose functions the page cannot have replaced."""
        frame = (await session.send("Page.getFrameTree"))["frameTree"]["frame"]["id"]
        world = await session.send("Page.createIsolatedWorld", {"frameId": frame})
        call = {
            "functionDeclaration": _SERIALIZE,
            "executionContextId": world["executionContextId"],
            "arguments": [{"value": self._response.url}, {"value": self._limits.bytes}],
            "returnByValue": True,
        }
        result = (await session.send("Runtime.callFunctionOn", call))["result"]
        html = result.get("value")
        if html is None or len(html.encode("utf-8", "replace")) > self._limits.bytes:
            raise FetchError(f"rendered, it is larger than {self._limits.bytes:,} bytes")
        return str(html)

    def _fail(self, error: Exception) -> None:
        if not self._failure.done():
            self._failure.set_exception(error)

    # --- what the page asks for ---

    def _start(self, work: Coroutine[Any, Any, None]) -> None:
        task = asyncio.get_running_loop().create_task(_unless_gone(work), context=self._context)
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)

    def _on_request(self, route: Route) -> None:
        request = route.request
        if request.is_navigation_request():
            self._start(self._navigate(route))
        elif request.resource_type == "stylesheet":
            self._start(route.fulfill(status=200, content_type="text/css", body=""))
        elif request.resource_type in LOADED:
            self._pending += 1
            self._start(self._load(route))
        else:
            if request.resource_type == "eventsource":
                self.not_loaded["EventSource"] += 1
            self._start(route.abort("blockedbyclient"))

    async def _navigate(self, route: Route) -> None:
        """Give the page itself; after that, a script wants to leave it, or a frame or popup wants one."""
        request = route.request
        if not self._given:
            self._given = True
            html = decode(self._response.body, self._response.content_type)
            headers = _given_headers(self._response) | {"content-type": "text/html; charset=utf-8"}
            await route.fulfill(status=200, headers=headers, body=html)
            return
        with suppress(Exception):  # the frame may be gone
            if request.frame == (self._page and self._page.main_frame) and request.method == "GET":
                self.moved_to = self.moved_to or normalize(request.url)
        await route.abort("aborted")  # any other error would replace the page by one that tells of it

    async def _load(self, route: Route) -> None:
        request = route.request
        try:
            self._requests += 1
            if self._requests > self._limits.requests:
                raise FetchError("limits.requests reached")
            asked = Asked(request.method, request.url, request.resource_type, await request.all_headers())
            self._waiting += 1  # nobody sees it unless the load does wait
            try:
                response = await self._resources.load(asked)
            finally:
                self._waiting -= 1
            if response.status >= 400:
                self.not_loaded[f"status {response.status}"] += 1
            await route.fulfill(status=response.status, headers=_given_headers(response), body=response.body)
        except FetchError as error:
            self.not_loaded[str(error)] += 1
            await route.abort("blockedbyclient")
        except asyncio.CancelledError:
            await route.abort("blockedbyclient")
            raise
        except Stopped as stopped:
            self._fail(stopped)
            await route.abort("blockedbyclient")
        finally:
            self._pending -= 1


async def _unless_gone(work: Coroutine[Any, Any, None]) -> None:
    """Do `work`, unless the page is closed meanwhile."""
    from playwright.async_api import Error

    with suppress(Error):
        await work


def _given_headers(response: Response) -> dict[str, str]:
    """The headers of an answer that a page is given."""
    return {name.lower(): value for name, value in response.headers.items() if name.lower() not in _KEPT_BACK}


def _headers(response: Response, page: ParsedPage, moved_to: str | None) -> HTTPHeaderDict:
    """The headers of a rendered page: those of its answer that speak of the page and not of the bytes, and what its
    elements said before scripts changed them."""
    headers = response.headers.copy()
    for name in ("Content-Encoding", "Content-Length", "ETag", "Last-Modified"):
        headers.discard(name)
    headers["Content-Type"] = "text/html; charset=utf-8"
    for directive in ("nofollow" if page.directives.nofollow else None, page.directives.reserved):
        if directive:
            headers.add("X-Robots-Tag", directive)
    if page.tdm_reservation:
        headers["TDM-Reservation"] = "1"
    if moved_to:
        headers["Refresh"] = f"0; url={moved_to}"
    return headers
