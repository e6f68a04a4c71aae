"""A run that was asked for: its configuration, loaded once, and its plan, made once."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any, Self

from flows.engine.executors import check_executor
from flows.pipeline.config import PipelineConfig, load_config
from flows.pipeline.plan import Step, plan
from flows.pipeline.selection import Selection
from flows.store.local import Store
from flows.store.open import open_store


@dataclass(frozen=True)
class RunRequest:
    """What is to be run.

    Attributes:
        path: of the configuration's file.
        overrides: nested like the file, in place of what it says.
        config: what both come to.
        selection: which stages, and which of them again.
    """

    path: Path
    overrides: Mapping[str, Any]
    config: PipelineConfig
    selection: Selection

    @classmethod
    def load(
        cls,
        path: Path,
        overrides: Mapping[str, Any] | None = None,
        selection: Selection = Selection(),
        without: Iterable[str] = (),
    ) -> Self:
        """Read the configuration, but not what it says of the dotted names `without`.

        Raises:
            UserError: it has a mistake.
        """
        return cls(path, overrides or {}, load_config(path, overrides, without), selection)

    @cached_property
    def store(self) -> Store:
        """The store that the configuration names.

        Raises:
            UserError: it cannot be opened.
        """
        return open_store(self.config.store)

    @cached_property
    def steps(self) -> list[Step]:
        """The plan: what a run would do, and why, as of the first time it is asked for.

        Raises:
            UserError: an input from outside is missing, or a stage is to run alone on what was never built.
        """
        return plan(self.config, self.selection)

    def check(self) -> None:
        """Find what would end the run before it does any work.

        Raises:
            UserError: as `steps` does; the store cannot be written, or the executor cannot be used.
        """
        if any(step.action.startswith("build") for step in self.steps):
            self.store.check_writable()
            check_executor(self.config.runner)
