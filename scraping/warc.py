"""A snapshot as WARC files (ISO 28500:2017), for replay and for tools that read web archives.

Each page is a `response` with its `request`, each redirect a `response` without a body, and every record a member of
the gzip file by itself, so that a reader may begin at any. A page that a browser rendered is a `resource`, because no
server answered with these bytes. The same snapshot gives the same bytes.

A snapshot keeps what a server answered but for most of the headers, and the body without its content encoding. What was
not kept is not made up: the headers are those that are known, and the `warcinfo` at the head of each file says so.
"""

from __future__ import annotations

import gzip
import io
from collections.abc import Iterable, Mapping
from contextlib import ExitStack
from datetime import UTC, datetime
from http import HTTPStatus
from pathlib import Path
from types import TracebackType
from typing import Any, NamedTuple, Self
from urllib.parse import urlsplit
from uuid import NAMESPACE_URL, uuid5

from fastwarc.warc import WarcRecord, WarcRecordType

from scraping.shards import FETCHES_FILE, URLS_FILE, count_rows, read_rows, shards
from textmill.disk import folder_to_fill
from textmill.errors import UserError
from textmill.files import atomic_path
from textmill.progress import Progress, quiet

FILE_BYTES = 1_000_000_000  # after which a file ends: what the standard recommends
NOTE = (
    "Bodies are as the server sent them, without content encoding. Of the headers of responses Content-Type, ETag and "
    "Last-Modified were kept; those of requests follow from their URLs. A resource is a page as a browser rendered it."
)

_KINDS = {
    "warcinfo": WarcRecordType.warcinfo,
    "response": WarcRecordType.response,
    "request": WarcRecordType.request,
    "resource": WarcRecordType.resource,
}
_EPOCH = datetime(1970, 1, 1, tzinfo=UTC)  # of a snapshot without pages


class Written(NamedTuple):
    """What was written."""

    pages: int
    redirects: int
    files: list[Path]


def is_snapshot(folder: Path) -> bool:
    """Whether the folder is that of a crawl."""
    return (folder / FETCHES_FILE).is_file()


def write_warc(snapshot: Path, out: Path, progress: Progress = quiet) -> Written:
    """Write the pages and redirects of a snapshot to `out/SOURCE-00000.warc.gz`, `-00001`, ….

    Args:
        snapshot: the folder of a crawl.
        out: a new or empty folder.
        progress: counts pages.

    Raises:
        UserError: `snapshot` is no snapshot, `out` holds something already, or the disk is full or forbidden.
    """
    if not is_snapshot(snapshot):
        raise UserError(f"{snapshot} is not a snapshot of a crawl: give the folder that scrape wrote")
    total = count_rows([snapshot / FETCHES_FILE])
    latest = max((row["fetched_at"] for row in read_rows([snapshot / FETCHES_FILE], ["fetched_at"])), default=_EPOCH)
    pages = redirects = 0
    source = next((row["source"] for row in read_rows(shards(snapshot), ["source"])), "pages")
    with folder_to_fill(out), _Files(out, source, latest) as files:
        for page, fetch in zip(read_rows(shards(snapshot)), read_rows([snapshot / FETCHES_FILE]), strict=True):
            files.write(_records_of_page(page, fetch))
            pages += 1
            progress(pages, total, unit="pages")
        for row in read_rows([snapshot / URLS_FILE], ["url", "outcome", "reason", "status"]):
            if row["outcome"] == "redirected" and row["reason"] and row["status"]:
                files.write([_redirect(row, latest)])
                redirects += 1
    return Written(pages, redirects, files.written)


