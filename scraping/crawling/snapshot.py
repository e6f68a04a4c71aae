"""A snapshot: the folder that a crawl leaves.

- `part-00000.parquet`, …: the pages (`shards.PAGES`), sorted by URL. Their bytes depend on the pages alone: not on when
  or in which order they came, with which validators, or where the crawl was interrupted;
- `fetches.parquet`: how each of them was fetched last (`shards.FETCHES`), in the same order;
- `urls.parquet`: every URL that was found, what became of it and why, and what changed since the previous snapshot;
- `stats.json`: the sums. It is written last: with it the snapshot is sealed.

So a crawl that finds the pages unchanged differs from the one before in its records alone: all but the pages.

`PreviousSnapshot` gives the next crawl what to compare with, and the bodies of pages that did not change.
`restore_snapshot` lets the next crawl go on where this one gave up. `write_reports` writes the two reports about the
URLs.
"""

from __future__ import annotations

import json
import sqlite3
import threading
import time
from collections import Counter, OrderedDict
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pyarrow as pa

from scraping.crawling.answers.reservations import RESERVED
from scraping.crawling.frontier import Frontier, PageBody
from scraping.crawling.urls import host_of, origin_of
from scraping.shards import (
    FETCHES,
    FETCHES_FILE,
    PAGES,
    URLS_FILE,
    ShardWriter,
    merge_rows,
    open_parquet,
    read_rows,
    shards,
    write_shard,
)
from textmill.files import atomic_write

__all__ = [
    "GIVEN_UP", "LEFT_OUT_SITEMAP", "LINKS_DROPPED", "LONG_PAGE", "NOT_LOADED", "PAGE_LIMIT", "SITEMAPS_OWED",
    "SITEMAPS_READ", "SITEMAPS_TOLD", "UNREAD_SITEMAP", "UNREAD_TDM_FILE", "URLS", "PreviousPage", "PreviousSnapshot",
    "restore_snapshot", "write_pages", "write_reports",
]  # fmt: skip

URLS = pa.schema(
    [
        ("url", pa.string()),
        ("outcome", pa.string()),  # stored, redirected, skipped, failed; null: not found in this crawl
        ("reason", pa.string()),  # why it was skipped or failed; where it was redirected to; how a page is reserved
        ("status", pa.int32()),
        ("change", pa.string()),  # new, changed, unchanged, kept (could not be asked for); vanished: no longer stored
        ("depth", pa.int32()),
        ("found_on", pa.string()),
        ("hops", pa.int32()),  # redirects on the way
        ("canonical", pa.string()),  # what a stored page says is its proper URL, if it is another
        ("unfinished", pa.bool_()),  # the next crawl asks again: the host was given up, or gave no usable answer
    ]
)

# Notes of the frontier
GIVEN_UP = "given up: "  # this and a host -> the reason
LINKS_DROPPED = "urls passed over"  # limits.urls was met
UNREAD_SITEMAP = "unread sitemap: "  # this and a URL -> what could not be read of it
LEFT_OUT_SITEMAP = "left-out sitemap: "  # this and a URL -> why it was not read, or gave nothing
SITEMAPS_READ = "sitemaps of "  # this and an origin -> how many URLs they list
SITEMAPS_OWED = "sitemaps owed: "  # this and an origin: sitemaps that it names gave no answer, and may later
SITEMAPS_TOLD = "sitemaps told: "  # this and an origin -> the sitemaps above that it names, as JSON
LONG_PAGE = "long page: "  # this and a URL -> how many of its links were read
UNREAD_TDM_FILE = "unread TDM file: "  # this and a URL -> why it could not be read
NOT_LOADED = "not loaded: "  # this and a reason -> how many requests of rendered pages
_NOTED = {
    UNREAD_SITEMAP: "unread_sitemaps", LEFT_OUT_SITEMAP: "left_out_sitemaps", UNREAD_TDM_FILE: "unread_tdm_files",
    LONG_PAGE: "long_pages", SITEMAPS_TOLD: "sitemaps_told",
}  # fmt: skip  # notes -> their names in stats.json
_CONTINUES = "continues"  # how many URLs of the previous crawl were queued again
_AS_OF = "as of"  # when the previous crawl, which this one continues, ended

