"""The store: finished artifacts, each a folder that exists whole or not at all. `Store` keeps them below one folder;
`flows.store.remote.RemoteStore` in a bucket, for several machines. `open_store` opens whichever a configuration names.

    <store>/<stage>/<fingerprint>/              a sealed artifact: files and manifest.json
    <store>/<stage>/.work-<fingerprint>/        a build under way, or killed; the next build continues in it
    <store>/<stage>/.lock-<fingerprint>         held (flock) by the one process that builds it

The folder is the cache. Whether something is there is decided by looking at the files, so the store stays true when a
database is lost, a file is deleted or a folder is copied to another machine.
"""

from __future__ import annotations

import fcntl
import functools
import hashlib
import json
import logging
import os
import shutil
import time
from collections.abc import Callable, Iterator, Set
from contextlib import contextmanager
from dataclasses import dataclass, field
from datetime import UTC, datetime
from fnmatch import fnmatch
from pathlib import Path
from typing import Any, BinaryIO

import pyarrow.parquet as pq
from pydantic import BaseModel, Field, ValidationError

from flows.store.fingerprint import digest
from textmill.errors import UserError

MANIFEST = "manifest.json"
Name = tuple[str, str]  # stage and fingerprint
log = logging.getLogger(__name__)


class FileEntry(BaseModel):
    """One file of an artifact; `count` is its rows, tokens or lines where that is known."""

    size: int
    sha256: str
    count: int | None = None
    record: bool = False


class InputEntry(BaseModel):
    """Which artifact an input was."""

    stage: str
    fingerprint: str
    digest: str


class Manifest(BaseModel):
    """What an artifact is: what made it, from what, when, and every file in it."""

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

    @functools.cached_property
    def digest(self) -> str:
        """SHA-256 of the files' contents. Times, paths and records (training timings) are not in it, so an artifact
        that is rebuilt and comes out the same has the same digest and nothing after it is rebuilt."""
        return digest({name: file.sha256 for name, file in self.files.items() if not file.record})

    @property
    def size(self) -> int:
        """Bytes of all files."""
        return sum(file.size for file in self.files.values())


@dataclass(frozen=True)
class Artifact:
    """A sealed artifact in a store."""

    store: Store = field(compare=False, repr=False)
    manifest: Manifest

    @property
    def name(self) -> Name:
        return self.manifest.stage, self.manifest.fingerprint

    @property
    def location(self) -> str:
        """What people call it: STORE/STAGE/FINGERPRINT."""
        return "/".join((self.store.location, *self.name))

    @property
    def path(self) -> Path:
        """The folder of its files on this machine; a remote store's are there once `fetch` was called."""
        return self.store.folder(self.manifest)

    def fetch(self, progress: Callable[..., None] = lambda *args, **figures: None) -> Path:
        """`path`, with every file in it."""
        self.store.fetch(self, progress)
        return self.path

    def open(self, name: str) -> BinaryIO:
        """One file, from wherever it is, for reading."""
        return self.store.open(self, name)

    @property
    def digest(self) -> str:
        return self.manifest.digest

    @functools.cached_property
    def stats(self) -> dict[str, Any]:
        """The stage's own figures (`stats.json`)."""
        with self.open("stats.json") as file:
            return json.load(file)

    def reference(self) -> InputEntry:
        return InputEntry(stage=self.manifest.stage, fingerprint=self.manifest.fingerprint, digest=self.manifest.digest)

    def damage(self, verify: bool = False) -> str | None:
        """What is wrong with the files, in words, or None. Sizes are always compared, contents only with `verify`."""
        sizes = self.store.sizes(self)
        for name, entry in self.manifest.files.items():
            if name not in sizes:
                return f"{name} is missing"
            if sizes[name] != entry.size:
                return f"{name} has {sizes[name]:,} bytes instead of {entry.size:,}"
            if verify and _sha256(self.open(name)) != entry.sha256:
                return f"{name} has been altered (SHA-256 differs)"
        return None


@dataclass(frozen=True)
class Garbage:
    """Something in a store that may go, and why."""

    location: str
    size: int
    why: str
    remove: Callable[[], None]


