"""Run an experiment: the pipeline once for each variant and seed, and the comparison of what came out."""

from __future__ import annotations

from collections.abc import Collection, Mapping
from pathlib import Path
from typing import Any

from prefect import State, flow, get_run_logger
from prefect.runtime import flow_run
from prefect.states import Completed

from experiments import load
from flows.engine.stage import Outcome
from flows.pipeline.experiment import Run, comparison_of, plan_experiment
from flows.service.beats import beating
from flows.service.building import Builder, build_chain, mending
from flows.service.form import DEFAULT_CONFIG, REQUIRED, checked, experiment_form, takes
from flows.service.watching.live import LivePage, Watch
from flows.service.watching.pages import RunPage, chapters, key_of
from flows.stages.comparison import comparison
from flows.store.manifest import Name
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
    *, name: str, seeds: int = 1, overrides: Mapping[str, Any] | None = None, config: str = DEFAULT_CONFIG
) -> State[Outcome]:
    """Put one claim to the test: the pipeline with each variant, and what they have in common built once."""
    return put_to_the_test(plan_experiment(name, Path(config), checked(overrides), seeds), name)


def put_to_the_test(runs: list[Run], name: str) -> State[Outcome]:
    """Build every variant and compare them, inside a flow. Its log begins with where to watch it."""
    logger = get_run_logger()
    stage = load(name).stage
    pages = {run.title: RunPage(run.request.steps) for run in runs}
    pages["comparison"] = RunPage([])
    title = f"{name} of {runs[0].request.config.name}"
    live = LivePage(key_of(f"experiment {title}"), title, lambda: chapters(pages, RunPage.live), logger)
    live.refresh()

    def compare(suspects: Collection[Name]) -> Outcome:
        results = []
        for number, run in enumerate(runs, 1):
            logger.info("Run %d of %d: %s", number, len(runs), run.title)
            outcomes = build_chain(run.request, watch, pages[run.title], suspects)
            results.append(next(made.artifact for made in outcomes if made.artifact.manifest.stage == stage))
        with Builder(runs[0].request, watch, pages["comparison"], suspects) as builder:
            builder(comparison, comparison_of(name, runs), results=results)
        [outcome] = builder.outcomes
        return outcome

    with live.closed_with(lambda: chapters(pages, RunPage.final)):
        for run in runs:
            run.request.check()
        with Watch() as watch, watch.showing(live):
            outcome = mending(compare)
    return Completed(message=outcome.headline, data=outcome)
