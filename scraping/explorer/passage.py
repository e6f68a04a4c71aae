"""The way from the URLs of a site and the records of a collection to the documents of a corpus, step by step.

Each step says how many went in, how many were left out for which reason, and how many came out, and the numbers add up;
where the records of a step do not, the difference is a reason of its own.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from scraping.explorer.corpus import Corpus, parquet
from scraping.explorer.left_out import counted_by

UNACCOUNTED = "not accounted for"
REDIRECTED = "redirected"
NEWER = "fetched again since: the corpus was made of an earlier state"
STORED = "stored"


@dataclass(frozen=True)
class Step:
    """One step of a source's documents.

    Attributes:
        source: name of the source or the collection.
        name: crawl, ingest or prepare.
        unit: what goes in.
        read: how many.
        left_out: how many of them were left out, by reason.
        written: how many documents, or pages, came out.
        gained: how many more documents than pages there were: a page may hold several records.
        characters: of what came out, where that is known.
        note: what else there is to know.
    """

    source: str
    name: str
    unit: str
    read: int
    left_out: Mapping[str, int]
    written: int
    gained: int = 0
    characters: int | None = None
    note: str = ""


@dataclass(frozen=True)
class Origins:
    """What is known of the crawls and collections behind a corpus.

    Attributes:
        crawls: `urls.parquet` of each source's snapshot.
        collections: `stats.json` of each ingested collection.
        skipped: `skipped.jsonl` of those that skipped something.
        notes: what else there is to know of a crawl, such as that it is incomplete.
        newer: sources whose records are of a newer snapshot than the corpus was made of.
    """

    crawls: Mapping[str, Path] = field(default_factory=dict)
    collections: Mapping[str, Mapping[str, Any]] = field(default_factory=dict)
    skipped: Mapping[str, Path] = field(default_factory=dict)
    notes: Mapping[str, str] = field(default_factory=dict)
    newer: frozenset[str] = frozenset()


def passage(corpus: Corpus, origins: Origins = Origins()) -> list[Step]:
    """The steps of all sources, as far back as `origins` lead, sorted by source."""
    kept = {
        row["source"]: row
        for row in corpus.rows(
            "SELECT source, count(*) AS documents, sum(n_chars)::BIGINT AS characters FROM documents GROUP BY source"
        )
    }
    dropped: dict[str, dict[str, int]] = {}
    for row in corpus.rows(
        "SELECT source, reason, count(*) AS number FROM dropped GROUP BY ALL ORDER BY number DESC, source, reason"
    ):
        dropped.setdefault(row["source"], {})[row["reason"]] = row["number"]
    steps = []
    for source in sorted({*kept, *dropped, *origins.crawls, *origins.collections}):
        documents = kept.get(source, {"documents": 0, "characters": 0})
        left_out = dropped.get(source, {})
        candidates = documents["documents"] + sum(left_out.values())
        read, unit = candidates, "documents"
        if source in origins.crawls:
            crawled = _crawl(corpus, source, origins.crawls[source])
            steps.append(replace(crawled, note=origins.notes.get(source, "")))
            unit = "pages"
        elif source in origins.collections:
            steps.append(_ingest(source, origins.collections[source]))
        if source in origins.newer:
            steps[-1] = replace(steps[-1], note=NEWER)
        elif steps and steps[-1].source == source:
            read = steps[-1].written
        missing = read - candidates
        steps.append(
            Step(
                source,
                "prepare",
                unit,
                read,
                {**left_out, UNACCOUNTED: missing} if missing > 0 else left_out,
                documents["documents"],
                gained=max(0, -missing),
                characters=documents["characters"],
            )
        )
    return steps


def _crawl(corpus: Corpus, source: str, urls: Path) -> Step:
    """What became of the URLs that a crawl found; those without a depth are known from the crawl before alone."""
    counts = {
        row["counted_by"]: row["number"]
        for row in corpus.rows(
            f"SELECT {counted_by()} AS counted_by, count(*) AS number FROM {parquet([urls])} WHERE depth IS NOT NULL"
            " GROUP BY ALL ORDER BY number DESC, counted_by"
        )
    }
    found, stored = sum(counts.values()), counts.pop(STORED, 0)
    return Step(source, "crawl", "URLs", found, counts, stored)


def _ingest(source: str, stats: Mapping[str, Any]) -> Step:
    """What `ingest` says of its records in `stats.json`."""
    named = {"empty": stats.get("empty", 0), "not sampled": stats.get("sampled_out", 0), **stats.get("skipped", {})}
    left_out = {reason: number for reason, number in named.items() if number}
    documents = stats["documents"]
    unread = ", ".join(f"{reason} {number:,}" for reason, number in sorted(stats.get("unread", {}).items()))
    return Step(
        source, "ingest", "records", documents + sum(left_out.values()), left_out, documents,
        characters=stats.get("characters"), note=f"files and members that were not read: {unread}" if unread else "",
    )  # fmt: skip
