"""The texts that models are tested on, as files hold them: `.txt` (one text), `.jsonl` and `.parquet` (a text for each
string of a record). Gzip may be around the first two."""

from __future__ import annotations

import gzip
import json
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, NamedTuple

from textmill.errors import UserError, first_line

SUFFIXES = (".txt", ".jsonl", ".txt.gz", ".jsonl.gz", ".parquet")


class EvaluationText(NamedTuple):
    """A text that models are tested on, and where it is: `mmlu.jsonl, record 12`."""

    place: str
    text: str


def evaluation_files(paths: Sequence[str]) -> list[Path]:
    """The files at these paths, which may be folders or globs; sorted by name, so that it does not matter where they
    lie.

    Raises:
        UserError: one is not there, or of a kind that is not read.
    """
    files: list[Path] = []
    for path in (Path(name).expanduser() for name in paths):
        if path.is_dir():
            found = sorted(file for file in path.rglob("*") if file.name.endswith(SUFFIXES))
        elif path.exists() or not any(sign in str(path) for sign in "*?["):
            found = [path]
        else:
            found = sorted(Path(path.anchor).glob(str(path.relative_to(path.anchor))))
        if not found or not all(file.is_file() for file in found):
            raise UserError(f"prepare.decontaminate.paths: {path} holds no {', '.join(SUFFIXES)} file: check the path")
        for file in found:
            if not file.name.endswith(SUFFIXES):
                raise UserError(f"prepare.decontaminate.paths: {file} is not read; it may be {', '.join(SUFFIXES)}")
        files += found
    return sorted(set(files), key=lambda file: (file.name, str(file)))


def read_evaluation(files: Sequence[Path], fields: Sequence[str]) -> Iterator[EvaluationText]:
    """All texts of the files.

    Args:
        files: as `evaluation_files` gives them.
        fields: the keys or columns that hold texts; without any, each string of a record is one.

    Raises:
        UserError: a file cannot be read, or has none of the fields.
    """
    for file in files:
        try:
            records = _records(file)
            found = False
            for number, record in enumerate(records, 1):
                if isinstance(record, str):
                    found = True
                    yield EvaluationText(file.name, record)
                    continue
                chosen = {key: record[key] for key in fields if key in record} if fields else record
                found = found or bool(chosen)
                for text in _strings(chosen):
                    yield EvaluationText(f"{file.name}, record {number}", text)
        except (OSError, EOFError, ValueError) as error:  # JSON, UTF-8 and Arrow raise kinds of ValueError
            raise UserError(f"{file} cannot be read ({first_line(error)}): mend it, or leave it out") from error
        if not found:
            wanted = f" with {' or '.join(fields)}" if fields else ""
            raise UserError(f"{file} has no record{wanted}: set prepare.decontaminate.fields, or leave the file out")


def _records(file: Path) -> Iterator[Any]:
    """Its records, or the text that it is."""
    if file.suffix == ".parquet":
        import pyarrow.parquet as pq

        with pq.ParquetFile(file) as table:
            for batch in table.iter_batches(1_000):
                yield from batch.to_pylist()
        return
    with (gzip.open if file.suffix == ".gz" else open)(file, "rt", encoding="utf-8-sig") as lines:
        if ".txt" in file.suffixes:
            yield lines.read()
        else:
            for number, line in enumerate(lines, 1):
                if line.strip():
                    record = json.loads(line)
                    if not isinstance(record, dict):
                        raise ValueError(f"line {number} is not a record but a {type(record).__name__}")
                    yield record


def _strings(value: Any) -> Iterator[str]:
    """The strings in a value, however deep."""
    if isinstance(value, str):
        yield value
    elif isinstance(value, dict | list):
        for item in value.values() if isinstance(value, dict) else value:
            yield from _strings(item)
