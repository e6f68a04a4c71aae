"""What a crawl knows, in one SQLite file: every URL and what became of it, and the pages not yet in a shard.

A page, its links and the end of its URL's wait are one transaction, so kill -9 at any moment leaves each URL either
waiting or done, and each page stored once. Pages are spooled here and moved to Parquet a shard at a time: the shard is
written, made durable and renamed first, then its pages are deleted and the shard is recorded in one transaction; a file
that is not recorded is thrown away at the start, its pages being still here.

URLs wait in the order they were found: breadth first, the same order after a restart.
"""

import sqlite3
import threading
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from scraping.crawling.urls import host_of
from scraping.shards import PAGES, shards, write_shard

_FILE = "frontier.sqlite"
MAX_HOPS = 10  # redirects in a row

_SCHEMA = """
CREATE TABLE IF NOT EXISTS urls (
    id INTEGER PRIMARY KEY,
    url TEXT NOT NULL UNIQUE,
    host TEXT NOT NULL,
    parent INTEGER,           -- where it was found
    depth INTEGER NOT NULL,
    hops INTEGER NOT NULL,    -- redirects on the way
    attempts INTEGER NOT NULL DEFAULT 0,
    outcome TEXT,             -- NULL: waiting; stored, redirected, skipped, failed
    reason TEXT,              -- of a redirected one: the target
    status INTEGER,           -- of the last answer
    change TEXT,              -- of a stored page: new, changed, unchanged, kept
    bytes INTEGER             -- of a stored page
);
CREATE INDEX IF NOT EXISTS waiting ON urls (host, id) WHERE outcome IS NULL;
CREATE TABLE IF NOT EXISTS spool (
    id INTEGER PRIMARY KEY,   -- of the URL
    fetched_at INTEGER, content_type TEXT, etag TEXT, last_modified TEXT, sha256 TEXT, body BLOB,
    canonical TEXT            -- NULL unless the page says that another URL is its proper one
);
CREATE TABLE IF NOT EXISTS shards (name TEXT PRIMARY KEY);
CREATE TABLE IF NOT EXISTS notes (key TEXT PRIMARY KEY, value TEXT);
"""


@dataclass(slots=True)
class Waiting:
    """A URL whose turn has come."""

    id: int
    url: str
    depth: int
    hops: int
    attempts: int


@dataclass(slots=True)
class Body:
    """A page to be stored. `fetched_at` in microseconds since the epoch."""

    fetched_at: int
    content_type: str
    etag: str | None
    last_modified: str | None
    sha256: str
    body: bytes
    canonical: str | None = None


@dataclass(slots=True)
class Found:
    """A URL that was found; `refused` says why it will not be fetched."""

    url: str
    refused: str | None = None


