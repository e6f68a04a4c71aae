"""A store that several machines share: a bucket (or whatever else fsspec can reach) that holds the truth, and a folder
on this machine for what is worked on and for copies of what is read.

    <store>/<stage>/<fingerprint>.json                the manifest: one small object, written last
    <store>/<stage>/<fingerprint>/<upload>/…          the files, under a prefix that the manifest names

    <cache>/<stage>/<fingerprint>/<upload>/…          a copy of them; work folders and locks are there too

A bucket has no rename, so the order of writes has to do. Every sealing uploads under a prefix of its own and then
writes the manifest that names it; objects appear whole, so a reader sees the old artifact or the new one and never a
mix, and no manifest names what a killed upload left, until `leftovers` lists it.

Locks are this machine's. Two machines that want the same artifact at once both build and seal it, and the later
manifest stands: the same settings on the same inputs, so either is right.

Whether an artifact is there, and whole, is asked of the bucket each time. Its files are brought here when a build
asks for them (`Artifact.fetch`), each compared with its SHA-256, all of them or none.
"""

from __future__ import annotations

import functools
import logging
import os
import re
import secrets
import shutil
from collections.abc import Iterator, Set
from concurrent.futures import ThreadPoolExecutor
from datetime import UTC, datetime, timedelta
from io import BufferedIOBase, BytesIO
from pathlib import Path, PurePosixPath

from fsspec import AbstractFileSystem, Callback
from fsspec.config import conf
from fsspec.core import url_to_fs
from pydantic import Field

from flows.store.fingerprint import digest
from flows.store.local import Artifact, Damaged, Garbage, Store, check_folder, now
from flows.store.manifest import MANIFEST, Manifest, Name
from textmill.addresses import without_secrets
from textmill.contents import content_digest
from textmill.errors import UserError
from textmill.files import folder_size, fsync, seal_folder, sha256_of
from textmill.progress import Progress

STAMP = "%Y%m%dT%H%M%SZ"
UPLOAD = re.compile(r"(\d{8}T\d{6}Z)-[0-9a-f]{8}")  # when it began, and a random part
UPLOAD_TIME = timedelta(days=1)  # one that began longer ago is not under way any more
READERS = 16
COMPARED_BYTES = 16_000_000
OPTIONS = {"s3": {"config_kwargs": {"connect_timeout": 5, "retries": {"mode": "standard"}}}}  # else minutes of silence
REMEDIES = {
    "s3": "check AWS_ACCESS_KEY_ID, AWS_SECRET_ACCESS_KEY (or the profile) and, if it is not Amazon's, AWS_ENDPOINT_URL"
}
logger = logging.getLogger(__name__)


class UploadedManifest(Manifest):
    """A manifest in a bucket: `upload` is the prefix of its files."""

    upload: str = Field(pattern=f"^{UPLOAD.pattern}$")


def upload_of(manifest: Manifest) -> str:
    """The prefix of an artifact's files; every manifest of a bucket names one."""
    assert isinstance(manifest, UploadedManifest)
    return manifest.upload


