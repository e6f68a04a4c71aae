"""What crawls and collections left out: URLs that are no pages, and records that could not be read."""

from __future__ import annotations

import hashlib
import heapq
import json
from dataclasses import dataclass
from pathlib import Path

from scraping.explorer.corpus import Corpus, Sampling, parquet

CRAWLED = "url, outcome, reason, status, depth, found_on"  # the fields of `CrawledUrl` after its source


@dataclass(frozen=True)
class CrawledUrl:
    """What a crawl knows of a URL: a row of its `urls.parquet`."""

    source: str
    url: str
    outcome: str | None
    reason: str | None
    status: int | None
    depth: int | None
    found_on: str | None

    @property
    def told(self) -> str:
        """In words."""
        answered = f" (HTTP {self.status})" if self.status and str(self.status) not in (self.reason or "") else ""
        where = f", found on {self.found_on}" if self.found_on else ""
        match self.outcome:
            case "stored":
                reserved = f", {self.reason}" if self.reason else ""
                return f"stored as a page{answered}{reserved}{where}"
            case "redirected":
                return f"redirected{answered} to {self.reason}"
            case None if self.depth is None:
                return "stored by an earlier crawl, but not found by the last one"
            case None:
                return f"found, but not fetched: the crawl ended before its turn{where}"
            case outcome:
                return f"{outcome}: {self.reason or 'no reason given'}{answered}{where}"


@dataclass(frozen=True)
class SkippedRecord:
    """A record of a collection that was not read: a line of its `skipped.jsonl`."""

    source: str
    file: str
    place: str
    reason: str
    detail: str


def sample_urls(corpus: Corpus, source: str, urls: Path, key: str, sampling: Sampling) -> list[CrawledUrl]:
    """Random URLs of those that a crawl left out for a reason.

    Args:
        corpus: whose database is used.
        source: name of the source.
        urls: its `urls.parquet`.
        key: what `passage` counts them by.
        sampling: how many, and which.
    """
    rows = corpus.rows(
        f"SELECT {CRAWLED} FROM {parquet([urls])} WHERE {counted_by()} = $wanted AND depth IS NOT NULL"
        " ORDER BY md5($key || url), url LIMIT $number",
        {"wanted": key, "key": sampling.key, "number": sampling.number},
    )
    return [CrawledUrl(source, **row) for row in rows]


def counted_by() -> str:
    """What a row of `urls.parquet` is counted by, for SQL; redirects together, wherever they lead."""
    return (
        "CASE WHEN outcome IS NULL THEN 'not fetched' WHEN outcome IN ('stored', 'redirected') OR reason IS NULL"
        " THEN outcome ELSE outcome || ': ' || reason END"
    )


def sample_records(source: str, skipped: Path, reason: str, sampling: Sampling) -> list[SkippedRecord]:
    """Random records of those that were not read for a reason.

    Args:
        source: name of the collection.
        skipped: its `skipped.jsonl`.
        reason: why they were not read.
        sampling: how many, and which.
    """
    with skipped.open("rb") as lines:
        wanted = (line for line in lines if json.loads(line)["reason"] == reason)
        drawn = heapq.nsmallest(sampling.number, wanted, key=lambda line: _place(sampling.key, line))
    found = map(json.loads, drawn)
    return [SkippedRecord(source, row["file"], row["place"], row["reason"], row["detail"]) for row in found]


def _place(key: str, line: bytes) -> str:
    return hashlib.md5(key.encode() + line, usedforsecurity=False).hexdigest()
