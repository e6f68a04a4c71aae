"""Which URLs belong to a source, and which look like crawler traps: decided from the URL alone, with a reason."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Sequence
from functools import lru_cache
from typing import NamedTuple

from scraping.crawling.urls import host_of

__all__ = ["FamilyLimits", "Scope", "UrlBounds"]

# Suffixes of what is never a page. Others (.js, .css, .json, .csv, .exe, .ai, …) end the names of pages, too: those are
# asked for, and their content type decides. So is a page about a file, as /wiki/File:Map.png.
_FILES = re.compile(
    r"/(?:(?!:|%3A)[^/])*\.(?:7z|aac|apk|avi|bmp|bz2|dmg|docx?|eot|epub|flv|gif|gz|ico|iso|jpe?g"
    r"|m4[av]|mid|mobi|mov|mp[34]|mpe?g|msi|odp|ods|odt|og[agv]|otf|pdf|png|pptx?|rar|rpm|svg|swf|tar|tgz|tiff?"
    r"|ttf|wav|web[mp]|wma|wmv|woff2?|xlsx?|xz|zip|zst)\Z",
    re.I,
)
_NUMBER = re.compile(r"[0-9a-f]{8,}|\d+")


class UrlBounds(NamedTuple):
    """Bounds of a URL; one beyond them is a trap rather than a page."""

    length: int  # characters
    segments: int  # of the path
    repeats: int  # occurrences of one segment of the path, or of one parameter with its value


class Scope:
    """Which URLs belong to a source.

    Args:
        hosts: as `urls.host_of` gives them, or `*.example.org` for all subdomains.
        allow: paths to fetch, in the patterns of robots.txt; all if empty.
        deny: paths not to fetch, likewise; they win over `allow`.
        bounds: of a URL.
    """

    def __init__(self, hosts: Sequence[str], allow: Sequence[str], deny: Sequence[str], bounds: UrlBounds):
        self._hosts = hosts
        self._allow = _pattern(allow) if allow else None
        self._deny = _pattern(deny) if deny else None
        self._bounds = bounds
        self.skip_reason = lru_cache(maxsize=1 << 16)(self._skip_reason)  # a site's pages repeat their links

    def has_host(self, host: str) -> bool:
        """Whether `host` (as `urls.host_of` gives it) is one of the source's."""
        return any(_matches(host, allowed) for allowed in self._hosts)

    def _skip_reason(self, url: str) -> str | None:
        """Why a (normalized) URL is not to be fetched; None if it is to be."""
        if not self.has_host(host_of(url)):
            return "other host"
        target = url[url.index("/", 8) :]
        if self._allow and not self._allow.match(target):
            return "outside the allowed paths"
        if self._deny and self._deny.match(target):
            return "denied path"
        path, _, query = target.partition("?")
        if _FILES.search(path):
            return "file type"
        if len(url) > self._bounds.length:
            return "URL too long"
        segments = [segment for segment in path.split("/") if segment]
        if len(segments) > self._bounds.segments:
            return "path too deep"
        if self._repeats(segments):
            return "repeating path"
        if self._repeats([parameter for parameter in query.split("&") if parameter]):
            return "repeating query"
        return None

    def _repeats(self, parts: list[str]) -> bool:
        """Whether a part occurs too often, as where relative links pile up. Numbers may: /2026/01/01/01 is a date and a
        place, and of URLs that differ in numbers only there are limits of their own."""
        allowed = self._bounds.repeats
        counts = Counter(part for part in parts if not part.isdigit())
        return len(parts) > allowed and max(counts.values(), default=0) > allowed


class FamilyLimits:
    """Limits on families of URLs, against calendars and endless query strings.

    Args:
        similar: how many URLs may differ only in their numbers.
        variants: how many query strings one path may have.
    """

    def __init__(self, *, similar: int, variants: int):
        self._similar, self._variants = similar, variants
        self._families: Counter[str] = Counter()

    def count(self, url: str) -> str | None:
        """Count a new URL; the reason to skip it if its family has as many as it may."""
        path, _, query = url.partition("?")
        if query and self._size(path + "?") > self._variants:
            return "too many query strings"
        family = _NUMBER.sub("0", path)
        if family != path and self._size(family) > self._similar:
            return "too many similar URLs"
        return None

    def _size(self, family: str) -> int:
        """Size of a family, with a new member."""
        self._families[family] += 1
        return self._families[family]


def _matches(host: str, allowed: str) -> bool:
    name = host.rpartition(":")[0] if ":" in host and ":" not in allowed else host
    return name == allowed or (allowed.startswith("*.") and name.endswith(allowed[1:]))


def _pattern(patterns: Sequence[str]) -> re.Pattern[str]:
    """One expression for patterns of robots.txt: a prefix in which `*` is any run and a final `$` the end."""
    alternatives = []
    for pattern in patterns:
        end = r"\Z" if pattern.endswith("$") else ""
        alternatives.append(".*".join(map(re.escape, pattern.removesuffix("$").split("*"))) + end)
    return re.compile("|".join(f"(?:{a})" for a in alternatives), re.S)
