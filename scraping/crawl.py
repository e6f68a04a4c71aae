"""The crawl of one source: a worker per host, a frontier that survives kill -9, a snapshot at the end.

Each URL is asked for in its own turn, one hop at a time: a redirect only puts its target into the frontier, where
scope, robots.txt, depth and duplicates are looked after as for any link. Workers end when their host has nothing left,
when the host is given up, or when the page limit is reached; then the snapshot is written:

- `part-00000.parquet`, …: the pages (`shards.PAGES`), in the order they came;
- `urls.parquet`: every URL that was found, what became of it and why, and what changed since the last snapshot;
- `stats.json`: the sums.
"""

import hashlib
import logging
import threading
import time
from collections.abc import Callable, Iterable
from concurrent.futures import FIRST_COMPLETED, Future, ThreadPoolExecutor, wait
from contextlib import AbstractContextManager, closing, nullcontext
from pathlib import Path

from scraping import python_docs
from scraping.errors import ScrapingError
from scraping.fetch import AddressRefused, Fetcher, FetchError, HostTrouble, Resolver, Response
from scraping.frontier import MAX_HOPS, Body, Found, Frontier, Waiting, remove_frontier
from scraping.page import Page, is_html, read_page, refusal
from scraping.politeness import LONGEST_PAUSE, Stopped
from scraping.report import write_report
from scraping.robots import Robots, RobotsUnavailable, fetch_robots
from scraping.scope import Budgets, Scope
from scraping.shards import remove_temporary
from scraping.sitemap import read_sitemaps
from scraping.snapshot import Known, Snapshot
from scraping.source import Source
from scraping.urls import host_of, origin_of, resolve

log = logging.getLogger(__name__)

SHARD_BYTES = 250_000_000
MAX_HOSTS_AT_ONCE = 16
_LONGEST_BACKOFF = 300.0  # seconds
_BUSY = (429, 502, 503, 504)  # the host's trouble, not the page's


def crawl(source: Source, out: Path, progress: Callable[..., None], previous: Path | None = None) -> None:
    """Fetch the pages of `source` into `out`, politely; go on where an earlier call was cut off.

    Args:
        source: where to begin, how far to go, how to behave.
        out: folder of the snapshot; a killed crawl's leftovers in it are continued from.
        progress: called as `progress(done, total, unit="pages", …)`; `total` grows while links are found.
        previous: the last finished snapshot; its pages are asked for conditionally, and compared with.

    Raises:
        ScrapingError: no contact is set, the site cannot be reached, or no page could be stored.
    """
    user_agent = source.user_agent_header()
    if (out / "stats.json").exists():  # the last thing to be written
        remove_frontier(out)
        return
    remove_temporary(out)
    with (
        served(source) as resolver,
        closing(Frontier(out, source.name, SHARD_BYTES)) as frontier,
        closing(Snapshot(previous)) as last,
        closing(Fetcher(user_agent, private_addresses=source.private_addresses, resolver=resolver)) as fetcher,
    ):
        run = _Crawl(source, frontier, fetcher, last)
        run.run(progress)
        run.finish(out)
    remove_frontier(out)


def served(source: Source) -> AbstractContextManager[Resolver | None]:
    """Run the site that the source names, if it is one of Textmill's own; gives the resolver that finds it."""
    return python_docs.serve() if source.serve == "python-docs" else nullcontext()


class HostGivenUp(Exception):
    """No more is asked of this host in this crawl."""


