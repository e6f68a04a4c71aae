"""Sitemaps as sites serve them, read as far as they can be, with limits; what could not be read is reported.

The protocol is that of sitemaps.org (0.9, 2008): XML, gzipped, plain text, indexes, and the feeds that it allows (RSS,
Atom). Sites leave blank lines or a warning before the XML, forget to escape `&`, send UTF-16 or several gzip members.
So the text is decoded as a page's is, its references are mended, and libxml2 reads it in its recovering mode: without
entities, without the network, and no further than a number of errors.
"""

from __future__ import annotations

import html
import logging
import re
from collections import Counter, deque
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from email.utils import parsedate_to_datetime
from typing import Literal, NamedTuple

from lxml import etree

from scraping.crawling.answers.compression import decompress
from scraping.crawling.fetch import MAX_REDIRECTS, FetchError, Request, Response, TransientHostError
from scraping.crawling.urls import normalize, origin_of, resolve
from scraping.extraction.charset import decode

__all__ = [
    "MAX_ENTRIES", "LeftOut", "SitemapEntry", "SitemapOutcome", "parse_sitemap", "read_sitemaps", "sitemap_request",
]  # fmt: skip

logger = logging.getLogger(__name__)

MAX_BYTES = 50 << 20  # of a file, uncompressed, by the protocol
MAX_ENTRIES = 50_000  # of a file, by the protocol
MAX_FILES = 200  # of a host
_TIMEOUT = 60.0  # seconds
_MAX_UNANSWERED = 3  # in a row of an origin, after which each file is asked for once only
_MAX_ERRORS = 1_000  # of a file; after that it is something else
_MAX_REFERENCES = 2_000_000  # of a file
_CHUNK = 1 << 16  # characters that are parsed at once

_ROOT = re.compile(r"<(?:[\w.-]{1,30}:)?(?:urlset|sitemapindex|sitemap|url|rss|feed|rdf)[\s>]", re.I)
_ENTRIES = [
    f"{{*}}{spelled}" for name in ("url", "sitemap", "item", "entry") for spelled in (name, name.upper(), name.title())
]
# Declarations go, because the text is decoded already and because two files may be one after the other.
_DECLARATION = re.compile(
    r"<\?xml[^<>]{0,1000}>|<!DOCTYPE[^<>\[]{0,1000}>|[\x00-\x08\x0b\x0c\x0e-\x1f\ufffe\uffff]", re.I
)
_REFERENCE = re.compile(
    r"<!\[CDATA\[(.*?)(?:\]\]>|\Z)|&(?:(?:[a-z][a-z0-9]{1,30}|#[0-9]{1,9}|#x[0-9a-f]{1,8});)?", re.S | re.I
)
# By number, because libxml2 drops references by name in all that follows an error.
_MARKUP = str.maketrans({character: f"&#{ord(character)};" for character in "&<>\"'"} | {"\f": " "})
_ENTRY = re.compile(r"<(?:[\w.-]{1,30}:)?(?:loc|item|entry)[\s>]", re.I)


_NO_SITEMAP = "neither a sitemap nor a feed"
_NO_ENTRIES = "no entries"


@dataclass(slots=True)
class SitemapEntry:
    """A URL that a sitemap lists."""

    url: str
    priority: float = 0.5
    lastmod: str = ""  # W3C date, which sorts as text


class SitemapOutcome(NamedTuple):
    """What became of one sitemap.

    Attributes:
        url: where it is, or its redirect.
        kind: "read"; "left out", by the scope or robots.txt, or because it is empty; "missing": there is no sitemap;
            "unanswered": there may be one later; "damaged": not all of it could be read.
        reason: why it was not read in full.
    """

    url: str
    kind: Literal["read", "left out", "missing", "unanswered", "damaged"]
    reason: str = ""


class LeftOut(FetchError):
    """The scope or robots.txt forbids to ask for a sitemap."""


def sitemap_request(url: str, delay: float) -> Request:
    """The request for a sitemap, after which its host is left in peace for `delay` seconds."""
    return Request(url, delay=delay, timeout=_TIMEOUT, max_bytes=MAX_BYTES)


