"""A first look at a site: a handful of pages, fetched as a crawl would, and what a crawl would make of them."""

import re
from collections import Counter
from collections.abc import Iterable, Iterator
from contextlib import ExitStack, closing
from dataclasses import dataclass, field
from statistics import median
from urllib.parse import urlsplit

import yaml
from pydantic import ValidationError
from selectolax.lexbor import LexborHTMLParser

from scraping.crawling.crawl import served
from scraping.crawling.fetch import AddressRefused, Fetcher, FetchError, Response
from scraping.crawling.links import read_page, refusal
from scraping.crawling.robots import Robots, fetch_robots
from scraping.crawling.scope import Scope
from scraping.crawling.sitemap import Entry, read_sitemaps
from scraping.crawling.source import Source
from scraping.crawling.urls import host_of, normalise, origin_of, resolve
from scraping.extraction.extract import ArticleExtractor, Extracted, MainExtractor, decode, extract
from scraping.extraction.sniff import is_html
from textmill.errors import Unavailable, UserError

_SITEMAP_FILES = 2  # read for a look; a crawl reads them all
_CONTAINERS = ["main", "[role=main]", "article", "#content", "#main-content", "#main", "div.document", "div.body"]
_ENOUGH = 200  # characters


@dataclass
class SiteView:
    """How a host wishes to be crawled."""

    origin: str
    robots: str
    allowed: bool  # the start URL
    crawl_delay: float | None
    delay: float  # seconds between requests that a crawl would keep
    sitemaps: list[str]
    listed: list[Entry]  # in the first sitemap files


@dataclass
class PageView:
    """What a crawl would make of one page."""

    url: str
    verdict: str  # "stored", or why not
    status: int | None = None
    documents: list[Extracted] = field(default_factory=list)
    stripped: list[str] = field(default_factory=list)  # text of the page that the extractor left out
    follow: list[str] = field(default_factory=list)
    refused: dict[str, list[str]] = field(default_factory=dict)  # reason -> links
    response: Response | None = None


class Survey:
    """Looks at the pages of `source` as a crawl would, politely, and keeps nothing. A context manager."""

    def __init__(self, source: Source):
        self.source, self.scope = source, Scope(source)
        self._user_agent = source.user_agent_header()
        self._robots: dict[str, Robots] = {}
        self._resources = ExitStack()

    def __enter__(self) -> "Survey":
        resolver = self._resources.enter_context(served(self.source))
        self._fetcher = self._resources.enter_context(
            closing(Fetcher(self._user_agent, private_addresses=self.source.private_addresses, resolver=resolver))
        )
        return self

    def __exit__(self, *_):
        self._resources.close()

    def site(self) -> SiteView:
        """The conditions of the first start URL's host.

        Raises:
            Unavailable: robots.txt cannot be had: a crawl would fetch nothing.
            UserError: the host has an address that the source may not contact.
        """
        url = self.source.start[0]
        origin = origin_of(url)
        try:
            robots = self._rules(url)
        except AddressRefused as error:
            raise UserError(f"{error} (on the command line, --private).") from error
        except FetchError as error:
            raise Unavailable(
                f"{origin} cannot be asked ({error}): check the URL and the network, then try again."
            ) from error
        named = robots.sitemaps(origin)
        places = named or [f"{origin}/sitemap.xml"]
        listed = list(read_sitemaps(places, self._fetcher, self._sitemap_delay, _SITEMAP_FILES))
        return SiteView(
            origin, robots.summary, robots.allows(url), robots.crawl_delay, self._delay(robots), named, listed
        )

    def _sitemap_delay(self, url: str) -> float | None:
        try:
            robots = self._rules(url) if self.scope.has_host(host_of(url)) else None
        except FetchError:
            return None
        return self._delay(robots) if robots and robots.allows(url) else None

    def pages(self, count: int) -> Iterator[PageView]:
        """Look at up to `count` pages: the start URLs, then what they lead to."""
        waiting, seen = list(self.source.start), set(self.source.start)
        while waiting and count:
            # First what was asked for; then from the middle, for the first links of a page are its menu.
            at = 0 if waiting[0] in self.source.start else len(waiting) // 2
            view = self.page(waiting.pop(at))
            yield view
            count -= 1
            fresh = [url for url in view.follow if url not in seen]
            seen.update(fresh)
            waiting += fresh

    def page(self, url: str) -> PageView:
        """Fetch one page and say what a crawl would do."""
        if reason := self.scope.refuses(url):
            return PageView(url, reason)
        limits = self.source.limits
        try:
            robots = self._rules(url)
            if not robots.allows(url):
                return PageView(url, "robots.txt")
            response = self._fetcher.get(
                url, delay=self._delay(robots), seconds=limits.seconds, max_bytes=limits.bytes, accept=refusal
            )
        except FetchError as error:
            return PageView(url, str(error))
        if response.location and (target := resolve(url, response.location)):
            view = PageView(url, f"redirected to {target}", response.status)
            self._sort_links(view, [target])
            return view
        if response.refused or not is_html(response.body, response.content_type):
            return PageView(url, response.refused or "not HTML", response.status)
        return self._read(response)

    def _read(self, response: Response) -> PageView:
        page = read_page(response, self.source.user_agent)
        view = PageView(response.url, "stored", response.status, response=response)
        if page.wishes.noindex:
            view.verdict = "noindex"
        elif page.canonical not in (None, response.url):
            view.verdict = f"stored, unless its canonical page {page.canonical} is"
        try:
            view.documents = extract(response.body, response.url, response.content_type, self.source.extractor)
        except ValueError as error:
            view.verdict = str(error)
        view.stripped = _left_out(response, view.documents)
        if page.wishes.nofollow:
            view.refused["nofollow"] = page.links + page.nofollow_links
        else:
            self._sort_links(view, page.links)
            if page.nofollow_links:
                view.refused["nofollow"] = page.nofollow_links
        return view

    def _sort_links(self, view: PageView, links: Iterable[str]) -> None:
        for url in links:
            known = self._robots.get(origin_of(url))
            reason = self.scope.refuses(url) or ("robots.txt" if known and not known.allows(url) else None)
            (view.refused.setdefault(reason, []) if reason else view.follow).append(url)

    def _rules(self, url: str) -> Robots:
        origin = origin_of(url)
        if origin not in self._robots:
            self._robots[origin] = fetch_robots(url, self._fetcher, self.source.user_agent, self.source.delay)
        return self._robots[origin]

    def _delay(self, robots: Robots) -> float:
        return max(self.source.delay, min(robots.crawl_delay or 0.0, self.source.crawl_delay_cap))


