"""What a page says about itself: where its links lead, and what its owner wishes crawlers to do with it."""

import re
from collections.abc import Iterator
from dataclasses import dataclass, field
from html import unescape

import numpy as np
from selectolax.lexbor import LexborHTMLParser

from scraping.crawling.fetch import Response
from scraping.crawling.urls import resolve
from scraping.extraction.extract import decode
from scraping.extraction.sniff import HTML_TYPES, VAGUE_TYPES, mime_type

MAX_LINKS = 10_000  # a page; a site's largest index has fewer, a trap has more
_MAX_NESTING = 20_000  # as `_nesting` counts; old pages leave cells, paragraphs and line breaks open, too
_TAG = re.compile(r"<(a|area|base|link|meta)\s([^<>]{0,4000})>", re.I)
_ATTRIBUTE = re.compile(r"""([\w-]{1,30})\s*=\s*(?:"([^"]*)"|'([^']*)'|([^\s"'>]+))""")

_LINK_HEADER = re.compile(r'<([^>]*)>\s*((?:;\s*[\w*-]+\s*=\s*(?:"[^"]*"|[^;,\s]*)\s*)*)')
_MAX_LINK_HEADER = 4_000  # characters; the patterns' time grows with the square
_REFRESH = re.compile(r"\burl\s*=\s*['\"]?([^'\"]+)", re.I)
_REL_CANONICAL = re.compile(r'rel\s*=\s*"?[^"]*\bcanonical\b', re.I)
_VALUED_DIRECTIVES = {"unavailable_after", "max-snippet", "max-image-preview", "max-video-preview"}


@dataclass(slots=True)
class Wishes:
    """robots directives of a page: `noindex` keeps its text, `nofollow` its links, out of the crawl."""

    noindex: bool = False
    nofollow: bool = False

    def add(self, directives: str) -> None:
        for directive in directives.lower().split(","):
            match directive.strip():
                case "noindex":
                    self.noindex = True
                case "nofollow":
                    self.nofollow = True
                case "none":
                    self.noindex = self.nofollow = True


@dataclass(slots=True)
class Page:
    """Links and wishes of one page. `links` are normalised, without those marked nofollow, in order, each once."""

    links: list[str] = field(default_factory=list)
    nofollow_links: list[str] = field(default_factory=list)
    canonical: str | None = None
    wishes: Wishes = field(default_factory=Wishes)


def read_page(response: Response, agent: str) -> Page:
    """Parse an HTML answer; never raises on its content. `agent` is the product token that directives may name."""
    page = Page(wishes=header_wishes(response.headers.getlist("X-Robots-Tag"), agent))
    page.canonical = _header_canonical(response)
    base, has_base = response.url, False
    followed, ignored = {}, {}
    for tag, attributes in _tags(decode(response.body, response.content_type)):
        match tag:
            case "a" | "area":
                if target := resolve(base, attributes.get("href") or ""):
                    nofollow = "rel" in attributes and "nofollow" in (attributes["rel"] or "").lower().split()
                    (ignored if nofollow else followed)[target] = None
                    if len(followed) + len(ignored) >= MAX_LINKS:
                        break
            case "link" if not page.canonical and "canonical" in (attributes.get("rel") or "").lower().split():
                page.canonical = resolve(base, attributes.get("href") or "")
            case "meta" if (attributes.get("http-equiv") or "").strip().lower() == "refresh":
                if (match := _REFRESH.search(attributes.get("content") or "")) and (target := resolve(base, match[1])):
                    followed[target] = None
            case "meta" if (attributes.get("name") or "").strip().lower() in ("robots", agent.lower()):
                page.wishes.add(attributes.get("content") or "")
            case "base" if not has_base and attributes.get("href"):
                base, has_base = resolve(base, attributes["href"]) or base, True
    page.links, page.nofollow_links = list(followed), [url for url in ignored if url not in followed]
    return page


def _tags(html: str) -> Iterator[tuple[str, dict[str, str | None]]]:
    """The tags that matter here and their attributes, in order."""
    # The parser's time grows with the square of the nesting: a page of nothing but open tags could take hours.
    if html.count("<") < _MAX_NESTING or _nesting(html) < _MAX_NESTING:
        for node in LexborHTMLParser(html).css("a[href], area[href], base[href], link[rel], meta[content]"):
            yield node.tag, node.attributes
    else:
        for tag in _TAG.finditer(html):
            attributes = {name.lower(): unescape(a or b or c) for name, a, b, c in _ATTRIBUTE.findall(tag[2])}
            yield tag[1].lower(), attributes


def _nesting(html: str) -> int:
    """The most tags that are open at once, counting those that need no end."""
    data = np.frombuffer(html.encode("utf-8", "replace"), np.uint8)
    tags = np.flatnonzero(data[:-1] == ord("<"))
    return int(np.cumsum(np.where(data[tags + 1] == ord("/"), -1, 1)).max(initial=0))


def header_wishes(values: list[str], agent: str) -> Wishes:
    """Directives of `X-Robots-Tag` headers; `otherbot: noindex` binds only otherbot, up to the header's end."""
    wishes = Wishes()
    for value in values:
        scope = None
        for part in value.split(","):
            name, colon, rest = part.partition(":")
            name = name.strip().lower()
            if colon and name not in _VALUED_DIRECTIVES and " " not in name:  # a date has spaces and colons, too
                scope, part = name, rest
            if scope in (None, "*", "robots", agent.lower()):
                wishes.add(part)
    return wishes


def refusal(response: Response) -> str | None:
    """Why the body of this answer is not worth reading, by its headers alone; None if it may be a page."""
    if response.status != 200:
        return f"status {response.status}"
    mime = mime_type(response.content_type)
    return None if mime in HTML_TYPES or mime in VAGUE_TYPES else f"content type {mime}"


def _header_canonical(response: Response) -> str | None:
    for value in response.headers.getlist("Link"):
        for match in _LINK_HEADER.finditer(value[:_MAX_LINK_HEADER]):
            if _REL_CANONICAL.search(match[2]):
                return resolve(response.url, match[1])
    return None
