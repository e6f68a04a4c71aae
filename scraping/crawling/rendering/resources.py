"""What a page may load while it is rendered: each request is the crawl's own, under all of its rules.

A browser asks for much more than a page needs. Here is what becomes of its requests:

- scripts and data (`script`, `xhr`, `fetch`) are loaded with GET alone, from the source's hosts and from those that
  `resource_hosts` names, unless `deny` or the robots.txt of their host forbids it; `allow` is about pages. They wait
  for their host's turn, go to vetted addresses, are bounded in bytes, time and number, and carry the crawl's name and
  cookies and none of the browser's. So does each hop of a redirect;
- data that its owner reserves from training is refused as a page would be (`reservations`), by its headers, the
  robots.txt and the TDM file of its origin;
- style sheets are empty: they change no text, but scripts may wait for them;
- all else (images, fonts, media, frames, which are links to a crawl, WebSockets, beacons, downloads) is not loaded.

An answer is kept for other pages of the same crawl unless it says that it may not be (RFC 9111, 2022), so that a site's
scripts are asked for once. One that fails is asked for again as a page would be, not before its server says, and then
passed over for the crawl; so is all of an origin that has no robots.txt to be had, or asks for too long a pause.
"""

from __future__ import annotations

import asyncio
import logging
from collections import OrderedDict, defaultdict
from collections.abc import Callable, Mapping
from concurrent.futures import ThreadPoolExecutor
from contextvars import copy_context
from dataclasses import replace
from typing import Any, NamedTuple, TypeVar

from scraping.crawling.answers.reservations import TDM_FILE, PathRules, fetch_tdm_rules, page_reservation
from scraping.crawling.connections import HostBusy
from scraping.crawling.fetch import Fetcher, FetchError, Request, Response, TransientHostError
from scraping.crawling.links import ParsedPage, RobotsDirectives
from scraping.crawling.politeness import MAX_PAUSE
from scraping.crawling.robots import RobotsTxt, RobotsUnreachable, fetch_robots
from scraping.crawling.scope import Scope, UrlBounds
from scraping.crawling.source import Source
from scraping.crawling.urls import host_of, normalize, origin_of, resolve

__all__ = ["LOADED", "Asked", "Resources"]

logger = logging.getLogger(__name__)

T = TypeVar("T")

LOADED = ("script", "xhr", "fetch")  # Playwright's names of what is loaded

_MAX_REDIRECTS = 5
_MAX_KEPT = 128 << 20  # bytes
_THREADS = 32  # as many origins are asked at a time
_MAX_ROBOTS_SECONDS = 30.0
_BOUNDS = UrlBounds(length=8_000, segments=1_000, repeats=1_000)  # the source's are against traps among pages
# What a script may say in its requests; the rest is the crawl's to say, or tells of the browser
_PASSED_ON = ("accept", "authorization")
_KEEP_NOT = ("no-store", "no-cache", "max-age=0")


class Asked(NamedTuple):
    """What a page asks for."""

    method: str
    url: str  # as the browser spells it
    kind: str
    headers: Mapping[str, str]  # names in small letters


