"""Which files are text collections, by their names. What they hold is found out from their bytes (`sniff`)."""

from __future__ import annotations

import re
from collections.abc import Sequence
from pathlib import Path
from typing import TypeVar

Name = TypeVar("Name", str, Path)

_COMPRESSED = r"(\.(xz|gz|bz2|zst))?$"

# Where a folder or repository holds one collection in several layouts, the first of these is read.
_LAYOUTS = {
    "parquet": re.compile(r"\.parquet$", re.IGNORECASE),
    "json": re.compile(r"\.(json|jsonl|ndjson)" + _COMPRESSED, re.IGNORECASE),
    "tar": re.compile(r"((\.tar|_data)" + _COMPRESSED + r"|\.(tgz|txz|tbz2?|tzst)$)", re.IGNORECASE),
    "warc": re.compile(r"\.(warc|wet)(\.(gz|zst))?$", re.IGNORECASE),
    "text": re.compile(r"\.txt" + _COMPRESSED, re.IGNORECASE),
    "csv": re.compile(r"\.(csv|tsv)" + _COMPRESSED, re.IGNORECASE),
}
_DOCUMENT = re.compile(r"\.(txt|text|md|markdown|rst)$", re.IGNORECASE)


def named_layout(name: str) -> str | None:
    """The layout that a file's name speaks of; None if of none that is read here.

    Example:
        >>> named_layout("urlsf_subset00-1_data.xz"), named_layout("a.parquet.gz"), named_layout("B.JSONL.zst")
        ('tar', None, 'json')
    """
    if is_hidden(name):
        return None
    return next((layout for layout, pattern in _LAYOUTS.items() if pattern.search(name)), None)


def is_data(name: str) -> bool:
    """Whether a file's name is that of a layout read here.

    Example:
        >>> is_data("urlsf_subset00-1_data.xz"), is_data("README.md")
        (True, False)
    """
    return named_layout(name) is not None


def is_document(name: str) -> bool:
    """Whether a member of an archive is one document by itself, by its name.

    Example:
        >>> is_document("blog/7.TXT"), is_document("blog/._7.txt"), is_document("7.html")
        (True, False, False)
    """
    return bool(_DOCUMENT.search(name)) and not is_hidden(name)


def is_hidden(name: str) -> bool:
    return name.rpartition("/")[2].startswith(".")


def says_compressed(name: str) -> bool:
    """Whether a file's name ends as that of a compressed file.

    Example:
        >>> says_compressed("a.txt.gz"), says_compressed("a.txt")
        (True, False)
    """
    return name.lower().endswith((".xz", ".gz", ".bz2", ".zst"))


def files_of_one_layout(names: Sequence[Name]) -> list[Name]:
    """Those of the files that are in the layout to be read; none if no file is data."""
    for layout in _LAYOUTS:
        if files := [name for name in names if named_layout(str(name)) == layout]:
            return files
    return []
