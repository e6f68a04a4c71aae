"""One spelling per page: URL normalization by RFC 3986 (2005) section 6 and the WHATWG rules that browsers apply.

Two URLs that normalize alike are fetched once. Beyond the RFC, session identifiers and click-tracking parameters are
removed, because they multiply pages without changing them. The order of the query's parameters is kept, because a
server may care about it.
"""

from __future__ import annotations

import re
from functools import lru_cache
from urllib.parse import urljoin, urlsplit

__all__ = ["host_of", "normalize", "origin_of", "resolve"]

_STRIPPED = re.compile(r"[\t\n\r]")  # browsers ignore these anywhere in a URL
_SESSION_PATH = re.compile(r";(?:jsessionid|phpsessid|sid)=[^/;?]*", re.I)
_DROPPED_PARAMETER = re.compile(
    r"(?:jsessionid|phpsessid|sessionid|session_id|cfid|cftoken|zenid|oscsid|aspsessionid\w*"  # sessions
    r"|utm_\w+|gclid|dclid|fbclid|msclkid|mc_cid|mc_eid|yclid|_ga|_gl|_hsenc|_hsmi)"  # click tracking
    r"(?:=.*)?\Z|(?:sid|session|s_id)=[0-9a-zA-Z]{16,}\Z",  # ambiguous names: only where the value is a token
    re.I,
)
_ESCAPE = re.compile(r"%([0-9a-fA-F]{2})")
_UNRESERVED = frozenset("ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789-._~")
_UNSAFE = re.compile(r"[^A-Za-z0-9\-._~:/?@!$&'()*+,;=%\[\]]|%(?![0-9A-Fa-f]{2})")
_LABEL = r"[a-z0-9_-]{1,63}"  # RFC 1035 2.3.4; longer ones make resolvers raise
_PLAIN_HOST = re.compile(rf"(?=[a-z0-9].{{0,252}}\Z){_LABEL}(?:\.{_LABEL})*(?<=[a-z0-9])\Z|\[[0-9a-f:.]+\]\Z")
_DEFAULT_PORT = {"http": 80, "https": 443}


def normalize(url: str) -> str | None:
    """The one spelling of an absolute http(s) URL, without its fragment.

    Returns:
        the URL; None if `url` is not an absolute http(s) URL, or carries a user name or a password.

    Example:
        >>> normalize("HTTP://Example.org:80/a/../b?utm_source=x&y=%7e#top")
        'http://example.org/b?y=~'
    """
    url = _STRIPPED.sub("", url.strip()).replace("\\", "/")
    try:
        parts = urlsplit(url)
        port = parts.port
    except ValueError:
        return None
    scheme, host = parts.scheme.lower(), (parts.hostname or "").rstrip(".")
    if scheme not in _DEFAULT_PORT or not host or "@" in parts.netloc:
        return None
    if ":" in host:
        host = f"[{host}]"
    elif not host.isascii():
        try:
            host = host.encode("idna").decode("ascii")
        except UnicodeError:
            return None
    if not _PLAIN_HOST.match(host):
        return None
    authority = host if port in (None, _DEFAULT_PORT[scheme]) else f"{host}:{port}"
    path = _remove_dot_segments(_escape(_SESSION_PATH.sub("", parts.path))) or "/"
    kept = [p for p in _escape(parts.query).split("&") if p and not _DROPPED_PARAMETER.match(p)]
    return f"{scheme}://{authority}{path}" + ("?" + "&".join(kept) if kept else "")


def resolve(base: str, href: str) -> str | None:
    """The normalized target of the reference `href` on the page `base`; None if it does not lead to an http(s) URL.

    A reference to a place on the same page (`#top`) or an empty one leads nowhere, too.
    """
    href = href.partition("#")[0].strip()
    if not href:
        return None
    if href[0] == "?":
        return _join(base, href)
    # A relative reference depends only on the folder of its base, so that the pages of a folder share cached results.
    return _join(base[: base.rindex("/", 0, base.find("?") if "?" in base else None) + 1], href)


def host_of(url: str) -> str:
    """`host` or `host:port` of a normalized URL: the unit of robots.txt, scope and politeness."""
    return url.split("/", 3)[2]


def origin_of(url: str) -> str:
    """`scheme://host[:port]` of a normalized URL."""
    return url[: url.index("/", 8)]


@lru_cache(maxsize=1 << 16)
def _join(base: str, href: str) -> str | None:
    try:
        return normalize(urljoin(base, _STRIPPED.sub("", href).replace("\\", "/")))
    except ValueError:
        return None


def _escape(text: str) -> str:
    """Percent-encode the characters that need it, decode those that do not, and capitalize the remaining escapes."""
    if "%" in text:
        text = _ESCAPE.sub(_canonical_escape, text)
    return _UNSAFE.sub(lambda match: "".join(f"%{byte:02X}" for byte in match[0].encode("utf-8", "replace")), text)


def _canonical_escape(match: re.Match[str]) -> str:
    character = chr(int(match[1], 16))
    return character if character in _UNRESERVED else match[0].upper()


def _remove_dot_segments(path: str) -> str:
    """RFC 3986 section 5.2.4; a path that climbs above the root stays at the root."""
    if "/." not in path:
        return path if path.startswith("/") or not path else "/" + path
    kept: list[str] = []
    segments = path.split("/")[1:]
    for segment in segments:
        if segment == "..":
            del kept[-1:]
        elif segment != ".":
            kept.append(segment)
    folder = segments[-1] in (".", "..")
    return "/" + "/".join(kept) + ("/" if folder and kept else "")
