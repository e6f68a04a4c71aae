"""One spelling per page: URL normalization by RFC 3986 (2005) section 6 and the WHATWG rules that browsers apply.

Two URLs that normalize alike are fetched once. Beyond the RFC, session identifiers and click-tracking parameters are
removed, because they multiply pages without changing them. The order of the query's parameters is kept, because a
server may care about it.

Host names are spelled in ASCII by UTS 46 (Unicode IDNA Compatibility Processing, non-transitional), which is what the
WHATWG URL standard asks for: `straße` keeps its ß, and names with symbols that IDNA 2008 left out still resolve.
"""

from __future__ import annotations

import ipaddress
import re
from functools import lru_cache
from urllib.parse import unquote, urljoin, urlsplit

import idna

__all__ = ["host_of", "normalize", "origin_of", "resolve"]

_AROUND = "".join(map(chr, range(0x21)))  # control characters and the space: browsers strip them from both ends
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
_PLAIN_PATH = re.compile(r"(?!//)[A-Za-z0-9\-._~/]+\Z")
_ABSOLUTE = re.compile(r"https?://[^/]", re.I)
_NOT_ASCII = re.compile(r"[^\x00-\x7f]+")
_LABEL = r"[a-z0-9_-]{1,63}"  # RFC 1035 2.3.4; longer ones make resolvers raise
_PLAIN_HOST = re.compile(rf"(?=.{{1,253}}\Z){_LABEL}(?:\.{_LABEL})*\Z")
_NUMBER = re.compile(r"(?:0x[0-9a-f]*|[0-9]+)\Z")
_JOINERS = "\u200c\u200d"
_DEFAULT_PORT = {"http": 80, "https": 443}


def normalize(url: str) -> str | None:
    """The one spelling of an absolute http(s) URL, without its fragment.

    Returns:
        the URL; None if `url` is not an absolute http(s) URL, or carries a user name or a password.

    Example:
        >>> normalize("HTTP://Example.org:80/a/../b?utm_source=x&y=%7e#top")
        'http://example.org/b?y=~'
    """
    try:
        parts = urlsplit(_slashes(_STRIPPED.sub("", url.strip(_AROUND))))
        port = parts.port
    except ValueError:
        return None
    scheme = parts.scheme.lower()
    if scheme not in _DEFAULT_PORT or "@" in parts.netloc:
        return None
    host = _host(parts.hostname or "")
    if host is None:
        return None
    authority = host if port in (None, _DEFAULT_PORT[scheme]) else f"{host}:{port}"
    path = _remove_dot_segments(_escape(_SESSION_PATH.sub("", parts.path))) or "/"
    kept = [p for p in _escape(parts.query).split("&") if p and not _DROPPED_PARAMETER.match(p)]
    return f"{scheme}://{authority}{path}" + ("?" + "&".join(kept) if kept else "")


def resolve(base: str, href: str, encoding: str = "utf-8") -> str | None:
    """The normalized target of the reference `href` on the page `base`; None if it does not lead to an http(s) URL.

    A reference to a place on the same page (`#top`) or an empty one leads nowhere, too.

    Args:
        base: normalized.
        href: as the page spells it.
        encoding: Python's name of the page's encoding, in which a browser spells the reference's query.

    Example:
        >>> resolve("http://a.org/", "/s?q=да", "cp1251")
        'http://a.org/s?q=%E4%E0'
    """
    href = href.partition("#")[0].strip(_AROUND)
    if not href:
        return None
    if not href.isascii() and not encoding.startswith("utf"):  # a page in UTF-16 has its queries in UTF-8
        href = _encode_query(href, encoding)
    if href[0] == "?":
        return normalize(base.partition("?")[0] + href)
    # A relative reference depends only on the folder of its base, so that the pages of a folder share cached results.
    return _join(base[: base.rindex("/", 0, base.find("?") if "?" in base else None) + 1], href)


def host_of(url: str) -> str:
    """`host` or `host:port` of a normalized URL or of an origin: the unit of robots.txt, scope and politeness."""
    return url.split("/", 3)[2]


