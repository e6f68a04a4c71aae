"""One polite, bounded request: in the turn of its host and address, over one connection per host, with limits on time
and on bytes.

`Fetcher.fetch` makes exactly one request. It follows no redirect and asks no second time after an error: the crawl
decides about both, because scope, robots.txt and the pause between requests hold for every single request.
"""

from __future__ import annotations

import re
import socket
import threading
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from email.utils import parsedate_to_datetime
from http.client import HTTPException, HTTPResponse
from io import BufferedReader

from urllib3 import BaseHTTPResponse, HTTPHeaderDict
from urllib3.connection import HTTPConnection

from scraping.crawling.answers.compression import COMPRESSED, CUT_OFF, decompress
from scraping.crawling.answers.cookies import Cookies
from scraping.crawling.connections import (
    CONNECTION_ERRORS,
    Address,
    Connections,
    FetchError,
    ForbiddenAddressError,
    HostBusy,
    OriginUnreachable,
    Resolver,
    TransientHostError,
    describe,
)
from scraping.crawling.politeness import HostGate, Stopped, gate_of_address
from scraping.crawling.urls import host_of, origin_of

__all__ = [
    "MAX_REDIRECTS", "FetchError", "Fetcher", "ForbiddenAddressError", "Request", "Response", "Stopped",
    "TransientHostError",
]  # fmt: skip

MAX_REDIRECTS = 10  # in a row, on the way to a page or a file; RFC 9309 asks for at least five to robots.txt

_CHUNK = 1 << 16  # bytes
# Content encodings that exist (IANA's list and what browsers know) but are not asked for. Any other name, as `none` or
# `UTF-8`, is a mistake of the server's, and the body is as it is: browsers pass over it, too.
_NOT_READ = {
    "aes128gcm", "br", "bzip2", "compress", "dcb", "dcz", "exi", "lzma", "pack200-gzip", "sdch", "x-bzip2",
    "x-compress", "xz", "zstd",
}  # fmt: skip
_TRY_LATER = (408, 425, 429)  # Request Timeout, Too Early, Too Many Requests
_NUMBER = re.compile(r"[0-9]{1,18}\Z")
_HEAD_LINE = re.compile(rb"[!-9;-~]+:|[ \t\r\n]|HTTP/")  # as Python's parser of headers has them
_SPACED_NAME = re.compile(rb"([!-9;-~]+)[ \t]+:")
_NOT_ASCII = re.compile(r"[\x80-\xff]")


@dataclass(slots=True)
class Response:
    """An answer. `body` is without content encoding, and empty where the request skipped it or the status is 304."""

    url: str
    status: int
    headers: HTTPHeaderDict
    body: bytes = b""
    skip_reason: str | None = None  # why the body was not read
    cookies: int = 0  # how many cookies the host had set before this request
    brings_cookies: bool = False  # whether it set others
    not_loaded: dict[str, int] | None = None  # of a page that a browser rendered: its requests that failed, by reason

    @property
    def is_no_use(self) -> bool:
        """Whether it says that the server cannot answer now."""
        return self.status >= 500 or self.status in _TRY_LATER

    def refusal(self) -> TransientHostError:
        """What to raise if the answer is of no use."""
        kind = HostBusy if self.status == 429 else TransientHostError
        return kind(f"status {self.status}", self.retry_after())

    @property
    def content_type(self) -> str:
        return self.headers.get("Content-Type", "")

    @property
    def location(self) -> str | None:
        """Where a redirect leads, as the server spells it; None if this is not a redirect.

        Bytes beyond ASCII are percent-encoded as they came, which is what browsers do.
        """
        if not 300 <= self.status < 400 or "Location" not in self.headers:
            return None
        return _NOT_ASCII.sub(lambda byte: f"%{ord(byte[0]):02X}", self.headers["Location"])

    def retry_after(self, now: float | None = None) -> float | None:
        """Seconds that the server asks us to wait; None if it does not say.

        The header holds a number of seconds or a date: RFC 9110 (2022) section 10.2.3.
        """
        value = self.headers.get("Retry-After", "").strip()
        if _NUMBER.match(value):
            return float(value)
        try:
            moment = parsedate_to_datetime(value).timestamp()
        except (ValueError, OverflowError):
            return None
        return max(0.0, moment - (time.time() if now is None else now))


@dataclass(frozen=True, slots=True)
class Request:
    """A GET request and its bounds."""

    url: str  # normalized
    delay: float  # seconds for which the host is left in peace after the request
    timeout: float  # seconds for the whole answer, from connecting to the last byte
    max_bytes: int  # of the body, after decompression
    headers: Mapping[str, str] = field(default_factory=dict)  # beyond those of every request
    skip_body: Callable[[Response], str | None] | None = None  # by status and headers: why not to read the body


