"""The store: finished artifacts, each a folder that exists whole or not at all.

    <store>/<stage>/<fingerprint>/              a sealed artifact: files and manifest.json
    <store>/<stage>/.work-<fingerprint>/        a build under way, or killed; the next build continues in it
    <store>/<stage>/.lock-<fingerprint>         held (flock) by the one process that builds it

The folder is the cache. Whether something is there is decided by looking at the files, so the store stays true when a
database is lost, a file is deleted or a folder is copied to another machine.

`Store` keeps artifacts below one folder; `flows.store.remote.RemoteStore` in a bucket, for several machines.
`flows.store.open.open_store` opens the one that a configuration names.
"""

from __future__ import annotations

import functools
import json
import logging
import shutil
from collections.abc import Callable, Iterator, Set
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from datetime import UTC, datetime
from io import BufferedIOBase
from pathlib import Path
from typing import Any

from pydantic import ValidationError

from flows.store.manifest import MANIFEST, InputEntry, Manifest, Name
from textmill.contents import content_digest
from textmill.errors import UserError
from textmill.files import atomic_write, files_below, folder_size, fsync, seal_folder, temporary_path, try_lock
from textmill.progress import Clock, Progress, quiet

logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class Artifact:
    """A sealed artifact in a store."""

    store: Store = field(compare=False, repr=False)
    manifest: Manifest

    @property
    def name(self) -> Name:
        return self.manifest.stage, self.manifest.fingerprint

    @property
    def title(self) -> str:
        return self.manifest.title

    @property
    def location(self) -> str:
        """What people call it: STORE/STAGE/FINGERPRINT."""
        return "/".join((self.store.location, *self.name))

    @property
    def path(self) -> Path:
        """The folder of its files on this machine; a remote store's are there once `fetch` was called."""
        return self.store.folder(self.manifest)

    def fetch(self, progress: Progress = quiet) -> Path:
        """`path`, with every file in it, each compared with its SHA-256.

        Raises:
            Damaged: one differs.
        """
        self.store.fetch(self, progress)
        return self.path

    def open(self, name: str) -> BufferedIOBase:
        """One file, on this machine or in the bucket, for reading; one on this machine is compared with its SHA-256.

        Raises:
            Damaged: it differs.
        """
        return self.store.open(self, name)

    @property
    def digest(self) -> str:
        return self.manifest.digest

    @functools.cached_property
    def stats(self) -> dict[str, Any]:
        """The stage's own metrics (`stats.json`)."""
        with self.open("stats.json") as file:
            stats: dict[str, Any] = json.load(file)
        return stats

    def reference(self) -> InputEntry:
        return InputEntry(stage=self.manifest.stage, fingerprint=self.manifest.fingerprint, digest=self.manifest.digest)

    def damage(self, verify: bool = False) -> str | None:
        """What is wrong with the files, in words, or None. Sizes are always compared, contents only with `verify`."""
        sha256 = functools.partial(self.store.content_digest, self) if verify else None
        return self.manifest.damage(self.store.sizes(self), sha256)

    def damage_here(self) -> str | None:
        """The same of the files on this machine, contents included: of what a build reads."""
        return self.manifest.damage(sizes_below(self.path), lambda name: content_digest(self.path / name))


