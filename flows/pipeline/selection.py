"""Which stages of a chain are run, and which of them are built again although the store has them."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from pydantic import BaseModel

from flows.engine.stage import Options, Stage, each_of
from flows.pipeline.chain import STAGES, chain
from flows.pipeline.config import PipelineConfig
from textmill.errors import UserError


@dataclass(frozen=True)
class Selection:
    """Which stages to build again although the store has them, and which to run at all.

    Attributes:
        force: rebuilt; what follows is rebuilt only if it comes out different.
        start: rebuilt together with everything after it.
        only: run alone: what comes before is taken from the store, what comes after is not run.
        until: the last stage to run.
        verify: compare SHA-256 too before anything is reused.
    """

    force: frozenset[str] = frozenset()
    start: str | None = None
    only: str | None = None
    until: str | None = None
    verify: bool = False

    def __post_init__(self) -> None:
        for name in [*self.force, self.start, self.only, self.until]:
            if name and name not in STAGES:
                raise UserError(f"there is no stage {name!r}; the stages are {', '.join(STAGES)}")
        for name in [*self.force, self.start]:
            if name and self.only and name != self.only:
                raise UserError(f"{self.only} alone is run, so {name} cannot be built again: leave out one of the two")

    def leaves_out(self, config: PipelineConfig) -> frozenset[str]:
        """The stages of the pipeline that are neither run nor needed by those that are.

        Raises:
            UserError: the configuration leaves out the one that is to run alone.
        """
        if self.only:
            needs = _needs(config)
            if self.only not in needs:
                raise UserError(f"the configuration has no {self.only}: give it a section `{self.only}`")
            return frozenset(STAGES) - needs[self.only]
        return frozenset(name for name in STAGES if self.until and _position(name) > _position(self.until))

    def takes_from_store(self, stage: Stage[Any]) -> bool:
        """Whether a stage that is not left out is only there for the one that runs alone."""
        return self.only is not None and stage.name != self.only

    def options(self, stage: Stage[Any]) -> Options:
        follows_start = self.start is not None and _position(stage.name) >= _position(self.start)
        return Options(
            force=stage.name in self.force or follows_start,
            verify=self.verify,
            accept_expired=self.takes_from_store(stage),
        )


def _needs(config: PipelineConfig) -> dict[str, frozenset[str]]:
    """For each stage of the pipeline itself and all that it is made from."""
    needs: dict[str, frozenset[str]] = {}

    def note(
        stage: Stage[Any], config: BaseModel, /, **inputs: frozenset[str] | list[frozenset[str]] | None
    ) -> frozenset[str]:
        needs[stage.name] = frozenset({stage.name}).union(*each_of(inputs))
        return needs[stage.name]

    chain(config, note)
    return needs


def _position(name: str) -> int:
    return list(STAGES).index(name)
