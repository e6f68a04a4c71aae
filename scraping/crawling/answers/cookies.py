"""Cookies within one crawl: RFC 6265 (2011), one jar a host, in memory, with bounds.

Some sites answer a first request with a cookie and a redirect to the same page, and serve the page only to clients that
bring the cookie back. A jar holds what its host set and is told to that host alone; it ends with the crawl, so no later
crawl is recognized by it.
"""

from __future__ import annotations

import re
import urllib.request
from collections import OrderedDict
from collections.abc import Sequence
from email.message import Message
from http.cookiejar import Cookie, CookieJar

__all__ = ["Cookies"]

_MAX_HOSTS = 1_000
_MAX_COOKIES = 50  # of a host, as RFC 6265 section 6.1 asks for at least
_MAX_COOKIE = 4_096  # characters, likewise
_MAX_HEADER = 8_192  # characters of a host's cookies together: what servers take of a header
_MAX_COUNTED = 10_000  # cookies of a host

_CONTROL = re.compile(r"[\x00-\x08\x0a-\x1f\x7f]")


class _Jar(CookieJar):
    """One host's cookies."""

    def __init__(self) -> None:
        super().__init__()
        self.ever: set[int] = set()  # hashes of all cookies that the host ever set, with their values

    def set_cookie(self, cookie: Cookie) -> None:
        super().set_cookie(cookie)
        if len(self.ever) < _MAX_COUNTED:
            self.ever.add(hash((cookie.domain, cookie.path, cookie.name, cookie.value)))
        held = list(self)
        size = sum(map(_length, held))
        for oldest in held[:-1]:
            if len(self) <= _MAX_COOKIES and size <= _MAX_HEADER:
                break
            self.clear(oldest.domain, oldest.path, oldest.name)
            size -= _length(oldest)


class Cookies:
    """The cookies of one crawl. Threads share it; a host is one thread's at a time."""

    def __init__(self) -> None:
        self._jars: OrderedDict[str, _Jar] = OrderedDict()  # by host

    def header(self, host: str, url: str) -> str | None:
        """What to send as `Cookie` with a request for `url` on `host`; None if there is nothing to send."""
        jar = self._jars.get(host)
        if jar is None:
            return None
        request = urllib.request.Request(url)
        jar.add_cookie_header(request)
        return request.get_header("Cookie")

    def keep(self, host: str, url: str, set_cookie: Sequence[str]) -> None:
        """Remember what the answer for `url` sets, given the values of its `Set-Cookie` headers."""
        answer = _Headers()
        for value in set_cookie:
            if len(value) <= _MAX_COOKIE and not _CONTROL.search(value):
                answer.message["Set-Cookie"] = value
        jar = self._jars.setdefault(host, _Jar())
        jar.extract_cookies(answer, urllib.request.Request(url))  # type: ignore[arg-type]
        while len(self._jars) > _MAX_HOSTS:
            self._jars.popitem(last=False)

    def count(self, host: str) -> int:
        """How many different cookies, by name or value, `host` has set so far."""
        jar = self._jars.get(host)
        return len(jar.ever) if jar else 0


class _Headers:
    """The part of an answer that `CookieJar` asks for."""

    def __init__(self) -> None:
        self.message = Message()

    def info(self) -> Message:
        return self.message


def _length(cookie: Cookie) -> int:
    return len(cookie.name) + len(cookie.value or "") + 3