class _Files:
    """WARC files, each of which begins with a `warcinfo` of this date, ends when it is full, and exists whole or not
    at all."""

    def __init__(self, folder: Path, name: str, date: datetime) -> None:
        self._folder, self._name, self._date = folder, name, date
        self._open = ExitStack()
        self.written: list[Path] = []
        self._begin()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self._open.__exit__(kind, error, traceback)

    def write(self, records: Iterable[Record]) -> None:
        """Append records that belong into one file."""
        if self._file.tell() >= FILE_BYTES:
            self._open.close()
            self._begin()
        for record in records:
            self._file.write(record.compressed())

    def _begin(self) -> None:
        path = self._folder / f"{self._name}-{len(self.written):05d}.warc.gz"
        self._file = self._open.enter_context(self._open.enter_context(atomic_path(path)).open("wb"))
        self.written.append(path)
        fields = {"software": "textmill", "format": "WARC File Format 1.1", "description": NOTE}
        block = "".join(f"{key}: {value}\r\n" for key, value in fields.items()).encode()
        about = {"WARC-Date": _date(self._date), "WARC-Filename": path.name, "Content-Type": "application/warc-fields"}
        self._file.write(Record("warcinfo", about, block).compressed())


class Record(NamedTuple):
    """A record to be written."""

    kind: str  # a key of `_KINDS`
    headers: Mapping[str, str]
    block: bytes

    @property
    def urn(self) -> str:
        """Its id; it depends on what the record is alone."""
        return f"uuid:{uuid5(NAMESPACE_URL, f'{self.kind} {sorted(self.headers.items())}')}"

    def compressed(self) -> bytes:
        """It as a member of a gzip file, with digests of its block and its payload."""
        record = WarcRecord()
        record.init_headers(_KINDS[self.kind], record_urn=self.urn.encode())
        record.is_http = is_http = self.kind in ("response", "request")
        for name, value in self.headers.items():
            record.headers[name] = value
        record.set_bytes_content(self.block)
        if is_http:
            record.parse_http()  # so that the payload has a digest too
        buffer = io.BytesIO()
        record.write(buffer, checksum_data=True)
        return gzip.compress(buffer.getvalue(), 6, mtime=0)


def _records_of_page(page: Mapping[str, Any], fetch: Mapping[str, Any]) -> list[Record]:
    body = page["body"] or b""
    about = {"WARC-Target-URI": page["url"], "WARC-Date": _date(fetch["fetched_at"])}
    if page.get("rendered"):
        return [Record("resource", {**about, "Content-Type": page["content_type"]}, body)]
    known = {
        "Content-Type": page["content_type"],
        "Content-Length": str(len(body)),
        "ETag": fetch["etag"],
        "Last-Modified": fetch["last_modified"],
    }
    response = Record("response", about, _answer(page["status"], known) + body)
    parts = urlsplit(page["url"])
    target = (parts.path or "/") + (f"?{parts.query}" if parts.query else "")
    asked = {**about, "WARC-Concurrent-To": f"<urn:{response.urn}>"}
    return [response, Record("request", asked, _head(f"GET {target} HTTP/1.1", {"Host": parts.netloc}))]


def _redirect(row: Mapping[str, Any], date: datetime) -> Record:
    """A redirect; crawls do not keep when they met it, so it gets the date of the last page."""
    about = {"WARC-Target-URI": row["url"], "WARC-Date": _date(date)}
    return Record("response", about, _answer(row["status"], {"Location": row["reason"], "Content-Length": "0"}))


def _answer(status: int, headers: Mapping[str, str | None]) -> bytes:
    phrase = HTTPStatus(status).phrase if status in HTTPStatus._value2member_map_ else ""
    return _head(f"HTTP/1.1 {status} {phrase}", headers)


def _head(first: str, headers: Mapping[str, str | None]) -> bytes:
    """The head of an HTTP message; no value may end its line."""
    lines = [first, *(f"{name}: {' '.join(value.split())}" for name, value in headers.items() if value)]
    return ("\r\n".join(lines) + "\r\n\r\n").encode("utf-8", "replace")


def _date(time: datetime) -> str:
    return f"{time:%Y-%m-%dT%H:%M:%SZ}"