def read_sitemaps(
    urls: list[str],
    ask: Callable[[str, bool], Response],
    max_files: int = MAX_FILES,
    report: Callable[[SitemapOutcome], None] = lambda outcome: None,
) -> Iterator[SitemapEntry]:
    """Fetch sitemaps, and those that they index or redirect to; a broken one gives the entries that can be read.

    Args:
        urls: where the sitemaps are.
        ask: makes the request for a file, or for where it is redirected to, if scope and robots.txt allow it; again if
            need be, unless told that several files of its origin in a row gave no answer. What it raises: `LeftOut` if
            it may not ask, another `FetchError` if there is no usable answer.
        max_files: how many files are asked for at most.
        report: told what became of each file.
    """

    def tell(outcome: SitemapOutcome) -> None:
        if outcome.kind != "read":
            level = logging.INFO if outcome.kind in ("left out", "missing") else logging.WARNING  # many sites have none
            logger.log(level, "sitemap %s: %s", outcome.url, outcome.reason)
        report(outcome)

    unanswered: Counter[str] = Counter()  # origin -> files in a row

    def ask_for(target: str) -> Response:
        origin = origin_of(target)
        try:
            response = ask(target, unanswered[origin] < _MAX_UNANSWERED)
        except TransientHostError:
            unanswered[origin] += 1
            raise
        unanswered[origin] = 0
        return response

    queue, seen = deque(urls), set(urls)
    files = 0
    left_out: list[SitemapOutcome] = []
    while queue and files < max_files:
        url = queue.popleft()
        files, known = files + 1, len(seen)
        try:
            response = _follow(url, ask_for, seen)
        except TransientHostError as error:
            tell(SitemapOutcome(url, "unanswered", str(error)))
            continue
        except LeftOut as error:
            files -= len(seen) == known  # it did not lead there by a redirect, so it was not asked for
            left_out.append(SitemapOutcome(url, "left out", str(error)))
            if len(left_out) < MAX_FILES:
                tell(left_out[-1])
            continue
        except FetchError as error:
            tell(SitemapOutcome(url, "damaged", str(error)))
            continue
        if response is None:
            continue
        if response.status != 200:
            tell(SitemapOutcome(url, "missing", f"status {response.status}"))
            continue
        problems: list[str] = []
        entries, index = parse_sitemap(response.body, response.url, problems.append)
        tell(SitemapOutcome(url, _kind(problems), "; ".join(problems)))
        yield from entries
        fresh = [entry.url for entry in index if entry.url not in seen]
        seen.update(fresh)
        queue += fresh
    if untold := left_out[MAX_FILES - 1 :]:
        more = f", as are {len(untold) - 1} more" if untold[1:] else ""
        tell(untold[0]._replace(reason=f"{untold[0].reason}{more}"))
    if queue and max_files == MAX_FILES:
        tell(SitemapOutcome(queue[0], "damaged", f"not read, nor {len(queue) - 1} more: {MAX_FILES} sitemaps were"))


def _follow(url: str, ask: Callable[[str], Response], seen: set[str]) -> Response | None:
    """The answer for a sitemap, or for where it is redirected to; None if that is in `seen`, which it is added to.

    Raises:
        FetchError: there is none; or what `ask` raises.
    """
    target, passed = url, {url}
    for _ in range(MAX_REDIRECTS + 1):
        response = ask(target)
        if response.location is None:
            return response
        redirect = resolve(target, response.location)
        if redirect is None:
            raise FetchError("redirect to nowhere")
        if redirect in passed and not response.brings_cookies:  # a site may try us for cookies
            raise FetchError("redirects in a circle")
        if redirect in seen - passed:
            return None
        target = redirect
        passed.add(target)
        seen.add(target)
    raise FetchError("too many redirects")


def _kind(problems: list[str]) -> Literal["read", "left out", "missing", "damaged"]:
    match problems:
        case []:
            return "read"
        case [problem] if problem == _NO_ENTRIES:
            return "left out"
        case [problem] if problem == _NO_SITEMAP:
            return "missing"
    return "damaged"


def parse_sitemap(
    body: bytes, base: str = "", report: Callable[[str], None] = logger.warning
) -> tuple[list[SitemapEntry], list[SitemapEntry]]:
    """(pages, further sitemaps) that one sitemap file lists, as far as it can be read.

    Args:
        body: the file, perhaps gzipped.
        base: its normalized URL, for entries without scheme and host.
        report: told what could not be read; several things, or nothing.
    """
    body, problem = decompress(body, "gzip", MAX_BYTES)
    if problem:
        report(problem)
    text = decode(body).lstrip("\ufeff\0 \t\r\n")
    entries = _Entries(base)
    if _ROOT.search(text):
        _parse_xml(text, entries, report)
    elif not text.startswith("<"):
        _parse_lines(text, entries)
    if not (entries.pages or entries.index or _ROOT.search(text)):
        report(_NO_SITEMAP if text else _NO_ENTRIES)
        return [], []
    if entries.full:
        report(f"more than {MAX_ENTRIES:,} entries, which are not read")
        del entries.pages[MAX_ENTRIES:], entries.index[MAX_ENTRIES:]
    if entries.strange:
        first = f"{entries.strange[0][:100]!r}"
        report(f"{len(entries.strange)} entries without the URL of a page, the first of them {first}")
    return entries.pages, entries.index


class _Entries:
    """What one file lists."""

    def __init__(self, base: str):
        self.pages: list[SitemapEntry] = []
        self.index: list[SitemapEntry] = []
        self.strange: list[str] = []  # what stands where a URL should
        self._base = base

    @property
    def full(self) -> bool:
        return len(self.pages) + len(self.index) + len(self.strange) > MAX_ENTRIES

    def add(self, entries: list[SitemapEntry], location: str, priority: str = "", lastmod: str = "") -> None:
        """Add an entry, if its location is a URL."""
        location = location.strip()
        url = normalize(location)
        if not url and self._base and location.startswith("/"):
            url = resolve(self._base, location)
        if url and "\ufffd" not in location:
            entries.append(SitemapEntry(url, _priority(priority), lastmod))
        else:
            self.strange.append(location)


