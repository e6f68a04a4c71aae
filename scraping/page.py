"""What a page says about itself: where its links lead, and what its owner wishes crawlers to do with it."""

import re
from dataclasses import dataclass, field

from selectolax.lexbor import LexborHTMLParser

from scraping.extract import decode
from scraping.fetch import Response
from scraping.urls import resolve

MAX_LINKS = 10_000  # a page; a site's largest index has fewer, a trap has more

HTML_TYPES = ("text/html", "application/xhtml+xml")
_VAGUE_TYPES = ("", "text/plain", "application/octet-stream", "application/xml", "text/xml")
_LOOKS_LIKE_HTML = re.compile(
    rb"(?:\xef\xbb\xbf)?\s*(?:<!--.*?-->\s*|<\?xml[^>]*>\s*)*<(?:!doctype\s+html|html|head|body)\b", re.I | re.S
)
_BINARY = re.compile(
    rb"%PDF-|\x89PNG|GIF8|\xff\xd8\xff|PK\x03\x04|\x1f\x8b|BZh|7z\xbc\xaf|Rar!|\x7fELF|\xd0\xcf\x11\xe0|OggS|ID3|RIFF"
)
_WIDE_BYTE_ORDER_MARKS = (b"\xff\xfe", b"\xfe\xff", b"\x00\x00\xfe\xff")

_LINK_HEADER = re.compile(r'<([^>]*)>\s*((?:;\s*[\w*-]+\s*=\s*(?:"[^"]*"|[^;,\s]*)\s*)*)')
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
    tree = LexborHTMLParser(decode(response.body, response.content_type))
    base = response.url
    for node in tree.css("base[href]")[:1]:
        base = resolve(base, node.attributes["href"] or "") or base
    for node in tree.css("meta[name][content]"):
        attributes = node.attributes
        if (attributes["name"] or "").strip().lower() in ("robots", agent.lower()):
            page.wishes.add(attributes["content"] or "")
    page.canonical = _canonical(tree, response, base)
    followed, ignored = {}, {}
    for node in tree.css("a[href], area[href]")[:MAX_LINKS]:
        attributes = node.attributes
        target = resolve(base, attributes["href"] or "")
        if target:
            nofollow = "rel" in attributes and "nofollow" in (attributes["rel"] or "").lower().split()
            (ignored if nofollow else followed)[target] = None
    page.links, page.nofollow_links = list(followed), [url for url in ignored if url not in followed]
    return page


def header_wishes(values: list[str], agent: str) -> Wishes:
    """Directives of `X-Robots-Tag` headers; `otherbot: noindex` binds only otherbot, up to the header's end."""
    wishes = Wishes()
    for value in values:
        scope = None
        for part in value.split(","):
            name, colon, rest = part.partition(":")
            if colon and name.strip().lower() not in _VALUED_DIRECTIVES:
                scope, part = name.strip().lower(), rest
            if scope in (None, "*", "robots", agent.lower()):
                wishes.add(part)
    return wishes


def refusal(response: Response) -> str | None:
    """Why the body of this answer is not worth reading, by its headers alone; None if it may be a page."""
    if response.status != 200:
        return f"status {response.status}"
    mime = response.content_type.partition(";")[0].strip().lower()
    return None if mime in HTML_TYPES or mime in _VAGUE_TYPES else f"content type {mime}"


def is_html(response: Response) -> bool:
    """Whether a body is a page, by its first bytes where the header is vague, wrong or missing."""
    head = response.body[:1024]
    if _BINARY.match(head) or (b"\0" in head and not head.startswith(_WIDE_BYTE_ORDER_MARKS)):
        return False
    mime = response.content_type.partition(";")[0].strip().lower()
    return mime in HTML_TYPES or bool(_LOOKS_LIKE_HTML.match(head))


def _canonical(tree: LexborHTMLParser, response: Response, base: str) -> str | None:
    for value in response.headers.getlist("Link"):
        for match in _LINK_HEADER.finditer(value):
            if _REL_CANONICAL.search(match[2]):
                return resolve(response.url, match[1])
    for node in tree.css("link[rel][href]"):
        if "canonical" in (node.attributes["rel"] or "").lower().split():
            return resolve(base, node.attributes["href"] or "")
    return None
