"""The chain as Prefect tasks: what becomes of each stage in a run."""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from typing import Any, cast

from prefect import State, Task, get_run_logger, task
from prefect.cache_policies import NO_CACHE
from prefect.client.schemas.objects import TaskRun
from prefect.results import ResultRecord
from prefect.states import Completed
from prefect.tasks import exponential_backoff
from pydantic import BaseModel

from flows.engine.assess import NotThere, assess
from flows.engine.executors import ExecutorConfig, open_executor
from flows.engine.materialize import materialize
from flows.engine.stage import Context, Inputs, Outcome, Stage
from flows.pipeline.chain import chain
from flows.pipeline.request import RunRequest
from flows.service.beats import beating
from flows.service.events import emit_events
from flows.service.limits import slots
from flows.service.pages import publish, publish_run
from flows.service.progress import BestEffort, StageProgress
from flows.store.local import Artifact
from textmill.errors import Unavailable, UserError

RETRY_SECONDS = 10.0  # doubles with each retry, plus or minus half of it at random


@dataclass
class Builder:
    """An interpreter of the chain that runs each stage as a Prefect task: reuse what is whole, build what is not, and
    tell on the run's page."""

    request: RunRequest
    outcomes: list[Outcome] = field(default_factory=list)

    def __post_init__(self) -> None:
        self.left_out = self.request.selection.leaves_out(self.request.config)
        self.forced = self.request.selection.forced(self.request.config)

    def __call__(self, stage: Stage[Any], config: BaseModel, /, **inputs: Any) -> Artifact | None:
        if stage.name in self.left_out:
            return None
        selection, pipeline = self.request.selection, self.request.config
        context = Context(self.request.store, pipeline.name, selection.options(stage, self.forced))
        if selection.takes_from_store(stage):
            return self._from_store(stage, config, inputs, context)
        task = stage_task.with_options(
            name=stage.name,
            task_run_name=stage.title(config),
            retries=stage.retries,
            retry_delay_seconds=exponential_backoff(backoff_factor=RETRY_SECONDS),
            retry_jitter_factor=0.5,
            retry_condition_fn=outside_world_failed,
        )
        # A state is asked for because a task that returns one hands it on as it is.
        state = cast(State[Any], task(stage, config, inputs, context, pipeline.runner, return_state=True))
        outcome: Outcome | None = state.result()
        if outcome is None:
            return None
        self.outcomes.append(outcome)
        return outcome.artifact

    def _from_store(self, stage: Stage[Any], config: BaseModel, inputs: Inputs, context: Context) -> Artifact | None:
        """What a stage that runs alone takes as given; the plan has made sure that it is there."""
        try:
            return assess(stage, config, inputs, context).artifact
        except NotThere:
            return None


@task(cache_policy=NO_CACHE, persist_result=False)
def stage_task(
    stage: Stage[Any], config: BaseModel, inputs: Inputs, context: Context, runner: ExecutorConfig
) -> State[Outcome | None]:
    """One stage as Prefect sees it: ends as Completed, as Cached on a hit, as Skipped where an optional input is not
    there; a user's mistake fails with its one line."""
    logger = get_run_logger()
    title = stage.title(config)
    try:
        with StageProgress(title, logger) as progress, open_executor(runner) as executor:
            running = replace(context, executor=executor, progress=progress, log=logger.info, slots=slots)
            outcome = materialize(stage, config, inputs, running)
    except NotThere as missing:
        logger.warning("%s is left out: %s", title, missing)
        return Completed(name="Skipped", message=str(missing), data=None)
    artifact, headline = outcome.artifact, outcome.headline
    if outcome.reused:
        message = f"Reused {artifact.location}, built {artifact.manifest.finished:%Y-%m-%d %H:%M} UTC: {headline}"
        return Completed(name="Cached", message=message, data=outcome)
    best_effort = BestEffort(logger)
    best_effort(publish, outcome)
    best_effort(emit_events, outcome)
    message = f"Built {artifact.location} in {artifact.manifest.seconds:,.1f} s: {headline}"
    return Completed(message=message, data=outcome)


def outside_world_failed(task: Task[..., Any], task_run: TaskRun, state: State[Any]) -> bool:
    """Whether trying again may help: not after a user's mistake."""
    error = state.data.result if isinstance(state.data, ResultRecord) else state.data
    return isinstance(error, Unavailable) or not isinstance(error, UserError)


def build_chain(request: RunRequest) -> list[Outcome]:
    """Visit every stage that was asked for, inside a flow; what became of each, in order."""
    builder = Builder(request)
    chain(request.config, builder)
    return builder.outcomes


@beating()
def run_chain(request: RunRequest) -> State[list[Outcome]]:
    """Run the chain inside a flow.

    The plan comes first: what is missing is found before any work, and the run's log begins with what will be done.
    """
    logger = get_run_logger()
    for step in request.steps:
        logger.info("%s: %s (%s)", step.title, step.action, step.reason)
    request.check()
    outcomes = build_chain(request)
    BestEffort(logger)(publish_run, request.config.name, outcomes)
    reused = sum(outcome.reused for outcome in outcomes)
    return Completed(message=f"{len(outcomes) - reused} built, {reused} reused", data=outcomes)
