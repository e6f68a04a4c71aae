"""Read OpenWebText and its relatives, in every layout they are handed around in, as one stream of texts.

- the original `openwebtext.tar.xz`, a tar of `urlsf_subsetNN-M_data.xz`, each a tar of one text file a document; the
  hub's `subsets/urlsf_subsetNN.tar`; the inner archives by themselves; the small `openwebtext-10k.tar.xz`;
- Parquet with a text column, as the hub serves OpenWebText and FineWeb;
- JSON lines (OpenWebText2, C4), CSV, and plain text with `<|endoftext|>` between documents;
- web archives, WARC and WET, as Common Crawl has them.

A file is cut into *units*: inner archives, runs of row groups, files. Units are what is read in parallel and what a
resumed job skips. What cannot be read comes as `Skipped` in its place; the rest of the file is read where that is
possible.
"""

from __future__ import annotations

import shutil
import tempfile
from collections.abc import Callable, Iterator, Sequence
from functools import partial
from itertools import islice
from pathlib import Path, PurePosixPath
from typing import IO, NamedTuple

import pyarrow as pa
import pyarrow.parquet as pq

from scraping.collections import records
from scraping.collections.archives import DECODER_ERRORS, complaint, decompressed, members_of, reraise_failure
from scraping.collections.names import is_data, is_document, is_hidden, named_layout, says_compressed
from scraping.collections.records import Document, NotUtf8, Record, csv_rows, json_lines, separated_texts, utf8
from scraping.collections.skipped import Skipped, rest_of, unread
from scraping.collections.sniff import Layout, NotCollection, layout_of, not_text
from textmill.errors import UserError

BATCH_ROWS = 1_000
BATCH_BYTES = 8 << 20
_LOOKED_AT = 20  # records, before any work
_UNIT_BYTES = 32 << 20  # row groups are read together up to this size
_OPTIONAL_COLUMNS = {"url": ("url",), "title": ("title",), "lang": ("language", "lang")}


class Batch(NamedTuple):
    """Some documents, column by column, None where the layout lacks a column; and what was skipped among them."""

    texts: list[bytes] | pa.Array  # valid UTF-8
    urls: list[str | None] | None = None
    titles: list[str | None] | None = None
    langs: list[str | None] | None = None
    skipped: Sequence[Skipped] = ()


class Unit(NamedTuple):
    """A piece of a file that can be read by itself: in another thread, or, pickled, in another process."""

    read: Callable[[], Iterator[Batch]]
    spooled: Path | None = None  # the file of an inner archive

    def discard(self) -> None:
        """Remove what the unit holds on disk, when it has been read."""
        if self.spooled:
            self.spooled.unlink()


# --- files and their units --------------------------------------------------------------------------------------------


def units(path: Path, name: str, text_column: str, spool: Path) -> Iterator[Unit]:
    """The units of one file, in its order.

    Args:
        path: the file.
        name: what it is called.
        text_column: column or JSON key that holds the text.
        spool: a folder for inner archives; each stays until its unit is discarded.

    Raises:
        NotCollection: it holds something else than its name promises.
        UserError: it has no such column.
        Unavailable: the disk failed.
    """
    try:
        layout = layout_of(path, name)
        if layout == "parquet":
            yield from _parquet_units(name, path, text_column)
        elif layout == "tar":
            yield from _tar_units(name, path, text_column, spool)
        elif layout == "empty":
            yield unit_of([_empty(name, path)])
        else:
            yield Unit(partial(_read_file, name, path, text_column))
    except DECODER_ERRORS as error:
        reraise_failure(name, error)
        yield unit_of([rest_of(name, complaint(error))])


def unit_of(skipped: list[Skipped]) -> Unit:
    """A unit without a document: something that was skipped, in its place among the others."""
    return Unit(partial(iter, [Batch([], skipped=skipped)]))


def _empty(name: str, path: Path) -> Skipped:
    """A file without content; one of a kind that never has so few bytes was not written to its end."""
    is_whole = path.stat().st_size or (named_layout(name) in ("json", "csv", "text") and not says_compressed(name))
    return unread(name, "", "empty") if is_whole else rest_of(name, "no bytes")


