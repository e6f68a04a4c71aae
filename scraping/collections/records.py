"""The records of JSON lines, of CSV and of texts between separators, each by itself: a bad one costs one record."""

from __future__ import annotations

import csv
import io
import json
from collections import deque
from collections.abc import Iterator
from typing import IO, Any, NamedTuple

from scraping.collections.archives import complaint
from scraping.collections.skipped import Skipped
from textmill.errors import UserError

SEPARATOR = b"<|endoftext|>"
REPLACEMENT = "\ufffd".encode()
DOCUMENT_BYTES = 64 << 20  # more than this is not a document
_CHUNK = 1 << 20
_BROKEN, _BROKEN_SHARE = 2, 0.01  # characters, and share of all: above both a text is not UTF-8 with mistakes
_LACKING = 1_000  # records without the text's key, before any with it, after which the key is taken to be wrong
_BOM = b"\xef\xbb\xbf"
_DELIMITERS = ",\t;|"
_decode = json.JSONDecoder(
    parse_int=float
).decode  # numbers are not read, and Python refuses to make very long integers


class Document(NamedTuple):
    """One document; None where the layout lacks a value."""

    text: bytes  # UTF-8
    url: str | None = None
    title: str | None = None
    lang: str | None = None


Record = Document | Skipped


class NotUtf8(ValueError):
    """Bytes are in another encoding than UTF-8, or not text at all."""


def utf8(raw: bytes) -> bytes:
    """The text, with what is not UTF-8 in it marked by U+FFFD.

    Raises:
        NotUtf8: so much is not UTF-8 that the text is in another encoding: in Western European languages, few of the
            characters are beyond ASCII.

    Example:
        >>> utf8(b"caf\\xe9 au lait").decode()
        'caf\ufffd au lait'
    """
    try:
        raw.decode()
    except UnicodeDecodeError:
        text = raw.decode("utf-8", "replace")
        broken = text.count("\ufffd") - raw.count(REPLACEMENT)
        if broken > max(_BROKEN, _BROKEN_SHARE * len(text)):
            raise NotUtf8(f"{broken / len(text):.0%} of the characters; iconv converts it") from None
        return text.encode()
    return raw


def document(name: str, place: str, raw: bytes) -> Record:
    """A text by itself, or why it is not one."""
    try:
        return Document(utf8(raw.removeprefix(_BOM)))
    except NotUtf8 as error:
        return Skipped(name, place, "not UTF-8", str(error))


# --- JSON lines -------------------------------------------------------------------------------------------------------


def json_lines(name: str, stream: IO[bytes], text_column: str) -> Iterator[Record]:
    """The records of a stream of JSON objects, one a line.

    Raises:
        UserError: none of the first records has that key.
    """
    lacking, knows_key = 0, False
    keys: list[str] = []
    for number, line in _lines(stream):
        place = f"line {number}"
        if line is None:
            yield Skipped(name, place, "too long", f"more than {DOCUMENT_BYTES} bytes")
            continue
        try:
            record = _decode(utf8(line.removeprefix(_BOM)).decode())
        except NotUtf8 as error:
            yield Skipped(name, place, "not UTF-8", str(error))
        except (ValueError, RecursionError) as error:
            yield Skipped(name, place, "not JSON", complaint(error))
        else:
            if isinstance(record, dict) and text_column not in record:
                lacking, keys = lacking + 1, keys or list(record)
                if lacking == _LACKING and not knows_key:
                    break
            else:
                knows_key = knows_key or isinstance(record, dict)
            yield _json_document(name, place, record, text_column)
    if lacking and not knows_key:
        known = ", ".join(keys[:20])
        raise UserError(
            f"{name} has lines without a text {text_column!r} (they have: {known}): set text_column to the right key."
        )


def _json_document(name: str, place: str, record: Any, text_column: str) -> Record:
    if not isinstance(record, dict):
        return Skipped(name, place, "not an object")
    if text_column not in record:
        return Skipped(name, place, "no text", f"no key {text_column!r}")
    text = record[text_column]
    if text is None:
        return Document(b"")
    if not isinstance(text, str):
        return Skipped(name, place, "no text", f"{text_column!r} is a {type(text).__name__}")
    meta = record.get("meta")
    about = record | meta if isinstance(meta, dict) else record
    return Document(text.encode("utf-8", "replace"), *(_string(about.get(key)) for key in ("url", "title", "lang")))


def _string(value: Any) -> str | None:
    """A string that UTF-8 can hold: JSON may spell half a surrogate pair."""
    return value.encode("utf-8", "replace").decode() if isinstance(value, str) else None


