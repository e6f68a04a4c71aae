"""The corpus on disk: documents sorted by id, split into train and validation, and what was dropped beside them."""

from __future__ import annotations

import hashlib
import shutil
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any, NamedTuple

import pyarrow as pa

from scraping.shards import (
    DOCUMENTS,
    DROPPED,
    ROW_GROUP_ROWS,
    SHARD_BYTES,
    ShardWriter,
    count_rows,
    open_parquet,
    read_rows,
    shards,
)
from textmill.errors import UserError
from textmill.progress import Progress

EXCERPT = 2_000  # characters of a dropped document that are kept, to search it and to judge the rule by


class Candidates(NamedTuple):
    """The documents that passed the filters, and what was dropped of the others."""

    documents: list[Path]  # DOCUMENTS files
    dropped: list[Path]  # DROPPED files
    duplicates: Mapping[int, tuple[str, str]]  # reason and detail, by position in all documents together


def write_corpus(
    candidates: Candidates, validation_fraction: float, scratch: Path, out: Path, progress: Progress
) -> dict[str, Any]:
    """Write the corpus and all that was dropped to `out`; returns the counts of both.

    Args:
        candidates: what the corpus is chosen from.
        validation_fraction: share of the documents that are set aside.
        scratch: a folder for sorting.
        out: where `train-*.parquet`, `validation-*.parquet` and `dropped/part-*.parquet` are to be.
        progress: hears of documents written.

    Raises:
        UserError: no document is left.
    """
    documents, drops, duplicates = candidates
    total = count_rows(documents)
    is_validation = _split((row["id"] for row in _survivors(documents, duplicates)), validation_fraction)
    characters = sum(row["n_chars"] for row in _survivors(documents, duplicates))
    if not characters:
        reasons = Counter(row["reason"] for row in read_rows(drops, ["reason"]))
        reasons.update(reason for reason, _ in duplicates.values())
        raise UserError(_empty_corpus(reasons))
    shutil.rmtree(scratch, ignore_errors=True)
    train = _SortedShards(out, "train", DOCUMENTS, scratch, characters)
    validation = _SortedShards(out, "validation", DOCUMENTS, scratch, int(characters * validation_fraction))
    left_out = len(duplicates) + count_rows(drops)
    dropped = _SortedShards(out / "dropped", "part", DROPPED, scratch, (EXCERPT + 300) * left_out)
    tally = _Tally()
    for row in read_rows(drops):
        dropped.add(row)
        tally.drop(row["source"], row["reason"])
    for position, row in enumerate(read_rows(documents)):
        if position in duplicates:
            reason, detail = duplicates[position]
            dropped.add(dropped_row(row, reason, detail, row["text"]))
            tally.drop(row["source"], reason)
        else:
            is_held_out = is_validation(row["id"])
            (validation if is_held_out else train).add(row)
            tally.keep(row, "validation" if is_held_out else "train")
        if position % ROW_GROUP_ROWS == 0:
            progress(position, total, unit="documents", phase="writing")
    for part in (train, validation, dropped):
        part.finish()
    progress(total, total, unit="documents", phase="writing")
    return tally.stats()


def dropped_row(row: Mapping[str, Any], reason: str, detail: str, text: str) -> dict[str, Any]:
    """The DROPPED row of a document; what its details name must not differ from run to run."""
    common = {key: row[key] for key in ("id", "source", "url")}
    return {**common, "reason": reason, "detail": detail, "excerpt": text[:EXCERPT]}


def _survivors(documents: list[Path], duplicates: Mapping[int, tuple[str, str]]) -> Iterator[dict[str, Any]]:
    rows = read_rows(documents, ["id", "n_chars"])
    return (row for position, row in enumerate(rows) if position not in duplicates)


def _split(ids: Iterable[str], validation_fraction: float) -> Callable[[str], bool]:
    """Whether a document belongs to validation, by a hash of its id, so that it stays on its side as a corpus grows.

    A small corpus by which none would be set aside gives the one that is nearest to it.
    """
    limit = int(validation_fraction * 2**64)
    places = [_split_place(id) for id in ids] if limit else []
    if len(places) > 1:
        limit = max(limit, min(places) + 1)
    return lambda id: _split_place(id) < limit