class Damaged(UserError):
    """The files of an artifact are not what was sealed; `damage` says how they differ."""

    def __init__(self, artifact: Artifact, damage: str) -> None:
        super().__init__(f"{artifact.location} is damaged: {damage}; a run with --verify builds it again")
        self.artifact, self.damage = artifact, damage


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
        """Make sure, before any work, that artifacts can be written.

        Raises:
            UserError: they cannot.
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
            logger.warning("The manifest of %s %s is damaged; it counts as absent", stage, fingerprint)
            return None
        if artifact.name != (stage, fingerprint):  # as in a copied folder; its files would be sought in the other's
            logger.warning("The manifest of %s %s is of %s %s; it counts as absent", stage, fingerprint, *artifact.name)
            return None
        return artifact

    def artifacts(self, stage: str = "*") -> Iterator[Artifact]:
        """Every sealed artifact (of one stage), oldest first."""
        found = filter(None, self._find_all(self.names(stage)))
        yield from sorted(found, key=lambda artifact: artifact.manifest.finished)

    def _find_all(self, names: list[Name]) -> list[Artifact | None]:
        return [self.find(*name) for name in names]

    def names(self, stage: str = "*") -> list[Name]:
        """Stage and fingerprint of everything that was sealed, whether or not its manifest can be read."""
        return [(file.parts[-3], file.parts[-2]) for file in self.root.glob(f"{stage}/[!.]*/{MANIFEST}")]

    def _manifest(self, stage: str, fingerprint: str) -> Manifest:
        return Manifest.model_validate_json((self.root / stage / fingerprint / MANIFEST).read_bytes())

    def folder(self, manifest: Manifest) -> Path:
        """Where the files of an artifact are on this machine."""
        return self.root / manifest.stage / manifest.fingerprint

    def fetch(self, artifact: Artifact, progress: Progress) -> None:
        """Have the files of an artifact on this machine, each with the SHA-256 that was sealed; here they always are.

        Raises:
            Damaged: one differs.
        """
        there = self.in_place_of(artifact) or artifact  # a rebuild that came out the same has records of its own
        if damage := there.damage_here():
            raise Damaged(artifact, damage)

    def open(self, artifact: Artifact, name: str) -> BufferedIOBase:
        path = artifact.path / name
        if not path.exists():
            raise Damaged(artifact, f"{name} is missing")
        if content_digest(path) != artifact.manifest.files[name].sha256:
            there = self.in_place_of(artifact)  # a rebuild that came out the same has records of its own
            if there is None or content_digest(path) != there.manifest.files[name].sha256:
                raise Damaged(artifact, f"{name} has been altered (SHA-256 differs)")
        return path.open("rb")

    def content_digest(self, artifact: Artifact, name: str) -> str:
        """SHA-256 of a file as it is now."""
        return content_digest(artifact.path / name)

    def in_place_of(self, artifact: Artifact) -> Artifact | None:
        """What is where its files were: itself, what a rebuild put there, or nothing."""
        return self.find(*artifact.name)

    def sizes(self, artifact: Artifact) -> dict[str, int]:
        """Bytes of the files that are there, by name."""
        return sizes_below(artifact.path)

    def file_digest(self, file: Path) -> str:
        """SHA-256 of a file outside the store. Remembered while its size and time of change stay, so that a large
        archive is read once and not on every run; in a store that cannot be written, for this process."""
        stat, cache = file.stat(), self.root / ".file-digests.json"
        key = f"{file.resolve()}:{stat.st_size}:{stat.st_mtime_ns}"
        known = json.loads(cache.read_bytes()) if cache.exists() else {}
        if key not in known:
            known[key] = content_digest(file)
            with suppress(OSError):
                self.root.mkdir(parents=True, exist_ok=True)
                atomic_write(cache, json.dumps(known, indent=1))
        return str(known[key])

    def workdir(self, stage: str, fingerprint: str) -> Path:
        return self.root / stage / f".work-{fingerprint}"

    @contextmanager
    def lock(self, stage: str, fingerprint: str, clock: Clock | None = None) -> Iterator[None]:
        """Hold the right to build one artifact; waits, by this clock and saying so, while another process has it.

        The kernel releases it when the process dies, kill -9 included.
        """
        folder, clock = self.root / stage, clock or Clock()
        folder.mkdir(parents=True, exist_ok=True)
        with (folder / f".lock-{fingerprint}").open("w") as file:
            if not try_lock(file.fileno()):
                logger.info("Another run is at work on %s %s; waiting for it", stage, fingerprint)
                with clock.waiting("another run, which builds the same"):
                    while not try_lock(file.fileno()):
                        clock.sleep(0.5)  # polling, so that a cancellation is answered while we wait
            yield

    def is_locked(self, stage: str, fingerprint: str) -> bool:
        """Whether a process is building this artifact now."""
        try:
            with (self.root / stage / f".lock-{fingerprint}").open() as file:
                return not try_lock(file.fileno())
        except FileNotFoundError:
            return False

    def remove(self, artifact: Artifact) -> None:
        """Delete an artifact; it is out of sight at once, whatever interrupts the rest."""
        old = artifact.path.with_name(f".old-{artifact.path.name}")
        artifact.path.rename(old)
        shutil.rmtree(old)

    def leftovers(self, kept: Set[Name]) -> Iterator[Garbage]:
        """What interruptions left behind, less what a process works on or a build of one of `kept` would continue."""
        for folder in sorted(self.root.glob("*/.*-*/")):
            kind, _, fingerprint = folder.name.partition("-")
            name = (folder.parent.name, fingerprint)
            remove = functools.partial(shutil.rmtree, folder)
            if kind == ".old":
                yield Garbage(str(folder), folder_size(folder), "left by an interrupted replacement", remove)
            elif kind == ".work" and name not in kept and not self.is_locked(*name):
                yield Garbage(str(folder), folder_size(folder), "left by an interrupted build", remove)

    def seal(self, work: Path, manifest: Manifest, progress: Progress = quiet) -> Artifact:
        """Turn a finished work folder into an artifact: every file reaches the disk, then the manifest, then the name.

        An earlier artifact of the same fingerprint is replaced; a crash in between leaves a work folder with a
        manifest, which `recover` puts in place.
        """
        for file in files_below(work):
            fsync(work / file)
        atomic_write(work / MANIFEST, manifest.model_dump_json(indent=1))
        return self._commit(work, manifest, progress)

    def recover(self, stage: str, fingerprint: str, progress: Progress) -> None:
        """Finish what a kill interrupted in the middle of sealing. Call it with the lock held."""
        work = self.workdir(stage, fingerprint)
        if (work / MANIFEST).exists():
            self._commit(work, Manifest.model_validate_json((work / MANIFEST).read_bytes()), progress)

    def _commit(self, work: Path, manifest: Manifest, progress: Progress) -> Artifact:
        artifact = Artifact(self, manifest)
        seal_folder(work, artifact.path)
        return artifact


def check_folder(folder: Path, what: str, remedy: str) -> None:
    """Make sure that a folder is there and can be written.

    Raises:
        UserError: it cannot be made or written; the message says what it is for (`what`) and the `remedy`.
    """
    probe = temporary_path(folder / "probe")  # of this call alone: crawls beside each other look at the same time
    try:
        folder.mkdir(parents=True, exist_ok=True)
        probe.touch()
        probe.unlink()
    except OSError as error:
        raise UserError(f"{what} cannot be written ({error.strerror}); {remedy}") from error


def sizes_below(folder: Path) -> dict[str, int]:
    """Bytes of all files below `folder`, by name."""
    return {name: (folder / name).stat().st_size for name in files_below(folder)}


def now() -> datetime:
    return datetime.now(UTC)
