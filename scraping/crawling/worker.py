"""The part of a crawl that deals with one host: its robots.txt, its sitemaps, its pages in turn, its troubles."""

from __future__ import annotations

import hashlib
import logging
import time
from itertools import islice
from typing import TYPE_CHECKING

from scraping.crawling.fetch import AddressRefused, FetchError, HostTrouble, Response
from scraping.crawling.frontier import MAX_HOPS, Body, Found, Waiting
from scraping.crawling.links import Page, header_wishes, read_page, refusal
from scraping.crawling.politeness import LONGEST_PAUSE, Stopped
from scraping.crawling.robots import Robots, RobotsUnavailable, fetch_robots
from scraping.crawling.sitemap import read_sitemaps
from scraping.crawling.snapshot import Known
from scraping.crawling.urls import host_of, origin_of, resolve
from scraping.extraction.sniff import is_html

if TYPE_CHECKING:
    from scraping.crawling.crawl import Crawl

log = logging.getLogger(__name__)

_LONGEST_BACKOFF = 300.0  # seconds
_BUSY = (429, 502, 503, 504)  # the host's trouble, not the page's
_SITEMAP_SHARE = 10  # entries read for each page that may be fetched: enough to choose from


class HostGivenUp(Exception):
    """No more is asked of this host in this crawl."""


class HostRefused(HostGivenUp):
    """The host has an address that the source may not contact: asking later would not help."""


