"""The runs of an experiment: the pipeline once for each variant and seed."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from experiments import NAMES, Experiment, load
from flows.pipeline.request import RunRequest
from flows.pipeline.selection import Selection
from flows.stages.comparison import ComparisonConfig
from textmill.errors import UserError
from textmill.settings import merged


@dataclass(frozen=True)
class Run:
    """One variant with one seed."""

    variant: str
    seed: int
    request: RunRequest

    @property
    def title(self) -> str:
        return f"{self.variant}, seed {self.seed}"


def plan_experiment(name: str, path: Path, overrides: Mapping[str, Any], seeds: int) -> list[Run]:
    """The runs of the experiment `name`, each with its plan.

    Raises:
        UserError: no such experiment, no seed, or a mistake in the configuration.
    """
    if name not in NAMES:
        raise UserError(f"there is no experiment {name!r}; the experiments are {', '.join(NAMES)}")
    if seeds < 1:
        raise UserError(f"{seeds} seeds make no run: give 1 or more")
    runs = runs_of(load(name), path, overrides, seeds)
    for run in runs:
        _ = run.request.steps  # made now, so that mistakes are found
    return runs


def runs_of(experiment: Experiment, path: Path, overrides: Mapping[str, Any], seeds: int) -> list[Run]:
    """The runs of an experiment on a configuration: every variant with the seeds 0, 1, … What makes the variants wins
    over `overrides`, which are for all of them.

    Raises:
        UserError: a mistake in the configuration, or two runs that would be the same on it.
    """
    runs: dict[str, Run] = {}
    until = Selection(until=experiment.stage)
    for seed in range(seeds):
        seeded: dict[str, Any] = {"pretrain": {"seed": seed}}
        if experiment.stage == "finetune":
            seeded["finetune"] = {"seed": seed}
        for variant, changes in experiment.variants.items():
            settled = merged(merged(overrides, seeded), changes)
            run = Run(variant, seed, RunRequest.load(path, settled, until))
            same = runs.setdefault(run.request.config.model_dump_json(), run)
            if same is not run:
                raise UserError(
                    f"on this configuration {same.title} and {run.title} would be the same run; leave what they differ "
                    "in to the experiment, and give another configuration"
                )
    return list(runs.values())


def comparison_of(name: str, runs: list[Run]) -> ComparisonConfig:
    """What the comparison of these runs is told."""
    experiment = load(name)
    return ComparisonConfig(
        experiment=name,
        claim=experiment.claim,
        favored=experiment.favored,
        metric=experiment.metric,
        lower_is_better=experiment.lower_is_better,
        runs=[(run.variant, run.seed) for run in runs],
    )
