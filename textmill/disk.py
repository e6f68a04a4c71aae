"""What a full or a forbidden disk looks like in the libraries that write, one line about it, and no half a folder."""

from __future__ import annotations

import errno
import re
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from textmill.errors import UserError
from textmill.files import remove

__all__ = ["disk_complaint", "folder_to_fill", "one_line_of_disk"]

FULL = {errno.ENOSPC, errno.EDQUOT, errno.EFBIG}
FORBIDDEN = {errno.EACCES, errno.EPERM, errno.EROFS}
# as those say it that keep the number to themselves: SQLite, safetensors, NumPy, and errors from another process
FULL_TEXT = re.compile(
    r"no space left on device|disk is full|disk quota exceeded|file too large|\d requested and \d+ written",
    re.IGNORECASE,
)


@contextmanager
def one_line_of_disk(folder: Path) -> Iterator[None]:
    """A disk that is full, or must not be written, is a mistake that its user can mend.

    Args:
        folder: where the block writes.

    Raises:
        UserError: in place of the error of the library that wrote.
    """
    try:
        yield
    except Exception as error:
        if complaint := disk_complaint(error, folder):
            raise UserError(complaint) from error
        raise


@contextmanager
def folder_to_fill(folder: Path) -> Iterator[None]:
    """Make a folder for the block to fill, or take an empty one; a block that fails leaves it as it was.

    It is filled in its place, which may be a volume that cannot be renamed.

    Raises:
        UserError: something is in it, or the disk is full or forbidden.
    """
    made = not folder.exists()
    if not made and not folder.is_dir():
        raise UserError(f"{folder} is a file; export to a new folder")
    with one_line_of_disk(folder):
        if not made and any(folder.iterdir()):
            raise UserError(f"{folder} is not empty; export to a new folder")
        folder.mkdir(parents=True, exist_ok=True)
        try:
            yield
        except BaseException:
            for path in folder.iterdir():
                remove(path)
            if made:
                folder.rmdir()
            raise


def disk_complaint(error: BaseException, folder: Path) -> str | None:
    """What to say of an error that a disk caused, directly or by the errors behind it; None of any other."""
    seen: BaseException | None = error
    while seen is not None and not isinstance(seen, UserError):
        number = seen.errno if isinstance(seen, OSError) else None
        if number in FULL or FULL_TEXT.search(str(seen)):
            named = getattr(seen, "filename", None)
            full = Path(named).parent if isinstance(named, str) else folder  # which need not be on the same disk
            where = _existing(full)
            free = shutil.disk_usage(where).free / 1e6
            return (
                f"the disk is full: {free:,.1f} MB free for {full} (mounted at {_mount(where)}). What was finished "
                "is kept: make room (`textmill gc --dry-run` shows what nothing needs) and run again"
            )
        if number in FORBIDDEN and isinstance(seen, OSError) and seen.filename:  # a socket may be forbidden, too
            return f"{seen.filename} may not be written or read ({seen.strerror}): correct its owner or mode"
        seen = seen.__cause__ or seen.__context__
    return None


def _existing(folder: Path) -> Path:
    return next(path for path in (folder.absolute(), *folder.absolute().parents) if path.exists())


def _mount(folder: Path) -> Path:
    return next(path for path in (folder, *folder.parents) if path.is_mount())
