"""Text on its way to the kernels: documents as one array of UTF-8 bytes with offsets, checked, in bounded batches."""

from __future__ import annotations

import itertools
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from textmill.errors import UserError, first_line

__all__ = [
    "BATCH_BYTES", "Documents", "ShardColumns", "batches", "check_listed", "documents_of", "from_arrow", "look_at",
    "read_any", "read_rows", "read_shard", "read_sources", "shards", "utf8_of",
]  # fmt: skip

BATCH_ROWS = 256  # rows decoded at once; a batch is read, used and dropped
BATCH_BYTES = 1 << 18  # so few that a text is still in the cache of the core that made it when it is scanned


@dataclass(frozen=True)
class Documents:
    """Documents, one after the other: document i is text[offsets[i] : offsets[i + 1]].

    Attributes:
        text: uint8 [bytes], UTF-8; there may be other bytes before and after the documents.
        offsets: int64 [documents + 1].
    """

    text: np.ndarray
    offsets: np.ndarray

    def __len__(self) -> int:
        return len(self.offsets) - 1

    @property
    def nbytes(self) -> int:
        """Bytes of all documents."""
        return int(self.offsets[-1] - self.offsets[0])

    def strings(self) -> Iterator[str]:
        """The documents as strings."""
        for start, stop in itertools.pairwise(self.offsets.tolist()):
            yield self.text[start:stop].tobytes().decode()

    def slices(self, target: int) -> Iterator[Documents]:
        """The documents in order, in parts of about `target` bytes (a part has at least one document)."""
        first = 0
        while first < len(self):
            last = int(np.searchsorted(self.offsets, self.offsets[first] + target, side="right"))
            last = min(max(last - 1, first + 1), len(self))
            yield Documents(self.text, self.offsets[first : last + 1])
            first = last


def documents_of(texts: Sequence[str]) -> Documents:
    """Documents from strings; a lone surrogate becomes U+FFFD, as with tiktoken.

    Example:
        >>> documents = documents_of(["été", "hi"])
        >>> documents.offsets.tolist(), list(documents.strings())
        ([0, 5, 7], ['été', 'hi'])
    """
    if len(texts) == 1:  # in a tenth of the microseconds that an Arrow array takes
        data = utf8_of(texts[0])
        return _read_only(np.frombuffer(data, np.uint8), np.array([0, len(data)]))
    try:
        array = pa.array(texts, pa.large_string())
    except UnicodeEncodeError:
        array = pa.array([_without_surrogates(text) for text in texts], pa.large_string())
    return from_arrow(array)


def utf8_of(text: str) -> bytes:
    """The bytes of a string; a lone surrogate becomes U+FFFD, as with tiktoken."""
    try:
        return text.encode()
    except UnicodeEncodeError:
        return _without_surrogates(text).encode()


def _without_surrogates(text: str) -> str:
    return text.encode("utf-16", "surrogatepass").decode("utf-16", "replace")


def from_arrow(array: pa.Array) -> Documents:
    """Documents from an Arrow array of strings without nulls; no text is copied."""
    _, offsets, data = array.buffers()
    if len(array) == 0:
        return _read_only(np.empty(0, np.uint8), np.zeros(1, np.int64))
    width = np.int64 if pa.types.is_large_string(array.type) else np.int32
    offsets = np.frombuffer(offsets, width)[array.offset : array.offset + len(array) + 1].astype(np.int64, copy=False)
    text = np.frombuffer(data, np.uint8) if data is not None else np.empty(0, np.uint8)
    return _read_only(text, offsets)


def _read_only(text: np.ndarray, offsets: np.ndarray) -> Documents:
    """All documents are of arrays of one type: kernels are compiled again for arrays that can be written."""
    text.flags.writeable = offsets.flags.writeable = False
    return Documents(text, offsets)


def batches(texts: Iterable[str]) -> Iterator[Documents]:
    """Documents from any iterable of strings, about `BATCH_BYTES` at a time."""
    pending: list[str] = []
    size = 0
    for text in texts:
        pending.append(text)
        size += len(text)
        if size >= BATCH_BYTES:
            yield documents_of(pending)
            pending, size = [], 0
    if pending:
        yield documents_of(pending)


def shards(corpus: Path, split: str) -> list[Path]:
    """The Parquet shards of a split of a corpus, in order.

    Raises:
        UserError: there are none.
    """
    found = sorted(corpus.glob(f"{split}-*.parquet"))
    if not found:
        raise UserError(f"{corpus} holds no {split}-*.parquet; run prepare first")
    return found


def check_listed(corpus: Path, split: str, listed: list[Path]) -> None:
    """Check that a split still has the shards that it had.

    Raises:
        UserError: shards came or went.
    """
    if shards(corpus, split) != listed:
        raise UserError(f"{corpus} changed while it was read; run again when nobody writes there")


class ShardColumns(NamedTuple):
    """What a Parquet shard says of itself.

    Attributes:
        documents: its rows.
        knows_sources: whether it has a column `source`.
    """

    documents: int
    knows_sources: bool


