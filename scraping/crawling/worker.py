"""The part of a crawl that deals with one origin: its robots.txt, its sitemaps, its pages in turn, its failures."""

from __future__ import annotations

import hashlib
import json
import logging
import time
from collections.abc import Callable
from functools import partial
from itertools import islice
from typing import TypeVar

from scraping.crawling.answers.reservations import (
    TDM_FILE,
    PathRules,
    fetch_tdm_rules,
    page_reservation,
    signal_reservation,
)
from scraping.crawling.connections import HostBusy, OriginUnreachable
from scraping.crawling.fetch import (
    MAX_REDIRECTS,
    FetchError,
    ForbiddenAddressError,
    Request,
    Response,
    Stopped,
    TransientHostError,
)
from scraping.crawling.frontier import FoundUrl, PageBody, QueuedUrl
from scraping.crawling.links import MAX_LINKS, ParsedPage, parse_page, skip_reason
from scraping.crawling.politeness import MAX_PAUSE
from scraping.crawling.rendering.browser import NotRendered
from scraping.crawling.robots import RobotsTxt, RobotsUnreachable, fetch_robots
from scraping.crawling.sitemap import LeftOut, SitemapOutcome, read_sitemaps, sitemap_request
from scraping.crawling.snapshot import (
    LEFT_OUT_SITEMAP,
    LONG_PAGE,
    NOT_LOADED,
    SITEMAPS_OWED,
    SITEMAPS_READ,
    SITEMAPS_TOLD,
    UNREAD_SITEMAP,
    UNREAD_TDM_FILE,
    PreviousPage,
)
from scraping.crawling.state import CrawlState, HostGivenUp
from scraping.crawling.urls import host_of, origin_of, resolve
from scraping.extraction.sniff import is_html

__all__ = ["OriginWorker"]

logger = logging.getLogger(__name__)

T = TypeVar("T")

_MAX_BACKOFF = 300.0  # seconds
_MAX_REMEMBERED = 10_000  # redirected URLs
_NAP = 1.0  # seconds; for a longer pause a worker leaves its thread to another
_SUSPICIOUS = 3  # broken pages in a row after which it is asked whether the origin is to blame
_MAX_ROBOTS_SECONDS = 30.0
_SITEMAP_ENTRIES_PER_PAGE = 10  # read for each page that the crawl may fetch: enough to choose from