class RemoteStore(Store):
    """Artifacts below a URL.

    Args:
        address: the URL, which may hold a user and a password where its kind takes them.
        location: what may be said of it (`textmill.addresses.shown`).

    Raises:
        UserError: a kind of URL that this environment cannot open, no such bucket, no access, no answer.
    """

    def __init__(self, address: str, location: str) -> None:
        self._location = location.rstrip("/")
        super().__init__(cache_folder(without_secrets(address.rstrip("/"))))
        self.fs, self.prefix = self._connect(address.rstrip("/"))

    @property
    def location(self) -> str:
        return self._location

    def _connect(self, address: str) -> tuple[AbstractFileSystem, str]:
        protocol, _, path = address.partition("://")
        if not path:
            raise UserError(f"the store {self.location} names no bucket: write {protocol.rstrip(':')}://BUCKET/PREFIX")
        if protocol == "s3" and "@" in path:
            raise UserError(
                f"the store {self.location} cannot be opened: S3 takes no keys in its URL; export AWS_ACCESS_KEY_ID "
                "and AWS_SECRET_ACCESS_KEY, and write s3://BUCKET/PREFIX"
            )
        options = OPTIONS.get(protocol, {}) | conf.get(protocol, {})
        try:
            fs, prefix = url_to_fs(address, use_listings_cache=False, **options)
        except ImportError as error:
            extra = ": pip install 'textmill[s3]'" if protocol == "s3" else ""
            raise UserError(f"the store {self.location} cannot be opened ({error}){extra}") from error
        except ValueError as error:
            raise UserError(f"the store {self.location} cannot be opened ({error})") from error
        bucket = prefix.partition("/")[0]  # nothing where paths begin with a slash: such a file system has no buckets
        try:
            fs.ls(prefix)
        except FileNotFoundError as error:
            if bucket and not fs.exists(bucket):
                raise UserError(f"the store {self.location} cannot be opened: there is no bucket {bucket!r}") from error
        except Exception as error:  # of whatever library is behind this kind of URL
            raise self._refusal("reached", error) from error
        return fs, prefix

    def _refusal(self, doing: str, error: Exception) -> UserError:
        remedy = REMEDIES.get(self.location.partition("://")[0], "check its credentials and its address")
        reason = " ".join(str(error).split()) or type(error).__name__
        return UserError(f"the store {self.location} cannot be {doing} ({reason}); {remedy}")

    def check_writable(self) -> None:
        check_folder(self.root, f"the cache {self.root}", "set TEXTMILL_CACHE to another folder")
        probe = f"{self.prefix}/.probe"  # stays: who builds need not be allowed to delete
        try:
            self.fs.makedirs(self.prefix, exist_ok=True)
            self.fs.pipe_file(probe, b"textmill")
            self.fs.cat_file(probe)
        except Exception as error:  # of whatever library is behind this kind of URL
            raise self._refusal("written", error) from error

    def _manifest(self, stage: str, fingerprint: str) -> UploadedManifest:
        return UploadedManifest.model_validate_json(self.fs.cat_file(self._manifest_path(stage, fingerprint)))

    def names(self, stage: str = "*") -> list[Name]:
        paths = map(PurePosixPath, self.fs.glob(f"{self.prefix}/{stage}/*.json"))
        return [(path.parent.name, path.stem) for path in paths]

    def _find_all(self, names: list[Name]) -> list[Artifact | None]:
        with ThreadPoolExecutor(READERS) as pool:
            return list(pool.map(lambda name: self.find(*name), names))

    def _manifest_path(self, stage: str, fingerprint: str) -> str:
        return f"{self.prefix}/{stage}/{fingerprint}.json"

    def _files_path(self, manifest: Manifest) -> str:
        return f"{self.prefix}/{manifest.stage}/{manifest.fingerprint}/{upload_of(manifest)}"

    def folder(self, manifest: Manifest) -> Path:
        return super().folder(manifest) / upload_of(manifest)

    def open(self, artifact: Artifact, name: str) -> BufferedIOBase:
        """One file of the bucket. A small one, such as metrics, is compared with its SHA-256; of a large one a reader
        takes parts.

        Raises:
            Damaged: it differs.
        """
        entry = artifact.manifest.files[name]
        if entry.size > COMPARED_BYTES:
            return self._open(artifact, name)
        with self._open(artifact, name) as file:
            contents = BytesIO(file.read())
        if sha256_of(contents) != entry.sha256:
            raise Damaged(artifact, f"{name} has been altered (SHA-256 differs)")
        contents.seek(0)
        return contents

    def _open(self, artifact: Artifact, name: str) -> BufferedIOBase:
        file: BufferedIOBase = self.fs.open(f"{self._files_path(artifact.manifest)}/{name}", "rb")
        return file

    def in_place_of(self, artifact: Artifact) -> Artifact:
        """Itself: a rebuild is uploaded, and copied, to a place of its own."""
        return artifact

    def sizes(self, artifact: Artifact) -> dict[str, int]:
        base = self._files_path(artifact.manifest)
        found = self.fs.find(base, detail=True)
        return {path.removeprefix(f"{base}/"): entry["size"] for path, entry in found.items()}

    def content_digest(self, artifact: Artifact, name: str) -> str:
        with self._open(artifact, name) as file:
            return sha256_of(file)

    def fetch(self, artifact: Artifact, progress: Progress) -> None:
        """Have the files of an artifact on this machine, each compared with its SHA-256, all of them or none. A copy
        that differs is downloaded again.

        Raises:
            Damaged: a file in the bucket is not what was sealed.
            UserError: one has gone.
        """
        if not artifact.damage_here():
            return
        stage, fingerprint = artifact.name
        with self.lock(stage, f"fetch-{fingerprint}"):
            if artifact.damage_here():
                self._download(artifact, progress)

    def _download(self, artifact: Artifact, progress: Progress) -> None:
        staged = artifact.path.parent / f".fetch-{artifact.path.name}"
        logger.info("Downloading %s, %.1f MB", artifact.location, artifact.manifest.size / 1e6)
        meter = _Meter(progress, artifact.manifest, "downloading")
        for name, entry in artifact.manifest.files.items():
            file, part = staged / name, staged / f"{name}.part"
            if not file.resolve().is_relative_to(staged.resolve()):
                raise UserError(f"{artifact.location} names a file outside of it: {name}")
            if not file.exists():  # else a download that was killed had come so far
                file.parent.mkdir(parents=True, exist_ok=True)
                self._download_file(artifact, name, part, meter)
                if content_digest(part) != entry.sha256:
                    raise Damaged(artifact, f"{name} has been altered (SHA-256 differs)")
                fsync(part)  # before its name says that it is whole
                part.rename(file)
            meter.finish(entry.size)
        (staged / MANIFEST).write_text(artifact.manifest.model_dump_json(indent=1))
        seal_folder(staged, artifact.path)  # in place of a copy that has lost something

    def _download_file(self, artifact: Artifact, name: str, part: Path, meter: _Meter) -> None:
        try:
            self.fs.get_file(f"{self._files_path(artifact.manifest)}/{name}", str(part), callback=meter)
        except FileNotFoundError as error:
            raise UserError(
                f"{artifact.location} has lost {name}: it was deleted, or replaced just now; run again"
            ) from error

    def _commit(self, work: Path, manifest: Manifest, progress: Progress) -> Artifact:
        """Upload under a new prefix, then write the manifest that names it. The work folder becomes the local copy."""
        upload = f"{now():{STAMP}}-{secrets.token_hex(4)}"
        artifact = Artifact(self, UploadedManifest(**manifest.model_dump(), upload=upload))
        base = self._files_path(artifact.manifest)
        logger.info("Uploading %s, %.1f MB", artifact.location, manifest.size / 1e6)
        meter = _Meter(progress, manifest, "uploading")
        for folder in {str(PurePosixPath(base, name).parent) for name in manifest.files}:
            self.fs.makedirs(folder, exist_ok=True)
        for name, entry in manifest.files.items():
            self.fs.put_file(str(work / name), f"{base}/{name}", callback=meter)
            meter.finish(entry.size)
        if damage := artifact.damage():
            raise OSError(f"the upload of {artifact.location} did not arrive whole: {damage}")
        self.fs.pipe_file(self._manifest_path(*artifact.name), artifact.manifest.model_dump_json(indent=1).encode())
        seal_folder(work, artifact.path)
        return artifact

    def remove(self, artifact: Artifact) -> None:
        """The manifest goes first: without it nothing names the files, whatever interrupts the rest."""
        self.fs.rm_file(self._manifest_path(*artifact.name))
        self.fs.rm(self._files_path(artifact.manifest), recursive=True)
        shutil.rmtree(artifact.path, ignore_errors=True)

    def leftovers(self, kept: Set[Name]) -> Iterator[Garbage]:
        """Also uploads that no manifest names (but not one that may still be under way), and copies of such."""
        yield from super().leftovers(kept)
        sizes = self._upload_sizes()  # before the manifests, so that one sealed in between is seen to be named
        named = {(*artifact.name, upload_of(artifact.manifest)) for artifact in self.artifacts()}
        for place, size in sorted(sizes.items()):
            begun = datetime.strptime(place[2].partition("-")[0], STAMP).replace(tzinfo=UTC)
            if place not in named and now() - begun > UPLOAD_TIME:
                remove = functools.partial(self.fs.rm, "/".join((self.prefix, *place)), recursive=True)
                yield Garbage("/".join((self.location, *place)), size, "an upload that no manifest names", remove)
        for folder in sorted(self.root.glob("*/[!.]*/*/")):
            stage, fingerprint, upload = folder.parts[-3:]
            if (stage, fingerprint, upload.removeprefix(".fetch-")) not in named:
                remove = functools.partial(shutil.rmtree, folder)
                yield Garbage(str(folder), folder_size(folder), "a copy of what the store no longer has", remove)

    def _upload_sizes(self) -> dict[tuple[str, str, str], int]:
        """Bytes below each upload's prefix, whether or not a manifest names it."""
        sizes: dict[tuple[str, str, str], int] = {}
        for path, entry in self.fs.find(self.prefix, detail=True).items():
            match path.removeprefix(f"{self.prefix}/").split("/"):
                case [stage, fingerprint, upload, _, *_] if UPLOAD.fullmatch(upload):
                    sizes[stage, fingerprint, upload] = sizes.get((stage, fingerprint, upload), 0) + entry["size"]
        return sizes


class _Meter(Callback):  # type: ignore[misc]  # fsspec has no types
    """Tells how many bytes of an artifact have gone over the wire."""

    def __init__(self, progress: Progress, manifest: Manifest, doing: str) -> None:
        super().__init__()
        self.progress, self.total = progress, manifest.size
        self.phase = f"{doing} {manifest.stage}"
        self.finished = 0

    def finish(self, size: int) -> None:
        """A file is done."""
        self.finished += size
        self.value = 0
        self.call()

    def call(self, *args: object, **kwargs: object) -> None:
        done = min(self.finished + self.value, self.total)
        self.progress(done / 1e6, self.total / 1e6, unit="MB", phase=self.phase)


def cache_folder(location: str) -> Path:
    """Where a remote store keeps its things on this machine: below $TEXTMILL_CACHE, or ~/.cache/textmill."""
    base = os.environ.get("TEXTMILL_CACHE") or Path(os.environ.get("XDG_CACHE_HOME") or "~/.cache") / "textmill"
    readable = re.sub(r"[^\w.]+", "-", location).strip("-")
    return Path(base).expanduser() / f"{readable}-{digest(location)[:8]}"