def _split_place(id: str) -> int:
    return int.from_bytes(hashlib.blake2b(id.encode(), digest_size=8, person=b"split").digest(), "big")


def _empty_corpus(reasons: Counter[str]) -> str:
    listed = ", ".join(f"{reason} {count}" for reason, count in reasons.most_common())
    return f"no document is left ({listed}): widen the filters or choose another extractor."


class _SortedShards:
    """Writes rows in the order of their ids, however many: they are dealt into ranges of ids, one per shard, on disk,
    and each range is then sorted in memory."""

    def __init__(self, folder: Path, prefix: str, schema: pa.Schema, scratch: Path, expected_bytes: int) -> None:
        self._folder, self._prefix, self._schema = folder, prefix, schema
        folder.mkdir(exist_ok=True)
        for leftover in [*shards(folder, prefix), *folder.glob(f".{prefix}-*.tmp")]:
            leftover.unlink()
        count = 1 + expected_bytes // SHARD_BYTES
        self._scratch = scratch / prefix
        self._ranges = [ShardWriter(self._scratch, f"range{n:05d}", schema, shard_bytes=1 << 62) for n in range(count)]

    def add(self, row: Mapping[str, Any]) -> None:
        """Put a row into its range."""
        self._ranges[int(row["id"][:8], 16) * len(self._ranges) >> 32].write(row)

    def finish(self) -> None:
        """Sort each range into a shard."""
        with ShardWriter(self._folder, self._prefix, self._schema, shard_bytes=1 << 62) as output:
            for writer in self._ranges:
                path = writer.cut()
                if path is None:
                    continue
                with open_parquet(path) as file:
                    table = file.read(use_threads=False)
                table = table.sort_by([(name, "ascending") for name in ("id", "source", "url")]).combine_chunks()
                for start in range(0, table.num_rows, ROW_GROUP_ROWS):
                    output.write_table(table.slice(start, ROW_GROUP_ROWS))
                output.cut()
                path.unlink()


class _Tally:
    """Counts what was kept and dropped, in all and by source."""

    def __init__(self) -> None:
        self._dropped: dict[str, Counter[str]] = {}
        self._kept: dict[str, Counter[str]] = {}
        self._splits: dict[str, Counter[str]] = {"train": Counter(), "validation": Counter()}
        self._languages: Counter[str] = Counter()
        self._extractors: Counter[str] = Counter()

    def drop(self, source: str, reason: str) -> None:
        """Count a document that was dropped."""
        self._dropped.setdefault(source, Counter())[reason] += 1

    def keep(self, row: Mapping[str, Any], split: str) -> None:
        """Count a document that was written to a split."""
        size = {"documents": 1, "characters": row["n_chars"]}
        self._kept.setdefault(row["source"], Counter()).update(size)
        self._splits[split].update(size)
        self._languages[row["lang"] or "unknown"] += 1
        self._extractors[row["extractor"]] += 1

    def stats(self) -> dict[str, Any]:
        """All counts; `candidates` is always the sum of `documents` and `dropped`."""
        sources = {}
        for source in {*self._kept, *self._dropped}:
            kept, dropped = self._kept.get(source, Counter()), self._dropped.get(source, Counter())
            sources[source] = {
                "candidates": kept["documents"] + dropped.total(),
                "documents": kept["documents"],
                "characters": kept["characters"],
                "dropped": dict(dropped),
            }
        return {
            "candidates": sum(source["candidates"] for source in sources.values()),
            "documents": sum(source["documents"] for source in sources.values()),
            "characters": sum(source["characters"] for source in sources.values()),
            "dropped": dict(sum(self._dropped.values(), Counter())),
            "sources": sources,
            "splits": {
                split: {key: counts[key] for key in ("documents", "characters")}
                for split, counts in self._splits.items()
            },
            "languages": dict(self._languages),
            "extractors": dict(self._extractors),
        }
