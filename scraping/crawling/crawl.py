"""The crawl of one source: a worker per origin, a frontier that survives kill -9, a snapshot at the end.

Each URL is requested in its own turn, one hop at a time: a redirect only puts its target into the queue, where scope,
robots.txt, depth and duplicates are checked as for any link. A worker ends when its origin's queue is empty, when the
origin is given up, or when the page limit is reached; one that has to wait for long leaves its thread to another. When
all have ended, the snapshot is completed (see `snapshot`).

A snapshot that lacks pages because they, or their host, gave no answer is continued by the next crawl.
"""

from __future__ import annotations

import logging
import time
from collections.abc import Iterator
from concurrent.futures import FIRST_COMPLETED, Future, ThreadPoolExecutor, wait
from contextlib import closing, contextmanager, nullcontext
from contextvars import copy_context
from datetime import timedelta
from pathlib import Path
from typing import NoReturn

from scraping.crawling.fetch import Fetcher
from scraping.crawling.frontier import FoundUrl, Frontier, QueuedUrl, remove_frontier
from scraping.crawling.rendering.browser import open_browser
from scraping.crawling.snapshot import (
    GIVEN_UP,
    PAGE_LIMIT,
    PreviousSnapshot,
    restore_snapshot,
    write_pages,
    write_reports,
)
from scraping.crawling.source import Source
from scraping.crawling.state import CrawlState
from scraping.crawling.urls import host_of
from scraping.crawling.worker import OriginWorker
from scraping.sources import python_docs
from textmill.errors import Unavailable, UserError
from textmill.files import remove_temporary
from textmill.progress import Progress

__all__ = ["crawl", "open_fetcher"]

logger = logging.getLogger(__name__)

SHARD_BYTES = 250_000_000
MAX_ORIGINS_AT_ONCE = 16
_LOOK_SECONDS = 0.5  # between two looks at what the workers do
# A crawl that was interrupted for longer than the source's max_age, but within these bounds, begins anew
MIN_INTERRUPTION, MAX_INTERRUPTION = timedelta(hours=1), timedelta(days=1)


def crawl(
    source: Source, out: Path, progress: Progress, previous: Path | None = None, *, continues: bool = False
) -> None:
    """Fetch the pages of `source` into `out`, politely; continue where an earlier call was interrupted.

    After a long interruption the crawl begins anew: a snapshot's age counts from its end, so pages from before the
    interruption would pass as fresh.

    Args:
        source: where to begin, how far to go, how to behave.
        out: folder of the snapshot; what an interrupted crawl left in it is continued.
        progress: counts pages; the total grows while links are found.
        previous: the last snapshot. Its pages are requested conditionally and compared with the new ones.
        continues: ask only for what the last snapshot lacks.

    Raises:
        Unavailable: the site cannot be reached, or gave nothing of what the last snapshot has.
        UserError: no contact is set, or no page could be stored.
    """
    with open_fetcher(source) as fetcher:
        if _is_stale(source, out):
            logger.info("source %s: an earlier crawl was interrupted too long ago; beginning anew", source.name)
            (out / "stats.json").unlink(missing_ok=True)
            remove_frontier(out)
        if not (out / "stats.json").exists():  # it is written last
            remove_temporary(out)
            with (
                closing(Frontier(out, source.name, SHARD_BYTES)) as frontier,
                closing(PreviousSnapshot(previous)) as previous_snapshot,
                open_browser(source, fetcher) as browser,
            ):
                if previous and continues and frontier.is_empty():
                    restore_snapshot(frontier, previous)
                state = CrawlState(source, frontier, fetcher, previous_snapshot, browser)
                _run_workers(state, progress)
                _complete_snapshot(state, out)
        remove_frontier(out)


@contextmanager
def open_fetcher(source: Source) -> Iterator[Fetcher]:
    """The fetcher for a source. If the source names a site that Textmill serves itself, it is served meanwhile.

    Raises:
        UserError: no contact is set.
    """
    user_agent = source.user_agent_header()
    with python_docs.serve() if source.serve == "python-docs" else nullcontext() as resolver:
        fetcher = Fetcher(user_agent, private_addresses=source.private_addresses, resolver=resolver)
        with closing(fetcher):
            yield fetcher


def _is_stale(source: Source, out: Path) -> bool:
    """Whether a crawl was interrupted here and nothing was done about it for too long.

    The interruption counts, not the start: where a site asks for long delays a crawl takes days, and may be interrupted
    on each of them.
    """
    touched = max((file.stat().st_mtime for file in out.iterdir()), default=time.time())
    longest = sorted((MIN_INTERRUPTION, source.max_age, MAX_INTERRUPTION))[1]
    return time.time() - touched > longest.total_seconds()