class Resources:
    """Loads what the pages of a source need. It lives in one event loop.

    Args:
        source: whose rules hold.
        fetcher: makes the requests, one at a time for an origin.

    Attributes:
        refusals: origins that are not asked any more, and why.
    """

    def __init__(self, source: Source, fetcher: Fetcher):
        self._source, self._fetcher = source, fetcher
        self._scope = Scope([*source.hosts, *source.resource_hosts], (), source.deny, _BOUNDS)
        self._robots_seconds = min(source.limits.seconds, _MAX_ROBOTS_SECONDS)
        self._robots: dict[str, RobotsTxt] = {}  # by origin
        self._tdm: dict[str, PathRules] = {}  # rules about text and data mining, by origin
        self.refusals: dict[str, FetchError] = {}
        self._kept: OrderedDict[tuple[Any, ...], Response | str] = OrderedDict()  # answers, or why there is none
        self._kept_bytes = 0
        self._turns: defaultdict[str, asyncio.Lock] = defaultdict(asyncio.Lock)  # by origin
        self._pool = ThreadPoolExecutor(_THREADS, thread_name_prefix="resource")

    def learn(self, origin: str, robots: RobotsTxt, tdm: PathRules) -> None:
        """Take over the rules of an origin that the crawl knows already."""
        self._robots[origin], self._tdm[origin] = robots, tdm

    async def load(self, asked: Asked) -> Response:
        """The answer for a page.

        Raises:
            FetchError: it is refused, or cannot be had: why.
            Stopped: the crawl is being stopped.
        """
        if asked.method != "GET":
            raise FetchError(f"method {asked.method}")
        url = asked.url.partition("#")[0]
        headers = {name.title(): value for name, value in asked.headers.items() if _is_passed_on(name)}
        for _ in range(_MAX_REDIRECTS + 1):
            spelled = normalize(url)  # as the rules are written; a browser leaves /%70rivate as it is
            if spelled is None:
                raise FetchError("not an http or https URL")
            if reason := self._scope.skip_reason(spelled) or self._scope.skip_reason(url):
                raise FetchError(f"{reason} {host_of(url)}" if reason == "other host" else reason)
            async with self._turns[origin_of(url)]:
                response = await self._kept_or_new(url, headers, is_data=asked.kind != "script")
            if response.location is None:
                return response
            target = resolve(url, response.location)
            if target is None:
                raise FetchError("redirect to nowhere")
            url = target
        raise FetchError("too many redirects")

    def close(self) -> None:
        """Wait for the requests under way; the fetcher was interrupted before."""
        self._pool.shutdown()

    async def _kept_or_new(self, url: str, headers: dict[str, str], *, is_data: bool) -> Response:
        key = (url, is_data, *sorted(headers.items()))
        if key in self._kept:
            self._kept.move_to_end(key)
            answer = self._kept[key]
        else:
            answer = await self._in_thread(lambda: self._ask(url, headers, is_data=is_data))
            self._keep(key, answer)
        if isinstance(answer, str):
            raise FetchError(answer)
        return answer

    async def _in_thread(self, work: Callable[[], Response | str]) -> Response | str:
        # The context says which run the fetcher's log lines belong to.
        return await asyncio.get_running_loop().run_in_executor(self._pool, copy_context().run, work)

    def _ask(self, url: str, headers: dict[str, str], *, is_data: bool) -> Response | str:
        """The answer, or why there is none; a failure that may pass is tried again."""
        origin = origin_of(url)
        if origin in self.refusals:
            return str(self.refusals[origin])
        try:
            return self._patiently(lambda: self._ask_once(url, headers, is_data=is_data))
        except FetchError as error:
            if _is_of_host(error):
                self.refusals[origin] = error
            return str(error)

    def _patiently(self, ask: Callable[[], T]) -> T:
        """What `ask` gives, after pauses if need be: as many attempts as a page has.

        Raises:
            FetchError: of the last attempt, or before too long a pause.
        """
        for attempt in range(self._source.limits.attempts - 1):
            try:
                return ask()
            except TransientHostError as error:
                if _asks_for_too_long(error):
                    raise
                pause = max(self._source.backoff * 2.0**attempt, error.retry_after or 0.0)
            self._fetcher.sleep(pause)
        return ask()

    def _ask_once(self, url: str, headers: dict[str, str], *, is_data: bool) -> Response:
        limits, robots = self._source.limits, self._robots_txt(url)
        if not robots.allows(url):
            raise FetchError("robots.txt")
        delay = self._source.request_delay(robots.crawl_delay)
        response = self._fetcher.fetch(Request(url, delay, limits.seconds, limits.bytes, headers))
        if response.is_no_use:
            raise response.refusal()
        reserved = is_data and self._source.reservations == "obey" and self._reservation(response, robots)
        if reserved:
            raise FetchError(reserved)
        return response

    def _robots_txt(self, url: str) -> RobotsTxt:
        origin = origin_of(url)
        robots = self._robots.get(origin)
        if robots is None or robots.expired:
            source = self._source
            robots = fetch_robots(url, self._fetcher, source.user_agent, source.delay, self._robots_seconds)
            self._fetcher.gate(host_of(url)).pause(source.request_delay(robots.crawl_delay))
            self._robots[origin] = robots
        return robots

    def _reservation(self, response: Response, robots: RobotsTxt) -> str | None:
        agent, url = self._source.user_agent, normalize(response.url) or response.url  # rules are about that spelling
        said = ParsedPage(directives=RobotsDirectives.of_headers(response.headers.getlist("X-Robots-Tag"), agent))
        return page_reservation(said, replace(response, url=url), robots, self._tdm_rules(origin_of(url), robots))

    def _tdm_rules(self, origin: str, robots: RobotsTxt) -> PathRules:
        """The rules of the origin's TDM file, asked for with its first data; none if it cannot be had, as for pages."""
        if origin not in self._tdm:
            delay, seconds = self._source.request_delay(robots.crawl_delay), self._robots_seconds
            try:
                rules = self._patiently(lambda: fetch_tdm_rules(origin, self._fetcher, delay, seconds, robots.allows))
            except FetchError as error:
                if _is_of_host(error):
                    raise
                logger.warning("%s%s: %s; so it reserves nothing", origin, TDM_FILE, error)
                rules = PathRules()
            self._tdm[origin] = rules
        return self._tdm[origin]

    def _keep(self, key: tuple[Any, ...], answer: Response | str) -> None:
        if isinstance(answer, Response):
            control = answer.headers.get("Cache-Control", "").lower().replace(" ", "")
            if any(word in control for word in _KEEP_NOT):
                return
        self._kept[key] = answer
        self._kept_bytes += _size(answer)
        while self._kept_bytes > _MAX_KEPT:
            self._kept_bytes -= _size(self._kept.popitem(last=False)[1])


def _size(answer: Response | str) -> int:
    return 1_000 + (len(answer.body) if isinstance(answer, Response) else 0)


def _is_of_host(error: FetchError) -> bool:
    """Whether nothing more is to be asked of the origin."""
    return isinstance(error, RobotsUnreachable) or (isinstance(error, HostBusy) and _asks_for_too_long(error))


def _asks_for_too_long(error: TransientHostError) -> bool:
    return (error.retry_after or 0.0) > MAX_PAUSE


def _is_passed_on(header: str) -> bool:
    return header in _PASSED_ON or (header.startswith("x-") and not header.startswith("x-forwarded"))
