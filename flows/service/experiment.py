"""Run an experiment: the pipeline once for each variant and seed, and the comparison of what came out."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from prefect import State, flow, get_run_logger
from prefect.runtime import flow_run
from prefect.states import Completed

from experiments import NAMES, Experiment, load
from flows.engine.executors import check_executor
from flows.pipeline.chain import Selection, chain
from flows.pipeline.config import PipelineConfig, load_config
from flows.pipeline.plan import Step, plan
from flows.service.flows import DEFAULT_CONFIG, NO_CHANGES, Builder, PipelineForm
from flows.stages.comparison import Comparison, comparison
from flows.store.local import Artifact
from textmill.errors import UserError
from textmill.settings import merged

ExperimentName = Literal[NAMES]


@dataclass(frozen=True)
class Run:
    """One variant with one seed."""

    variant: str
    seed: int
    config: PipelineConfig

    @property
    def title(self) -> str:
        return f"{self.variant}, seed {self.seed}"


def runs_of(experiment: Experiment, config: Path, settings: Mapping[str, Any], seeds: int) -> list[Run]:
    """The runs of an experiment on a configuration: every variant with the seeds 0, 1, … What makes the variants wins
    over `settings`, which are for all of them.

    Raises:
        UserError: a mistake in the configuration, or two runs that would be the same on it.
    """
    runs: dict[str, Run] = {}
    for seed in range(seeds):
        seeded: dict[str, Any] = {"pretrain": {"seed": seed}}
        if experiment.stage == "finetune":
            seeded["finetune"] = {"seed": seed}
        for variant, changes in experiment.variants.items():
            run = Run(variant, seed, load_config(config, merged(merged(settings, seeded), changes)))
            same = runs.setdefault(run.config.model_dump_json(), run)
            if same is not run:
                raise UserError(
                    f"on this configuration {same.title} and {run.title} would be the same run; leave what they differ "
                    "in to the experiment, and give another configuration"
                )
    return list(runs.values())


def plan_runs(name: str, config: Path, settings: Mapping[str, Any], seeds: int) -> list[tuple[Run, list[Step]]]:
    """What every run of the experiment `name` would do now.

    Raises:
        UserError: no such experiment, no seed, or a mistake in the configuration.
    """
    if name not in NAMES:
        raise UserError(f"there is no experiment {name!r}; the experiments are {', '.join(NAMES)}")
    if seeds < 1:
        raise UserError(f"{seeds} seeds make no run: give 1 or more")
    declared = load(name)
    until = Selection(until=declared.stage)
    return [(run, plan(run.config, until)) for run in runs_of(declared, config, settings, seeds)]


@flow(
    name="experiment",
    flow_run_name=lambda: "{name} on {config}".format(**flow_run.parameters),
    persist_result=False,
)
def experiment(
    name: ExperimentName,
    config: str = DEFAULT_CONFIG,
    settings: PipelineForm = NO_CHANGES,
    seeds: int = 1,
) -> State[tuple[Artifact, bool]]:
    """Put one claim to the test: the pipeline with each variant, and what they have in common built once.

    Args:
        name: which experiment.
        config: path of the configuration that the variants change.
        settings: values in place of those in the configuration, for all variants.
        seeds: how often each variant is trained, each time with another seed.
    """
    log = get_run_logger()
    declared = load(name)
    runs = [run for run, _ in plan_runs(name, Path(config), settings.model_dump(), seeds)]
    check_executor(runs[0].config.runner)
    results = []
    for number, run in enumerate(runs, 1):
        log.info("Run %d of %d: %s", number, len(runs), run.title)
        builder = Builder(run.config, Selection(until=declared.stage))
        chain(run.config, builder)
        results.append(next(made for made, _ in builder.outcomes if made.manifest.stage == declared.stage))
    compared = Comparison(
        experiment=name,
        claim=declared.claim,
        favoured=declared.favoured,
        figure=declared.figure,
        lower_is_better=declared.lower_is_better,
        runs=[(run.variant, run.seed) for run in runs],
    )
    builder = Builder(runs[0].config, Selection())
    builder(comparison, compared, results=results)
    [(artifact, reused)] = builder.outcomes
    return Completed(message=comparison.headline(artifact.stats), data=(artifact, reused))
