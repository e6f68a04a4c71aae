"""Folders and files on the command line, which may also be artifacts of a remote store."""

from __future__ import annotations

from pathlib import Path


def local(place: str) -> Path:
    """A path as it is; for the URL of an artifact, the folder of its copy on this machine, made if need be."""
    from flows.store.open import is_remote, open_artifact

    return open_artifact(place).fetch() if is_remote(place) else Path(place)
