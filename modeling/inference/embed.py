"""Vectors of texts: the mean of a model's last hidden states over the tokens of each text.

The states are those after the last norm, of which the head makes logits. A causal model sees to the left only, so that
the first tokens of a text know little of it; a masked one sees its whole window, and so does the encoder of an
encoder-decoder, whose states these are then. A text that is longer than the window is read in several, one after the
other, and its vector is the mean over all its tokens. Windows of equal length go through together: nothing is padded
that could leak into a mean.

    vectors.parquet    the rows of what was embedded, with `embedding`: fixed-size lists of fp32
    its metadata       the model's digest, and whether the vectors have length 1 (`VectorsInfo`)
"""

from __future__ import annotations

import hashlib
import itertools
import json
import shutil
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import asdict, dataclass
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any, cast

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq
import torch
from torch import Tensor

import modeling
import tokenization
from modeling.checkpoint import CONFIG, NEXT_SENTENCE, WEIGHTS
from modeling.inference.generate import Checkpoint
from modeling.networks.encoder_decoder import EncoderDecoder
from textmill.errors import UserError
from textmill.files import sha256, temporary_path
from textmill.kept import Made, code_digest, kept_work
from textmill.mapping import HERE
from textmill.progress import Progress, quiet
from tokenization.formats import tokenizer_files
from tokenization.sentence_pairs import lay_out
from tokenization.text import read_rows

if TYPE_CHECKING:
    from modeling.networks.transformer import GPT

__all__ = [
    "EMBEDDING", "ID", "TEXT", "VectorsInfo", "digest_of", "embed", "embed_rows", "parquet_files", "rows_of_files",
    "rows_of_texts", "sees_both_sides",
]  # fmt: skip

EMBEDDING = "embedding"  # the column of vectors
TEXT, ID = "text", "id"  # the column of texts, if no other is named, and one that is carried along
METADATA = b"textmill.vectors"  # the key of `VectorsInfo` in a file's metadata
BATCH_TOKENS = 16_384  # that go through the model at once
SLICE_CHARACTERS = 1 << 21  # texts that are kept together when they are done, and repeated if they are not


@dataclass(frozen=True)
class VectorsInfo:
    """What a file of vectors says of them.

    Attributes:
        model: `digest_of` the checkpoint that made them.
        normalized: whether they have length 1.
        column: the one of the texts.
    """

    model: str
    normalized: bool
    column: str

    @classmethod
    def of(cls, schema: pa.Schema) -> VectorsInfo | None:
        """None for a file that `embed_rows` did not write."""
        written = (schema.metadata or {}).get(METADATA)
        return cls(**json.loads(written)) if written else None


def digest_of(checkpoint: Path) -> str:
    """What tells a checkpoint from others: a digest of its weights, its settings and its tokenizer."""
    files = [checkpoint / WEIGHTS, checkpoint / CONFIG, *tokenizer_files(checkpoint)]
    on_pairs = (checkpoint / NEXT_SENTENCE).is_file()  # which is read in another layout
    return hashlib.sha256("\n".join([*map(sha256, files), str(on_pairs)]).encode()).hexdigest()


def sees_both_sides(checkpoint: Checkpoint) -> bool:
    """Whether a token's state knows what follows it in the window, and not only what is before it."""
    return isinstance(checkpoint.model, EncoderDecoder) or checkpoint.config.fills or not checkpoint.model.causal


# -- vectors -----------------------------------------------------------------------------------------------------------