class HostWorker:
    """Asks one host for its pages, one after the other."""

    def __init__(self, crawl: Crawl, host: str):
        self.crawl, self.host = crawl, host
        self.source, self.frontier, self.fetcher = crawl.source, crawl.frontier, crawl.fetcher
        self.robots: dict[str, Robots] = {}  # by origin
        self.failures = 0
        self.answered = False

    def run(self) -> None:
        try:
            while not self.crawl.full and (batch := self.frontier.waiting(self.host)):
                for item in batch:
                    if self.crawl.full:
                        return
                    while not self.visit(item):
                        pass
                    self.frontier.cut_shard_if_full()
        except Stopped:
            log.info("%s: stopped", self.host)
        except HostGivenUp as error:
            log.warning("source %s: giving up %s: %s", self.source.name, self.host, error)
            self.crawl.given_up[self.host] = error
        finally:
            self.fetcher.leave(self.host)

    def visit(self, item: Waiting) -> bool:
        """Ask for one URL and record what became of it; False if it is to be asked for again."""
        try:
            robots = self._robots(item.url)
        except RobotsUnavailable as error:
            self._count_failure(str(error), error.retry_after)
            return False
        try:
            if not robots.allows(item.url):
                self.frontier.skip(item, "robots.txt")
                return True
            known = self.crawl.last.get(item.url)
            response = self.fetcher.get(
                item.url,
                delay=self._delay(robots, self.host),
                seconds=self.source.limits.seconds,
                max_bytes=self.source.limits.bytes,
                headers=known.validators if known else None,
                accept=refusal,
            )
        except HostTrouble as error:
            self._count_failure(str(error))
            return self._try_later(item, str(error), None)
        except FetchError as error:
            self.frontier.fail(item, str(error))
            return True
        if response.status >= 500 or response.status == 429:
            reason = f"status {response.status}"
            if response.status in _BUSY:
                self._count_failure(reason, response.retry_after())
            else:
                self.fetcher.gate(self.host).pause(self.source.backoff * 2**item.attempts)
            return self._try_later(item, reason, response.status)
        self.failures, self.answered = 0, True
        self.crawl.count_answer()
        self._record(item, response, known)
        return True

    def _record(self, item: Waiting, response: Response, known: Known | None) -> None:
        status = response.status
        if status == 304 and known:
            self._store(item, response, self.crawl.body_of(known), known)
        elif response.location is not None:
            self._redirect(item, status, resolve(item.url, response.location))
        elif status != 200:
            self.frontier.fail(item, f"status {status}", status)
        elif response.refused or not is_html(response.body, response.content_type):
            self.frontier.skip(item, response.refused or "not HTML", status)
        else:
            self._store(item, response, _body_of(response), known)

    def _store(self, item: Waiting, response: Response, body: Body, known: Known | None) -> None:
        """Store a page and add its links, as far as its owner agrees. After a 304, `body` is the last snapshot's."""
        headers = response.headers.copy()
        headers["Content-Type"] = body.content_type
        page = read_page(Response(item.url, 200, headers, body.body), self.source.user_agent)
        links = self._links(page, item)
        if page.wishes.noindex:
            self.frontier.skip(item, "noindex", response.status, links)
            return
        body.canonical = self._canonical(page, item, links)
        if header_wishes(response.headers.getlist("X-Robots-Tag"), self.source.user_agent).nofollow:
            body.etag = body.last_modified = None  # a 304 need not repeat the header: next time, ask for the whole page
        change = "new" if known is None else "unchanged" if known.sha256 == body.sha256 else "changed"
        self.frontier.store(item, response.status, change, body, links)

    def _redirect(self, item: Waiting, status: int, target: str | None) -> None:
        if target is None:
            self.frontier.fail(item, "redirect to nowhere", status)
        elif target == item.url:
            self.frontier.fail(item, "redirect to itself", status)
        elif item.hops >= MAX_HOPS:
            self.frontier.fail(item, "too many redirects", status)
        else:
            self.frontier.redirect(item, status, target, self.crawl.found([target], item.depth))

    def _links(self, page: Page, item: Waiting) -> list[Found]:
        depth = item.depth + 1
        if page.wishes.nofollow:
            return self.crawl.found([], depth, nofollow=page.links + page.nofollow_links)
        return self.crawl.found(page.links, depth, nofollow=page.nofollow_links)

    def _canonical(self, page: Page, item: Waiting, links: list[Found]) -> str | None:
        """The other URL that the page names as its proper one, if it is in scope; it is then fetched as well."""
        if page.canonical in (None, item.url) or self.crawl.scope.refuses(page.canonical):
            return None
        links += self.crawl.found([page.canonical], item.depth + 1)
        return page.canonical

    # --- the host's conditions ---

    def _robots(self, url: str) -> Robots:
        """The rules that hold for `url`; asked for anew when they are a day old."""
        origin = origin_of(url)
        robots = self.robots.get(origin)
        if robots is None or robots.expired:
            try:
                robots = fetch_robots(url, self.fetcher, self.source.user_agent, self.source.delay)
            except AddressRefused as error:
                raise HostRefused(str(error)) from error
            self.failures, self.answered = 0, True
            self.robots[origin] = robots
            self._seed_sitemaps(origin, robots)
        return robots

    def _seed_sitemaps(self, origin: str, robots: Robots) -> None:
        """Once a crawl: what the site's sitemaps list, the most important first."""
        note = f"sitemaps of {origin}"
        if not self.source.sitemaps or self.frontier.noted(note):
            return
        urls = robots.sitemaps(origin) or [f"{origin}/sitemap.xml"]
        rules: dict[str, Robots | None] = {origin: robots}

        def delay_of(sitemap: str) -> float | None:
            """A sitemap may lie on another host than the pages it lists; then it is that host that must agree."""
            if not self.crawl.scope.has_host(host_of(sitemap)):
                return None
            if (place := origin_of(sitemap)) not in rules:
                rules[place] = self._others_robots(sitemap)
            its = rules[place]
            return self._delay(its, host_of(sitemap)) if its and its.allows(sitemap) else None

        entries = islice(read_sitemaps(urls, self.fetcher, delay_of), _SITEMAP_SHARE * self.source.limits.pages)
        ordered = sorted(entries, key=lambda entry: (entry.priority, entry.lastmod), reverse=True)
        self.frontier.seed(
            self.crawl.found((entry.url for entry in ordered), 1), depth=1, note=(note, str(len(ordered)))
        )

    def _others_robots(self, url: str) -> Robots | None:
        """The rules of another origin than this worker's pages; None if they cannot be had now."""
        try:
            return fetch_robots(url, self.fetcher, self.source.user_agent, self.source.delay)
        except FetchError as error:
            log.warning("sitemap %s: %s", url, error)
            return None

    def _delay(self, robots: Robots, host: str) -> float:
        asked = robots.crawl_delay or 0.0
        if asked > self.source.crawl_delay_cap:
            if not self.frontier.noted(f"crawl-delay of {host}"):
                cap = self.source.crawl_delay_cap
                log.warning("%s asks for a Crawl-delay of %g s; obeying %g s (crawl_delay_cap)", host, asked, cap)
                self.frontier.note(f"crawl-delay of {host}", str(asked))
            asked = self.source.crawl_delay_cap
        return max(self.source.delay, asked)

    def _count_failure(self, reason: str, retry_after: float | None = None) -> None:
        """Pause the host, or give it up when it failed too often in a row or asks for too long a pause."""
        self.failures += 1
        limits = self.source.limits
        if retry_after is not None and retry_after > LONGEST_PAUSE:
            raise HostGivenUp(f"{reason}; it asks to come back in {retry_after:.0f} s")
        if self.failures >= (limits.failures if self.answered else min(limits.attempts, limits.failures)):
            raise HostGivenUp(reason)
        pause = min(self.source.backoff * 2 ** (self.failures - 1), _LONGEST_BACKOFF)
        pause = pause if retry_after is None else retry_after
        log.info("%s: %s; asking again in %g s", self.host, reason, pause)
        self.fetcher.gate(self.host).pause(pause)

    def _try_later(self, item: Waiting, reason: str, status: int | None) -> bool:
        if item.attempts + 1 < self.source.limits.attempts:
            self.frontier.retry(item, status)
            return False
        known = self.crawl.last.get(item.url)
        if known:
            self.frontier.store(item, status, "kept", self.crawl.body_of(known), ())
        else:
            self.frontier.fail(item, reason, status)
        return True


def _body_of(response: Response) -> Body:
    headers, sha256 = response.headers, hashlib.sha256(response.body).hexdigest()
    now = time.time_ns() // 1000
    return Body(now, response.content_type, headers.get("ETag"), headers.get("Last-Modified"), sha256, response.body)
