"""Which stages of a chain are run, and which of them are built again although the store has them."""

from __future__ import annotations

from collections.abc import Set
from dataclasses import dataclass
from typing import Any

from pydantic import BaseModel

from flows.engine.stage import Options, Stage, each_of
from flows.pipeline.chain import STAGES, chain
from flows.pipeline.config import REPLACED, PipelineConfig
from textmill.errors import UserError


@dataclass(frozen=True)
class Selection:
    """Which stages to build again although the store has them, and which to run at all.

    Attributes:
        force: rebuilt; what follows is rebuilt only if it comes out different.
        start: rebuilt together with everything that is made from it.
        only: run alone: what it is made from is taken from the store, however old, and nothing else is run.
        until: run with all that it is made from, and nothing else.
        build_missing: with `only`, also build what the stage is made from and the store does not hold.
        verify: compare SHA-256 too before anything is reused.
    """

    force: frozenset[str] = frozenset()
    start: str | None = None
    only: str | None = None
    until: str | None = None
    build_missing: bool = False
    verify: bool = False

    def __post_init__(self) -> None:
        for name in [*self.force, self.start, self.only, self.until]:
            if name and name not in STAGES:
                raise UserError(f"there is no stage {name!r}; the stages are {', '.join(STAGES)}")
        for name in [*self.force, self.start]:
            if name and self.only and name != self.only:
                raise UserError(f"{self.only} alone is run, so {name} cannot be built again: leave out one of the two")
        if self.build_missing and not self.only:
            raise UserError("a run builds what is missing anyway; --build-missing goes with --only STAGE")

    def leaves_out(self, config: PipelineConfig) -> frozenset[str]:
        """The stages of the pipeline that are neither run nor needed by those that are.

        Raises:
            UserError: the configuration has no stage of a name that is selected.
        """
        selected = [name for name in (*self.force, self.start, self.only, self.until) if name]
        needs = _needs(config) if selected else {}
        for name in selected:
            if name not in needs:
                if name in REPLACED and config.import_checkpoint:
                    raise UserError(f"the configuration has no {name}: import_checkpoint stands in its place")
                section = "questions" if name == "answering" else name  # without them it has nothing to learn
                raise UserError(f"the configuration has no {name}: give it a section `{section}`")
        last = self.only or self.until
        return frozenset(STAGES) - needs[last] if last else frozenset()

    def takes_from_store(self, stage: Stage[Any]) -> bool:
        """Whether a stage that is not left out is only there for the one that runs alone, and never built."""
        return self._is_input(stage) and not self.build_missing

    def _is_input(self, stage: Stage[Any]) -> bool:
        return self.only is not None and stage.name != self.only

    def forced(self, config: PipelineConfig) -> frozenset[str]:
        """The stages of the pipeline that are built again although the store has them."""
        if self.start is None:
            return self.force
        return self.force | {name for name, needed in _needs(config).items() if self.start in needed}

    def options(self, stage: Stage[Any], forced: Set[str]) -> Options:
        """How to treat what the store holds of a stage; `forced` are those that are built again."""
        return Options(
            force=stage.name in forced,
            verify=self.verify,
            accept_expired=self._is_input(stage),
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
