"""Connections: one per host, so many at most, each to an address that was vetted first, each cut when its time is up.

They are urllib3's connections without its pool. A pool resolves a host's name by itself, so that a name could lead to a
public address when it is checked and to a private one when it is connected to (DNS rebinding). Here a name is resolved
once, its addresses are vetted, and a connection is opened to one of those; TLS still checks the certificate by name.
"""

from __future__ import annotations

import ipaddress
import socket
import ssl
import threading
import time
from collections import OrderedDict
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from http.client import HTTPException
from urllib.parse import urlsplit

import certifi
from urllib3.connection import HTTPConnection, HTTPSConnection
from urllib3.exceptions import HTTPError

from scraping.crawling.urls import host_of, origin_of

__all__ = [
    "CONNECTION_ERRORS", "Address", "Connections", "FetchError", "ForbiddenAddressError", "OriginUnreachable",
    "Resolver", "TransientHostError", "describe", "is_global", "system_resolver",
]  # fmt: skip

CONNECTION_ERRORS = (OSError, HTTPException, HTTPError)  # what the socket, http.client and urllib3 raise

_CONNECT_SECONDS = 15.0
_MIN_TIMEOUT = 0.1  # seconds; a socket takes 0 for "do not block"
_WATCH_SECONDS = 0.2  # between two looks at the deadlines
_MAX_KEPT = 64  # idle connections

Address = tuple[str, int]  # IP address and port
Resolver = Callable[[str, int], list[Address]]  # (host, port) -> where to connect to, the best first


class FetchError(Exception):
    """No usable answer, because of this page or this URL: asking again would not help."""


class ForbiddenAddressError(FetchError):
    """The host's address is not a public one, and the source does not allow others."""


class TransientHostError(FetchError):
    """The host did not answer, or answered that it cannot now: slow down and ask again later.

    Attributes:
        retry_after: seconds that it asks us to wait; None if it does not say.
    """

    def __init__(self, reason: str, retry_after: float | None = None):
        super().__init__(reason)
        self.retry_after = retry_after


class HostBusy(TransientHostError):
    """It answered 429 (Too Many Requests): what it asks for concerns all of the host."""


class OriginUnreachable(TransientHostError):
    """There is no connection to be had, so no page of this scheme, host and port."""


class Connections:
    """The connections of one crawler, at most one per host. Threads share it; a host is one thread's at a time.

    At most `_MAX_KEPT` are kept open beyond those in use: the ones used last.

    Args:
        private_addresses: also connect to addresses that are not public.
        resolver: where a host is found; the system's resolver by default.
    """

    def __init__(self, *, private_addresses: bool = False, resolver: Resolver | None = None):
        self._private_addresses = private_addresses
        self._resolver = resolver or system_resolver
        self._open: OrderedDict[str, tuple[str, HTTPConnection]] = OrderedDict()  # host -> origin, connection
        self._in_use: set[str] = set()  # hosts
        self._lock = threading.Lock()
        self._deadlines = _Deadlines()

    def kept(self, url: str) -> HTTPConnection | None:
        """The connection left open by the last request, if it is still good and leads to the origin of `url`."""
        with self._lock:
            origin, connection = self._open.get(host_of(url), ("", None))
        if connection and origin == origin_of(url) and connection.sock is not None and connection.is_connected:
            return connection
        self.hang_up(host_of(url))
        return None

    def addresses(self, url: str) -> list[Address]:
        """Where a request may go: the address of the connection that is open, or the host's addresses that may be
        contacted, to be tried in turn.

        Raises:
            ForbiddenAddressError: the host has only addresses that may not be contacted.
            OriginUnreachable: the name cannot be resolved.
        """
        kept = self.kept(url)
        return [(kept.host, kept.port)] if kept else self._vetted_addresses(url)

    def connect(self, url: str, address: Address, deadline: float) -> HTTPConnection:
        """A new connection for `url`, which is normalized.

        Args:
            url: what is to be asked for over it.
            address: one of `addresses`.
            deadline: by `time.monotonic()`.

        Raises:
            OriginUnreachable: the address does not answer.
        """
        connection: HTTPConnection
        if url.startswith("https"):
            name = urlsplit(url).hostname
            connection = HTTPSConnection(*address, server_hostname=name, ssl_context=_tls())
        else:
            connection = HTTPConnection(*address)
        with self._lock:
            self._open[host_of(url)] = (origin_of(url), connection)
        try:
            with self.limit(connection, min(_CONNECT_SECONDS, deadline - time.monotonic()), deadline):
                connection.connect()
        except CONNECTION_ERRORS as error:
            self.hang_up(host_of(url))
            raise OriginUnreachable(describe(error, deadline)) from error
        return connection

    @contextmanager
    def in_use(self, host: str) -> Iterator[None]:
        """Within the block, the connection to `host` is not closed to make room for others; its end makes it."""
        with self._lock:
            self._in_use.add(host)
        try:
            yield
        finally:
            with self._lock:
                self._in_use.discard(host)
                if host in self._open:
                    self._open.move_to_end(host)
                idle = [host for host in self._open if host not in self._in_use]
                surplus = [self._open.pop(host)[1] for host in idle[:-_MAX_KEPT]]
            for connection in surplus:
                connection.close()

    @contextmanager
    def limit(self, connection: HTTPConnection, timeout: float, deadline: float) -> Iterator[None]:
        """Within the block, let the connection wait `timeout` seconds for a single read, and cut it at `deadline`."""
        connection.timeout = max(_MIN_TIMEOUT, timeout)
        with self._deadlines.watch(connection, deadline):
            yield

    def hang_up(self, host: str) -> None:
        """Close the connection to `host`, if there is one. For the thread that has the host's turn."""
        with self._lock:
            _, connection = self._open.pop(host, ("", None))
        if connection:
            connection.close()

    def interrupt(self) -> None:
        """Wake the threads that wait for an answer: their connections are cut."""
        with self._lock:
            for _, connection in self._open.values():
                _shut_down(connection)

    def close(self) -> None:
        """Close all connections; no request may be under way."""
        self._deadlines.close()
        for _, connection in self._open.values():
            connection.close()

    def _vetted_addresses(self, url: str) -> list[Address]:
        parts = urlsplit(url)
        host = parts.hostname or ""
        try:
            found = self._resolver(host, parts.port or (443 if parts.scheme == "https" else 80))
        except OSError as error:
            raise OriginUnreachable(f"cannot resolve {host} ({error.strerror or error})") from error
        vetted = [address for address in found if self._private_addresses or is_global(address[0])]
        if not found:
            raise OriginUnreachable("no address")
        if not vetted:
            raise ForbiddenAddressError(
                f"{host} has the private address {found[0][0]}; private_addresses: true allows it"
            )
        return vetted


