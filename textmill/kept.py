"""Work on many files whose finished pieces survive a kill -9 and a full disk, and are never taken for others.

A stage that works on one shard after the other keeps what it made of each, a *piece*: a folder of files and a small
result, below the stage's output until the output is complete.

    with kept_work(out, "word-counts", made_with) as work:
        for piece in work.map(count, shards, executor):
            ...
        work.publish(files, last="tokenizer.yaml")

    <out>/.textmill-word-counts/<digest of made_with>/<digest of a shard's name and content>/   a piece, `piece.json`
    <out>/.textmill-word-counts/<digest of made_with>/complete/                         what comes into <out> at the end

A run takes up a piece of an earlier one only if everything is the same: the settings and the code that it was made
with, the name and the content of the shard, and every byte of its files, by the checksums that its note keeps. What
does not fit is made again. Nothing else than renames changes `out`, when all is there. Only what has the names of this
module's folders is ever deleted; a folder with anything else in it is refused.
"""

from __future__ import annotations

import errno
import hashlib
import json
import logging
import os
import re
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from functools import cache, partial
from pathlib import Path
from typing import Any, NamedTuple, TypeVar

from textmill.contents import content_digest, file_version
from textmill.disk import one_line_of_disk
from textmill.errors import UserError
from textmill.files import fsync, remove, remove_temporary, sha256, temporary_path, try_lock
from textmill.mapping import Executor, Threads

__all__ = ["KeptWork", "Made", "Piece", "check_apart", "code_digest", "kept_work", "make_folder", "only_run"]

logger = logging.getLogger(__name__)
NOTE = "piece.json"
COMPLETE = "complete"
OURS = re.compile(r"[0-9a-f]{64}|\.[0-9a-f]{64}\.[0-9a-f]{8}\.tmp")  # a folder of pieces, and one that is being deleted
Fact = TypeVar("Fact")


class Made(NamedTuple):
    """What a call made of a file, beside the files that it wrote.

    Attributes:
        result: whatever JSON can hold.
        digests: SHA-256 of files that it wrote, by name, as far as it knows them.
    """

    result: Any = None
    digests: Mapping[str, str] = {}


Make = Callable[[Path, Path], Made]  # called with a file and an empty folder, which it fills with files


@dataclass(frozen=True)
class Piece:
    """A finished piece of work.

    Attributes:
        folder: of its files.
        result: as it was made.
        source: SHA-256 of the file that it was made of.
    """

    folder: Path
    result: Any
    source: str

    def files(self) -> list[Path]:
        """What `publish` takes."""
        return sorted(path for path in self.folder.iterdir() if path.name != NOTE)


@contextmanager
def kept_work(out: Path, name: str, made_with: Mapping[str, Any]) -> Iterator[KeptWork]:
    """The work of one run that fills the folder `out`; it is kept below `out` while the block does not end well.

    Args:
        out: made if need be; one run at a time may fill it.
        name: of the work; the folder `.textmill-NAME` below `out` is this work's alone.
        made_with: all that the pieces depend on besides the files that they are made of; JSON can hold it.

    Raises:
        UserError: another run fills `out`, `out` cannot be a folder, what is at the place of the work is not ours, or
            the disk is full.
    """
    recipe = hashlib.sha256(json.dumps(made_with, sort_keys=True).encode()).hexdigest()
    place = out / f".textmill-{name}"
    folder = place / recipe
    with one_line_of_disk(out), only_run(out, out):
        for other in _made_by_us(place):
            if other.name.startswith("."):  # half deleted
                remove(other)
            elif other != folder:  # made with other settings or by other code
                _discard(other)
        place.mkdir(exist_ok=True)
        folder.mkdir(exist_ok=True)
        remove(folder / COMPLETE)
        remove_temporary(folder)
        work = KeptWork(out, folder, continues=any(folder.iterdir()))
        work.complete.mkdir()
        try:
            yield work
        except BaseException:
            remove(work.complete)
            with suppress(OSError):  # where pieces are kept
                folder.rmdir()
                place.rmdir()
            raise
        _discard(folder)
        with suppress(OSError):  # where somebody else put something meanwhile
            place.rmdir()


