"""Which files are text collections, by their names."""

from __future__ import annotations

import re
from collections.abc import Sequence
from pathlib import Path, PurePosixPath
from typing import TypeVar

Name = TypeVar("Name", str, Path)

# Where a folder or repository holds one collection in several layouts, the first of these is read.
_LAYOUTS = (
    re.compile(r"\.parquet$"),
    re.compile(r"\.(json|jsonl|ndjson)(\.(xz|gz|bz2|zst))?$"),
    re.compile(r"(\.tar|\.tgz|_data)(\.(xz|gz|bz2|zst))?$"),
    re.compile(r"\.txt(\.(xz|gz|bz2|zst))?$"),
)


def is_data(name: str) -> bool:
    """Whether a file's name is that of a layout read here.

    Example:
        >>> is_data("urlsf_subset00-1_data.xz"), is_data("README.md")
        (True, False)
    """
    path = PurePosixPath(name)
    stem = re.sub(r"\.(xz|gz|bz2|zst)$", "", path.name)
    known = stem.endswith((".parquet", ".json", ".jsonl", ".ndjson", ".tar", ".tgz", "_data", ".txt"))
    return known and not path.name.startswith(".")


def files_of_one_layout(names: Sequence[Name]) -> list[Name]:
    """Those of the files that are in the layout to be read; none if no file is data."""
    for layout in _LAYOUTS:
        if files := [name for name in names if layout.search(str(name)) and is_data(str(name))]:
            return files
    return []
