"""The files of a corpus as two tables that DuckDB queries: `documents` and `dropped`.

DuckDB reads the columns that a query names, on all cores, and puts on the disk what does not fit into `MEMORY`: so
millions of documents are joined within it.
"""

from __future__ import annotations

import os
import tempfile
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import Any, Self

import duckdb

from scraping.shards import shards
from textmill.errors import UserError, first_line

MEMORY = "1GB"
THREADS = 8  # at most; each reads a row group of its own

SPLITS = ("train", "validation")
_DOCUMENT_COLUMNS = "id, source, url, title, lang, text, n_chars, extractor"
_DROPPED_COLUMNS = "id, source, url, reason, detail, excerpt"
_KEPT = r"^of ([0-9a-f]+), similarity ([0-9.]+)"  # the detail of a duplicate: dedup.deduplicate

DROPPED = "id, source, url, reason, detail, excerpt AS text"  # the fields of `Dropped`

Row = dict[str, Any]
_FAILURES = (duckdb.Error, UnicodeDecodeError)  # of damaged files come many of DuckDB's, and texts that are none


@dataclass(frozen=True)
class Document:
    """A document of the corpus. `text` may be a part of it."""

    id: str
    source: str
    split: str
    url: str | None
    title: str | None
    lang: str | None
    n_chars: int
    text: str


@dataclass(frozen=True)
class Dropped:
    """A document that was dropped, and why; `text` is its beginning, None of a page whose text was never read."""

    id: str
    source: str
    url: str | None
    reason: str
    detail: str
    text: str | None


@dataclass(frozen=True)
class Sampling:
    """Which documents are shown.

    Attributes:
        number: how many at most.
        source: of which source; None for all.
        seed: the same seed draws the same documents.
        characters: how many of each text; None for all.
    """

    number: int
    source: str | None = None
    seed: int = 0
    characters: int | None = None

    @property
    def key(self) -> str:
        """What the ids are hashed with, to be drawn in the order of their hashes."""
        return f"{self.seed}:"


