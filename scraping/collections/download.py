"""One large file from a URL, on disk: a download that was cut off goes on where it stopped.

The rest is asked for by range (RFC 9110, section 14), on condition that the file is still the one it was.
"""

from __future__ import annotations

import logging
import re
import time
from pathlib import Path
from urllib.parse import unquote, urlsplit

import requests
from urllib3.exceptions import HTTPError

from textmill.files import atomic_write, fsync
from textmill.progress import Progress

logger = logging.getLogger(__name__)

_CHUNK = 1 << 20
_TIMEOUT = (15, 60)  # seconds to connect, and between bytes
_TRIES = 5  # in a row that bring nothing
_PAUSE = 1.0  # seconds before the second try; doubles with each


def file_name(url: str) -> str:
    """The name that `url` gives its file; empty if it ends in none.

    Example:
        >>> file_name("https://example.org/data/train%2000.parquet?download=true")
        'train 00.parquet'
    """
    return unquote(urlsplit(url).path).rpartition("/")[2]


def check_answers(url: str) -> None:
    """Find out whether `url` can be had, without its body.

    Raises:
        requests.RequestException: it cannot.
    """
    _ask(url, {}).close()


def download(url: str, folder: Path, progress: Progress) -> Path:
    """Fetch `url` into `folder`, under its own name, and return the path; what is there already is not asked for.

    Without a strong ETag or Last-Modified, the part of a download that was cut off cannot be matched to the server's
    version of the file, and the download begins anew.

    Raises:
        requests.RequestException: an error for an answer, or too many tries in a row that brought nothing.
    """
    path = folder / file_name(url)
    if path.exists():
        return path
    folder.mkdir(parents=True, exist_ok=True)
    part = _Part(path)
    failures = 0
    while True:
        before = part.size
        try:
            part.fetch(url, progress)
            return part.finish()
        except (requests.ConnectionError, requests.Timeout) as error:
            failures = 0 if part.size > before else failures + 1
            if failures == _TRIES:
                raise
            logger.info("%s broke off after %d bytes (%s); going on", path.name, part.size, error)
            time.sleep(_PAUSE * 2**failures)


class _Part:
    """The beginning of a file, and the version it is of."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self._content, self._version = path.with_name(f".{path.name}.part"), path.with_name(f".{path.name}.version")

    @property
    def size(self) -> int:
        """Bytes that can be built on."""
        return self._content.stat().st_size if self._version.exists() and self._content.exists() else 0

    def fetch(self, url: str, progress: Progress) -> None:
        """Add what is missing, in one request."""
        start = max(0, self.size - 1)  # one byte again: servers refuse the empty range of a file that is whole
        headers = {"Range": f"bytes={start}-", "If-Range": self._version.read_text()} if start else {}
        with _ask(url, headers) as response:
            if response.status_code != 206:
                start = 0
                self._begin(response)
            elif not re.match(rf"bytes {start}-", response.headers.get("Content-Range", "")):
                self._version.unlink()
                raise requests.ConnectionError("another range than the one asked for")
            length = response.headers.get("Content-Length", "")
            total = start + int(length) if length.isdecimal() else None
            with self._content.open("r+b") as file:
                file.seek(start)
                try:
                    # Undecoded: a file that is compressed is meant to be, whatever the server calls it.
                    while chunk := response.raw.read(_CHUNK, decode_content=False):
                        file.write(chunk)
                        progress(file.tell(), total, unit="bytes", phase="downloading")
                except HTTPError as error:
                    raise requests.ConnectionError(str(error)) from error
        fsync(self._content)

    def _begin(self, response: requests.Response) -> None:
        """Start anew, with the version that the server names, if it names one."""
        self._version.unlink(missing_ok=True)
        self._content.write_bytes(b"")
        etag = response.headers.get("ETag", "")
        version = etag if etag.startswith('"') else response.headers.get("Last-Modified", "")
        if version:
            atomic_write(self._version, version)

    def finish(self) -> Path:
        """Give the file its own name."""
        self._content.rename(self._path)
        self._version.unlink(missing_ok=True)
        fsync(self._path.parent)
        return self._path


def _ask(url: str, headers: dict[str, str]) -> requests.Response:
    headers = {"User-Agent": "textmill", "Accept-Encoding": "identity", **headers}
    response = requests.get(url, headers=headers, stream=True, timeout=_TIMEOUT)
    if response.status_code < 400:
        return response
    response.close()
    if response.status_code >= 500 or response.status_code == 429:
        raise requests.ConnectionError(f"the server answered {response.status_code}")  # may pass
    raise requests.HTTPError(f"the server answered {response.status_code}", response=response)
