"""Web archives (WARC, ISO 28500:2017): the text records of a WET file, and the pages of a WARC file, extracted.

A record whose content is cut off, or does not match its digest, is damaged. After damage that the archive's own
structure does not survive, reading goes on at the next record: each begins a new gzip member, or a line `WARC/`.
"""

from __future__ import annotations

import base64
import hashlib
import io
from collections.abc import Iterable, Iterator
from itertools import islice
from pathlib import Path
from typing import IO, Any, NamedTuple

from fastwarc.warc import ArchiveIterator

from scraping.collections.archives import GZIP, ZSTD, complaint, decompressed, reraise_failure
from scraping.collections.records import Document, Record, document
from scraping.collections.skipped import Skipped, part_of, rest_of, unread
from scraping.extraction.config import AutoExtractor
from scraping.extraction.sandbox import Call, Failure, Sandbox

_RECORD_BYTES = 64 << 20  # more than this is not a document
_PAGE_BYTES = 10 << 20
_AT_ONCE = 32  # records in memory
_CPU_SECONDS, _MEMORY_BYTES = 20, 2 << 30  # that the extraction of a page may take
_PAGE_TYPES = ("text/html", "application/xhtml+xml")
_WITHOUT_TEXT = {"warcinfo", "request", "metadata"}
_SEARCHED = 1 << 20


class _Page(NamedTuple):
    """A page of the web as a server sent it."""

    place: str
    url: str
    content_type: str
    body: bytes


def warc_records(name: str, path: Path) -> Iterator[Record]:
    """The documents of a WARC or WET file; pages are extracted in a child with limits."""
    with Sandbox(
        "scraping.extraction.extract:extract_page", 1, cpu_seconds=_CPU_SECONDS, memory_bytes=_MEMORY_BYTES
    ) as sandbox:
        items = _items(name, path)
        while group := list(islice(items, _AT_ONCE)):
            answers = sandbox.run(_calls(group))
            for item in group:
                if isinstance(item, _Page):
                    yield from _extracted(name, item, next(answers))
                else:
                    yield item


def _calls(items: Iterable[_Page | Record]) -> Iterator[Call]:
    extractor = AutoExtractor().model_dump()
    for item in items:
        if isinstance(item, _Page):
            yield Call({"url": item.url, "content_type": item.content_type, "extractor": extractor}, item.body)


def _extracted(name: str, page: _Page, answer: Any) -> Iterator[Record]:
    if isinstance(answer, Failure) and answer.reason == "rejected":
        yield unread(name, page.place, "no text page", f"{page.url}: {answer.detail}")
    elif isinstance(answer, Failure):
        yield Skipped(name, page.place, "not extracted", f"{page.url}: {answer.reason}")
    elif not answer:
        yield Document(b"", page.url)
    else:
        for url, title, text, *_ in answer:
            yield Document(text.encode("utf-8", "replace"), url, title or None)


def _items(name: str, path: Path) -> Iterator[_Page | Record]:
    """The records that are or may be documents, and those that are damaged."""
    with path.open("rb") as file:
        start = file.read(len(ZSTD))
        file.seek(0)
        seekable = not start.startswith((b"BZh", b"\xfd7zX"))
        stream = file if seekable else decompressed(file)
        position = 0
        known = False  # whether what follows may still belong to damage that is told
        while True:
            last = position
            try:
                for record in ArchiveIterator(stream, parse_http=False):
                    last, known = record.stream_pos, False
                    if (item := _item(name, record)) is not None:
                        yield item
                return
            except OSError as error:
                reraise_failure(name, error)
                damage = complaint(error)
            position = _next_record(file, last + 1, start.startswith(GZIP)) if seekable else -1
            if not known:
                place = f"after byte {last}"
                yield part_of(name, place, damage) if position >= 0 else rest_of(name, f"{place}: {damage}")
            known = True
            if position < 0:
                return
            file.seek(position)