class Corpus:
    """A corpus to be queried.

    Args:
        folder: with `train-*.parquet`, `validation-*.parquet` and `dropped/part-*.parquet`.

    Raises:
        UserError: the folder holds no corpus.

    Example:
        >>> with Corpus(folder) as corpus:  # doctest: +SKIP
        ...     corpus.rows("SELECT source, count(*) AS documents FROM documents GROUP BY source")
    """

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self._folders: list[str] = []
        self._spill = tempfile.TemporaryDirectory(prefix="textmill-corpus-")
        self._db = duckdb.connect(
            config={
                "memory_limit": MEMORY,
                "threads": min(THREADS, os.cpu_count() or 1),
                "temp_directory": self._spill.name,
                "autoinstall_known_extensions": False,
                "preserve_insertion_order": False,
            }
        )
        try:
            self.attach(folder)
        except UserError:
            self.close()
            raise

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self.close()

    def close(self) -> None:
        self._db.close()
        self._spill.cleanup()

    def attach(self, folder: Path, prefix: str = "") -> None:
        """Make the tables of a corpus known, with a prefix before their names.

        Raises:
            UserError: the folder holds no corpus.
        """
        splits = {split: found for split in SPLITS if (found := shards(folder, split))}
        if not splits:
            raise UserError(f"{folder} holds no corpus: give the folder that `prepare` wrote, with its train-*.parquet")
        documents = " UNION ALL ".join(
            f"SELECT {_DOCUMENT_COLUMNS}, '{split}' AS split FROM {parquet(found)}" for split, found in splits.items()
        )
        dropped = shards(folder / "dropped")
        origin = f"SELECT {_DROPPED_COLUMNS} FROM {parquet(dropped)}" if dropped else _nothing_dropped()
        try:
            self._db.execute(f"CREATE OR REPLACE VIEW {prefix}documents AS {documents}")
            self._db.execute(
                f"CREATE OR REPLACE VIEW {prefix}dropped AS SELECT *, nullif(regexp_extract(detail, '{_KEPT}', 1), '') "
                f"AS kept, try_cast(regexp_extract(detail, '{_KEPT}', 2) AS DOUBLE) AS similarity FROM ({origin})"
            )
        except duckdb.BinderException as error:
            reason = first_line(error)
            raise UserError(f"{folder} holds no corpus ({reason}): give a folder that prepare wrote") from error
        except _FAILURES as error:
            raise _refusal(error, str(folder)) from error
        self._folders.append(str(folder))

    def execute(self, sql: str, parameters: Sequence[Any] | dict[str, Any] = ()) -> duckdb.DuckDBPyConnection:
        """Run a statement.

        Raises:
            UserError: a file is damaged, or the disk is full.
        """
        try:
            return self._db.execute(sql, parameters)
        except _FAILURES as error:
            raise _refusal(error, " or ".join(self._folders)) from error

    def rows(self, sql: str, parameters: Sequence[Any] | dict[str, Any] = ()) -> list[Row]:
        """The rows of a query, by the names of its columns."""
        result = self.execute(sql, parameters)
        try:
            values = result.fetchall()
        except _FAILURES as error:
            raise _refusal(error, " or ".join(self._folders)) from error
        names = [column[0] for column in result.description or ()]
        return [dict(zip(names, row, strict=True)) for row in values]

    def sources(self) -> list[str]:
        """The sources of what was kept and dropped."""
        sql = "SELECT source FROM documents UNION SELECT source FROM dropped ORDER BY 1"
        return [row["source"] for row in self.rows(sql)]

    def reasons(self) -> list[str]:
        """Why documents were dropped."""
        return [row["reason"] for row in self.rows("SELECT DISTINCT reason FROM dropped ORDER BY 1")]

    def check(self, source: str | None = None, reason: str | None = None) -> None:
        """Make sure that there is anything of a source, or of a reason.

        Raises:
            UserError: there is not; the message lists those that there are.
        """
        if source is not None and source not in (known := self.sources()):
            raise UserError(f"the corpus has no source {source!r}; its sources are {', '.join(known)}")
        if reason is not None and reason not in (known := self.reasons()):
            listed = f"the reasons are {', '.join(known)}" if known else "nothing was dropped"
            raise UserError(f"no document was dropped for {reason!r}; {listed}")

    def documents(self, ids: Sequence[str], characters: int | None = None, prefix: str = "") -> list[Document]:
        """The documents of these ids, in their order, with so many characters of their texts."""
        if not ids:
            return []
        text = "text" if characters is None else f"left(text, {int(characters)})"
        places = ", ".join("?" * len(ids))  # written out: row groups without any of them are not read
        found = self.rows(
            f"SELECT id, source, split, url, title, lang, n_chars, {text} AS text FROM {prefix}documents"
            f" WHERE id IN ({places})",
            ids,
        )
        by_id = {row["id"]: Document(**row) for row in found}
        return [by_id[id] for id in dict.fromkeys(ids) if id in by_id]


def _refusal(error: Exception, place: str) -> UserError:
    reason = first_line(error)
    if isinstance(error, duckdb.OutOfMemoryException):
        return UserError(f"{reason}: give the temporary folder ({tempfile.gettempdir()}, TMPDIR) more room")
    return UserError(f"the corpus in {place} cannot be read ({reason}): build it again (textmill run CONFIG --verify)")


def parquet(files: Sequence[Path]) -> str:
    """A table of Parquet files, for SQL."""
    listed = ", ".join("'" + str(file).replace("'", "''") + "'" for file in files)
    return f"read_parquet([{listed}])"


def _nothing_dropped() -> str:
    columns = ", ".join(f"NULL::VARCHAR AS {name}" for name in _DROPPED_COLUMNS.split(", "))
    return f"SELECT {columns} WHERE false"