def _lines(stream: IO[bytes]) -> Iterator[tuple[int, bytes | None]]:
    """The lines that are not blank, each with its number; None for one that is too long."""
    number = 0
    while line := stream.readline(DOCUMENT_BYTES):
        number += 1
        if len(line) == DOCUMENT_BYTES and not line.endswith(b"\n"):
            while (rest := stream.readline(_CHUNK)) and not rest.endswith(b"\n"):
                pass
            yield number, None
        elif line.strip():
            yield number, line


# --- CSV --------------------------------------------------------------------------------------------------------------


def csv_rows(name: str, stream: IO[bytes], text_column: str) -> Iterator[Record]:
    """The rows of a CSV stream (RFC 4180; also with tabs, semicolons or bars) whose first row names the columns.

    A row that cannot be read ends with its line, so that a quote that is never closed does not take others with it.

    Raises:
        UserError: no column has that name.
    """
    csv.field_size_limit(max(csv.field_size_limit(), DOCUMENT_BYTES))
    lines = _CsvLines(stream)
    header = next(lines, "")
    delimiter = next((mark for mark in _DELIMITERS if text_column in _header(header, mark)), None)
    if delimiter is None:
        listed = ", ".join(_header(header, max(_DELIMITERS, key=header.count)))
        raise UserError(f"{name} has no column {text_column!r} (it has: {listed[:500]}): set text_column to one.")
    columns = _header(header, delimiter)
    wanted = [columns.index(text_column)]
    for known in (("url",), ("title",), ("language", "lang")):
        wanted.append(next((columns.index(column) for column in known if column in columns), -1))
    while True:
        lines.begin()
        try:
            row = next(csv.reader(lines, delimiter=delimiter, strict=True), None)
        except csv.Error as error:
            yield Skipped(name, f"line {lines.first}", "not CSV", str(error))
            lines.go_back()
            continue
        if row is None:
            return
        if not row:
            continue
        place = f"line {lines.first}"
        if len(row) != len(columns):
            yield Skipped(name, place, "not CSV", f"{len(row)} fields instead of {len(columns)}")
            continue
        text, *others = (row[column] if column >= 0 else None for column in wanted)
        found = document(name, place, (text or "").encode("utf-8", "surrogateescape"))
        if isinstance(found, Document):
            found = Document(found.text, *(_csv_string(value) for value in others))
        yield found


def _header(line: str, delimiter: str) -> list[str]:
    try:
        return [column.strip() for column in next(csv.reader([line], delimiter=delimiter), [])]
    except csv.Error:
        return []


def _csv_string(value: str | None) -> str | None:
    return value.encode("utf-8", "surrogateescape").decode("utf-8", "replace") if value else None


class _CsvLines:
    """Lines for a CSV reader, of which those of the row being read can be read again.

    Attributes:
        first: number of the row's first line.
    """

    def __init__(self, stream: IO[bytes]) -> None:
        self._stream = io.TextIOWrapper(stream, "utf-8-sig", "surrogateescape", newline="")
        self._again: deque[str] = deque()
        self._row: list[str] = []
        self._number = 0
        self.first = 1

    def __iter__(self) -> _CsvLines:
        return self

    def __next__(self) -> str:
        line = self._again.popleft() if self._again else self._stream.readline(DOCUMENT_BYTES)
        if not line:
            raise StopIteration
        self._number += 1
        self._row.append(line)
        return line

    def begin(self) -> None:
        """A row begins with the next line."""
        self._row.clear()
        self.first = self._number + 1

    def go_back(self) -> None:
        """Read the row's lines again, but for its first."""
        self._again.extendleft(reversed(self._row[1:]))
        self._number = self.first


# --- texts between separators -----------------------------------------------------------------------------------------


def separated_texts(name: str, stream: IO[bytes]) -> Iterator[Record]:
    """Texts between separators; a stream without any is one document."""
    number = 1
    rest, searched, too_long = b"", 0, False
    while chunk := stream.read(_CHUNK):
        rest += chunk
        while (end := rest.find(SEPARATOR, searched)) >= 0:
            yield _separated(name, number, None if too_long else rest[:end])
            rest, searched, too_long = rest[end + len(SEPARATOR) :], 0, False
            number += 1
        searched = max(0, len(rest) - len(SEPARATOR))
        if len(rest) > DOCUMENT_BYTES:
            rest, searched, too_long = rest[searched:], 0, True
    yield _separated(name, number, None if too_long else rest)


def _separated(name: str, number: int, raw: bytes | None) -> Record:
    place = f"document {number}"
    if raw is None:
        return Skipped(name, place, "too long", f"more than {DOCUMENT_BYTES} bytes")
    return document(name, place, raw)
