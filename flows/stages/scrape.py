"""scrape: one declared site -> a snapshot of its pages."""

from __future__ import annotations

from flows.engine.stage import Job, Stage
from flows.service.limits import slots
from flows.store.local import Manifest, now
from scraping.crawling.source import Source


def build(job: Job[Source]) -> None:
    """The crawl keeps its manners on one machine by itself; the limits keep two machines from the same host."""
    from scraping.crawling.crawl import crawl

    previous = job.previous.fetch(job.progress) if job.previous else None
    with slots(host_limits(job.config), create=1):
        crawl(job.config, job.out, job.progress, previous=previous)


def host_limits(source: Source) -> list[str]:
    """Names of the server's limits, one a host; a site that Textmill serves is another one in every run."""
    return [] if source.serve else [f"crawl of {host}" for host in source.hosts]


def expired(source: Source, snapshot: Manifest) -> str | None:
    """A snapshot is reused while it is younger than the source's `max_age`."""
    age = now() - snapshot.finished
    if source.max_age is None or age <= source.max_age:
        return None
    return f"the snapshot is {age.total_seconds() / 86400:.1f} days old (max_age {source.max_age})"


scrape = Stage(
    name="scrape",
    version=1,
    build=build,
    label=lambda source: source.name,
    headline=lambda stats: f"{stats['pages']:,} pages",
    available=Source.user_agent_header,  # a crawl without a contact is refused before anything else is done
    expired=expired,
    retries=2,
)
