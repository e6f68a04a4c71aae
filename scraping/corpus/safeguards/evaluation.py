"""The texts that models are tested on, as files hold them: `.txt` (one text), `.jsonl` and `.parquet` (a text for each
string of a record). Gzip may be around the first two. What would be read as less than it holds is refused: a file of
another kind in a folder, and a field that no record has."""

from __future__ import annotations

import gzip
import json
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, NamedTuple

from textmill.errors import UserError, first_line

SUFFIXES = (".txt", ".jsonl", ".txt.gz", ".jsonl.gz", ".parquet")
_ABOUT = (".md", ".rst", ".py", "license", "notice")  # how the names of files end that tell of the texts beside them


class EvaluationRecord(NamedTuple):
    """The texts of a record that models are tested on, and where it is: `mmlu.jsonl, record 12`."""

    place: str
    texts: list[str]


def evaluation_files(paths: Sequence[str]) -> list[Path]:
    """The files at these paths, which may be folders or globs; sorted by name, so that it does not matter where they
    lie.

    Raises:
        UserError: one is not there, or one, or a file in a folder, is of a kind that is not read.
    """
    files: list[Path] = []
    for path in (Path(name).expanduser() for name in paths):
        if path.is_dir():
            found = sorted(
                file for file in path.rglob("*") if file.is_file() and not _is_beside(file.relative_to(path))
            )
        elif path.exists() or not any(sign in str(path) for sign in "*?["):
            found = [path]
        else:
            found = sorted(Path(path.anchor).glob(str(path.relative_to(path.anchor))))
        if not found or not all(file.is_file() for file in found):
            raise UserError(f"prepare.decontaminate.paths: {path} holds no {', '.join(SUFFIXES)} file: check the path")
        for file in found:
            if not file.name.lower().endswith(SUFFIXES):
                instead = f"; of a folder, give {path}/**/*.jsonl" if path.is_dir() else ""
                raise UserError(
                    f"prepare.decontaminate.paths: {file} is not read; it may be {', '.join(SUFFIXES)}{instead}"
                )
        files += found
    return sorted(set(files), key=lambda file: (file.name, str(file)))


def _is_beside(path: Path) -> bool:
    """Whether a file in a folder is hidden, or tells of the texts: it has none."""
    return any(part.startswith(".") for part in path.parts) or path.name.lower().endswith(_ABOUT)


def read_evaluation(files: Sequence[Path], fields: Sequence[str]) -> Iterator[EvaluationRecord]:
    """All records of the files, also those without a text; a `.txt` file is one record.

    Args:
        files: as `evaluation_files` gives them.
        fields: the keys or columns that hold texts; without any, each string of a record is one.

    Raises:
        UserError: a file cannot be read, a file has none of the fields, or all files lack one.
    """
    missing = set(fields)
    for file in files:
        wanted = False
        try:
            for number, record in enumerate(_records(file), 1):
                chosen = record
                if isinstance(record, dict) and fields:
                    chosen = {key: record[key] for key in fields if key in record}
                    missing -= chosen.keys()
                wanted = wanted or bool(chosen) or isinstance(record, str)
                place = file.name if isinstance(record, str) else f"{file.name}, record {number}"
                yield EvaluationRecord(place, list(_strings(chosen, strict=bool(fields))))
        except (OSError, EOFError, ValueError, RecursionError) as error:  # JSON, UTF-8, Arrow: kinds of ValueError
            raise UserError(f"{file} cannot be read ({first_line(error)}): mend it, or leave it out") from error
        if not wanted:
            named = f" with {' or '.join(fields)}" if fields else ""
            raise UserError(f"{file} has no record{named}: set prepare.decontaminate.fields, or leave the file out")
    if missing and not all(_is_plain(file) for file in files):
        raise UserError(f"prepare.decontaminate.fields: no record has {', '.join(sorted(missing))}: check the spelling")


def _is_plain(file: Path) -> bool:
    """Whether a file is one text."""
    return file.name.lower().endswith((".txt", ".txt.gz"))


def _records(file: Path) -> Iterator[Any]:
    """Its records, or the text that it is."""
    name = file.name.lower()
    if name.endswith(".parquet"):
        import pyarrow.parquet as pq

        with pq.ParquetFile(file) as table:
            for batch in table.iter_batches(1_000):
                yield from batch.to_pylist()
        return
    with (gzip.open if name.endswith(".gz") else open)(file, "rt", encoding="utf-8-sig") as lines:
        if _is_plain(file):
            yield lines.read()
        else:
            for number, line in enumerate(lines, 1):
                if line.strip():
                    record = json.loads(line)
                    if not isinstance(record, dict):
                        raise ValueError(f"line {number} is not a record but a {type(record).__name__}")
                    yield record


def _strings(value: Any, strict: bool) -> Iterator[str]:
    """The strings in a value, however deep: Parquet has them as bytes, too, and maps as pairs.

    Raises:
        ValueError: bytes are not UTF-8; if not `strict`, they are taken for an image, a sound or the like.
    """
    left = [value]
    while left:
        value = left.pop()
        if isinstance(value, str):
            yield value
        elif isinstance(value, bytes):
            try:
                yield value.decode()
            except UnicodeDecodeError:
                if strict:
                    raise
        elif isinstance(value, dict | list | tuple):
            left += reversed(value.values() if isinstance(value, dict) else value)
