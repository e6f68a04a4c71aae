"""Documents dealt by ranges of their ids: each range is whole, in order, and found again by position."""

from __future__ import annotations

import hashlib

import numpy as np
import pyarrow as pa
import pytest

from scraping.corpus.ranges import RangeFile, count_ranges, deal, range_numbers, write_ranges
from scraping.shards import DOCUMENTS, write_table


def documents(count):
    ids = [hashlib.md5(str(number).encode()).hexdigest() for number in range(count)]
    return pa.Table.from_pylist([{"id": id, "text": f"text of {id}"} for id in ids], schema=DOCUMENTS)


@pytest.mark.parametrize(("count", "ranges"), [(200, 7), (3, 10), (0, 4), (50, 1)])
def test_ranges_are_read_one_by_one_and_positions_found(tmp_path, count, ranges):
    dealt = deal(documents(count), ranges)
    table = dealt.table
    write_ranges(tmp_path / "documents.arrow", dealt)
    with RangeFile(tmp_path / "documents.arrow") as file:
        assert len(file.bounds) == ranges + 1 and file.bounds[-1] == count
        parts = [file.range(number) for number in range(ranges)]
        assert pa.concat_tables([pa.table(part).replace_schema_metadata() for part in parts]) == table
        for number, part in enumerate(parts):
            assert set(range_numbers(part["id"], ranges)) <= {number}
    places = np.arange(0, count, 3)
    with RangeFile(tmp_path / "documents.arrow", ["text"]) as file:
        assert [row["text"] for row in file.rows(places)] == [table["text"][place].as_py() for place in places.tolist()]


def test_every_range_is_of_later_ids_than_the_one_before():
    table = documents(300)
    numbers = range_numbers(table["id"], 9)
    assert set(numbers.tolist()) == set(range(9))
    ids = sorted(zip(table["id"].to_pylist(), numbers.tolist(), strict=True))
    assert [number for _, number in ids] == sorted(numbers.tolist())


def test_the_number_of_ranges_follows_from_the_size(tmp_path, monkeypatch):
    write_table(tmp_path / "documents.parquet", documents(1_000))
    assert count_ranges([tmp_path / "documents.parquet"]) == 1
    monkeypatch.setattr("scraping.corpus.ranges.RANGE_BYTES", 10_000)
    assert 5 < count_ranges([tmp_path / "documents.parquet"] * 2) < 50