class Fetcher:
    """Makes requests in the name of one crawler. Threads share it; a host gets one request at a time.

    Args:
        user_agent: the whole header.
        private_addresses: also connect to addresses that are not public.
        resolver: where a host is found; the system's resolver by default.

    Example:
        >>> fetcher = Fetcher("textmill/0.1 (+me@example.org)")
        >>> fetcher.fetch(Request("https://example.org/", delay=1, timeout=60, max_bytes=10**7))  # doctest: +SKIP
    """

    def __init__(self, user_agent: str, *, private_addresses: bool = False, resolver: Resolver | None = None):
        self._headers = {
            "User-Agent": user_agent,
            "Accept": "text/html,application/xhtml+xml;q=0.9,*/*;q=0.1",
            "Accept-Encoding": "gzip, deflate",
        }
        self._connections = Connections(private_addresses=private_addresses, resolver=resolver)
        self._cookies = Cookies()
        self._stop = threading.Event()
        self._gates: dict[str, HostGate] = {}
        self._lock = threading.Lock()

    def fetch(self, request: Request) -> Response:
        """Make one request when its host's turn comes.

        Raises:
            TransientHostError: no connection, no answer, a broken one, or none in time.
            ForbiddenAddressError: the host's address may not be contacted.
            FetchError: a body that is over the limits or cannot be decompressed.
            Stopped: the crawl is being stopped.
        """
        host = host_of(request.url)
        with self.gate(host).turn(request.delay) as gate, self._connections.in_use(host):
            try:
                response = self._ask_first_that_answers(request)
            except FetchError:
                if self._stop.is_set():
                    raise Stopped from None
                raise
            if gate.shared:
                self._connections.hang_up(host)
            if response.status == 429 and (pause := response.retry_after()):  # it concerns the client, not the page
                gate.pause(pause)
            return response

    def gate(self, host: str) -> HostGate:
        """The gate of `host` (as `urls.host_of` gives it), or of an address."""
        with self._lock:
            if host not in self._gates:
                self._gates[host] = HostGate(host, self._stop)
            return self._gates[host]

    def count_cookies(self, host: str) -> int:
        """How many different cookies `host` has set so far; requests to it bring them back."""
        return self._cookies.count(host)

    def sleep(self, seconds: float) -> None:
        """Let time pass.

        Raises:
            Stopped: the crawl is being stopped.
        """
        if self._stop.wait(seconds):
            raise Stopped

    def leave(self, host: str) -> None:
        """Close the connection to `host`, unless another thread is using it."""
        with self.gate(host).hold_if_idle() as held:
            if held:
                self._connections.hang_up(host)

    def interrupt(self) -> None:
        """Stop the requests of all threads, those that wait and those under way: they raise `Stopped`."""
        self._stop.set()
        self._connections.interrupt()

    def close(self) -> None:
        """Close all connections; no request may be under way."""
        self._connections.close()

    def _ask_first_that_answers(self, request: Request) -> Response:
        """Ask at the host's addresses, each in its turn, until there is a connection."""
        addresses = self._connections.addresses(request.url)
        seconds = request.timeout
        for address in addresses:
            with self.gate(gate_of_address(*address)).turn(request.delay):
                started = time.monotonic()
                try:
                    return self._ask(request, address, started + seconds)
                except OriginUnreachable:
                    seconds -= time.monotonic() - started
                    if address == addresses[-1] or seconds <= 0:
                        raise
        raise AssertionError("there is an address")

    def _ask(self, request: Request, address: Address, deadline: float) -> Response:
        """Ask over the connection that is open, or over a new one."""
        host = host_of(request.url)
        kept = self._connections.kept(request.url)
        try:
            try:
                connection = kept or self._connections.connect(request.url, address, deadline)
                return self._exchange(connection, request, deadline)
            except _ClosedUnanswered:
                # The server closed a kept connection in the meantime (RFC 9112 section 9.3.1): one try over a new one.
                if not kept or self._stop.is_set() or time.monotonic() > deadline:
                    raise
            self._connections.hang_up(host)
            return self._exchange(self._connections.connect(request.url, address, deadline), request, deadline)
        except BaseException:
            self._connections.hang_up(host)
            raise

    def _exchange(self, connection: HTTPConnection, request: Request, deadline: float) -> Response:
        """Send the request and read its answer."""
        url, host = request.url, host_of(request.url)
        headers = {"Host": host, **self._headers, **request.headers}
        if cookie := self._cookies.header(host, url):
            headers["Cookie"] = cookie
        with self._connections.limit(connection, deadline - time.monotonic(), deadline):
            try:
                connection.response_class = _FinalResponse
                connection.request("GET", url[len(origin_of(url)) :], headers=headers, preload_content=False)
                _acknowledge_at_once(connection)
                answer = connection.getresponse()
            except ConnectionError as error:
                raise _ClosedUnanswered(describe(error, deadline)) from error
            except CONNECTION_ERRORS as error:
                raise TransientHostError(describe(error, deadline)) from error
            response = Response(url, answer.status, answer.headers, cookies=self._cookies.count(host))
            if set_cookie := answer.headers.getlist("Set-Cookie"):
                self._cookies.keep(host, url, set_cookie)
                response.brings_cookies = self._cookies.count(host) > response.cookies
            response.skip_reason = request.skip_body(response) if request.skip_body else None
            if not response.skip_reason:
                response.body = _read_body(answer, deadline, request.max_bytes)
            elif answer.status == 304 or (_declared_length(answer) or _CHUNK) < _CHUNK:
                answer.drain_conn()  # so that the connection can be used again
            else:
                self._connections.hang_up(host)  # the rest of a skipped body is not worth the traffic
            return response


