"""What owners reserve: pages that may be read and found, but not be kept for training.

There are several ways to say so, and a page is reserved if any of them says it:

- `noai` or `noimageai` among the robots directives of a page (`<meta>` or `X-Robots-Tag`), a convention of image sites;
- the TDM Reservation Protocol (W3C Community Group, 2024), by which owners reserve text and data mining under article 4
  of the EU directive 2019/790: `<meta name="tdm-reservation">`, else the header `TDM-Reservation`, else the file
  `/.well-known/tdmrep.json`; the closest to the page decides;
- `Content-Signal: ai-train=no` (contentsignals.org, 2025), a header of the page or a line of robots.txt.
"""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import Protocol
from urllib.parse import quote

from scraping.crawling.fetch import MAX_REDIRECTS, Fetcher, FetchError, Request, Response
from scraping.crawling.links import ParsedPage, tdm_value
from scraping.crawling.urls import host_of, origin_of, resolve
from scraping.extraction.sniff import HTML_TYPES, mime_type

__all__ = [
    "RESERVED",
    "TDM_FILE",
    "PathRules",
    "fetch_tdm_rules",
    "page_reservation",
    "parse_content_signals",
    "parse_tdm_rules",
    "signal_reservation",
]

RESERVED = "reserved: "  # what reasons begin with
TDM_FILE = "/.well-known/tdmrep.json"
_MAX_BYTES = 1 << 20
_TDM = f"{RESERVED}TDM reservation"
_CONTENT_SIGNAL = f"{RESERVED}Content-Signal ai-train=no"

_SIGNAL_LINE = re.compile(r"[ \t]{0,100}(user[ -]?agent|content-signal)[ \t]{0,100}:([^#]*)", re.I)
_OTHER_RULE = re.compile(r"\s{0,100}(?:dis)?allow\s{0,100}:|\s{0,100}crawl-delay\s{0,100}:", re.I)
_TRAINING = re.compile(r"(?:^|[\s,;])ai-train\s*=\s*(yes|no)(?![\w-])", re.I)
_PRODUCT_TOKEN = re.compile(r"\*|[A-Za-z_-]+")


@dataclass(frozen=True)
class PathRules:
    """Which paths are reserved: pairs of a pattern of robots.txt and whether it reserves. The longest match decides."""

    rules: tuple[tuple[str, bool], ...] = ()

    def reserve(self, url: str) -> bool | None:
        """Whether a (normalized) URL is reserved; None if the rules say nothing about it."""
        target = url[url.index("/", 8) :]
        matching = [(len(pattern), reserves) for pattern, reserves in self.rules if _matches(pattern, target)]
        return max(matching)[1] if matching else None


def _matches(pattern: str, target: str) -> bool:
    """Whether a pattern of robots.txt matches, in linear time: a prefix, `*` is any run, a final `$` the end."""
    first, *others = quote(pattern.removesuffix("$"), safe="%/:?@!$&'()*+,;=~[]").split("*")
    if not target.startswith(first):
        return False
    place = len(first)
    last = others.pop() if pattern.endswith("$") and others else None
    for piece in others:
        place = target.find(piece, place)
        if place < 0:
            return False
        place += len(piece)
    if last is not None:
        return len(target) - len(last) >= place and target.endswith(last)
    return not pattern.endswith("$") or place == len(target)


class _Signals(Protocol):
    """The part of a robots.txt that this module reads."""

    signals: PathRules


def page_reservation(page: ParsedPage, response: Response, robots: _Signals, tdm: PathRules) -> str | None:
    """By which word the owner of a page reserves it; None if it is not reserved.

    Args:
        page: what it says itself.
        response: its answer.
        robots: the robots.txt of its origin.
        tdm: the TDM rules of its origin.
    """
    if page.directives.reserved:
        return f"{RESERVED}{page.directives.reserved}"
    stated = (page.tdm_reservation, tdm_value(response.headers.get("TDM-Reservation")), tdm.reserve(response.url))
    if next((reserves for reserves in stated if reserves is not None), False):
        return _TDM
    signal = training_signal(response.headers.get("Content-Signal"))
    return _CONTENT_SIGNAL if signal else signal_reservation(response.url, robots) if signal is None else None


def signal_reservation(url: str, robots: _Signals) -> str | None:
    """How robots.txt reserves a (normalized) URL; None if it does not."""
    return _CONTENT_SIGNAL if robots.signals.reserve(url) else None


