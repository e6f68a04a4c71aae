"""Read OpenWebText and its relatives, in every layout they are handed around in, as one stream of texts.

- the original `openwebtext.tar.xz`, a tar of `urlsf_subsetNN-M_data.xz`, each a tar of one text file a document; the
  hub's `subsets/urlsf_subsetNN.tar`; the inner archives by themselves; the small `openwebtext-10k.tar.xz`;
- Parquet with a text column, as the hub serves OpenWebText and FineWeb;
- JSON lines (OpenWebText2, C4), and plain text with `<|endoftext|>` between documents.

Compression (xz, gzip, bzip2, zstd) and tar are recognised by content. A file is cut into *units*: inner archives, runs
of row groups, files; units are what is read in parallel and what a resumed job skips. Nothing is unpacked to disk by
the names in an archive, and memory is bounded whatever the input. What is damaged raises `Damaged` after all that was
whole has been handed out.
"""

import bz2
import gzip
import io
import json
import logging
import lzma
import re
import shutil
import tarfile
import tempfile
import zlib
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path, PurePosixPath
from typing import IO, Any, NamedTuple

import pyarrow as pa
import pyarrow.parquet as pq
import zstandard

from textmill.errors import UserError

logger = logging.getLogger(__name__)

SEPARATOR = b"<|endoftext|>"
DOCUMENT_BYTES = 64 << 20  # more than this is no document
BATCH_ROWS = 1_000
BATCH_BYTES = 8 << 20
_UNIT_BYTES = 32 << 20  # row groups are read together up to this size
_SPOOL_BYTES = 16 << 20  # larger inner archives wait on disk, without a name
_ZSTD_INPUT = 2 << 10  # a few bytes may stand for 128 KiB of zeros
_MEMBER_BYTES = 16 << 30
_HEADER_BYTES = 1 << 20  # longest name or attribute list of a tar member
_BLANK_LINES = re.compile(b"\n\n\n+")


class Damaged(Exception):
    """`name` ends early or is not what it claims to be; everything before the damage was handed out."""

    def __init__(self, name: str, detail: str):
        super().__init__(f"{name} is damaged ({detail})")
        self.name, self.detail = name, detail


class Batch(NamedTuple):
    """Some documents, column by column; None where the layout lacks a column."""

    texts: list[bytes] | pa.Array  # UTF-8
    urls: list[str | None] | None = None
    titles: list[str | None] | None = None
    langs: list[str | None] | None = None


class Unit(NamedTuple):
    """A piece of a file that can be read by itself, in another thread; pickled in another process, if what it reads is
    a file: `spooled`, for an inner archive, which whoever read it may delete."""

    name: str
    read: Callable[[], Iterator[Batch]]
    spooled: Path | None = None


def normalize(text: bytes) -> bytes:
    """The UTF-8 text as every layout has it: `\n` line ends, no more than one blank line, no white space around.

    The hub's Parquet files were made from the archives in this way. A text in this form is returned as it is.
    """
    if b"\r" in text:
        text = text.replace(b"\r\n", b"\n").replace(b"\r", b"\n")
    if _BLANK_LINES.search(text):  # twice as fast as `in`
        text = _BLANK_LINES.sub(b"\n\n", text)
    # White space beyond ASCII can only stand where the first or last byte is not a character of its own.
    if text and (text[0] <= 32 or text[-1] <= 32 or text[0] >= 128 or text[-1] >= 128):
        stripped = text.decode("utf-8", "replace").strip().encode()
        text = stripped if stripped != text else text
    return text


def units(path: Path, text_column: str, spool: Path | None = None) -> Iterator[Unit]:
    """The units of one file, in its order. Raises `Damaged` when the file itself breaks off.

    Inner archives are kept in the folder `spool`, or, without one, where only this process can read them.
    """
    if path.suffix == ".parquet":
        yield from _parquet_units(path, text_column)
        return
    with path.open("rb") as file, _damage(path.name):
        stream = _decompressed(file)
        if _is_tar(stream):
            yield from _tar_units(path.name, stream, text_column, spool)
        else:
            yield Unit(path.name, partial(_read_path, path, text_column))


# --- archives ---------------------------------------------------------------------------------------------------------

_DAMAGE = (
    EOFError, OSError, lzma.LZMAError, pa.ArrowException, tarfile.TarError, zlib.error, zstandard.ZstdError,
)  # fmt: skip


class _damage:
    """Names the file in whatever its decoder raises."""

    def __init__(self, name: str):
        self._name = name

    def __enter__(self):
        return self

    def __exit__(self, error_type, error, traceback):
        if isinstance(error, _DAMAGE):
            raise Damaged(self._name, (str(error).splitlines() or [type(error).__name__])[0]) from error


