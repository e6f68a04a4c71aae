"""Parquet shards: the schemas of pages and documents, an atomic writer, and readers that stream.

A shard exists whole or not at all (`textmill.files`). Its bytes depend on the rows alone: same rows, same shards. Row
groups of about 1,000 rows (fewer where rows are large) keep memory bounded on both sides, and zstd level 3 is as fast
as the disk while halving what gzip would leave.
"""

from __future__ import annotations

import heapq
from collections.abc import Callable, Iterable, Iterator, Mapping
from itertools import chain
from operator import itemgetter
from pathlib import Path
from types import TracebackType
from typing import Any, Self

import pyarrow as pa
import pyarrow.parquet as pq

from textmill.errors import UserError, first_line
from textmill.files import fsync, temporary_path

Row = Mapping[str, Any]

ROW_GROUP_ROWS = 1_000
ROW_GROUP_BYTES = 32 << 20
SHARD_BYTES = 250_000_000
_MERGED_ROWS = 16  # read at once of each file that is merged: pages may be large and files many

FETCHES_FILE, URLS_FILE = "fetches.parquet", "urls.parquet"  # of a snapshot, beside its pages

PAGES = pa.schema(
    [
        ("url", pa.string()),
        ("final_url", pa.string()),
        ("source", pa.string()),
        ("status", pa.int32()),
        ("content_type", pa.string()),
        ("sha256", pa.string()),  # hex, of body
        ("body", pa.binary()),  # as the server sent it, content encoding removed; or as a browser rendered it, in UTF-8
        ("rendered", pa.bool_()),
    ]
)

# How each page was fetched last: what may differ although the page is the same
FETCHES = pa.schema(
    [
        ("url", pa.string()),
        ("fetched_at", pa.timestamp("us", tz="UTC")),  # or found to be unchanged
        ("etag", pa.string()),
        ("last_modified", pa.string()),
    ]
)

DOCUMENTS = pa.schema(
    [
        ("id", pa.string()),
        ("source", pa.string()),
        ("url", pa.string()),
        ("title", pa.string()),
        ("lang", pa.string()),
        ("text", pa.string()),
        ("n_chars", pa.int64()),
        ("extractor", pa.string()),
    ]
)

DROPPED = pa.schema(
    [
        ("id", pa.string()),
        ("source", pa.string()),
        ("url", pa.string()),
        ("reason", pa.string()),
        ("detail", pa.string()),
        ("excerpt", pa.string()),
    ]
)

# Dictionary pages pay for columns with few values; text and bodies only grow by them.
_DICTIONARY_COLUMNS = {"source", "status", "content_type", "lang", "extractor", "reason"}
_STATISTICS_COLUMNS = {"id", "url", "source"}


class _Shard:
    """One Parquet file on its way to `path`: hidden until `finish`."""

    def __init__(self, path: Path, schema: pa.Schema) -> None:
        self.path, self.schema = path, schema
        self.rows = self.bytes = 0
        self._temporary = temporary_path(path)
        self._writer = pq.ParquetWriter(
            self._temporary,
            schema,
            compression="zstd",
            compression_level=3,
            use_dictionary=[name for name in schema.names if name in _DICTIONARY_COLUMNS],
            write_statistics=[name for name in schema.names if name in _STATISTICS_COLUMNS],
        )

    def append(self, table: pa.Table) -> None:
        self._writer.write_table(table, row_group_size=ROW_GROUP_ROWS)
        self.rows += table.num_rows
        self.bytes += table.nbytes

    def finish(self) -> None:
        self._writer.close()
        fsync(self._temporary)
        self._temporary.rename(self.path)
        fsync(self.path.parent)

    def discard(self) -> None:
        self._writer.close()
        self._temporary.unlink(missing_ok=True)


class ShardWriter:
    """Append rows to `folder/prefix-00000.parquet`, `-00001`, …; each shard becomes visible once it is whole.

    Leaving the `with` block ends the last shard; leaving it by an exception throws the unfinished shard away.

    Args:
        folder: made if it does not exist.
        prefix: what the names of the shards begin with.
        schema: of the rows.
        first: number of the first shard, so that a resumed job goes on where it stopped.
        shard_bytes: bytes of values after which a shard ends by itself.
        on_shard: called with path and number of rows after each shard is durable: the place to record it.

    Example:
        >>> with ShardWriter(folder, "part", DOCUMENTS) as writer:  # doctest: +SKIP
        ...     writer.write({"id": "1", "source": "site", "text": "A page.", "n_chars": 7})
    """

    def __init__(
        self,
        folder: Path,
        prefix: str,
        schema: pa.Schema,
        *,
        first: int = 0,
        shard_bytes: int = SHARD_BYTES,
        on_shard: Callable[[Path, int], None] | None = None,
    ) -> None:
        self.folder, self.prefix, self.schema = folder, prefix, schema
        self.shard_bytes, self.on_shard = shard_bytes, on_shard
        self.number = first
        self._shard: _Shard | None = None
        self._pending: list[Row] = []
        self._pending_bytes = 0
        self._tables: list[pa.Table] = []
        self._tables_rows = 0
        folder.mkdir(parents=True, exist_ok=True)

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        if kind is None:
            self.cut()
        elif self._shard is not None:
            self._shard.discard()

    def write(self, row: Row) -> None:
        """Add one row; keys that the schema lacks are ignored, missing ones are null."""
        if self._tables:
            self._flush()
        self._pending.append(row)
        self._pending_bytes += _row_bytes(row)
        if len(self._pending) >= ROW_GROUP_ROWS or self._pending_bytes >= ROW_GROUP_BYTES:
            self._flush()

    def write_table(self, table: pa.Table) -> None:
        """Add a table: the fast path for whole columns. Row groups do not depend on how rows were cut into tables."""
        if self._pending:
            self._flush()
        if table.num_rows:
            self._tables.append(table)
            self._tables_rows += table.num_rows
        if self._tables_rows >= ROW_GROUP_ROWS:
            joined = pa.concat_tables(self._tables)
            whole = joined.num_rows - joined.num_rows % ROW_GROUP_ROWS
            self._tables = [joined.slice(whole)] if whole < joined.num_rows else []
            self._tables_rows = joined.num_rows - whole
            for start in range(0, whole, ROW_GROUP_ROWS):
                self._append(joined.slice(start, ROW_GROUP_ROWS))

    def cut(self) -> Path | None:
        """Finish the current shard and make it visible and durable; returns its path, None if it would be empty."""
        self._flush()
        if self._shard is None:
            return None
        shard, self._shard = self._shard, None
        shard.finish()
        self.number += 1
        if self.on_shard:
            self.on_shard(shard.path, shard.rows)
        return shard.path

    def _flush(self) -> None:
        rows, self._pending, self._pending_bytes = self._pending, [], 0
        tables, self._tables, self._tables_rows = self._tables, [], 0
        if rows:
            self._append(pa.Table.from_pylist(rows, schema=self.schema))
        if tables:
            self._append(pa.concat_tables(tables))

    def _append(self, table: pa.Table) -> None:
        if not table.num_rows:
            return
        if self._shard is None:
            self._shard = _Shard(self.folder / f"{self.prefix}-{self.number:05d}.parquet", self.schema)
        self._shard.append(table.combine_chunks())  # chunk borders would show in the bytes
        if self._shard.bytes >= self.shard_bytes:
            self.cut()


