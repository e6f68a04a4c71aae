"""A snapshot: the folder that a crawl leaves.

- `part-00000.parquet`, …: the pages (`shards.PAGES`), sorted by URL. Their bytes depend on the pages alone: not on when
  or in which order they came, with which validators, or where the crawl was interrupted;
- `fetches.parquet`: how each of them was fetched last (`shards.FETCHES`), in the same order;
- `urls.parquet`: every URL that was found, what became of it and why, and what changed since the previous snapshot;
- `stats.json`: the sums. It is written last: with it the snapshot is complete.

So a crawl that finds the pages unchanged differs from the one before in its records alone: all but the pages.

`PreviousSnapshot` gives the next crawl what to compare with, and the bodies of pages that did not change.
`write_reports` writes the two reports about the URLs.
"""

from __future__ import annotations

import json
import sqlite3
import threading
import time
from collections import OrderedDict
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pyarrow as pa

from scraping.crawling.frontier import Frontier, PageBody
from scraping.crawling.urls import host_of
from scraping.shards import FETCHES, PAGES, ShardWriter, merge_rows, open_parquet, read_rows, shards, write_shard
from textmill.files import atomic_write

__all__ = [
    "GIVEN_UP",
    "LINKS_DROPPED",
    "UNREAD_SITEMAP",
    "URLS",
    "PreviousPage",
    "PreviousSnapshot",
    "write_pages",
    "write_reports",
]

URLS = pa.schema(
    [
        ("url", pa.string()),
        ("outcome", pa.string()),  # stored, redirected, skipped, failed; null: not found in this crawl
        ("reason", pa.string()),  # why it was skipped or failed; where it was redirected to
        ("status", pa.int32()),
        ("change", pa.string()),  # new, changed, unchanged, kept (could not be asked for); vanished: no longer stored
        ("depth", pa.int32()),
        ("found_on", pa.string()),
    ]
)

# Notes of the frontier
GIVEN_UP = "given up: "  # this and a host -> the reason
LINKS_DROPPED = "urls passed over"  # limits.urls was met
UNREAD_SITEMAP = "unread sitemap: "  # this and a URL -> what could not be read of it

FETCHES_FILE = "fetches.parquet"
_MAX_LISTED = 100  # failed URLs in stats.json; all of them are in urls.parquet
_CACHED_ROW_GROUPS = 2  # a recrawl meets the pages in about the order of the previous one


@dataclass(slots=True)
class PreviousPage:
    """What the previous snapshot knows of a page, without its body."""

    etag: str | None
    last_modified: str | None
    sha256: str
    place: tuple[int, int, int]  # shard, row group, row

    @property
    def validators(self) -> dict[str, str]:
        """Headers that let the server answer 304: RFC 9110 (2022) section 13.1."""
        headers = {}
        if self.etag:
            headers["If-None-Match"] = self.etag
        if self.last_modified:
            headers["If-Modified-Since"] = self.last_modified
        return headers


class PreviousSnapshot:
    """The pages of a finished snapshot, by URL. The crawl's threads share it.

    Args:
        folder: the snapshot; None for one without pages. Its index is kept in a temporary file, not in memory.
    """

    def __init__(self, folder: Path | None):
        self._shards = shards(folder) if folder else []
        fetches = read_rows([folder / FETCHES_FILE]) if folder else iter(())
        self._lock = threading.Lock()
        self._cache: OrderedDict[tuple[int, int], pa.Table] = OrderedDict()
        self._db = sqlite3.connect("", check_same_thread=False, isolation_level=None)
        self._db.execute(
            "CREATE TABLE pages (url TEXT PRIMARY KEY, host TEXT, etag TEXT, last_modified TEXT, sha256 TEXT,"
            " shard INTEGER, row_group INTEGER, row INTEGER) WITHOUT ROWID"
        )
        self._db.execute("BEGIN")
        self._db.executemany("INSERT OR REPLACE INTO pages VALUES (?, ?, ?, ?, ?, ?, ?, ?)", self._index(fetches))
        self._db.execute("COMMIT")

    def _index(self, fetches: Iterator[dict[str, Any]]) -> Iterator[tuple[Any, ...]]:
        for (page, place), fetch in zip(self._pages(), fetches, strict=True):
            url = page["url"]
            yield url, host_of(url), fetch["etag"], fetch["last_modified"], page["sha256"], *place

    def _pages(self) -> Iterator[tuple[dict[str, Any], tuple[int, int, int]]]:
        """URL and hash of every page, and its place."""
        for number, path in enumerate(self._shards):
            with open_parquet(path) as file:
                for group in range(file.num_row_groups):
                    pages = file.read_row_group(group, columns=["url", "sha256"]).to_pylist()
                    yield from ((page, (number, group, row)) for row, page in enumerate(pages))

    def get(self, url: str) -> PreviousPage | None:
        """What the snapshot knows of `url`; None if it does not have it."""
        with self._lock:
            row = self._db.execute(
                "SELECT etag, last_modified, sha256, shard, row_group, row FROM pages WHERE url = ?", (url,)
            ).fetchone()
        if row is None:
            return None
        etag, last_modified, sha256, *place = row
        return PreviousPage(etag, last_modified, sha256, tuple(place))

    def body(self, page: PreviousPage) -> PageBody:
        """The page as it was, to be stored again now."""
        shard, group, row = page.place
        with self._lock:
            table = self._cache.pop((shard, group), None)
            if table is None:
                with open_parquet(self._shards[shard]) as file:
                    table = file.read_row_group(group, columns=["body", "content_type"])
            self._cache[shard, group] = table
            if len(self._cache) > _CACHED_ROW_GROUPS:
                self._cache.popitem(last=False)
        values = table.slice(row, 1).to_pylist()[0]
        now = time.time_ns() // 1000
        return PageBody(now, values["content_type"], page.etag, page.last_modified, page.sha256, values["body"])

    def urls(self, host: str | None = None) -> list[str]:
        """URLs of the pages, of one host or of all, sorted."""
        with self._lock:
            condition, parameters = ("WHERE host = ?", (host,)) if host else ("", ())
            return [url for (url,) in self._db.execute(f"SELECT url FROM pages {condition} ORDER BY url", parameters)]

    def close(self) -> None:
        self._db.close()