def training_signal(value: str | None) -> bool | None:
    """Whether the value of a `Content-Signal` reserves from training; None if it does not speak of it."""
    found = _TRAINING.findall(value or "")
    return any(answer.lower() == "no" for answer in found) if found else None


def parse_content_signals(lines: Iterable[str], agent: str) -> PathRules:
    """What the `Content-Signal` lines of a robots.txt reserve, as they bind `agent`.

    They belong to groups, as rules do: a group that names the agent counts, else that of `*`. A line before any group
    is for all. A path may stand before the signals.
    """
    groups: dict[str, list[tuple[str, bool]]] = {}
    agents: list[str] = ["*"]
    in_head = False
    for line in lines:
        match = _SIGNAL_LINE.match(line)
        if match is None:
            in_head = in_head and not _OTHER_RULE.match(line)
        elif match[1].lower().startswith("user"):
            token = _PRODUCT_TOKEN.match(match[2].strip())
            agents = [*(agents if in_head else ()), token[0].lower() if token else ""]
            in_head = True
            groups.setdefault(agents[-1], [])
        else:
            in_head = False
            signals = match[2].strip()
            path = signals.split(maxsplit=1)[0] if signals[:1] in ("/", "*") else "/"
            reserves = training_signal(signals)
            if reserves is not None:
                for name in agents:
                    groups.setdefault(name, []).append((path, reserves))
    rules = groups.get(agent.lower(), groups.get("*", []))
    return PathRules(tuple(rules))


def fetch_tdm_rules(
    origin: str, fetcher: Fetcher, delay: float, timeout: float, allows: Callable[[str], bool]
) -> PathRules:
    """The rules of `/.well-known/tdmrep.json`; none if the origin has no such file.

    Args:
        origin: scheme and host; a redirect that leaves it leads to no file of its own.
        fetcher: makes the request.
        delay: seconds between requests.
        timeout: seconds that an answer may take.
        allows: whether the origin's robots.txt allows a URL.

    Raises:
        TransientHostError: no usable answer; ask again later.
        FetchError: the file cannot be read.
    """
    target: str | None = f"{origin}{TDM_FILE}"
    for _ in range(MAX_REDIRECTS + 1):
        if target is None or origin_of(target) != origin or not allows(target):
            break
        response = fetcher.fetch(Request(target, delay, timeout, _MAX_BYTES, skip_body=_skip_reason))
        if response.is_no_use:
            raise response.refusal()
        if response.location is None:
            return _rules_of(response, origin)
        target = resolve(target, response.location)
    else:
        raise FetchError("too many redirects")
    return PathRules()


def _rules_of(response: Response, origin: str) -> PathRules:
    """The rules that an answer holds; many sites answer with a page that says that there are none."""
    if response.skip_reason:
        return PathRules()
    try:
        return parse_tdm_rules(response.body, origin)
    except ValueError as error:
        if mime_type(response.content_type) in HTML_TYPES:
            return PathRules()
        raise FetchError(str(error)) from None


def parse_tdm_rules(body: bytes, origin: str) -> PathRules:
    """The rules of a tdmrep.json. A location may be an absolute URL of `origin`, and a reservation true or false.

    Raises:
        ValueError: it is not JSON, is nested too deep, or has only rules that cannot be read.
    """
    try:
        entries = json.loads(body.decode(json.detect_encoding(body), "replace"))
    except RecursionError:
        raise ValueError("nested too deep") from None
    own = re.compile(rf"(?:https?://{re.escape(host_of(origin))})?(?=[/*]|$)", re.I)
    rules, strange = [], []
    for entry in entries if isinstance(entries, list) else [entries]:
        if not isinstance(entry, dict) or not {"location", "tdm-reservation"} & entry.keys():
            continue  # it is about something else, as the JSON that says that there is no such file
        location, value = entry.get("location"), entry.get("tdm-reservation")
        reserves = value if isinstance(value, bool) else tdm_value(str(value))
        if not isinstance(location, str) or not location or reserves is None:
            strange.append(entry)
        elif start := own.match(location):
            rules.append((location[start.end() :] or "/", reserves))
    if strange and not rules:
        raise ValueError(f"none of its rules can be read, the first of them: {json.dumps(strange[0])[:100]}")
    return PathRules(tuple(rules))


def _skip_reason(response: Response) -> str | None:
    return f"status {response.status}" if response.status != 200 else None