def _left_out(response: Response, documents: list[Extracted]) -> list[str]:
    """Pieces of the page's text that are in none of the documents, in order."""
    tree = LexborHTMLParser(decode(response.body, response.content_type))
    tree.strip_tags(["script", "style", "template", "noscript"], recursive=True)
    kept = " ".join(" ".join(document.text.split()) for document in documents)
    pieces = (" ".join(piece.split()) for piece in (tree.body.text(separator="\n") if tree.body else "").split("\n"))
    return [piece for piece in pieces if piece and piece not in kept]


# --- a declaration for a new source -----------------------------------------------------------------------------------

_DECLARATION = """\
# {title}
#
# robots.txt: {robots}; {start} is {allowed} for {agent}{crawl_delay}.
# Sitemaps: {sitemaps}.
# Try it out with `textmill source check {file}`, crawl it with `textmill run CONFIG` where CONFIG has
#   scrape:
#     sources: [{file}]
description: {description}
start:
  - {start}
hosts: [{hosts}]               # other hosts' pages are not fetched; *.example.org means all subdomains
{paths}
# Who answers for the crawl: an address or URL, sent with every request. $NAME is taken from the environment.
contact: {contact}
delay: {delay}                       # seconds between requests to a host

limits:
  pages: 10000                 # stop after so many pages
  depth: 20                    # links between a start URL and a page
  # bytes: 10000000            # of one page; more: urls, seconds, url_length, path_segments, variants, similar

# How to read a page. {why}
extractor:
{extractor}
# Crawl again by itself (cron, with a time zone), and how long a crawl counts as fresh.
# schedule: {{cron: "0 3 * * 0", timezone: UTC}}
max_age: 7d
"""

_TRAPS = {
    "/search": r"/search\b", "/calendar/": r"/calendar/", "/login": r"/log-?in\b", "/cart": r"/cart\b",
    "/*?*print=": r"[?&]print=", "/*?*replytocom=": r"[?&]replytocom=", "/*?*share=": r"[?&]share=",
    "/wp-admin/": r"/wp-admin/", "/wp-json/": r"/wp-json/", "/*?*sort=": r"[?&]sort=",
}  # fmt: skip


def declare(
    url: str, contact: str, file: str, *, private_addresses: bool = False, pages: int = 4, delay: float = 1.0
) -> str:
    """The text of a commented source file for the site at `url`, after a look at some of its pages.

    Raises:
        UserError: it is no URL, the site cannot be asked, or no page of it could be read.
    """
    start = normalise(url if "://" in url else f"https://{url}")
    if start is None:
        raise UserError(f"{url!r} is not the URL of a web site: write one such as https://www.example.org/")
    look = undeclared(start, contact, private_addresses=private_addresses, delay=delay)
    start, views, site = _look(look, pages)
    read = [view for view in views if view.response]
    hosts = list(dict.fromkeys(host_of(view.url) for view in read)) or [host_of(start)]
    links = [link for view in views for link in [*view.follow, *view.refused.get("outside the allowed paths", ())]]
    extractor, why = _suggest_extractor(read)
    title = next((document.title for view in read for document in view.documents if document.title), host_of(start))
    description = " ".join(re.sub(r"[^\w\s.,;()&'-]", " ", title).split())
    text = _DECLARATION.format(
        title=f"{host_of(start)}: {description}", description=_quote(description), start=start,
        hosts=", ".join(map(_quote, hosts)), robots=site.robots, agent="textmill", file=file,
        allowed="allowed" if site.allowed else "NOT ALLOWED",
        crawl_delay=f"; it asks for {site.crawl_delay:g} s between requests" if site.crawl_delay else "",
        sitemaps=_describe_sitemaps(site), paths=_suggest_paths(start, links), contact=contact, delay=f"{site.delay:g}",
        extractor=extractor, why=why,
    )  # fmt: skip
    return text + (
        "private_addresses: true        # also connect to addresses that are not public\n" * private_addresses
    )