def write_pages(out: Path, frontier: Frontier, shard_bytes: int) -> None:
    """Write the pages, sorted by URL, in shards that end after `shard_bytes` bytes of bodies, and their fetches."""
    for leftover in shards(out):
        leftover.unlink()
    with ShardWriter(out, "part", PAGES, shard_bytes=1 << 62) as writer:

        def fetches() -> Iterator[dict[str, Any]]:
            filled = 0
            for row in merge_rows(frontier.shards(), key="url"):
                writer.write(row)
                filled += len(row["body"])
                if filled >= shard_bytes:
                    writer.cut()
                    filled = 0
                yield {name: row[name] for name in FETCHES.names}

        write_shard(out / FETCHES_FILE, fetches(), FETCHES)


def write_reports(out: Path, frontier: Frontier, previous: PreviousSnapshot) -> None:
    """Write `urls.parquet`, a row for each URL, and `stats.json`, the sums."""
    vanished = dict.fromkeys(url for url in previous.urls() if not frontier.is_stored(url))
    write_shard(out / "urls.parquet", _url_rows(frontier, vanished), URLS)
    stats = {
        "pages": _count(frontier, "SELECT count(*) FROM urls WHERE outcome = 'stored'"),
        "bytes": _count(frontier, "SELECT coalesce(sum(bytes), 0) FROM urls WHERE outcome = 'stored'"),
        "found": _count(frontier, "SELECT count(*) FROM urls"),
        "found_all": frontier.get_note(LINKS_DROPPED) is None,
        "redirected": _count(frontier, "SELECT count(*) FROM urls WHERE outcome = 'redirected'"),
        "status": _counts(frontier, "SELECT status, count(*) FROM urls WHERE status IS NOT NULL GROUP BY 1"),
        "skipped": _counts(frontier, "SELECT reason, count(*) FROM urls WHERE outcome = 'skipped' GROUP BY 1"),
        "failed": _counts(frontier, "SELECT reason, count(*) FROM urls WHERE outcome = 'failed' GROUP BY 1"),
        "failed_urls": [
            {"url": url, "reason": reason}
            for url, reason in frontier.query(
                "SELECT url, reason FROM urls WHERE outcome = 'failed' ORDER BY url LIMIT ?", _MAX_LISTED
            )
        ],
        "hosts": _counts(frontier, "SELECT host, count(*) FROM urls WHERE outcome = 'stored' GROUP BY 1"),
        "given_up": _noted(frontier, GIVEN_UP),
        "unread_sitemaps": _noted(frontier, UNREAD_SITEMAP),
        "changes": {
            "new": 0, "changed": 0, "unchanged": 0, "kept": 0,
            **_counts(frontier, "SELECT change, count(*) FROM urls WHERE outcome = 'stored' GROUP BY 1"),
            "vanished": len(vanished),
        },
    }  # fmt: skip
    atomic_write(out / "stats.json", json.dumps(stats, indent=2, sort_keys=True) + "\n")


def _url_rows(frontier: Frontier, vanished: dict[str, None]) -> Iterator[dict[str, Any]]:
    rows = frontier.stream(
        "SELECT u.url, u.outcome, u.reason, u.status, u.change, u.depth, p.url FROM urls u"
        " LEFT JOIN urls p ON p.id = u.parent ORDER BY u.id"
    )
    not_found = dict(vanished)
    for values in rows:
        row = dict(zip(URLS.names, values, strict=True))
        if row["url"] in vanished:
            row["change"] = "vanished"
            not_found.pop(row["url"])
        yield row
    for url in not_found:
        yield {"url": url, "change": "vanished"}


def _noted(frontier: Frontier, prefix: str) -> dict[str, str]:
    """Notes that begin with `prefix`, by the rest of their keys."""
    rows = frontier.query("SELECT key, value FROM notes WHERE key LIKE ? || '%' ORDER BY key", prefix)
    return {key.removeprefix(prefix): value for key, value in rows}


def _count(frontier: Frontier, sql: str) -> int:
    return frontier.query(sql)[0][0]


def _counts(frontier: Frontier, sql: str) -> dict[str, int]:
    return {str(key): count for key, count in frontier.query(sql)}
