"""sitemap.xml (sitemaps.org 0.9): plain, gzipped, text, and indexes of them, read with limits."""

import logging
import zlib
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from xml.parsers import expat

from scraping.crawling.fetch import Fetcher, FetchError
from scraping.crawling.politeness import Stopped
from scraping.crawling.urls import normalise, resolve

log = logging.getLogger(__name__)

MAX_BYTES = 50 << 20  # uncompressed, by the protocol
MAX_ENTRIES = 50_000  # a file, by the protocol
MAX_FILES = 200
_SECONDS = 60.0


@dataclass(slots=True)
class Entry:
    """One URL that a sitemap lists."""

    url: str
    priority: float = 0.5
    lastmod: str = ""  # W3C date: sorts as text


def read_sitemaps(
    urls: list[str], fetcher: Fetcher, delay_of: Callable[[str], float | None], max_files: int = MAX_FILES
) -> Iterator[Entry]:
    """Entries of the sitemaps at `urls` and of those that they index or lead to; a broken one gives what was whole.

    `delay_of(url)` is asked before each file: the seconds of quiet that its host wants, or None if it may not be
    fetched, for scope and robots.txt hold for sitemaps too.
    """
    waiting, seen = list(urls), set(urls)
    files = 0
    while waiting and files < max_files:
        url = waiting.pop(0)
        delay = delay_of(url)
        if delay is None:
            continue
        files += 1
        try:
            response = fetcher.get(url, delay=delay, seconds=_SECONDS, max_bytes=MAX_BYTES)
        except Stopped:
            raise
        except FetchError as error:
            log.warning("sitemap %s: %s", url, error)
            continue
        if response.location is not None:
            target = resolve(url, response.location)
            if target and target not in seen:
                seen.add(target)
                waiting.insert(0, target)
            continue
        if response.status != 200:
            level = logging.INFO if response.status == 404 else logging.WARNING  # many a site simply has none
            log.log(level, "sitemap %s: status %d", url, response.status)
            continue
        entries, index = parse(response.body)
        yield from entries
        fresh = [entry.url for entry in index if entry.url not in seen]
        seen.update(fresh)
        waiting += fresh


def parse(body: bytes) -> tuple[list[Entry], list[Entry]]:
    """(pages, further sitemaps) of one sitemap file, as far as it can be read."""
    body = _gunzip(body)
    if not body.lstrip(b"\xef\xbb\xbf \t\r\n").startswith(b"<"):
        lines = body.decode("utf-8", "replace").split()
        return [Entry(url) for line in lines[:MAX_ENTRIES] if (url := normalise(line))], []
    reader = _Reader()
    try:
        reader.parser.Parse(body, True)
    except (expat.ExpatError, _Refused) as error:
        log.warning("a sitemap is broken after %d entries: %s", len(reader.pages) + len(reader.index), error)
    return reader.pages, reader.index


class _Refused(Exception):
    """Content that no sitemap has."""


class _Reader:
    """Collects `<url>` and `<sitemap>` elements; those of other vocabularies (images, news) are passed over."""

    def __init__(self):
        self.pages: list[Entry] = []
        self.index: list[Entry] = []
        self._fields: dict[str, str] = {}
        self._text: list[str] = []
        self.parser = expat.ParserCreate(namespace_separator=" ")
        self.parser.buffer_text = True
        self.parser.StartElementHandler = self._start
        self.parser.EndElementHandler = self._end
        self.parser.CharacterDataHandler = self._text.append
        self.parser.EntityDeclHandler = self._entity

    def _start(self, name: str, _) -> None:
        self._text.clear()
        if _local(name) in ("url", "sitemap"):
            self._fields.clear()

    def _end(self, name: str) -> None:
        match _local(name):
            case "url" | "sitemap" as kind if url := normalise(self._fields.get("loc", "")):
                found = self.pages if kind == "url" else self.index
                found.append(Entry(url, _priority(self._fields.get("priority", "")), self._fields.get("lastmod", "")))
                if len(found) >= MAX_ENTRIES:
                    raise _Refused(f"more than {MAX_ENTRIES} entries")
            case "loc" | "priority" | "lastmod" as field:
                self._fields[field] = "".join(self._text).strip()

    def _entity(self, *_) -> None:
        raise _Refused("it declares entities")


def _local(name: str) -> str:
    """An element's name, or nothing if it is not of the sitemap vocabulary (any of its versions, or no namespace)."""
    namespace, _, local = name.rpartition(" ")
    return local if not namespace or "schemas/sitemap/" in namespace else ""


def _priority(value: str) -> float:
    try:
        return min(1.0, max(0.0, float(value)))
    except ValueError:
        return 0.5


def _gunzip(body: bytes) -> bytes:
    """Undo gzip where a file is a .gz as such, up to the size limit; a broken end is left off."""
    if not body.startswith(b"\x1f\x8b"):
        return body
    decompressor = zlib.decompressobj(wbits=31)
    try:
        return decompressor.decompress(body, MAX_BYTES)
    except zlib.error as error:
        log.warning("a sitemap cannot be decompressed: %s", error)
        return b""
