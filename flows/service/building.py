"""The chain as Prefect tasks: what becomes of each stage in a run."""

from __future__ import annotations

from collections.abc import Callable, Collection
from dataclasses import dataclass, replace
from functools import partial
from types import TracebackType
from typing import Any, TypeVar, cast

from prefect import State, Task, get_run_logger, task
from prefect.cache_policies import NO_CACHE
from prefect.client.schemas.objects import TaskRun
from prefect.futures import PrefectFuture
from prefect.results import ResultRecord
from prefect.states import Completed
from prefect.task_runners import ThreadPoolTaskRunner
from prefect.tasks import exponential_backoff
from pydantic import BaseModel

from flows.engine.assess import NotThere, assess
from flows.engine.executors import open_executor
from flows.engine.materialize import materialize
from flows.engine.stage import Context, Inputs, Options, Outcome, Stage
from flows.pipeline.chain import chain
from flows.pipeline.request import RunRequest
from flows.service.beats import beating
from flows.service.events import emit_events
from flows.service.limits import slots
from flows.service.watching.live import BestEffort, LivePage, Watch
from flows.service.watching.markdown import plain
from flows.service.watching.metrics import Gauges
from flows.service.watching.pages import RunPage, key_of, stage_key, stage_page
from flows.service.watching.progress import StageProgress
from flows.store.local import Artifact, Damaged
from flows.store.manifest import Name
from textmill.disk import one_line_of_disk
from textmill.errors import Unavailable, UserError, first_line
from textmill.progress import Clock
from textmill.secrets import masked_errors

Result = Outcome | Damaged | None  # of a stage's task
Built = TypeVar("Built")
RETRY_SECONDS = 10.0  # doubles with each retry, plus or minus half of it at random


@dataclass
class Visit:
    """A stage that the chain has visited: its task has ended, or goes on in a thread."""

    state: State[Result] | PrefectFuture[State[Result]]

    @property
    def outcome(self) -> Outcome | None:
        """What became of it, waited for if need be; None if the stage is left out.

        Raises:
            Damaged: a file that it was to read is not what was sealed.
        """
        if isinstance(self.state, PrefectFuture):
            self.state.wait()
            self.state = self.state.state
        result: Result = self.state.result()
        if isinstance(result, Damaged):
            raise result
        return result

    @property
    def artifact(self) -> Artifact | None:
        outcome = self.outcome
        return outcome.artifact if outcome else None


