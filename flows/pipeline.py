"""The pipeline: the order of the stages, written once, and run as a Prefect flow.

`chain` is the table of contents. What happens to a stage is up to the runner it is given: `Builder` builds or reuses
it as a Prefect task; `flows.plan.Planner` only says what would happen.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Protocol, TypeVar

from prefect import State, flow, get_run_logger, task
from prefect.cache_policies import NO_CACHE
from prefect.states import Completed, Failed
from prefect.tasks import exponential_backoff
from pydantic import BaseModel

from flows.config import PipelineConfig
from flows.errors import USER_ERRORS, FlowError
from flows.progress import StageProgress
from flows.stage import Inputs, Options, Stage, assess, materialize
from flows.stages.finetune import finetune
from flows.stages.ingest import ingest
from flows.stages.prepare import PrepareSettings, prepare
from flows.stages.pretokenize import pretokenize
from flows.stages.pretrain import pretrain
from flows.stages.report import report
from flows.stages.scrape import scrape
from flows.stages.train_tokenizer import train_tokenizer
from flows.store import Artifact, Store
from flows.ui import publish

STAGES: dict[str, Stage] = {
    stage.name: stage
    for stage in (scrape, ingest, prepare, train_tokenizer, pretokenize, pretrain, finetune, report)
}

Result = TypeVar("Result")


class Runner(Protocol[Result]):
    """Does something with a stage and answers with what later stages are given as their input."""

    def __call__(self, stage: Stage, config: BaseModel, **inputs: Result | list[Result] | None) -> Result | None: ...


def chain(config: PipelineConfig, run: Runner) -> None:
    """Every stage of the pipeline, in order, each with its settings and inputs."""
    sources = config.scrape.load()
    pages = [run(scrape, source) for source in sources]
    documents = run(ingest, config.ingest) if config.ingest else None
    reading = PrepareSettings(corpus=config.prepare, extractors={source.name: source.extractor for source in sources})
    corpus = run(prepare, reading, pages=pages, documents=documents)
    tokenizer = run(train_tokenizer, config.train_tokenizer, corpus=corpus)
    tokens = run(pretokenize, config.pretokenize, corpus=corpus, tokenizer=tokenizer)
    pretrained = run(pretrain, config.pretrain, tokens=tokens, tokenizer=tokenizer)
    finetuned = run(finetune, config.finetune, checkpoint=pretrained, tokens=tokens) if config.finetune else None
    run(
        report, config.report,
        corpus=corpus, tokenizer=tokenizer, tokens=tokens, pretrained=pretrained, finetuned=finetuned,
    )  # fmt: skip


@dataclass(frozen=True)
class Selection:
    """Which stages to build again although the store has them, and which to run at all.

    Attributes:
        force: rebuilt; what follows is rebuilt only if it comes out different.
        start: rebuilt together with everything after it.
        only: run alone: what comes before is taken from the store, what comes after is not run.
        verify: compare SHA-256 too before anything is reused.
    """

    force: frozenset[str] = frozenset()
    start: str | None = None
    only: str | None = None
    verify: bool = False

    def __post_init__(self) -> None:
        for name in [*self.force, self.start, self.only]:
            if name and name not in STAGES:
                raise FlowError(f"there is no stage {name!r}; the stages are {', '.join(STAGES)}")

    def skips(self, stage: Stage) -> bool:
        return self.only is not None and _position(stage.name) > _position(self.only)

    def takes_from_store(self, stage: Stage) -> bool:
        return self.only is not None and _position(stage.name) < _position(self.only)

    def options(self, stage: Stage, pipeline: str) -> Options:
        follows_start = self.start is not None and _position(stage.name) >= _position(self.start)
        return Options(
            force=(stage.name in self.force or follows_start) and not self.takes_from_store(stage),
            verify=self.verify,
            accept_expired=self.takes_from_store(stage),
            pipeline=pipeline,
        )


def _position(name: str) -> int:
    return list(STAGES).index(name)


@dataclass
class Builder:
    """Runs each stage as a Prefect task: reuse what is whole, build what is not, and tell on the run's page."""

    config: PipelineConfig
    selection: Selection
    built: list[tuple[Artifact, bool]] = field(default_factory=list)

    def __post_init__(self) -> None:
        self.store = Store(Path(self.config.store))

    def __call__(self, stage: Stage, config: BaseModel, **inputs: Any) -> Artifact | None:
        if self.selection.skips(stage):
            return None
        options = self.selection.options(stage, self.config.name)
        if self.selection.takes_from_store(stage):
            return self._from_store(stage, config, inputs, options)
        runner = stage_task.with_options(
            name=stage.name,
            task_run_name=stage.title(config),
            tags=[stage.name],
            retries=stage.retries,
            retry_delay_seconds=exponential_backoff(backoff_factor=10),
            retry_jitter_factor=0.5,
        )
        outcome = runner(stage, config, inputs, self.store, options)
        if outcome is None:
            return None
        self.built.append(outcome)
        return outcome[0]

    def _from_store(self, stage: Stage, config: BaseModel, inputs: Inputs, options: Options) -> Artifact | None:
        """What a stage that runs alone takes as given."""
        try:
            verdict = assess(stage, config, inputs, self.store, options)
        except USER_ERRORS:
            if stage.optional(config):
                return None
            raise
        if verdict.artifact is None and not stage.optional(config):
            raise FlowError(
                f"--only {self.selection.only} needs {stage.title(config)}, which is not in the store "
                f"({verdict.reason}); build it first: textmill run CONFIG --only {stage.name}"
            )
        return verdict.artifact


