"""Files and folders that exist whole or not at all, also after a kill -9 or a power cut.

A file is written under a hidden name beside its place (`.NAME.RANDOM.tmp`), brought to the disk, renamed, and its
folder brought to the disk. A folder likewise: `seal_folder` renames one whose files are on the disk. The name is random
because a cluster may run a job twice at once, where it took a slow worker for a dead one.
"""

from __future__ import annotations

import fcntl
import hashlib
import os
import shutil
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from io import BufferedIOBase
from pathlib import Path
from secrets import token_hex

__all__ = [
    "atomic_path", "atomic_write", "files_below", "folder_size", "fsync", "remove", "remove_temporary", "seal_folder",
    "sha256", "sha256_of", "temporary_path", "try_lock",
]  # fmt: skip


def fsync(path: Path) -> None:
    """Bring a file's contents, or a folder's names, to the disk."""
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def temporary_path(path: Path) -> Path:
    """A hidden name beside `path` that no other writer has; `remove_temporary` knows it."""
    return path.with_name(f".{path.name}.{token_hex(4)}.tmp")


def remove_temporary(folder: Path) -> None:
    """Drop what killed writers left half-written in `folder`. Call it while nobody writes there."""
    for leftover in folder.glob(".*.tmp"):
        shutil.rmtree(leftover, ignore_errors=True) if leftover.is_dir() else leftover.unlink(missing_ok=True)


@contextmanager
def atomic_path(path: Path, *, durable: bool = True) -> Iterator[Path]:
    """A name to write a file under; when the block ends well, the file gets the name `path` in place of an older one.

    Args:
        path: where the file is to be.
        durable: whether it is on the disk when the block has ended; otherwise that is left to the caller's `fsync`.
    """
    unfinished = temporary_path(path)
    try:
        yield unfinished
        if durable:
            fsync(unfinished)
        unfinished.replace(path)
    except BaseException:
        unfinished.unlink(missing_ok=True)
        raise
    if durable:
        fsync(path.parent)


def atomic_write(path: Path, content: bytes | str) -> None:
    """Write `content` (text as UTF-8) to `path`, whole or not at all, and on the disk when this returns."""
    with atomic_path(path) as unfinished:
        unfinished.write_bytes(content.encode() if isinstance(content, str) else content)


def seal_folder(finished: Path, place: Path) -> None:
    """Rename a folder whose work is done to `place`, in place of an older one, with everything in it on the disk.

    A kill in the middle leaves `finished` as it was, or `place` as it is to be; in between `place` may be missing, and
    what was there lies beside it as `.old-NAME` until the next call. A link at `place` goes, what it leads to stays.
    """
    for name in files_below(finished):
        fsync(finished / name)
    for folder in (finished, *(path for path in finished.rglob("*") if path.is_dir())):
        fsync(folder)
    old = place.with_name(f".old-{place.name}")
    remove(old)
    place.parent.mkdir(parents=True, exist_ok=True)
    if place.exists() or place.is_symlink():
        place.rename(old)
    finished.rename(place)
    fsync(place.parent)
    remove(old)


def remove(path: Path) -> None:
    """Remove a file, a link or a folder with all in it, as far as it is there."""
    shutil.rmtree(path, ignore_errors=True) if path.is_dir() and not path.is_symlink() else path.unlink(missing_ok=True)


def files_below(folder: Path) -> list[str]:
    """Paths of all files below `folder`, relative to it, sorted."""
    return sorted(str(path.relative_to(folder)) for path in folder.rglob("*") if path.is_file())


def folder_size(folder: Path) -> int:
    """Bytes of all files below `folder`. Somebody may be at work there: what is gone when it is looked at is 0."""
    size = 0
    for place, _, names in os.walk(folder):
        for name in names:
            with suppress(FileNotFoundError):
                size += Path(place, name).stat().st_size
    return size


def sha256(path: Path) -> str:
    """SHA-256 of a file, in hexadecimal."""
    with path.open("rb") as file:
        return sha256_of(file)


def sha256_of(file: BufferedIOBase) -> str:
    """SHA-256 of what is left to read of an open file, in hexadecimal."""
    return hashlib.file_digest(file, "sha256").hexdigest()


def try_lock(descriptor: int) -> bool:
    """Take an open file's lock if no other process has it; the kernel releases it with the descriptor, kill -9
    included."""
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    return True
