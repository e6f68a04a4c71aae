"""A preview of a site: a handful of pages, fetched as a crawl would, and what a crawl would make of them.

Nothing is kept. `Preview.site` tells a host's conditions, `Preview.pages` one page after the other. The command
`textmill source check` prints both, and `declare` writes a first source file from them.
"""

from __future__ import annotations

import logging
from collections.abc import Iterable, Iterator
from contextlib import ExitStack
from dataclasses import dataclass, field

from selectolax.lexbor import LexborHTMLParser

from scraping.crawling.answers.reservations import (
    TDM_FILE,
    PathRules,
    fetch_tdm_rules,
    page_reservation,
    signal_reservation,
)
from scraping.crawling.crawl import open_fetcher
from scraping.crawling.fetch import (
    Fetcher,
    FetchError,
    ForbiddenAddressError,
    Request,
    Response,
    TransientHostError,
)
from scraping.crawling.links import parse_page, skip_reason
from scraping.crawling.rendering.browser import Browser, open_browser
from scraping.crawling.rendering.emptiness import Emptiness, emptiness
from scraping.crawling.robots import RobotsTxt, fetch_robots
from scraping.crawling.sitemap import LeftOut, SitemapEntry, SitemapOutcome, read_sitemaps, sitemap_request
from scraping.crawling.source import Source
from scraping.crawling.urls import host_of, origin_of, resolve
from scraping.extraction.blocks.select import Judged
from scraping.extraction.config import RecordsExtractor
from scraping.extraction.extract import Extracted, decode, explain, extract
from scraping.extraction.sniff import is_html
from textmill.errors import Unavailable, UserError

__all__ = ["PagePreview", "Preview", "SitePreview"]

logger = logging.getLogger(__name__)

_SITEMAP_FILES = 2  # a preview reads these; a crawl reads all


@dataclass
class SitePreview:
    """What a host asks of crawlers."""

    origin: str
    robots: str  # how robots.txt was answered
    allowed: bool  # whether the start URL may be fetched
    crawl_delay: float | None  # seconds between requests that robots.txt asks for
    delay: float  # seconds between requests that a crawl would keep
    sitemaps: list[str]  # that robots.txt names
    listed: list[SitemapEntry]  # in the first sitemap files
    unread: dict[str, str]  # sitemap -> what could not be read of it


@dataclass
class PagePreview:
    """What a crawl would make of one page."""

    url: str
    outcome: str  # "stored", or why not
    status: int | None = None
    documents: list[Extracted] = field(default_factory=list)
    stripped: list[str] = field(default_factory=list)  # text of the page that is in none of the documents
    judged: list[Judged] = field(default_factory=list)  # pieces of the page's text, whether they are kept, and why
    follow: list[str] = field(default_factory=list)  # links to follow
    skipped: dict[str, list[str]] = field(default_factory=dict)  # reason -> links
    response: Response | None = None  # of a page that was read
    emptiness: Emptiness | None = None  # what the page has instead of text, if it looks as if scripts were to write it


