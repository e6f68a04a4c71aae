"""Read OpenWebText and its relatives, in every layout they are handed around in, as one stream of texts.

- the original `openwebtext.tar.xz`, a tar of `urlsf_subsetNN-M_data.xz`, each a tar of one text file a document; the
  hub's `subsets/urlsf_subsetNN.tar`; the inner archives by themselves; the small `openwebtext-10k.tar.xz`;
- Parquet with a text column, as the hub serves OpenWebText and FineWeb;
- JSON lines (OpenWebText2, C4), and plain text with `<|endoftext|>` between documents.

A file is cut into *units*: inner archives, runs of row groups, files. Units are what is read in parallel and what a
resumed job skips. What is damaged raises `Damaged` after all that was whole has been handed out.
"""

from __future__ import annotations

import json
import logging
import re
import shutil
import tarfile
import tempfile
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path, PurePosixPath
from typing import IO, Any, NamedTuple

import pyarrow as pa
import pyarrow.parquet as pq

from scraping.collections.archives import DECODER_ERRORS, decompressed, is_tar, naming_damage, safe_members
from scraping.collections.names import is_data
from textmill.errors import UserError

logger = logging.getLogger(__name__)

SEPARATOR = b"<|endoftext|>"
DOCUMENT_BYTES = 64 << 20  # more than this is not a document
BATCH_ROWS = 1_000
BATCH_BYTES = 8 << 20
_UNIT_BYTES = 32 << 20  # row groups are read together up to this size
_OPTIONAL_COLUMNS = {"url": ("url",), "title": ("title",), "lang": ("language", "lang")}


class Batch(NamedTuple):
    """Some documents, column by column; None where the layout lacks a column."""

    texts: list[bytes] | pa.Array  # UTF-8
    urls: list[str | None] | None = None
    titles: list[str | None] | None = None
    langs: list[str | None] | None = None


class Unit(NamedTuple):
    """A piece of a file that can be read by itself: in another thread, or, pickled, in another process."""

    name: str
    read: Callable[[], Iterator[Batch]]
    spooled: Path | None = None  # the file of an inner archive

    def discard(self) -> None:
        """Remove what the unit holds on disk, when it has been read."""
        if self.spooled:
            self.spooled.unlink()


class Document(NamedTuple):
    """One document; None where the layout lacks a value."""

    text: bytes  # UTF-8
    url: str | None = None
    title: str | None = None
    lang: str | None = None


# --- files and their units --------------------------------------------------------------------------------------------


def units(path: Path, text_column: str, spool: Path) -> Iterator[Unit]:
    """The units of one file, in its order.

    Args:
        path: the file.
        text_column: column or JSON key that holds the text.
        spool: a folder for inner archives; each stays until its unit is discarded.

    Raises:
        Damaged: the file itself breaks off.
        UserError: it has no such column.
    """
    if path.suffix == ".parquet":
        yield from _parquet_units(path, text_column)
        return
    with path.open("rb") as file, naming_damage(path.name):
        stream = decompressed(file)
        if is_tar(stream):
            yield from _tar_units(path.name, stream, text_column, spool)
        else:
            yield Unit(path.name, partial(_read_file, path.name, path, text_column))


def _tar_units(name: str, stream: IO[bytes], text_column: str, spool: Path) -> Iterator[Unit]:
    """Inner archives one by one; documents that lie in the outer archive in batches."""
    batcher = _Batcher()
    try:
        for member, content in safe_members(name, stream):
            if _is_document(member.name):
                if batch := batcher.add(_text_file(name, member, content)):
                    yield Unit(name, partial(iter, [batch]))
            elif is_data(member.name):
                inner = f"{name}/{PurePosixPath(member.name).name}"
                with tempfile.NamedTemporaryFile(dir=spool, delete=False) as file:
                    shutil.copyfileobj(content, file, 1 << 20)
                path = Path(file.name)
                yield Unit(inner, partial(_read_file, inner, path, text_column), path)
    except DECODER_ERRORS:
        if batch := batcher.cut():
            yield Unit(name, partial(iter, [batch]))
        raise
    if batch := batcher.cut():
        yield Unit(name, partial(iter, [batch]))


# --- documents of a stream --------------------------------------------------------------------------------------------


class _Batcher:
    """Collects documents into batches of bounded size."""

    def __init__(self) -> None:
        self._documents: list[Document] = []
        self._bytes = 0

    def add(self, document: Document | None) -> Batch | None:
        """Add a document, if there is one; returns a batch when one is full."""
        if document is not None:
            self._documents.append(document)
            self._bytes += len(document.text)
        return self.cut() if len(self._documents) >= BATCH_ROWS or self._bytes >= BATCH_BYTES else None

    def cut(self) -> Batch | None:
        """The documents since the last batch; None if there are none."""
        documents, self._documents, self._bytes = self._documents, [], 0
        return Batch(*map(list, zip(*documents, strict=True))) if documents else None


