"""The frontier: every URL of a crawl and what became of it, and the pages that are not in a shard yet, in SQLite.

A page, its links and the outcome of its URL are one transaction, so kill -9 at any moment leaves each URL either queued
or done, and each page stored once. Pages are spooled here and moved to Parquet a shard at a time: the shard is written,
made durable and renamed first; then its pages are deleted and the shard is recorded in one transaction. A file that is
not recorded is thrown away at the next start, when its pages are still here. These shards are the crawl's own: each is
sorted by URL, and `snapshot.write_pages` merges them when all pages are there.

URLs are queued in the order in which they were found: breadth first, and the same order after a restart. One that is
put back has its next turn after all that are queued by then.
"""

from __future__ import annotations

import sqlite3
import threading
import time
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from pathlib import Path
from types import MappingProxyType
from typing import Any

import pyarrow as pa

from scraping.crawling.fetch import MAX_REDIRECTS
from scraping.crawling.urls import origin_of
from scraping.shards import FETCHES, PAGES, Row, ShardWriter, shards, write_shard

__all__ = ["FoundUrl", "Frontier", "PageBody", "QueuedUrl", "remove_frontier"]

_FILE = "frontier.sqlite"
_SHARD = "crawled"
_CRAWLED = pa.unify_schemas([PAGES, FETCHES])
_DISPENSABLE = "canonical URL of a stored page"
_UNLESS_LINKED = f"('nofollow', '{_DISPENSABLE}')"  # reasons to skip a URL that a page's link overrules
_EPOCH = datetime(1970, 1, 1, tzinfo=UTC)

_SCHEMA = """
CREATE TABLE IF NOT EXISTS urls (
    id INTEGER PRIMARY KEY,
    url TEXT NOT NULL UNIQUE,
    origin TEXT NOT NULL,
    parent INTEGER,           -- the page that it was found on
    depth INTEGER NOT NULL,
    hops INTEGER NOT NULL,    -- redirects on the way
    turn INTEGER NOT NULL,    -- its place in the queue
    attempts INTEGER NOT NULL DEFAULT 0,
    not_before REAL NOT NULL DEFAULT 0,  -- seconds since the epoch: when it may be asked for again
    outcome TEXT,             -- NULL: queued; stored, redirected, skipped, failed
    reason TEXT,              -- why it was skipped or failed; where it was redirected to; how a stored page is reserved
    unfinished INTEGER NOT NULL DEFAULT 0,  -- whether the next crawl is to ask again although this one has ended
    status INTEGER,           -- of the last answer
    change TEXT,              -- of a stored page: new, changed, unchanged, kept
    bytes INTEGER,            -- of a stored page
    canonical TEXT            -- what a stored page says is its proper URL, if it is another
);
CREATE INDEX IF NOT EXISTS waiting ON urls (origin, turn) WHERE outcome IS NULL;
CREATE TABLE IF NOT EXISTS spool (
    id INTEGER PRIMARY KEY,   -- of the URL
    fetched_at INTEGER, content_type TEXT, etag TEXT, last_modified TEXT, sha256 TEXT, body BLOB,
    rendered INTEGER,
    canonical TEXT            -- as above, until `resolve_canonicals` has decided
);
CREATE TABLE IF NOT EXISTS canonical_only (url TEXT PRIMARY KEY);  -- pages name it as canonical, and none links to it
CREATE TABLE IF NOT EXISTS shards (name TEXT PRIMARY KEY);
CREATE TABLE IF NOT EXISTS notes (key TEXT PRIMARY KEY, value TEXT);
"""


@dataclass(slots=True)
class FoundUrl:
    """A URL that was found for the first time, or for the first time otherwise than as a page's canonical one.

    Attributes:
        skip_reason: why it will not be fetched.
        is_canonical: whether it was found as a page's canonical URL.
    """

    url: str
    skip_reason: str | None = None
    is_canonical: bool = False


@dataclass(slots=True)
class QueuedUrl:
    """A URL whose turn has come."""

    id: int
    url: str
    depth: int  # links between a start URL and it
    hops: int  # redirects on the way to it
    attempts: int  # requests for it that gave no usable answer