class Frontier:
    """The state of one crawl in `folder`; threads share it."""

    def __init__(self, folder: Path, source: str, shard_bytes: int):
        self._folder, self._source, self._shard_bytes = folder, source, shard_bytes
        self._lock = threading.RLock()
        self._db = sqlite3.connect(folder / _FILE, check_same_thread=False, isolation_level=None)
        self._db.execute("PRAGMA journal_mode=WAL")
        self._db.execute("PRAGMA synchronous=NORMAL")  # survives the process; a power cut may cost the last pages
        self._db.executescript(_SCHEMA)
        recorded = {name for (name,) in self._db.execute("SELECT name FROM shards")}
        for path in shards(folder):
            if path.name not in recorded:
                path.unlink()
        self._spooled = self._one("SELECT coalesce(sum(length(body)), 0) FROM spool WHERE canonical IS NULL")

    def close(self) -> None:
        with self._lock:
            self._db.close()

    # --- notes ---

    def note(self, key: str, value: str) -> None:
        with self._transaction():
            self._db.execute("INSERT OR REPLACE INTO notes VALUES (?, ?)", (key, value))

    def noted(self, key: str) -> str | None:
        with self._lock:
            row = self._db.execute("SELECT value FROM notes WHERE key = ?", (key,)).fetchone()
        return row[0] if row else None

    # --- the queue ---

    def seed(self, found: Iterable[Found], depth: int = 0, note: tuple[str, str] | None = None) -> None:
        """Add URLs that no page of this crawl linked to, and a note, at once."""
        with self._transaction():
            self._add(found, None, depth, 0)
            if note:
                self._db.execute("INSERT OR REPLACE INTO notes VALUES (?, ?)", note)

    def waiting(self, host: str, limit: int = 100) -> list[Waiting]:
        """The next URLs of `host`, in order."""
        with self._lock:
            rows = self._db.execute(
                "SELECT id, url, depth, hops, attempts FROM urls WHERE host = ? AND outcome IS NULL"
                " ORDER BY id LIMIT ?",
                (host, limit),
            )
            return [Waiting(*row) for row in rows]

    def waiting_hosts(self) -> list[str]:
        """Hosts with waiting URLs, sorted."""
        # One look into the index per host, however many URLs wait.
        rows = self.query(
            "WITH RECURSIVE hosts (host) AS (SELECT min(host) FROM urls WHERE outcome IS NULL UNION ALL"
            " SELECT (SELECT min(urls.host) FROM urls WHERE outcome IS NULL AND urls.host > hosts.host)"
            " FROM hosts WHERE host IS NOT NULL) SELECT host FROM hosts WHERE host IS NOT NULL"
        )
        return [host for (host,) in rows]

    def count_waiting(self) -> int:
        return self._one("SELECT count(*) FROM urls WHERE outcome IS NULL")

    def known(self) -> Iterator[str]:
        """All URLs found so far, in order, but for those known from nofollow links only; as for `stream`."""
        yield from (url for (url,) in self.stream("SELECT url FROM urls WHERE reason IS NOT 'nofollow' ORDER BY id"))

    def count_answered(self) -> int:
        """URLs for which a server answered."""
        return self._one("SELECT count(*) FROM urls WHERE status IS NOT NULL")

    def close_waiting(self, outcome: str, reason: str, host: str | None = None) -> None:
        """Nothing more will be fetched of `host` (or of any): what still waits is skipped or failed."""
        with self._transaction():
            self._db.execute(
                "UPDATE urls SET outcome = ?, reason = ? WHERE outcome IS NULL AND host = coalesce(?, host)",
                (outcome, reason, host),
            )

    # --- what became of a URL ---

    def store(self, item: Waiting, status: int, change: str, page: Body, links: Iterable[Found]) -> None:
        """The page is stored, its links are added."""
        row = (item.id, page.fetched_at, page.content_type, page.etag, page.last_modified, page.sha256, page.body)
        with self._transaction():
            self._db.execute("INSERT INTO spool VALUES (?, ?, ?, ?, ?, ?, ?, ?)", (*row, page.canonical))
            self._finish(item.id, "stored", None, status, change, len(page.body))
            self._add(links, item.id, item.depth + 1, 0)
        if page.canonical is None:
            self._spooled += len(page.body)

    def skip(self, item: Waiting, reason: str, status: int | None = None, links: Iterable[Found] = ()) -> None:
        """The page is not stored; its links, if any, are followed."""
        with self._transaction():
            self._finish(item.id, "skipped", reason, status)
            self._add(links, item.id, item.depth + 1, 0)

    def redirect(self, item: Waiting, status: int, target: str, found: Iterable[Found]) -> None:
        """The URL leads to `target`, which is fetched in its own turn, once; `found` holds it if it is new."""
        with self._transaction():
            self._finish(item.id, "redirected", target, status)
            self._add(found, item.id, item.depth, item.hops + 1)

    def fail(self, item: Waiting, reason: str, status: int | None = None) -> None:
        with self._transaction():
            self._finish(item.id, "failed", reason, status)

    def retry(self, item: Waiting, status: int | None = None) -> None:
        """The URL keeps its place; the attempt is counted."""
        item.attempts += 1
        with self._transaction():
            self._db.execute("UPDATE urls SET attempts = ?, status = ? WHERE id = ?", (item.attempts, status, item.id))

    def _finish(self, id: int, outcome: str, reason: str | None, status: int | None, *page) -> None:
        change, size = page or (None, None)
        self._db.execute(
            "UPDATE urls SET outcome = ?, reason = ?, status = coalesce(?, status), change = ?, bytes = ? WHERE id = ?",
            (outcome, reason, status, change, size, id),
        )

    def _add(self, found: Iterable[Found], parent: int | None, depth: int, hops: int) -> None:
        found = list(found)
        # What one page would rather not have followed, another may recommend.
        self._db.executemany(
            "DELETE FROM urls WHERE url = ? AND reason = 'nofollow'", [(f.url,) for f in found if not f.refused]
        )
        self._db.executemany(
            "INSERT OR IGNORE INTO urls (url, host, parent, depth, hops, outcome, reason) VALUES (?, ?, ?, ?, ?, ?, ?)",
            [(f.url, host_of(f.url), parent, depth, hops, "skipped" if f.refused else None, f.refused) for f in found],
        )

    # --- shards ---

    def cut_shard_if_full(self) -> None:
        if self._spooled >= self._shard_bytes:
            self.cut_shard()

    def cut_shard(self) -> None:
        """Move the spooled pages to the next shard; those that wait for their canonical page stay."""
        with self._lock:
            if not self._one("SELECT count(*) FROM spool WHERE canonical IS NULL"):
                return
            name = f"part-{self._one('SELECT count(*) FROM shards'):05d}.parquet"
            write_shard(self._folder / name, self._spooled_pages(), PAGES)
            with self._transaction():
                self._db.execute("INSERT INTO shards VALUES (?)", (name,))
                self._db.execute("DELETE FROM spool WHERE canonical IS NULL")
            self._spooled = 0

    def settle_canonicals(self) -> None:
        """Decide about the pages that named another URL as their proper one: they are duplicates if that one is here.

        Where it is not, or where pages name each other in a circle, the first one stays.
        """
        with self._transaction():
            claims = dict(
                self._db.execute(
                    "SELECT url, canonical FROM spool JOIN urls USING (id) WHERE canonical IS NOT NULL ORDER BY id"
                ).fetchall()
            )
            kept: set[str] = set()
            for url in claims:
                target, seen = self._destination(claims[url]), {url}
                while target in claims and target not in kept and target not in seen:
                    seen.add(target)
                    target = self._destination(claims[target])
                if target in kept or (target not in claims and self.stored(target)):
                    self._db.execute("DELETE FROM spool WHERE id = (SELECT id FROM urls WHERE url = ?)", (url,))
                    self._db.execute(
                        "UPDATE urls SET outcome = 'skipped', reason = 'canonical elsewhere', change = NULL,"
                        " bytes = NULL WHERE url = ?",
                        (url,),
                    )
                else:
                    kept.add(url)
            self._db.execute("UPDATE spool SET canonical = NULL")

    def _destination(self, url: str) -> str:
        """Where `url` was redirected to in the end."""
        for _ in range(MAX_HOPS):
            rows = self.query("SELECT reason FROM urls WHERE url = ? AND outcome = 'redirected'", url)
            if not rows:
                break
            url = rows[0][0]
        return url

    def _spooled_pages(self) -> Iterator[dict]:
        rows = self._db.execute(
            "SELECT url, fetched_at, content_type, etag, last_modified, sha256, body"
            " FROM spool JOIN urls USING (id) WHERE canonical IS NULL ORDER BY id"
        )
        for url, fetched_at, content_type, etag, last_modified, sha256, body in rows:
            yield {
                "url": url, "final_url": url, "source": self._source, "fetched_at": fetched_at, "status": 200,
                "content_type": content_type, "etag": etag, "last_modified": last_modified, "sha256": sha256,
                "body": body,
            }  # fmt: skip

    # --- reports ---

    def stored(self, url: str) -> bool:
        return bool(self.query("SELECT 1 FROM urls WHERE url = ? AND outcome = 'stored'", url))

    def stored_any(self) -> bool:
        return bool(self.query("SELECT 1 FROM urls WHERE outcome = 'stored' LIMIT 1"))

    def query(self, sql: str, *parameters) -> list[tuple]:
        with self._lock:
            return self._db.execute(sql, parameters).fetchall()

    def stream(self, sql: str) -> Iterator[tuple]:
        """Rows one by one; only when no other thread is at work any more."""
        yield from self._db.execute(sql)

    def _one(self, sql: str) -> int:
        with self._lock:
            return self._db.execute(sql).fetchone()[0]

    @contextmanager
    def _transaction(self):
        with self._lock:
            self._db.execute("BEGIN IMMEDIATE")
            try:
                yield
            except BaseException:
                self._db.execute("ROLLBACK")
                raise
            self._db.execute("COMMIT")


def remove_frontier(folder: Path) -> None:
    """Delete the frontier of `folder`, if there is one."""
    for suffix in ("-wal", "-shm", ""):
        (folder / (_FILE + suffix)).unlink(missing_ok=True)
