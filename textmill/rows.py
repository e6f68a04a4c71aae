"""Rows of JSON lines (`.jsonl`, `.ndjson`) and of tables with a header (`.csv`, `.tsv`), each with where it is.

A file is read line by line, in UTF-8, with or without a byte order mark.
"""

from __future__ import annotations

import csv
import json
from collections.abc import Callable, Iterable, Iterator
from functools import partial
from pathlib import Path
from typing import Any

from textmill.errors import UserError, first_line

__all__ = ["ROW_FILES", "Rows", "json_object", "parse_json_lines", "read_rows"]

Rows = Iterator[tuple[str, dict[str, Any]]]  # where each row is, as messages name it, and its values by name


def read_rows(path: Path, wanted: str) -> Rows:
    """The rows of a file of one of `ROW_FILES`.

    Args:
        path: the file; what its name ends with says of which kind it is.
        wanted: what a row holds, for the message about a JSON line that is no object.

    Raises:
        UserError: the file cannot be read, or a line is no row; the message names it.
    """
    yield from _READERS[path.suffix.lower()](path, wanted)


def parse_json_lines(lines: Iterable[str], name: str, wanted: str) -> Rows:
    """The rows of JSON lines that came from `name`; blank lines are none.

    Raises:
        UserError: a line is no JSON object; the message names it.
    """
    for number, line in enumerate(lines, start=1):
        if line.strip():
            yield f"{name}:{number}", json_object(line, f"{name}:{number}", wanted)


def json_object(text: str, place: str, wanted: str) -> dict[str, Any]:
    """
    Raises:
        UserError: the text is no JSON object.
    """
    try:
        row = json.loads(text)
    except (ValueError, RecursionError) as error:
        raise UserError(f"{place}: not valid JSON ({first_line(error)})") from error
    if not isinstance(row, dict):
        raise UserError(f"{place}: a JSON object is wanted, with {wanted}")
    return row


def _json_lines(path: Path, wanted: str) -> Rows:
    return parse_json_lines(_lines(path), str(path), wanted)


def _table(path: Path, wanted: str, delimiter: str) -> Rows:
    rows = csv.DictReader(_lines(path), delimiter=delimiter, restkey="", strict=True)
    try:
        for row in rows:
            if "" in row or None in row.values():
                raise UserError(f"{path}:{rows.line_num}: this line has another number of columns than the first")
            yield f"{path}:{rows.line_num}", row
    except csv.Error as error:
        raise UserError(f"{path}:{rows.reader.line_num}: not valid CSV ({error})") from error


def _lines(path: Path) -> Iterator[str]:
    try:
        with path.open(encoding="utf-8-sig", newline="") as lines:
            yield from lines
    except UnicodeDecodeError as error:  # which counts from the beginning of what was read at once
        place = f"{path}:{_line_of_another_encoding(path)}" if path.is_file() else path  # a pipe can be read only once
        raise UserError(f"{place}: not UTF-8 text ({error.reason})") from error
    except OSError as error:
        raise UserError(f"{path} cannot be read ({error.strerror})") from error


def _line_of_another_encoding(path: Path) -> int:
    """The number of the first line that is not UTF-8."""
    with path.open("rb") as lines:
        return next(number for number, line in enumerate(lines, start=1) if not _is_utf8(line))


def _is_utf8(line: bytes) -> bool:
    try:
        line.decode()
    except UnicodeDecodeError:
        return False
    return True


_READERS: dict[str, Callable[[Path, str], Rows]] = {
    ".jsonl": _json_lines,
    ".ndjson": _json_lines,
    ".csv": partial(_table, delimiter=","),
    ".tsv": partial(_table, delimiter="\t"),
}
ROW_FILES = tuple(_READERS)
