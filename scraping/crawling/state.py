"""What the threads of one crawl share: the frontier, the fetcher, the previous snapshot, and which URLs were found."""

from __future__ import annotations

import logging
import threading
from collections import Counter
from collections.abc import Iterable

from scraping.crawling.fetch import Fetcher
from scraping.crawling.frontier import FoundUrl, Frontier
from scraping.crawling.rendering.browser import Browser
from scraping.crawling.snapshot import LINKS_DROPPED, SITEMAPS_OWED, SITEMAPS_READ, PreviousSnapshot
from scraping.crawling.source import Source

__all__ = ["CrawlState", "HostGivenUp"]

logger = logging.getLogger(__name__)


class HostGivenUp(Exception):
    """No more requests go to this origin in this crawl; if `permanent`, a later crawl would not fare better."""

    def __init__(self, reason: str, *, permanent: bool = False):
        super().__init__(reason)
        self.permanent = permanent


class CrawlState:
    """The state of one crawl of `source`; its workers share it.

    Args:
        source: what is crawled.
        frontier: its URLs.
        fetcher: makes the requests.
        previous: the snapshot before.
        browser: renders the pages, if the source asks for that.

    Attributes:
        scope: which URLs belong to the source.
        given_up: the origins that were given up, and why.
        answered: how many requests for pages were answered.
    """

    def __init__(
        self,
        source: Source,
        frontier: Frontier,
        fetcher: Fetcher,
        previous: PreviousSnapshot,
        browser: Browser | None = None,
    ):
        self.source, self.frontier, self.fetcher, self.previous = source, frontier, fetcher, previous
        self.browser = browser
        self.scope, self._families = source.scope(), source.family_limits()
        self.given_up: dict[str, HostGivenUp] = {}
        self._lock = threading.Lock()
        self._seen: set[int] = set()  # hashes of URLs take less memory than URLs
        for url in frontier.found_urls():
            self._seen.add(hash(url))
            if not self.scope.skip_reason(url):
                self._families.count(url)
        self._canonical_only = {hash(url) for url in frontier.canonical_only()}
        self.answered = frontier.count_answered()
        self._errors: Counter[str] = Counter()

    @property
    def full(self) -> bool:
        """Whether the page limit is reached."""
        return self.answered >= self.source.limits.pages

    def origins_owing(self) -> set[str]:
        """Origins with sitemaps that the last crawl could not read and that this one has not asked for yet."""
        if not self.source.sitemaps:
            return set()
        return self.frontier.notes(SITEMAPS_OWED).keys() - self.frontier.notes(SITEMAPS_READ).keys()

    def count_answer(self) -> None:
        with self._lock:
            self.answered += 1

    def count_error(self, reason: str) -> None:
        """A request came to nothing: a page that failed, or an answer after which it is tried again."""
        with self._lock:
            self._errors[reason] += 1

    def errors(self) -> dict[str, int]:
        """Requests of this process that came to nothing, by reason."""
        with self._lock:
            return dict(self._errors)

    def new_urls(
        self, urls: Iterable[str], depth: int, nofollow: Iterable[str] = (), *, are_canonical: bool = False
    ) -> list[FoundUrl]:
        """Those among the links of a page that the crawl has not met before, or only as pages' canonical URLs.

        Once the crawl has met as many URLs as it may, there are no new ones.

        Args:
            urls: where the links lead, normalized.
            depth: of the URLs.
            nofollow: where the links lead that are not to be followed; another page's link may still be.
            are_canonical: `urls` are not links, but the page's canonical URL.
        """
        new: list[FoundUrl] = []
        with self._lock:
            for url in urls:
                if hash(url) not in self._seen:
                    if len(self._seen) >= self.source.limits.urls:
                        self._note_dropped_links()
                        return new
                    self._seen.add(hash(url))
                    reason = self.scope.skip_reason(url) or self._families.count(url)
                    if not reason and depth > self.source.limits.depth:
                        reason = "too deep"
                    new.append(FoundUrl(url, reason, are_canonical))
                    if are_canonical:
                        self._canonical_only.add(hash(url))
                elif hash(url) in self._canonical_only and not are_canonical:
                    self._canonical_only.remove(hash(url))
                    new.append(FoundUrl(url))
            new += [FoundUrl(url, "nofollow") for url in nofollow if hash(url) not in self._seen]
        return new

    def _note_dropped_links(self) -> None:
        if self.frontier.get_note(LINKS_DROPPED) is None:
            logger.warning("source %s: limits.urls is met, further links are dropped", self.source.name)
            self.frontier.set_note(LINKS_DROPPED, "")
