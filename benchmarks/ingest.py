"""Ingesting OpenWebText, against datatrove reading and writing the same Parquet.

The sample's documents are repeated, each time with another number in front, to the sizes measured, in the hub's layout
(row groups of 1,000). Each run is a process of its own, held to one core: two threads on cores that share caches would
make each other's CPU seconds longer. MB are of UTF-8 text; CPU seconds are the process's own, less imports. Ours checks
and normalizes every text, hashes it to its id and writes zstd; datatrove copies it to snappy.
"""

from __future__ import annotations

import importlib
import importlib.util
import io
import json
import lzma
import os
import shutil
import sys
import tarfile
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from statistics import median
from typing import Any

from benchmarks.support.corpora import available, size_of, source_code
from benchmarks.support.report import Row, compare
from benchmarks.support.timing import child, peak_megabytes

MEGABYTES = {True: 30, False: 100}

Measured = dict[str, float]  # of a run: "cpu" and "seconds", "memory" and "megabytes"
Metric = Callable[[Measured], float]


def run(quick: bool) -> list[Row]:
    """A collection and one ten times its size, ours and the peer in turn; medians of the repetitions."""
    repetitions = 2 if quick else 5
    has_peer = importlib.util.find_spec("datatrove") is not None
    size = MEGABYTES[quick]
    with tempfile.TemporaryDirectory() as temporary:
        folder = Path(temporary)
        _write_parquet(folder / "small", size)
        _write_parquet(folder / "large", 10 * size)
        _write_archive(folder / "archive", size)
        runs: dict[str, list[Measured]] = {}
        for _ in range(repetitions):
            for name in ("small", "large", "archive"):
                runs.setdefault(name, []).append(_ingest("ours", folder / name))
            if has_peer:
                runs.setdefault("peer", []).append(_ingest("datatrove", folder / "small"))

    def mid(name: str, metric: Metric) -> float | None:
        return median(map(metric, runs[name])) if name in runs else None

    def per_core(result: Measured) -> float:
        return result["megabytes"] / result["cpu"]

    def memory(result: Measured) -> float:
        return result["memory"]

    def against(name: str, unit: str, metric: Metric, **options: Any) -> Row:
        return compare(name, unit, mid("small", metric), mid("peer", metric), "datatrove", **options)

    return [
        against("Parquet, text per CPU second", "MB/s", per_core, goal="≥ 100"),
        Row("the same, ten times the size", "MB/s", mid("large", per_core), goal="≥ 100"),
        Row("archive of archives (.tar.xz), text per CPU second", "MB/s", mid("archive", per_core)),
        against("peak memory", "MB", memory, goal="< 500", lower_is_better=True),
        Row("peak memory, ten times the size", "MB", mid("large", memory), goal="< 500"),
        Row("time for ten times the size", "×", mid("large", _wall) / mid("small", _wall), goal="≤ 10.5"),
    ]


def _wall(result: Measured) -> float:
    return result["seconds"]


def _ingest(reader: str, folder: Path) -> Measured:
    return child("benchmarks.ingest", reader, folder)


def _texts(megabytes: int) -> Iterator[str]:
    """About so many megabytes of OpenWebText, or else of source code."""
    texts = available().get("openwebtext", source_code)()
    size, number = 0, 0
    while size < megabytes * 1_000_000:
        text = f"{number} {texts[number % len(texts)]}"
        yield text
        size += len(text.encode())
        number += 1


def _write_parquet(folder: Path, megabytes: int) -> None:
    import pyarrow as pa
    import pyarrow.parquet as pq

    folder.mkdir()
    with pq.ParquetWriter(folder / "train-00000-of-00001.parquet", pa.schema([("text", pa.string())])) as writer:
        batch = []
        for text in _texts(megabytes):
            batch.append(text)
            if len(batch) == 1_000:
                writer.write_table(pa.table({"text": batch}))
                batch = []
        writer.write_table(pa.table({"text": batch}))


def _write_archive(folder: Path, megabytes: int) -> None:
    folder.mkdir()
    with tarfile.open(folder / "openwebtext.tar.xz", "w:xz", preset=0) as outer:
        batch = []
        for number, text in enumerate(_texts(megabytes)):
            batch.append((f"{number:07d}.txt", text.encode()))
            if len(batch) == 400:
                _add(outer, f"openwebtext/urlsf_subset{number:07d}_data.xz", lzma.compress(_tar(batch), preset=1))
                batch = []


def _tar(files: list[tuple[str, bytes]]) -> bytes:
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w") as archive:
        for name, content in files:
            _add(archive, name, content)
    return buffer.getvalue()


def _add(archive: tarfile.TarFile, name: str, content: bytes) -> None:
    member = tarfile.TarInfo(name)
    member.size = len(content)
    archive.addfile(member, io.BytesIO(content))


# pyarrow imports pandas by itself where a peer has installed it.
_IMPORTS = {
    "ours": ["scraping.collections.ingest", *(["pandas"] if importlib.util.find_spec("pandas") else [])],
    "datatrove": ["datatrove.pipeline.readers", "datatrove.pipeline.writers", "pandas"],
}


# --- run by the child processes ---------------------------------------------------------------------------------------


def ours(folder: str, out: Path) -> None:
    """Ingest as the stage does."""
    from scraping.collections.config import IngestConfig
    from scraping.collections.ingest import ingest
    from textmill.progress import quiet

    ingest(IngestConfig(path=folder), out, quiet)


def peer(folder: str, out: Path) -> None:
    """Read and write with datatrove."""
    from datatrove.pipeline.readers import ParquetReader
    from datatrove.pipeline.writers import ParquetWriter

    documents = ParquetReader(folder, default_metadata={})()
    for _ in ParquetWriter(str(out))(documents):
        pass


def _main(reader: str, folder: str) -> Measured:
    import pyarrow.parquet as pq

    for module in _IMPORTS[reader]:
        importlib.import_module(module)
    os.sched_setaffinity(0, {min(os.sched_getaffinity(0))})
    out = Path(tempfile.mkdtemp())
    cpu, wall = time.process_time(), time.perf_counter()
    {"ours": ours, "datatrove": peer}[reader](folder, out)
    measured = {"cpu": time.process_time() - cpu, "seconds": time.perf_counter() - wall, "memory": peak_megabytes()}
    files = [pq.ParquetFile(path) for path in out.rglob("*.parquet")]
    batches = (batch for file in files for batch in file.iter_batches(1_000, columns=["text"]))
    measured["megabytes"] = sum(size_of(batch.column(0).to_pylist()) for batch in batches) / 1e6
    shutil.rmtree(out)
    return measured


if __name__ == "__main__":
    print(json.dumps(_main(*sys.argv[1:])))
