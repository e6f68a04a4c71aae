"""Whether the files of a store still are what was sealed: behind `textmill verify` and the flow of that name."""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import dataclass
from pathlib import Path

from flows.pipeline.config import load_config
from flows.pipeline.gc import needed
from flows.store.local import Store
from flows.store.manifest import MANIFEST, Name, title_of
from flows.store.open import open_store
from textmill.progress import Progress, quiet


@dataclass(frozen=True)
class DamagedArtifact:
    """An artifact whose files are not what was sealed, and what is wrong with them. `pipeline` is the configuration's
    that made it, as far as its manifest can be read."""

    location: str
    title: str
    pipeline: str
    damage: str


@dataclass(frozen=True)
class Verification:
    """What reading every file of some artifacts came to. `bytes` is the size of what was read."""

    store: str
    artifacts: int
    bytes: int
    damaged: list[DamagedArtifact]

    @property
    def summary(self) -> str:
        """The outcome in one line."""
        read = f"{self.store}: {self.artifacts:,} artifacts, {self.bytes / 1e6:,.1f} MB"
        if not self.damaged:
            return f"{read}, every file is what was sealed"
        return f"{read}, {len(self.damaged):,} damaged"

    def remedy(self, config: str = "") -> str:
        """What to do about damage; `config` is the configuration whose artifacts were read, if it was one's."""
        command = f"textmill run {config or 'CONFIG'} --verify"
        whose = "" if config else ", with a configuration that uses it,"
        return f"{command}{whose} builds what is damaged again"


def to_read(config: Path | None, store: str) -> tuple[Store, list[Name]]:
    """What a configuration uses in its own store, or else everything in the store of that location.

    Raises:
        UserError: a mistake in the configuration, or a store that cannot be opened.
    """
    if config is None:
        opened = open_store(store)
        return opened, opened.names()
    loaded = load_config(config)
    opened = open_store(loaded.store)
    return opened, needed(opened, loaded)


def verify(store: Store, names: Collection[Name], progress: Progress = quiet) -> Verification:
    """Read every file of these artifacts and compare its SHA-256 with the manifest's.

    Args:
        store: where they are.
        names: the artifacts, as `to_read` gives them.
        progress: counts MB.
    """
    found = {name: store.find(*name) for name in names}
    total = sum(artifact.manifest.size for artifact in found.values() if artifact)
    read, damaged = 0, []
    for (stage, fingerprint), artifact in found.items():
        if artifact is None:
            location = "/".join((store.location, stage, fingerprint))
            damaged.append(DamagedArtifact(location, title_of(stage, fingerprint), "", f"{MANIFEST} cannot be read"))
            continue
        manifest = artifact.manifest
        progress(read / 1e6, total / 1e6, unit="MB", artifact=manifest.title)
        if damage := artifact.damage(verify=True):
            damaged.append(DamagedArtifact(artifact.location, manifest.title, manifest.pipeline, damage))
        read += manifest.size
    progress(read / 1e6, total / 1e6, unit="MB")
    return Verification(store.location, len(found), read, damaged)
