"""One polite, bounded request: vetted address, one connection per host, limits on time and on bytes.

`Fetcher.get` makes exactly one request and follows nothing; whoever calls it decides about redirects. It works on
urllib3's connections rather than on a pool: each host has one, opened to an address that was looked at first.
"""

import ipaddress
import logging
import socket
import ssl
import threading
import time
from collections.abc import Callable, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from email.utils import parsedate_to_datetime
from http.client import HTTPException
from pathlib import Path
from urllib.parse import urlsplit

import certifi
from urllib3 import HTTPHeaderDict
from urllib3.connection import HTTPConnection, HTTPSConnection
from urllib3.exceptions import DecodeError, HTTPError

from scraping.politeness import HostGate, Stopped
from scraping.urls import host_of, origin_of

log = logging.getLogger(__name__)

_CHUNK = 1 << 16
_ENCODINGS = ("", "identity", "gzip", "x-gzip", "deflate")
_CONNECT_SECONDS = 15.0

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

    def retry_after(self, now: float | None = None) -> float | None:
        """Seconds that the server asks us to wait (RFC 9110 10.2.3: a number or a date); None if it does not say."""
        value = self.headers.get("Retry-After", "").strip()
        if value.isdigit():
            return float(value)
        try:
            moment = parsedate_to_datetime(value).timestamp()
        except ValueError:
            return None
        return max(0.0, moment - (time.time() if now is None else now))


class Fetcher:
    """Requests in the name of one crawler. Threads may share it; each host answers one request at a time.

    Args:
        user_agent: the whole header.
        private_addresses: also connect to addresses that are not globally reachable.
        resolver: where a host is found; the system's resolver by default.
        stop: ends waiting when set (`Stopped` is raised).
        gates: folder of the host gates, one for the user's whole machine by default.
    """

    def __init__(
        self,
        user_agent: str,
        *,
        private_addresses: bool = False,
        resolver: Resolver | None = None,
        stop: threading.Event | None = None,
        gates: Path | None = None,
    ):
        self._headers = {
            "User-Agent": user_agent,
            "Accept": "text/html,application/xhtml+xml;q=0.9,*/*;q=0.1",
            "Accept-Encoding": "gzip, deflate",
        }
        self._private_addresses = private_addresses
        self._resolver = resolver or system_resolver
        self._stop = stop or threading.Event()
        self._gates_folder = gates
        self._gates: dict[str, HostGate] = {}
        self._connections: dict[str, tuple[str, HTTPConnection]] = {}  # host -> origin, connection
        self._lock = threading.Lock()
        self._deadlines = _Deadlines()

    def __enter__(self):
        return self

    def __exit__(self, *_):
        self.close()

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
                self._gates[host] = HostGate(host, self._stop, self._gates_folder)
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
        connection, reused = self._connection(url)
        try:
            with self._deadlines.watch(connection, deadline):
                try:
                    return self._exchange(connection, url, headers, deadline, max_bytes, accept)
                except _NoAnswer:
                    # A kept connection may have been closed by the server in the meantime: one fresh try.
                    if not reused or time.monotonic() > deadline:
                        raise
            self.hang_up(host_of(url))
            connection, _ = self._connection(url)
            with self._deadlines.watch(connection, deadline):
                return self._exchange(connection, url, headers, deadline, max_bytes, accept)
        except BaseException:
            self.hang_up(host_of(url))
            raise

    def _exchange(self, connection, url, headers, deadline, max_bytes, accept) -> Response:
        try:
            connection.timeout = max(0.1, min(_CONNECT_SECONDS, deadline - time.monotonic()))
            if connection.sock is None:
                connection.connect()
            connection.timeout = max(0.1, deadline - time.monotonic())
            path = url[len(origin_of(url)) :]
            connection.request("GET", path, headers={"Host": host_of(url), **headers}, preload_content=False)
            # Servers that send head and body apart would wait 40 ms for a delayed acknowledgement between the two.
            connection.sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_QUICKACK, 1)
            answer = connection.getresponse()
        except (OSError, HTTPException, HTTPError) as error:
            raise _NoAnswer(_describe(error, late=time.monotonic() > deadline)) from error
        response = Response(url, answer.status, answer.headers)
        response.refused = accept(response) if accept else None
        if not response.refused:
            response.body = _read_body(answer, deadline, max_bytes)
        elif answer.status == 304 or int(_declared_length(answer) or _CHUNK) < _CHUNK:
            _read_body(answer, deadline, max_bytes)  # so that the connection can be used again
        else:
            self.hang_up(host_of(url))  # the rest of a refused body is not worth the traffic
        return response

    def _connection(self, url: str) -> tuple[HTTPConnection, bool]:
        """The connection to the URL's host, and whether it has been used before."""
        host, origin = host_of(url), origin_of(url)
        with self._lock:
            known = self._connections.get(host)
        if known and known[0] == origin and known[1].sock is not None and known[1].is_connected:
            return known[1], True
        if known:
            self.hang_up(host_of(url))
        connection = self._open(url)
        with self._lock:
            self._connections[host] = (origin, connection)
        return connection, False

    def _open(self, url: str) -> HTTPConnection:
        """A connection object for the first address of the host that may be contacted; connects on first use."""
        parts = urlsplit(url)
        port = parts.port or (443 if parts.scheme == "https" else 80)
        try:
            addresses = self._resolver(parts.hostname, port)
        except OSError as error:
            raise HostTrouble(f"cannot resolve {parts.hostname} ({error.strerror or error})") from error
        vetted = [a for a in addresses if self._private_addresses or is_global(a[0])]
        if not vetted:
            raise AddressRefused(
                f"{parts.hostname} has the private address {addresses[0][0]}; private_addresses: true allows it"
            )
        address, port = vetted[0]
        if parts.scheme == "http":
            return HTTPConnection(address, port)
        return HTTPSConnection(address, port, server_hostname=parts.hostname, ssl_context=_tls())

    def hang_up(self, host: str) -> None:
        """Close the connection to `host`, if there is one."""
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


def _declared_length(answer) -> str:
    declared = answer.headers.get("Content-Length", "")
    return declared if declared.isdigit() else ""


def _read_body(answer, deadline: float, max_bytes: int) -> bytes:
    encoding = answer.headers.get("Content-Encoding", "").strip().lower()
    if encoding not in _ENCODINGS:
        raise FetchError(f"content encoding {encoding}")
    if int(_declared_length(answer) or 0) > max_bytes:
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


def _describe(error: Exception, late: bool) -> str:
    if late:
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
