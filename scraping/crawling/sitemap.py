"""Sitemaps by the protocol of sitemaps.org (0.9, 2008): XML, gzipped, plain text, and indexes, read with limits."""

from __future__ import annotations

import logging
import zlib
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from xml.parsers import expat

from scraping.crawling.fetch import Fetcher, FetchError, Request
from scraping.crawling.urls import normalize, resolve

__all__ = ["MAX_ENTRIES", "SitemapEntry", "parse_sitemap", "read_sitemaps"]

logger = logging.getLogger(__name__)

MAX_BYTES = 50 << 20  # of a file, uncompressed, by the protocol
MAX_ENTRIES = 50_000  # of a file, by the protocol
MAX_FILES = 200  # of a host
_TIMEOUT = 60.0  # seconds


@dataclass(slots=True)
class SitemapEntry:
    """A URL that a sitemap lists."""

    url: str
    priority: float = 0.5
    lastmod: str = ""  # W3C date, which sorts as text


def read_sitemaps(
    urls: list[str], fetcher: Fetcher, delay_of: Callable[[str], float | None], max_files: int = MAX_FILES
) -> Iterator[SitemapEntry]:
    """Fetch sitemaps, and those that they index or redirect to; a broken one gives the entries before the break.

    Args:
        urls: where the sitemaps are.
        fetcher: makes the requests.
        delay_of: asked before each file, because scope and robots.txt hold for sitemaps too: the delay that its host
            wants between requests, or None if the file may not be fetched.
        max_files: how many files are read at most.
    """
    queue, seen = list(urls), set(urls)
    files = 0
    while queue and files < max_files:
        url = queue.pop(0)
        delay = delay_of(url)
        if delay is None:
            continue
        files += 1
        try:
            response = fetcher.fetch(Request(url, delay=delay, timeout=_TIMEOUT, max_bytes=MAX_BYTES))
        except FetchError as error:
            logger.warning("sitemap %s: %s", url, error)
            continue
        if response.location is not None:
            target = resolve(url, response.location)
            if target and target not in seen:
                seen.add(target)
                queue.insert(0, target)
            continue
        if response.status != 200:
            level = logging.INFO if response.status == 404 else logging.WARNING  # many sites have none
            logger.log(level, "sitemap %s: status %d", url, response.status)
            continue
        entries, index = parse_sitemap(response.body)
        yield from entries
        fresh = [entry.url for entry in index if entry.url not in seen]
        seen.update(fresh)
        queue += fresh


def parse_sitemap(body: bytes) -> tuple[list[SitemapEntry], list[SitemapEntry]]:
    """(pages, further sitemaps) that one sitemap file lists, as far as it can be read."""
    body = _gunzip(body)
    if not body.lstrip(b"\xef\xbb\xbf \t\r\n").startswith(b"<"):
        lines = body.decode("utf-8", "replace").split()
        return [SitemapEntry(url) for line in lines[:MAX_ENTRIES] if (url := normalize(line))], []
    parser = _SitemapParser()
    try:
        parser.expat.Parse(body, True)
    except (expat.ExpatError, _SitemapError) as error:
        logger.warning("a sitemap is broken after %d entries: %s", len(parser.pages) + len(parser.index), error)
    return parser.pages, parser.index


class _SitemapError(Exception):
    """The file has more entries than the protocol allows, or content that may be an attack on the parser."""


class _SitemapParser:
    """Collects `<url>` and `<sitemap>` elements; those of other vocabularies (images, news) are ignored."""

    def __init__(self) -> None:
        self.pages: list[SitemapEntry] = []
        self.index: list[SitemapEntry] = []
        self._fields: dict[str, str] = {}
        self._text: list[str] = []
        self.expat = expat.ParserCreate(namespace_separator=" ")
        self.expat.buffer_text = True
        self.expat.StartElementHandler = self._start
        self.expat.EndElementHandler = self._end
        self.expat.CharacterDataHandler = self._text.append
        self.expat.EntityDeclHandler = self._entity

    def _start(self, name: str, attributes: dict[str, str]) -> None:
        self._text.clear()
        if _local(name) in ("url", "sitemap"):
            self._fields.clear()

    def _end(self, name: str) -> None:
        match _local(name):
            case "url" | "sitemap" as kind if url := normalize(self._fields.get("loc", "")):
                fields, entries = self._fields, self.pages if kind == "url" else self.index
                entries.append(SitemapEntry(url, _priority(fields.get("priority", "")), fields.get("lastmod", "")))
                if len(entries) >= MAX_ENTRIES:
                    raise _SitemapError(f"more than {MAX_ENTRIES} entries")
            case "loc" | "priority" | "lastmod" as field:
                self._fields[field] = "".join(self._text).strip()

    def _entity(self, *_: object) -> None:
        raise _SitemapError("it declares entities")


def _local(name: str) -> str:
    """An element's name; empty if its namespace is not the sitemaps' one (of any version), nor missing."""
    namespace, _, local = name.rpartition(" ")
    return local if not namespace or "schemas/sitemap/" in namespace else ""


def _priority(value: str) -> float:
    try:
        return min(1.0, max(0.0, float(value)))
    except ValueError:
        return 0.5


def _gunzip(body: bytes) -> bytes:
    """Undo gzip where the file itself is a .gz, up to the size limit; a broken end is left off."""
    if not body.startswith(b"\x1f\x8b"):
        return body
    decompressor = zlib.decompressobj(wbits=31)
    try:
        return decompressor.decompress(body, MAX_BYTES)
    except zlib.error as error:
        logger.warning("a sitemap cannot be decompressed: %s", error)
        return b""