class Store:
    """Artifacts below one folder. Another kind of store keeps its work folders and locks in `root` too, and the
    artifacts elsewhere."""

    def __init__(self, root: Path) -> None:
        self.root = root

    @property
    def location(self) -> str:
        """What the configuration calls it."""
        return str(self.root)

    def check_writable(self) -> None:
        """
        Raises:
            UserError: nothing can be written to it.
        """
        check_folder(
            self.root, f"the store {self.root}", "choose another with --set store=FOLDER, or change its permissions"
        )

    def find(self, stage: str, fingerprint: str) -> Artifact | None:
        """The sealed artifact with this fingerprint, whatever the state of its files.

        Raises:
            UserError: we are not allowed to look.
        """
        try:
            artifact = Artifact(self, self._manifest(stage, fingerprint))
        except (FileNotFoundError, NotADirectoryError):
            return None
        except PermissionError as error:
            raise UserError(f"{self.location}/{stage}/{fingerprint} may not be read: {error}") from error
        except ValidationError:
            log.warning("The manifest of %s %s is damaged; it counts as absent", stage, fingerprint)
            return None
        if artifact.name != (stage, fingerprint):  # as in a copied folder; its files would be sought in the other's
            log.warning("The manifest of %s %s is of %s %s; it counts as absent", stage, fingerprint, *artifact.name)
            return None
        return artifact

    def artifacts(self, stage: str = "*") -> Iterator[Artifact]:
        """Every sealed artifact (of one stage), oldest first."""
        found = filter(None, self._find_all(self._names(stage)))
        yield from sorted(found, key=lambda artifact: artifact.manifest.finished)

    def _find_all(self, names: list[Name]) -> list[Artifact | None]:
        return [self.find(*name) for name in names]

    def _names(self, stage: str) -> list[Name]:
        return [(file.parts[-3], file.parts[-2]) for file in self.root.glob(f"{stage}/[!.]*/{MANIFEST}")]

    def _manifest(self, stage: str, fingerprint: str) -> Manifest:
        return Manifest.model_validate_json((self.root / stage / fingerprint / MANIFEST).read_bytes())

    def folder(self, manifest: Manifest) -> Path:
        """Where the files of an artifact are on this machine."""
        return self.root / manifest.stage / manifest.fingerprint

    def fetch(self, artifact: Artifact, progress: Callable[..., None]) -> None:
        """Have the files of an artifact on this machine; here they always are."""

    def open(self, artifact: Artifact, name: str) -> BinaryIO:
        return (artifact.path / name).open("rb")

    def in_place_of(self, artifact: Artifact) -> Artifact | None:
        """What is where its files were: itself, what a rebuild put there, or nothing."""
        return self.find(*artifact.name)

    def sizes(self, artifact: Artifact) -> dict[str, int]:
        """Bytes of the files that are there, by name."""
        return {name: (artifact.path / name).stat().st_size for name in files_below(artifact.path)}

    def file_digest(self, file: Path) -> str:
        """SHA-256 of a file outside the store. Remembered while its size and time of change stay, so that a large
        archive is read once and not on every run."""
        stat, memory = file.stat(), self.root / ".file-digests.json"
        key = f"{file.resolve()}:{stat.st_size}:{stat.st_mtime_ns}"
        known = json.loads(memory.read_bytes()) if memory.exists() else {}
        if key not in known:
            known[key] = sha256(file)
            self.check_writable()
            staged = memory.with_suffix(f".{os.getpid()}.tmp")
            staged.write_text(json.dumps(known, indent=1))
            staged.rename(memory)
        return known[key]

    def workdir(self, stage: str, fingerprint: str) -> Path:
        return self.root / stage / f".work-{fingerprint}"

    @contextmanager
    def lock(self, stage: str, fingerprint: str) -> Iterator[None]:
        """Hold the right to build one artifact; waits, saying so, while another process has it.

        The kernel releases it when the process dies, kill -9 included.
        """
        folder = self.root / stage
        folder.mkdir(parents=True, exist_ok=True)
        with (folder / f".lock-{fingerprint}").open("w") as file:
            waiting = False
            while not try_lock(file.fileno()):
                if not waiting:
                    log.info("Another run is at work on %s %s; waiting for it", stage, fingerprint)
                    waiting = True
                time.sleep(0.5)  # polling, so that a cancellation is answered while we wait
            yield

    def is_locked(self, stage: str, fingerprint: str) -> bool:
        """Whether somebody is building this artifact now."""
        try:
            with (self.root / stage / f".lock-{fingerprint}").open() as file:
                return not try_lock(file.fileno())
        except FileNotFoundError:
            return False

    def remove(self, artifact: Artifact) -> None:
        """Delete an artifact; it is out of sight at once, whatever interrupts the rest."""
        old = artifact.path.parent / f".old-{artifact.path.name}"
        artifact.path.rename(old)
        shutil.rmtree(old)

    def leftovers(self, kept: Set[Name]) -> Iterator[Garbage]:
        """What interruptions left behind, less what somebody works on or a build of one of `kept` would continue."""
        for folder in sorted(self.root.glob("*/.*-*/")):
            kind, _, fingerprint = folder.name.partition("-")
            name = (folder.parent.name, fingerprint)
            remove = functools.partial(shutil.rmtree, folder)
            if kind == ".old":
                yield Garbage(str(folder), _size(folder), "left by an interrupted replacement", remove)
            elif kind == ".work" and name not in kept and not self.is_locked(*name):
                yield Garbage(str(folder), _size(folder), "left by an interrupted build", remove)

    def seal(
        self, work: Path, manifest: Manifest, progress: Callable[..., None] = lambda *args, **figures: None
    ) -> Artifact:
        """Turn a finished work folder into an artifact: every file reaches the disk, then the manifest, then the name.

        An earlier artifact of the same fingerprint is replaced; a crash in between leaves a work folder with a
        manifest, which `recover` puts in place.
        """
        for file in files_below(work):
            fsync(work / file)
        staged = work / f"{MANIFEST}.tmp"
        staged.write_text(manifest.model_dump_json(indent=1))
        fsync(staged)
        staged.rename(work / MANIFEST)
        fsync(work)
        return self._commit(work, manifest, progress)

    def recover(self, stage: str, fingerprint: str, progress: Callable[..., None]) -> None:
        """Finish what a kill interrupted in the middle of sealing. Call it with the lock held."""
        work = self.workdir(stage, fingerprint)
        if (work / MANIFEST).exists():
            self._commit(work, Manifest.model_validate_json((work / MANIFEST).read_bytes()), progress)

    def _commit(self, work: Path, manifest: Manifest, progress: Callable[..., None]) -> Artifact:
        artifact = Artifact(self, manifest)
        old = artifact.path.parent / f".old-{manifest.fingerprint}"
        shutil.rmtree(old, ignore_errors=True)
        if artifact.path.exists():
            artifact.path.rename(old)
        work.rename(artifact.path)
        fsync(artifact.path.parent)
        shutil.rmtree(old, ignore_errors=True)
        return artifact


