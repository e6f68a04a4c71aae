"""One polite, bounded request: vetted address, one connection per host, limits on time and on bytes.

`Fetcher.get` makes exactly one request and follows nothing; whoever calls it decides about redirects. It works on
urllib3's connections rather than on a pool: each host has one, opened to an address that was looked at first.
"""

import ipaddress
import logging
import re
import socket
import ssl
import threading
import time
from collections.abc import Callable, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from email.utils import parsedate_to_datetime
from http.client import HTTPException
from urllib.parse import urlsplit

import certifi
from urllib3 import HTTPHeaderDict
from urllib3.connection import HTTPConnection, HTTPSConnection
from urllib3.exceptions import DecodeError, HTTPError

from scraping.crawling.politeness import HostGate, Stopped
from scraping.crawling.urls import host_of, origin_of

log = logging.getLogger(__name__)

_CHUNK = 1 << 16
_ENCODINGS = ("", "identity", "gzip", "x-gzip", "deflate")
_CONNECT_SECONDS = 15.0
_NUMBER = re.compile(r"[0-9]{1,18}\Z")
_NOT_ASCII = re.compile(r"[\x80-\xff]")

# (host, port) -> addresses to try, each with the port to connect to
Resolver = Callable[[str, int], list[tuple[str, int]]]


class FetchError(Exception):
    """No usable answer: what is wrong with this page or this URL. Asking again would not help."""


class AddressRefused(FetchError):
    """The host's address is not a public one."""


class HostTrouble(FetchError):
    """The host did not answer, or answered that it cannot now: slow down and ask again later."""


@dataclass(slots=True)
class Response:
    """A whole answer. `body` is without content encoding, and empty where `accept` refused it or the status is 304."""

    url: str
    status: int
    headers: HTTPHeaderDict
    body: bytes = b""
    refused: str | None = None

    @property
    def content_type(self) -> str:
        return self.headers.get("Content-Type", "")

    @property
    def location(self) -> str | None:
        """Where a redirect leads, as the server spells it; None if this is no redirect.

        Bytes beyond ASCII are percent-encoded as they came, which is what browsers do.
        """
        if not 300 <= self.status < 400 or "Location" not in self.headers:
            return None
        return _NOT_ASCII.sub(lambda byte: f"%{ord(byte[0]):02X}", self.headers["Location"])

    def retry_after(self, now: float | None = None) -> float | None:
        """Seconds that the server asks us to wait (RFC 9110 10.2.3: a number or a date); None if it does not say."""
        value = self.headers.get("Retry-After", "").strip()
        if _NUMBER.match(value):
            return float(value)
        try:
            moment = parsedate_to_datetime(value).timestamp()
        except (ValueError, OverflowError):
            return None
        return max(0.0, moment - (time.time() if now is None else now))