def undeclared(url: str, contact: str, *, private_addresses: bool = False, delay: float = 1.0) -> Source:
    """A source for a URL, as a file of defaults would declare it.

    Raises:
        UserError: it is no URL, or the contact is none.
    """
    try:
        return Source(name="url", start=[url], contact=contact, private_addresses=private_addresses, delay=delay)
    except ValidationError as error:
        message = error.errors()[0]["msg"].removeprefix("Value error, ")
        raise UserError(f"{message}.") from error


def _look(source: Source, pages: int) -> tuple[str, list[PageView], SiteView]:
    """Look at the start URL, or at where it is redirected to (often another host: with www, or the new name)."""
    for _ in range(5):
        with Survey(source) as survey:
            site, views = survey.site(), list(survey.pages(pages))
        first = views[0]
        moved = [*first.follow, *first.refused.get("other host", ())] if first.verdict.startswith("redirected") else []
        if not moved:
            return source.start[0], views, site
        source = source.model_copy(update={"start": moved, "hosts": [host_of(moved[0])]})
    raise UserError(f"{source.start[0]} only leads from redirect to redirect: give the URL that a browser ends up at.")


def _describe_sitemaps(site: SiteView) -> str:
    if not site.listed:
        return "none found, so pages are found by links alone"
    where = ", ".join(site.sitemaps[:3]) or f"{site.origin}/sitemap.xml"
    return f"{where} ({len(site.listed)} URLs in the first of them); a crawl begins with what they list"


def _suggest_paths(start: str, links: list[str]) -> str:
    folder = urlsplit(start).path.rpartition("/")[0] + "/"
    lines = ["# Paths as in robots.txt: a prefix, * for anything, $ for the end. Everything is allowed by default."]
    lines.append(f"allow: [{_quote(folder)}]" if folder != "/" else "# allow: [/news/, /*.html$]")
    traps = [pattern for pattern, sign in _TRAPS.items() if any(re.search(sign, link) for link in links)]
    lines.append(f"deny: [{', '.join(map(_quote, traps))}]" if traps else '# deny: [/search, "/*?*print="]')
    return "\n".join(lines)


def _suggest_extractor(views: list[PageView]) -> tuple[str, str]:
    """The extractor's lines, and why this one."""
    article = "  kind: article                # finds the main text by its looks\n"
    having: Counter[str] = Counter()
    shares: dict[str, list[float]] = {}  # on pages with a text to compare; a front page may only have links
    for view in views:
        response = view.response
        tree = LexborHTMLParser(decode(response.body, response.content_type))
        by_looks = sum(len(d.text) for d in extract(response.body, view.url, response.content_type, ArticleExtractor()))
        for selector in _CONTAINERS:
            if tree.css_first(selector) is None:
                continue
            having[selector] += 1
            container = MainExtractor(selector=selector)
            length = sum(len(d.text) for d in extract(response.body, view.url, response.content_type, container))
            if length >= _ENOUGH:
                shares.setdefault(selector, []).append(by_looks / length)
    common = [selector for selector in _CONTAINERS if having[selector] == len(views) and selector in shares]
    if not common:
        return article + "  # kind: main\n  # selector: main\n", "No container is common to the pages looked at."
    selector, share = common[0], median(shares[common[0]])
    main = f"  kind: main\n  selector: {_quote(selector)}\n"
    if share < 0.8:
        why = f"All pages looked at have {selector}; `article` would find only {share:.0%} of its text."
        return main + "  # kind: article\n", why
    why = f"`article` finds {share:.0%} of what the pages' {selector} holds; `main` takes all of it."
    return article + "".join(f"  # {line.strip()}\n" for line in main.splitlines()), why


def _quote(text: str) -> str:
    """A text as YAML reads it back, also inside a list; numbers and `yes` would not come back as texts."""
    is_plain = re.fullmatch(r"[\w/.-](?:[\w /.-]|:(?=\S))*", text)
    if is_plain and yaml.compose(text, yaml.SafeLoader).tag == "tag:yaml.org,2002:str":
        return text
    return f'"{text}"'