class _Crawl:
    """What the workers of one crawl share."""

    def __init__(self, source: Source, frontier: Frontier, fetcher: Fetcher, last: Snapshot):
        self.source, self.frontier, self.fetcher, self.last = source, frontier, fetcher, last
        self.scope, self.budgets = Scope(source), Budgets(source)
        self.given_up: dict[str, str] = {}
        self._lock = threading.Lock()
        self._seen: set[int] = set()  # hashes: a site's pages link to the same URLs over and over
        for url in frontier.known():
            self._seen.add(hash(url))
            if not self.scope.refuses(url):
                self.budgets.spend(url)
        self.answered = frontier.count_answered()

    def run(self, progress: Callable[..., None]) -> None:
        """Run a worker for each host that has waiting URLs until no host has any."""
        self.frontier.seed(self.found(self.source.start, depth=0))
        workers: dict[str, Future] = {}
        with ThreadPoolExecutor(MAX_HOSTS_AT_ONCE, thread_name_prefix="host") as pool:
            try:
                while True:
                    for host in self.frontier.waiting_hosts() if not self.full else ():
                        if host not in workers and host not in self.given_up:
                            workers[host] = pool.submit(_HostWorker(self, host).run)
                    if not workers:
                        break
                    finished, _ = wait(workers.values(), timeout=0.2, return_when=FIRST_COMPLETED)
                    for host in [host for host, worker in workers.items() if worker in finished]:
                        workers.pop(host).result()
                    self._report(progress)
            finally:
                self.fetcher.interrupt()
        self._report(progress)

    def finish(self, out: Path) -> None:
        """Write the snapshot."""
        frontier = self.frontier
        if self.given_up and not frontier.query("SELECT 1 FROM urls WHERE outcome = 'stored' LIMIT 1"):
            host, reason = next(iter(self.given_up.items()))
            raise ScrapingError(
                f"source {self.source.name}: {host} could not be crawled ({reason}): "
                "check its URLs and the network, then run again."
            )
        for host in self.given_up:
            self._keep_last(host)
            frontier.close_waiting("failed", "host given up", host)
        frontier.close_waiting("skipped", "page limit")
        frontier.settle_canonicals()
        frontier.cut_shard()
        if not frontier.query("SELECT 1 FROM urls WHERE outcome = 'stored' LIMIT 1"):
            reasons = frontier.query(
                "SELECT reason, count(*) FROM urls WHERE reason NOT NULL GROUP BY 1 ORDER BY 2 DESC, 1 LIMIT 5"
            )
            remove_frontier(out)  # asking anew may go better
            raise ScrapingError(
                f"source {self.source.name}: no page could be stored "
                f"({', '.join(f'{n} × {reason}' for reason, n in reasons)}): "
                "see what `textmill source check` says about it."
            )
        write_report(out, frontier, self.last, self.given_up)

    @property
    def full(self) -> bool:
        return self.answered >= self.source.limits.pages

    def count_answer(self) -> None:
        with self._lock:
            self.answered += 1

    def found(self, urls: Iterable[str], depth: int, nofollow: Iterable[str] = ()) -> list[Found]:
        """The new ones among the links of a page, with why they will not be followed if so."""
        new = []
        with self._lock:
            for url in urls:
                if hash(url) not in self._seen:
                    self._seen.add(hash(url))
                    refused = self.scope.refuses(url) or self.budgets.spend(url)
                    if not refused and depth > self.source.limits.depth:
                        refused = "too deep"
                    new.append(Found(url, refused))
            new += [Found(url, "nofollow") for url in nofollow if hash(url) not in self._seen]
        return new

    def _keep_last(self, host: str) -> None:
        """A host that went away mid-crawl keeps the pages of the last snapshot that could not be asked for."""
        self.frontier.seed(map(Found, self.last.urls(host)))
        for item in self.frontier.waiting(host, limit=-1):
            if known := self.last.get(item.url):
                self.frontier.store(item, None, "kept", self.body_of(known), ())
                self.frontier.cut_shard_if_full()

    def body_of(self, known: Known) -> Body:
        """The page as the last snapshot has it."""
        page = self.last.page(known)
        return Body(
            time.time_ns() // 1000, page["content_type"], known.etag, known.last_modified, known.sha256, page["body"]
        )

    def _report(self, progress: Callable[..., None]) -> None:
        waiting = 0 if self.full else self.frontier.count_waiting()
        done = self.answered
        progress(done, min(done + waiting, max(done, self.source.limits.pages)), unit="pages", waiting=waiting)


