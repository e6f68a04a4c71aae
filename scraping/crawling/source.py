"""A source: one web site, declared in one YAML file.

The files of `scraping/sources/`, and those in the folder `sources` of a project, are known by their names; any other is
known by its path. Fields that are made by
`execution_only` say how the crawl goes about its work and how pages are read later: changing them rebuilds no snapshot.
"""

from __future__ import annotations

import difflib
import os
import re
from datetime import timedelta
from pathlib import Path
from typing import Annotated, Any, Literal
from zoneinfo import ZoneInfo, ZoneInfoNotFoundError

from pydantic import BaseModel, BeforeValidator, Field, ValidationError, field_validator, model_validator

from scraping.crawling.scope import FamilyLimits, Scope, UrlBounds
from scraping.crawling.urls import host_of, normalize
from scraping.extraction.config import AutoExtractor, Extractor
from textmill.errors import UserError
from textmill.settings import execution_only, read_settings

__all__ = [
    "Limits", "Schedule", "Source", "find_source", "load_source", "name_from", "shipped_sources", "source_of_url",
]  # fmt: skip

VERSION = "0.1"  # in the User-Agent
SHIPPED = Path(__file__).parent.parent / "sources"
OWN = Path("sources")  # the folder of a project's sources, from the project's folder

_DURATION = re.compile(r"\s*(\d+(?:\.\d+)?)\s*(s|min|h|d|w)\s*\Z")
_UNITS = {"s": "seconds", "min": "minutes", "h": "hours", "d": "days", "w": "weeks"}
_CONTACT = re.compile(r"[^\s@<>]+@[^\s@<>]+\Z|https?://\S+\Z|\$\{?\w+\}?\Z")


def _duration(value: Any) -> Any:
    if isinstance(value, str) and (match := _DURATION.match(value)):
        return timedelta(**{_UNITS[match[2]]: float(match[1])})
    if isinstance(value, str) and not value.startswith("P"):
        raise ValueError(f"{value!r} is not a duration: write one such as 30min, 12h or 7d")
    return value


Duration = Annotated[timedelta, BeforeValidator(_duration)]


class Limits(BaseModel, extra="forbid"):
    """Bounds of a crawl; the snapshot's reports name each one that is met."""

    pages: int = Field(100_000, gt=0, description="Pages to ask for at most, in one crawl")
    urls: int = Field(2_000_000, gt=0, description="URLs to remember at most; further links are dropped")
    depth: int = Field(20, ge=0, description="Links between a start URL and a page at most")
    bytes: int = Field(10_000_000, gt=0, description="Bytes of one page at most, after decompression")
    seconds: float = Field(60.0, gt=0, description="Seconds that one page may take, from connecting to its last byte")
    url_length: int = Field(2_000, gt=0, description="Characters of a URL at most")
    path_segments: int = Field(16, gt=0, description="Segments of a path at most")
    repeats: int = Field(2, gt=0, description="Times that a URL may repeat a segment of its path or a parameter")
    variants: int = Field(500, gt=0, description="Query strings of one path at most (/topic.php?id=1, ?id=2, …)")
    similar: int = Field(20_000, gt=0, description="URLs at most that differ only in their numbers")
    requests: int = Field(200, ge=0, description="Scripts and data that one page may load (fetch: browser)")
    attempts: int = Field(3, gt=0, description="Times to ask for a page that gives no usable answer")
    failures: int = Field(8, gt=0, description="Failures of a host in a row after which it is given up")


class Schedule(BaseModel, extra="forbid"):
    """When to run by itself."""

    cron: str = Field(description="Five fields: minute, hour, day of month, month, day of week")
    timezone: str = Field("UTC", description="IANA name, as in America/New_York")
    active: bool = Field(True, description="Whether it is on from the first; the switch in the UI wins later on")

    def __str__(self) -> str:
        return f"{self.cron} {self.timezone}"

    @field_validator("cron")
    @classmethod
    def _cron(cls, cron: str) -> str:
        if len(cron.split()) != 5:
            raise ValueError(f"{cron!r} is not a cron line of five fields, such as '0 3 * * 0'")
        return cron

    @field_validator("timezone")
    @classmethod
    def _timezone(cls, timezone: str) -> str:
        try:
            ZoneInfo(timezone)
        except (ZoneInfoNotFoundError, ValueError) as error:
            raise ValueError(f"{timezone!r} is not a time zone, such as America/New_York") from error
        return timezone