def look_at(shard: Path) -> ShardColumns:
    """What a shard holds; its rows are not read.

    Raises:
        UserError: it cannot be read, or `read_shard` could not read its documents.
    """
    with _open_parquet(shard) as file:
        _check_column(file, shard, "text")
        return ShardColumns(file.metadata.num_rows, "source" in file.schema_arrow.names)


def read_shard(shard: Path, column: str = "text") -> Iterator[Documents]:
    """The documents of a Parquet shard, about `BATCH_ROWS` at a time, so that memory stays bounded.

    Raises:
        UserError: as `read_rows` does.
    """
    for rows in read_rows(shard, column):
        yield from_arrow(rows.column(column))


def read_rows(shard: Path, column: str = "text", beside: Sequence[str] = ()) -> Iterator[pa.RecordBatch]:
    """The rows of a Parquet shard, `BATCH_ROWS` at a time: the texts, checked, and other columns as they are.

    Args:
        shard: the file.
        column: of the texts.
        beside: other columns, as far as the shard has them.

    Raises:
        UserError: the shard cannot be read, has no such column of strings, or holds invalid UTF-8 or nulls (the message
            names shard and row).
    """
    with _open_parquet(shard) as file:
        _check_column(file, shard, column)
        others = [name for name in beside if name != column and file.schema_arrow.names.count(name) == 1]
        row = 0
        try:
            for batch in file.iter_batches(BATCH_ROWS, columns=[*others, column]):
                _check_strings(batch.column(column), shard, row)
                row += len(batch)
                yield batch
        except (OSError, pa.ArrowException) as error:
            raise UserError(f"{shard} is damaged after row {row}: {first_line(error)}") from error


def _check_column(file: pq.ParquetFile, shard: Path, column: str) -> None:
    schema = file.schema_arrow
    if column not in schema.names:
        raise UserError(f"{shard} has no column {column!r}; it has {', '.join(schema.names)}")
    if schema.names.count(column) > 1:
        raise UserError(f"{shard} has more than one column {column!r}; leave one of them out")
    kind = schema.field(column).type
    if not (pa.types.is_string(kind) or pa.types.is_large_string(kind)):
        raise UserError(f"column {column!r} of {shard} holds {kind}, not strings")


def read_sources(shard: Path) -> tuple[list[str], np.ndarray] | None:
    """The names of the sources in a Parquet shard, sorted, and the number among them of each document's: int64
    [documents]; None if the shard has no column `source`.

    Raises:
        UserError: the shard cannot be read, or a document has no source.
    """
    with _open_parquet(shard) as file:
        if "source" not in file.schema_arrow.names:
            return None
        try:
            column = file.read(columns=["source"], use_threads=False)["source"].cast(pa.string()).combine_chunks()
            column.validate(full=True)
        except (OSError, pa.ArrowException) as error:
            raise UserError(f"column 'source' of {shard} holds no names of sources: {first_line(error)}") from error
    if column.null_count:
        row = int(column.is_null().to_numpy(zero_copy_only=False).argmax())
        raise UserError(f"{shard}, row {row}: no source; give each document one, or leave out the column")
    encoded = column.dictionary_encode()
    names = encoded.dictionary.to_pylist()
    order = sorted(range(len(names)), key=names.__getitem__)
    places = np.argsort(np.array(order, np.int64))
    return [names[place] for place in order], places[encoded.indices.to_numpy(zero_copy_only=False)]


def _open_parquet(shard: Path) -> pq.ParquetFile:
    try:
        # every page is decoded once, in order; buffering whole column chunks would cost their memory
        return pq.ParquetFile(shard, buffer_size=1 << 20, pre_buffer=False)
    except (OSError, pa.ArrowException) as error:
        raise UserError(f"{shard} is not a readable Parquet file: {first_line(error)}") from error


def read_any(path: Path) -> Iterator[Documents]:
    """Documents of a corpus folder (its train split), a Parquet file, or a text file, which is one document.

    Raises:
        UserError: there is nothing, or it is not text.
    """
    if path.is_dir():
        for shard in shards(path, "train"):
            yield from read_shard(shard)
    elif path.suffix == ".parquet":
        yield from read_shard(path)
    else:
        try:
            yield documents_of([path.read_bytes().decode()])  # `read_text` would make \n of \r\n
        except OSError as error:
            raise UserError(f"{path} cannot be read: {error.strerror}") from error
        except UnicodeDecodeError as error:
            raise UserError(f"{path} is not UTF-8 text (byte {error.start}); convert it first") from error


def _check_strings(array: pa.Array, shard: Path, row: int) -> None:
    """Raise `UserError` for a null or invalid UTF-8; `row` is the number of the first row."""
    if array.null_count:
        null = array.is_null().to_numpy(zero_copy_only=False).argmax()
        raise UserError(f"{shard}, row {row + int(null)}: no text; drop empty rows in prepare")
    try:
        array.validate(full=True)
    except pa.ArrowInvalid:
        for i, value in enumerate(array.cast(pa.large_binary())):
            try:
                value.as_py().decode()
            except UnicodeDecodeError as error:
                raise UserError(
                    f"{shard}, row {row + i}: invalid UTF-8 at byte {error.start}; decode it in prepare"
                ) from None
        raise
