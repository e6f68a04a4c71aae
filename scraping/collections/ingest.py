"""Ingest text collections (OpenWebText and its relatives) as documents.

Units of the input (inner archives, runs of row groups, files) are read ahead by the executor and written in order, so
that the result depends neither on who read them nor on where a killed run was taken up again. The id of a document is a
hash of its text: every layout gives the same rows with the same ids.

There is one writer, because where a shard ends depends on all rows before it. With Parquet its compressing takes 0.6 of
the time, so that a cluster helps most where archives wait to be decompressed.
"""

from __future__ import annotations

import json
import logging
import os
import shutil
from collections import Counter, deque
from collections.abc import Generator, Iterable, Iterator
from contextlib import closing
from functools import partial
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc

from scraping.collections.config import IngestConfig
from scraping.collections.documents import counts_of, read_unit, skipped_of
from scraping.collections.files import check_contents, listed, local_files
from scraping.collections.layouts import Unit, unit_of, units
from scraping.collections.names import named_layout
from scraping.collections.remote import COMMON_CRAWL, fetch_files, fetch_listed, is_path_list, is_remote
from scraping.collections.skipped import SKIPPED, Skipped, Tally, beside, by_reason, unread
from scraping.collections.sniff import NotCollection
from scraping.shards import DOCUMENTS, SHARD_BYTES, ShardWriter, shards
from textmill.addresses import expand
from textmill.errors import UserError
from textmill.files import atomic_write, remove_temporary
from textmill.mapping import HERE, Executor
from textmill.progress import Progress, quiet

logger = logging.getLogger(__name__)


def ingest(config: IngestConfig, out: Path, progress: Progress = quiet, executor: Executor = HERE) -> None:
    """Write the documents to `out/part-*.parquet`, their counts to `out/stats.json`, and what gave no document to
    `out/skipped.jsonl`, if anything did not.

    Raises:
        UserError: there is no document, or too much is unreadable, or not what its name says.
        Unavailable: a remote collection cannot be had now, or the disk failed.
    """
    journal, downloads, spool = _Journal(out / ".journal.json"), out / ".downloads", out / ".spool"
    if (out / "stats.json").exists():  # written last: only the tidying up was cut short
        _tidy_up(journal, downloads, spool)
        return
    address = expand(config.path)
    files: Iterable[Path | Skipped]
    others: list[Path] = []
    if is_remote(address):
        files = fetch_files(address, downloads, progress)
    else:
        files, others = here = local_files(config.path)
        check_contents(here.read, config.text_column)
        if len(here.read) == 1 and is_path_list(here.read[0].name):
            files = fetch_listed(here.read[0], COMMON_CRAWL, downloads, progress)
    out.mkdir(parents=True, exist_ok=True)
    remove_temporary(out)
    shutil.rmtree(spool, ignore_errors=True)  # of a killed run
    for shard in shards(out)[journal.shards :]:
        shard.unlink()  # finished, but what it holds was not recorded
    tally = Tally(out / SKIPPED, journal.skipped)
    with ShardWriter(out, "part", DOCUMENTS, first=journal.shards, shard_bytes=1 << 62) as writer:
        documents = _Documents(writer, journal.counts, tally, config.limit, progress)
        source = _Source(files, others, config, spool)
        reader = HERE if config.limit else executor  # of a limit's units, most of what is read ahead would be left over
        with closing(source.read(reader, skip=journal.units)) as read:
            for position, tables in enumerate(read, start=journal.units + 1):
                documents.write(tables)
                if documents.reached_limit:
                    break
                if documents.cut_if_full():
                    journal.record(writer.number, position, documents.counts, tally.recorded())
    tally.finish()
    _check_share(config, documents.counts, tally, out / SKIPPED)
    _check_files(config, source.files, tally, out / SKIPPED)
    stats = {
        "source": config.name, **documents.counts, "skipped": tally.skipped, "unread": tally.unread,
        "damaged": sorted(tally.damaged),
    }  # fmt: skip
    atomic_write(out / "stats.json", json.dumps(stats, indent=1, sort_keys=True, ensure_ascii=False))
    _tidy_up(journal, downloads, spool)


def _tidy_up(journal: _Journal, *folders: Path) -> None:
    journal.remove()
    for folder in folders:
        shutil.rmtree(folder, ignore_errors=True)


def _check_share(config: IngestConfig, counts: Counter[str], tally: Tally, where: Path) -> None:
    """Log what was skipped.

    Raises:
        UserError: it is too much, or all.
    """
    lost = tally.skipped.total()
    said = []
    if lost:
        said.append(f"skipped: {by_reason(tally.skipped)}; the first is {tally.first}")
    if tally.unread:
        said.append(f"not read: {by_reason(tally.unread)}")
    if not counts["documents"]:
        remedy = "fetch the files again, or check text_column" if lost else "check the path, text_column and sample"
        raise UserError(f"no document with text in {config.path} ({'; '.join(said) or 'all are empty'}): {remedy}.")
    records = lost + counts["documents"] + counts["empty"] + counts["sampled_out"]
    if tally.places > 1 and lost > config.max_skipped * records:
        raise UserError(
            f"{lost:,} of {records:,} records of {config.path} cannot be read ({lost / records:.1%}, more than "
            f"max_skipped, {config.max_skipped:.1%}; {said[0]}; all are listed in {where}): mend them, or set "
            f"max_skipped to go on without them."
        )
    for line in said:
        logger.warning("%s, %s (all are listed in %s)", config.name, line, SKIPPED)


