"""What automations can react to.

    textmill.stage.sealed            a stage finished a new artifact
    textmill.source.changed          a crawl found pages that are new, changed or gone since the one before
    textmill.validation-loss.worse   a model came out worse than the last one of the same pipeline and stage

Each event is about a resource `textmill.<stage>.<label>` and belongs to its run.
"""

from __future__ import annotations

from typing import Any

from prefect.events import emit_event

from flows.engine.stage import Outcome
from flows.store.local import Artifact


def emit_events(outcome: Outcome) -> None:
    """Send the events of an artifact that was just sealed."""
    artifact = outcome.artifact
    manifest, stats = artifact.manifest, artifact.stats
    _emit("stage.sealed", artifact, headline=outcome.headline, path=artifact.location, seconds=manifest.seconds)
    if changes := _changes(stats):
        _emit("source.changed", artifact, **changes)
    if "validation_loss" in stats:
        last = _last_like(artifact)
        if last and stats["validation_loss"] > last.stats["validation_loss"]:
            _emit(
                "validation-loss.worse", artifact,
                validation_loss=stats["validation_loss"],
                last_validation_loss=last.stats["validation_loss"],
                last_fingerprint=last.manifest.fingerprint,
            )  # fmt: skip


def _emit(name: str, artifact: Artifact, **payload: Any) -> None:
    manifest = artifact.manifest
    emit_event(
        event=f"textmill.{name}",
        resource={
            "prefect.resource.id": f"textmill.{manifest.stage}.{manifest.label}",
            "prefect.resource.name": manifest.title,
            "textmill.stage": manifest.stage,
            "textmill.label": manifest.label,
            "textmill.pipeline": manifest.pipeline,
        },
        payload={"fingerprint": manifest.fingerprint, **payload},
    )


def _changes(stats: dict[str, Any]) -> dict[str, int]:
    """What a crawl found changed; nothing for a first crawl, to which everything is new."""
    counts = stats.get("changes", {})
    changes = {kind: counts[kind] for kind in ("new", "changed", "vanished") if counts.get(kind)}
    is_first = counts.keys() and not any(count for kind, count in counts.items() if kind != "new")
    return {} if is_first else changes


def _last_like(artifact: Artifact) -> Artifact | None:
    """The one that was built last before this, by the same stage for the same pipeline."""
    others = [
        other
        for other in artifact.store.artifacts(artifact.manifest.stage)
        if other.manifest.pipeline == artifact.manifest.pipeline and other.name != artifact.name
    ]
    return next((other for other in reversed(others) if not other.damage()), None)
