"""Reuse or build, and why: decided from manifests and files, without doing any work."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

from flows.engine.stage import Config, Context, Inputs, Stage, listed
from flows.store.fingerprint import canonical, digest
from flows.store.local import Artifact, Store
from textmill.errors import UserError
from textmill.secrets import hashed, masked

FINGERPRINT_DIGITS = 16
NOT_BUILT = "not built yet"


class NotThere(UserError):
    """The external input of an optional stage is missing; the pipeline leaves the stage out."""


@dataclass(frozen=True)
class Assessment:
    """Reuse `artifact`, or build; `reason` says why in words. `stale` is what is there but may not be reused."""

    identity: dict[str, Any]
    fingerprint: str
    artifact: Artifact | None
    reason: str
    stale: Artifact | None = None


def identify(stage: Stage[Config], config: Config, inputs: Inputs, store: Store) -> dict[str, Any]:
    """Everything that decides the stage's output, as JSON types. Inputs are known by what is in them."""
    return {
        "stage": stage.name,
        "version": stage.version,
        "settings": masked(canonical(stage.identity(config, store), stage.name), hashed),
        "inputs": {name: [artifact.digest for artifact in given] for name, given in listed(inputs)},
    }


def fingerprint_of(identity: dict[str, Any]) -> str:
    """The name of the artifact that has this identity."""
    return digest(identity)[:FINGERPRINT_DIGITS]


def assess(stage: Stage[Config], config: Config, inputs: Inputs, context: Context) -> Assessment:
    """Reuse or build, and why. Reads only manifests and sizes (contents too with `options.verify`).

    Raises:
        NotThere: the stage is optional, and what it reads from outside is not there.
    """
    store, options = context.store, context.options
    with _or_left_out(stage, config):
        identity = identify(stage, config, inputs, store)
        fingerprint = fingerprint_of(identity)
        found = store.find(stage.name, fingerprint)
    if found is None:
        return Assessment(identity, fingerprint, None, _difference(stage, config, identity, store))
    if damage := found.damage(options.verify):
        return Assessment(identity, fingerprint, None, f"damaged: {damage}")
    if options.force:
        reason = "forced"
    elif not options.accept_expired and (expired := stage.expired(config, found)):
        reason = expired
    else:
        return Assessment(identity, fingerprint, found, f"built {found.manifest.finished:%Y-%m-%d %H:%M} UTC")
    return Assessment(identity, fingerprint, None, reason, stale=found)


def check_available(stage: Stage[Config], config: Config) -> None:
    """Look whether what the stage is to be built from is there.

    Raises:
        UserError: it is not; NotThere where the stage is optional.
    """
    with _or_left_out(stage, config):
        stage.check_available(config)


@contextmanager
def _or_left_out(stage: Stage[Config], config: Config) -> Iterator[None]:
    try:
        yield
    except UserError as error:
        if stage.optional(config):
            raise NotThere(str(error)) from error
        raise


# --- why: how an identity differs from the nearest one in the store ---------------------------------------------------


def what_changed(stage: Stage[Config], config: Config, store: Store) -> str | None:
    """How the stage's version and configuration differ from the nearest artifact's, whatever its inputs; None if they
    are equal."""
    return _difference(stage, config, identify(stage, config, {}, store), store, leave_out="inputs.") or None


def _difference(
    stage: Stage[Config], config: Config, identity: dict[str, Any], store: Store, leave_out: str | None = None
) -> str:
    """How this identity differs from the nearest one of the same thing in the store, e.g. "steps: 300 → 400"."""

    label = stage.label(config)
    others = [
        changes(artifact.manifest.identity, identity, leave_out)
        for artifact in store.artifacts(stage.name)
        if artifact.manifest.label == label or not stage.label_is_subject
    ]
    if not others:
        return NOT_BUILT
    shown = min(reversed(others), key=len)  # reversed: the newest of equally near ones
    return ", ".join(dict.fromkeys(shown[:4])) + (f" and {len(shown) - 4} more" if len(shown) > 4 else "")


def changes(before: dict[str, Any], after: dict[str, Any], leave_out: str | None = None) -> list[str]:
    """How two identities differ, one change an entry; keys that begin with `leave_out` are not compared."""
    old, new = (
        {key: value for key, value in _leaves(identity) if not (leave_out and key.startswith(leave_out))}
        for identity in (before, after)
    )
    return [
        _describe_change(key, old.get(key), new.get(key))
        for key in sorted(old.keys() | new.keys())
        if old.get(key) != new.get(key)
    ]


def _leaves(value: Any, prefix: str = "") -> Iterator[tuple[str, Any]]:
    if isinstance(value, dict):
        for key, item in value.items():
            yield from _leaves(item, f"{prefix}.{key}" if prefix else key)
    else:
        yield prefix, value


def _describe_change(key: str, old: Any, new: Any) -> str:
    if key == "version":
        return f"the stage's code changed (version {old} → {new})"
    if key.startswith("inputs."):
        return f"{key.removeprefix('inputs.')} changed"
    return f"{key.removeprefix('settings.')}: {_brief(old)} → {_brief(new)}"


def _brief(value: Any) -> str:
    text = "unset" if value is None else str(value)
    return text if len(text) <= 40 else text[:37] + "…"
