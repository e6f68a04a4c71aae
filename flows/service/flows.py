"""The pipeline as Prefect flows: every stage in order, and each stage alone."""

from __future__ import annotations

import logging
from collections.abc import Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from dataclasses import dataclass, field, replace
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING, Any, cast

from prefect import Flow, State, Task, flow, get_run_logger, task
from prefect.cache_policies import NO_CACHE
from prefect.client.schemas.objects import TaskRun
from prefect.results import ResultRecord
from prefect.runtime import flow_run
from prefect.settings import PREFECT_LOGGING_EXTRA_LOGGERS
from prefect.states import Completed
from prefect.tasks import exponential_backoff
from pydantic import BaseModel

from flows.engine.assess import NotThere, assess
from flows.engine.executors import ExecutorConfig, open_executor
from flows.engine.materialize import materialize
from flows.engine.stage import Context, Inputs, Outcome, Stage
from flows.pipeline.chain import StageName, chain
from flows.pipeline.config import PipelineConfig
from flows.pipeline.request import RunRequest
from flows.pipeline.selection import Selection
from flows.service.events import emit_events
from flows.service.form import Form, form_of
from flows.service.limits import slots
from flows.service.pages import publish, publish_run
from flows.service.progress import BestEffort, StageProgress
from flows.store.local import Artifact
from textmill.errors import Unavailable, UserError

DEFAULT_CONFIG = "configs/demo.yaml"
RETRY_SECONDS = 10.0  # doubles with each retry, plus or minus half of it at random
if TYPE_CHECKING:
    PipelineForm = Form
else:
    PipelineForm = form_of(PipelineConfig)
NO_OVERRIDES = PipelineForm()

_requested: ContextVar[RunRequest | None] = ContextVar("requested", default=None)


@dataclass
class Builder:
    """An interpreter of the chain that runs each stage as a Prefect task: reuse what is whole, build what is not, and
    tell on the run's page."""

    request: RunRequest
    outcomes: list[Outcome] = field(default_factory=list)

    def __post_init__(self) -> None:
        self.left_out = self.request.selection.leaves_out(self.request.config)

    def __call__(self, stage: Stage[Any], config: BaseModel, /, **inputs: Any) -> Artifact | None:
        if stage.name in self.left_out:
            return None
        selection, pipeline = self.request.selection, self.request.config
        context = Context(self.request.store, pipeline.name, selection.options(stage))
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


def run_name() -> str:
    """Which configuration runs; a stage that runs alone is named before it."""
    configuration = Path(flow_run.parameters["config"]).stem
    return configuration if flow_run.flow_name == "pipeline" else f"{flow_run.flow_name} of {configuration}"


@flow(name="pipeline", flow_run_name=run_name, persist_result=False)
def pipeline(
    config: str = DEFAULT_CONFIG,
    overrides: PipelineForm = NO_OVERRIDES,
    force: list[StageName] | None = None,
    start: StageName | None = None,
    verify: bool = False,
) -> State[list[Outcome]]:
    """Web text to language model: every stage in order, building only what is not in the store already.

    Args:
        config: path of the configuration.
        overrides: values in place of those in the configuration; what is left empty stays as it is there.
        force: stages to build again; what follows them is rebuilt only if they come out different.
        start: build this stage and everything after it again.
        verify: before anything is reused, compare the SHA-256 of its files.
    """
    selection = Selection(force=frozenset(force or ()), start=start, verify=verify)
    return run_chain(_requested.get() or RunRequest.load(Path(config), overrides.model_dump(), selection))


@cache
def stage_flow(stage: StageName) -> Flow[..., Any]:
    """The flow that runs one stage alone, on what the store holds of the stages before it. It is made when it is asked
    for: working out the form takes Prefect a twentieth of a second a flow."""

    @flow(
        name=stage,
        description=f"{stage} alone, on what the store holds of the stages before it.",
        flow_run_name=run_name,
        persist_result=False,
    )
    def run(
        config: str = DEFAULT_CONFIG,
        overrides: PipelineForm = NO_OVERRIDES,
        force: bool = False,
        verify: bool = False,
    ) -> State[list[Outcome]]:
        """One stage alone.

        Args:
            config: path of the configuration.
            overrides: values in place of those in the configuration; what is left empty stays as it is there.
            force: build it again although the store has it.
            verify: before anything is reused, compare the SHA-256 of its files.
        """
        selection = Selection(force=frozenset([stage] if force else ()), only=stage, verify=verify)
        return run_chain(_requested.get() or RunRequest.load(Path(config), overrides.model_dump(), selection))

    return run


def start_run(request: RunRequest) -> list[Outcome]:
    """Run what was asked for as a flow run of this process. Its parameters say the same, for a retry from the UI; what
    was loaded and planned before is not loaded and planned again."""
    path, form, selection = str(request.path), PipelineForm.of(request.overrides), request.selection
    with _carried(request):
        if selection.only:
            force = selection.only in selection.force or selection.only == selection.start
            alone = stage_flow(selection.only)
            state = alone(path, form, force=force, verify=selection.verify, return_state=True)
        else:
            again, start, verify = sorted(selection.force), selection.start, selection.verify
            state = pipeline(path, form, force=again, start=start, verify=verify, return_state=True)
        return cast(State[list[Outcome]], state).result()


@contextmanager
def _carried(request: RunRequest) -> Iterator[None]:
    """Hand the request to the flow that is started in this context."""
    token = _requested.set(request)
    try:
        yield
    finally:
        _requested.reset(token)


class OneLineMistakes(logging.Filter):
    """Takes the traceback off a user's mistake: its message says what to do, and it is not a bug of ours."""

    def filter(self, record: logging.LogRecord) -> bool:
        if record.exc_info and isinstance(record.exc_info[1], UserError):
            record.exc_info = record.exc_text = None
        return True


for name in ("prefect.flow_runs", "prefect.task_runs"):
    logging.getLogger(name).addFilter(OneLineMistakes())
for name in PREFECT_LOGGING_EXTRA_LOGGERS.value():
    logging.getLogger(name).setLevel(logging.INFO)  # Prefect gives them its handler, but leaves the level at WARNING
