"""The files of a collection that lies here, found and looked into before any of them is read."""

from __future__ import annotations

import os
from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

from scraping.collections.config import IngestConfig
from scraping.collections.names import files_of_one_layout, is_hidden, named_layout
from scraping.collections.remote import check_reachable, is_path_list, is_remote
from textmill.addresses import expand
from textmill.errors import UserError

_LISTED = 3  # files that a message names


class LocalFiles(NamedTuple):
    """The files to read, in order, and those beside them that are not read."""

    read: list[Path]
    unread: list[Path]


def ingest_files(config: IngestConfig) -> list[Path]:
    """The local files that `ingest` will read, in order; none if the collection is elsewhere.

    Raises:
        UserError: there is nothing to read there.
        Unavailable: it cannot be reached now.
    """
    address = expand(config.path)
    if is_remote(address):
        check_reachable(address)
        return []
    return local_files(config.path).read


def local_files(address: str) -> LocalFiles:
    """The files at a local path. Hidden files and folders are no part of a collection.

    Raises:
        UserError: there is nothing to read there.
    """
    path = Path(expand(address)).expanduser()
    if path.is_file():
        return LocalFiles([_readable(path).absolute()], [])
    found = _below(path) if path.is_dir() else _matching(path, address)
    files = files_of_one_layout([file for file in found if file.is_file() or _is_broken(file)])
    if not files:
        there = f" (there: {listed([_described(file) for file in found[:_LISTED]], len(found))})" if found else ""
        raise UserError(
            f"no text collection at {address}{there}: set the path to Parquet, .jsonl.zst, .csv, .tar.xz or .txt "
            "files, or set required: false to go on without it."
        )
    chosen = set(files)
    beside = [file.absolute() for file in found if file not in chosen]
    return LocalFiles([_readable(file).absolute() for file in files], beside)


def _described(file: Path) -> str:
    """A file's name, and what it seems to be where that is told by its bytes."""
    from scraping.collections.archives import DECODER_ERRORS
    from scraping.collections.sniff import NotCollection, layout_of

    try:
        layout_of(file, file.name)
    except NotCollection as error:
        return f"{file.name}, {error.seems}"
    except DECODER_ERRORS:
        pass
    return file.name


def _is_broken(path: Path) -> bool:
    return path.is_symlink() and not path.exists()


def _readable(path: Path) -> Path:
    """The path of a file.

    Raises:
        UserError: it leads to none, or this user may not read it.
    """
    if _is_broken(path):
        raise UserError(f"{path} is a link to a file that is not there: fetch that file, or remove the link.")
    if not os.access(path, os.R_OK):
        raise UserError(f"{path} may not be read by this user: change its permissions, or set another path.")
    return path


def check_contents(files: Sequence[Path], text_column: str) -> None:
    """Look into the beginning of each file, so that one that is not what its name says is told before any work.

    A `.txt` file is one document among others; where it is not a text, that is a skipped record.

    Raises:
        UserError: files hold something else, or Parquet files have no such column.
        Unavailable: the disk failed.
    """
    from scraping.collections.archives import DECODER_ERRORS, reraise_failure
    from scraping.collections.layouts import check_column
    from scraping.collections.sniff import NotCollection, layout_of

    wrong: dict[Path, NotCollection] = {}
    for file in files:
        try:
            check_column(file, layout_of(file, file.name), text_column)
        except NotCollection as error:
            wrong[file] = error
        except DECODER_ERRORS as error:
            reraise_failure(str(file), error)  # damage is found again, and said, when the file is read
    if wrong and (len(wrong) == len(files) or any(named_layout(file.name) != "text" for file in wrong)):
        first, found = next(iter(wrong.items()))
        others = f" (and {len(wrong) - 1:,} more files are not what their names say)" if len(wrong) > 1 else ""
        without = "" if len(wrong) == len(files) else ", or set the path to a glob of the other files"
        raise UserError(f"{first} is {found.seems}, not a text collection{others}: {found.advice}{without}.")


def holds_web_archives(file: Path) -> bool:
    """Whether a file is a web archive, by its first bytes, or may have one in it: a tar archive or a list of paths."""
    from scraping.collections.archives import DECODER_ERRORS
    from scraping.collections.sniff import NotCollection, layout_of_head

    try:
        return is_path_list(file.name) or layout_of_head(file) in ("warc", "tar")
    except (NotCollection, *DECODER_ERRORS):
        return False


def listed(names: Sequence[str], total: int) -> str:
    """The first few names, and how many more there are.

    Example:
        >>> listed(["a", "b", "c"], 5)
        'a; b; c; and 2 more'
    """
    more = f"; and {total - len(names):,} more" if total > len(names) else ""
    return "; ".join(names) + more


def _below(folder: Path) -> list[Path]:
    """All files below a folder, and linked folders, which are not entered; sorted."""

    def refuse(error: OSError) -> None:
        raise UserError(f"cannot read the folder {error.filename} ({error.strerror}): allow it, or set another path.")

    found = []
    for place, folders, names in os.walk(folder, onerror=refuse):
        linked = [name for name in folders if Path(place, name).is_symlink()]
        folders[:] = [name for name in folders if not is_hidden(name)]
        found += [Path(place, name) for name in (*names, *linked) if not is_hidden(name)]
    return sorted(found)


def _matching(glob: Path, address: str) -> list[Path]:
    parent = Path(glob.anchor) if glob.is_absolute() else Path()
    try:
        return sorted(file for file in parent.glob(str(glob.relative_to(parent))) if not file.is_dir())
    except ValueError as error:
        raise UserError(f"{address} is not a glob ({error}): write one such as data/*.parquet.") from error
