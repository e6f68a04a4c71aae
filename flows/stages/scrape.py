"""scrape: one declared site -> a snapshot of its pages."""

from __future__ import annotations

import json
from collections.abc import Iterator
from datetime import datetime, timedelta
from pathlib import Path
from typing import Any

from flows.engine.page import Bars, Block, Table, Text
from flows.engine.stage import Job, Stage
from flows.store.local import Artifact, now
from scraping.crawling.source import Source

TOLD_HOSTS = 3  # in the result line


class Scrape(Stage[Source]):
    """Snapshots of a site. A snapshot is reused while it is younger than the source's `max_age`; a new one with the
    same pages rebuilds nothing after it.

    A snapshot that lacks pages because they gave no answer, or because their host was given up, is continued by the
    next run, which asks for these alone. If that brings nothing, later runs ask again only where a host was given up
    that gave pages before. A limit that the source sets is kept, and only told.
    """

    name = "scrape"
    version = 3
    records = ("fetches.parquet", "urls.parquet", "stats.json")  # about the crawl; the digest is of the pages alone
    retries = 2
    label_is_subject = True
    beside = True

    def build(self, job: Job[Source]) -> None:
        """Crawl. One machine's crawls keep their manners by themselves; the server's limits keep two machines from the
        same host."""
        from scraping.crawling.crawl import crawl

        last = job.previous
        previous = last.fetch(job.progress) if last else None
        continues = last is not None and not job.context.options.force and _is_fresh(job.config, last)
        with job.context.slots(host_limits(job.config), create=1):
            crawl(job.config, job.out, job.progress, previous, continues=continues)

    def expired(self, source: Source, snapshot: Artifact) -> str | None:
        if not _is_fresh(source, snapshot):
            return f"the snapshot is {_age(snapshot).total_seconds() / 86400:.1f} days old (max_age {source.max_age})"
        if snapshot.stats["unfinished"] and not snapshot.stats["settled"]:
            return f"the snapshot lacks pages, which are asked for again: {snapshot.manifest.incomplete}"
        return None

    def check_available(self, source: Source) -> None:
        """A crawl without a contact, or without the browser that it asks for, is refused before anything is done."""
        from scraping.crawling.rendering.chromium import check_browser

        source.user_agent_header()
        check_browser(source)

    def timeline(self, label: str, pipeline: str) -> str:
        return f"crawl of {label}"

    def label(self, source: Source) -> str:
        return source.name

    def headline(self, stats: dict[str, Any]) -> str:
        total = stats["pages"] + stats["waiting"]
        told = f"{stats['pages']:,} of at least {total:,} pages" if stats["waiting"] else f"{stats['pages']:,} pages"
        told += f", {stats['unanswered']:,} failed" if stats["unanswered"] else ""
        told += f", {kept:,} kept from the last crawl" if (kept := stats["changes"]["kept"]) else ""
        told += f", {vanished:,} vanished since the last crawl" if (vanished := stats["changes"]["vanished"]) else ""
        reasons = "; ".join(_limits_met(stats) + _given_up(stats) + _unread(stats))
        return f"{told}: {reasons}" if reasons else told

    def incomplete(self, out: Path) -> str:
        stats = json.loads((out / "stats.json").read_bytes())
        lacking = ("waiting", "unanswered", "limits_met", "unfinished", "unread_sitemaps", "unread_tdm_files")
        return self.headline(stats) if any(stats[name] for name in lacking) else ""

    def work(self, stats: dict[str, Any]) -> tuple[int, str]:
        return stats["pages"], "pages"

    def page(self, artifact: Artifact) -> Iterator[Block]:
        stats = artifact.stats
        if told := artifact.manifest.incomplete:
            again = "" if stats["settled"] or not stats["unfinished"] else " The next run asks for what failed again."
            yield Text(f"The snapshot is incomplete: {told}.{again}")
        yield Bars("change since the last crawl", stats["changes"])
        yield Bars("left out", stats["skipped"])
        yield Bars("failed", stats["failed"])
        yield Bars("reserved from training by their owners", stats.get("reserved", {}))
        yield Bars("what rendered pages asked for and could not load", stats.get("not_loaded", {}))
        for name, title in (
            ("unread_sitemaps", "sitemap that could not be read in full"),
            ("left_out_sitemaps", "sitemap that was left out"),
            ("long_pages", "page with more links than are read"),
            ("unread_tdm_files", "TDM file that could not be read, so that it reserves nothing"),
        ):
            if noted := stats.get(name):
                yield Table([title, "why"], list(noted.items()))


def _age(snapshot: Artifact) -> timedelta:
    """The age of a snapshot; of one that continued another, that of the first."""
    as_of = snapshot.stats.get("as_of")
    return now() - (datetime.fromisoformat(as_of) if as_of else snapshot.manifest.finished)


def _is_fresh(source: Source, snapshot: Artifact) -> bool:
    return _age(snapshot) <= source.max_age


def _limits_met(stats: dict[str, Any]) -> list[str]:
    """The limits that a crawl has met, in words."""
    told = {
        "pages": "limit reached",
        "urls": "further links dropped (limits.urls)",
        "links": "further links of long pages dropped",
    }
    return [told.get(name, f"limits.{name} reached") for name in stats["limits_met"]]


def _given_up(stats: dict[str, Any]) -> list[str]:
    """The hosts that were given up although something is missing without them, in words."""
    told = [f"{host} given up ({reason})" for host, reason in stats["given_up"].items()] if stats["unfinished"] else []
    return told[:TOLD_HOSTS] + ([f"{len(told) - TOLD_HOSTS:,} more hosts given up"] if told[TOLD_HOSTS:] else [])


def _unread(stats: dict[str, Any]) -> list[str]:
    """The files beside the pages that could not be read, in words."""
    told = []
    files = (("sitemap", "not read in full", "unread_sitemaps"), ("TDM file", "not read", "unread_tdm_files"))
    for kind, what, name in files:
        if reasons := list(stats.get(name, {}).values()):
            told.append(f"1 {kind} {what} ({reasons[0]})" if len(reasons) == 1 else f"{len(reasons):,} {kind}s {what}")
    return told


def host_limits(source: Source) -> list[str]:
    """Names of the server's limits, one a host; a site that Textmill serves is another one in every run."""
    return [] if source.serve else [f"crawl of {host}" for host in source.hosts]


scrape = Scrape()