class Source(BaseModel, extra="forbid"):
    """A web site to crawl: where to begin, how far to go, how to behave, and how to read its pages."""

    name: str = Field(pattern=r"^[a-z0-9][a-z0-9-]*$", description="Lower-case letters, digits and dashes")
    description: str = execution_only("", description="What it is, in one line")
    start: list[str] = Field(min_length=1, description="URLs to begin with")
    hosts: list[str] = Field([], description="Hosts that belong to it (*.host for subdomains); those of start if empty")
    allow: list[str] = Field([], description="Paths to fetch, as in robots.txt (/news/, /*.html$); all if empty")
    deny: list[str] = Field([], description="Paths not to fetch, as in robots.txt; they win over allow")
    contact: str = execution_only(
        description="Address or URL where the site's owner can reach you, or $VARIABLE of the environment"
    )
    user_agent: str = Field("textmill", pattern=r"^[A-Za-z_-]+$", description="Product token that robots.txt may name")
    delay: float = execution_only(1.0, ge=0, le=3600, description="Seconds between requests to a host")
    crawl_delay_cap: float = execution_only(30.0, ge=0, le=3600, description="Obey a Crawl-delay up to so many seconds")
    backoff: float = execution_only(2.0, gt=0, description="Seconds to wait after a failure; doubles each time")
    limits: Limits = Field(Limits(), description="Bounds of a crawl")
    sitemaps: bool = Field(True, description="Also begin with what the site's sitemaps list")
    fetch: Literal["http", "browser"] = Field(
        "http", description="http: pages as the server sends them; browser: as they are after their JavaScript has run"
    )
    resource_hosts: list[str] = Field(
        [], description="Other hosts whose scripts and data pages may load in the browser"
    )
    reservations: Literal["obey", "report"] = Field(
        "obey",
        description="Pages that owners reserve from training (noai, TDM, Content-Signal): leave out, or only say",
    )
    private_addresses: bool = Field(False, description="Also connect to addresses that are not public")
    serve: Literal["python-docs"] | None = Field(None, description="Site that Textmill itself serves during the crawl")
    extractor: Extractor = execution_only(AutoExtractor(), description="How to read a page")
    schedule: Schedule | None = execution_only(None, description="When to crawl again")
    max_age: Duration = execution_only(timedelta(days=7), description="How long a crawl counts as fresh (7d)")

    @field_validator("start")
    @classmethod
    def _start(cls, urls: list[str]) -> list[str]:
        normalized = []
        for url in urls:
            spelled = normalize(url)
            if spelled is None:
                raise ValueError(f"{url!r} is not an http or https URL")
            normalized.append(spelled)
        return normalized

    @field_validator("hosts", "resource_hosts")
    @classmethod
    def _hosts(cls, hosts: list[str]) -> list[str]:
        """As `urls.host_of` gives them, so that any spelling matches; the usual port means the host as such."""
        spelled = []
        for host in hosts:
            wildcard = "*." if host.startswith("*.") else ""
            url = normalize(f"http://{host.removeprefix('*.')}/")
            if url is None or set("/\\?#") & set(host):
                raise ValueError(f"{host!r} is not a host name: write one such as www.example.org or *.example.org")
            spelled.append(wildcard + host_of(url).removesuffix(":443"))
        return spelled

    @field_validator("allow", "deny")
    @classmethod
    def _paths(cls, patterns: list[str]) -> list[str]:
        for pattern in patterns:
            if pattern[:1] not in ("/", "*"):
                raise ValueError(f"{pattern!r} does not begin with / or *")
        return patterns

    @field_validator("contact")
    @classmethod
    def _contact(cls, contact: str) -> str:
        if not _CONTACT.match(contact):
            raise ValueError(f"{contact!r} is neither an e-mail address nor a URL nor a $VARIABLE")
        return contact

    @model_validator(mode="after")
    def _default_hosts(self) -> Source:
        self.hosts = self.hosts or list(dict.fromkeys(host_of(url) for url in self.start))
        return self

    @model_validator(mode="after")
    def _resource_hosts_in_browser(self) -> Source:
        if self.resource_hosts and self.fetch != "browser":
            raise ValueError("resource_hosts is for pages that are rendered: add fetch: browser, or leave it out")
        return self

    @model_validator(mode="after")
    def _start_in_scope(self) -> Source:
        scope = self.scope()
        for url in self.start:
            if reason := scope.skip_reason(url):
                raise ValueError(f"the start URL {url} is not fetched ({reason}): correct start, hosts, allow or deny")
        return self

    def scope(self) -> Scope:
        """Which URLs belong to this source."""
        limits = self.limits
        bounds = UrlBounds(limits.url_length, limits.path_segments, limits.repeats)
        return Scope(self.hosts, self.allow, self.deny, bounds)

    def family_limits(self) -> FamilyLimits:
        """How many URLs of a family a crawl may fetch; a counter for one crawl."""
        return FamilyLimits(similar=self.limits.similar, variants=self.limits.variants)

    def request_delay(self, crawl_delay: float | None) -> float:
        """Seconds between requests to a host whose robots.txt asks for `crawl_delay`."""
        return max(self.delay, min(crawl_delay or 0.0, self.crawl_delay_cap))

    def user_agent_header(self) -> str:
        """The User-Agent, with the contact in it.

        Raises:
            UserError: the environment variable that `contact` names is not set.
        """
        contact = os.path.expandvars(self.contact)
        if contact.startswith("$") or not _CONTACT.match(contact):
            raise UserError(
                f"source {self.name}: set {self.contact.strip('${}')} to an e-mail address or URL "
                "where the site's owner can reach you."
            )
        return f"{self.user_agent}/{VERSION} (+{contact})"


