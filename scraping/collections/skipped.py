"""What of a collection gave no document: counted by reason, and listed with its file and place."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Iterable
from pathlib import Path, PurePosixPath
from typing import Any, NamedTuple

from scraping.collections.names import named_layout
from textmill.files import fsync

SKIPPED = "skipped.jsonl"
_REST, _PART = "rest of a damaged file", "part of a damaged file"


class Skipped(NamedTuple):
    """Something that was not read.

    Attributes:
        file: the file's name, for an inner archive behind the outer one's.
        place: where in the file ("line 11", "row group 3", "2.txt"); empty for the file itself.
        reason: what it is counted by, one of few.
        detail: what exactly is wrong.
        records: how many records are lost, as far as known; 0 where there is none that belongs to the collection.
    """

    file: str
    place: str
    reason: str
    detail: str = ""
    records: int = 1

    @property
    def is_loss(self) -> bool:
        return self.records > 0

    @property
    def is_of_unknown_size(self) -> bool:
        """Whether nobody knows how many records are lost; `records` is the least then."""
        return self.reason in (_REST, _PART)

    def __str__(self) -> str:
        where = f"{self.file}, {self.place}" if self.place else self.file
        return f"{where}: {self.reason}{f' ({self.detail})' if self.detail else ''}"


def rest_of(file: str, detail: str) -> Skipped:
    """What follows damage that a file's structure does not survive."""
    return Skipped(file, "", _REST, detail)


def part_of(file: str, place: str, detail: str) -> Skipped:
    """What lies between damage and the place where the file can be read again."""
    return Skipped(file, place, _PART, detail)


def unread(file: str, place: str, reason: str, detail: str = "") -> Skipped:
    """Something that does not belong to the collection, so that nothing is lost with it."""
    return Skipped(file, place, reason, detail, records=0)


def beside(name: str) -> Skipped:
    """A file that lies among those of a collection and is not read.

    Example:
        >>> beside("more.jsonl").reason, beside("README.md").reason
        ('another layout', '.md')
    """
    suffix = PurePosixPath(name).suffix.lower() or "without a suffix"
    return unread(name, "", "another layout" if named_layout(name) else suffix)


class Tally:
    """Counts what is skipped and lists it in a file that grows with the shards, so that a killed job goes on with it.

    Attributes:
        skipped: records lost, by reason.
        unread: files and members that do not belong to the collection, by reason.
        damaged: files and inner archives of which an unknown number of records is lost.
        places: how many places the lost records are at: a damaged row group is one.
        first: the first place of all.
    """

    def __init__(self, path: Path, state: dict[str, Any]) -> None:
        """Go on from `state` as it was `recorded` (empty at first); what was listed after that is dropped."""
        self._path = path
        self.skipped = Counter[str](state.get("skipped", {}))
        self.unread = Counter[str](state.get("unread", {}))
        self.damaged: set[str] = set(state.get("damaged", []))
        self.places: int = state.get("places", 0)
        self.first: str = state.get("first", "")
        self._file = path.open("ab")
        self._file.truncate(state.get("size", 0))

    def add(self, found: Iterable[Skipped]) -> None:
        for item in found:
            (self.skipped if item.is_loss else self.unread)[item.reason] += max(1, item.records)
            self.places += item.is_loss
            if item.is_of_unknown_size:
                self.damaged.add(item.file)
            self.first = self.first or (str(item) if item.is_loss else "")
            self._file.write(json.dumps(item._asdict(), ensure_ascii=False).encode("utf-8", "replace") + b"\n")

    def recorded(self) -> dict[str, Any]:
        """The state, with the list on the disk."""
        self._file.flush()
        fsync(self._path)
        return {
            "skipped": self.skipped, "unread": self.unread, "damaged": sorted(self.damaged), "places": self.places,
            "first": self.first, "size": self._path.stat().st_size,
        }  # fmt: skip

    def finish(self) -> None:
        """Close the list; without an entry it is removed."""
        self.recorded()
        self._file.close()
        if not self._path.stat().st_size:
            self._path.unlink()


def by_reason(counts: dict[str, int]) -> str:
    """Counts in one line, the greatest first.

    Example:
        >>> by_reason({"damaged": 2, "not JSON": 1_000})
        'not JSON 1,000, damaged 2'
    """
    ordered = sorted(counts.items(), key=lambda item: (-item[1], item[0]))
    return ", ".join(f"{reason} {count:,}" for reason, count in ordered)
