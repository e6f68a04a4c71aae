"""What a crawl did: `urls.parquet`, a row per URL, and `stats.json`, the sums."""

import json
from collections.abc import Iterator
from pathlib import Path

import pyarrow as pa

from scraping.crawling.frontier import Frontier
from scraping.crawling.snapshot import Snapshot
from scraping.shards import write_shard
from textmill.files import atomic_write

GIVEN_UP = "given up: "  # a note of the frontier: this and the host -> the reason
URLS_PASSED_OVER = "urls passed over"  # a note of the frontier: limits.urls was met
LISTED = 100  # failed URLs in stats.json; all are in urls.parquet

URLS = pa.schema(
    [
        ("url", pa.string()),
        ("outcome", pa.string()),  # stored, redirected, skipped, failed; null: not met in this crawl
        ("reason", pa.string()),  # why it was skipped or failed; where it was redirected to
        ("status", pa.int32()),
        ("change", pa.string()),  # new, changed, unchanged, kept (could not be asked for); vanished: no longer stored
        ("depth", pa.int32()),
        ("found_on", pa.string()),
    ]
)


def write_report(out: Path, frontier: Frontier, last: Snapshot) -> None:
    """Write both files, the sums last: with them the snapshot is whole."""
    vanished = dict.fromkeys(url for url in last.urls() if not frontier.stored(url))
    write_shard(out / "urls.parquet", _rows(frontier, vanished), URLS)
    stats = {
        "pages": _count(frontier, "SELECT count(*) FROM urls WHERE outcome = 'stored'"),
        "bytes": _count(frontier, "SELECT coalesce(sum(bytes), 0) FROM urls WHERE outcome = 'stored'"),
        "found": _count(frontier, "SELECT count(*) FROM urls"),
        "found_all": frontier.noted(URLS_PASSED_OVER) is None,
        "redirected": _count(frontier, "SELECT count(*) FROM urls WHERE outcome = 'redirected'"),
        "status": _sums(frontier, "SELECT status, count(*) FROM urls WHERE status IS NOT NULL GROUP BY 1"),
        "skipped": _sums(frontier, "SELECT reason, count(*) FROM urls WHERE outcome = 'skipped' GROUP BY 1"),
        "failed": _sums(frontier, "SELECT reason, count(*) FROM urls WHERE outcome = 'failed' GROUP BY 1"),
        "failed_urls": [
            {"url": url, "reason": reason}
            for url, reason in frontier.query(
                "SELECT url, reason FROM urls WHERE outcome = 'failed' ORDER BY url LIMIT ?", LISTED
            )
        ],
        "hosts": _sums(frontier, "SELECT host, count(*) FROM urls WHERE outcome = 'stored' GROUP BY 1"),
        "given_up": {
            key.removeprefix(GIVEN_UP): reason
            for key, reason in frontier.query("SELECT key, value FROM notes WHERE key LIKE ? || '%'", GIVEN_UP)
        },
        "changes": {
            "new": 0, "changed": 0, "unchanged": 0, "kept": 0,
            **_sums(frontier, "SELECT change, count(*) FROM urls WHERE outcome = 'stored' GROUP BY 1"),
            "vanished": len(vanished),
        },
    }  # fmt: skip
    atomic_write(out / "stats.json", json.dumps(stats, indent=2, sort_keys=True).encode() + b"\n")


def _rows(frontier: Frontier, vanished: dict[str, None]) -> Iterator[dict]:
    rows = frontier.stream(
        "SELECT u.url, u.outcome, u.reason, u.status, u.change, u.depth, p.url FROM urls u"
        " LEFT JOIN urls p ON p.id = u.parent ORDER BY u.id"
    )
    unmet = dict(vanished)
    for row in rows:
        entry = dict(zip(URLS.names, row, strict=True))
        if entry["url"] in vanished:
            entry["change"] = "vanished"
            unmet.pop(entry["url"])
        yield entry
    for url in unmet:
        yield {"url": url, "change": "vanished"}


def _count(frontier: Frontier, sql: str) -> int:
    return frontier.query(sql)[0][0]


def _sums(frontier: Frontier, sql: str) -> dict[str, int]:
    return {str(key): n for key, n in frontier.query(sql)}