def shipped_sources() -> list[str]:
    """Names of the sources that come with Textmill."""
    return sorted(path.stem for path in SHIPPED.glob("*.yaml"))


def find_source(name_or_path: str | Path, own: Path = OWN) -> Path:
    """The file of a source.

    Args:
        name_or_path: the name of a file in `own` or of a shipped source, or else a path.
        own: the folder of a project's sources, whose names win over those of the shipped ones.

    Raises:
        UserError: there is none: the message says where was looked.
    """
    name = str(name_or_path)
    is_name = not Path(name).suffix and Path(name).name == name
    candidates = [folder / f"{name}.yaml" for folder in (own, SHIPPED)] if is_name else []
    for path in (*candidates, Path(name)):
        if path.is_file():
            return path
    shipped = shipped_sources()
    files = map(str, Path(name).parent.glob("*.y*ml"))
    known = [*shipped, *(path.stem for path in own.glob("*.yaml")), *files]
    near = difflib.get_close_matches(name, known, n=1)
    hint = f"did you mean {near[0]}?" if near else f"give the path of a YAML file, or one of: {', '.join(shipped)}"
    looked = f"{own.absolute()} and among Textmill's own" if is_name else str(Path(name).absolute().parent)
    raise UserError(f"no source {name}: {hint} (looked in {looked})")


def load_source(name_or_path: str | Path, own: Path = OWN) -> Source:
    """The source that `find_source` finds.

    Raises:
        UserError: there is no such source, or its file has a mistake: the message names the file, line and remedy.

    Example:
        >>> load_source("python-docs").start
        ['http://python-docs.localhost/']
    """
    path = find_source(name_or_path, own)
    return read_settings(path, Source, name=name_from(path.stem))


def name_from(text: str) -> str:
    """What a text gives as a name.

    Example:
        >>> name_from("My Site (old)")
        'my-site-old'
    """
    return re.sub(r"[^a-z0-9]+", "-", text.lower()).strip("-")


def source_of_url(url: str, contact: str, *, private_addresses: bool = False, delay: float = 1.0) -> Source:
    """The source that begins at a URL, with the defaults for everything else: for a site that has no file yet.

    Raises:
        UserError: `url` is not the URL of a web site, or `contact` is neither an address nor a URL.
    """
    try:
        return Source(name="url", start=[url], contact=contact, private_addresses=private_addresses, delay=delay)
    except ValidationError as error:
        message = error.errors()[0]["msg"].removeprefix("Value error, ")
        raise UserError(f"{message}.") from error