def origin_of(url: str) -> str:
    """`scheme://host[:port]` of a normalized URL."""
    return url[: url.index("/", 8)]


@lru_cache(maxsize=1 << 16)
def _join(base: str, href: str) -> str | None:
    if _PLAIN_PATH.match(href):  # most links: there is nothing to spell otherwise
        origin = origin_of(base)
        return origin + _remove_dot_segments(href if href[0] == "/" else base[len(origin) :] + href)
    href = _slashes(_STRIPPED.sub("", href))
    if _ABSOLUTE.match(href):
        return normalize(href)
    if href.startswith("//"):
        href = "//" + href.lstrip("/")
    try:
        return normalize(urljoin(base, href))
    except ValueError:
        return None


# --- hosts ------------------------------------------------------------------------------------------------------------


def _host(name: str) -> str | None:
    """A host name or address in the one spelling that browsers give it; None if there cannot be such a host."""
    if ":" in name:
        return _ipv6(name)
    if "%" in name:
        name = unquote(name).lower()
    if not name.isascii():
        name = _ascii_name(name) or ""
    name = name.rstrip(".")
    if not _PLAIN_HOST.match(name):
        return None
    return _ipv4(name) if name[name.rfind(".") + 1].isdigit() else name


def _ascii_name(name: str) -> str | None:
    """A name by UTS 46 section 4 (2023), with the checks of the URL standard: joiners and direction, not hyphens."""
    try:
        labels = idna.uts46_remap(name, std3_rules=False, transitional=False).split(".")
        for label in labels:
            if not label.isascii():
                idna.check_initial_combiner(label)
                if not all(idna.valid_contextj(label, i) for i, letter in enumerate(label) if letter in _JOINERS):
                    return None
                idna.check_bidi(label)
    except (UnicodeError, ValueError):  # idna's errors are UnicodeErrors
        return None
    return ".".join(label if label.isascii() else "xn--" + label.encode("punycode").decode() for label in labels)


def _ipv4(name: str) -> str | None:
    """The dotted address of a name whose last label is a number: hexadecimal, octal and short forms are valid."""
    labels = name.split(".")
    if not _NUMBER.match(labels[-1]):
        return name  # it only begins with a digit
    if len(labels) > 4 or not all(map(_NUMBER.match, labels)):
        return None
    try:
        *first, last = [_number(label) for label in labels]
        packed = sum(part << 8 * (3 - place) for place, part in enumerate(first)) + last
    except ValueError:  # 09 is not octal
        return None
    is_valid = max(first, default=0) < 256 and last < 1 << 8 * (4 - len(first))
    return str(ipaddress.IPv4Address(packed)) if is_valid else None


def _number(label: str) -> int:
    if label.startswith("0x"):
        return int(label[2:] or "0", 16)
    return int(label, 8 if label.startswith("0") else 10)


def _ipv6(name: str) -> str | None:
    try:
        return f"[{ipaddress.IPv6Address(name)}]" if "%" not in name else None
    except ValueError:
        return None


# --- spelling ---------------------------------------------------------------------------------------------------------


def _slashes(url: str) -> str:
    """Backslashes are slashes in an http URL, but for its query."""
    if "\\" not in url:
        return url
    before, mark, query = url.partition("?")
    return before.replace("\\", "/") + mark + query


def _encode_query(href: str, encoding: str) -> str:
    """Percent-encode the query's letters beyond ASCII in `encoding`, as the URL standard does.

    What the encoding lacks becomes a character reference (`&#8364;`), percent-encoded.
    """
    before, mark, query = href.partition("?")

    def encoded(match: re.Match[str]) -> str:
        spelled = match[0].encode(encoding, "xmlcharrefreplace")
        return "".join(chr(byte) if chr(byte) in _UNRESERVED else f"%{byte:02X}" for byte in spelled)

    return before + mark + _NOT_ASCII.sub(encoded, query)


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