def _read_file(name: str, path: Path, text_column: str) -> Iterator[Batch]:
    """All documents of a file; whole batches first, then `Damaged` if it breaks off."""
    batcher = _Batcher()
    with path.open("rb") as file, naming_damage(name):
        try:
            for document in _documents(name, file, text_column):
                if batch := batcher.add(document):
                    yield batch
        except DECODER_ERRORS:
            if batch := batcher.cut():
                yield batch
            raise
        if batch := batcher.cut():
            yield batch


def _documents(name: str, file: IO[bytes], text_column: str) -> Iterator[Document | None]:
    stream = decompressed(file)
    if is_tar(stream):
        for member, content in safe_members(name, stream):
            if _is_document(member.name):
                yield _text_file(name, member, content)
    elif re.search(r"\.(json|jsonl|ndjson)(\.\w+)?$", name):
        yield from _json_lines(name, stream, text_column)
    else:
        yield from map(Document, _separated_texts(stream))


def _is_document(name: str) -> bool:
    return name.endswith(".txt")


def _text_file(name: str, member: tarfile.TarInfo, content: IO[bytes]) -> Document | None:
    """A member of an archive that is one document; None if it is too large for one."""
    if member.size > DOCUMENT_BYTES:
        logger.warning("%s: refused %s, a document of %d bytes", name, member.name, member.size)
        return None
    return Document(content.read())


def _json_lines(name: str, stream: IO[bytes], text_column: str) -> Iterator[Document]:
    while line := stream.readline(DOCUMENT_BYTES):
        if len(line) == DOCUMENT_BYTES:
            raise OSError(f"a line of more than {DOCUMENT_BYTES} bytes")
        if not line.strip():
            continue
        try:
            record = json.loads(line.decode("utf-8-sig", "replace"))
        except (ValueError, RecursionError) as error:
            raise OSError(f"a line that is not JSON: {error}") from error
        if not isinstance(record, dict) or not isinstance(record.get(text_column), str):
            raise UserError(f"{name} has lines without a text {text_column!r}: set text_column to the right key.")
        meta = record.get("meta")
        about = meta if isinstance(meta, dict) else record
        text = record[text_column].encode("utf-8", "replace")
        yield Document(text, *(_string(about.get(key)) for key in ("url", "title", "lang")))


def _string(value: Any) -> str | None:
    """A string that UTF-8 can hold: JSON may spell half a surrogate pair."""
    return value.encode("utf-8", "replace").decode() if isinstance(value, str) else None


def _separated_texts(stream: IO[bytes]) -> Iterator[bytes]:
    """Texts between separators; a stream without any is one document."""
    rest, searched = b"", 0
    while chunk := stream.read(1 << 20):
        rest += chunk
        while (end := rest.find(SEPARATOR, searched)) >= 0:
            yield rest[:end]
            rest, searched = rest[end + len(SEPARATOR) :], 0
        searched = max(0, len(rest) - len(SEPARATOR))
        if len(rest) > DOCUMENT_BYTES:
            raise OSError(f"a document of more than {DOCUMENT_BYTES} bytes")
    yield rest


# --- Parquet ----------------------------------------------------------------------------------------------------------


def _parquet_units(path: Path, text_column: str) -> Iterator[Unit]:
    with naming_damage(path.name), pq.ParquetFile(path) as file:
        schema, metadata = file.schema_arrow, file.metadata
    names = [field.name for field in schema if _holds_text(field.type)]
    if text_column not in schema.names:
        listed = ", ".join(schema.names)
        raise UserError(f"{path.name} has no column {text_column!r} (it has: {listed}): set text_column to one.")
    if text_column not in names:
        about = f"column {text_column!r} holds {schema.field(text_column).type}, not text"
        raise UserError(f"{path.name}: {about}: set text_column to another ({', '.join(names) or 'there is none'}).")
    found = [next((name for name in known if name in names), None) for known in _OPTIONAL_COLUMNS.values()]
    columns = [text_column, *found]
    groups: list[int] = []
    size = 0
    for group in range(metadata.num_row_groups):
        groups.append(group)
        size += metadata.row_group(group).total_byte_size
        if size >= _UNIT_BYTES or group == metadata.num_row_groups - 1:
            name = f"{path.name}, row groups {groups[0]}-{groups[-1]}"
            yield Unit(name, partial(_read_row_groups, name, path, groups, columns))
            groups, size = [], 0


def _read_row_groups(name: str, path: Path, groups: list[int], columns: list[str | None]) -> Iterator[Batch]:
    """Batches of row groups; `columns` are those of text, url, title and language, None where there is none."""
    text, *others = columns
    wanted = [column for column in columns if column]
    with naming_damage(name), pq.ParquetFile(path, buffer_size=1 << 20, pre_buffer=False) as file:
        for batch in file.iter_batches(BATCH_ROWS, row_groups=groups, columns=wanted, use_threads=False):
            yield Batch(batch.column(text), *(_strings(batch.column(name)) if name else None for name in others))


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