class _Deadlines:
    """Cuts connections whose time is up. Socket timeouts alone do not bound a server that sends a byte now and then."""

    def __init__(self) -> None:
        self._watched: dict[HTTPConnection, float] = {}
        self._closed = threading.Event()
        self._thread: threading.Thread | None = None
        self._lock = threading.Lock()

    @contextmanager
    def watch(self, connection: HTTPConnection, deadline: float) -> Iterator[None]:
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
        while not self._closed.wait(_WATCH_SECONDS):
            now = time.monotonic()
            with self._lock:
                for connection, deadline in self._watched.items():
                    if now > deadline:
                        _shut_down(connection)

    def close(self) -> None:
        self._closed.set()


def _shut_down(connection: HTTPConnection) -> None:
    """End what the connection's thread is waiting for; closing the socket would leave it waiting."""
    if connection.sock is not None:
        with suppress(OSError):  # it was closed already
            connection.sock.shutdown(socket.SHUT_RDWR)


# --- addresses --------------------------------------------------------------------------------------------------------

_NAT64 = ipaddress.IPv6Network("64:ff9b::/96")  # RFC 6052 (2010): the last 32 bits are an IPv4 address


def system_resolver(host: str, port: int) -> list[Address]:
    """Addresses of `host`, in the system's order of preference.

    Raises:
        OSError: the name cannot be resolved.
    """
    found = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)
    return [(str(address[0]), port) for *_, address in found]


def is_global(address: str) -> bool:
    """Whether an address belongs to the public Internet.

    An IPv6 transition address (mapped, 6to4, Teredo, NAT64) is judged by the IPv4 address inside it.
    """
    ip = ipaddress.ip_address(address.partition("%")[0])
    if isinstance(ip, ipaddress.IPv6Address):
        if ip in _NAT64:
            ip = ipaddress.IPv4Address(int(ip) & 0xFFFFFFFF)
        else:
            ip = ip.ipv4_mapped or ip.sixtofour or (ip.teredo and ip.teredo[1]) or ip
    return ip.is_global and not ip.is_multicast


# --- TLS and its mistakes ---------------------------------------------------------------------------------------------

_tls_context: ssl.SSLContext | None = None


def _tls() -> ssl.SSLContext:
    """The authorities that the system trusts and certifi's, loaded once."""
    global _tls_context
    if _tls_context is None:
        _tls_context = ssl.create_default_context(cafile=None)
        _tls_context.load_verify_locations(certifi.where())
    return _tls_context


def describe(error: BaseException, deadline: float) -> str:
    """What went wrong with a connection, in a few words. urllib3 wraps the cause, so the chain is followed to it."""
    if time.monotonic() > deadline:
        return "no answer in time"
    cause = error
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
