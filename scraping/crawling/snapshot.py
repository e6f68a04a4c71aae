"""A finished crawl as the next one sees it: what to compare with, and the bodies of pages that did not change."""

import sqlite3
import threading
from collections import OrderedDict
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pyarrow as pa

from scraping.crawling.urls import host_of
from scraping.shards import open_parquet, shards

_CACHED_ROW_GROUPS = 2  # a recrawl meets the pages in about the order of the last one
_COLUMNS = ["url", "etag", "last_modified", "sha256"]


@dataclass(slots=True)
class Known:
    """What the snapshot knows of a page."""

    etag: str | None
    last_modified: str | None
    sha256: str
    place: tuple[int, int, int]  # shard, row group, row

    @property
    def validators(self) -> dict[str, str]:
        """Headers that let the server answer 304 (RFC 9110 13.1)."""
        headers = {}
        if self.etag:
            headers["If-None-Match"] = self.etag
        if self.last_modified:
            headers["If-Modified-Since"] = self.last_modified
        return headers


class Snapshot:
    """The pages in `folder`, by URL; empty if it is None. Its index lives in a temporary file, not in memory."""

    def __init__(self, folder: Path | None):
        self._shards = shards(folder) if folder else []
        self._lock = threading.Lock()
        self._cache: OrderedDict[tuple[int, int], pa.Table] = OrderedDict()
        self._db = sqlite3.connect("", check_same_thread=False, isolation_level=None)
        self._db.execute(
            "CREATE TABLE pages (url TEXT PRIMARY KEY, host TEXT, etag TEXT, last_modified TEXT, sha256 TEXT,"
            " shard INTEGER, row_group INTEGER, row INTEGER) WITHOUT ROWID"
        )
        self._db.execute("BEGIN")
        self._db.executemany("INSERT OR REPLACE INTO pages VALUES (?, ?, ?, ?, ?, ?, ?, ?)", self._index())
        self._db.execute("COMMIT")

    def _index(self) -> Iterator[tuple]:
        for number, path in enumerate(self._shards):
            with open_parquet(path) as file:
                for group in range(file.num_row_groups):
                    for row, page in enumerate(file.read_row_group(group, columns=_COLUMNS).to_pylist()):
                        yield (page["url"], host_of(page["url"]), page["etag"], page["last_modified"], page["sha256"],
                               number, group, row)  # fmt: skip

    def get(self, url: str) -> Known | None:
        with self._lock:
            row = self._db.execute(
                "SELECT etag, last_modified, sha256, shard, row_group, row FROM pages WHERE url = ?", (url,)
            ).fetchone()
        return Known(*row[:3], tuple(row[3:])) if row else None

    def page(self, known: Known) -> dict:
        """`body` and `content_type` of a page."""
        shard, group, row = known.place
        with self._lock:
            table = self._cache.pop((shard, group), None)
            if table is None:
                with open_parquet(self._shards[shard]) as file:
                    table = file.read_row_group(group, columns=["body", "content_type"])
            self._cache[shard, group] = table
            if len(self._cache) > _CACHED_ROW_GROUPS:
                self._cache.popitem(last=False)
        return table.slice(row, 1).to_pylist()[0]

    def urls(self, host: str | None = None) -> list[str]:
        """URLs of the pages, of one host or of all, sorted."""
        with self._lock:
            condition, parameters = ("WHERE host = ?", (host,)) if host else ("", ())
            return [url for (url,) in self._db.execute(f"SELECT url FROM pages {condition} ORDER BY url", parameters)]

    def close(self) -> None:
        self._db.close()
