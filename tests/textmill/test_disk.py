"""A disk that is full or forbidden, as the libraries that write meet it: one line that says what and where."""

from __future__ import annotations

import os
import sqlite3
import subprocess
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import safetensors.numpy

from textmill.disk import folder_to_fill, one_line_of_disk
from textmill.errors import UserError

BIG = np.random.default_rng(0).bytes(4_000_000)


@pytest.fixture
def tiny(tmp_path) -> Iterator[Path]:
    """A file system of a megabyte."""
    folder = tmp_path / "tiny"
    folder.mkdir()
    mounted = subprocess.run(
        ["mount", "-t", "tmpfs", "-o", "size=1m", "tmpfs", folder], capture_output=True, check=False
    )
    if mounted.returncode:
        pytest.skip("only root may mount a file system")
    yield folder
    subprocess.run(["umount", "--lazy", folder], check=True)


def parquet(path: Path) -> None:
    pq.write_table(pa.table({"body": [BIG]}), path)


def arrow(path: Path) -> None:
    batch = pa.RecordBatch.from_pydict({"body": [BIG]})
    with pa.OSFile(str(path), "wb") as file, pa.ipc.new_stream(file, batch.schema) as stream:
        stream.write_batch(batch)


def sqlite(path: Path) -> None:
    with closing(sqlite3.connect(path)) as database:
        database.execute("CREATE TABLE bodies (body BLOB)")
        database.execute("INSERT INTO bodies VALUES (?)", (BIG,))


def tensors(path: Path) -> None:
    safetensors.numpy.save_file({"body": np.frombuffer(BIG, np.uint8)}, path)


def array(path: Path) -> None:
    np.frombuffer(BIG, np.uint8).tofile(path)


def plain(path: Path) -> None:
    path.write_bytes(BIG)


@pytest.mark.parametrize("write", [parquet, arrow, sqlite, tensors, array, plain])
def test_a_full_disk_is_one_line_whatever_writes(write, tiny):
    with (
        pytest.raises(
            UserError, match=rf"^the disk is full: \d\.\d MB free for {tiny} \(mounted at {tiny}\).*run again$"
        ),
        one_line_of_disk(tiny),
    ):
        write(tiny / "file")


@pytest.mark.parametrize("name", ["new/one", "", "file"])
def test_a_folder_that_a_full_disk_cannot_take_is_left_as_it_was(name, tiny):
    out = tiny / name
    if name == "file":
        out.write_text("precious")
    before = sorted(tiny.rglob("*"))
    what = "is a file" if name == "file" else "the disk is full"
    for _ in range(2):  # the second time, nothing of the first is in the way
        with pytest.raises(UserError, match=what), folder_to_fill(out):
            (out / "part").mkdir()
            (out / "part" / "small").write_text("")
            plain(out / "big")
        assert sorted(path for path in tiny.rglob("*") if path.name != "new") == before
    if name != "file":
        with folder_to_fill(out):
            (out / "small").write_text("precious")
        with pytest.raises(UserError, match="is not empty"), folder_to_fill(out):
            (out / "small").unlink()
        assert (out / "small").read_text() == "precious"


@pytest.mark.skipif(os.geteuid() == 0, reason="nothing is forbidden to root")
def test_a_forbidden_folder_is_one_line(tmp_path):
    tmp_path.chmod(0o500)
    with pytest.raises(UserError, match=f"{tmp_path}/file may not be written or read"), one_line_of_disk(tmp_path):
        (tmp_path / "file").write_bytes(b"")


def test_the_cause_of_an_error_is_found_behind_others(tmp_path):
    with pytest.raises(UserError, match="the disk is full"), one_line_of_disk(tmp_path / "not" / "there"):
        try:
            raise OSError(28, "No space left on device")
        except OSError as error:
            raise RuntimeError("a shard could not be written") from error


def test_another_error_passes_through(tmp_path):
    with pytest.raises(FileNotFoundError), one_line_of_disk(tmp_path):
        (tmp_path / "missing").read_bytes()