def _tar_units(name: str, path: Path, text_column: str, spool: Path) -> Iterator[Unit]:
    """Inner archives one by one; documents that lie in the outer archive in batches."""
    batcher = _Batcher()
    try:
        with path.open("rb") as file:
            for item in members_of(name, decompressed(file)):
                if isinstance(item, Skipped):
                    batch = batcher.add(item)
                else:
                    member, content = item
                    if not is_document(member.name) and is_data(member.name):
                        inner = f"{name}/{PurePosixPath(member.name).name}"
                        with tempfile.NamedTemporaryFile(dir=spool, delete=False) as spooled:
                            shutil.copyfileobj(content, spooled, 1 << 20)
                        yield Unit(partial(_read_file, inner, Path(spooled.name), text_column), Path(spooled.name))
                        continue
                    batch = batcher.add(_member(name, member.name, member.size, content))
                if batch:
                    yield Unit(partial(iter, [batch]))
    except DECODER_ERRORS as error:
        reraise_failure(name, error)
        batcher.put(rest_of(name, complaint(error)))
    if batch := batcher.cut():
        yield Unit(partial(iter, [batch]))


def _member(archive: str, name: str, size: int, content: IO[bytes]) -> Record:
    """A member of an archive that is one document, or why it is not one."""
    if not is_document(name) and is_data(name):
        return unread(archive, name, "nested too deep")
    if not is_document(name):
        suffix = PurePosixPath(name).suffix.lower()[:20] or "without a suffix"
        return unread(archive, name, "hidden" if is_hidden(name) else suffix)
    if size > records.DOCUMENT_BYTES:
        return Skipped(archive, name, "too long", f"{size} bytes")
    raw = content.read()
    if seems := not_text(raw):
        return Skipped(archive, name, "not a text", seems)
    return records.document(archive, name, raw)


# --- documents of a file ----------------------------------------------------------------------------------------------


class _Batcher:
    """Collects documents into batches of bounded size."""

    def __init__(self) -> None:
        self._documents: list[Document] = []
        self._skipped: list[Skipped] = []
        self._bytes = 0

    def add(self, record: Record) -> Batch | None:
        """Add a record; returns a batch when one is full."""
        self.put(record)
        full = len(self._documents) + len(self._skipped) >= BATCH_ROWS or self._bytes >= BATCH_BYTES
        return self.cut() if full else None

    def put(self, record: Record) -> None:
        """Add a record, however many there are."""
        if isinstance(record, Skipped):
            self._skipped.append(record)
        else:
            self._documents.append(record)
            self._bytes += len(record.text)

    def cut(self) -> Batch | None:
        """What came since the last batch; None if nothing did."""
        documents, self._documents, self._bytes = self._documents, [], 0
        skipped, self._skipped = self._skipped, []
        if not documents:
            return Batch([], skipped=skipped) if skipped else None
        texts, urls, titles, langs = map(list, zip(*documents, strict=True))
        return Batch(texts, urls, titles, langs, skipped)


def _read_file(name: str, path: Path, text_column: str) -> Iterator[Batch]:
    """All documents of a file that is read in one piece, as far as it goes."""
    batcher = _Batcher()
    try:
        layout = layout_of(path, name)
        if layout == "parquet":
            for unit in _parquet_units(name, path, text_column):
                yield from unit.read()
            return
        for record in _records(name, layout, path, text_column):
            if batch := batcher.add(record):
                yield batch
    except NotCollection as error:
        batcher.put(Skipped(name, "", "not a text", error.seems))
    except DECODER_ERRORS as error:
        reraise_failure(name, error)
        batcher.put(rest_of(name, complaint(error)))
    if batch := batcher.cut():
        yield batch


def _records(name: str, layout: Layout, path: Path, text_column: str) -> Iterator[Record]:
    if layout == "warc":
        from scraping.collections.warc import warc_records  # and with it the libraries that extract pages

        yield from warc_records(name, path)
        return
    with path.open("rb") as file:
        stream = decompressed(file)
        match layout:
            case "tar":
                for item in members_of(name, stream):
                    yield item if isinstance(item, Skipped) else _member(name, item[0].name, item[0].size, item[1])
            case "json":
                yield from json_lines(name, stream, text_column)
            case "csv":
                yield from csv_rows(name, stream, text_column)
            case "text":
                yield from separated_texts(name, stream)
            case "empty":
                yield _empty(name, path)


# --- Parquet ----------------------------------------------------------------------------------------------------------


def check_column(path: Path, layout: Layout, text_column: str) -> None:
    """Make sure, as far as a file's beginning shows it, that it has the column or key.

    Raises:
        UserError: it does not.
        DECODER_ERRORS: its beginning is damaged.
    """
    if layout == "parquet":
        with pq.ParquetFile(path) as file:
            _columns(path.name, file.schema_arrow, text_column)
    elif layout in ("json", "csv"):
        for _ in islice(_records(path.name, layout, path, text_column), _LOOKED_AT):
            pass


