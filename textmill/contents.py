"""The SHA-256 of files. Each is read once by a process, and again only after it changed.

What a run builds is read by several of its stages; a corpus of ten gigabytes is hashed once for all of them.
"""

from __future__ import annotations

from pathlib import Path

from textmill.files import sha256

__all__ = ["content_digest", "file_version"]

_digests: dict[tuple[int, ...], str] = {}  # by `file_version`


def content_digest(file: Path) -> str:
    """SHA-256 of a file, in hexadecimal. To be trusted until the file changes."""
    version = file_version(file)  # taken before: a change while it is read makes another one
    if version not in _digests:
        _digests[version] = sha256(file)
    return _digests[version]


def file_version(file: Path) -> tuple[int, ...]:
    """What a change of the contents changes too; `st_ctime_ns` is one that no program sets back."""
    stat = file.stat()
    return stat.st_dev, stat.st_ino, stat.st_size, stat.st_mtime_ns, stat.st_ctime_ns