class Fetcher:
    """Requests in the name of one crawler. Threads may share it; each host answers one request at a time.

    Args:
        user_agent: the whole header.
        private_addresses: also connect to addresses that are not globally reachable.
        resolver: where a host is found; the system's resolver by default.
    """

    def __init__(self, user_agent: str, *, private_addresses: bool = False, resolver: Resolver | None = None):
        self._headers = {
            "User-Agent": user_agent,
            "Accept": "text/html,application/xhtml+xml;q=0.9,*/*;q=0.1",
            "Accept-Encoding": "gzip, deflate",
        }
        self._private_addresses = private_addresses
        self._resolver = resolver or system_resolver
        self._stop = threading.Event()
        self._gates: dict[str, HostGate] = {}
        self._connections: dict[str, tuple[str, HTTPConnection]] = {}  # host -> origin, connection
        self._lock = threading.Lock()
        self._deadlines = _Deadlines()

    def interrupt(self) -> None:
        """End all waiting and reading in other threads: their `get` raises `Stopped`."""
        self._stop.set()
        with self._lock:
            for _, connection in self._connections.values():
                _shut(connection)

    def close(self) -> None:
        """Close all connections; no request may be under way."""
        self._deadlines.close()
        for _, connection in self._connections.values():
            connection.close()
        for gate in self._gates.values():
            gate.close()

    def gate(self, host: str) -> HostGate:
        """The gate of `host` (as `urls.host_of` gives it)."""
        with self._lock:
            if host not in self._gates:
                self._gates[host] = HostGate(host, self._stop)
            return self._gates[host]

    def get(
        self,
        url: str,
        *,
        delay: float,
        seconds: float,
        max_bytes: int,
        headers: Mapping[str, str] | None = None,
        accept: Callable[[Response], str | None] | None = None,
    ) -> Response:
        """Ask once for `url` (normalised) when its host's turn comes.

        Args:
            delay: seconds of quiet after this request, on this host.
            seconds: limit for the whole answer, from connecting to the last byte.
            max_bytes: limit for the body after decompression.
            accept: looks at status and headers before the body is read; a reason refuses the body.

        Raises:
            HostTrouble: no connection, no or a broken answer, or none in time.
            AddressRefused: the host's address may not be contacted.
            FetchError: a body over the limits or one that cannot be decompressed.
            Stopped: the crawl is ending.
        """
        with self.gate(host_of(url)).turn(delay) as gate:
            deadline = time.monotonic() + seconds
            try:
                response = self._ask(url, {**self._headers, **(headers or {})}, deadline, max_bytes, accept)
            except FetchError:
                if self._stop.is_set():
                    raise Stopped from None
                raise
            if gate.shared:
                self.hang_up(gate.host)  # one connection per host, whoever asks: the others will open theirs
            if response.status in (429, 503) and (pause := response.retry_after()):
                gate.pause(pause)
            return response

    def _ask(self, url, headers, deadline, max_bytes, accept) -> Response:
        kept = self._kept_connection(url)
        try:
            try:
                return self._exchange(kept or self._dial(url, deadline), url, headers, deadline, max_bytes, accept)
            except _NoAnswer:
                # The server may have closed a kept connection in the meantime: one fresh try.
                if not kept or time.monotonic() > deadline:
                    raise
            self.hang_up(host_of(url))
            return self._exchange(self._dial(url, deadline), url, headers, deadline, max_bytes, accept)
        except BaseException:
            self.hang_up(host_of(url))
            raise

    def _exchange(self, connection, url, headers, deadline, max_bytes, accept) -> Response:
        with self._deadlines.watch(connection, deadline):
            try:
                connection.timeout = max(0.1, deadline - time.monotonic())
                path = url[len(origin_of(url)) :]
                connection.request("GET", path, headers={"Host": host_of(url), **headers}, preload_content=False)
                _acknowledge_at_once(connection)
                answer = connection.getresponse()
            except (OSError, HTTPException, HTTPError) as error:
                raise _NoAnswer(_describe(error, deadline)) from error
            response = Response(url, answer.status, answer.headers)
            response.refused = accept(response) if accept else None
            if not response.refused:
                response.body = _read_body(answer, deadline, max_bytes)
            elif answer.status == 304 or (_declared_length(answer) or _CHUNK) < _CHUNK:
                answer.drain_conn()  # so that the connection can be used again
            else:
                self.hang_up(host_of(url))  # the rest of a refused body is not worth the traffic
            return response

    def _kept_connection(self, url: str) -> HTTPConnection | None:
        """The connection left open by the last request, if it is still good and leads to the same origin."""
        with self._lock:
            origin, connection = self._connections.get(host_of(url), (None, None))
        if origin == origin_of(url) and connection.sock is not None and connection.is_connected:
            return connection
        self.hang_up(host_of(url))
        return None

    def _dial(self, url: str, deadline: float) -> HTTPConnection:
        """A connection to the first of the host's addresses that may be contacted and answers."""
        failure = HostTrouble("no address")
        for address, port in self._vetted_addresses(url):
            if url.startswith("https"):
                name = urlsplit(url).hostname
                connection = HTTPSConnection(address, port, server_hostname=name, ssl_context=_tls())
            else:
                connection = HTTPConnection(address, port)
            with self._lock:
                self._connections[host_of(url)] = (origin_of(url), connection)
            connection.timeout = max(0.1, min(_CONNECT_SECONDS, deadline - time.monotonic()))
            try:
                with self._deadlines.watch(connection, deadline):
                    connection.connect()
                return connection
            except (OSError, HTTPException, HTTPError) as error:
                self.hang_up(host_of(url))
                failure = HostTrouble(_describe(error, deadline))
                failure.__cause__ = error
        raise failure

    def _vetted_addresses(self, url: str) -> list[tuple[str, int]]:
        parts = urlsplit(url)
        try:
            found = self._resolver(parts.hostname, parts.port or (443 if parts.scheme == "https" else 80))
        except OSError as error:
            raise HostTrouble(f"cannot resolve {parts.hostname} ({error.strerror or error})") from error
        vetted = [address for address in found if self._private_addresses or is_global(address[0])]
        if found and not vetted:
            raise AddressRefused(
                f"{parts.hostname} has the private address {found[0][0]}; private_addresses: true allows it"
            )
        return vetted

    def leave(self, host: str) -> None:
        """Close the connection to `host`, unless another thread is using it."""
        with self.gate(host).rest() as idle:
            if idle:
                self.hang_up(host)

    def hang_up(self, host: str) -> None:
        """Close the connection to `host`, if there is one; for whoever has the turn."""
        with self._lock:
            known = self._connections.pop(host, None)
        if known:
            known[1].close()


