"""The part of a crawl that deals with one host: its robots.txt, its sitemaps, its pages in turn, its failures."""

from __future__ import annotations

import hashlib
import logging
import time
from itertools import islice

from scraping.crawling.fetch import (
    FetchError,
    ForbiddenAddressError,
    Request,
    Response,
    Stopped,
    TransientHostError,
)
from scraping.crawling.frontier import MAX_REDIRECTS, FoundUrl, PageBody, QueuedUrl
from scraping.crawling.links import ParsedPage, RobotsDirectives, parse_page, skip_reason
from scraping.crawling.politeness import MAX_PAUSE
from scraping.crawling.robots import RobotsTxt, RobotsUnreachable, fetch_robots
from scraping.crawling.sitemap import read_sitemaps
from scraping.crawling.snapshot import UNREAD_SITEMAP, PreviousPage
from scraping.crawling.state import CrawlState, HostGivenUp
from scraping.crawling.urls import host_of, origin_of, resolve
from scraping.extraction.sniff import is_html

__all__ = ["HostWorker"]

logger = logging.getLogger(__name__)

_MAX_BACKOFF = 300.0  # seconds
_BUSY_STATUSES = (429, 502, 503, 504)  # they are about the host; any other 5xx is about the page
_MAX_REMEMBERED = 10_000  # redirected URLs
_SITEMAP_ENTRIES_PER_PAGE = 10  # read for each page that the crawl may fetch: enough to choose from


