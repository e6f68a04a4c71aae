"""The pipeline as Prefect flows: every stage in order, and each stage alone."""

from __future__ import annotations

import logging
from dataclasses import dataclass, field
from functools import cache
from pathlib import Path
from typing import Any

from prefect import Flow, State, Task, flow, get_run_logger, task
from prefect.cache_policies import NO_CACHE
from prefect.client.schemas.objects import TaskRun
from prefect.results import ResultRecord
from prefect.runtime import flow_run
from prefect.settings import PREFECT_LOGGING_EXTRA_LOGGERS
from prefect.states import Completed
from prefect.tasks import exponential_backoff
from pydantic import BaseModel

from flows.engine.executors import ExecutorConfig, check_executor, open_executor
from flows.engine.stage import Inputs, NotThere, Options, Stage, assess, materialize
from flows.pipeline.chain import STAGES, Selection, StageName, chain
from flows.pipeline.config import PipelineConfig, load_config
from flows.pipeline.plan import plan
from flows.service.events import announce
from flows.service.form import form_of
from flows.service.pages import publish, publish_run
from flows.service.progress import StageProgress, Teller
from flows.store.local import Artifact, Store, open_store
from textmill.errors import Unavailable, UserError

DEFAULT_CONFIG = "configs/demo.yaml"
RETRY_SECONDS = 10.0  # doubles with each retry, plus or minus half of it at random
PipelineForm = form_of(PipelineConfig)
NO_CHANGES = PipelineForm()


@dataclass
class Builder:
    """Runs each stage as a Prefect task: reuse what is whole, build what is not, and tell on the run's page."""

    config: PipelineConfig
    selection: Selection
    outcomes: list[tuple[Artifact, bool]] = field(default_factory=list)

    def __post_init__(self) -> None:
        self.store = open_store(self.config.store)
        self.left_out = self.selection.leaves_out(self.config)

    def __call__(self, stage: Stage, config: BaseModel, **inputs: Any) -> Artifact | None:
        if stage.name in self.left_out:
            return None
        options = self.selection.options(stage, self.config.name)
        if self.selection.takes_from_store(stage):
            return self._from_store(stage, config, inputs, options)
        runner = stage_task.with_options(
            name=stage.name,
            task_run_name=stage.title(config),
            retries=stage.retries,
            retry_delay_seconds=exponential_backoff(backoff_factor=RETRY_SECONDS),
            retry_jitter_factor=0.5,
            retry_condition_fn=outside_world_failed,
        )
        # A state is asked for because a task that returns one hands it on as it is.
        outcome = runner(stage, config, inputs, self.store, options, self.config.runner, return_state=True).result()
        if outcome is None:
            return None
        self.outcomes.append(outcome)
        return outcome[0]

    def _from_store(self, stage: Stage, config: BaseModel, inputs: Inputs, options: Options) -> Artifact | None:
        """What a stage that runs alone takes as given; the plan has made sure that it is there."""
        try:
            return assess(stage, config, inputs, self.store, options).artifact
        except NotThere:
            return None


@task(cache_policy=NO_CACHE, persist_result=False)
def stage_task(
    stage: Stage, config: BaseModel, inputs: Inputs, store: Store, options: Options, runner: ExecutorConfig
) -> State[tuple[Artifact, bool] | None]:
    """One stage as Prefect sees it: ends as Completed, as Cached on a hit, as Skipped where an optional input is not
    there; a user's mistake fails with its one line. The result is the artifact and whether it was reused."""
    log = get_run_logger()
    title = stage.title(config)
    try:
        with StageProgress(title, log) as progress, open_executor(runner) as executor:
            artifact, reused = materialize(stage, config, inputs, store, options, progress, log.info, executor)
    except NotThere as missing:
        log.warning("%s is left out: %s", title, missing)
        return Completed(name="Skipped", message=str(missing), data=None)
    headline = stage.headline(artifact.stats)
    if reused:
        message = f"Reused {artifact.location}, built {artifact.manifest.finished:%Y-%m-%d %H:%M} UTC: {headline}"
        return Completed(name="Cached", message=message, data=(artifact, True))
    tell = Teller(log)
    tell(publish, artifact, headline)
    tell(announce, artifact, headline, store)
    message = f"Built {artifact.location} in {artifact.manifest.seconds:,.1f} s: {headline}"
    return Completed(message=message, data=(artifact, False))


