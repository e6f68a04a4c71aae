"""What a store holds that no configuration refers to: behind `textmill gc`."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from pydantic import BaseModel

from flows.chain import chain
from flows.config import PipelineConfig
from flows.errors import USER_ERRORS
from flows.fingerprint import digest
from flows.stage import Stage, identify
from flows.store import Artifact, Store

Name = tuple[str, str]  # stage and fingerprint


@dataclass(frozen=True)
class Garbage:
    """A folder of the store that may go, and why."""

    path: Path
    why: str

    @property
    def size(self) -> int:
        return sum(file.stat().st_size for file in self.path.rglob("*") if file.is_file())


class Unknown:
    """Stands for an artifact that is not in the store, so that nothing in there can follow from it."""


@dataclass
class References:
    """A runner for `flows.chain.chain` that writes down which artifacts a run of the configuration would work with,
    however old they are."""

    store: Store
    names: set[Name] = field(default_factory=set)

    def __call__(self, stage: Stage, config: BaseModel, **inputs: Any) -> Artifact | Unknown | None:
        given = [item for value in inputs.values() for item in (value if isinstance(value, list) else [value])]
        if any(isinstance(item, Unknown) for item in given):
            return Unknown()
        try:
            fingerprint = digest(identify(stage, config, inputs, self.store))[:16]
        except USER_ERRORS:
            if stage.optional(config):
                return None
            raise
        self.names.add((stage.name, fingerprint))
        return self.store.find(stage.name, fingerprint) or Unknown()


def garbage(store: Store, configs: Iterable[PipelineConfig]) -> Iterator[Garbage]:
    """Artifacts that neither a run of these configurations nor what it would use was made from, and folders of builds
    that no run would continue. What is being built now is left out."""
    references = References(store)
    for config in configs:
        chain(config, references)
    kept = set(references.names)
    for artifact in _with_origins(store, references.names):
        kept.add((artifact.manifest.stage, artifact.manifest.fingerprint))
    for folder in sorted(store.root.glob("*/*/")):
        stage, name = folder.parent.name, folder.name.removeprefix(".work-").removeprefix(".old-")
        if folder.name.startswith(".old-"):
            yield Garbage(folder, "left by an interrupted replacement")
        elif (stage, name) in kept or store.is_locked(stage, name):
            continue
        elif folder.name.startswith(".work-"):
            yield Garbage(folder, "left by an interrupted build")
        elif artifact := store.find(stage, name):
            yield Garbage(folder, f"{artifact.manifest.label} of {artifact.manifest.pipeline}".removeprefix(" of "))


def _with_origins(store: Store, names: Iterable[Name]) -> Iterator[Artifact]:
    """These artifacts, as far as they are there, and everything they were made from."""
    for stage, fingerprint in names:
        if artifact := store.find(stage, fingerprint):
            yield artifact
            entries = [entry for given in artifact.manifest.inputs.values() for entry in given]
            yield from _with_origins(store, [(entry.stage, entry.fingerprint) for entry in entries])
