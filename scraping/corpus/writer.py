"""The corpus on disk: documents sorted by id, split into train and validation, and what was dropped beside them.

Shards of train are written first, several at once: each is some ranges of ids, sorted in memory one after the other.
What of these ranges belongs elsewhere is put aside, sorted like them: the documents of validation, and the duplicates.
Then come the shards of validation and of what was dropped, which are few. A killed run goes on with the shards of train
that were not finished.
"""

from __future__ import annotations

import hashlib
import json
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from numpy.typing import NDArray

from scraping.corpus.dedup import Places, load_duplicates, load_signatures
from scraping.corpus.ranges import RangeFile, range_numbers
from scraping.corpus.steps import Execution
from scraping.shards import (
    DOCUMENTS,
    DROPPED,
    ROW_GROUP_ROWS,
    SHARD_BYTES,
    ShardWriter,
    count_rows,
    read_batches,
    read_rows,
    shards,
)
from textmill.errors import UserError
from textmill.files import atomic_write, fsync, remove_temporary
from textmill.mapping import Threads

EXCERPT = 2_000  # characters of a dropped document that are kept, to search it and to judge the rule by
_DROPPED_BYTES = EXCERPT + 300  # of a dropped document
_SORTED_BY = [(name, "ascending") for name in ("id", "source", "url")]


class Candidates(NamedTuple):
    """The documents that passed the filters, and what was dropped of the others."""

    documents: list[Path]  # files of ranges
    signatures: list[Path]  # of these
    ranges: int
    dropped: list[Path]  # DROPPED files
    duplicates: Path  # which documents are dropped besides: DUPLICATES


