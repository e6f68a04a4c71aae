"""robots.txt by RFC 9309 (2022). Protego matches rules with URLs; this file decides what holds without a good answer.

`fetch_robots` decides, by the RFC's section 2.3.1:

    2xx                   2.3.1.1   the rules of the file hold
    3xx                   2.3.1.2   the redirect is followed, `MAX_REDIRECTS` times; after that, everything is allowed
    4xx, but for 429      2.3.1.3   the file is "unavailable": everything is allowed
    5xx, 429, no answer   2.3.1.4   the file is "unreachable": nothing is allowed, `RobotsUnreachable` is raised

The RFC counts 429 among the 4xx. We do as the large search engines: a host that is too busy to answer has not agreed.
"Unreachable" is never remembered: the worker pauses, asks again, and gives the host up when that fails too often. Rules
are good for a day.
"""

from __future__ import annotations

import re
import time
from dataclasses import dataclass, field

from protego import Protego

from scraping.crawling.answers.reservations import PathRules, parse_content_signals
from scraping.crawling.fetch import (
    MAX_REDIRECTS,
    Fetcher,
    FetchError,
    ForbiddenAddressError,
    Request,
    Response,
    TransientHostError,
)
from scraping.crawling.urls import origin_of, resolve

__all__ = ["MAX_BYTES", "RobotsTxt", "RobotsUnreachable", "fetch_robots", "parse_robots"]

MAX_BYTES = 512 << 10  # section 2.5 asks for at least 500 KiB
MAX_AGE = 24 * 3600.0  # seconds, section 2.4

_LINE = re.compile(r"\s*([A-Za-z][A-Za-z \-]{0,30}?)\s*(?::|(?<=[A-Za-z])\s)\s*([^#]*)")  # unbounded, it may take hours
_FIELDS = {
    "user-agent": "User-agent", "useragent": "User-agent", "user agent": "User-agent",
    "disallow": "Disallow", "dissallow": "Disallow", "dissalow": "Disallow", "disalow": "Disallow",
    "diasllow": "Disallow", "disallaw": "Disallow",
    "allow": "Allow", "crawl-delay": "Crawl-delay", "request-rate": "Request-rate",
    "sitemap": "Sitemap", "site-map": "Sitemap",
}  # fmt: skip
_PRODUCT_TOKEN = re.compile(r"\*|[A-Za-z_-]+")
_NOBODY = "-"  # an agent name that no crawler has


class RobotsUnreachable(TransientHostError):
    """robots.txt is unreachable in the RFC's sense: nothing of the host may be fetched until it answers."""

    def __init__(self, reason: str, retry_after: float | None = None):
        super().__init__(f"robots.txt: {reason}", retry_after)


@dataclass
class RobotsTxt:
    """The rules of one origin, as they bind `agent` (a product token, without version)."""

    agent: str
    rules: Protego
    summary: str  # how the rules came about, to be shown
    signals: PathRules  # what it reserves from training
    fetched: float = field(default_factory=time.monotonic)

    def allows(self, url: str) -> bool:
        return self.rules.can_fetch(url, self.agent)

    @property
    def crawl_delay(self) -> float | None:
        """Seconds between requests that the file asks for, by Crawl-delay or Request-rate. Neither is in the RFC, but
        sites rely on them. A rate for some hours of the day is kept at all hours."""
        rate = self.rules.request_rate(self.agent)
        asked = (self.rules.crawl_delay(self.agent), rate.seconds / rate.requests if rate and rate.requests else None)
        return max((delay for delay in asked if delay is not None), default=None)

    def sitemaps(self, origin: str) -> list[str]:
        """URLs of the sitemaps that the robots.txt of `origin` names; they should be absolute, and often are not."""
        return [url for name in self.rules.sitemaps if (url := resolve(f"{origin}/", name))]

    @property
    def expired(self) -> bool:
        return time.monotonic() - self.fetched > MAX_AGE


def fetch_robots(url: str, fetcher: Fetcher, agent: str, delay: float, timeout: float = 30.0) -> RobotsTxt:
    """The rules that hold for `url`.

    Args:
        url: normalized.
        fetcher: makes the requests.
        agent: our product token.
        delay: seconds between requests.
        timeout: seconds that an answer may take.

    Raises:
        RobotsUnreachable: no answer, 5xx or 429.
        ForbiddenAddressError: the host, or one that it redirects to, has an address that may not be contacted.
    """
    target = f"{origin_of(url)}/robots.txt"
    for _ in range(MAX_REDIRECTS + 1):
        try:
            response = fetcher.fetch(Request(target, delay=delay, timeout=timeout, max_bytes=16 * MAX_BYTES))
        except ForbiddenAddressError:
            raise
        except FetchError as error:
            raise RobotsUnreachable(str(error)) from error
        if response.location is None:
            return _by_status(response, agent)
        redirect = resolve(target, response.location)
        if redirect is None:
            return _allow_all(agent, "redirected to nowhere")
        target = redirect
    return _allow_all(agent, f"more than {MAX_REDIRECTS} redirects")


def _by_status(response: Response, agent: str) -> RobotsTxt:
    """What an answer means that is not a redirect."""
    status = response.status
    if 200 <= status < 300:
        return parse_robots(response.body, agent)
    if status >= 500 or status == 429:
        raise RobotsUnreachable(f"answered {status}", response.retry_after())
    return _allow_all(agent, f"none (status {status})")


def _allow_all(agent: str, reason: str) -> RobotsTxt:
    return parse_robots(b"", agent, f"{reason}, so everything is allowed")


def parse_robots(body: bytes, agent: str, summary: str = "rules found") -> RobotsTxt:
    """The rules for `agent` from the bytes of a robots.txt; lines that make no sense are skipped, as the RFC asks."""
    lines = _lines(body)
    return RobotsTxt(agent, Protego.parse(_sanitize(lines)), summary, parse_content_signals(lines, agent))


def _lines(body: bytes) -> list[str]:
    """The lines of a robots.txt, without a byte order mark and up to the size limit."""
    if len(body) > MAX_BYTES:
        body = body[: body.rfind(b"\n", 0, MAX_BYTES)]  # half a line may say the contrary
    return re.split(r"\r\n?|\n", body.removeprefix(b"\xef\xbb\xbf").decode("utf-8", "replace"))


def _sanitize(found: list[str]) -> str:
    """Settle what Protego reads otherwise than the RFC: unknown lines, versions after agents."""
    lines = []
    for line in found:
        match = _LINE.match(line)
        name = _FIELDS.get(match[1].lower()) if match else None
        if match is None or name is None:
            continue
        value = match[2].strip()
        if name == "User-agent":
            token = _PRODUCT_TOKEN.match(value)
            value = token[0] if token else _NOBODY  # such rules bind no crawler, not every one
        lines.append(f"{name}: {value}")
    return "\n".join(lines)
