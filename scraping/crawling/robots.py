"""robots.txt by RFC 9309: what its text says (Protego does the matching) and what its absence means.

An answer 4xx means that everything is allowed. No answer, 5xx or 429 mean that nothing is: `RobotsUnavailable` is
raised, is never remembered, and the question is to be asked again later. Rules are good for a day.
"""

import re
import time
from dataclasses import dataclass, field

from protego import Protego

from scraping.crawling.fetch import AddressRefused, Fetcher, FetchError, HostTrouble, Response
from scraping.crawling.urls import origin_of, resolve

MAX_BYTES = 512 << 10  # RFC 9309 2.5 asks for at least 500 KiB
MAX_AGE = 24 * 3600.0  # seconds, RFC 9309 2.4
_MAX_REDIRECTS = 5  # RFC 9309 2.3.1.2
_SECONDS = 30.0

_LINE = re.compile(r"\s*([A-Za-z][A-Za-z \-]{0,30}?)\s*(?::|(?<=[A-Za-z])\s)\s*([^#]*)")  # unbounded, it may take hours
_FIELDS = {
    "user-agent": "User-agent", "useragent": "User-agent", "user agent": "User-agent",
    "disallow": "Disallow", "dissallow": "Disallow", "dissalow": "Disallow", "disalow": "Disallow",
    "diasllow": "Disallow", "disallaw": "Disallow",
    "allow": "Allow", "crawl-delay": "Crawl-delay", "sitemap": "Sitemap", "site-map": "Sitemap",
}  # fmt: skip
_PRODUCT_TOKEN = re.compile(r"\*|[A-Za-z_-]+")


class RobotsUnavailable(HostTrouble):
    """robots.txt could not be had: nothing of the host may be fetched until it can."""

    def __init__(self, reason: str, retry_after: float | None = None):
        super().__init__(f"robots.txt: {reason}")
        self.retry_after = retry_after


@dataclass
class Robots:
    """The rules of one host, as they bind `agent` (a product token, without version)."""

    agent: str
    rules: Protego
    summary: str  # how they came about, for people
    fetched: float = field(default_factory=time.monotonic)

    def allows(self, url: str) -> bool:
        return self.rules.can_fetch(url, self.agent)

    @property
    def crawl_delay(self) -> float | None:
        return self.rules.crawl_delay(self.agent)

    def sitemaps(self, origin: str) -> list[str]:
        """URLs of the sitemaps that the robots.txt of `origin` names; they should be absolute, and often are not."""
        return [url for name in self.rules.sitemaps if (url := resolve(f"{origin}/", name))]

    @property
    def expired(self) -> bool:
        return time.monotonic() - self.fetched > MAX_AGE


def parse(body: bytes, agent: str, summary: str = "rules found") -> Robots:
    """Rules for `agent` from the bytes of a robots.txt; unintelligible lines are skipped, as the RFC asks."""
    return Robots(agent, Protego.parse(_sanitise(body)), summary)


def fetch_robots(url: str, fetcher: Fetcher, agent: str, delay: float) -> Robots:
    """The rules that govern `url`'s host.

    Raises:
        RobotsUnavailable: no answer, 5xx or 429.
        AddressRefused: the host, or one that it redirects to, has an address that may not be contacted.
    """
    target = f"{origin_of(url)}/robots.txt"
    for _ in range(_MAX_REDIRECTS + 1):
        try:
            response = fetcher.get(target, delay=delay, seconds=_SECONDS, max_bytes=16 * MAX_BYTES)
        except AddressRefused:
            raise
        except FetchError as error:
            raise RobotsUnavailable(str(error)) from error
        if response.location is None:
            return _judge(response, agent)
        next_target = resolve(target, response.location)
        if next_target is None:
            return parse(b"", agent, "redirected to nowhere, so everything is allowed")
        target = next_target
    return parse(b"", agent, f"more than {_MAX_REDIRECTS} redirects, so everything is allowed")


def _judge(response: Response, agent: str) -> Robots:
    status = response.status
    if status >= 500 or status == 429:
        raise RobotsUnavailable(f"answered {status}", response.retry_after())
    if 200 <= status < 300:
        return parse(response.body, agent)
    return parse(b"", agent, f"none (status {status}), so everything is allowed")


def _sanitise(body: bytes) -> str:
    """What Protego reads otherwise than the RFC: byte order mark, size, unknown lines, versions behind agents."""
    if len(body) > MAX_BYTES:
        body = body[: body.rfind(b"\n", 0, MAX_BYTES)]  # half a line may say the contrary
    lines = []
    for line in re.split(r"\r\n?|\n", body.removeprefix(b"\xef\xbb\xbf").decode("utf-8", "replace")):
        match = _LINE.match(line)
        name = _FIELDS.get(match[1].lower()) if match else None
        if name is None:
            continue
        value = match[2].strip()
        if name == "User-agent":
            token = _PRODUCT_TOKEN.match(value)
            value = token[0] if token else "-"  # an agent that nobody is, not one that everybody is
        lines.append(f"{name}: {value}")
    return "\n".join(lines)
