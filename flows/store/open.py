"""Opens the store, or the artifact, that a configuration or a command line names."""

from __future__ import annotations

from pathlib import Path

from flows.store.local import Artifact, Store
from textmill.addresses import expand, shown
from textmill.errors import UserError


def open_store(location: str) -> Store:
    """The store that a configuration names: a folder, or a URL such as s3://bucket/prefix.

    Raises:
        UserError: what the URL names does not answer, is not there, or does not let us in.
    """
    address = expand(location)
    if is_remote(address):
        from flows.store.remote import RemoteStore

        return RemoteStore(address, shown(location))
    return Store(Path(address).expanduser())


def open_artifact(location: str) -> Artifact:
    """The artifact STORE/STAGE/FINGERPRINT.

    Raises:
        UserError: there is no such artifact, or its store cannot be opened.
    """
    place = location if is_remote(location) else expand(location)
    full = place.rstrip("/") if is_remote(place) else str(Path(place).expanduser().resolve())
    root, stage, fingerprint = ["", "", *full.rsplit("/", 2)][-3:]
    artifact = open_store(root or "/").find(stage, fingerprint)
    if artifact is None:
        raise UserError(f"{location} is not an artifact: give STORE/STAGE/FINGERPRINT (`textmill status` lists them)")
    return artifact


def is_remote(location: str) -> bool:
    return "://" in location
