"""Ingest text collections (OpenWebText and its relatives) as documents.

Units of the input (inner archives, runs of row groups, files) are read ahead by a few threads, or wherever shards are
mapped, and written in order, so that the result depends neither on their number nor on where a killed run was taken up
again. The id of a document is a hash of its text: every layout gives the same rows with the same ids.

There is one writer, because where a shard ends depends on all rows before it. With Parquet its compressing takes 0.6 of
the time, so that a cluster helps most where archives wait to be decompressed.
"""

import contextlib
import hashlib
import json
import logging
import operator
import os
import queue
import re
import secrets
import shutil
import threading
from collections import Counter, deque
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from itertools import islice
from pathlib import Path
from typing import Any, NamedTuple

import pyarrow as pa
import pyarrow.compute as pc
from pydantic import BaseModel, Field, field_validator

from scraping.collections.layouts import Batch, Damaged, Unit, is_data, normalize, units
from scraping.shards import DOCUMENTS, SHARD_BYTES, ShardWriter, shards
from textmill.errors import Unavailable, UserError
from textmill.files import atomic_write, remove_temporary
from textmill.settings import execution_only

logger = logging.getLogger(__name__)

# Where a folder or repository holds one collection in several layouts, the first of these is read.
_LAYOUTS = (
    re.compile(r"\.parquet$"),
    re.compile(r"\.(json|jsonl|ndjson)(\.(xz|gz|bz2|zst))?$"),
    re.compile(r"(\.tar|\.tgz|_data)(\.(xz|gz|bz2|zst))?$"),
    re.compile(r"\.txt(\.(xz|gz|bz2|zst))?$"),
)


class IngestConfig(BaseModel, extra="forbid"):
    """A text collection: which, and how much of it."""

    path: str = execution_only(
        description="File, folder or glob; a file's http(s) URL; or hf://datasets/OWNER/NAME on the Hugging Face hub"
    )
    name: str = Field("openwebtext", min_length=1, description="Name of the collection, the documents' source")
    required: bool = execution_only(
        True, description="Whether a missing collection is an error; otherwise the run goes on without it"
    )
    text_column: str = Field("text", description="Column or JSON key that holds the text")
    limit: int | None = Field(None, gt=0, description="Stop after this many documents")
    sample: float | None = Field(
        None, gt=0, le=1, description="Keep this share of the documents, by a hash of the text"
    )
    workers: int = execution_only(
        default_factory=lambda: min(4, os.cpu_count() or 1), ge=1, description="Threads that read ahead"
    )

    @field_validator("path")
    @classmethod
    def _path(cls, path: str) -> str:
        if not path.strip():
            raise ValueError("empty path: name a file, a folder, a glob, a URL or hf://datasets/OWNER/NAME")
        return path


def is_remote(path: str) -> bool:
    """Whether a collection's path is an address, by which it is known, and not a place of local files."""
    return path.startswith(("hf://", "http://", "https://"))


def ingest_files(config: IngestConfig) -> list[Path]:
    """The local files that `ingest` will read, in order; none if the collection is elsewhere.

    Raises `UserError` if there is nothing there, `Unavailable` if it cannot be reached.
    """
    if is_remote(config.path):
        _reach(config.path)
        return []
    path = Path(config.path).expanduser()
    if path.is_file():
        return [path.absolute()]
    if path.is_dir():
        found = sorted(file for file in path.rglob("*") if file.is_file())
    else:
        parent = Path(path.anchor) if path.is_absolute() else Path()
        try:
            found = sorted(file for file in parent.glob(str(path.relative_to(parent))) if file.is_file())
        except ValueError as error:
            raise UserError(f"{config.path} is not a glob ({error}): write one such as data/*.parquet.") from error
    files = _one_layout(found)
    if not files:
        raise UserError(
            f"no text collection at {config.path}: set the path to Parquet, .jsonl.zst, .tar.xz or .txt files, "
            "or set required: false to go on without it."
        )
    return [file.absolute() for file in files]