@dataclass(slots=True)
class PageBody:
    """A page to be stored."""

    fetched_at: int  # microseconds since the epoch
    content_type: str
    etag: str | None
    last_modified: str | None
    sha256: str
    body: bytes
    rendered: bool = False
    canonical: str | None = None  # another URL that the page names as its canonical one
    reserved: str | None = None  # how its owner reserves it from training, although it is stored


class Frontier:
    """The frontier of one crawl; its threads share it.

    Args:
        folder: where its file is, and where the shards go. An earlier crawl's frontier in it is continued.
        source: name of the source, for the pages' column.
        shard_bytes: bytes of pages after which a shard is full.
    """

    def __init__(self, folder: Path, source: str, shard_bytes: int):
        self._folder, self._source, self._shard_bytes = folder, source, shard_bytes
        self._lock = threading.RLock()
        self._db = sqlite3.connect(folder / _FILE, check_same_thread=False, isolation_level=None)
        self._db.execute("PRAGMA journal_mode=WAL")
        self._db.execute("PRAGMA synchronous=NORMAL")  # survives the process; a power cut may cost the last pages
        self._db.executescript(_SCHEMA)
        recorded = {name for (name,) in self._db.execute("SELECT name FROM shards")}
        for path in shards(folder, _SHARD):
            if path.name not in recorded:
                path.unlink()
        self._spooled = self._one("SELECT coalesce(sum(length(body)), 0) FROM spool WHERE canonical IS NULL")
        self._next_turn = self._one("SELECT coalesce(max(turn), 0) + 1 FROM urls")

    def close(self) -> None:
        with self._lock:
            self._db.close()

    # --- notes: facts about the crawl that survive a restart ---

    def set_note(self, key: str, value: str | None) -> None:
        """Keep a note, or delete the one that there is."""
        with self._transaction():
            self._note(key, value)

    def _note(self, key: str, value: str | None) -> None:
        if value is None:
            self._db.execute("DELETE FROM notes WHERE key = ?", (key,))
        else:
            self._db.execute("INSERT OR REPLACE INTO notes VALUES (?, ?)", (key, value))

    def get_note(self, key: str) -> str | None:
        with self._lock:
            row = self._db.execute("SELECT value FROM notes WHERE key = ?", (key,)).fetchone()
        return row[0] if row else None

    def notes(self, prefix: str) -> dict[str, str]:
        """Notes whose keys begin with `prefix`, by the rest of their keys, sorted."""
        rows = self.query("SELECT key, value FROM notes WHERE substr(key, 1, ?) = ? ORDER BY key", len(prefix), prefix)
        return {key.removeprefix(prefix): value for key, value in rows}

    def add_to_note(self, key: str, number: int) -> None:
        """Add to the number that a note holds."""
        with self._transaction():
            self._db.execute(
                "INSERT INTO notes VALUES (?, ?) ON CONFLICT (key) DO UPDATE SET value = value + excluded.value",
                (key, number),
            )

    # --- what an earlier crawl left ---

    def restore(self, urls: Iterable[Row], pages: Iterable[Row], notes: Mapping[str, str]) -> None:
        """Begin where a finished crawl ended, all in one transaction: what it did not finish is queued again.

        Args:
            urls: its URLs in order, as `snapshot.URLS` has them.
            pages: its pages with their fetches, sorted by URL.
            notes: to be kept, by key.
        """
        decided = ("outcome", "reason", "status", "canonical")
        with self._transaction():
            self._db.executemany(
                "INSERT INTO urls (url, origin, parent, depth, hops, turn, outcome, reason, status, canonical)"
                " VALUES (?, ?, (SELECT id FROM urls WHERE url = ?), ?, ?, ?, ?, ?, ?, ?)",
                (
                    (
                        *(row["url"], origin_of(row["url"]), row["found_on"], row["depth"], row["hops"], turn),
                        *(None if row["unfinished"] else row[name] for name in decided),
                    )
                    for turn, row in enumerate(urls, 1)
                ),
            )
            self._next_turn = self._one("SELECT coalesce(max(turn), 0) + 1 FROM urls")
            with ShardWriter(self._folder, _SHARD, _CRAWLED, shard_bytes=self._shard_bytes) as writer:
                for page in pages:
                    self._restore_page(page, writer)
            self._db.executemany("INSERT INTO shards VALUES (?)", [(path.name,) for path in self.shards()])
            self._db.executemany("INSERT OR REPLACE INTO notes VALUES (?, ?)", notes.items())

    def _restore_page(self, page: Row, writer: ShardWriter) -> None:
        """Put the page of a finished URL into a shard; one with another canonical URL is to be decided about again."""
        [(id_, outcome, canonical)] = self.query("SELECT id, outcome, canonical FROM urls WHERE url = ?", page["url"])
        if outcome is None:
            return
        self._db.execute("UPDATE urls SET change = 'unchanged', bytes = ? WHERE id = ?", (len(page["body"]), id_))
        if canonical is None:
            writer.write(page)
        else:
            fetched_at = (page["fetched_at"] - _EPOCH) // timedelta(microseconds=1)
            names = ("content_type", "etag", "last_modified", "sha256", "body", "rendered")
            row = (id_, fetched_at, *(page.get(name) for name in names), canonical)
            self._db.execute("INSERT INTO spool VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?)", row)

    # --- the queue ---

    def seed(
        self, urls: Iterable[FoundUrl], depth: int = 0, notes: Mapping[str, str | None] = MappingProxyType({})
    ) -> None:
        """Add URLs that no page of this crawl linked to, and set notes in the same transaction."""
        with self._transaction():
            self._add(urls, None, depth, 0)
            for key, value in notes.items():
                self._note(key, value)

    def next_urls(self, origin: str, limit: int = 100, *, due: bool = True) -> list[QueuedUrl]:
        """The next URLs of `origin` in the queue; all of them if `limit` is -1.

        Args:
            origin: as `urls.origin_of` gives it.
            limit: how many at most.
            due: leave out those that may not be asked for yet.
        """
        with self._lock:
            rows = self._db.execute(
                "SELECT id, url, depth, hops, attempts FROM urls WHERE origin = ? AND outcome IS NULL"
                " AND (not_before <= ? OR NOT ?) ORDER BY turn LIMIT ?",
                (origin, time.time(), due, limit),
            )
            return [QueuedUrl(*row) for row in rows]

    def seconds_until_due(self, origin: str) -> float | None:
        """Seconds until a queued URL of `origin` may be asked for; None if there is none."""
        rows = self.query("SELECT min(not_before) FROM urls WHERE origin = ? AND outcome IS NULL", origin)
        return None if rows[0][0] is None else max(0.0, rows[0][0] - time.time())

    def queued_origins(self) -> list[str]:
        """Origins with queued URLs, sorted."""
        # One look into the index per origin, however many URLs are queued.
        rows = self.query(
            "WITH RECURSIVE origins (origin) AS (SELECT min(origin) FROM urls WHERE outcome IS NULL UNION ALL"
            " SELECT (SELECT min(urls.origin) FROM urls WHERE outcome IS NULL AND urls.origin > origins.origin)"
            " FROM origins WHERE origin IS NOT NULL) SELECT origin FROM origins WHERE origin IS NOT NULL"
        )
        return [origin for (origin,) in rows]

    def count_queued(self) -> int:
        return self._one("SELECT count(*) FROM urls WHERE outcome IS NULL")

    def count_answered(self) -> int:
        """How many URLs a server gave a usable answer for."""
        return self._one(
            "SELECT count(*) FROM urls WHERE status IS NOT NULL AND outcome IS NOT NULL AND NOT unfinished"
        )

    def answered_url(self, origin: str) -> str | None:
        """A URL of `origin` that was answered well, the last of them in the queue; if possible a page."""
        for condition in ("outcome = 'stored' AND NOT unfinished", "outcome IS NOT NULL AND status < 500"):
            rows = self.query(f"SELECT url FROM urls WHERE origin = ? AND {condition} ORDER BY id DESC LIMIT 1", origin)
            if rows:
                return str(rows[0][0])
        return None

    def found_urls(self) -> Iterator[str]:
        """All URLs found so far, in order, but for those that are asked for if a link leads there. To be used as
        `stream` is."""
        rows = self.stream(f"SELECT url FROM urls WHERE reason IS NULL OR reason NOT IN {_UNLESS_LINKED} ORDER BY id")
        yield from (url for (url,) in rows)

    def canonical_only(self) -> Iterator[str]:
        """URLs that pages name as canonical and that no page links to. To be used as `stream` is."""
        yield from (url for (url,) in self.stream("SELECT url FROM canonical_only"))

    def give_up(self, origin: str, note: tuple[str, str], *, unfinished: bool) -> None:
        """Nothing more will be fetched of `origin`: its queued URLs have failed. `note` (key, value) is kept with that.

        If they are `unfinished`, the next crawl is to ask for them.
        """
        with self._transaction():
            self._note(*note)
            self._db.execute(
                "UPDATE urls SET outcome = 'failed', reason = 'host given up', unfinished = ?"
                " WHERE outcome IS NULL AND origin = ?",
                (unfinished, origin),
            )

    def close_queue(self, reason: str) -> None:
        """Nothing more will be fetched: the queued URLs are skipped, but for those that were put back, which failed."""
        with self._transaction():
            self._db.execute(
                "UPDATE urls SET outcome = 'failed', unfinished = 1 WHERE outcome IS NULL AND attempts > 0"
            )
            self._db.execute("UPDATE urls SET outcome = 'skipped', reason = ? WHERE outcome IS NULL", (reason,))

    def fail_circles(self) -> list[QueuedUrl]:
        """Let redirects that end nowhere, because they lead in a circle, be failures that the next crawl asks for.

        Returns:
            their URLs.
        """
        target_of = dict(
            self.query(
                "SELECT a.url, a.reason FROM urls a JOIN urls b ON b.url = a.reason"
                " WHERE a.outcome = 'redirected' AND b.outcome = 'redirected'"
            )
        )
        ends: dict[str, bool] = {}
        for url in target_of:
            passed = []
            while url in target_of and url not in ends:
                ends[url] = False  # until its end is found
                passed.append(url)
                url = target_of[url]
            if ends.get(url, True):
                ends.update(dict.fromkeys(passed, True))
        with self._transaction():
            self._db.executemany(
                "UPDATE urls SET outcome = 'failed', reason = 'redirects in a circle', unfinished = 1 WHERE url = ?",
                [(url,) for url, has_end in ends.items() if not has_end],
            )
        rows = self.query(
            "SELECT id, url, depth, hops, attempts FROM urls"
            " WHERE outcome = 'failed' AND reason = 'redirects in a circle' ORDER BY id"
        )
        return [QueuedUrl(*row) for row in rows]

    # --- what becomes of a URL ---

    def store(
        self, item: QueuedUrl, status: int | None, change: str, page: PageBody, links: Iterable[FoundUrl]
    ) -> None:
        """Store the page and add its links.

        Args:
            item: its URL.
            status: of the answer; None if there was none.
            change: since the previous snapshot: new, changed, unchanged, or kept (it could not be asked for).
            page: what to store.
            links: the new URLs on the page.
        """
        validators, content = (page.etag, page.last_modified, page.sha256), (page.body, page.rendered, page.canonical)
        row = (item.id, page.fetched_at, page.content_type, *validators, *content)
        with self._transaction():
            self._db.execute("INSERT INTO spool VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?)", row)
            self._db.execute(
                "UPDATE urls SET outcome = 'stored', reason = ?, status = coalesce(?, status), unfinished = ?,"
                " change = ?, bytes = ?, canonical = ? WHERE id = ?",
                (page.reserved, status, change == "kept", change, len(page.body), page.canonical, item.id),
            )
            self._add(links, item.id, item.depth + 1, 0)
        if page.canonical is None:
            self._spooled += len(page.body)

    def skip(self, item: QueuedUrl, reason: str, status: int | None = None, links: Iterable[FoundUrl] = ()) -> None:
        """Do not store the page, but add its links, if any."""
        with self._transaction():
            self._finish(item, "skipped", reason, status)
            self._add(links, item.id, item.depth + 1, 0)

    def redirect(
        self, item: QueuedUrl, status: int, target: str, found: Iterable[FoundUrl], *, again: bool = False
    ) -> None:
        """The URL leads to `target`, which is fetched in its own turn, once; `found` holds it if it is new.

        With `again` a target that was redirected itself gets another turn: the crawl has cookies for it now.
        """
        with self._transaction():
            self._finish(item, "redirected", target, status)
            self._add(found, item.id, item.depth, item.hops + 1)
            if again:
                self._db.execute(
                    "UPDATE urls SET outcome = NULL, reason = NULL, hops = ? WHERE url = ? AND outcome = 'redirected'",
                    (item.hops + 1, target),
                )

    def fail(self, item: QueuedUrl, reason: str, status: int | None = None, *, unfinished: bool = False) -> None:
        """There is no page to be had; if it is `unfinished`, perhaps in the next crawl."""
        with self._transaction():
            self._finish(item, "failed", reason, status, unfinished=unfinished)

    def put_back(self, item: QueuedUrl, reason: str, status: int | None, seconds: float) -> None:
        """Count an attempt; the URL's next turn is after all others, and after `seconds` at the earliest."""
        with self._transaction():
            self._db.execute(
                "UPDATE urls SET attempts = ?, reason = ?, status = ?, turn = ?, not_before = ? WHERE id = ?",
                (item.attempts + 1, reason, status, self._next_turn, time.time() + seconds, item.id),
            )
            self._next_turn += 1

    def _finish(
        self, item: QueuedUrl, outcome: str, reason: str | None, status: int | None, *, unfinished: bool = False
    ) -> None:
        self._db.execute(
            "UPDATE urls SET outcome = ?, reason = ?, status = coalesce(?, status), unfinished = ? WHERE id = ?",
            (outcome, reason, status, unfinished, item.id),
        )

    def _add(self, urls: Iterable[FoundUrl], parent: int | None, depth: int, hops: int) -> None:
        urls = list(urls)
        if not urls:
            return
        # A link that one page marks nofollow may be followed from another page.
        self._db.executemany(
            f"DELETE FROM urls WHERE url = ? AND outcome = 'skipped' AND reason IN {_UNLESS_LINKED}",
            [(u.url,) for u in urls if not u.skip_reason],
        )
        self._db.executemany(
            "DELETE FROM canonical_only WHERE url = ?",
            [(u.url,) for u in urls if not (u.skip_reason or u.is_canonical)],
        )
        self._db.executemany(
            "INSERT OR IGNORE INTO canonical_only SELECT ?1 WHERE NOT EXISTS (SELECT 1 FROM urls WHERE url = ?1)",
            [(u.url,) for u in urls if u.is_canonical],
        )
        self._db.executemany(
            "INSERT OR IGNORE INTO urls (url, origin, parent, depth, hops, turn, outcome, reason)"
            " VALUES (?, ?, ?, ?, ?, ?, ?, ?)",
            [
                (u.url, origin_of(u.url), parent, depth, hops, turn, u.skip_reason and "skipped", u.skip_reason)
                for turn, u in enumerate(urls, self._next_turn)
            ],
        )
        self._next_turn += len(urls)

    # --- shards ---

    def cut_shard_if_full(self) -> None:
        """Write a shard when enough pages are spooled."""
        if self._spooled >= self._shard_bytes:
            self.cut_shard()

    def cut_shard(self) -> None:
        """Move the spooled pages to the next shard; those with another canonical URL stay for `resolve_canonicals`."""
        with self._lock:
            if not self._one("SELECT count(*) FROM spool WHERE canonical IS NULL"):
                return
            name = f"{_SHARD}-{self._one('SELECT count(*) FROM shards'):05d}.parquet"
            write_shard(self._folder / name, self._spooled_pages(), _CRAWLED)
            with self._transaction():
                self._db.execute("INSERT INTO shards VALUES (?)", (name,))
                self._db.execute("DELETE FROM spool WHERE canonical IS NULL")
            self._spooled = 0

    def shards(self) -> list[Path]:
        """The shards so far: rows of pages and of their fetches, each sorted by URL."""
        return shards(self._folder, _SHARD)

    def resolve_canonicals(self) -> None:
        """Drop the pages whose canonical URL is here, too: they are duplicates.

        Where that URL is not here, or where pages name each other in a circle, the page that was found first stays.
        A URL without a usable answer that is the canonical one of a page that stays is missed by nobody, if no page
        links to it or its host was given up.
        """
        with self._transaction():
            canonicals = dict(
                self._db.execute(
                    "SELECT url, spool.canonical FROM spool JOIN urls USING (id)"
                    " WHERE spool.canonical IS NOT NULL ORDER BY id"
                ).fetchall()
            )
            kept: set[str] = set()
            for url in canonicals:
                target, seen = self._redirect_target(canonicals[url]), {url}
                while target in canonicals and target not in kept and target not in seen:
                    seen.add(target)
                    target = self._redirect_target(canonicals[target])
                if target in kept or (target not in canonicals and self.is_stored(target)):
                    self._drop_duplicate(url)
                else:
                    kept.add(url)
            self._db.execute("UPDATE spool SET canonical = NULL")
            self._db.execute(
                f"UPDATE urls SET outcome = 'skipped', reason = '{_DISPENSABLE}', unfinished = 0"
                " WHERE outcome = 'failed' AND (unfinished OR coalesce(status, 0) NOT BETWEEN 400 AND 499)"
                " AND url IN (SELECT canonical FROM urls WHERE canonical IS NOT NULL AND outcome = 'stored')"
                " AND (reason = 'host given up' OR url IN (SELECT url FROM canonical_only))"
            )

    def _drop_duplicate(self, url: str) -> None:
        self._db.execute("DELETE FROM spool WHERE id = (SELECT id FROM urls WHERE url = ?)", (url,))
        self._db.execute(
            "UPDATE urls SET outcome = 'skipped', reason = 'canonical elsewhere', change = NULL, bytes = NULL,"
            " unfinished = 0 WHERE url = ?",
            (url,),
        )

    def _redirect_target(self, url: str) -> str:
        """Where `url` was redirected to in the end; `url` itself if it was not."""
        for _ in range(MAX_REDIRECTS):
            rows = self.query("SELECT reason FROM urls WHERE url = ? AND outcome = 'redirected'", url)
            if not rows:
                break
            url = rows[0][0]
        return url

    def _spooled_pages(self) -> Iterator[dict[str, Any]]:
        rows = self._db.execute(
            "SELECT url, fetched_at, content_type, etag, last_modified, sha256, body, rendered"
            " FROM spool JOIN urls USING (id) WHERE spool.canonical IS NULL ORDER BY url"
        )
        for url, fetched_at, content_type, etag, last_modified, sha256, body, rendered in rows:
            yield {
                "url": url, "final_url": url, "source": self._source, "fetched_at": fetched_at, "status": 200,
                "content_type": content_type, "etag": etag, "last_modified": last_modified, "sha256": sha256,
                "body": body, "rendered": bool(rendered),
            }  # fmt: skip

    # --- what became of the URLs ---

    def is_stored(self, url: str) -> bool:
        return bool(self.query("SELECT 1 FROM urls WHERE url = ? AND outcome = 'stored'", url))

    def is_answered(self, url: str) -> bool:
        """Whether a server gave the page, or said where it is now."""
        return bool(
            self.query(
                "SELECT 1 FROM urls WHERE url = ? AND outcome IN ('stored', 'redirected') AND NOT unfinished", url
            )
        )

    def is_empty(self) -> bool:
        """Whether no URL was found yet."""
        return not self.query("SELECT 1 FROM urls LIMIT 1")

    def has_stored(self) -> bool:
        """Whether any page is stored."""
        return bool(self.query("SELECT 1 FROM urls WHERE outcome = 'stored' LIMIT 1"))

    def query(self, sql: str, *parameters: object) -> list[tuple[Any, ...]]:
        """Rows of the tables above."""
        with self._lock:
            return self._db.execute(sql, parameters).fetchall()

    def stream(self, sql: str) -> Iterator[tuple[Any, ...]]:
        """Rows one by one. For times when no other thread uses the frontier."""
        yield from self._db.execute(sql)

    def _one(self, sql: str) -> int:
        with self._lock:
            return self._db.execute(sql).fetchone()[0]

    @contextmanager
    def _transaction(self) -> Iterator[None]:
        with self._lock:
            self._db.execute("BEGIN IMMEDIATE")
            try:
                yield
            except BaseException:
                self._db.execute("ROLLBACK")
                raise
            self._db.execute("COMMIT")


def remove_frontier(folder: Path) -> None:
    """Delete the frontier of `folder` and its shards, if there is one."""
    for path in shards(folder, _SHARD):
        path.unlink()
    for suffix in ("-wal", "-shm", ""):
        (folder / (_FILE + suffix)).unlink(missing_ok=True)