def open_store(location: str) -> Store:
    """The store that a configuration names: a folder, or a URL such as s3://bucket/prefix.

    Raises:
        UserError: what the URL names does not answer, is not there, or does not let us in.
    """
    if is_remote(location):
        from flows.store.remote import RemoteStore

        return RemoteStore(location)
    return Store(Path(location))


def open_artifact(location: str) -> Artifact:
    """The artifact STORE/STAGE/FINGERPRINT.

    Raises:
        UserError: there is none, or its store cannot be opened.
    """
    full = location.rstrip("/") if is_remote(location) else str(Path(location).resolve())
    root, stage, fingerprint = ["", "", *full.rsplit("/", 2)][-3:]
    artifact = open_store(root or "/").find(stage, fingerprint)
    if artifact is None:
        raise UserError(f"{location} is no artifact: give STORE/STAGE/FINGERPRINT (`textmill status` lists them)")
    return artifact


def is_remote(location: str) -> bool:
    return "://" in location


def check_folder(folder: Path, what: str, remedy: str) -> None:
    """
    Raises:
        UserError: the folder cannot be made or written.
    """
    probe = folder / f".probe-{os.getpid()}"
    try:
        folder.mkdir(parents=True, exist_ok=True)
        probe.touch()
        probe.unlink()
    except OSError as error:
        raise UserError(f"{what} cannot be written ({error.strerror}); {remedy}") from error


def describe_files(folder: Path, records: tuple[str, ...], count: Callable[[Path], int | None]) -> dict[str, FileEntry]:
    """Size, SHA-256 and count of every file below `folder`, by name in sorted order."""
    return {
        name: FileEntry(
            size=(folder / name).stat().st_size,
            sha256=sha256(folder / name),
            count=count(folder / name),
            record=any(fnmatch(name, pattern) for pattern in records),
        )
        for name in files_below(folder)
        if name != MANIFEST
    }


def files_below(folder: Path) -> list[str]:
    return sorted(str(path.relative_to(folder)) for path in folder.rglob("*") if path.is_file())


def sha256(file: Path) -> str:
    return _sha256(file.open("rb"))


def _sha256(file: BinaryIO) -> str:
    with file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def _size(folder: Path) -> int:
    return sum((folder / name).stat().st_size for name in files_below(folder))


def count_rows(file: Path) -> int | None:
    """Rows of a Parquet file, lines of a JSON-lines file, None for anything else."""
    if file.suffix == ".parquet":
        return pq.read_metadata(file).num_rows
    if file.suffix == ".jsonl":
        with file.open("rb") as stream:
            return sum(1 for _ in stream)
    return None


def now() -> datetime:
    return datetime.now(UTC)


def try_lock(descriptor: int) -> bool:
    """Take an open file's lock if nobody has it; the kernel releases it with the descriptor, kill -9 included."""
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    return True


def fsync(path: Path) -> None:
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
