"""From the texts of a unit to documents, at the speed of hashing.

Texts are handled as bytes and, where they are in the form that every layout has, stay where they are: decoding,
encoding and copying them would take longer than hashing and compressing.
"""

from __future__ import annotations

import hashlib
import json
import operator
import re
from collections.abc import Iterator

import pyarrow as pa
import pyarrow.compute as pc

from scraping.collections.layouts import Batch, Unit
from scraping.collections.records import REPLACEMENT
from scraping.collections.skipped import Skipped
from scraping.shards import DOCUMENTS

_BLANK_LINES = re.compile(b"\n\n\n+")


def read_unit(unit: Unit, source: str, sample: float | None) -> Iterator[pa.Table]:
    """The documents of a unit, a table for each batch, with `counts_of` and `skipped_of` it in its schema's metadata.

    Args:
        unit: what to read.
        source: name of the collection.
        sample: share of the documents to keep, by a hash of the text; None keeps all.
    """
    for batch in unit.read():
        yield _documents(batch, source, sample)


def counts_of(table: pa.Table) -> dict[str, int]:
    """What `read_unit` counted of a table: its `bytes` in memory where it was made, the texts that are left out,
    `empty` and `sampled_out`, and those that lost characters, `marred`: U+FFFD stands for them."""
    counts: dict[str, int] = json.loads(table.schema.metadata[b"counts"])
    return counts


def skipped_of(table: pa.Table) -> list[Skipped]:
    """What `read_unit` skipped where it made a table."""
    return [Skipped(*fields) for fields in json.loads(table.schema.metadata[b"skipped"])]


def document_id(text: bytes) -> str:
    """Id of an ingested document: the first 128 bits of the SHA-256 of its UTF-8 text, in hexadecimal.

    Processors have instructions for SHA-256: it takes less than half the time of BLAKE2b.

    Example:
        >>> document_id(b"A text.")
        '3b6444e203f18aca2e805df7fe60bda9'
    """
    return hashlib.sha256(text).hexdigest()[:32]


def canonical_whitespace(text: bytes) -> bytes:
    r"""The UTF-8 text as every layout has it: `\n` line ends, at most one blank line, no white space around.

    The hub's Parquet files were made from the archives in this way. A text in this form is returned as it is.

    Example:
        >>> canonical_whitespace(b" one\r\n\n\n\ntwo \n")
        b'one\n\ntwo'
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


def _documents(batch: Batch, source: str, sample: float | None) -> pa.Table:
    as_read = batch.texts if isinstance(batch.texts, pa.Array) else pa.array(batch.texts, pa.binary())
    raw = as_read.cast(pa.binary()).to_pylist()
    canonical = [canonical_whitespace(text or b"") for text in raw]
    if any(map(operator.is_not, raw, canonical)):
        texts = pa.array(canonical, pa.binary()).cast(pa.string())
    else:
        texts = as_read.cast(pa.string())
    ids = [document_id(text) for text in canonical]
    keep = []
    counts = {"empty": 0, "sampled_out": 0, "marred": 0}
    for position, (text, id) in enumerate(zip(canonical, ids, strict=True)):
        if not text:
            counts["empty"] += 1
        elif sample is not None and int(id[:16], 16) >= sample * 2**64:
            counts["sampled_out"] += 1
        else:
            keep.append(position)
            counts["marred"] += REPLACEMENT in text
    columns = {
        "id": ids,
        "source": [source] * len(ids),
        "url": batch.urls or [None] * len(ids),
        "title": batch.titles or [None] * len(ids),
        "lang": batch.langs or [None] * len(ids),
        "text": texts,
        "n_chars": pc.utf8_length(texts).cast(pa.int64()),
        "extractor": ["ingest"] * len(ids),
    }
    table = pa.Table.from_pydict(columns, schema=DOCUMENTS)
    kept = table if len(keep) == len(ids) else table.take(pa.array(keep, pa.int64()))
    counts["bytes"] = kept.nbytes
    return kept.replace_schema_metadata({"counts": json.dumps(counts), "skipped": json.dumps(batch.skipped)})
