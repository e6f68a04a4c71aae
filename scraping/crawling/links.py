"""What a page says to a crawler: where its links lead, which URL is its canonical one, and its robots directives.

Directives come from `<meta name="robots">` and from the header `X-Robots-Tag`. They are a convention of the search
engines; RFC 9309 covers robots.txt alone.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass, field
from html import unescape

import numpy as np
from selectolax.lexbor import LexborHTMLParser

from scraping.crawling.fetch import Response
from scraping.crawling.urls import resolve
from scraping.extraction.charset import decode_as, encoding_of
from scraping.extraction.sniff import HTML_TYPES, VAGUE_TYPES, mime_type

__all__ = ["MAX_LINKS", "ParsedPage", "RobotsDirectives", "parse_page", "skip_reason", "tdm_value"]

MAX_LINKS = 10_000  # of one page; a site's largest index has fewer, a trap has more
_MAX_NESTING = 20_000  # as `_nesting` counts, which also counts what old pages leave open: cells, paragraphs, breaks
_TAG = re.compile(r"<(a|area|base|frame|iframe|link|meta)\s([^<>]{0,4000})>", re.I)
_SELECTOR = "a[href], area[href], base[href], frame[src], iframe[src], link[rel], meta[content]"
_ATTRIBUTE = re.compile(r"""([\w-]{1,30})\s*=\s*(?:"([^"]*)"|'([^']*)'|([^\s"'>]+))""")

_LINK_HEADER = re.compile(r'<([^>]*)>\s*((?:;\s*[\w*-]+\s*=\s*(?:"[^"]*"|[^;,\s]*)\s*)*)')
_MAX_LINK_HEADER = 4_000  # characters; the patterns' time grows with the square
_REFRESH = re.compile(r"\s*(?:[\d.]+\s*[;,\s]\s*(?:url\s*=\s*)?|url\s*=\s*)['\"]?([^'\"]+)", re.I)
_MAX_REFRESH = 2_500  # characters
_REL_CANONICAL = re.compile(r'rel\s*=\s*"?[^"]*\bcanonical\b', re.I)
_VALUED_DIRECTIVES = {"unavailable_after", "max-snippet", "max-image-preview", "max-video-preview"}


@dataclass(slots=True)
class RobotsDirectives:
    """What a page's owner asks of crawlers: not to keep its text (`noindex`), not to follow its links (`nofollow`), not
    to train on it (`reserved`: by which word)."""

    noindex: bool = False
    nofollow: bool = False
    reserved: str | None = None

    @classmethod
    def of_headers(cls, values: list[str], agent: str) -> RobotsDirectives:
        """Directives of `X-Robots-Tag` headers, as they bind `agent`.

        `otherbot: noindex` binds otherbot alone, and so does everything after it in the same header.
        """
        directives = cls()
        for value in values:
            bound = None  # the agent that the rest of the header is for
            for part in value.split(","):
                name, colon, rest = part.partition(":")
                name = name.strip().lower()
                if colon and name not in _VALUED_DIRECTIVES and " " not in name:  # a date has spaces and colons, too
                    bound, part = name, rest
                if bound in (None, "*", "robots", agent.lower()):
                    directives.add(part)
        return directives

    def add(self, directives: str) -> None:
        """Add directives that are separated by commas or white space; others than these are ignored."""
        for directive in directives.lower().replace(",", " ").split():
            match directive:
                case "noindex":
                    self.noindex = True
                case "nofollow":
                    self.nofollow = True
                case "none":
                    self.noindex = self.nofollow = True
                case "noai" | "noimageai" as word:
                    self.reserved = self.reserved or word


@dataclass(slots=True)
class ParsedPage:
    """What a page says to a crawler. All URLs are normalized; lists are in the page's order, each URL once."""

    links: list[str] = field(default_factory=list)  # without those marked nofollow
    nofollow_links: list[str] = field(default_factory=list)
    canonical: str | None = None
    directives: RobotsDirectives = field(default_factory=RobotsDirectives)
    header_nofollow: bool = False  # whether the directive `nofollow` stands in a header, which a 304 need not repeat
    tdm_reservation: bool | None = None  # what its `<meta>` says of text and data mining
    cut_off: bool = False  # whether it has more links than `MAX_LINKS`; the rest is not in the lists