@torch.inference_mode()
def embed(checkpoint: Checkpoint, texts: Sequence[str], *, normalized: bool = False) -> np.ndarray:
    """Vectors of texts, fp32 [texts, W].

    Args:
        checkpoint: of a causal or a masked model, or of an encoder-decoder, whose encoder reads the texts.
        texts: each as a document of its own.
        normalized: whether to give every vector length 1.

    Raises:
        UserError: a text is empty, or has no tokens.
    """
    encoded = checkpoint.tokenizer.encode_batch(texts)
    if empty := [place for place, ids in enumerate(encoded) if not len(ids)]:
        raise UserError(f"text {empty[0] + 1} is empty; there is nothing to embed")
    windows = [window for text, ids in enumerate(encoded) for window in _windows(text, ids, checkpoint)]
    windows.sort(key=lambda window: len(window.ids))
    sums = np.zeros((len(texts), checkpoint.model.config.width))
    device = checkpoint.model.device
    model = checkpoint.model
    hidden_of: Callable[[Tensor], Tensor] = model.encode if isinstance(model, EncoderDecoder) else model.hidden
    if checkpoint.config.fills:  # one that does both sees more so
        hidden_of = partial(cast("GPT", model).hidden, whole=True)
    for length, alike in itertools.groupby(windows, key=lambda window: len(window.ids)):
        for batch in _batched(alike, max(1, BATCH_TOKENS // length)):
            ids = torch.from_numpy(np.stack([window.ids for window in batch])).to(device)
            hidden_BTW = hidden_of(ids).float()
            of_text_BT = torch.from_numpy(np.stack([window.of_text for window in batch])).to(device)
            means = (hidden_BTW * of_text_BT[..., None]).sum(1).double().cpu().numpy()
            np.add.at(sums, [window.text for window in batch], means)
    vectors = sums / np.array([[len(ids)] for ids in encoded])
    if normalized:
        vectors /= np.maximum(np.linalg.norm(vectors, axis=1, keepdims=True), np.finfo(np.float32).tiny)
    return vectors.astype(np.float32)


def _batched(windows: Iterable[_Window], size: int) -> Iterator[list[_Window]]:
    """The windows in lists of at most `size`."""
    remaining = iter(windows)
    while batch := list(itertools.islice(remaining, size)):
        yield batch


@dataclass(frozen=True)
class _Window:
    """What the model reads at once of the text of this number: ids, int64 [T], and which are the text's own, bool
    [T]."""

    text: int
    ids: np.ndarray
    of_text: np.ndarray


def _windows(text: int, ids: np.ndarray, checkpoint: Checkpoint) -> Iterator[_Window]:
    """The windows of a text, laid out as the model was trained: running text begins after an end of text; a model that
    was tuned on pairs of sentences reads each part of it as a first sentence, whose second is empty."""
    special = checkpoint.tokenizer.special_tokens
    ids = ids.astype(np.int64)
    if checkpoint.pair_length is None:
        ids = np.concatenate([[checkpoint.tokenizer.eot_id], ids])
        for start in range(0, len(ids), checkpoint.window):
            part = ids[start : start + checkpoint.window]
            yield _Window(text, part, np.arange(start, start + len(part)) > 0)
        return
    room = checkpoint.pair_length - 3
    for start in range(0, len(ids), room):
        part = ids[start : start + room]
        laid_out = lay_out([(part, part[:0])], len(part) + 3, special)[0][0]  # no token sees padding
        places = np.arange(len(laid_out))
        yield _Window(text, laid_out, (places > 0) & (places <= len(part)))


# -- rows --------------------------------------------------------------------------------------------------------------


def rows_of_texts(texts: Sequence[str]) -> Iterator[pa.RecordBatch]:
    """Texts as rows.

    Raises:
        UserError: a text is empty, or is not UTF-8.
    """
    for number, text in enumerate(texts, start=1):
        if not text:
            raise UserError(f"text {number} is empty; there is nothing to embed")
    yield pa.record_batch({TEXT: pa.array(texts, pa.large_string())})


def rows_of_files(files: Sequence[Path], column: str = TEXT) -> Iterator[pa.RecordBatch]:
    """The rows of Parquet files: the column of texts, and `id` where there is one.

    Raises:
        UserError: a file cannot be read, has no such column of strings, has another `id` than the first, or a text is
            null, empty, or not UTF-8.
    """
    first: pa.Schema | None = None
    for file in files:
        row = 0
        for rows in read_rows(file, column, [ID]):
            first = first or rows.schema
            if rows.schema.names != first.names or rows.schema.field(0).type != first.field(0).type:
                raise UserError(f"{file} has another column {ID!r} than {files[0]}; embed them into two files")
            lengths = pc.binary_length(rows.column(column)).to_numpy(zero_copy_only=False)
            if len(empty := np.flatnonzero(lengths == 0)):
                raise UserError(f"{file}, row {row + int(empty[0])}: the text is empty; leave such rows out")
            row += len(rows)
            yield rows


def parquet_files(place: Path) -> list[Path]:
    """A Parquet file, or those of a folder, sorted.

    Raises:
        UserError: there are none.
    """
    if place.is_file():
        return [place]
    if found := sorted(place.glob("*.parquet")):
        return found
    raise UserError(f"{place} is not a Parquet file, nor a folder that holds some")


def embed_rows(
    checkpoint: tuple[Path, Checkpoint],
    rows: Iterable[pa.RecordBatch],
    out: Path,
    *,
    column: str = TEXT,
    normalized: bool = False,
    progress: Progress = quiet,
) -> int:
    """Write rows with their vectors to a Parquet file, whole or not at all; a killed call goes on when it is repeated.

    The texts are copied first, in slices below the folder of `out`, and every slice whose vectors are there is kept.

    Args:
        checkpoint: its folder, and what was loaded from there.
        rows: as `rows_of_texts` or `rows_of_files` gives them.
        out: the file; an older one of vectors is replaced.
        column: the one of the texts.
        normalized: whether to give every vector length 1.
        progress: is told how many texts are done.

    Returns:
        how many rows there are.

    Raises:
        UserError: there are no rows, `out` is something else, another call writes beside it, the disk is full, or a
            text has no tokens.
    """
    folder, loaded = checkpoint
    _check_replaceable(out)
    info = VectorsInfo(digest_of(folder), normalized, column)
    made_with: dict[str, Any] = asdict(info) | {
        "code": [code_digest(Path(package.__path__[0])) for package in (modeling, tokenization)],
    }
    with kept_work(out.parent, f"vectors-{out.name}", made_with) as work:
        slices_folder = temporary_path(work.folder / "slices")  # which the next call drops, if this one is killed
        slices_folder.mkdir()
        try:
            slices = list(_slices(rows, slices_folder, column, progress))
            total = sum(pq.read_metadata(file).num_rows for file in slices)
            if not total:
                raise UserError("there are no texts to embed")
            done = 0
            make = partial(_embed_slice, checkpoint=loaded, info=info)
            with _Writer(work.complete / out.name, info) as writer:
                for piece in work.map(make, slices, HERE):
                    [file] = piece.files()
                    done += writer.append(file)
                    progress(done, total, unit="texts", phase="embedding")
            work.publish((), last=out.name)
        finally:
            shutil.rmtree(slices_folder, ignore_errors=True)
    return total


def _check_replaceable(out: Path) -> None:
    """
    Raises:
        UserError: something is at the place of `out` that is not a file of vectors.
    """
    if not out.exists():
        return
    try:
        is_ours = out.is_file() and VectorsInfo.of(pq.read_schema(out)) is not None
    except (OSError, pa.ArrowException):
        is_ours = False
    if not is_ours:
        raise UserError(f"{out} is there and is not a file of vectors; give another name")


def _slices(rows: Iterable[pa.RecordBatch], folder: Path, column: str, progress: Progress) -> Iterator[Path]:
    """The rows in files of about `SLICE_CHARACTERS` each, so that none of them takes long."""
    pending: list[pa.RecordBatch] = []
    size = read = 0
    number = itertools.count()

    def write() -> Path:
        file = folder / f"{next(number):06d}.parquet"
        pq.write_table(pa.Table.from_batches(pending).replace_schema_metadata(None), file)
        return file

    for batch in rows:
        pending.append(batch)
        size += batch.column(column).nbytes
        read += len(batch)
        if size >= SLICE_CHARACTERS:
            yield write()
            pending, size = [], 0
            progress(read, unit="texts", phase="reading")
    if pending:
        yield write()


def _embed_slice(source: Path, folder: Path, *, checkpoint: Checkpoint, info: VectorsInfo) -> Made:
    """Write the rows of a slice with their vectors."""
    table = pq.read_table(source)
    vectors = embed(checkpoint, table[info.column].to_pylist(), normalized=info.normalized)
    lists = pa.FixedSizeListArray.from_arrays(pa.array(vectors.reshape(-1)), vectors.shape[1])
    pq.write_table(table.append_column(EMBEDDING, lists), folder / source.name, use_dictionary=False)
    return Made()


class _Writer:
    """Joins the slices to one file."""

    def __init__(self, path: Path, info: VectorsInfo) -> None:
        self.path, self.info = path, info
        self.file: pq.ParquetWriter | None = None

    def __enter__(self) -> _Writer:
        return self

    def append(self, slice_file: Path) -> int:
        """Add the rows of a slice; how many there are."""
        table = pq.read_table(slice_file)
        if self.file is None:
            schema = table.schema.with_metadata({METADATA: json.dumps(asdict(self.info)).encode()})
            self.file = pq.ParquetWriter(self.path, schema, compression="zstd", use_dictionary=False)
        self.file.write_table(table)
        return len(table)

    def __exit__(self, *_: object) -> None:
        if self.file is not None:
            self.file.close()