def write_shard(path: Path, rows: Iterable[Row], schema: pa.Schema) -> int:
    """Write all `rows`, even if there are none, to the one file `path`, atomically. Returns the number of rows."""
    shard = _Shard(path, schema)
    try:
        pending: list[Row] = []
        pending_bytes = 0
        for row in rows:
            pending.append(row)
            pending_bytes += _row_bytes(row)
            if len(pending) >= ROW_GROUP_ROWS or pending_bytes >= ROW_GROUP_BYTES:
                shard.append(pa.Table.from_pylist(pending, schema=schema))
                pending, pending_bytes = [], 0
        shard.append(pa.Table.from_pylist(pending, schema=schema))
    except BaseException:
        shard.discard()
        raise
    shard.finish()
    return shard.rows


def write_table(path: Path, table: pa.Table) -> None:
    """Write a table to the one file `path`, atomically."""
    shard = _Shard(path, table.schema)
    try:
        shard.append(table.combine_chunks())
    except BaseException:
        shard.discard()
        raise
    shard.finish()


def shards(folder: Path, prefix: str = "part") -> list[Path]:
    """The finished shards of `folder` with that prefix, in order."""
    return sorted(folder.glob(f"{prefix}-[0-9][0-9][0-9][0-9][0-9].parquet"))


def open_parquet(path: Path) -> pq.ParquetFile:
    """Open a Parquet file for streaming.

    Raises:
        UserError: the file is damaged.
    """
    try:
        return pq.ParquetFile(path, pre_buffer=False)
    except (pa.ArrowInvalid, OSError) as error:
        raise UserError(f"{path} is not a readable Parquet file ({first_line(error)}): fetch it again.") from error


def read_groups(path: Path, groups: list[int], columns: list[str] | None = None) -> Iterator[dict[str, Any]]:
    """Stream the rows of some row groups of one file."""
    with open_parquet(path) as file:
        for batch in file.iter_batches(ROW_GROUP_ROWS, row_groups=groups, columns=columns, use_threads=False):
            yield from batch.to_pylist()


def read_batches(
    paths: Iterable[Path], columns: list[str] | None = None, rows: int = ROW_GROUP_ROWS
) -> Iterator[pa.RecordBatch]:
    """Stream record batches of at most so many rows; memory does not grow with the number or size of files."""
    for path in paths:
        with open_parquet(path) as file:
            yield from file.iter_batches(rows, columns=columns, use_threads=False)


def read_rows(paths: Iterable[Path], columns: list[str] | None = None) -> Iterator[dict[str, Any]]:
    """Stream rows as dictionaries."""
    for batch in read_batches(paths, columns):
        yield from batch.to_pylist()


def merge_rows(paths: Iterable[Path], key: str) -> Iterator[dict[str, Any]]:
    """Stream the rows of files that are each sorted by `key`, sorted together; a few rows of each are in memory."""
    files = (
        chain.from_iterable(map(pa.RecordBatch.to_pylist, read_batches([path], rows=_MERGED_ROWS))) for path in paths
    )
    return heapq.merge(*files, key=itemgetter(key))


def read_at(path: Path, positions: Iterable[int], columns: list[str]) -> Iterator[dict[str, Any]]:
    """The rows at the given ascending positions of a file; row groups without any of them are not read."""
    with open_parquet(path) as file:
        group, first, rows = -1, 0, None
        for position in positions:
            while rows is None or position >= first + rows.num_rows:
                first += rows.num_rows if rows is not None else 0
                group += 1
                while position >= first + file.metadata.row_group(group).num_rows:
                    first += file.metadata.row_group(group).num_rows
                    group += 1
                rows = file.read_row_group(group, columns, use_threads=False)
            yield rows.slice(position - first, 1).to_pylist()[0]


def count_rows(paths: Iterable[Path]) -> int:
    """Number of rows, from the files' footers."""
    total = 0
    for path in paths:
        with open_parquet(path) as file:
            total += file.metadata.num_rows
    return total


def _row_bytes(row: Row) -> int:
    return sum(len(value) for value in row.values() if isinstance(value, str | bytes))
