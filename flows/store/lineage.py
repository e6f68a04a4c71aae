"""What artifacts were made from, along the inputs that their manifests name."""

from __future__ import annotations

from collections.abc import Iterable

from flows.store.local import Artifact, Store
from flows.store.manifest import Name


def lineage(artifacts: Iterable[Artifact], store: Store) -> list[Artifact]:
    """The artifacts and everything they were made from that the store still has, each once, origins first."""
    found: dict[Name, Artifact] = {}

    def visit(artifact: Artifact) -> None:
        for entry in artifact.manifest.origins:
            if entry.name not in found and (origin := store.find(*entry.name)):
                visit(origin)
        found.setdefault(artifact.name, artifact)

    for artifact in artifacts:
        visit(artifact)
    return list(found.values())