class _NoAnswer(HostTrouble):
    """The exchange broke before a status line came."""


class _Deadlines:
    """Cuts connections whose time is up. Socket timeouts alone do not bound a server that sends a byte now and then."""

    def __init__(self):
        self._watched: dict[HTTPConnection, float] = {}
        self._closed = threading.Event()
        self._thread: threading.Thread | None = None
        self._lock = threading.Lock()

    @contextmanager
    def watch(self, connection: HTTPConnection, deadline: float):
        with self._lock:
            if self._thread is None:
                self._thread = threading.Thread(target=self._run, name="deadlines", daemon=True)
                self._thread.start()
            self._watched[connection] = deadline
        try:
            yield
        finally:
            with self._lock:
                self._watched.pop(connection, None)

    def _run(self) -> None:
        while not self._closed.wait(0.2):
            now = time.monotonic()
            with self._lock:
                for connection, deadline in self._watched.items():
                    if now > deadline:
                        _shut(connection)

    def close(self) -> None:
        self._closed.set()


def system_resolver(host: str, port: int) -> list[tuple[str, int]]:
    """Addresses of `host`, in the system's order of preference. Raises `OSError`."""
    found = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)
    return [(address[0], port) for *_, address in found]


def is_global(address: str) -> bool:
    """Whether an address belongs to the public Internet, also when it hides inside an IPv6 transition address."""
    ip = ipaddress.ip_address(address.partition("%")[0])
    if ip.version == 6:
        if ip in _NAT64:
            ip = ipaddress.IPv4Address(int(ip) & 0xFFFFFFFF)
        else:
            ip = ip.ipv4_mapped or ip.sixtofour or (ip.teredo and ip.teredo[1]) or ip
    return ip.is_global and not ip.is_multicast


_NAT64 = ipaddress.IPv6Network("64:ff9b::/96")


def _declared_length(answer) -> int | None:
    declared = answer.headers.get("Content-Length", "")
    return int(declared) if _NUMBER.match(declared) else None


def _acknowledge_at_once(connection: HTTPConnection) -> None:
    """Spare us 40 ms where a server sends head and body apart and waits for a delayed acknowledgement in between."""
    if hasattr(socket, "TCP_QUICKACK"):  # Linux; holds for a while only, so it is set for each request
        connection.sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_QUICKACK, 1)


def _read_body(answer, deadline: float, max_bytes: int) -> bytes:
    encoding = answer.headers.get("Content-Encoding", "").strip().lower()
    if encoding not in _ENCODINGS:
        raise FetchError(f"content encoding {encoding}")
    if (_declared_length(answer) or 0) > max_bytes:
        raise FetchError(f"larger than {max_bytes:,} bytes")
    chunks, size = [], 0
    try:
        while chunk := answer.read1(_CHUNK):
            chunks.append(chunk)
            size += len(chunk)
            if size > max_bytes:
                raise FetchError(f"larger than {max_bytes:,} bytes")
            if time.monotonic() > deadline:
                raise FetchError("took too long")
    except DecodeError as error:
        raise FetchError("cannot be decompressed") from error
    except (OSError, HTTPException, HTTPError) as error:
        if time.monotonic() > deadline:
            raise FetchError("took too long") from error
        raise HostTrouble("answer broke off") from error
    if time.monotonic() > deadline:
        raise FetchError("took too long")  # cut by the watchdog, which looks like a regular end
    return b"".join(chunks)


def _describe(error: Exception, deadline: float) -> str:
    if time.monotonic() > deadline:
        return "no answer in time"
    cause: BaseException = error
    while cause.__context__ is not None and not isinstance(cause, ssl.SSLError | ConnectionError | TimeoutError):
        cause = cause.__context__
    match cause:
        case ssl.SSLCertVerificationError():
            return f"certificate refused ({cause.verify_message})"
        case ssl.SSLError():
            return f"TLS failed ({cause.reason})"
        case TimeoutError():
            return "no answer in time"
        case ConnectionRefusedError():
            return "connection refused"
        case ConnectionError():
            return "connection lost"
    return f"no answer ({str(error) or type(error).__name__})"


def _shut(connection: HTTPConnection) -> None:
    """Wake whoever reads from the connection."""
    sock = connection.sock
    if sock is not None:
        try:
            sock.shutdown(socket.SHUT_RDWR)
        except OSError:
            log.debug("the connection to %s was closed already", connection.host)


_tls_context: ssl.SSLContext | None = None


def _tls() -> ssl.SSLContext:
    """The system's trusted authorities and certifi's, loaded once."""
    global _tls_context
    if _tls_context is None:
        _tls_context = ssl.create_default_context(cafile=None)
        _tls_context.load_verify_locations(certifi.where())
    return _tls_context