class Builder:
    """An interpreter of the chain that runs each stage as a Prefect task: reuse what is whole, build what is not.

    Stages that mostly wait on the outside world run beside each other, and beside what does not need them. A later
    stage that is given one of them waits for all. Use it as a context: at its end all have ended.

    Args:
        request: the run.
        watch: shows how it goes.
        page: of the run.
        suspects: artifacts that were found damaged; their contents are compared before they are reused.
        built: titles of what was built in this run already, which is not forced again; what is built is added.
    """

    def __init__(
        self,
        request: RunRequest,
        watch: Watch,
        page: RunPage,
        suspects: Collection[Name] = (),
        built: set[str] | None = None,
    ) -> None:
        self.request, self.watch, self.page = request, watch, page
        self.suspects, self.built = suspects, set() if built is None else built
        self.left_out = request.selection.leaves_out(request.config)
        self.forced = request.selection.forced(request.config)
        self.visits: list[Visit] = []
        self._runner: ThreadPoolTaskRunner[Any] = ThreadPoolTaskRunner(max_workers=request.config.scrape.at_once)

    def __enter__(self) -> Builder:
        self._runner.__enter__()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        """After a failure what goes on beside it still comes to its end; an interruption interrupts it too."""
        try:
            if error is None or isinstance(error, Exception):
                self._settle([error] if error else [])
            else:
                self.watch.interrupted.set()
        except Exception:  # all have ended
            raise
        except BaseException:
            self.watch.interrupted.set()
            raise
        finally:
            self._runner.__exit__(None, None, None)

    def __call__(self, stage: Stage[Any], config: BaseModel, /, **inputs: Any) -> Visit | Artifact | None:
        if stage.name in self.left_out:
            return None
        selection, pipeline = self.request.selection, self.request.config
        taken = {name: self._taken(value) for name, value in inputs.items()}
        context = Context(self.request.store, pipeline.name, self._options(stage, config))
        if selection.takes_from_store(stage):
            return self._from_store(stage, config, taken, context)
        task = stage_task.with_options(
            name=stage.name,
            task_run_name=stage.title(config),
            retries=stage.retries,
            retry_delay_seconds=exponential_backoff(backoff_factor=RETRY_SECONDS),
            retry_jitter_factor=0.5,
            retry_condition_fn=outside_world_failed,
        )
        given = stage, config, taken, context, self
        if stage.beside:
            names = ("stage", "config", "inputs", "context", "builder")
            visit = Visit(self._runner.submit(task, dict(zip(names, given, strict=True))))
            self.visits.append(visit)
            return visit
        # A state is asked for because a task that returns one hands it on as it is.
        visit = Visit(cast(State[Any], task(*given, return_state=True)))
        self.visits.append(visit)
        return visit.artifact

    @property
    def outcomes(self) -> list[Outcome]:
        """What became of each stage that was not left out, in the order of the chain."""
        return [visit.outcome for visit in self.visits if visit.outcome]

    def _options(self, stage: Stage[Any], config: BaseModel) -> Options:
        forced = self.forced if stage.title(config) not in self.built else frozenset()
        options = self.request.selection.options(stage, forced)
        suspected = any(stage.name == name for name, _ in self.suspects)
        return replace(options, verify=True) if suspected else options

    def _taken(self, given: Any) -> Any:
        """An input with its artifacts in place of visits."""
        if isinstance(given, list):
            return [self._taken(one) for one in given]
        if not isinstance(given, Visit):
            return given
        self._settle([])
        return given.artifact

    def _settle(self, errors: list[Exception]) -> None:
        """Wait for all that was visited.

        Args:
            errors: what has failed before.

        Raises:
            Damaged: nothing else has failed; what more is damaged shows when this is built again.
            Exception: what failed; if it was more than one, all of them in one message.
        """
        failed = {id(error) for error in errors}
        for visit in self.visits:
            try:
                _ = visit.outcome
            except Exception as error:
                if id(error) not in failed:
                    failed.add(id(error))
                    errors.append(error)
        if len(errors) == 1 or (errors and all(isinstance(error, Damaged) for error in errors)):
            raise errors[0]
        if errors:
            kind = UserError if all(isinstance(error, UserError) for error in errors) else RuntimeError
            raise kind(f"{len(errors)} stages failed: " + "; ".join(str(error) for error in errors))

    def _from_store(self, stage: Stage[Any], config: BaseModel, inputs: Inputs, context: Context) -> Artifact | None:
        """What a stage that runs alone takes as given; the plan has made sure that it is there."""
        try:
            artifact = assess(stage, config, inputs, context).artifact
        except NotThere:
            return None
        if artifact:
            self.page.ended(stage.title(config), "taken from the store", stage.headline(artifact.stats), artifact)
        return artifact


@task(cache_policy=NO_CACHE, persist_result=False)
def stage_task(
    stage: Stage[Any], config: BaseModel, inputs: Inputs, context: Context, builder: Builder
) -> State[Result]:
    """One stage as Prefect sees it: ends as Completed, as Cached on a hit, as Skipped where an optional input is not
    there, as Damaged where a file that it was to read is; a user's mistake fails with its one line."""
    logger = get_run_logger()
    title, label, watch = stage.title(config), stage.label(config), builder.watch
    gauges = Gauges(stage.name, label, context.pipeline)
    progress = StageProgress(title, logger, Clock(watch.interrupted), logs=watch.bars is None, figures=gauges)
    page = LivePage(stage_key(stage, label, context.pipeline), title, progress.page, logger)
    try:
        with (
            one_line_of_disk(context.store.root),
            gauges,
            builder.page.at_work(title, progress, page),
            watch.showing(page, progress),
            open_executor(builder.request.config.runner) as executor,
            masked_errors(),
        ):
            running = replace(
                context, executor=executor, progress=progress, log=logger.info, clock=progress.clock,
                slots=partial(slots, progress.clock),
            )  # fmt: skip
            outcome = materialize(stage, config, inputs, running)
            artifact, headline = outcome.artifact, outcome.headline
    except NotThere as missing:
        logger.warning("%s is left out: %s", title, missing)
        builder.page.ended(title, "left out", str(missing))
        return Completed(name="Skipped", message=str(missing), data=None)
    except Damaged as damaged:
        what = f"{damaged.artifact.location} is damaged: {damaged.damage}"
        logger.warning("%s stops: %s", title, what)
        page.close_if_shown(plain(what), title)
        builder.page.ended(title, "**stopped**", what)
        return Completed(name="Damaged", message=what, data=damaged)
    except BaseException as error:
        page.close_if_shown(progress.ended_page(error), title)
        builder.page.ended(title, "**stopped**", first_line(error))
        raise
    if not outcome.reused:
        builder.built.add(title)
    builder.page.ended(title, "**built it**" if title in builder.built else "reused it", headline, artifact)
    best_effort = BestEffort(logger)
    if outcome.reused:
        message = f"Reused {artifact.location}, built {artifact.manifest.finished:%Y-%m-%d %H:%M} UTC: {headline}"
        page.close_if_shown(plain(message), headline)
        return Completed(name="Cached", message=message, data=outcome)
    best_effort(lambda: page.close(stage_page(outcome), headline))
    best_effort(emit_events, outcome)
    message = f"Built {artifact.location} in {artifact.manifest.seconds:,.1f} s: {headline}"
    return Completed(message=message, data=outcome)