class _HostWorker:
    """Asks one host for its pages, one after the other."""

    def __init__(self, crawl: _Crawl, host: str):
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
            self.crawl.given_up[self.host] = str(error)
        finally:
            self.fetcher.hang_up(self.host)

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
                delay=self._delay(robots),
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
            self._record_unchanged(item, response, known)
        elif 300 <= status < 400 and "Location" in response.headers:
            self._record_redirect(item, response)
        elif status != 200:
            self.frontier.fail(item, f"status {status}", status)
        elif response.refused or not is_html(response):
            self.frontier.skip(item, response.refused or "not HTML", status)
        else:
            self._record_page(item, response, known)

    def _record_page(self, item: Waiting, response: Response, known: Known | None) -> None:
        page = read_page(response, self.source.user_agent)
        links = self._links(page, item)
        if page.wishes.noindex:
            self.frontier.skip(item, "noindex", response.status, links)
            return
        sha256 = hashlib.sha256(response.body).hexdigest()
        change = "new" if known is None else "unchanged" if known.sha256 == sha256 else "changed"
        headers = response.headers
        body = Body(
            time.time_ns() // 1000,
            response.content_type,
            headers.get("ETag"),
            headers.get("Last-Modified"),
            sha256,
            response.body,
            self._canonical(page, item, links),
        )
        self.frontier.store(item, response.status, change, body, links)

    def _record_unchanged(self, item: Waiting, response: Response, known: Known) -> None:
        """304: the last snapshot's body is stored again, and its links are followed."""
        body = self.crawl.body_of(known)
        old = Response(item.url, 200, response.headers.copy(), body.body)
        old.headers["Content-Type"] = body.content_type
        page = read_page(old, self.source.user_agent)
        links = self._links(page, item)
        body.canonical = self._canonical(page, item, links)
        self.frontier.store(item, response.status, "unchanged", body, links)

    def _record_redirect(self, item: Waiting, response: Response) -> None:
        target = resolve(item.url, response.headers["Location"])
        if target is None:
            self.frontier.fail(item, "redirect to nowhere", response.status)
        elif target == item.url:
            self.frontier.fail(item, "redirect to itself", response.status)
        elif item.hops >= MAX_HOPS:
            self.frontier.fail(item, "too many redirects", response.status)
        else:
            found = self.crawl.found([target], item.depth)
            self.frontier.redirect(item, response.status, found[0] if found else Found(target))

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
                raise HostGivenUp(str(error)) from error
            self.failures, self.answered = 0, True
            self.robots[origin] = robots
            self._seed_sitemaps(origin, robots)
        return robots

    def _seed_sitemaps(self, origin: str, robots: Robots) -> None:
        """Once a crawl: what the site's sitemaps list, the most important first."""
        note = f"sitemaps of {origin}"
        if not self.source.sitemaps or self.frontier.noted(note):
            return
        urls = robots.sitemaps or [f"{origin}/sitemap.xml"]
        entries = read_sitemaps(
            urls, self.fetcher, lambda url: host_of(url) == self.host and robots.allows(url), self._delay(robots)
        )
        ordered = sorted(entries, key=lambda entry: (entry.priority, entry.lastmod), reverse=True)
        self.frontier.seed(
            self.crawl.found((entry.url for entry in ordered), 1), depth=1, note=(note, str(len(ordered)))
        )

    def _delay(self, robots: Robots) -> float:
        asked = robots.crawl_delay or 0.0
        if asked > self.source.crawl_delay_cap:
            if not self.frontier.noted(f"crawl-delay of {self.host}"):
                cap = self.source.crawl_delay_cap
                log.warning("%s asks for a Crawl-delay of %g s; obeying %g s (crawl_delay_cap)", self.host, asked, cap)
                self.frontier.note(f"crawl-delay of {self.host}", str(asked))
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
        self.fetcher.gate(self.host).pause(retry_after if retry_after is not None else pause)

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
