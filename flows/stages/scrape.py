"""scrape: one declared site -> a snapshot of its pages."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from flows.engine.page import Bars, Block, Table
from flows.engine.stage import Job, Stage
from flows.store.local import Artifact, now
from flows.store.manifest import Manifest
from scraping.crawling.source import Source


class Scrape(Stage[Source]):
    """Snapshots of a site. A snapshot is reused while it is younger than the source's `max_age`; a new one with the
    same pages rebuilds nothing after it."""

    name = "scrape"
    version = 2
    records = ("fetches.parquet", "urls.parquet", "stats.json")  # about the crawl; the digest is of the pages alone
    retries = 2
    label_is_subject = True
    beside = True

    def build(self, job: Job[Source]) -> None:
        """Crawl. One machine's crawls keep their manners by themselves; the server's limits keep two machines from the
        same host."""
        from scraping.crawling.crawl import crawl

        previous = job.previous.fetch(job.progress) if job.previous else None
        with job.context.slots(host_limits(job.config), create=1):
            crawl(job.config, job.out, job.progress, previous=previous)

    def expired(self, source: Source, snapshot: Manifest) -> str | None:
        age = now() - snapshot.finished
        if age <= source.max_age:
            return None
        return f"the snapshot is {age.total_seconds() / 86400:.1f} days old (max_age {source.max_age})"

    def check_available(self, source: Source) -> None:
        source.user_agent_header()  # a crawl without a contact is refused before anything else is done

    def timeline(self, label: str, pipeline: str) -> str:
        return f"crawl of {label}"

    def label(self, source: Source) -> str:
        return source.name

    def headline(self, stats: dict[str, Any]) -> str:
        return f"{stats['pages']:,} pages"

    def work(self, stats: dict[str, Any]) -> tuple[int, str]:
        return stats["pages"], "pages"

    def page(self, artifact: Artifact) -> Iterator[Block]:
        yield Bars("change since the last crawl", artifact.stats["changes"])
        yield Bars("left out", artifact.stats["skipped"])
        if unread := artifact.stats.get("unread_sitemaps"):
            yield Table(["sitemap that could not be read in full", "why"], list(unread.items()))


def host_limits(source: Source) -> list[str]:
    """Names of the server's limits, one a host; a site that Textmill serves is another one in every run."""
    return [] if source.serve else [f"crawl of {host}" for host in source.hosts]


scrape = Scrape()