PAGE_LIMIT = "page limit"
_LIMITS = {
    PAGE_LIMIT: "pages", "too many query strings": "variants", "too many similar URLs": "similar", "too deep": "depth",
    "repeating path": "repeats", "repeating query": "repeats",
}  # fmt: skip  # reason to skip a URL -> the limit that was met

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
            "CREATE TABLE pages (url TEXT PRIMARY KEY, origin TEXT, etag TEXT, last_modified TEXT, sha256 TEXT,"
            " shard INTEGER, row_group INTEGER, row INTEGER) WITHOUT ROWID"
        )
        self._db.execute("BEGIN")
        self._db.executemany("INSERT OR REPLACE INTO pages VALUES (?, ?, ?, ?, ?, ?, ?, ?)", self._index(fetches))
        self._db.execute("COMMIT")

    def _index(self, fetches: Iterator[dict[str, Any]]) -> Iterator[tuple[Any, ...]]:
        for (page, place), fetch in zip(self._pages(), fetches, strict=True):
            url = page["url"]
            yield url, origin_of(url), fetch["etag"], fetch["last_modified"], page["sha256"], *place

    def _pages(self) -> Iterator[tuple[dict[str, Any], tuple[int, int, int]]]:
        """URL and hash of every page, and its place."""
        for number, path in enumerate(self._shards):
            with open_parquet(path) as file:
                for group in range(file.num_row_groups):
                    pages = file.read_row_group(group, columns=["url", "sha256"]).to_pylist()
                    yield from ((page, (number, group, row)) for row, page in enumerate(pages))

    def get(self, url: str) -> PreviousPage | None:
        """What the snapshot knows of `url`; None if it does not have it."""
        if not self._shards:
            return None
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
                    table = file.read_row_group(group, columns=["body", "content_type", "rendered"])
            self._cache[shard, group] = table
            if len(self._cache) > _CACHED_ROW_GROUPS:
                self._cache.popitem(last=False)
        values = table.slice(row, 1).to_pylist()[0]
        now = time.time_ns() // 1000
        validators = (page.etag, page.last_modified, page.sha256)
        return PageBody(now, values["content_type"], *validators, values["body"], bool(values.get("rendered")))

    def urls(self, origin: str | None = None) -> list[str]:
        """URLs of the pages, of one origin or of all, sorted."""
        with self._lock:
            condition, parameters = ("WHERE origin = ?", (origin,)) if origin else ("", ())
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


def restore_snapshot(frontier: Frontier, folder: Path) -> None:
    """Begin the crawl of an empty frontier where that of the snapshot in `folder` ended.

    Its pages stay as they are, and the URLs that it did not finish are queued again.
    """
    stats = json.loads((folder / "stats.json").read_bytes())
    fetches = [folder / FETCHES_FILE]
    ended = max(row["fetched_at"] for row in read_rows(fetches, ["fetched_at"]))
    notes = {_CONTINUES: str(stats["unfinished"]), _AS_OF: stats.get("as_of") or ended.isoformat()}
    notes |= {f"{SITEMAPS_OWED}{origin}": "" for origin in stats.get("sitemaps_owed", ())}
    for prefix, name in _NOTED.items():
        notes |= {f"{prefix}{url}": reason for url, reason in stats.get(name, {}).items()}
    if not stats["found_all"]:
        notes[LINKS_DROPPED] = ""
    urls = (row for row in read_rows([folder / URLS_FILE]) if row["depth"] is not None)
    pages = zip(read_rows(shards(folder)), read_rows(fetches), strict=True)
    frontier.restore(urls, ({**page, **fetch} for page, fetch in pages), notes)


def write_reports(out: Path, frontier: Frontier, previous: PreviousSnapshot) -> None:
    """Write `urls.parquet`, a row for each URL, and `stats.json`, the sums."""
    vanished = dict.fromkeys(url for url in previous.urls() if not frontier.is_stored(url))
    write_shard(out / URLS_FILE, _url_rows(frontier, vanished), URLS)
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
        "unanswered": _count(frontier, f"SELECT count(*) FROM urls WHERE {_UNANSWERED} AND NOT ({_WAITING})"),
        "waiting": _count(frontier, f"SELECT count(*) FROM urls WHERE {_WAITING}"),
        "limits_met": _limits_met(frontier),
        "hosts": _hosts(frontier),
        "given_up": frontier.notes(GIVEN_UP),
        "reserved": _counts(
            frontier, f"SELECT reason, count(*) FROM urls WHERE reason LIKE '{RESERVED}%' GROUP BY 1"
        ),
        **{name: frontier.notes(prefix) for prefix, name in _NOTED.items()},
        "sitemaps_owed": list(frontier.notes(SITEMAPS_OWED)),
        "not_loaded": {reason: int(number) for reason, number in frontier.notes(NOT_LOADED).items()},
        "changes": {
            "new": 0, "changed": 0, "unchanged": 0, "kept": 0,
            **_counts(frontier, "SELECT change, count(*) FROM urls WHERE outcome = 'stored' GROUP BY 1"),
            "vanished": len(vanished),
        },
        **_continuation(frontier),
    }  # fmt: skip
    atomic_write(out / "stats.json", json.dumps(stats, indent=2, sort_keys=True) + "\n")


