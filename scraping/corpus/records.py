"""The structured records that `records` extractors read off pages, as a table beside the corpus."""

from __future__ import annotations

import json
from operator import itemgetter
from pathlib import Path
from typing import Any

import pyarrow as pa

from scraping.shards import read_rows, write_shard
from textmill.files import remove_temporary

RECORDS = pa.schema([("id", pa.string()), ("source", pa.string()), ("url", pa.string()), ("record", pa.string())])


def write_records(parts: list[Path], folder: Path) -> None:
    """Write the records in `parts`, RECORDS files, to `folder/SOURCE.parquet`, sorted by id, with columns of their own.

    Without records there is no folder.
    """
    by_source: dict[str, list[dict[str, Any]]] = {}
    for row in sorted(read_rows(parts), key=itemgetter("id")):
        by_source.setdefault(row["source"], []).append(
            {"document": row["id"], "url": row["url"], **json.loads(row["record"])}
        )
    remove_temporary(folder)
    for source, records in by_source.items():
        folder.mkdir(exist_ok=True)
        names = dict.fromkeys(name for record in records for name in record)  # a record may leave out what another has
        table = pa.table({name: [record.get(name) for record in records] for name in names})
        write_shard(folder / f"{source}.parquet", records, table.schema)