def ingest(
    config: IngestConfig,
    out: Path,
    progress: Callable[..., None],
    map_shards: Callable[..., Iterator] | None = None,
) -> None:
    """Write the documents to `out/part-*.parquet` and figures to `out/stats.json`.

    Given `map_shards(function, items)`, which works like the builtin `map`, each unit is read by one call of it; with a
    limit it is not used, as what is read ahead would mostly be thrown away.

    Damaged files are reported in the log and in the figures, and give what was whole; `UserError` if that is
    nothing, `Unavailable` if a remote collection cannot be had now.
    """
    journal, downloads, pieces = _Journal(out / ".journal.json"), out / ".downloads", out / ".pieces"
    if (out / "stats.json").exists():  # written last: only the tidying up was cut short
        _tidy_up(journal, downloads, pieces)
        return
    files = _download(config.path, downloads, progress) if is_remote(config.path) else ingest_files(config)
    out.mkdir(parents=True, exist_ok=True)
    remove_temporary(out)
    shutil.rmtree(pieces, ignore_errors=True)  # of a killed run
    for shard in shards(out)[journal.parts :]:
        shard.unlink()  # finished, but what it holds was not recorded
    counts = journal.counts
    damaged: list[Damaged] = []
    size = 0  # of the unfinished shard
    with ShardWriter(out, "part", DOCUMENTS, first=journal.parts, shard_bytes=1 << 62) as writer:
        if map_shards and not config.limit:
            pieces.mkdir()
            found = _units(files, config.text_column, damaged, pieces)
            ahead = _read_elsewhere(islice(found, journal.units, None), config, pieces, map_shards)
        else:
            found = _units(files, config.text_column, damaged)
            ahead = _read_ahead(islice(found, journal.units, None), config)
        for position, unit_documents in enumerate(ahead, start=journal.units + 1):
            try:
                for table, table_bytes, left_out in unit_documents:
                    if config.limit:
                        table = table.slice(0, config.limit - counts["documents"])
                    writer.write_table(table)
                    size += table_bytes
                    counts.update(left_out)
                    counts.update(documents=table.num_rows, characters=pc.sum(table["n_chars"]).as_py() or 0)
                    progress(counts["documents"], config.limit, unit="documents")
                    if counts["documents"] == config.limit:
                        break
                    if size >= 2 * SHARD_BYTES:  # within one endless unit
                        size = 0
                        writer.cut()
            except Damaged as error:
                damaged.append(error)
            if counts["documents"] == config.limit:
                break
            if size >= SHARD_BYTES:
                size = 0
                writer.cut()
                journal.record(writer.number, position, counts, damaged)
        ahead.close()
    reports = {error.name: error.detail for error in damaged} | journal.damaged
    for name, detail in sorted(reports.items()):
        logger.warning("%s is damaged (%s): what was whole is kept", name, detail)
    if not counts["documents"]:
        raise UserError(_nothing(config, reports))
    stats = {"source": config.name, "damaged": reports, **counts}
    atomic_write(out / "stats.json", json.dumps(stats, indent=1, sort_keys=True, ensure_ascii=False).encode())
    _tidy_up(journal, downloads, pieces)


def document_id(text: bytes) -> str:
    """Id of an ingested document: the first 128 bits of the SHA-256 of its UTF-8 text, in hexadecimal.

    Processors have instructions for SHA-256: it takes less than half the time of BLAKE2b.
    """
    return hashlib.sha256(text).hexdigest()[:32]


def _tidy_up(journal: "_Journal", *folders: Path) -> None:
    journal.remove()
    for folder in folders:
        shutil.rmtree(folder, ignore_errors=True)


def _nothing(config: IngestConfig, damaged: dict[str, str]) -> str:
    if damaged:
        listed = "; ".join(f"{name}: {detail}" for name, detail in sorted(damaged.items()))
        return f"no whole document in {config.path} ({listed}): fetch the files again."
    return f"no document with text in {config.path}: check the path, text_column and sample."


class _Journal:
    """How far a job came: the shards that are finished, and the units they hold."""

    def __init__(self, path: Path):
        self._path = path
        state = json.loads(path.read_text()) if path.exists() else {}
        self.parts: int = state.get("parts", 0)
        self.units: int = state.get("units", 0)
        self.damaged: dict[str, str] = state.get("damaged", {})
        self.counts = Counter(state.get("counts", {"documents": 0, "characters": 0, "empty": 0, "sampled_out": 0}))

    def record(self, parts: int, units: int, counts: Counter, damaged: list[Damaged]) -> None:
        self.damaged |= {error.name: error.detail for error in damaged}
        state = {"parts": parts, "units": units, "counts": counts, "damaged": self.damaged}
        atomic_write(self._path, json.dumps(state).encode())

    def remove(self) -> None:
        self._path.unlink(missing_ok=True)


# --- reading ahead ----------------------------------------------------------------------------------------------------


class _Documents(NamedTuple):
    """DOCUMENTS of a batch, their bytes, and how many texts were left out and why."""

    table: pa.Table
    bytes: int
    left_out: Counter