@task(cache_policy=NO_CACHE, persist_result=False)
def stage_task(
    stage: Stage, config: BaseModel, inputs: Inputs, store: Store, options: Options
) -> State[tuple[Artifact, bool]] | tuple[Artifact, bool]:
    """One stage as Prefect sees it. A hit ends as Cached, a user's mistake as Failed with one line and no traceback."""
    log = get_run_logger()
    title = stage.title(config)
    try:
        with StageProgress(title, log) as progress:
            artifact, reused = materialize(stage, config, inputs, store, options, progress, log.info)
    except USER_ERRORS as error:
        if stage.optional(config):
            log.warning("%s: %s; going on without it", title, error)
            return Completed(name="Skipped", message=str(error), data=None)
        return Failed(message=f"{title}: {error}", data=error)
    headline = stage.headline(artifact.stats)
    if reused:
        message = f"Reused {artifact.path}, built {artifact.manifest.finished:%Y-%m-%d %H:%M} UTC: {headline}"
        return Completed(name="Cached", message=message, data=(artifact, True))
    publish(artifact, headline)
    log.info("Built %s in %.1f s: %s", artifact.path, artifact.manifest.seconds, headline)
    return artifact, False


def run_chain(config: PipelineConfig, selection: Selection) -> State[list[tuple[Artifact, bool]]]:
    """Run the chain inside a flow. A user's mistake becomes the flow's own message instead of a traceback."""
    builder = Builder(config, selection)
    try:
        chain(config, builder)
    except USER_ERRORS as error:
        return Failed(message=str(error), data=error)
    reused = sum(hit for _, hit in builder.built)
    message = f"{len(builder.built) - reused} built, {reused} reused"
    return Completed(message=message, data=builder.built)


@flow(name="pipeline", flow_run_name="{config.name}", persist_result=False)
def pipeline(
    config: PipelineConfig,
    force: list[str] | None = None,
    start: str | None = None,
    verify: bool = False,
) -> State[list[tuple[Artifact, bool]]]:
    """Web text to language model: every stage in order, building only what is not in the store already.

    Args:
        config: the whole configuration.
        force: stages to build again; what follows them is rebuilt only if they come out different.
        start: build this stage and everything after it again.
        verify: before anything is reused, compare the SHA-256 of its files.
    """
    return run_chain(config, Selection(force=frozenset(force or ()), start=start, verify=verify))


def stage_flow(stage: Stage) -> Any:
    """A flow that runs one stage alone, on what the store holds of the stages before it."""

    @flow(name=stage.name, flow_run_name=f"{stage.name} ({{config.name}})", persist_result=False)
    def run(config: PipelineConfig, force: bool = False, verify: bool = False) -> State[list[tuple[Artifact, bool]]]:
        selection = Selection(force=frozenset([stage.name] if force else ()), only=stage.name, verify=verify)
        return run_chain(config, selection)

    return run


FLOWS = {stage.name: stage_flow(stage) for stage in STAGES.values()}

