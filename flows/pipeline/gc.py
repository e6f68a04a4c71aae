"""What a store holds that no configuration refers to: behind `textmill gc`."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from functools import partial
from typing import Any

from pydantic import BaseModel

from flows.engine.assess import fingerprint_of, identify
from flows.engine.stage import Stage, each_of
from flows.pipeline.chain import chain
from flows.pipeline.config import PipelineConfig
from flows.stages.comparison import comparison
from flows.store.lineage import lineage
from flows.store.local import Artifact, Garbage, Store
from flows.store.manifest import Name
from textmill.errors import UserError
from textmill.secrets import masked


class Unknown:
    """Stands for an artifact that is not in the store, so that nothing in there can follow from it."""


Outcomes = dict[str, list[Artifact | Unknown | None]]


@dataclass
class References:
    """An interpreter of the chain that writes down which artifacts a run of the configuration would work with, however
    old they are.

    An optional stage may have run or been left out: its input may have been away then, or be away now. `outcomes` lists
    the possibilities by the stage's title. The first, what a run would do now, is followed unless `settled` fixes one.
    """

    store: Store
    names: set[Name]
    settled: dict[str, Artifact | None] = field(default_factory=dict)
    outcomes: Outcomes = field(default_factory=dict)

    def __call__(self, stage: Stage[Any], config: BaseModel, /, **inputs: Any) -> Artifact | Unknown | None:
        title = stage.title(config)
        if title in self.settled:
            return self.settled[title]
        if any(isinstance(item, Unknown) for item in each_of(inputs)):
            return Unknown()
        if not stage.optional(config):
            return self._identified(stage, config, inputs)
        try:
            outcomes = [self._identified(stage, config, inputs), None]
        except UserError:
            outcomes = [None, *self._made_with(stage, config)]
        self.outcomes[title] = outcomes
        return outcomes[0]

    def _identified(self, stage: Stage[Any], config: BaseModel, inputs: Any) -> Artifact | Unknown:
        name = (stage.name, fingerprint_of(identify(stage, config, inputs, self.store)))
        self.names.add(name)
        return self.store.find(*name) or Unknown()

    def _made_with(self, stage: Stage[Any], config: BaseModel) -> list[Artifact]:
        """Artifacts of these settings, whatever the files were that the stage read."""
        settings = masked(config.model_dump(mode="json"))
        found = [made for made in self.store.artifacts(stage.name) if made.manifest.settings == settings]
        self.names |= {made.name for made in found}
        return found


def garbage(store: Store, configs: Iterable[PipelineConfig]) -> Iterator[Garbage]:
    """What no configuration needs: artifacts outside the lineage of a run, or of the last comparison of an experiment,
    and abandoned work folders. Builds in progress on this machine are left out."""
    referred = {name for config in configs for name in references(store, config)}
    artifacts = list(store.artifacts())  # of a bucket that is a request for each
    wanted = referred | _last_comparisons(artifacts)
    kept = wanted | {artifact.name for artifact in _with_origins(store, wanted)}
    for artifact in artifacts:
        if artifact.name not in kept and not store.is_locked(*artifact.name):
            why = f"{artifact.manifest.label} of {artifact.manifest.pipeline}".removeprefix(" of ")
            yield Garbage(artifact.location, artifact.manifest.size, why, partial(store.remove, artifact))
    yield from store.leftovers(kept)


def needed(store: Store, config: PipelineConfig) -> list[Name]:
    """What a run of the configuration would work with, and everything that it was made from, as far as it is there."""
    return [artifact.name for artifact in _with_origins(store, sorted(references(store, config)))]


def references(store: Store, config: PipelineConfig) -> set[Name]:
    """What a run of the configuration would work with, whatever its optional stages come to."""
    names: set[Name] = set()
    now = References(store, names)
    chain(config, now)
    for settled in _settled(store, now.outcomes):
        chain(config, References(store, names, settled))
    return names


def _settled(store: Store, outcomes: Outcomes) -> list[dict[str, Artifact | None]]:
    """What optional stages came to in each build that the store has, by their titles: all combinations would be too
    many. First everything that is there of them, which a build that was interrupted may have begun with."""
    there = {title: [item for item in items if isinstance(item, Artifact)] for title, items in outcomes.items()}
    found: dict[tuple[Name | None, ...], dict[str, Artifact | None]] = {}

    def note(settled: dict[str, Artifact | None]) -> None:
        found.setdefault(tuple(made.name if made else None for made in settled.values()), settled)

    if outcomes:
        note({title: next(iter(items), None) for title, items in there.items()})
        for artifact in store.artifacts():
            origins = artifact.manifest.origins
            named = {entry.name for entry in origins}
            alike = {entry.digest for entry in origins}  # one that was rebuilt since, and came out the same
            note({title: _first_of(items, named, alike) for title, items in there.items()})
    return list(found.values())


def _first_of(items: list[Artifact], named: set[Name], alike: set[str]) -> Artifact | None:
    """The first of these that is named, or else that has a digest of these."""
    by_name = (item for item in items if item.name in named)
    return next(by_name, None) or next((item for item in items if item.manifest.digest in alike), None)


def _last_comparisons(artifacts: Iterable[Artifact]) -> set[Name]:
    """The last comparison of each experiment on each pipeline, of artifacts in the order they were finished. No
    configuration asks for the variants' models, and they are hours of training."""
    comparisons = (artifact for artifact in artifacts if artifact.manifest.stage == comparison.name)
    return set({(made.manifest.pipeline, made.manifest.label): made.name for made in comparisons}.values())


def _with_origins(store: Store, names: Iterable[Name]) -> list[Artifact]:
    """These artifacts, as far as they are there, and everything they were made from."""
    return lineage(filter(None, (store.find(*name) for name in names)), store)
