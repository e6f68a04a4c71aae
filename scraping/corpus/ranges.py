"""Documents on their way to a corpus that is sorted by id, however many: dealt into ranges of ids, on disk.

Every file of refined documents holds one Arrow record batch for each range. All documents of a range are read from all
files without anything else, and sorted in memory: a distribution sort (Knuth, TAOCP volume 3, 1973, section 5.2.5)
whose dealing costs nothing, because it is done where the documents are written anyway. The files are scratch, so
LZ4 takes the place of zstd.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator
from itertools import pairwise
from pathlib import Path
from types import TracebackType
from typing import Any, NamedTuple, Self

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from scraping.shards import open_parquet
from textmill.files import atomic_path

RANGE_BYTES = 64 << 20  # of text: one range a thread is in memory
_BOUNDS = b"bounds"  # key of a file's metadata: where each range begins, and the number of documents
_MOST_RANGES = 1024  # each costs a file about a kilobyte

Positions = NDArray[np.int64]


def count_ranges(shards: Iterable[Path]) -> int:
    """Into how many ranges the documents of some Parquet files are to be dealt."""
    size = 0
    for path in shards:
        with open_parquet(path) as file:
            size += sum(file.metadata.row_group(group).total_byte_size for group in range(file.metadata.num_row_groups))
    return min(_MOST_RANGES, 1 + size // RANGE_BYTES)


def range_numbers(ids: pa.Array | pa.ChunkedArray, ranges: int) -> Positions:
    """The range of each id, which is hexadecimal: int64[ids]."""
    return np.fromiter((int(id[:8], 16) * ranges >> 32 for id in ids.to_pylist()), np.int64, len(ids))


class Dealt(NamedTuple):
    """Documents in ranges."""

    table: pa.Table  # range after range, otherwise in the order in which they came
    bounds: list[int]  # where each range begins, and the number of documents


def deal(table: pa.Table, ranges: int) -> Dealt:
    """Sort documents by range."""
    numbers = range_numbers(table["id"], ranges)
    order = np.argsort(numbers, kind="stable")
    return Dealt(table.take(order), np.searchsorted(numbers[order], np.arange(ranges + 1)).tolist())


def write_ranges(path: Path, dealt: Dealt) -> None:
    """Write documents in ranges, atomically."""
    table, bounds = dealt
    table = table.combine_chunks().replace_schema_metadata({_BOUNDS: json.dumps(bounds)})
    empty = pa.RecordBatch.from_pylist([], schema=table.schema)
    options = pa.ipc.IpcWriteOptions(compression="lz4")
    with atomic_path(path) as unfinished, pa.ipc.new_file(str(unfinished), table.schema, options=options) as writer:
        for first, end in pairwise(bounds):
            batches = table.slice(first, end - first).to_batches()
            writer.write_batch(batches[0] if batches else empty)


class RangeFile:
    """Reads what `write_ranges` wrote; use it in a `with` block.

    Args:
        path: the file.
        columns: the names of the columns to read; without any, all.
    """

    def __init__(self, path: Path, columns: list[str] | None = None) -> None:
        self._source = pa.OSFile(str(path))
        file = pa.ipc.open_file(self._source)
        if columns is not None:
            fields = [file.schema.get_field_index(name) for name in columns]
            file = pa.ipc.open_file(self._source, options=pa.ipc.IpcReadOptions(included_fields=fields))
        self._file = file
        self.bounds: list[int] = json.loads(
            file.schema.metadata[_BOUNDS]
        )  # where each range begins; the end of the last

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self._source.close()

    def range(self, number: int) -> pa.RecordBatch:
        """The documents of a range."""
        return self._file.get_batch(number)

    def rows(self, positions: Positions) -> Iterator[dict[str, Any]]:
        """The documents at ascending positions."""
        numbers = np.searchsorted(self.bounds, positions, side="right") - 1
        for number in np.unique(numbers).tolist():
            inside = positions[numbers == number] - self.bounds[number]
            yield from self.range(number).take(pa.array(inside)).to_pylist()
