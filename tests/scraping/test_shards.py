"""Shards: whole or not at all, deterministic, streaming."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time

import pyarrow.parquet as pq
import pytest

from scraping.shards import (
    DOCUMENTS,
    ROW_GROUP_ROWS,
    ShardWriter,
    count_rows,
    open_parquet,
    read_rows,
    shards,
    write_shard,
)
from textmill.errors import UserError
from textmill.files import atomic_write, remove_temporary


def row(i, text="text"):
    return {"id": f"{i:08d}", "source": "s", "text": text, "n_chars": len(text)}


def test_rows_come_back_in_order_across_shards(tmp_path):
    seen = []
    on_shard = lambda path, rows: seen.append((path.name, rows))  # noqa: E731
    with ShardWriter(tmp_path, "part", DOCUMENTS, shard_bytes=200_000, on_shard=on_shard) as writer:
        for i in range(5_500):
            writer.write(row(i, "x" * 100))
    paths = shards(tmp_path)
    assert [path.name for path in paths] == [name for name, _ in seen] and len(paths) > 1
    assert sum(rows for _, rows in seen) == count_rows(paths) == 5_500
    assert [r["id"] for r in read_rows(paths, ["id"])] == [f"{i:08d}" for i in range(5_500)]
    assert max(pq.ParquetFile(p).metadata.row_group(0).num_rows for p in paths) <= ROW_GROUP_ROWS


def test_same_rows_give_same_bytes(tmp_path):
    for name in "ab":
        with ShardWriter(tmp_path / name, "part", DOCUMENTS) as writer:
            for i in range(2_345):
                writer.write(row(i, f"text {i}" * (i % 7)))
    assert (tmp_path / "a/part-00000.parquet").read_bytes() == (tmp_path / "b/part-00000.parquet").read_bytes()


def test_numbering_goes_on_and_cut_reports_the_path(tmp_path):
    with ShardWriter(tmp_path, "part", DOCUMENTS, first=3) as writer:
        assert writer.cut() is None
        writer.write(row(1))
        assert writer.cut() == tmp_path / "part-00003.parquet"
        writer.write(row(2))
    assert [p.name for p in shards(tmp_path)] == ["part-00003.parquet", "part-00004.parquet"]


def test_an_error_leaves_no_file(tmp_path):
    with pytest.raises(RuntimeError), ShardWriter(tmp_path, "part", DOCUMENTS) as writer:
        for i in range(3_000):
            writer.write(row(i))
        raise RuntimeError
    with pytest.raises(RuntimeError):
        write_shard(tmp_path / "part-00000.parquet", failing_rows(), DOCUMENTS)
    assert list(tmp_path.iterdir()) == []


def failing_rows():
    yield from (row(i) for i in range(2_000))
    raise RuntimeError


def test_write_shard_accepts_no_rows(tmp_path):
    path = tmp_path / "part-00000.parquet"
    assert write_shard(path, [], DOCUMENTS) == 0
    assert pq.read_schema(path).names == DOCUMENTS.names and count_rows([path]) == 0


def test_kill_leaves_whole_shards_and_removable_leftovers(tmp_path):
    program = f"""
from pathlib import Path
from scraping.shards import DOCUMENTS, ShardWriter
with ShardWriter(Path({str(tmp_path)!r}), "part", DOCUMENTS, shard_bytes=100_000) as writer:
    i = 0
    while True:
        writer.write({{"id": str(i), "text": "x" * 500}})
        i += 1
"""
    child = subprocess.Popen([sys.executable, "-c", program])
    while len(shards(tmp_path)) < 3 and child.poll() is None:
        time.sleep(0.01)
    os.kill(child.pid, signal.SIGKILL)
    child.wait()
    remove_temporary(tmp_path)
    paths = shards(tmp_path)
    assert sorted(tmp_path.iterdir()) == paths
    assert [int(r["id"]) for r in read_rows(paths)] == list(range(count_rows(paths)))


def test_damaged_file_is_named(tmp_path):
    path = tmp_path / "part-00000.parquet"
    atomic_write(path, b"PAR1 and then nothing")
    with pytest.raises(UserError, match=r"part-00000\.parquet is not a readable Parquet file"):
        open_parquet(path)