def _check_files(config: IngestConfig, files: int, tally: Tally, where: Path) -> None:
    """Make sure that few files are damaged: as skipped records, each counts for one, whatever is lost with it.

    Raises:
        UserError: they are too many.
    """
    damaged = len(tally.damaged)
    if damaged > 1 and damaged > config.max_skipped * files:
        names = listed(sorted(tally.damaged)[:3], damaged)
        raise UserError(
            f"{damaged:,} of {files:,} files and inner archives of {config.path} are damaged, and nobody knows how "
            f"many records are lost with that ({damaged / files:.1%} of the files, more than max_skipped, "
            f"{config.max_skipped:.1%}: {names}; all are listed in {where}): fetch them again, or set max_skipped to "
            "go on with what they still hold."
        )


class _Source:
    """The units of a collection.

    Attributes:
        files: how many files and inner archives have been looked into so far.
    """

    def __init__(self, files: Iterable[Path | Skipped], others: list[Path], config: IngestConfig, spool: Path) -> None:
        """`files` are to be read, or said not to be; the `others` are local ones that are not read."""
        self._files, self._others, self._config = files, others, config
        here = [*files, *others] if isinstance(files, list) else []
        self._root = Path(os.path.commonpath([file.parent for file in here])) if here else None
        self._archives, self._tables = spool / "archives", spool / "tables"
        self.files = 0

    def read(self, executor: Executor, skip: int) -> Generator[Iterator[pa.Table], None, None]:
        """The tables of each unit (`read_unit`), in order, without those of the first `skip` units."""
        for folder in (self._archives, self._tables):
            folder.mkdir(parents=True)
        waiting: deque[Unit] = deque()

        def handed_out() -> Iterator[Unit]:
            for number, unit in enumerate(self._units()):
                if number < skip:
                    unit.discard()
                else:
                    waiting.append(unit)
                    yield unit

        read = partial(read_unit, source=self._config.name, sample=self._config.sample)
        for tables in executor.stream(read, handed_out(), self._tables, self._config.workers):
            yield tables
            waiting.popleft().discard()  # not by its reader: a cluster may read a unit twice

    def _name(self, file: Path) -> str:
        """What a file is called: its place in the collection."""
        return file.relative_to(self._root).as_posix() if self._root else file.name

    def _unread(self, file: Path) -> Skipped:
        name = self._name(file)
        return unread(name, "", "linked folder") if file.is_dir() else beside(name)

    def _units(self) -> Iterator[Unit]:
        if self._others:
            yield unit_of([self._unread(file) for file in self._others])
        for file in self._files:
            if isinstance(file, Skipped):
                yield unit_of([file])
                continue
            name = self._name(file)
            self.files += 1
            try:
                for unit in units(file, name, self._config.text_column, self._archives):
                    self.files += unit.spooled is not None
                    yield unit
            except NotCollection as error:
                if named_layout(file.name) != "text":
                    if self._root is None:
                        file.unlink()  # the next run fetches it again
                    raise UserError(f"{name} is {error.seems}, not a text collection: {error.advice}.") from error
                yield unit_of([Skipped(name, "", "not a text", error.seems)])


class _Documents:
    """Writes tables of documents and counts them."""

    def __init__(
        self, writer: ShardWriter, counts: Counter[str], tally: Tally, limit: int | None, progress: Progress
    ) -> None:
        self._writer, self.counts, self._tally, self._limit, self._progress = writer, counts, tally, limit, progress
        self._size = 0  # of the unfinished shard

    @property
    def reached_limit(self) -> bool:
        return self.counts["documents"] == self._limit

    def write(self, tables: Iterator[pa.Table]) -> None:
        """Write the tables of a unit, up to the limit."""
        for table in tables:
            found = counts_of(table)
            self._tally.add(skipped_of(table))
            table = table.replace_schema_metadata(None)
            if self._limit:
                table = table.slice(0, self._limit - self.counts["documents"])
            self._writer.write_table(table)
            self._size += found.pop("bytes")
            self.counts.update(found)
            self.counts.update(documents=table.num_rows, characters=pc.sum(table["n_chars"]).as_py() or 0)
            self._progress(self.counts["documents"], self._limit, unit="documents")
            if self.reached_limit:
                break
            self.cut_if_full(2)  # within one endless unit

    def cut_if_full(self, times: int = 1) -> bool:
        """End the shard if it has so many times the size of one; says whether it had."""
        if self._size < times * SHARD_BYTES:
            return False
        self._size = 0
        self._writer.cut()
        return True


class _Journal:
    """How far a job came: the shards that are finished, and the units they hold."""

    def __init__(self, path: Path) -> None:
        self._path = path
        state: dict[str, Any] = json.loads(path.read_text()) if path.exists() else {}
        self.shards: int = state.get("parts", 0)
        self.units: int = state.get("units", 0)
        self.counts = Counter(state.get("counts", {"documents": 0, "characters": 0, "empty": 0, "sampled_out": 0}))
        self.skipped: dict[str, Any] = state.get("skipped", {})

    def record(self, shards: int, units: int, counts: Counter[str], skipped: dict[str, Any]) -> None:
        """Note what is finished and on the disk."""
        atomic_write(self._path, json.dumps({"parts": shards, "units": units, "counts": counts, "skipped": skipped}))

    def remove(self) -> None:
        self._path.unlink(missing_ok=True)
