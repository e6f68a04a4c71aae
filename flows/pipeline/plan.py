"""What a run would do, and why, without doing it: behind `textmill run --dry-run` and `textmill status`."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any, Literal

from pydantic import BaseModel

from flows.engine.assess import NOT_BUILT, NotThere, assess, check_available, what_changed
from flows.engine.stage import Context, Pending, Stage, each_of
from flows.pipeline.chain import chain
from flows.pipeline.config import PipelineConfig
from flows.pipeline.selection import Selection
from flows.store.local import Artifact
from flows.store.open import open_store
from textmill.errors import UserError

Action = Literal["reuse", "build", "build?", "skip"]


@dataclass(frozen=True)
class Step:
    """One stage of the plan.

    Actions: `reuse`; `build`; `build?` (only if an earlier stage comes out different from before); `skip` (an optional
    stage without its input).

    Attributes:
        stage: which.
        title: what it works on, too.
        action: what a run would do.
        reason: why, in words.
        artifact: what would be reused.
        fingerprint: the artifact's name, or that of what would be built, where that is known.
    """

    stage: str
    title: str
    action: Action
    reason: str
    artifact: Artifact | None = None
    fingerprint: str = ""


@dataclass
class Planner:
    """An interpreter of the chain that writes down what would be done."""

    config: PipelineConfig
    selection: Selection
    steps: list[Step] = field(default_factory=list)

    def __post_init__(self) -> None:
        self.store = open_store(self.config.store)
        self.left_out = self.selection.leaves_out(self.config)
        self.forced = self.selection.forced(self.config)

    def __call__(self, stage: Stage[Any], config: BaseModel, /, **inputs: Any) -> Artifact | Pending | None:
        if stage.name in self.left_out:
            return None
        step = self._step(stage, config, inputs)
        self.steps.append(step)
        if step.action == "skip":
            return None
        return step.artifact if step.action == "reuse" else Pending(stage.name, config, step.reason == NOT_BUILT)

    def _step(self, stage: Stage[Any], config: BaseModel, inputs: dict[str, Any]) -> Step:
        title = stage.title(config)
        context = Context(self.store, options=self.selection.options(stage, self.forced))
        pending = [item for item in each_of(inputs) if isinstance(item, Pending)]
        if pending:
            check_available(stage, config)
            stage.foresee(config, inputs)
            if context.options.force:
                return Step(stage.name, title, "build", "forced")
            if any(item.is_first for item in pending):
                return Step(stage.name, title, "build", NOT_BUILT)
            if changed := what_changed(stage, config, self.store):
                return Step(stage.name, title, "build", changed)
            names = " or ".join(dict.fromkeys(item.stage for item in pending))
            return Step(stage.name, title, "build?", f"only if {names} comes out different")
        try:
            assessment = assess(stage, config, inputs, context)
            if assessment.artifact:
                return Step(stage.name, title, "reuse", assessment.reason, assessment.artifact, assessment.fingerprint)
            if not self.selection.takes_from_store(stage):
                check_available(stage, config)
        except NotThere as error:
            return Step(stage.name, title, "skip", str(error))
        if self.selection.takes_from_store(stage):
            if stage.optional(config):
                return Step(stage.name, title, "skip", "not in the store, and not required")
            raise UserError(
                f"{self.selection.only} alone needs {title}, which is not in the store ({assessment.reason}); build it "
                f"first (textmill run CONFIG --only {stage.name}, or the deployment {stage.name}/{stage.name}), or let "
                "this run build what is missing (--build-missing, or the switch of that name in the run form)"
            )
        interrupted = self.store.workdir(stage.name, assessment.fingerprint).exists()
        said = (assessment.reason, "continues an interrupted build" * interrupted, stage.foresee(config, inputs))
        reason = "; ".join(filter(None, said))
        return Step(stage.name, title, "build", reason, fingerprint=assessment.fingerprint)


def plan(config: PipelineConfig, selection: Selection = Selection()) -> list[Step]:
    """What `run` would do now, stage by stage.

    Raises:
        UserError: an input from outside is missing, a stage is to run alone on what was never built, what there is
            does not give what a stage asks for, or the names of sources do not fit.
    """
    planner = Planner(config, selection)
    config.check_sources(planner.left_out)
    chain(config, planner)
    return planner.steps
