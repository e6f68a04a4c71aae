"""The manifest: what an artifact is, what made it, from what, when, and every file in it."""

from __future__ import annotations

import functools
from collections.abc import Callable, Mapping
from datetime import datetime
from fnmatch import fnmatch
from pathlib import Path
from typing import Any

from pydantic import BaseModel, Field

from flows.store.fingerprint import digest
from textmill.contents import content_digest
from textmill.files import files_below

MANIFEST = "manifest.json"
Name = tuple[str, str]  # stage and fingerprint


class FileEntry(BaseModel):
    """One file of an artifact.

    Attributes:
        size: bytes.
        sha256: of the contents, in hexadecimal.
        count: its rows, tokens or lines, where that is known.
        record: whether it holds clocks and rates, and is therefore outside the digest.
    """

    size: int
    sha256: str
    count: int | None = None
    record: bool = False


class InputEntry(BaseModel):
    """Which artifact an input was."""

    stage: str
    fingerprint: str
    digest: str

    @property
    def name(self) -> Name:
        return self.stage, self.fingerprint


class Manifest(BaseModel):
    """What an artifact is. Times and `seconds` are of its build; `code` is the version that built it; `incomplete` says
    what it holds and lacks if it is less than was asked for."""

    stage: str = Field(pattern=r"^[\w-]+$")  # these two name folders, and may come from a stranger's bucket
    version: int
    label: str
    pipeline: str
    fingerprint: str = Field(pattern=r"^[\w-]+$")
    identity: Any
    settings: dict[str, Any]
    inputs: dict[str, list[InputEntry]]
    files: dict[str, FileEntry]
    code: str
    started: datetime
    finished: datetime
    seconds: float
    incomplete: str = ""

    @functools.cached_property
    def digest(self) -> str:
        """SHA-256 of the files' contents. Times, paths and records (training timings) are not in it, so an artifact
        that is rebuilt and comes out the same has the same digest and nothing after it is rebuilt."""
        return digest({name: file.sha256 for name, file in self.files.items() if not file.record})

    @property
    def size(self) -> int:
        """Bytes of all files."""
        return sum(file.size for file in self.files.values())

    def damage(self, sizes: Mapping[str, int], sha256: Callable[[str], str] | None = None) -> str | None:
        """How files of these sizes, and hashes if they are to be compared, differ from what was sealed; None if not."""
        for name, entry in self.files.items():
            if name not in sizes:
                return f"{name} is missing"
            if sizes[name] != entry.size:
                return f"{name} has {sizes[name]:,} bytes instead of {entry.size:,}"
            if sha256 and sha256(name) != entry.sha256:
                return f"{name} has been altered (SHA-256 differs)"
        return None

    @property
    def title(self) -> str:
        return title_of(self.stage, self.label)

    @property
    def origins(self) -> list[InputEntry]:
        """The artifacts that this one was made from."""
        return [entry for entries in self.inputs.values() for entry in entries]


def title_of(stage: str, label: str) -> str:
    """What people call a stage's run and its artifact: "prepare python-docs"."""
    return f"{stage} {label}".strip()


def describe_files(folder: Path, records: tuple[str, ...], count: Callable[[Path], int | None]) -> dict[str, FileEntry]:
    """Size, SHA-256 and count of every file below `folder`, by name in sorted order."""
    return {
        name: FileEntry(
            size=(folder / name).stat().st_size,
            sha256=content_digest(folder / name),
            count=count(folder / name),
            record=any(fnmatch(name, pattern) for pattern in records),
        )
        for name in files_below(folder)
        if name != MANIFEST
    }


def count_rows(file: Path) -> int | None:
    """Rows of a Parquet file, lines of a JSON-lines file, None for anything else."""
    if file.suffix == ".parquet":
        import pyarrow.parquet as pq

        return int(pq.read_metadata(file).num_rows)
    if file.suffix == ".jsonl":
        with file.open("rb") as stream:
            return sum(1 for _ in stream)
    return None
