"""scrape: one declared site -> a snapshot of its pages."""

from __future__ import annotations

from flows.stage import Job, Stage
from flows.store import Manifest, now
from scraping.source import Source


def build(job: Job[Source]) -> None:
    from scraping.crawl import crawl

    crawl(job.config, job.out, job.progress, previous=job.previous.path if job.previous else None)


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
    expired=expired,
    retries=2,
)
