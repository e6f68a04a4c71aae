"""The store: finished artifacts on disk, each a folder that exists whole or not at all.

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
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import UTC, datetime
from fnmatch import fnmatch
from pathlib import Path
from typing import Any

import pyarrow.parquet as pq
from pydantic import BaseModel, ValidationError

from flows.errors import FlowError
from flows.fingerprint import digest

MANIFEST = "manifest.json"
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

    stage: str
    version: int
    label: str
    pipeline: str
    fingerprint: str
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

    path: Path
    manifest: Manifest

    @property
    def digest(self) -> str:
        return self.manifest.digest

    @property
    def stats(self) -> dict[str, Any]:
        """The stage's own figures (`stats.json`)."""
        return json.loads((self.path / "stats.json").read_bytes())

    def reference(self) -> InputEntry:
        return InputEntry(stage=self.manifest.stage, fingerprint=self.manifest.fingerprint, digest=self.manifest.digest)

    def damage(self, verify: bool = False) -> str | None:
        """What is wrong with the files, in words, or None. Sizes are always compared, contents only with `verify`."""
        for name, entry in self.manifest.files.items():
            file = self.path / name
            if not file.is_file():
                return f"{name} is missing"
            if (size := file.stat().st_size) != entry.size:
                return f"{name} has {size:,} bytes instead of {entry.size:,}"
            if verify and sha256(file) != entry.sha256:
                return f"{name} has been altered (SHA-256 differs)"
        return None


class Store:
    """Artifacts below one folder.

    Raises:
        FlowError: when the folder cannot be created or written.
    """

    def __init__(self, root: Path) -> None:
        self.root = root

    def check_writable(self) -> None:
        probe = self.root / f".probe-{os.getpid()}"
        try:
            self.root.mkdir(parents=True, exist_ok=True)
            probe.touch()
            probe.unlink()
        except OSError as error:
            raise FlowError(
                f"the store {self.root} cannot be written ({error.strerror}); "
                "choose another with --set store=FOLDER, or change its permissions"
            ) from error

    def find(self, stage: str, fingerprint: str) -> Artifact | None:
        """The sealed artifact with this fingerprint, whatever the state of its files."""
        return read(self.root / stage / fingerprint)

    def artifacts(self) -> Iterator[Artifact]:
        """Every sealed artifact, oldest first."""
        found = [read(file.parent) for file in self.root.glob(f"*/[!.]*/{MANIFEST}")]
        yield from sorted(filter(None, found), key=lambda artifact: artifact.manifest.finished)

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
                    log.info("Another run is building %s %s; waiting for it", stage, fingerprint)
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

    def remove(self, folder: Path) -> None:
        """Delete a folder of the store; it is out of sight at once, whatever interrupts the rest."""
        old = folder.parent / f".old-{folder.name.lstrip('.')}"
        folder.rename(old)
        shutil.rmtree(old)

    def seal(self, work: Path, manifest: Manifest) -> Artifact:
        """Turn a finished work folder into an artifact: every file reaches the disk, then the manifest, then the name.

        An earlier artifact of the same fingerprint is replaced; a crash in between leaves a work folder with a
        manifest, which `recover` puts in place.
        """
        for file in files_below(work):
            _fsync(work / file)
        staged = work / f"{MANIFEST}.tmp"
        staged.write_text(manifest.model_dump_json(indent=1))
        _fsync(staged)
        staged.rename(work / MANIFEST)
        _fsync(work)
        return self._commit(manifest.stage, manifest.fingerprint)

    def recover(self, stage: str, fingerprint: str) -> None:
        """Finish what a kill interrupted between sealing and renaming. Call it with the lock held."""
        if (self.workdir(stage, fingerprint) / MANIFEST).exists():
            self._commit(stage, fingerprint)

    def _commit(self, stage: str, fingerprint: str) -> Artifact:
        folder = self.root / stage
        work, final, old = self.workdir(stage, fingerprint), folder / fingerprint, folder / f".old-{fingerprint}"
        shutil.rmtree(old, ignore_errors=True)
        if final.exists():
            final.rename(old)
        work.rename(final)
        _fsync(folder)
        shutil.rmtree(old, ignore_errors=True)
        return Artifact(final, Manifest.model_validate_json((final / MANIFEST).read_bytes()))


def read(folder: Path) -> Artifact | None:
    """The artifact in `folder`, or None where there is no manifest that can be read."""
    try:
        return Artifact(folder, Manifest.model_validate_json((folder / MANIFEST).read_bytes()))
    except FileNotFoundError:
        return None
    except (OSError, ValidationError) as error:
        log.warning("%s has an unreadable manifest (%s); it counts as absent", folder, type(error).__name__)
        return None


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
    with file.open("rb") as stream:
        return hashlib.file_digest(stream, "sha256").hexdigest()


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


def _fsync(path: Path) -> None:
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