def write_corpus(
    candidates: Candidates, validation_fraction: float, work: Path, out: Path, execution: Execution
) -> dict[str, Any]:
    """Write the corpus and all that was dropped to `out`; returns the counts of both.

    Args:
        candidates: what the corpus is chosen from.
        validation_fraction: share of the documents that are set aside.
        work: a folder for shards that are not finished.
        out: where `train-*.parquet`, `validation-*.parquet` and `dropped/part-*.parquet` are to be.
        execution: where shards are sorted.

    Raises:
        UserError: no document is left.
    """
    characters = sum(int(lengths.sum()) for _, lengths in _survivors(candidates))
    if not characters:
        raise UserError(_empty_corpus(candidates))
    work.mkdir(exist_ok=True)
    remove_temporary(work)
    count = min(candidates.ranges, 1 + characters // SHARD_BYTES)
    limit = _split_limit((id for ids, _ in _survivors(candidates) for id in ids), validation_fraction)
    plan = _Plan(candidates, count, limit, work)
    missing = [number for number in range(count) if not plan.tally(number).exists()]
    together = 4 * execution.children
    jobs = [missing[first : first + together] for first in range(0, len(missing), together)]
    execution.run(
        partial(write_train_shards, plan=plan), [(job, len(job)) for job in jobs], count, unit="shards", phase="writing"
    )
    _write_validation(plan, 1 + int(characters * validation_fraction) // SHARD_BYTES, out)
    dropped = [*candidates.dropped, *shards(work, _DUPLICATES)]
    _write_dropped(dropped, out / "dropped")
    _move_train_shards(plan, out)
    return _stats(plan, dropped)


def with_columns(table: pa.Table, columns: Mapping[str, Any], schema: pa.Schema) -> pa.Table:
    """A table of that schema: the columns given, and the others from `table`."""
    return pa.table(
        [
            pa.array(columns[field.name], field.type) if field.name in columns else table[field.name].cast(field.type)
            for field in schema
        ],
        schema=schema,
    )


# --- shards of train, several at once ---------------------------------------------------------------------------------

_TRAIN, _VALIDATION, _DUPLICATES = "train", "validation", "duplicates"


class _Plan(NamedTuple):
    """How the shards of train are written."""

    candidates: Candidates
    shards: int
    limit: int  # a document belongs to validation if its place is below
    work: Path

    def tally(self, number: int) -> Path:
        """What a shard has, as JSON; written last."""
        return self.work / f"tally-{number:05d}.json"

    def ranges(self, number: int) -> range:
        """The ranges of ids of a shard."""
        first, end = (place * self.candidates.ranges // self.shards for place in (number, number + 1))
        return range(first, end)


def write_train_shards(numbers: list[int], *, plan: _Plan, children: int, report: Callable[[int], None]) -> None:
    """Write some shards of train, and what of their ranges belongs elsewhere; `children` threads work on it."""
    with Threads(children) as pool:
        for done, _ in enumerate(pool.map(partial(_write_train_shard, plan=plan), numbers), 1):
            report(done)


def _write_train_shard(number: int, *, plan: _Plan) -> None:
    def writer(prefix: str, schema: pa.Schema) -> ShardWriter:
        return ShardWriter(plan.work, prefix, schema, first=number, shard_bytes=1 << 62)

    tally: list[list[Any]] = []
    with (
        writer(_TRAIN, DOCUMENTS) as train,
        writer(_VALIDATION, DOCUMENTS) as validation,
        writer(_DUPLICATES, DROPPED) as duplicates,
    ):
        for place in plan.ranges(number):
            documents, dropped = _read_range(plan.candidates, place)
            _write_sorted(dropped, np.ones(dropped.num_rows, np.bool_), duplicates)
            is_held = np.fromiter((_split_place(id) < plan.limit for id in documents["id"].to_pylist()), np.bool_)
            _write_sorted(documents, ~is_held, train)
            _write_sorted(documents, is_held, validation)
            for split, chosen in ((_TRAIN, ~is_held), (_VALIDATION, is_held)):
                tally += [[split, *group] for group in _groups(documents.filter(pa.array(chosen)))]
    atomic_write(plan.tally(number), json.dumps(tally))


def _read_range(candidates: Candidates, number: int) -> tuple[pa.Table, pa.Table]:
    """The documents of a range that are kept, and DROPPED rows of its duplicates."""
    duplicates = load_duplicates(candidates.duplicates)
    kept, dropped = [DOCUMENTS.empty_table()], [DROPPED.empty_table()]
    start = 0
    for path in candidates.documents:
        with RangeFile(path) as file:
            table = pa.table(file.range(number)).replace_schema_metadata()
            first = start + file.bounds[number]
            start += file.bounds[-1]
        of_table = slice(*np.searchsorted(duplicates["document"], (first, first + table.num_rows)))
        found = duplicates[of_table]
        is_kept = np.ones(table.num_rows, np.bool_)
        is_kept[found["document"] - first] = False
        kept.append(table.filter(pa.array(is_kept)))
        if len(found):
            dropped.append(_dropped_rows(table.filter(pa.array(~is_kept)), found))
    return pa.concat_tables(kept).combine_chunks(), pa.concat_tables(dropped).combine_chunks()


def _dropped_rows(documents: pa.Table, duplicates: NDArray[np.void]) -> pa.Table:
    details = zip(duplicates["kept_id"].tolist(), duplicates["similarity"].tolist(), strict=True)
    columns = {
        "reason": ["duplicate" if exact else "near-duplicate" for exact in duplicates["is_exact"].tolist()],
        "detail": [f"of {kept.decode()}, similarity {similarity:.3f}" for kept, similarity in details],
        "excerpt": [text[:EXCERPT] for text in documents["text"].to_pylist()],
    }
    return with_columns(documents, columns, DROPPED)


def _write_sorted(table: pa.Table, chosen: NDArray[np.bool_], writer: ShardWriter) -> None:
    """Write the chosen rows of a table, whose columns are of one chunk, by id; at no time is all of it there twice."""
    order = pc.sort_indices(table, _SORTED_BY)
    order = order.filter(pa.array(chosen).take(order))
    for first in range(0, len(order), ROW_GROUP_ROWS):
        writer.write_table(table.take(order.slice(first, ROW_GROUP_ROWS)))


def _groups(documents: pa.Table) -> Iterator[list[Any]]:
    """Source, language, extractor, documents and characters of each group of documents."""
    keys = ["source", "lang", "extractor"]
    groups = documents.group_by(keys).aggregate([("id", "count"), ("n_chars", "sum")])
    for row in groups.to_pylist():
        yield [*(row[key] for key in keys), row["id_count"], row["n_chars_sum"]]


# --- what was put aside -----------------------------------------------------------------------------------------------


def _write_validation(plan: _Plan, count: int, out: Path) -> None:
    with _emptied(out, _VALIDATION, DOCUMENTS) as writer:
        for number in range(plan.shards):
            path = plan.work / f"{_VALIDATION}-{number:05d}.parquet"
            for batch in read_batches([path] if path.exists() else []):
                writer.write_table(pa.table(batch))
            if number * count // plan.shards != (number + 1) * count // plan.shards:
                writer.cut()


def _write_dropped(paths: list[Path], folder: Path) -> None:
    count = 1 + _DROPPED_BYTES * count_rows(paths) // SHARD_BYTES
    with _emptied(folder, "part", DROPPED) as writer:
        for number in range(count):
            parts = [DROPPED.empty_table()]
            for batch in read_batches(paths):
                parts.append(pa.table(batch).filter(pa.array(range_numbers(batch["id"], count) == number)))
            table = pa.concat_tables(parts).combine_chunks()
            _write_sorted(table, np.ones(table.num_rows, np.bool_), writer)
            writer.cut()


def _emptied(folder: Path, prefix: str, schema: pa.Schema) -> ShardWriter:
    """A writer of shards in a folder where a killed run may have left some."""
    folder.mkdir(exist_ok=True)
    remove_temporary(folder)
    for leftover in shards(folder, prefix):
        leftover.unlink()
    return ShardWriter(folder, prefix, schema, shard_bytes=1 << 62)


def _move_train_shards(plan: _Plan, out: Path) -> None:
    """Move the shards of train to `out`, numbered without gaps; a killed run may have moved some."""
    filled = [number for number in range(plan.shards) if any(group[0] == _TRAIN for group in _tally(plan, number))]
    for place, number in enumerate(filled):
        path = plan.work / f"{_TRAIN}-{number:05d}.parquet"
        if path.exists():
            path.rename(out / f"{_TRAIN}-{place:05d}.parquet")
    fsync(out)


def _tally(plan: _Plan, number: int) -> list[list[Any]]:
    groups: list[list[Any]] = json.loads(plan.tally(number).read_text())
    return groups


# --- which documents, and how many ------------------------------------------------------------------------------------


def _survivors(candidates: Candidates) -> Iterator[tuple[list[str], Places]]:
    """Ids and lengths of the documents that are not duplicates, file by file."""
    duplicates = load_duplicates(candidates.duplicates)["document"]
    start = 0
    for path in candidates.signatures:
        signatures = load_signatures(path)
        is_kept = np.ones(len(signatures.ids), np.bool_)
        first, end = np.searchsorted(duplicates, (start, start + len(is_kept)))
        is_kept[duplicates[first:end] - start] = False
        start += len(is_kept)
        yield [id.decode() for id in signatures.ids[is_kept].tolist()], signatures.lengths[is_kept]


def _split_limit(ids: Iterable[str], validation_fraction: float) -> int:
    """Below which place a document belongs to validation: a hash of its id, so that it stays on its side as a corpus
    grows.

    A small corpus by which none would be set aside gives the one that is nearest to it.
    """
    limit = int(validation_fraction * 2**64)
    nearest, count = 1 << 64, 0
    for id in ids if limit else ():
        nearest, count = min(nearest, _split_place(id)), count + 1
        if nearest < limit:
            break
    return max(limit, nearest + 1) if count > 1 else limit


def _split_place(id: str) -> int:
    return int.from_bytes(hashlib.blake2b(id.encode(), digest_size=8, person=b"split").digest(), "big")


def _empty_corpus(candidates: Candidates) -> str:
    reasons = Counter(row["reason"] for row in read_rows(candidates.dropped, ["reason"]))
    is_exact = load_duplicates(candidates.duplicates)["is_exact"]
    reasons.update({"duplicate": int(is_exact.sum()), "near-duplicate": int((~is_exact).sum())})
    listed = ", ".join(f"{reason} {count}" for reason, count in reasons.most_common() if count)
    return f"no document is left ({listed}): widen the filters or choose another extractor."


def _stats(plan: _Plan, dropped: list[Path]) -> dict[str, Any]:
    """All counts; `candidates` is always the sum of `documents` and `dropped`."""
    kept_of: dict[str, Counter[str]] = {}
    dropped_of: dict[str, Counter[str]] = {}
    splits: dict[str, Counter[str]] = {_TRAIN: Counter(), _VALIDATION: Counter()}
    languages: Counter[str] = Counter()
    extractors: Counter[str] = Counter()
    for number in range(plan.shards):
        for split, source, lang, extractor, documents, characters in _tally(plan, number):
            size = {"documents": documents, "characters": characters}
            kept_of.setdefault(source, Counter()).update(size)
            splits[split].update(size)
            languages[lang or "unknown"] += documents
            extractors[extractor] += documents
    for batch in read_batches(dropped, ["source", "reason"]):
        for source, reason in zip(*(column.to_pylist() for column in batch.columns), strict=True):
            dropped_of.setdefault(source, Counter())[reason] += 1
    sources = {}
    for source in {*kept_of, *dropped_of}:
        kept, reasons = kept_of.get(source, Counter()), dropped_of.get(source, Counter())
        sources[source] = {
            "candidates": kept["documents"] + reasons.total(),
            "documents": kept["documents"],
            "characters": kept["characters"],
            "dropped": dict(reasons),
        }
    return {
        "candidates": sum(source["candidates"] for source in sources.values()),
        "documents": sum(source["documents"] for source in sources.values()),
        "characters": sum(source["characters"] for source in sources.values()),
        "dropped": dict(sum(dropped_of.values(), Counter())),
        "sources": sources,
        "splits": {
            split: {key: counts[key] for key in ("documents", "characters")} for split, counts in splits.items()
        },
        "languages": dict(languages),
        "extractors": dict(extractors),
    }
