"""The crawl of one source: a worker per host, a frontier that survives kill -9, a snapshot at the end.

Each URL is asked for in its own turn, one hop at a time: a redirect only puts its target into the frontier, where
scope, robots.txt, depth and duplicates are looked after as for any link. Workers end when their host has nothing left,
when the host is given up, or when the page limit is reached; then the snapshot is written:

- `part-00000.parquet`, …: the pages (`shards.PAGES`), in the order they came;
- `urls.parquet`: every URL that was found, what became of it and why, and what changed since the last snapshot;
- `stats.json`: the sums.
"""

import logging
import threading
import time
from collections.abc import Callable, Iterable
from concurrent.futures import FIRST_COMPLETED, Future, ThreadPoolExecutor, wait
from contextlib import AbstractContextManager, closing, nullcontext
from datetime import timedelta
from pathlib import Path

from scraping.crawling.fetch import Fetcher, Resolver
from scraping.crawling.frontier import Body, Found, Frontier, remove_frontier
from scraping.crawling.report import GIVEN_UP, URLS_PASSED_OVER, write_report
from scraping.crawling.scope import Budgets, Scope
from scraping.crawling.snapshot import Known, Snapshot
from scraping.crawling.source import Source
from scraping.crawling.worker import HostGivenUp, HostRefused, HostWorker
from scraping.sources import python_docs
from textmill.errors import Unavailable, UserError
from textmill.files import remove_temporary

log = logging.getLogger(__name__)

SHARD_BYTES = 250_000_000
MAX_HOSTS_AT_ONCE = 16
# After the source's max_age, but within these bounds, a crawl that was cut off is too old to go on
SHORTEST_BREAK, LONGEST_BREAK = timedelta(hours=1), timedelta(days=1)


def crawl(source: Source, out: Path, progress: Callable[..., None], previous: Path | None = None) -> None:
    """Fetch the pages of `source` into `out`, politely; go on where an earlier call was cut off, unless that is too
    long ago: the snapshot counts as fresh from its end on, and so would the pages from before the break.

    Args:
        source: where to begin, how far to go, how to behave.
        out: folder of the snapshot; a killed crawl's leftovers in it are continued from.
        progress: called as `progress(done, total, unit="pages", …)`; `total` grows while links are found.
        previous: the last finished snapshot; its pages are asked for conditionally, and compared with.

    Raises:
        Unavailable: the site cannot be reached.
        UserError: no contact is set, or no page could be stored.
    """
    user_agent = source.user_agent_header()
    if _has_aged(source, out):
        log.info("source %s: what an earlier crawl left is too old to go on from; beginning anew", source.name)
        (out / "stats.json").unlink(missing_ok=True)
        remove_frontier(out)  # shards that no frontier knows are thrown away
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
        run = Crawl(source, frontier, fetcher, last)
        run.run(progress)
        run.finish(out)
    remove_frontier(out)


def _has_aged(source: Source, out: Path) -> bool:
    """Whether a crawl was cut off here and nothing was done about it since for too long.

    The break counts, not the start: where a site asks for long delays a crawl takes days, and may be cut off on each.
    """
    touched = max((file.stat().st_mtime for file in out.iterdir()), default=time.time())
    return time.time() - touched > sorted((SHORTEST_BREAK, source.max_age, LONGEST_BREAK))[1].total_seconds()


def served(source: Source) -> AbstractContextManager[Resolver | None]:
    """Run the site that the source names, if it is one of Textmill's own; gives the resolver that finds it."""
    return python_docs.serve() if source.serve == "python-docs" else nullcontext()


class Crawl:
    """What the workers of one crawl share."""

    def __init__(self, source: Source, frontier: Frontier, fetcher: Fetcher, last: Snapshot):
        self.source, self.frontier, self.fetcher, self.last = source, frontier, fetcher, last
        self.scope, self.budgets = Scope(source), Budgets(source)
        self.given_up: dict[str, HostGivenUp] = {}
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
                            workers[host] = pool.submit(HostWorker(self, host).run)
                    if not workers:
                        break
                    finished, _ = wait(workers.values(), timeout=0.5, return_when=FIRST_COMPLETED)
                    for host in [host for host, worker in workers.items() if worker in finished]:
                        workers.pop(host).result()
                    self._report(progress)
            finally:
                self.fetcher.interrupt()
        self._report(progress)

    def finish(self, out: Path) -> None:
        """Write the snapshot."""
        frontier = self.frontier
        if self.given_up and not frontier.stored_any():
            host, reason = next(iter(self.given_up.items()))
            kind = UserError if isinstance(reason, HostRefused) else Unavailable
            raise kind(
                f"source {self.source.name}: {host} could not be crawled ({reason}): "
                "check its URLs and the network, then run again."
            )
        for host, reason in self.given_up.items():
            frontier.note(f"{GIVEN_UP}{host}", str(reason))
            self._keep_last(host)
            frontier.close_waiting("failed", "host given up", host)
        frontier.close_waiting("skipped", "page limit")
        frontier.settle_canonicals()
        frontier.cut_shard()
        if not frontier.stored_any():
            reasons = frontier.query(
                "SELECT reason, count(*) FROM urls WHERE outcome != 'redirected' GROUP BY 1 ORDER BY 2 DESC, 1 LIMIT 5"
            )
            remove_frontier(out)  # asking anew may go better
            raise UserError(
                f"source {self.source.name}: no page could be stored "
                f"({', '.join(f'{n} × {reason}' for reason, n in reasons)}): "
                "see what `textmill source check` says about it."
            )
        write_report(out, frontier, self.last)

    @property
    def full(self) -> bool:
        return self.answered >= self.source.limits.pages

    def count_answer(self) -> None:
        with self._lock:
            self.answered += 1

    def found(self, urls: Iterable[str], depth: int, nofollow: Iterable[str] = ()) -> list[Found]:
        """The new ones among the links of a page, with why they will not be followed if so.

        Once the crawl knows as many URLs as it may, there are no new ones.
        """
        new = []
        with self._lock:
            for url in urls:
                if hash(url) not in self._seen:
                    if len(self._seen) >= self.source.limits.urls:
                        self._pass_over()
                        return new
                    self._seen.add(hash(url))
                    refused = self.scope.refuses(url) or self.budgets.spend(url)
                    if not refused and depth > self.source.limits.depth:
                        refused = "too deep"
                    new.append(Found(url, refused))
            new += [Found(url, "nofollow") for url in nofollow if hash(url) not in self._seen]
        return new

    def _pass_over(self) -> None:
        if not self.frontier.noted(URLS_PASSED_OVER):
            log.warning("source %s: limits.urls is met, further links are passed over", self.source.name)
            self.frontier.note(URLS_PASSED_OVER, "")

    def _keep_last(self, host: str) -> None:
        """A host that went away mid-crawl keeps the pages of the last snapshot that could not be asked for."""
        self.frontier.seed(Found(url) for url in self.last.urls(host) if not self.scope.refuses(url))
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
