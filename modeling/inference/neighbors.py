"""Nearest neighbors among the vectors that `embed` wrote: exact, by the cosine, block by block."""

from __future__ import annotations

from collections.abc import Collection, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from modeling.inference.embed import EMBEDDING, ID, VectorsInfo
from textmill.errors import UserError, first_line

__all__ = ["Neighbor", "Vectors"]

BLOCK_ROWS = 16_384  # vectors that are compared at once
BLOCK_COSINES = 1 << 24  # most cosines of a block


@dataclass(frozen=True)
class Neighbor:
    """A row near a query.

    Attributes:
        row: its number in the file, from 0.
        cosine: of the angle between its vector and the query's; 0 where one of them is zero.
        text: its own.
        id: its own, where the file has some.
    """

    row: int
    cosine: float
    text: str
    id: Any = None


class Vectors:
    """A file of vectors, of which only blocks are in memory.

    Attributes:
        path: the file.
        info: what it says of itself.
        count: its rows.
        width: numbers of each vector.
        has_ids: whether its rows have ids.

    Raises:
        UserError: it is not one that `embed` wrote.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        try:
            schema = pq.read_schema(path)
        except (OSError, pa.ArrowException) as error:
            raise UserError(f"{path} is not a readable Parquet file: {first_line(error)}") from error
        info = VectorsInfo.of(schema)
        if info is None:
            raise UserError(f"{path} holds no vectors; make some with `textmill embed CHECKPOINT … --out FILE`")
        self.info, self.width = info, schema.field(EMBEDDING).type.list_size
        self.count = int(pq.read_metadata(path).num_rows)
        self.has_ids = ID in schema.names and info.column != ID

    def rows_of(self, ids: Sequence[str]) -> list[int]:
        """The row numbers of these ids; of a file without ids, the numbers themselves.

        Raises:
            UserError: there is no such row.
        """
        known: dict[str, int] = {}
        if self.has_ids:
            for row, value in enumerate(pq.read_table(self.path, columns=[ID])[ID].to_pylist()):
                known.setdefault(str(value), row)
        else:
            known = {str(row): row for row in range(self.count)}
        if missing := [value for value in ids if value not in known]:
            what = "id" if self.has_ids else "row"
            raise UserError(f"{self.path} has no {what} {missing[0]!r}")
        return [known[value] for value in ids]

    def read(self, rows: Sequence[int]) -> tuple[np.ndarray, list[dict[str, Any]]]:
        """The vectors of rows, fp32 [rows, W], and their other columns."""
        wanted = sorted(set(rows))
        found: dict[int, dict[str, Any]] = {}
        start = 0
        with pq.ParquetFile(self.path) as file:
            for group in range(file.num_row_groups):
                stop = start + file.metadata.row_group(group).num_rows
                if inside := [row for row in wanted if start <= row < stop]:
                    table = file.read_row_group(group).take([row - start for row in inside])
                    found |= zip(inside, table.to_pylist(), strict=True)
                start = stop
        vectors = np.array([found[row][EMBEDDING] for row in rows], np.float32).reshape(len(rows), self.width)
        return vectors, [{name: value for name, value in found[row].items() if name != EMBEDDING} for row in rows]

    def nearest(
        self, queries: np.ndarray, count: int, left_out: Sequence[Collection[int]] = ()
    ) -> list[list[Neighbor]]:
        """For each query, the rows whose vectors have the greatest cosine with it, that first; of equal ones the
        earlier row. Exact: every vector is compared, in fp64.

        Args:
            queries: [queries, W].
            count: neighbors of each, at most.
            left_out: for each query, rows that are none of its neighbors.

        Raises:
            UserError: the queries have another width.
        """
        if queries.shape[1] != self.width:
            raise UserError(f"{self.path} has vectors of {self.width} numbers, the queries of {queries.shape[1]}")
        wanted = unit(queries)
        best = [(np.empty(0), np.empty(0, np.int64)) for _ in wanted]
        start, rows_at_once = 0, max(1, min(BLOCK_ROWS, BLOCK_COSINES // max(1, len(wanted))))
        with pq.ParquetFile(self.path) as file:
            for batch in file.iter_batches(rows_at_once, columns=[EMBEDDING]):
                block = batch.column(0).flatten().to_numpy().reshape(len(batch), self.width)
                cosines = wanted @ unit(block).T
                for query, skipped in enumerate(left_out):
                    cosines[query, [row - start for row in skipped if start <= row < start + len(batch)]] = -np.inf
                best = [_merged(kept, row, start, count) for kept, row in zip(best, cosines, strict=True)]
                start += len(batch)
        near = [[(int(row), float(cosine)) for cosine, row in zip(*kept, strict=True)] for kept in best]
        rows = sorted({row for found in near for row, _ in found})
        about = dict(zip(rows, self.read(rows)[1], strict=True))
        return [
            [Neighbor(row, cosine, about[row][self.info.column], about[row].get(ID)) for row, cosine in found]
            for found in near
        ]


def unit(vectors: np.ndarray) -> np.ndarray:
    """Vectors of length 1 in fp64; zero stays zero."""
    exact = vectors.astype(np.float64)
    return exact / np.maximum(np.linalg.norm(exact, axis=1, keepdims=True), np.finfo(np.float64).tiny)


def _merged(
    kept: tuple[np.ndarray, np.ndarray], cosines: np.ndarray, start: int, count: int
) -> tuple[np.ndarray, np.ndarray]:
    """The greatest `count` cosines, with their rows, of those that were kept and those of a block from row `start`."""
    threshold = np.partition(cosines, -count)[-count] if len(cosines) > count else -np.inf
    near = np.flatnonzero((cosines >= threshold) & (cosines > -np.inf))
    values, rows = np.concatenate([kept[0], cosines[near]]), np.concatenate([kept[1], near + start])
    order = np.argsort(-values, kind="stable")[:count]  # rows ascend within equal ones
    return values[order], rows[order]