def parse_page(response: Response, agent: str) -> ParsedPage:
    """Parse an HTML answer; its content never makes this raise.

    Args:
        response: the answer; its URL and headers count, too.
        agent: our product token, which directives may name.
    """
    page = ParsedPage(directives=RobotsDirectives.of_headers(response.headers.getlist("X-Robots-Tag"), agent))
    page.header_nofollow = page.directives.nofollow
    encoding = encoding_of(response.body, response.content_type)
    html = decode_as(response.body, encoding)
    base_href, tags = _tags(html.replace("\0", "") if b"\0" in response.body else html)
    base = resolve(response.url, base_href or "", encoding) or response.url
    followed: dict[str, None] = {}
    nofollow: dict[str, None] = {}
    page.canonical = _header_canonical(response)
    if target := _refresh_target(response.headers.get("Refresh"), response.url, encoding):
        followed[target] = None
    for tag, attributes in tags:
        match tag:
            case "a" | "area" | "frame" | "iframe" if not page.cut_off:
                target = resolve(base, attributes.get("href" if tag[0] == "a" else "src") or "", encoding)
                if target is None:
                    continue
                links = nofollow if "rel" in attributes and "nofollow" in _words(attributes["rel"]) else followed
                if len(followed) + len(nofollow) < MAX_LINKS:
                    links[target] = None
                elif target not in links:
                    page.cut_off = True
            case "link" if not page.canonical and "canonical" in _words(attributes.get("rel")):
                page.canonical = resolve(base, attributes.get("href") or "", encoding)
            case "meta" if _word(attributes.get("http-equiv")) == "refresh":
                if target := _refresh_target(attributes.get("content"), base, encoding):
                    followed[target] = None
            case "meta" if _word(attributes.get("name")) in ("robots", agent.lower()):
                page.directives.add(attributes.get("content") or "")
            case "meta" if _word(attributes.get("name")) == "tdm-reservation":
                page.tdm_reservation = tdm_value(attributes.get("content"))
    page.links, page.nofollow_links = list(followed), [url for url in nofollow if url not in followed]
    return page


def tdm_value(value: str | None) -> bool | None:
    """What a TDM reservation says: 1 reserves, 0 does not, and anything else says nothing."""
    return {"1": True, "0": False}.get((value or "").strip())


def skip_reason(response: Response) -> str | None:
    """By status and headers alone, why this answer is not a page whose body is worth reading; None if it may be one."""
    if response.status != 200:
        return f"status {response.status}"
    mime = mime_type(response.content_type)
    return None if mime in HTML_TYPES or mime in VAGUE_TYPES else f"content type {mime}"


def _word(value: str | None) -> str:
    return (value or "").strip().lower()


def _words(value: str | None) -> list[str]:
    return (value or "").lower().split()


def _tags(html: str) -> tuple[str | None, Iterator[tuple[str, dict[str, str | None]]]]:
    """Where the page's first `<base>` leads, which holds for all of the page, also for what stands before it; and the
    other tags that `parse_page` looks at with their attributes, in order.

    The parser's time grows with the square of the nesting, and a page of nothing but open tags could take hours: such a
    page is searched with a pattern instead.
    """
    if html.count("<") < _MAX_NESTING or _nesting(html) < _MAX_NESTING:
        nodes = LexborHTMLParser(html).css(_SELECTOR)
        names = [node.tag or "" for node in nodes]
        base_href = nodes[names.index("base")].attributes["href"] if "base" in names else None
        return base_href, zip(names, (node.attributes for node in nodes), strict=True)
    bases = (attributes["href"] for tag, attributes in _searched_tags(html) if tag == "base" and "href" in attributes)
    return next(bases, None), _searched_tags(html)


def _searched_tags(html: str) -> Iterator[tuple[str, dict[str, str | None]]]:
    for tag in _TAG.finditer(html):
        found = _ATTRIBUTE.findall(tag[2])
        yield tag[1].lower(), {name.lower(): unescape(a or b or c) for name, a, b, c in found}


def _nesting(html: str) -> int:
    """How many tags are open at once at most, counting those that need no end."""
    data = np.frombuffer(html.encode("utf-8", "replace"), np.uint8)
    tags = np.flatnonzero(data[:-1] == ord("<"))
    return int(np.cumsum(np.where(data[tags + 1] == ord("/"), -1, 1)).max(initial=0))


def _refresh_target(value: str | None, base: str, encoding: str) -> str | None:
    """Where a `Refresh` header, or the element that stands for it, leads."""
    match = _REFRESH.match((value or "")[:_MAX_REFRESH])
    return resolve(base, match[1], encoding) if match else None


def _header_canonical(response: Response) -> str | None:
    """The canonical URL that a `Link` header names: RFC 8288 (2017) and RFC 6596 (2012)."""
    for value in response.headers.getlist("Link"):
        for match in _LINK_HEADER.finditer(value[:_MAX_LINK_HEADER]):
            if _REL_CANONICAL.search(match[2]):
                return resolve(response.url, match[1])
    return None