def _run_workers(state: CrawlState, progress: Progress) -> None:
    """Run a worker for each origin with queued URLs, until none has any."""
    state.frontier.seed(state.new_urls(state.source.start, depth=0))
    workers: dict[str, OriginWorker] = {}
    running: dict[str, Future[None]] = {}
    with ThreadPoolExecutor(MAX_ORIGINS_AT_ONCE, thread_name_prefix="host") as pool:
        try:
            while waiting := _waiting_origins(state) | running.keys():
                for origin in sorted(waiting - running.keys()):
                    worker = workers.setdefault(origin, OriginWorker(state, origin))
                    if worker.rests_until <= time.monotonic():
                        # The context says which run a worker's log lines belong to.
                        running[origin] = pool.submit(copy_context().run, worker.run)
                if running:
                    wait(running.values(), timeout=_LOOK_SECONDS, return_when=FIRST_COMPLETED)
                else:
                    state.fetcher.sleep(_LOOK_SECONDS)
                for origin in [origin for origin, work in running.items() if work.done()]:
                    running.pop(origin).result()
                _report(state, progress, list(running))
        finally:
            state.fetcher.interrupt()
    _report(state, progress, [])


def _waiting_origins(state: CrawlState) -> set[str]:
    """The origins that there is something to ask of."""
    if state.full:
        return set()
    return {*state.frontier.queued_origins(), *state.origins_owing()} - state.given_up.keys()


def _report(state: CrawlState, progress: Progress, origins: list[str]) -> None:
    """Tell how far the crawl is, with the failures by reason and the hosts that are asked now."""
    queued = 0 if state.full else state.frontier.count_queued()
    done = state.answered
    total = min(done + queued, max(done, state.source.limits.pages))
    progress(
        done,
        total,
        unit="pages",
        waiting=queued,
        errors=state.errors(),
        hosts=sorted({host_of(origin) for origin in origins}),
    )


def _complete_snapshot(state: CrawlState, out: Path) -> None:
    """Give every URL an outcome, write the pages in their order and the reports."""
    frontier = state.frontier
    if state.given_up and not frontier.has_stored():
        origin, reason = next(iter(state.given_up.items()))
        kind = UserError if reason.permanent else Unavailable
        raise kind(
            f"source {state.source.name}: {host_of(origin)} could not be crawled ({reason}): "
            "check its URLs and the network, then run again."
        )
    circles = frontier.fail_circles()
    _check_against_previous(state, out)
    _keep_previous(state, circles)
    for origin, reason in state.given_up.items():
        note = (f"{GIVEN_UP}{_name_of(origin, frontier)}", str(reason))
        _keep_previous_pages(state, origin)
        frontier.give_up(origin, note, unfinished=not reason.permanent)
    frontier.close_queue(PAGE_LIMIT)
    frontier.resolve_canonicals()
    frontier.cut_shard()
    if not frontier.has_stored():
        _fail_without_pages(state, out)
    write_pages(out, frontier, SHARD_BYTES)
    write_reports(out, frontier, state.previous)


def _check_against_previous(state: CrawlState, out: Path) -> None:
    """Let a crawl that got nothing of what the last one had not take its place. A redirect counts: pages move.

    Raises:
        Unavailable: it got nothing. The next try begins anew.
    """
    urls = state.previous.urls()
    if urls and not any(map(state.frontier.is_answered, urls)):
        remove_frontier(out)
        raise Unavailable(
            f"source {state.source.name}: none of the {len(urls):,} pages of the last snapshot could be had, so that "
            "one stays: see what `textmill source check` says about the site, then run again."
        )


def _fail_without_pages(state: CrawlState, out: Path) -> NoReturn:
    frontier = state.frontier
    reasons = frontier.query(
        "SELECT reason, count(*), max(unfinished) FROM urls WHERE outcome != 'redirected' GROUP BY 1"
        " ORDER BY 2 DESC, 1 LIMIT 5"
    )
    may_pass = any(unfinished for _, _, unfinished in reasons)
    remove_frontier(out)  # the next try begins anew
    raise (Unavailable if may_pass else UserError)(
        f"source {state.source.name}: no page could be stored "
        f"({', '.join(f'{n} × {reason}' for reason, n, _ in reasons)}): "
        "see what `textmill source check` says about it."
    )


def _name_of(origin: str, frontier: Frontier) -> str:
    """What people call an origin: its host, unless that gave pages under another scheme."""
    host = host_of(origin)
    others = {f"{scheme}://{host}" for scheme in ("http", "https")} - {origin}
    return origin if any(map(frontier.answered_url, others)) else host


def _keep_previous_pages(state: CrawlState, origin: str) -> None:
    """Store the previous snapshot's pages of an origin that was given up, as far as they were not requested."""
    urls = state.previous.urls(origin)
    state.frontier.seed(FoundUrl(url) for url in urls if not state.scope.skip_reason(url))
    _keep_previous(state, state.frontier.next_urls(origin, limit=-1, due=False))


def _keep_previous(state: CrawlState, items: list[QueuedUrl]) -> None:
    """Store the previous snapshot's pages of these URLs, if it has them."""
    for item in items:
        if page := state.previous.get(item.url):
            state.frontier.store(item, None, "kept", state.previous.body(page), ())
            state.frontier.cut_shard_if_full()
