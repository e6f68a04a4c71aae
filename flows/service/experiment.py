"""Run an experiment: the pipeline once for each variant and seed, and the comparison of what came out."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Literal

from prefect import State, flow, get_run_logger
from prefect.runtime import flow_run
from prefect.states import Completed

from experiments import NAMES, load
from flows.engine.stage import Outcome
from flows.pipeline.experiment import comparison_of, plan_experiment
from flows.service.building import Builder, build_chain
from flows.service.flows import DEFAULT_CONFIG, NO_OVERRIDES, PipelineForm
from flows.stages.comparison import comparison

if TYPE_CHECKING:
    ExperimentName = str
else:
    ExperimentName = Literal[NAMES]  # so that the form offers the names


@flow(
    name="experiment",
    flow_run_name=lambda: "{name} on {config}".format(**flow_run.parameters),
    persist_result=False,
)
def experiment(
    name: ExperimentName,
    config: str = DEFAULT_CONFIG,
    overrides: PipelineForm = NO_OVERRIDES,
    seeds: int = 1,
) -> State[Outcome]:
    """Put one claim to the test: the pipeline with each variant, and what they have in common built once.

    Args:
        name: which experiment.
        config: path of the configuration that the variants change.
        overrides: values in place of those in the configuration, for all variants.
        seeds: how often each variant is trained, each time with another seed.
    """
    logger = get_run_logger()
    stage = load(name).stage
    runs = plan_experiment(name, Path(config), overrides.model_dump(), seeds)
    for run in runs:
        run.request.check()
    results = []
    for number, run in enumerate(runs, 1):
        logger.info("Run %d of %d: %s", number, len(runs), run.title)
        outcomes = build_chain(run.request)
        results.append(next(made.artifact for made in outcomes if made.artifact.manifest.stage == stage))
    builder = Builder(runs[0].request)
    builder(comparison, comparison_of(name, runs), results=results)
    [outcome] = builder.outcomes
    return Completed(message=outcome.headline, data=outcome)