class OriginWorker:
    """Requests the pages of one origin, one after the other, until its queue is empty or it is given up.

    A page that gives no usable answer is put back and asked for later, after the others. Whether the origin is to blame
    is decided by what vouches for it: when several pages in a row were broken, a page that was answered before is asked
    for once more. If it is answered again, the broken pages are alone to blame. If not, or if there is no connection or
    no robots.txt, the origin is in trouble: it is left alone for twice as long after each failure in a row, and given
    up after `limits.failures` of them.

    Attributes:
        rests_until: by `time.monotonic()`, when `run` is to be called again.
    """

    def __init__(self, state: CrawlState, origin: str):
        self.state, self.origin, self.host = state, origin, host_of(origin)
        self.source, self.frontier, self.fetcher = state.source, state.frontier, state.fetcher
        self.rests_until = 0.0
        self._robots: RobotsTxt | None = None
        self._robots_seconds = min(self.source.limits.seconds, _MAX_ROBOTS_SECONDS)
        self._tdm: PathRules | None = None
        self._troubles = 0  # failures in a row that are the origin's
        self._broken = 0  # answers in a row that were of no use
        self._ever_answered = False
        self._redirected: dict[str, int] = {}  # URL -> how many cookies there were when it was asked for

    def run(self) -> None:
        """Work until there is nothing left to do for now; then close the connection."""
        try:
            while not self.state.full and (pause := self._work()) is not None:
                if pause > _NAP:
                    self.rests_until = time.monotonic() + pause
                    break
                self.fetcher.sleep(pause)
        except Stopped:
            logger.info("%s: stopped", self.origin)
        except HostGivenUp as error:
            logger.warning("source %s: giving up %s: %s", self.source.name, self.origin, error)
            self.state.given_up[self.origin] = error
        finally:
            self.fetcher.leave(self.host)

    def _work(self) -> float | None:
        """Visit the next URLs.

        Returns:
            seconds after which there is more to do; None if the queue is empty.
        """
        if self._broken >= _SUSPICIOUS and (pause := self._probe()):
            return pause
        batch = self.frontier.next_urls(self.origin)
        if not batch and self.origin in self.state.origins_owing():
            return self._read_owed_sitemaps()
        for item in batch:
            if self.state.full or self._broken >= _SUSPICIOUS:
                break
            if pause := self._visit(item):
                return pause
            self.frontier.cut_shard_if_full()
        return 0.0 if batch else self.frontier.seconds_until_due(self.origin)

    def _read_owed_sitemaps(self) -> float:
        """Read what sitemaps list although no page is queued.

        Returns:
            seconds to leave the origin alone.
        """
        try:
            self._robots_txt(f"{self.origin}/")
        except RobotsUnreachable as error:
            return self._trouble(str(error), error.retry_after)
        return 0.0

    def _visit(self, item: QueuedUrl) -> float:
        """Make one request for a URL and record its outcome.

        Returns:
            seconds to leave the origin alone.
        """
        try:
            robots = self._robots_txt(item.url)
        except RobotsUnreachable as error:
            self.state.count_error(str(error))
            return self._trouble(str(error), error.retry_after)
        reason = None if robots.allows(item.url) else "robots.txt"
        if self.source.reservations == "obey":
            reason = reason or signal_reservation(item.url, robots)
        if reason:
            self.frontier.skip(item, reason)
            return 0.0
        previous = self.state.previous.get(item.url)
        try:
            response = self._ask(item.url, robots, previous)
            if self.state.browser and response.status == 200:
                response = self.state.browser.render(response, robots, self._tdm_rules(robots))
        except OriginUnreachable as error:
            self.state.count_error(str(error))
            return self._trouble(str(error))
        except TransientHostError as error:
            return self._put_back(item, str(error))
        except NotRendered as error:
            self._count_success()  # the origin did answer
            self._ask_later(item, str(error))
            return 0.0
        except FetchError as error:
            self._fail(item, str(error))
            return 0.0
        if response.is_no_use:
            return self._put_back(item, f"status {response.status}", response)
        self._count_success()
        self.state.count_answer()
        self._record(item, response, previous, robots)
        if self.state.browser and (refusal := self.state.browser.refusal(self.origin)):
            self._leave_alone_if_asked(self.origin, refusal)
        return 0.0

    def _ask(self, url: str, robots: RobotsTxt, previous: PreviousPage | None = None) -> Response:
        return self.fetcher.fetch(
            Request(
                url,
                delay=self._delay(robots, self.host),
                timeout=self.source.limits.seconds,
                max_bytes=self.source.limits.bytes,
                # That a page's HTML is unchanged does not say that what its scripts load is.
                headers=previous.validators if previous and not self.state.browser else {},
                skip_body=skip_reason,
            )
        )

    # --- what an answer holds ---

    def _record(self, item: QueuedUrl, response: Response, previous: PreviousPage | None, robots: RobotsTxt) -> None:
        status = response.status
        if status == 304 and previous:
            self._store(item, response, self.state.previous.body(previous), previous, robots)
        elif response.location is not None:
            self._redirect(item, response, resolve(item.url, response.location))
        elif status != 200:
            self._fail(item, f"status {status}", status)
        elif response.skip_reason or not is_html(response.body, response.content_type):
            self.frontier.skip(item, response.skip_reason or "not HTML", status)
        else:
            self._store(item, response, _body_of(response), previous, robots)

    def _store(
        self, item: QueuedUrl, response: Response, body: PageBody, previous: PreviousPage | None, robots: RobotsTxt
    ) -> None:
        """Store a page and add its links, as far as its owner agrees. After a 304, `body` is the previous one."""
        answer = _as_answered(response, body)
        page = parse_page(answer, self.source.user_agent)
        links = self._links(page, item)
        if page.cut_off:
            self.frontier.set_note(f"{LONG_PAGE}{item.url}", f"only its first {MAX_LINKS:,} links were read")
        body.reserved = page_reservation(page, answer, robots, self._tdm_rules(robots))
        reason = "noindex" if page.directives.noindex else None
        if self.source.reservations == "obey":
            reason = reason or body.reserved
        if reason:
            self.frontier.skip(item, reason, response.status, links)
            return
        for problem, number in (response.not_loaded or {}).items():
            self.frontier.add_to_note(f"{NOT_LOADED}{problem}", number)
        body.canonical = self._canonical(page, item, links)
        if page.header_nofollow or body.reserved:
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
        again = target is not None and self._redirected.get(target, cookies) < cookies
        problem = "redirect to itself" if target == item.url and not again else None
        problem = "too many redirects" if item.hops >= MAX_REDIRECTS else problem
        if target is None or problem:
            problem = problem or "redirect to nowhere"
            self.state.count_error(problem)
            self._keep_or_fail(item, problem, response.status)
        else:
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
        links += self.state.new_urls([page.canonical], item.depth + 1, are_canonical=True)
        return page.canonical

    # --- what the host asks for ---

    def _robots_txt(self, url: str) -> RobotsTxt:
        """The rules that hold for `url`; fetched anew when they are a day old.

        Raises:
            RobotsUnreachable: see `robots`; the host is to be asked again after a pause.
            HostGivenUp: the host has an address that the source may not contact.
        """
        if self._robots is None or self._robots.expired:
            try:
                self._robots = self._fetch_robots(url)
            except ForbiddenAddressError as error:
                raise HostGivenUp(str(error), permanent=True) from error
            self._count_success()
            self._tdm = None
            self._seed_sitemaps(self._robots)
        return self._robots

    def _fetch_robots(self, url: str) -> RobotsTxt:
        """The rules that hold for `url`; the pause that they ask for begins at once."""
        robots = fetch_robots(url, self.fetcher, self.source.user_agent, self.source.delay, self._robots_seconds)
        self.fetcher.gate(host_of(url)).pause(self._delay(robots, host_of(url)))
        return robots

    def _tdm_rules(self, robots: RobotsTxt) -> PathRules:
        """The origin's rules about text and data mining, which are fetched when the first page is there."""
        if self._tdm is None:
            self._tdm = self._fetch_tdm_rules(robots)
        return self._tdm

    def _fetch_tdm_rules(self, robots: RobotsTxt) -> PathRules:
        """The rules of the origin's file; none, which is noted, if it cannot be had."""
        delay, note = self._delay(robots, self.host), f"{UNREAD_TDM_FILE}{self.origin}{TDM_FILE}"
        try:
            rules = self._patiently(
                lambda: fetch_tdm_rules(self.origin, self.fetcher, delay, self._robots_seconds, robots.allows)
            )
        except FetchError as error:
            self._leave_alone_if_asked(self.origin, error)
            logger.warning("%s%s: %s; so it reserves nothing", self.origin, TDM_FILE, error)
            self.frontier.set_note(note, str(error))
            return PathRules()
        self.frontier.set_note(note, None)
        return rules

    def _seed_sitemaps(self, robots: RobotsTxt) -> None:
        """Once a crawl: put what the site's sitemaps list into the queue, the most important URLs first."""
        note = f"{SITEMAPS_READ}{self.origin}"
        if not self.source.sitemaps or self.frontier.get_note(note) is not None:
            return
        named = robots.sitemaps(self.origin)
        urls = named or [f"{self.origin}/sitemap.xml"]
        known = self.frontier.notes(UNREAD_SITEMAP)
        urls.sort(key=known.__contains__)  # what could not be read last time is not to keep us from the others
        told = json.loads(self.frontier.get_note(f"{SITEMAPS_TOLD}{self.origin}") or "[]")  # in the last crawl
        notes: dict[str, str | None] = {
            f"{kind}{url}": None for kind in (UNREAD_SITEMAP, LEFT_OUT_SITEMAP) for url in told
        }
        notes[f"{SITEMAPS_OWED}{self.origin}"] = None
        told.clear()

        def report(outcome: SitemapOutcome) -> None:
            is_told = named or outcome.kind not in ("missing", "left out")  # where none is named, none need be there
            kind = outcome.kind if is_told else "read"
            if kind != "read":
                told.append(outcome.url)
            notes[f"{LEFT_OUT_SITEMAP}{outcome.url}"] = outcome.reason if kind == "left out" else None
            notes[f"{UNREAD_SITEMAP}{outcome.url}"] = None if kind in ("read", "left out") else outcome.reason
            if kind == "unanswered":
                notes[f"{SITEMAPS_OWED}{self.origin}"] = ""

        rules: dict[str, RobotsTxt | FetchError] = {self.origin: robots}
        found = read_sitemaps(urls, partial(self._ask_for_sitemap, rules), report=report)
        max_entries = _SITEMAP_ENTRIES_PER_PAGE * self.source.limits.pages
        entries = list(islice(found, max_entries))
        if next(found, None):
            report(SitemapOutcome(urls[0], "damaged", f"only {max_entries:,} URLs were taken, for limits.pages"))
        entries.sort(key=lambda entry: (entry.priority, entry.lastmod), reverse=True)
        new = self.state.new_urls((entry.url for entry in entries), depth=1)
        notes |= {note: str(len(entries)), f"{SITEMAPS_TOLD}{self.origin}": json.dumps(told) if told else None}
        self.frontier.seed(new, depth=1, notes=notes)

    def _ask_for_sitemap(self, rules: dict[str, RobotsTxt | FetchError], url: str, patient: bool) -> Response:
        """The answer for a sitemap, which may be on another host than its pages.

        Args:
            rules: by origin, what robots.txt says or why it cannot be had; filled as need be.
            url: of the sitemap.
            patient: ask again if there is no usable answer.

        Raises:
            LeftOut: its host is out of scope, or disallows it.
            FetchError: there is no usable answer.
        """
        if not self.state.scope.has_host(host_of(url)):
            raise LeftOut("other host")
        its_origin = origin_of(url)
        if its_origin not in rules:
            try:
                rules[its_origin] = self._patiently(lambda: self._fetch_robots(url))
            except FetchError as error:
                self._leave_alone_if_asked(its_origin, error)
                rules[its_origin] = error
        its_rules = rules[its_origin]
        if isinstance(its_rules, FetchError):
            raise its_rules
        if not its_rules.allows(url):
            raise LeftOut("robots.txt")
        request = sitemap_request(url, self._delay(its_rules, host_of(url)))

        def ask() -> Response:
            response = self.fetcher.fetch(request)
            if response.is_no_use:
                raise response.refusal()
            return response

        try:
            return self._patiently(ask) if patient else ask()
        except FetchError as error:
            self._leave_alone_if_asked(its_origin, error)
            raise

    def _leave_alone_if_asked(self, origin: str, error: FetchError) -> None:
        """Give up `origin` if it asks for too long a pause, whichever file it was asked for.

        Raises:
            HostGivenUp: it is this worker's.
        """
        if isinstance(error, HostBusy | RobotsUnreachable) and (error.retry_after or 0.0) > MAX_PAUSE:
            given_up = HostGivenUp(f"{error}; it asks to come back in {error.retry_after:.0f} s")
            if origin == self.origin:
                raise given_up from error
            self.state.given_up.setdefault(origin, given_up)

    def _patiently(self, ask: Callable[[], T]) -> T:
        """What `ask` gives, after pauses if need be: as many attempts as a page has.

        Raises:
            FetchError: of the last attempt, or before too long a pause.
        """
        for attempt in range(1, self.source.limits.attempts):
            try:
                return ask()
            except TransientHostError as error:
                pause = max(self._backoff(attempt), error.retry_after or 0.0)
                if pause > _MAX_BACKOFF:
                    raise
            self.fetcher.sleep(pause)
        return ask()

    def _delay(self, robots: RobotsTxt, host: str) -> float:
        """Seconds between requests to `host`; says once if they are fewer than it asks for."""
        asked, cap = robots.crawl_delay, self.source.crawl_delay_cap
        if asked and asked > cap and self.frontier.get_note(f"crawl-delay of {host}") is None:
            logger.warning("%s asks for a Crawl-delay of %g s; obeying %g s (crawl_delay_cap)", host, asked, cap)
            self.frontier.set_note(f"crawl-delay of {host}", str(asked))
        return self.source.request_delay(asked)

    # --- failures ---

    def _count_success(self) -> None:
        self._troubles = self._broken = 0
        self._ever_answered = True

    def _put_back(self, item: QueuedUrl, reason: str, response: Response | None = None) -> float:
        """A page gave no usable answer: ask for it after the others, and not before it says.

        What an answer asks for concerns its page alone, if another was answered; 429 (Too Many Requests) concerns the
        host.

        Returns:
            seconds to leave the origin alone.
        """
        status = response.status if response else None
        retry_after = response.retry_after() if response else None
        of_page, of_host = (None, retry_after) if status == 429 else (retry_after, None)
        self._ask_later(item, reason, status, of_page)
        if self.frontier.answered_url(self.origin) is None:
            return self._trouble(reason, retry_after)  # nothing vouches for the origin
        self._broken += 1
        return self._pause_after(reason, self._broken, of_host)

    def _ask_later(
        self, item: QueuedUrl, reason: str, status: int | None = None, retry_after: float | None = None
    ) -> None:
        """Ask for a page after the others.

        After its last attempt, or if it asks for too long a pause, keep the previous snapshot's page, or record the
        failure.
        """
        self.state.count_error(reason)
        wait = max(self._backoff(item.attempts + 1), retry_after or 0.0)
        if item.attempts + 1 < self.source.limits.attempts and wait <= MAX_PAUSE:
            logger.info("%s: %s; asking again in %g s", item.url, reason, wait)
            self.frontier.put_back(item, reason, status, wait)
        else:
            self._keep_or_fail(item, reason, status)

    def _keep_or_fail(self, item: QueuedUrl, reason: str, status: int | None) -> None:
        """There is no page to be had, perhaps in the next crawl: keep the previous one, or record the failure."""
        if previous := self.state.previous.get(item.url):
            self.frontier.store(item, status, "kept", self.state.previous.body(previous), ())
        else:
            self.frontier.fail(item, reason, status, unfinished=True)

    def _probe(self) -> float:
        """Several pages in a row were broken: ask for one that was answered before.

        Returns:
            seconds to leave the origin alone; 0 if it is in order.
        """
        url = self.frontier.answered_url(self.origin) or f"{self.origin}/"
        try:
            robots = self._robots_txt(url)
            response = self._ask(url, robots) if robots.allows(url) else None
        except RobotsUnreachable as error:
            return self._trouble(str(error), error.retry_after)
        except TransientHostError as error:
            return self._trouble(str(error))
        except FetchError:
            response = None
        if response and response.is_no_use:
            return self._trouble(f"status {response.status}", response.retry_after())
        self._count_success()
        return 0.0

    def _trouble(self, reason: str, retry_after: float | None = None) -> float:
        """The origin itself gave no answer.

        Returns:
            seconds to leave it alone.

        Raises:
            HostGivenUp: it failed too often in a row, or asks for too long a pause.
        """
        self._troubles += 1
        limits = self.source.limits
        if self._troubles >= (limits.failures if self._ever_answered else min(limits.attempts, limits.failures)):
            raise HostGivenUp(reason)
        pause = self._pause_after(reason, self._troubles, retry_after)
        self.fetcher.gate(self.host).pause(pause)  # for other crawls, too
        return pause

    def _pause_after(self, reason: str, failures: int, retry_after: float | None) -> float:
        """Seconds without requests after so many failures in a row: what the host asks for, or twice as many each time.

        Raises:
            HostGivenUp: it asks for too long a pause.
        """
        if retry_after is not None and retry_after > MAX_PAUSE:
            raise HostGivenUp(f"{reason}; it asks to come back in {retry_after:.0f} s")
        pause = self._backoff(failures) if retry_after is None else retry_after
        logger.info("%s: %s; asking again in %g s", self.origin, reason, pause)
        return pause

    def _backoff(self, failures: int) -> float:
        return min(self.source.backoff * 2.0 ** (failures - 1), _MAX_BACKOFF)

    def _fail(self, item: QueuedUrl, reason: str, status: int | None = None) -> None:
        """Record that a URL came to nothing."""
        self.state.count_error(reason)
        self.frontier.fail(item, reason, status)


def _as_answered(response: Response, body: PageBody) -> Response:
    """The answer, which after a 304 has the previous body, and the content type that came with it."""
    if response.status != 304:
        return response
    headers = response.headers.copy()
    headers["Content-Type"] = body.content_type
    return Response(response.url, 200, headers, body.body)


def _body_of(response: Response) -> PageBody:
    headers, sha256 = response.headers, hashlib.sha256(response.body).hexdigest()
    now = time.time_ns() // 1000
    return PageBody(
        now,
        response.content_type,
        headers.get("ETag"),
        headers.get("Last-Modified"),
        sha256,
        response.body,
        rendered=response.not_loaded is not None,
    )