def _units(
    files: Iterable[Path], text_column: str, damaged: list[Damaged], spool: Path | None = None
) -> Iterator[Unit]:
    for file in files:
        try:
            yield from units(file, text_column, spool)
        except Damaged as error:
            damaged.append(error)


def _read_ahead(found: Iterator[Unit], config: IngestConfig) -> Iterator[Iterator[_Documents]]:
    """Read `workers` units at a time, each in a thread, and hand out their documents in the order of the units."""
    stop = threading.Event()
    running: deque[queue.Queue] = deque()

    def read(unit: Unit, tables: queue.Queue) -> None:
        try:
            for batch in unit.read():
                put(tables, _documents(batch, config))
                if stop.is_set():
                    return
            put(tables, None)
        except BaseException as error:  # for the consumer to raise
            put(tables, error)

    def put(tables: queue.Queue, item: Any) -> None:
        waiting = True
        while waiting and not stop.is_set():
            with contextlib.suppress(queue.Full):
                tables.put(item, timeout=0.2)
                waiting = False

    def tables_of(tables: queue.Queue) -> Iterator[_Documents]:
        while (item := tables.get()) is not None:
            if isinstance(item, BaseException):
                raise item
            yield item

    with ThreadPoolExecutor(config.workers, thread_name_prefix="ingest") as threads:
        try:
            for unit in found:
                tables: queue.Queue = queue.Queue(2)
                threads.submit(read, unit, tables)
                running.append(tables)
                if len(running) == config.workers:
                    yield tables_of(running.popleft())
            while running:
                yield tables_of(running.popleft())
        finally:
            stop.set()


class _Piece(NamedTuple):
    """What one call read of a unit: the documents are in a file of Arrow's stream format, one batch for each figure."""

    path: Path
    figures: list[tuple[int, Counter]]  # bytes as they are counted here, and what was left out
    damaged: tuple[str, str] | None  # name and detail
    spooled: Path | None


def _read_elsewhere(
    found: Iterator[Unit], config: IngestConfig, folder: Path, map_shards: Callable[..., Iterator]
) -> Iterator[Iterator[_Documents]]:
    """Have the units read by calls of `map_shards`, which leave pieces in `folder`, and hand out their documents."""
    jobs = ((unit, folder / f"{number:06d}.arrow") for number, unit in enumerate(found))
    for piece in map_shards(partial(_read_alone, config=config), jobs):
        yield _documents_of(piece)


def _read_alone(job: tuple[Unit, Path], config: IngestConfig) -> _Piece:
    """One unit; what a mapped call does. It bears being run twice at once, as clusters do with slow workers."""
    unit, path = job
    unfinished = path.with_name(f"{path.name}.{secrets.token_hex(4)}.tmp")
    figures, damaged = [], None
    with pa.OSFile(str(unfinished), "wb") as file, pa.ipc.new_stream(file, DOCUMENTS) as stream:
        try:
            for documents in (_documents(batch, config) for batch in unit.read()):
                batches = documents.table.combine_chunks().to_batches()
                stream.write_batch(batches[0] if batches else pa.RecordBatch.from_pylist([], DOCUMENTS))
                figures.append((documents.bytes, documents.left_out))
        except Damaged as error:
            damaged = (error.name, error.detail)
    unfinished.rename(path)
    return _Piece(path, figures, damaged, unit.spooled)


def _documents_of(piece: _Piece) -> Iterator[_Documents]:
    with pa.memory_map(str(piece.path)) as file, pa.ipc.open_stream(file) as stream:
        for batch, (size, left_out) in zip(stream, piece.figures, strict=True):
            yield _Documents(pa.Table.from_batches([batch]), size, left_out)
    piece.path.unlink()
    if piece.spooled:
        piece.spooled.unlink()
    if piece.damaged:
        raise Damaged(*piece.damaged)