def _decompressed(file: IO[bytes]) -> io.BufferedReader:
    """The content of a stream, decompressed if it is compressed."""
    stream = file if isinstance(file, io.BufferedReader) else io.BufferedReader(file)
    start = stream.peek(6)[:6]
    if start.startswith(b"\xfd7zXZ\0"):
        return io.BufferedReader(lzma.LZMAFile(stream))
    if start.startswith(b"\x1f\x8b"):
        return io.BufferedReader(gzip.GzipFile(fileobj=stream))
    if start.startswith(b"BZh"):
        return io.BufferedReader(bz2.BZ2File(stream))
    if start.startswith(b"\x28\xb5\x2f\xfd"):
        return io.BufferedReader(_ZstdStream(stream))
    return stream


class _ZstdStream(io.RawIOBase):
    """zstd frames as a stream that says when the last frame is cut off."""

    def __init__(self, stream: IO[bytes]):
        self._stream = stream
        self._frame: Any = None
        self._ready = b""

    def readable(self) -> bool:
        return True

    def readinto(self, buffer) -> int:
        while not self._ready:
            within = self._frame is not None and not self._frame.eof
            data = b"" if within or self._frame is None else self._frame.unused_data
            data = data or self._stream.read(_ZSTD_INPUT)
            if not data and within:
                raise EOFError("zstd frame ended before its end marker")
            if not data:
                return 0
            if not within:
                self._frame = zstandard.ZstdDecompressor().decompressobj()
            self._ready = self._frame.decompress(data)
        count = min(len(buffer), len(self._ready))
        buffer[:count], self._ready = self._ready[:count], self._ready[count:]
        return count


def _is_tar(stream: io.BufferedReader) -> bool:
    return stream.peek(512)[257:262] == b"ustar"


class _Member(tarfile.TarInfo):
    """A tar member that is read with suspicion: tarfile takes a broken header for the end, and headers of any size."""

    @classmethod
    def fromtarfile(cls, archive: tarfile.TarFile) -> "_Member":
        try:
            return super().fromtarfile(archive)
        except tarfile.EOFHeaderError:  # the block of zeros that ends every archive
            raise
        except tarfile.HeaderError as error:
            raise tarfile.ReadError(f"broken off: {error}") from error

    def _proc_member(self, archive: tarfile.TarFile):
        extra = (tarfile.XHDTYPE, tarfile.XGLTYPE, tarfile.GNUTYPE_LONGNAME, tarfile.GNUTYPE_LONGLINK)
        if self.type in extra and self.size > _HEADER_BYTES:
            raise tarfile.ReadError(f"member header of {self.size} bytes")
        return super()._proc_member(archive)


def _safe_members(name: str, stream: IO[bytes]) -> Iterator[tuple[tarfile.TarFile, tarfile.TarInfo]]:
    """The regular files of a tar stream; what does not belong in a text archive is refused and logged."""
    with tarfile.open(fileobj=stream, mode="r|", tarinfo=_Member) as archive:
        for member in archive:
            archive.members = []  # tarfile remembers every header
            path = PurePosixPath(member.name)
            if member.size > _MEMBER_BYTES:  # not to be skipped: tarfile would read on for hours past the end
                raise tarfile.ReadError(f"{member.name} claims {member.size} bytes")
            if member.isdir():
                continue
            if not member.isreg() or member.issparse():
                logger.warning("%s: refused %s, which is not a regular file", name, member.name)
            elif path.is_absolute() or ".." in path.parts:
                logger.warning("%s: refused %s, a path outside the archive", name, member.name)
            else:
                yield archive, member


def _tar_units(name: str, stream: IO[bytes], text_column: str, spool: Path | None) -> Iterator[Unit]:
    """Inner archives one by one; documents that lie in the outer archive in batches."""
    batch = _Batcher()
    try:
        for archive, member in _safe_members(name, stream):
            if _is_document(member.name):
                if full := batch.add(_document(name, archive, member)):
                    yield Unit(name, partial(iter, [full]))
            elif is_data(member.name):
                inner = f"{name}/{PurePosixPath(member.name).name}"
                yield _inner_unit(inner, archive.extractfile(member), text_column, spool)
    except _DAMAGE:
        if rest := batch.cut():
            yield Unit(name, partial(iter, [rest]))
        raise
    if rest := batch.cut():
        yield Unit(name, partial(iter, [rest]))


def _inner_unit(name: str, content: IO[bytes], text_column: str, spool: Path | None) -> Unit:
    if spool:
        with tempfile.NamedTemporaryFile(dir=spool, delete=False) as file:
            shutil.copyfileobj(content, file, 1 << 20)
        path = Path(file.name)
        return Unit(name, partial(_read_path, path, text_column, name), path)
    held = tempfile.SpooledTemporaryFile(_SPOOL_BYTES)  # noqa: SIM115 - its reader closes it
    shutil.copyfileobj(content, held, 1 << 20)
    held.seek(0)
    return Unit(name, partial(_read, name, held, text_column))


# --- documents of a stream --------------------------------------------------------------------------------------------