def make_folder(folder: Path) -> None:
    """Make a folder, and those above it, where there is none.

    Raises:
        UserError: a file is at its place or above it, its name is too long, or it may not be made.
    """
    with one_line_of_disk(folder):
        try:
            folder.mkdir(parents=True, exist_ok=True)
        except (FileExistsError, NotADirectoryError):
            raise UserError(f"{folder} cannot be a folder, because a file is there; choose another") from None
        except OSError as error:
            if error.errno == errno.ENAMETOOLONG:
                raise UserError(f"{folder} cannot be a folder: its name is too long; choose another") from None
            raise


def check_apart(out: Path, *inputs: Path) -> None:
    """Check that what is written to `out` cannot replace what it is made of.

    Raises:
        UserError: `out` is one of the inputs.
    """
    for source in inputs:
        if out.resolve() == source.resolve():
            raise UserError(f"{out} is what is read; choose another place to write to, so that nothing is replaced")


def _made_by_us(place: Path) -> list[Path]:
    """The folders of pieces in the folder of a work.

    Raises:
        UserError: it is a link or a file, or holds something else.
    """
    if place.is_symlink() or (place.exists() and not place.is_dir()):
        raise UserError(f"{place} is not a folder that Textmill made; move it away, or write to another folder")
    found = sorted(place.iterdir()) if place.exists() else []
    for path in found:
        if not OURS.fullmatch(path.name) or path.is_symlink() or not path.is_dir():
            raise UserError(f"{path} was not made by Textmill; move it away, or write to another folder")
    return found


@contextmanager
def only_run(folder: Path, out: Path) -> Iterator[None]:
    """The folder is there, and this run's alone while the block lasts.

    Args:
        folder: that the run fills. It is locked itself: nothing is left of the lock, whatever happens.
        out: what people know it as; the folder may get this name in the end.

    Raises:
        UserError: another run has it, or it cannot be a folder.
    """
    busy = f"another run is writing to {out}; let it end, or choose another folder"
    make_folder(folder)
    try:
        descriptor = os.open(folder, os.O_RDONLY | os.O_DIRECTORY)
    except FileNotFoundError:  # a run that ended just now has renamed or removed it
        raise UserError(busy) from None
    try:
        if not try_lock(descriptor) or not _is_still_at(folder, descriptor):
            raise UserError(busy)
        yield
    finally:
        os.close(descriptor)


def _is_still_at(folder: Path, descriptor: int) -> bool:
    """Whether the open folder is there, and not one that got another name meanwhile."""
    return folder.exists() and os.path.samestat(os.fstat(descriptor), folder.stat())


@dataclass(frozen=True)
class KeptWork:
    """The pieces of one output. It can be pickled.

    Attributes:
        out: the folder that the work fills.
        folder: where pieces made with the same are kept.
        continues: whether there were some when the run began.
    """

    out: Path
    folder: Path
    continues: bool = field(compare=False)

    @property
    def complete(self) -> Path:
        """A folder for the files that are made of all pieces; `publish` moves them into `out` too."""
        return self.folder / COMPLETE

    def map(self, make: Make, sources: Sequence[Path], executor: Executor) -> Iterator[Piece]:
        """The pieces of `sources`, in their order: kept ones, and those that `make` makes now, through `executor`.

        Raises:
            UserError: a source cannot be read, or changed before all of them were read.
        """
        versions = [_of_source(source, file_version) for source in sources]
        pieces = executor.map(partial(_take_or_make, work=self, make=make), sources)
        digests = []
        for piece in pieces:
            digests.append(piece.source)
            yield piece
        for source, version, digest in zip(sources, versions, digests, strict=True):
            if _of_source(source, file_version) != version and _of_source(source, content_digest) != digest:
                raise UserError(f"{source} changed after it was read; run again when nobody writes there")

    def publish(self, files: Iterable[Path], last: str, replaces: Iterable[str] = ()) -> None:
        """Move files, and those in `complete`, into `out`. They reach the disk first; then only names change.

        Args:
            files: of pieces.
            last: the file without which nobody can read the output: an older one goes first, and the new one comes
                last.
            replaces: patterns of names of an older output, which goes.
        """
        moved = [*files, *self.complete.iterdir()]
        for file in moved:
            fsync(file)
        (self.out / last).unlink(missing_ok=True)
        for old in (path for pattern in replaces for path in self.out.glob(pattern)):
            old.unlink()
        for file in sorted(moved, key=lambda file: file.name == last):
            if file.name == last:
                fsync(self.out)
            file.replace(self.out / file.name)
        fsync(self.out)