def _columns(name: str, schema: pa.Schema, text_column: str) -> list[str | None]:
    """Names of the columns of text, url, title and language, None where there is none."""
    names = [field.name for field in schema if _holds_text(field.type)]
    listed = ", ".join(schema.names)
    if schema.names.count(text_column) != 1:
        lack = "no column" if text_column not in schema.names else "more than one column"
        raise UserError(f"{name} has {lack} {text_column!r} (it has: {listed}): set text_column to one.")
    if text_column not in names:
        about = f"column {text_column!r} holds {schema.field(text_column).type}, not text"
        raise UserError(f"{name}: {about}: set text_column to another ({', '.join(names) or 'there is none'}).")
    once = [name for name in names if schema.names.count(name) == 1]
    return [
        text_column, *(next((name for name in known if name in once), None) for known in _OPTIONAL_COLUMNS.values())
    ]  # fmt: skip


def _parquet_units(name: str, path: Path, text_column: str) -> Iterator[Unit]:
    with pq.ParquetFile(path) as file:
        columns = _columns(name, file.schema_arrow, text_column)
        metadata = file.metadata
    groups: list[int] = []
    size = 0
    for group in range(metadata.num_row_groups):
        groups.append(group)
        size += metadata.row_group(group).total_byte_size
        if size >= _UNIT_BYTES or group == metadata.num_row_groups - 1:
            yield Unit(partial(_read_row_groups, name, path, groups, columns))
            groups, size = [], 0


def _read_row_groups(name: str, path: Path, groups: list[int], columns: list[str | None]) -> Iterator[Batch]:
    """Batches of row groups, each as far as it goes; `columns` as `_columns` gives them. Damaged row groups that follow
    one another are one place."""
    damaged: list[int] = []
    lost, detail = 0, ""

    def said() -> Iterator[Batch]:
        if damaged:
            place = f"row groups {damaged[0]}-{damaged[-1]}" if len(damaged) > 1 else f"row group {damaged[0]}"
            yield Batch([], skipped=[Skipped(name, place, "damaged", detail, lost)])

    with pq.ParquetFile(path, buffer_size=1 << 20, pre_buffer=False, page_checksum_verification=True) as file:
        for group in groups:
            read = 0
            try:
                for batch in _row_group(file, group, [column for column in columns if column]):
                    yield from said()
                    damaged, lost = [], 0
                    yield _row_batch(f"{name}, row group {group}", batch, columns, read)
                    read += batch.num_rows
            except DECODER_ERRORS as error:
                reraise_failure(name, error)
                damaged.append(group)
                lost += max(1, file.metadata.row_group(group).num_rows - read)
                detail = complaint(error)
    yield from said()


def _row_group(file: pq.ParquetFile, group: int, columns: list[str]) -> Iterator[pa.RecordBatch]:
    """The rows of a row group, fewer at once where they are large."""
    about = file.metadata.row_group(group)
    rows = min(BATCH_ROWS, max(1, BATCH_BYTES * about.num_rows // max(1, about.total_byte_size)))
    return file.iter_batches(rows, row_groups=[group], columns=columns, use_threads=False)


def _row_batch(place: str, rows: pa.RecordBatch, columns: list[str | None], first: int) -> Batch:
    """A batch of rows; `first` is the number of its first in the row group at `place`."""
    texts = rows.column(columns[0])
    urls, titles, langs = (_strings(rows.column(name)) if name else None for name in columns[1:])
    if _is_utf8(texts):
        return Batch(texts, urls, titles, langs)
    name, _, group = place.partition(", ")
    batcher = _Batcher()
    for position, raw in enumerate(texts.cast(pa.binary()).to_pylist()):
        url, title, lang = (column[position] if column else None for column in (urls, titles, langs))
        try:
            batcher.put(Document(utf8(raw or b""), url, title, lang))
        except NotUtf8 as error:
            batcher.put(Skipped(name, f"{group}, row {first + position}", "not UTF-8", str(error)))
    return batcher.cut() or Batch([])


def _is_utf8(texts: pa.Array) -> bool:
    try:
        texts.cast(pa.string()).validate(full=True)
    except pa.ArrowInvalid:
        return False
    return True


def _holds_text(type: pa.DataType) -> bool:
    type = type.value_type if pa.types.is_dictionary(type) else type
    return any(
        is_one(type)
        for is_one in (
            pa.types.is_string, pa.types.is_large_string, pa.types.is_string_view,
            pa.types.is_binary, pa.types.is_large_binary, pa.types.is_binary_view,
        )
    )  # fmt: skip


def _strings(column: pa.Array) -> list[str | None]:
    values = column.cast(pa.binary()).to_pylist()
    return [None if value is None else value.decode("utf-8", "replace") for value in values]