class HostWorker:
    """Requests the pages of one host, one after the other, until its queue is empty or it is given up."""

    def __init__(self, state: CrawlState, host: str):
        self.state, self.host = state, host
        self.source, self.frontier, self.fetcher = state.source, state.frontier, state.fetcher
        self._robots: dict[str, RobotsTxt] = {}  # by origin
        self._failures = 0  # in a row
        self._ever_answered = False
        self._redirected: dict[str, int] = {}  # URL -> how many cookies there were when it was asked for

    def run(self) -> None:
        """Work until there is nothing left to do for this host, and close its connection."""
        try:
            while not self.state.full and (batch := self.frontier.next_urls(self.host)):
                for item in batch:
                    if self.state.full:
                        return
                    while not self._visit(item):
                        pass
                    self.frontier.cut_shard_if_full()
        except Stopped:
            logger.info("%s: stopped", self.host)
        except HostGivenUp as error:
            logger.warning("source %s: giving up %s: %s", self.source.name, self.host, error)
            self.state.given_up[self.host] = error
        finally:
            self.fetcher.leave(self.host)

    def _visit(self, item: QueuedUrl) -> bool:
        """Make one request for a URL and record its outcome; False if another try is to be made."""
        try:
            robots = self._robots_txt(item.url)
        except RobotsUnreachable as error:
            self.state.count_error(str(error))
            self._count_failure(str(error), error.retry_after)
            return False
        if not robots.allows(item.url):
            self.frontier.skip(item, "robots.txt")
            return True
        previous = self.state.previous.get(item.url)
        request = Request(
            item.url,
            delay=self._delay(robots, self.host),
            timeout=self.source.limits.seconds,
            max_bytes=self.source.limits.bytes,
            headers=previous.validators if previous else {},
            skip_body=skip_reason,
        )
        try:
            response = self.fetcher.fetch(request)
        except TransientHostError as error:
            self._count_failure(str(error))
            return self._retry(item, str(error))
        except FetchError as error:
            self._fail(item, str(error))
            return True
        if response.status >= 500 or response.status == 429:
            return self._server_error(item, response)
        self._count_success()
        self.state.count_answer()
        self._record(item, response, previous)
        return True

    # --- what an answer holds ---

    def _record(self, item: QueuedUrl, response: Response, previous: PreviousPage | None) -> None:
        status = response.status
        if status == 304 and previous:
            self._store(item, response, self.state.previous.body(previous), previous)
        elif response.location is not None:
            self._redirect(item, response, resolve(item.url, response.location))
        elif status != 200:
            self._fail(item, f"status {status}", status)
        elif response.skip_reason or not is_html(response.body, response.content_type):
            self.frontier.skip(item, response.skip_reason or "not HTML", status)
        else:
            self._store(item, response, _body_of(response), previous)

    def _store(self, item: QueuedUrl, response: Response, body: PageBody, previous: PreviousPage | None) -> None:
        """Store a page and add its links, as far as its owner agrees. After a 304, `body` is the previous one."""
        headers = response.headers.copy()
        headers["Content-Type"] = body.content_type
        page = parse_page(Response(item.url, 200, headers, body.body), self.source.user_agent)
        links = self._links(page, item)
        if page.directives.noindex:
            self.frontier.skip(item, "noindex", response.status, links)
            return
        body.canonical = self._canonical(page, item, links)
        if RobotsDirectives.of_headers(response.headers.getlist("X-Robots-Tag"), self.source.user_agent).nofollow:
            body.etag = body.last_modified = None  # a 304 need not repeat the header: next time, ask for the whole page
        change = "new" if previous is None else "unchanged" if previous.sha256 == body.sha256 else "changed"
        self.frontier.store(item, response.status, change, body, links)

    def _redirect(self, item: QueuedUrl, response: Response, target: str | None) -> None:
        """Put the target into the queue, where it waits for its turn as any link does.

        A site that tries its visitors for cookies redirects them in a circle: the target is asked for again if the host
        has set cookies since it was asked for last.
        """
        self._redirected[item.url] = response.cookies
        if len(self._redirected) > _MAX_REMEMBERED:
            self._redirected.pop(next(iter(self._redirected)))
        cookies = self.fetcher.count_cookies(self.host)
        if target is None:
            self._fail(item, "redirect to nowhere", response.status)
        elif item.hops >= MAX_REDIRECTS:
            self._fail(item, "too many redirects", response.status)
        else:
            again = self._redirected.get(target, cookies) < cookies
            if target == item.url and not again:
                self._fail(item, "redirect to itself", response.status)
                return
            found = self.state.new_urls([target], item.depth)
            self.frontier.redirect(item, response.status, target, found, again=again)

    def _links(self, page: ParsedPage, item: QueuedUrl) -> list[FoundUrl]:
        depth = item.depth + 1
        if page.directives.nofollow:
            return self.state.new_urls([], depth, nofollow=page.links + page.nofollow_links)
        return self.state.new_urls(page.links, depth, nofollow=page.nofollow_links)

    def _canonical(self, page: ParsedPage, item: QueuedUrl, links: list[FoundUrl]) -> str | None:
        """The other URL that the page names as canonical, if it is in scope; it is then added to `links`."""
        if page.canonical in (None, item.url) or self.state.scope.skip_reason(page.canonical):
            return None
        links += self.state.new_urls([page.canonical], item.depth + 1)
        return page.canonical

    # --- what the host asks for ---

    def _robots_txt(self, url: str) -> RobotsTxt:
        """The rules that hold for `url`; fetched anew when they are a day old.

        Raises:
            RobotsUnreachable: see `robots`; the host is to be asked again after a pause.
            HostGivenUp: the host has an address that the source may not contact.
        """
        origin = origin_of(url)
        robots = self._robots.get(origin)
        if robots is None or robots.expired:
            try:
                robots = fetch_robots(url, self.fetcher, self.source.user_agent, self.source.delay)
            except ForbiddenAddressError as error:
                raise HostGivenUp(str(error), permanent=True) from error
            self._count_success()
            self._robots[origin] = robots
            self._seed_sitemaps(origin, robots)
        return robots

    def _seed_sitemaps(self, origin: str, robots: RobotsTxt) -> None:
        """Once a crawl: put what the site's sitemaps list into the queue, the most important URLs first."""
        note = f"sitemaps of {origin}"
        if not self.source.sitemaps or self.frontier.get_note(note) is not None:
            return
        named = robots.sitemaps(origin)
        urls = named or [f"{origin}/sitemap.xml"]
        rules: dict[str, RobotsTxt | None] = {origin: robots}

        def delay_of(sitemap: str) -> float | None:
            """The delay for a sitemap's host, which may be another than that of its pages; None if that host is out of
            scope or disallows it."""
            if not self.state.scope.has_host(host_of(sitemap)):
                return None
            its_origin = origin_of(sitemap)
            if its_origin not in rules:
                rules[its_origin] = self._other_robots_txt(sitemap)
            its_rules = rules[its_origin]
            return self._delay(its_rules, host_of(sitemap)) if its_rules and its_rules.allows(sitemap) else None

        def report(sitemap: str, problem: str) -> None:
            if named or not problem.startswith("status 4"):  # where none is named, none need be there
                self.frontier.set_note(f"{UNREAD_SITEMAP}{sitemap}", problem)

        max_entries = _SITEMAP_ENTRIES_PER_PAGE * self.source.limits.pages
        entries = islice(read_sitemaps(urls, self.fetcher, delay_of, report=report), max_entries)
        ordered = sorted(entries, key=lambda entry: (entry.priority, entry.lastmod), reverse=True)
        found = self.state.new_urls((entry.url for entry in ordered), depth=1)
        self.frontier.seed(found, depth=1, note=(note, str(len(ordered))))

    def _other_robots_txt(self, url: str) -> RobotsTxt | None:
        """The rules of another origin than this worker's pages; None if they cannot be had now."""
        try:
            return fetch_robots(url, self.fetcher, self.source.user_agent, self.source.delay)
        except FetchError as error:
            logger.warning("sitemap %s: %s", url, error)
            return None

    def _delay(self, robots: RobotsTxt, host: str) -> float:
        """Seconds between requests to `host`; says once if they are fewer than it asks for."""
        asked, cap = robots.crawl_delay, self.source.crawl_delay_cap
        if asked and asked > cap and self.frontier.get_note(f"crawl-delay of {host}") is None:
            logger.warning("%s asks for a Crawl-delay of %g s; obeying %g s (crawl_delay_cap)", host, asked, cap)
            self.frontier.set_note(f"crawl-delay of {host}", str(asked))
        return self.source.request_delay(asked)

    # --- failures ---

    def _server_error(self, item: QueuedUrl, response: Response) -> bool:
        """A 5xx or 429: slow down, and ask again later."""
        reason = f"status {response.status}"
        if response.status in _BUSY_STATUSES:
            self._count_failure(reason, response.retry_after())
        else:
            self.fetcher.gate(self.host).pause(self.source.backoff * 2**item.attempts)
        return self._retry(item, reason, response.status)

    def _count_success(self) -> None:
        self._failures, self._ever_answered = 0, True

    def _count_failure(self, reason: str, retry_after: float | None = None) -> None:
        """Pause the host: as long as it asks, or twice as long after each failure in a row.

        Raises:
            HostGivenUp: it failed too often in a row, or asks for too long a pause.
        """
        self._failures += 1
        limits = self.source.limits
        if retry_after is not None and retry_after > MAX_PAUSE:
            raise HostGivenUp(f"{reason}; it asks to come back in {retry_after:.0f} s")
        if self._failures >= (limits.failures if self._ever_answered else min(limits.attempts, limits.failures)):
            raise HostGivenUp(reason)
        pause = min(self.source.backoff * 2 ** (self._failures - 1), _MAX_BACKOFF)
        pause = pause if retry_after is None else retry_after
        logger.info("%s: %s; asking again in %g s", self.host, reason, pause)
        self.fetcher.gate(self.host).pause(pause)

    def _fail(self, item: QueuedUrl, reason: str, status: int | None = None) -> None:
        """Record that a URL came to nothing."""
        self.state.count_error(reason)
        self.frontier.fail(item, reason, status)

    def _retry(self, item: QueuedUrl, reason: str, status: int | None = None) -> bool:
        """False if the URL may be tried again; else keep the previous snapshot's page, or record the failure."""
        self.state.count_error(reason)
        if item.attempts + 1 < self.source.limits.attempts:
            self.frontier.retry(item, status)
            return False
        if previous := self.state.previous.get(item.url):
            self.frontier.store(item, status, "kept", self.state.previous.body(previous), ())
        else:
            self.frontier.fail(item, reason, status)
        return True


def _body_of(response: Response) -> PageBody:
    headers, sha256 = response.headers, hashlib.sha256(response.body).hexdigest()
    now = time.time_ns() // 1000
    return PageBody(
        now, response.content_type, headers.get("ETag"), headers.get("Last-Modified"), sha256, response.body
    )
