"""Which URLs belong to a source, and which look like traps: decided from the URL alone, with a reason."""

from __future__ import annotations

import re
from collections import Counter
from functools import lru_cache
from typing import TYPE_CHECKING

from scraping.crawling.urls import host_of

if TYPE_CHECKING:
    from scraping.crawling.source import Source

_FILES = re.compile(
    r"\.(?:7z|aac|ai|apk|avi|bin|bmp|bz2|css|csv|dmg|docx?|dtd|eot|epub|exe|flv|gif|gz|ico|ics|iso|jar|jpe?g|js|json|m4[av]|mid"
    r"|mobi|mov|mp[34]|mpe?g|msi|odp|ods|odt|og[agv]|otf|pdf|png|pptx?|ps|rar|rpm|rss|svg|swf|tar|tgz|tiff?|ttf|wav|web[mp]|wma|wmv"
    r"|woff2?|xlsx?|xz|zip|zst)\Z",
    re.I,
)
_NUMBER = re.compile(r"[0-9a-f]{8,}|\d+")


class Scope:
    """The borders of a source."""

    def __init__(self, source: Source):
        self._hosts = source.hosts
        self._allow = _pattern(source.allow) if source.allow else None
        self._deny = _pattern(source.deny) if source.deny else None
        self._limits = source.limits
        self.refuses = lru_cache(maxsize=1 << 16)(self._refuses)

    def has_host(self, host: str) -> bool:
        """Whether `host` (as `urls.host_of` gives it) is one of the source's."""
        return any(_matches(host, allowed) for allowed in self._hosts)

    def _refuses(self, url: str) -> str | None:
        """Why a (normalised) URL is not to be fetched; None if it is. Cached, for a site's links repeat."""
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
        if len(url) > self._limits.url_length:
            return "URL too long"
        segments = [s for s in path.split("/") if s]
        if len(segments) > self._limits.path_segments:
            return "path too deep"
        if _repeats(segments):
            return "repeating path"
        if _repeats([p for p in query.split("&") if p]):
            return "repeating query"
        return None


class Budgets:
    """Bounds on families of URLs, against calendars and endless query strings.

    A family is all URLs that differ only in their numbers, or all query strings of one path.
    """

    def __init__(self, source: Source):
        self._similar, self._variants = source.limits.similar, source.limits.variants
        self._families: Counter[str] = Counter()

    def spend(self, url: str) -> str | None:
        """Count a new URL; the reason if its family has had its share."""
        path, _, query = url.partition("?")
        if query and self._count(path + "?") > self._variants:
            return "too many query strings"
        family = _NUMBER.sub("0", path)
        if family != path and self._count(family) > self._similar:
            return "too many similar URLs"
        return None

    def _count(self, family: str) -> int:
        self._families[family] += 1
        return self._families[family]


def _matches(host: str, allowed: str) -> bool:
    name = host.rpartition(":")[0] if ":" in host and ":" not in allowed else host
    return name == allowed or (allowed.startswith("*.") and name.endswith(allowed[1:]))


def _repeats(parts: list[str]) -> bool:
    """Whether a part occurs three times, as where relative links pile up."""
    return len(parts) >= 3 and max(Counter(parts).values()) >= 3


def _pattern(patterns: list[str]) -> re.Pattern:
    """robots.txt's way of matching paths: a prefix in which `*` is any run and a final `$` the end."""
    alternatives = []
    for pattern in patterns:
        end = r"\Z" if pattern.endswith("$") else ""
        alternatives.append(".*".join(map(re.escape, pattern.removesuffix("$").split("*"))) + end)
    return re.compile("|".join(f"(?:{a})" for a in alternatives), re.S)