def _next_record(file: IO[bytes], start: int, gzipped: bool) -> int:
    """Where, from `start` on, a record may begin; negative if nowhere."""
    mark, before = (GZIP + b"\x08", 0) if gzipped else (b"\nWARC/1.", 1)
    file.seek(start)
    rest = b""
    while more := file.read(_SEARCHED):
        rest += more
        if (at := rest.find(mark)) >= 0:
            return file.tell() - len(rest) + at + before
        rest = rest[-len(mark) :]
    return -1


def _item(name: str, record: Any) -> _Page | Record | None:
    """What a record is to a collection of texts; None if it is about another record."""
    kind = record.headers.get("WARC-Type", "")
    url = record.headers.get("WARC-Target-URI", "").strip("<>")
    place = f"record at byte {record.stream_pos}"
    if kind in _WITHOUT_TEXT:
        return None
    if kind not in ("conversion", "response", "resource"):
        return unread(name, place, f"{kind or 'nameless'} record", url)
    if (size := record.content_length) > _RECORD_BYTES:
        return Skipped(name, place, "too long", f"{url}: {size} bytes")
    block = record.reader.read()
    if len(block) != size:  # not even what follows was enough
        return rest_of(name, f"{place}, {url}: {len(block)} of {size} bytes")
    if not _is_digest(record.headers.get("WARC-Block-Digest", ""), block):
        return Skipped(name, place, "damaged", f"{url}: not what its digest says")
    if kind == "response":
        return _page(name, place, url, block)
    declared = record.headers.get("Content-Type", "")
    media = declared.partition(";")[0].strip().lower()
    if kind == "resource" and media in _PAGE_TYPES and url.startswith(("http://", "https://")):
        return _bounded(name, _Page(place, url, declared, block))
    if media != "text/plain":
        return unread(name, place, media or "no content type", url)
    found = document(name, place, block)
    if isinstance(found, Skipped):
        return found
    language = record.headers.get("WARC-Identified-Content-Language", "").partition(",")[0]
    return found._replace(url=url or None, lang=language or None)


def _page(name: str, place: str, url: str, block: bytes) -> _Page | Record:
    """The page that a response holds, or why it holds none."""
    if not url.startswith(("http://", "https://")):
        return unread(name, place, "no page", url)
    try:
        answer = _http(block)
        body = answer.reader.read()
        status = answer.http_headers.status_code if answer.http_headers else None
    except (OSError, ValueError) as error:
        return Skipped(name, place, "damaged", f"{url}: {complaint(error)}")
    media = answer.http_content_type or ""
    if status != 200:
        return unread(name, place, f"HTTP {status}", url)
    if media not in (*_PAGE_TYPES, "text/plain"):
        return unread(name, place, media or "no content type", url)
    return _bounded(name, _Page(place, url, answer.http_headers.get("Content-Type", media), body))


def _bounded(name: str, page: _Page) -> _Page | Skipped:
    """The page, unless it is too long for one."""
    if len(page.body) > _PAGE_BYTES:
        return Skipped(name, page.place, "too long", f"{page.url}: {len(page.body)} bytes")
    return page


def _http(block: bytes) -> Any:
    """A record of its own for an HTTP answer, decoded: where decoding fails, the archive can still be read on.

    Raises:
        OSError, ValueError: it is damaged.
    """
    head = b"WARC/1.0\r\nWARC-Type: response\r\nContent-Type: application/http\r\nContent-Length: %d\r\n\r\n"
    record = next(ArchiveIterator(io.BytesIO(head % len(block) + block + b"\r\n\r\n"), parse_http=False))
    record.parse_http(auto_decode="all")
    return record


def _is_digest(digest: str, block: bytes) -> bool:
    """Whether a digest is the block's; of others than SHA-1 in base 32, which archives have, nothing is known."""
    kind, _, value = digest.partition(":")
    if kind.lower() != "sha1" or len(value) != 32:
        return True
    return base64.b32encode(hashlib.sha1(block).digest()).decode() == value.upper()