# Rows of the frontier, as conditions in SQL. Of an origin without any page it is not known that its URLs are pages.
_GIVEN_UP = "outcome = 'failed' AND reason = 'host given up'"
_WAITING = (
    f"outcome = 'skipped' AND reason = '{PAGE_LIMIT}'"
    f" OR {_GIVEN_UP} AND origin IN (SELECT origin FROM urls WHERE outcome = 'stored')"
)
_DEAD_LINK = "reason != 'host given up' AND status BETWEEN 400 AND 499"  # the server's last word
_UNANSWERED = f"outcome = 'failed' AND (unfinished OR NOT ({_GIVEN_UP}) AND NOT coalesce({_DEAD_LINK}, 0))"


def _limits_met(frontier: Frontier) -> list[str]:
    """The names of the limits because of which URLs were left out: the source's, and `links`, that of a page."""
    reasons = frontier.query("SELECT DISTINCT reason FROM urls WHERE outcome = 'skipped'")
    met = {_LIMITS[reason] for (reason,) in reasons if reason in _LIMITS}
    noted = {"urls": frontier.get_note(LINKS_DROPPED) is not None, "links": bool(frontier.notes(LONG_PAGE))}
    return sorted(met | {name for name, is_met in noted.items() if is_met})


def _hosts(frontier: Frontier) -> dict[str, int]:
    """How many pages of each host are stored."""
    hosts: Counter[str] = Counter()
    for origin, count in frontier.query("SELECT origin, count(*) FROM urls WHERE outcome = 'stored' GROUP BY 1"):
        hosts[host_of(origin)] += count
    return dict(hosts)


def _continuation(frontier: Frontier) -> dict[str, Any]:
    """What the next crawl needs to know to go on with this one.

    - `unfinished`: how many URLs it is to ask for again, and of how many origins for sitemaps;
    - `settled`: whether it need not, because this crawl was a continuation already and got nothing. Of a host that gave
      pages there is always more to be had;
    - `as_of`: when the first of the crawls ended that this one continues.
    """
    unfinished = _count(frontier, "SELECT count(*) FROM urls WHERE unfinished") + len(frontier.notes(SITEMAPS_OWED))
    asked, as_of = frontier.get_note(_CONTINUES), frontier.get_note(_AS_OF)
    waiting = _count(frontier, f"SELECT count(*) FROM urls WHERE ({_WAITING}) AND unfinished")
    got = _count(frontier, "SELECT count(*) FROM urls WHERE outcome = 'stored' AND change IN ('new', 'changed')")
    settled = asked is not None and unfinished >= int(asked) and not (waiting or got)
    return {"unfinished": unfinished, "settled": settled} | ({"as_of": as_of} if as_of else {})


def _url_rows(frontier: Frontier, vanished: dict[str, None]) -> Iterator[dict[str, Any]]:
    rows = frontier.stream(
        "SELECT u.url, u.outcome, u.reason, u.status, u.change, u.depth, p.url, u.hops, u.canonical, u.unfinished"
        " FROM urls u"
        " LEFT JOIN urls p ON p.id = u.parent ORDER BY u.id"
    )
    not_found = dict(vanished)
    for values in rows:
        row = dict(zip(URLS.names, values, strict=True))
        row["unfinished"] = bool(row["unfinished"])
        if row["url"] in vanished:
            row["change"] = "vanished"
            not_found.pop(row["url"])
        yield row
    for url in not_found:
        yield {"url": url, "change": "vanished"}


def _count(frontier: Frontier, sql: str) -> int:
    return frontier.query(sql)[0][0]


def _counts(frontier: Frontier, sql: str) -> dict[str, int]:
    return {str(key): count for key, count in frontier.query(sql)}