def is_data(name: str) -> bool:
    """Whether a file's name is that of a layout read here."""
    path = PurePosixPath(name)
    stem = re.sub(r"\.(xz|gz|bz2|zst)$", "", path.name)
    known = stem.endswith((".parquet", ".json", ".jsonl", ".ndjson", ".tar", ".tgz", "_data", ".txt"))
    return known and not path.name.startswith(".")


def _is_document(name: str) -> bool:
    return name.endswith(".txt")


class _Batcher:
    """Collects documents into batches of bounded size."""

    def __init__(self):
        self._rows: list[tuple] = []
        self._bytes = 0

    def add(self, text: bytes | None, url: str | None = None, title: str | None = None, lang: str | None = None):
        """Add a document (None is none); returns a batch when one is full."""
        if text is not None:
            self._rows.append((text, url, title, lang))
            self._bytes += len(text)
        return self.cut() if len(self._rows) >= BATCH_ROWS or self._bytes >= BATCH_BYTES else None

    def cut(self) -> Batch | None:
        rows, self._rows, self._bytes = self._rows, [], 0
        return Batch(*map(list, zip(*rows, strict=True))) if rows else None


def _document(name: str, archive: tarfile.TarFile, member: tarfile.TarInfo) -> bytes | None:
    if member.size > DOCUMENT_BYTES:
        logger.warning("%s: refused %s, a document of %d bytes", name, member.name, member.size)
        return None
    return archive.extractfile(member).read()


def _read_path(path: Path, text_column: str, name: str | None = None) -> Iterator[Batch]:
    yield from _read(name or path.name, path.open("rb"), text_column)


def _read(name: str, file: IO[bytes], text_column: str) -> Iterator[Batch]:
    """All documents of a stream; whole batches first, then `Damaged` if it breaks off."""
    batch = _Batcher()
    with file, _damage(name):
        try:
            for document in _documents(name, file, text_column):
                if full := batch.add(*document):
                    yield full
        except _DAMAGE:
            if rest := batch.cut():
                yield rest
            raise
        if rest := batch.cut():
            yield rest


def _documents(name: str, file: IO[bytes], text_column: str) -> Iterator[tuple]:
    stream = _decompressed(file)
    if _is_tar(stream):
        for archive, member in _safe_members(name, stream):
            if _is_document(member.name):
                yield (_document(name, archive, member),)
    elif re.search(r"\.(json|jsonl|ndjson)(\.\w+)?$", name):
        yield from _json_lines(name, stream, text_column)
    else:
        yield from ((text,) for text in _separated(stream))


def _json_lines(name: str, stream: IO[bytes], text_column: str) -> Iterator[tuple]:
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
        about = record.get("meta") if isinstance(record.get("meta"), dict) else record
        yield (
            record[text_column].encode("utf-8", "replace"),
            *(_text(about.get(key)) for key in ("url", "title", "lang")),
        )


def _text(value: Any) -> str | None:
    """A string that UTF-8 can hold: JSON may spell half a surrogate pair."""
    return value.encode("utf-8", "replace").decode() if isinstance(value, str) else None


def _separated(stream: IO[bytes]) -> Iterator[bytes]:
    """Texts between separators; a text without any is one document."""
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

_OPTIONAL_COLUMNS = {"url": ("url",), "title": ("title",), "lang": ("language", "lang")}


def _parquet_units(path: Path, text_column: str) -> Iterator[Unit]:
    with _damage(path.name), pq.ParquetFile(path) as file:
        schema, metadata = file.schema_arrow, file.metadata
    names = [field.name for field in schema if _holds_text(field.type)]
    if text_column not in schema.names:
        listed = ", ".join(schema.names)
        raise UserError(f"{path.name} has no column {text_column!r} (it has: {listed}): set text_column to one.")
    if text_column not in names:
        about = f"column {text_column!r} holds {schema.field(text_column).type}, not text"
        raise UserError(f"{path.name}: {about}: set text_column to another ({', '.join(names) or 'there is none'}).")
    groups: list[int] = []
    size = 0
    for group in range(metadata.num_row_groups):
        groups.append(group)
        size += metadata.row_group(group).total_byte_size
        if size >= _UNIT_BYTES or group == metadata.num_row_groups - 1:
            yield Unit(_groups_name(path, groups), partial(_row_groups, path, groups, names, text_column))
            groups, size = [], 0


def _row_groups(path: Path, groups: list[int], names: list[str], text_column: str) -> Iterator[Batch]:
    found = [next((name for name in known if name in names), None) for known in _OPTIONAL_COLUMNS.values()]
    columns = [text_column, *filter(None, found)]
    with _damage(_groups_name(path, groups)), pq.ParquetFile(path, buffer_size=1 << 20, pre_buffer=False) as file:
        for batch in file.iter_batches(BATCH_ROWS, row_groups=groups, columns=columns, use_threads=False):
            yield Batch(batch.column(text_column), *(_strings(batch.column(name)) if name else None for name in found))


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


def _groups_name(path: Path, groups: list[int]) -> str:
    return f"{path.name}, row groups {groups[0]}-{groups[-1]}"