def _parse_lines(text: str, entries: _Entries) -> None:
    for line in text.splitlines():
        if entries.full:
            break
        if line.strip("\0 \t"):
            entries.add(entries.pages, line)


def _parse_xml(text: str, entries: _Entries, report: Callable[[str], None]) -> None:
    if "<!ENTITY" in text:
        report("it declares entities")
        return
    text, references = _REFERENCE.subn(_mend_reference, _DECLARATION.sub("", text), _MAX_REFERENCES)
    if references == _MAX_REFERENCES:
        report(f"{_MAX_REFERENCES:,} references in its XML, or more")
        return
    parser = etree.XMLPullParser(
        ("end",), tag=_ENTRIES, recover=True, resolve_entities=False, no_network=True, load_dtd=False,
        remove_comments=True, remove_pis=True, collect_ids=False, encoding="utf-8",
    )  # fmt: skip
    parser.feed(b"<file>")
    # The parser looks ahead, so a comment pushes the last entry out; what only the end closes is cut off.
    pieces = [text[start : start + _CHUNK] for start in range(0, len(text), _CHUNK)] + ["<!-- -->"]
    try:
        for piece in pieces:
            parser.feed(piece.encode("utf-8", "replace"))
            _take(parser, entries)
            if entries.full or len(parser.feed_error_log) > _MAX_ERRORS:
                break
        else:
            parser.feed(b"</file>")
            parser.close()
    except etree.XMLSyntaxError:
        pass  # the log has it
    # A prefix without a namespace does no harm.
    if log := [error for error in parser.feed_error_log if error.domain != etree.ErrorDomains.NAMESPACE]:
        report(f"{len(log)} errors in its XML, the first of them: {log[0].message.strip()}")
    if not (entries.pages or entries.index or entries.strange):
        report("none of its entries could be read" if _ENTRY.search(text) else _NO_ENTRIES)


def _take(parser: etree.XMLPullParser, entries: _Entries) -> None:
    """Take the entries that the parser has read to their end, and free them."""
    for _, element in parser.read_events():
        _add(element, entries)
        element.clear()
        while element.getprevious() is not None:
            del element.getparent()[0]
        if entries.full:
            return


def _add(element: etree._Element, entries: _Entries) -> None:
    namespace, _, kind = element.tag.rpartition("}")
    kind = kind.lower()
    fields = {
        name: child
        for child in element.iterchildren(tag=etree.Element)
        if (name := _field(child, namespace)) and (name != "link" or child.get("rel", "alternate") == "alternate")
    }
    texts = {name: "".join(child.itertext()).strip() for name, child in fields.items()}
    if "loc" in texts and kind in ("url", "sitemap"):
        pages_or_index = entries.pages if kind == "url" else entries.index
        entries.add(pages_or_index, texts["loc"], texts.get("priority", ""), texts.get("lastmod", ""))
    elif kind in ("url", "sitemap") and len(element):  # the logo of a feed has a <url>, too, which is a text
        entries.add(entries.pages, "")
    elif kind in ("item", "entry"):
        location = _location(fields, texts)
        date = texts.get("updated") or texts.get("published") or _w3c_date(texts.get("pubdate", ""))
        if location is not None:
            entries.add(entries.pages, location, lastmod=date)


def _location(fields: dict[str, etree._Element], texts: dict[str, str]) -> str | None:
    """Where an entry of a feed leads: by its link, else by what RSS 2.0 calls a permanent link."""
    link = (fields["link"].get("href") or texts["link"]) if "link" in texts else None
    if not link and "guid" in texts:
        attributes = {name.lower(): value for name, value in fields["guid"].items()}
        if attributes.get("ispermalink", "true").lower() == "true":
            return texts["guid"]
    return link


def _field(child: etree._Element, namespace: str) -> str:
    """A child's name in lower case, without its namespace; empty if that is not its parent's, as an image's."""
    its_namespace, _, name = child.tag.rpartition("}")
    return name.lower() if its_namespace == namespace else ""


def _mend_reference(match: re.Match[str]) -> str:
    """Write as text what HTML means by a reference, which is U+FFFD where there is no character, and what a CDATA
    section holds. So the parser meets only references that it knows, wherever it sees the borders of a section."""
    found = match[0]
    text: str = match[1] if match[1] is not None else html.unescape(found) if found.endswith(";") else found
    return text.translate(_MARKUP)


def _priority(value: str) -> float:
    try:
        return min(1.0, max(0.0, float(value)))
    except ValueError:
        return 0.5


def _w3c_date(date: str) -> str:
    try:
        return parsedate_to_datetime(date).isoformat()
    except (ValueError, OverflowError):
        return ""