def outside_world_failed(task: Task[..., Any], task_run: TaskRun, state: State[Any]) -> bool:
    """Whether trying again may help: not after a user's mistake."""
    error = state.data.result if isinstance(state.data, ResultRecord) else state.data
    return isinstance(error, Unavailable) or not isinstance(error, UserError)


def build_chain(request: RunRequest, watch: Watch, page: RunPage, suspects: Collection[Name] = ()) -> list[Outcome]:
    """Visit every stage that was asked for, inside a flow; what became of each, in order. Where a build finds an input
    damaged, the chain is visited again from its start: that input is built, and whatever follows from it.

    Raises:
        UserError: a stage that runs alone would have to read something damaged.
    """
    built: set[str] = set()

    def visit(suspects: Collection[Name]) -> list[Outcome]:
        try:
            with Builder(request, watch, page, suspects, built) as builder:
                chain(request.config, builder)
        except Damaged as damaged:
            raise _needed_whole(request, damaged) from damaged
        return [replace(outcome, reused=outcome.artifact.title not in built) for outcome in builder.outcomes]

    return mending(visit, suspects)


def mending(build: Callable[[Collection[Name]], Built], suspects: Collection[Name] = ()) -> Built:
    """What `build` returns. When it finds an artifact damaged, it is called again with that one among the suspects.

    Raises:
        Damaged: a suspect is damaged again, although it was built anew.
    """
    while True:
        try:
            return build(suspects)
        except Damaged as damaged:
            if damaged.artifact.name in suspects:
                raise
            suspects = {*suspects, damaged.artifact.name}


def _needed_whole(request: RunRequest, damaged: Damaged) -> UserError:
    """The damage itself where the run can mend it; where it may not build that stage, what the user can do."""
    manifest, only = damaged.artifact.manifest, request.selection.only
    if only is None or only == manifest.stage:
        return damaged
    return UserError(
        f"{only} alone needs {manifest.title}, which is damaged ({damaged.damage}); "
        f"build it again: textmill run {request.path} --only {manifest.stage} --verify"
    )


@beating()
@masked_errors()
def run_chain(request: RunRequest) -> State[list[Outcome]]:
    """Run the chain inside a flow.

    The plan comes first: what is missing is found before any work, and the run's log begins with where to watch it and
    what will be done.
    """
    logger = get_run_logger()
    page = RunPage(request.steps)
    live = LivePage(key_of(f"run of {_subject(request)}"), request.config.name, page.live, logger)
    live.refresh()
    for step in request.steps:
        logger.info("%s: %s (%s)", step.title, step.action, step.reason)
    with live.closed_with(page.final):
        request.check()
        with Watch() as watch, watch.showing(live):
            outcomes = build_chain(request, watch, page)
    reused = sum(outcome.reused for outcome in outcomes)
    return Completed(message=f"{len(outcomes) - reused} built, {reused} reused", data=outcomes)


def _subject(request: RunRequest) -> str:
    """What a run is about: a configuration, or one stage of it; a crawl of given sites, these."""
    only, name = request.selection.only, request.config.name
    if only == "scrape" and "sources" in (request.overrides.get("scrape") or {}):
        sites = ", ".join(source.name for source in request.config.scrape.load())
        return f"scrape {sites} of {name}"
    return f"{only} of {name}" if only else name