def _documents(batch: Batch, config: IngestConfig) -> _Documents:
    """The documents of a batch.

    Texts are handled as bytes and, where they are in normal form already, stay where they are: decoding, encoding and
    copying them would take longer than hashing and compressing.
    """
    counts = Counter(empty=0, sampled_out=0)
    as_read = batch.texts if isinstance(batch.texts, pa.Array) else pa.array(batch.texts, pa.binary())
    raw = as_read.cast(pa.binary()).to_pylist()
    normal = [normalize(text or b"") for text in raw]
    if any(map(operator.is_not, raw, normal)) or not _is_utf8(as_read):
        normal = [text.decode("utf-8", "replace").encode() for text in normal]
        texts = pa.array(normal, pa.binary()).cast(pa.string())
    else:
        texts = as_read.cast(pa.string())
    ids = [document_id(text) for text in normal]
    keep = []
    for position, (text, id) in enumerate(zip(normal, ids, strict=True)):
        if not text:
            counts["empty"] += 1
        elif config.sample is not None and int(id[:16], 16) >= config.sample * 2**64:
            counts["sampled_out"] += 1
        else:
            keep.append(position)
    columns = {
        "id": ids,
        "source": [config.name] * len(ids),
        "url": batch.urls or [None] * len(ids),
        "title": batch.titles or [None] * len(ids),
        "lang": batch.langs or [None] * len(ids),
        "text": texts,
        "n_chars": pc.utf8_length(texts).cast(pa.int64()),
        "extractor": ["ingest"] * len(ids),
    }
    table = pa.Table.from_pydict(columns, schema=DOCUMENTS)
    kept = table if len(keep) == len(ids) else table.take(keep)
    return _Documents(kept, kept.nbytes, counts)


def _is_utf8(texts: pa.Array) -> bool:
    try:
        texts.cast(pa.string()).validate(full=True)
    except pa.ArrowInvalid:
        return False
    return True


# --- finding files ----------------------------------------------------------------------------------------------------


def _one_layout(names: list) -> list:
    for layout in _LAYOUTS:
        if files := [name for name in names if layout.search(str(name)) and is_data(str(name))]:
            return files
    return []


def _hub_files(path: str, pinned: str | None = None) -> tuple[str, str, list[str]]:
    """Repository, revision and files of hf://datasets/OWNER/NAME[@REVISION][/FOLDER], as of `pinned` if given."""
    match = re.fullmatch(r"hf://datasets/([^/@]+/[^/@]+)(?:@([^/]+))?(?:/(.*))?", path)
    if not match:
        raise UserError(f"{path} is not a data set on the hub: write hf://datasets/OWNER/NAME.")
    repository, revision, folder = match.groups()
    from huggingface_hub import HfApi

    try:
        about = HfApi().dataset_info(repository, revision=pinned or revision, timeout=10)
    except Exception as error:
        raise _unreachable(path, error) from error
    names = sorted(file.rfilename for file in about.siblings if file.rfilename.startswith(folder or ""))
    files = _one_layout(names)
    if not files:
        raise UserError(f"{path} holds none of the layouts read here: name a data set of Parquet or archives.")
    return repository, about.sha, files


def _reach(path: str) -> None:
    if path.startswith("hf://"):
        _hub_files(path)
        return
    from requests import RequestException

    from scraping.collections.download import file_name, reach

    if not is_data(file_name(path)):
        raise UserError(f"{path} is not the URL of a Parquet, .jsonl.zst, .tar.xz or .txt file: name one.")
    try:
        reach(path)
    except RequestException as error:
        raise _unreachable(path, error) from error


def _download(path: str, folder: Path, progress: Callable[..., None]) -> Iterator[Path]:
    """The files at `path`, fetched one after the other; broken downloads are taken up."""
    if path.startswith("hf://"):
        yield from _hub_downloads(path, folder / "revision")
        return
    from requests import RequestException

    from scraping.collections.download import download, file_name

    if not (folder / file_name(path)).is_file():
        _reach(path)  # tells at once what patience would not mend
    try:
        yield download(path, folder, progress)
    except RequestException as error:
        raise _unreachable(path, error) from error


def _hub_downloads(path: str, pinned: Path) -> Iterator[Path]:
    """The files of a data set, in the hub's own cache. `pinned` keeps the revision of the first attempt: a job that is
    taken up skips what it has read, which another revision may hold elsewhere."""
    repository, revision, files = _hub_files(path, pinned.read_text() if pinned.exists() else None)
    pinned.parent.mkdir(parents=True, exist_ok=True)
    atomic_write(pinned, revision.encode())
    from huggingface_hub import hf_hub_download

    for name in files:
        try:
            yield Path(hf_hub_download(repository, name, revision=revision, repo_type="dataset"))
        except Exception as error:
            raise _unreachable(path, error) from error


def _unreachable(path: str, error: Exception) -> UserError:
    """What to raise where a remote collection could not be had; `Unavailable` unless its server refuses it."""
    status = getattr(getattr(error, "response", None), "status_code", 0)
    kind = UserError if 400 <= status < 500 and status not in (408, 429) else Unavailable
    reason = (str(error).splitlines() or [type(error).__name__])[0]
    return kind(
        f"cannot fetch {path} ({reason}): go online, or set the path to a folder with the files, "
        "or set required: false to go on without it."
    )