class _ClosedUnanswered(TransientHostError):
    """The server closed the connection without an answer."""


class _FinalResponse(HTTPResponse):
    """The answer itself: the informational ones before it (1xx, as 103 Early Hints) are passed over, RFC 9110 15.2."""

    def begin(self) -> None:
        self._begin()
        while 100 <= self.status < 200 and self.status != 101:  # 101 ends HTTP on this connection
            self.headers = self.msg = None  # type: ignore[assignment]
            self._begin()

    def _begin(self) -> None:
        stream, head = self.fp, _Head(self.fp)
        self.fp = head  # type: ignore[assignment]
        try:
            super().begin()
        finally:
            if self.fp is head:  # type: ignore[comparison-overlap]
                self.fp = stream
        if not head.last:
            raise HTTPException("cut off in its headers")


class _Head:
    """The head of an answer, line by line. Lines that are no headers are passed over, as browsers do: Python would take
    all that follow such a line for the body, and lose what they say."""

    def __init__(self, stream: BufferedReader):
        self._stream = stream
        self.last = b""  # line; empty if the stream has ended

    def readline(self, limit: int = -1) -> bytes:
        line = self._stream.readline(limit)
        while self.last and line.endswith(b"\n") and not _HEAD_LINE.match(line):  # the first is the status
            if spaced := _SPACED_NAME.match(line):
                line = spaced[1] + line[spaced.end(1) :].lstrip()
            else:
                line = self._stream.readline(limit)
        self.last = line
        return line

    def close(self) -> None:
        self._stream.close()


def _acknowledge_at_once(connection: HTTPConnection) -> None:
    """Spare us 40 ms where a server sends head and body apart and waits for a delayed acknowledgement in between."""
    if hasattr(socket, "TCP_QUICKACK"):  # Linux; holds for a while only, so it is set for each request
        connection.sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_QUICKACK, 1)


def _declared_length(answer: BaseHTTPResponse) -> int | None:
    declared = answer.headers.get("Content-Length", "")
    return int(declared) if _NUMBER.match(declared) else None


def _read_body(answer: BaseHTTPResponse, deadline: float, max_bytes: int) -> bytes:
    names = [name.strip() for name in answer.headers.get("Content-Encoding", "").lower().split(",")]
    if not _NOT_READ.isdisjoint(names):
        raise FetchError(f"content encoding {', '.join(names)}")
    if (_declared_length(answer) or 0) > max_bytes:
        raise FetchError(f"larger than {max_bytes:,} bytes")
    chunks, size = [], 0
    try:
        while chunk := answer.read1(_CHUNK, decode_content=False):
            chunks.append(chunk)
            size += len(chunk)
            if size > max_bytes:
                raise FetchError(f"larger than {max_bytes:,} bytes")
            if time.monotonic() > deadline:
                raise TransientHostError("took too long")
    except CONNECTION_ERRORS as error:
        if time.monotonic() > deadline:
            raise TransientHostError("took too long") from error
        raise TransientHostError("answer broke off") from error
    if time.monotonic() > deadline:
        raise TransientHostError("took too long")  # the connection was cut at its deadline: it looks like a regular end
    body = b"".join(chunks)
    for name in reversed(names):  # they are in the order in which they were applied
        if name in COMPRESSED:
            body, problem = decompress(body, name, max_bytes)
            if problem:
                raise TransientHostError("answer broke off") if problem == CUT_OFF else FetchError(problem)
    return body