def outside_world_failed(task: Task, task_run: TaskRun, state: State) -> bool:
    """Whether trying again may help: not after a user's mistake."""
    error = state.data.result if isinstance(state.data, ResultRecord) else state.data
    return isinstance(error, Unavailable) or not isinstance(error, UserError)


def run_chain(config: PipelineConfig, selection: Selection) -> State[list[tuple[Artifact, bool]]]:
    """Run the chain inside a flow; the result lists every artifact in order and whether it was reused.

    The plan comes first: what is missing is found before any work, and the run's log begins with what will be done.
    """
    log = get_run_logger()
    steps = plan(config, selection)
    for step in steps:
        log.info("%s: %s (%s)", step.title, step.action, step.reason)
    if any(step.action.startswith("build") for step in steps):
        check_executor(config.runner)
    builder = Builder(config, selection)
    chain(config, builder)
    shown = [(made, STAGES[made.manifest.stage].headline(made.stats), hit) for made, hit in builder.outcomes]
    Teller(log)(publish_run, config.name, shown)
    reused = sum(hit for _, hit in builder.outcomes)
    return Completed(message=f"{len(builder.outcomes) - reused} built, {reused} reused", data=builder.outcomes)


def run_name() -> str:
    """Which configuration runs; a stage that runs alone is named before it."""
    configuration = Path(flow_run.parameters["config"]).stem
    return configuration if flow_run.flow_name == "pipeline" else f"{flow_run.flow_name} of {configuration}"


@flow(name="pipeline", flow_run_name=run_name, persist_result=False)
def pipeline(
    config: str = DEFAULT_CONFIG,
    settings: PipelineForm = NO_CHANGES,
    force: list[StageName] | None = None,
    start: StageName | None = None,
    verify: bool = False,
) -> State[list[tuple[Artifact, bool]]]:
    """Web text to language model: every stage in order, building only what is not in the store already.

    Args:
        config: path of the configuration.
        settings: values in place of those in the configuration; what is left empty stays as it is there.
        force: stages to build again; what follows them is rebuilt only if they come out different.
        start: build this stage and everything after it again.
        verify: before anything is reused, compare the SHA-256 of its files.
    """
    loaded = load_config(Path(config), settings.model_dump())
    return run_chain(loaded, Selection(force=frozenset(force or ()), start=start, verify=verify))


@cache
def stage_flow(stage: StageName) -> Flow:
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
        settings: PipelineForm = NO_CHANGES,
        force: bool = False,
        verify: bool = False,
    ) -> State[list[tuple[Artifact, bool]]]:
        """One stage alone.

        Args:
            config: path of the configuration.
            settings: values in place of those in the configuration; what is left empty stays as it is there.
            force: build it again although the store has it.
            verify: before anything is reused, compare the SHA-256 of its files.
        """
        selection = Selection(force=frozenset([stage] if force else ()), only=stage, verify=verify)
        return run_chain(load_config(Path(config), settings.model_dump()), selection)

    return run


class OneLineMistakes(logging.Filter):
    """Take the traceback off a user's mistake: its message says what to do, and it is no bug of ours."""

    def filter(self, record: logging.LogRecord) -> bool:
        if record.exc_info and isinstance(record.exc_info[1], UserError):
            record.exc_info = record.exc_text = None
        return True


for name in ("prefect.flow_runs", "prefect.task_runs"):
    logging.getLogger(name).addFilter(OneLineMistakes())
for name in PREFECT_LOGGING_EXTRA_LOGGERS.value():
    logging.getLogger(name).setLevel(logging.INFO)  # Prefect gives them its handler, but leaves the level at WARNING
