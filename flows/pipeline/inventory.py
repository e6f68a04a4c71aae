"""What a store holds, and in which state: behind `textmill status`."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import suppress
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Literal

from flows.pipeline.chain import STAGES
from flows.pipeline.plan import Step
from flows.store.local import Artifact, Store
from flows.store.manifest import Name
from textmill.files import folder_size

State = Literal["whole", "incomplete", "damaged", "stale", "building", "interrupted", "missing"]


@dataclass(frozen=True)
class Item:
    """One artifact of a store, one build under way, or one that a run would make.

    Attributes:
        stage: which stage's.
        title: what people call it.
        fingerprint: its name; None of what a run makes of what it has yet to make.
        state: `whole`; `incomplete` (intact, but less than was asked for); `damaged`; `stale` (a run makes it anew
            although it is whole); `building` by a process of this machine now; `interrupted` (the next build goes on
            from there); `missing` (a run would make it).
        detail: what is damaged or incomplete.
        size: bytes.
        changed: when it was finished, or last worked on; None of what is missing.
        seconds: how long it took to build.
        pipeline: name of the configuration that it was built for.
        step: what a run of the configuration would do with it, if there is one and it would.
    """

    stage: str
    title: str
    fingerprint: str | None
    state: State
    detail: str = ""
    size: int = 0
    changed: datetime | None = None
    seconds: float | None = None
    pipeline: str = ""
    step: Step | None = None


def inventory(store: Store, steps: Sequence[Step] = ()) -> list[Item]:
    """What the store holds, and what the steps of a plan would make, in the order of the chain, oldest first."""
    by_name = {(step.stage, step.fingerprint): step for step in steps if step.fingerprint}
    items = [_sealed(artifact, by_name.get(artifact.name)) for artifact in store.artifacts()]
    items += _under_way(store, by_name)
    met = {id(item.step) for item in items}
    items += [
        Item(step.stage, step.title, step.fingerprint or None, "missing", step=step)
        for step in steps
        if step.action != "skip" and id(step) not in met
    ]
    order = list(STAGES)
    return sorted(items, key=lambda item: order.index(item.stage) if item.stage in STAGES else len(order))


def _sealed(artifact: Artifact, step: Step | None) -> Item:
    manifest = artifact.manifest
    damage = artifact.damage()
    state: State = "damaged" if damage else "incomplete" if manifest.incomplete else "whole"
    if state == "whole" and step and step.action == "build":
        state = "stale"
    return Item(
        stage=manifest.stage,
        title=artifact.title,
        fingerprint=manifest.fingerprint,
        state=state,
        detail=damage or manifest.incomplete,
        size=manifest.size,
        changed=manifest.finished,
        seconds=manifest.seconds,
        pipeline=manifest.pipeline,
        step=step,
    )


def _under_way(store: Store, steps: dict[Name, Step]) -> Iterator[Item]:
    """The work folders of this machine. Builds are at work in them: files come and go, and a folder that is sealed
    between two looks is left out."""
    for folder in sorted(store.root.glob("*/.work-*/")):
        changed = _last_change(folder)
        if changed is None:
            continue
        name = (folder.parent.name, folder.name.removeprefix(".work-"))
        step = steps.get(name)
        yield Item(
            stage=name[0],
            title=step.title if step else name[0],
            fingerprint=name[1],
            state="building" if store.is_locked(*name) else "interrupted",
            size=folder_size(folder),
            changed=changed,
            step=step,
        )


def _last_change(folder: Path) -> datetime | None:
    """None if the folder is gone."""
    try:
        paths = [folder, *folder.iterdir()]
    except FileNotFoundError:
        return None
    times = []
    for path in paths:
        with suppress(FileNotFoundError):
            times.append(path.stat().st_mtime)
    return datetime.fromtimestamp(max(times), UTC) if times else None