class Preview:
    """Looks at the pages of `source` as a crawl would, politely, and keeps nothing.

    Example:
        >>> with Preview(load_source("python-docs")) as preview:  # doctest: +SKIP
        ...     print(preview.site().robots, [page.outcome for page in preview.pages(2)])
        rules found ['stored', 'stored']
    """

    def __init__(self, source: Source):
        self.source, self.scope = source, source.scope()
        self._robots: dict[str, RobotsTxt] = {}  # by origin
        self._tdm: dict[str, PathRules] = {}  # by origin
        self._resources = ExitStack()
        self._fetcher: Fetcher  # while the context is entered
        self._browser: Browser | None

    def __enter__(self) -> Preview:
        self._fetcher = self._resources.enter_context(open_fetcher(self.source))
        self._browser = self._resources.enter_context(open_browser(self.source, self._fetcher))
        return self

    def __exit__(self, *_: object) -> None:
        self._fetcher.interrupt()
        self._resources.close()

    def site(self) -> SitePreview:
        """What the first start URL's host asks of crawlers.

        Raises:
            Unavailable: robots.txt is unreachable, so that a crawl would fetch nothing.
            UserError: the host has an address that the source may not contact.
        """
        url = self.source.start[0]
        origin = origin_of(url)
        try:
            robots = self._robots_txt(url)
        except ForbiddenAddressError as error:
            raise UserError(f"{error} (on the command line, --private).") from error
        except FetchError as error:
            raise Unavailable(
                f"{origin} cannot be asked ({error}): check the URL and the network, then try again."
            ) from error
        named = robots.sitemaps(origin)
        places = named or [f"{origin}/sitemap.xml"]
        unread: dict[str, str] = {}

        def report(outcome: SitemapOutcome) -> None:
            if outcome.kind != "read":
                unread[outcome.url] = outcome.reason

        ask = self._ask_for_sitemap
        listed = list(read_sitemaps(places, lambda sitemap, _: ask(sitemap), _SITEMAP_FILES, report))
        return SitePreview(
            origin=origin,
            robots=robots.summary,
            allowed=robots.allows(url),
            crawl_delay=robots.crawl_delay,
            delay=self.source.request_delay(robots.crawl_delay),
            sitemaps=named,
            listed=listed,
            unread=unread if named else {},
        )

    def pages(self, count: int) -> Iterator[PagePreview]:
        """Look at up to `count` pages: the start URLs, then pages that they lead to."""
        queue, seen = list(self.source.start), set(self.source.start)
        while queue and count:
            # After the start URLs, take one from the middle: the first links of a page are its menu.
            place = 0 if queue[0] in self.source.start else len(queue) // 2
            page = self.page(queue.pop(place))
            yield page
            count -= 1
            new = [url for url in page.follow if url not in seen]
            seen.update(new)
            queue += new

    def page(self, url: str) -> PagePreview:
        """Fetch one page and say what a crawl would do with it."""
        if reason := self.scope.skip_reason(url):
            return PagePreview(url, reason)
        try:
            robots = self._robots_txt(url)
            if not robots.allows(url):
                return PagePreview(url, "robots.txt")
            if self.source.reservations == "obey" and (reserved := signal_reservation(url, robots)):
                return PagePreview(url, reserved)
            request = Request(
                url,
                delay=self.source.request_delay(robots.crawl_delay),
                timeout=self.source.limits.seconds,
                max_bytes=self.source.limits.bytes,
                skip_body=skip_reason,
            )
            response = self._fetcher.fetch(request)
            if response.location and resolve(url, response.location) == url:  # it may only try us for cookies
                response = self._fetcher.fetch(request)
            if self._browser and response.status == 200:
                response = self._browser.render(response, robots, self._tdm_rules(origin_of(url)))
        except FetchError as error:
            return PagePreview(url, str(error))
        if response.location and (target := resolve(url, response.location)):
            page = PagePreview(url, f"redirected to {target}", response.status)
            self._sort_links(page, [target])
            return page
        if response.skip_reason or not is_html(response.body, response.content_type):
            return PagePreview(url, response.skip_reason or "not HTML", response.status)
        return self._read(response)

    def _read(self, response: Response) -> PagePreview:
        parsed = parse_page(response, self.source.user_agent)
        page = PagePreview(response.url, "stored", response.status, response=response)
        page.emptiness = emptiness(decode(response.body, response.content_type))
        origin = origin_of(response.url)
        reserved = page_reservation(parsed, response, self._robots[origin], self._tdm_rules(origin))
        if parsed.directives.noindex:
            page.outcome = "noindex"
        elif reserved:
            page.outcome = reserved if self.source.reservations == "obey" else f"stored, although {reserved}"
        elif parsed.canonical not in (None, response.url):
            page.outcome = f"stored, unless its canonical page {parsed.canonical} is"
        try:
            extractor, answer = self.source.extractor, (response.body, response.url, response.content_type)
            page.documents = extract(*answer, extractor)
            if not isinstance(extractor, RecordsExtractor):
                page.judged = explain(*answer, extractor)
        except ValueError as error:
            page.outcome = str(error)
        page.stripped = _stripped(response, page.documents)
        if parsed.directives.nofollow:
            page.skipped["nofollow"] = parsed.links + parsed.nofollow_links
        else:
            self._sort_links(page, parsed.links)
            if parsed.nofollow_links:
                page.skipped["nofollow"] = parsed.nofollow_links
        return page

    def _sort_links(self, page: PagePreview, links: Iterable[str]) -> None:
        """Sort links into those that a crawl would follow and those that it would skip, as far as is known by now."""
        for url in links:
            robots = self._robots.get(origin_of(url))
            reason = self.scope.skip_reason(url) or ("robots.txt" if robots and not robots.allows(url) else None)
            (page.skipped.setdefault(reason, []) if reason else page.follow).append(url)

    def _robots_txt(self, url: str) -> RobotsTxt:
        origin = origin_of(url)
        if origin not in self._robots:
            self._robots[origin] = fetch_robots(url, self._fetcher, self.source.user_agent, self.source.delay)
        return self._robots[origin]

    def _tdm_rules(self, origin: str) -> PathRules:
        if origin not in self._tdm:
            robots = self._robots[origin]
            delay, seconds = self.source.request_delay(robots.crawl_delay), self.source.limits.seconds
            try:
                self._tdm[origin] = fetch_tdm_rules(origin, self._fetcher, delay, seconds, robots.allows)
            except FetchError as error:
                logger.warning("%s%s: %s; so it reserves nothing", origin, TDM_FILE, error)
                self._tdm[origin] = PathRules()
        return self._tdm[origin]

    def _ask_for_sitemap(self, url: str) -> Response:
        if not self.scope.has_host(host_of(url)):
            raise LeftOut("other host")
        robots = self._robots_txt(url)
        if not robots.allows(url):
            raise LeftOut("robots.txt")
        response = self._fetcher.fetch(sitemap_request(url, self.source.request_delay(robots.crawl_delay)))
        if response.is_no_use:
            raise TransientHostError(f"status {response.status}")
        return response


def _stripped(response: Response, documents: list[Extracted]) -> list[str]:
    """Pieces of the page's text that are in none of the documents, in order."""
    tree = LexborHTMLParser(decode(response.body, response.content_type))
    tree.strip_tags(["script", "style", "template", "noscript"], recursive=True)
    kept = " ".join(" ".join(document.text.split()) for document in documents)
    pieces = (" ".join(piece.split()) for piece in (tree.body.text(separator="\n") if tree.body else "").split("\n"))
    return [piece for piece in pieces if piece and piece not in kept]
