"""Run an experiment: the pipeline once for each of its runs, and the comparison of what came out."""

from __future__ import annotations

from collections.abc import Collection, Mapping
from pathlib import Path
from typing import Any

from prefect import State, flow, get_run_logger
from prefect.runtime import flow_run
from prefect.states import Completed

from experiments.catalog import load
from flows.engine.stage import Outcome
from flows.pipeline.experiments.keeping import keep
from flows.pipeline.experiments.trials import Campaign, Trial, campaign
from flows.service.beats import beating
from flows.service.building import Builder, build_chain, mending
from flows.service.form import DEFAULT_CONFIG, REQUIRED, checked, experiment_form, takes
from flows.service.watching.live import LivePage, Watch
from flows.service.watching.pages import RunPage, chapters, key_of
from flows.stages.comparison import ComparisonConfig, comparison, figures_of
from flows.stages.measurement import measurement, measurement_config
from flows.store.local import Artifact
from flows.store.manifest import Name
from textmill.errors import UserError
from textmill.secrets import masked_errors


@flow(
    name="experiment",
    flow_run_name=lambda: "{name} on {config}".format(**flow_run.parameters),
    persist_result=False,
    validate_parameters=False,
)
@takes(experiment_form(), REQUIRED["experiment"])
@beating()
@masked_errors()
def experiment(
    *,
    name: str,
    seeds: int | None = None,
    quick: bool = False,
    extend: bool = False,
    overrides: Mapping[str, Any] | None = None,
    config: str = DEFAULT_CONFIG,
) -> State[Outcome]:
    """Put one claim to the test: every run of the experiment, and what they have in common built once."""
    asked = campaign(name, Path(config), checked(overrides), seeds=seeds, quick=quick, extend=extend)
    return put_to_the_test(asked)


def put_to_the_test(asked: Campaign) -> State[Outcome]:
    """Build every run and compare them, inside a flow, and keep what it came to. The log begins with where to watch."""
    logger = get_run_logger()
    pages: dict[str, RunPage] = {}
    title = f"{asked.name} of {asked.pipeline.config.name}"
    live = LivePage(key_of(f"experiment {title}"), title, lambda: chapters(pages, RunPage.live), logger)
    live.refresh()

    def compare(suspects: Collection[Name]) -> Outcome:
        made: dict[Trial, Artifact] = {}
        for number, trial in enumerate(asked.trials(lambda trial: _figure(asked, made[trial])), 1):
            logger.info("Run %d: %s", number, trial.title)
            page = pages.setdefault(trial.title, RunPage(trial.request.steps if trial.request else []))
            made[trial] = _run(asked, trial, page, watch, suspects)
            _check_figures(asked, made[trial])
        with Builder(asked.pipeline, watch, pages.setdefault("comparison", RunPage([])), suspects) as builder:
            builder(comparison, comparison_of(asked, list(made)), results=list(made.values()))
        [outcome] = builder.outcomes
        return outcome

    with live.closed_with(lambda: chapters(pages, RunPage.final)):
        for trial in asked.trials(lambda trial: None):
            if trial.request:
                trial.request.check()
        with Watch() as watch, watch.showing(live):
            outcome = mending(compare)
        path = keep(outcome.artifact.stats, asked.pipeline.config.name, outcome.artifact.manifest.code)
        logger.info("%s: %s, kept in %s", asked.name, outcome.headline, path)
    return Completed(message=outcome.headline, data=outcome)


def _run(asked: Campaign, trial: Trial, page: RunPage, watch: Watch, suspects: Collection[Name]) -> Artifact:
    """One run; the artifact that holds its figure."""
    if trial.request is not None:
        outcomes = build_chain(trial.request, watch, page, suspects)
        stage = asked.experiment.figure.stage
        return next(made.artifact for made in outcomes if made.artifact.manifest.stage == stage)
    with Builder(asked.pipeline, watch, page, suspects) as builder:
        builder(measurement, measurement_config(asked.which, trial.variant, trial.settings, trial.seed))
    [outcome] = builder.outcomes
    return outcome.artifact


def _figure(asked: Campaign, artifact: Artifact) -> float:
    return figures_of(artifact)[asked.experiment.figure.name]


def _check_figures(asked: Campaign, artifact: Artifact) -> None:
    """
    Raises:
        UserError: the experiment is judged by something that a run does not give.
    """
    given = figures_of(artifact)
    for name in asked.experiment.figures:
        if name not in given:
            raise UserError(
                f"{asked.name}: {artifact.manifest.stage} gives no figure {name!r}; it gives {', '.join(given)}"
            )


def comparison_of(asked: Campaign, trials: list[Trial]) -> ComparisonConfig:
    """What the comparison of these runs is told."""
    return ComparisonConfig(
        experiment=asked.name,
        declared=load(asked.which).model_dump(exclude={"measure"}),  # whole, whatever --quick leaves out
        quick=asked.quick,
        runs=[(trial.variant, trial.point, trial.seed) for trial in trials],
    )