def _take_or_make(source: Path, *, work: KeptWork, make: Make) -> Piece:
    """The piece of a file: a kept one if it is whole, else what is made now."""
    version = _of_source(source, file_version)
    with Threads(1) as beside:
        digest = beside.submit(_of_source, source, content_digest)  # on another processor than `make`
        if work.continues:
            piece = _place(work, source, digest.result())
            if (note := _read(piece, work.out)) is not None:
                return Piece(piece, note["result"], digest.result())
        draft = temporary_path(work.folder / source.stem[:100])
        draft.mkdir()
        try:
            try:
                made = make(source, draft)
            except Exception as error:
                _check_version(source, version, error)
                raise
            piece = _place(work, source, digest.result())
            _check_version(source, version)
            _write_note(draft, made)
            try:
                draft.rename(piece)
            except OSError:
                if not piece.exists():  # else a cluster ran this call twice at once, and the other has ended
                    raise
            return Piece(piece, made.result, digest.result())
        finally:
            remove(draft)


def _place(work: KeptWork, source: Path, digest: str) -> Path:
    name = hashlib.sha256(os.fsencode(source.name) + bytes.fromhex(digest)).hexdigest()
    return work.folder / name


def _write_note(piece: Path, made: Made) -> None:
    names = sorted(path.name for path in piece.iterdir())
    files = {name: made.digests.get(name) or sha256(piece / name) for name in names}
    note = json.dumps({"files": files, "result": made.result}).encode()
    (piece / NOTE).write_bytes(hashlib.sha256(note).hexdigest().encode() + b"\n" + note)


def _read(piece: Path, out: Path) -> dict[str, Any] | None:
    """The note of a kept piece; None if there is no such piece. One that is not whole is removed: its files were
    damaged, or a run that was killed in `publish` had moved them to `out`."""
    if not piece.exists():
        return None
    try:
        checksum, _, content = (piece / NOTE).read_bytes().partition(b"\n")
        if hashlib.sha256(content).hexdigest().encode() == checksum:
            note: dict[str, Any] = json.loads(content)
            found = {path.name: sha256(path) for path in piece.iterdir() if path.name != NOTE}
            if note["files"] == found:
                return note
            moved = {name: sha256(out / name) for name in note["files"].keys() - found if (out / name).is_file()}
            if note["files"] == found | moved:
                logger.info("%s was moved by a run that was killed at its end, and is made again", piece)
                _discard(piece)
                return None
    except OSError as error:
        logger.info("%s cannot be read: %s", piece, error)
    logger.warning("Kept work was damaged on the disk and is done again: %s", piece)
    _discard(piece)
    return None


def _check_version(source: Path, version: tuple[int, ...], cause: Exception | None = None) -> None:
    if _of_source(source, file_version) != version:
        raise UserError(f"{source} changed while it was read; run again when nobody writes there") from cause


def _of_source(source: Path, find: Callable[[Path], Fact]) -> Fact:
    try:
        return find(source)
    except OSError as error:
        raise UserError(f"{source} cannot be read: {error.strerror}") from error


def _discard(folder: Path) -> None:
    """Delete a folder of ours. It loses its name first: what a kill leaves of it is not taken for damaged work."""
    aside = temporary_path(folder)
    with suppress(FileNotFoundError):  # where another worker was first
        folder.rename(aside)
    remove(aside)


@cache
def code_digest(package: Path) -> str:
    """SHA-256 of a package's sources: the version of its code, which nobody has to remember to raise.

    Args:
        package: its folder.
    """
    digest = hashlib.sha256()
    for source in sorted(package.rglob("*.py")):
        digest.update(f"{source.relative_to(package)}\0".encode() + source.read_bytes() + b"\0")
    return digest.hexdigest()
