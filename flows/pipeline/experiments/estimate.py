"""How long an experiment will take, by what the artifacts of the store took: trainings by the FLOPs of those nearest to
them, measurements by others of the experiment, other stages by what the same stage took before."""

from __future__ import annotations

import json
import math
from collections import defaultdict
from collections.abc import Iterable
from dataclasses import dataclass
from heapq import nsmallest
from statistics import median

from experiments.catalog import name_of
from flows.pipeline.chain import STAGES
from flows.pipeline.config import PipelineConfig
from flows.pipeline.experiments.trials import Campaign, Trial
from flows.pipeline.plan import Step
from flows.stages.comparison import figures_of, flops_of
from flows.stages.measurement import measurement, measurement_config
from flows.store.local import Artifact, Store
from modeling.config.run import RunConfig
from modeling.cost import flops_per_token

__all__ = ["Pace", "PlannedRun", "planned"]

TRAININGS = ("pretrain", "finetune")
NEIGHBORS = 5  # trainings whose rates foretell that of another


@dataclass(frozen=True)
class PlannedRun:
    """What a run would do.

    Attributes:
        trial: the run.
        steps: its stages; empty where it is no pipeline.
        reused, built: how many stages are there already, and how many are to be built, those that an earlier run of the
            plan builds not counted.
        seconds: how long that takes; None where nothing like it was built before.
        assumed: whether it depends on a sweep that has not been run.
    """

    trial: Trial
    steps: list[Step]
    reused: int
    built: int
    seconds: float | None
    assumed: bool


@dataclass(frozen=True)
class Training:
    """What one took: FLOPs of a step, steps, and FLOPs a second, whatever else it did in its time."""

    step: float
    steps: int
    rate: float

    def distance(self, step: float, steps: int) -> float:
        """From one of so many steps of so many FLOPs. Small steps have low rates, and so have short trainings, of which
        start and evaluations are the most; what a step costs counts double."""
        return abs(math.log(self.step / step)) + abs(math.log(self.steps / steps)) / 2


class Pace:
    """How fast stages were in this store."""

    def __init__(self, store: Store) -> None:
        self._seconds: defaultdict[str, list[float]] = defaultdict(list)
        self._trainings: list[Training] = []
        self._measured: defaultdict[str, dict[str, list[float]]] = defaultdict(lambda: defaultdict(list))
        for artifact in store.artifacts():
            manifest = artifact.manifest
            if manifest.stage == measurement.name:
                told = manifest.settings
                self._measured[name_of(told["experiment"])][told["variant"]].append(manifest.seconds)
                continue
            self._seconds[manifest.stage].append(manifest.seconds)
            if manifest.stage == "pretrain" and manifest.seconds:
                steps = artifact.stats["steps"]
                flops = flops_of(artifact)(steps)
                self._trainings.append(Training(flops / steps, steps, flops / manifest.seconds))

    def of_measurement(self, experiment: str, variant: str) -> float | None:
        """How long a measurement takes, by those of that variant if there are any; None if the experiment has none."""
        variants = self._measured[experiment]
        like = variants[variant] or [seconds for each in variants.values() for seconds in each]
        return median(like) if like else None

    def of_stage(self, stage: str, config: PipelineConfig) -> float | None:
        """How long a stage of a pipeline will take; None if nothing like it was built here."""
        if stage in TRAININGS and not config.import_checkpoint and self._trainings:
            run: RunConfig = getattr(config, stage)
            vocab_size = config.train_tokenizer.planned_size() or 0
            model = config.pretrain.model
            step = run.batch * model.context * flops_per_token(model, vocab_size)
            nearest = nsmallest(NEIGHBORS, self._trainings, key=lambda one: one.distance(step, run.steps))
            return run.steps * step / median(training.rate for training in nearest)
        return median(self._seconds[stage]) if self._seconds[stage] else None


def planned(campaign: Campaign) -> list[PlannedRun]:
    """Every run of an experiment, with what it would reuse, build and take, as of now."""
    store = campaign.pipeline.store
    pace = Pace(store)
    known: dict[Trial, Artifact | None] = {}
    to_build: set[str] = set()

    def figure_of(trial: Trial) -> float | None:
        artifact = known[trial]
        return None if artifact is None else figures_of(artifact).get(campaign.experiment.figure.name)

    runs: list[PlannedRun] = []
    for trial in campaign.trials(figure_of):
        steps = trial.request.steps if trial.request else []
        known[trial] = steps[-1].artifact if steps else _measured(campaign, trial)
        swept = len(campaign.experiment.swept(trial.variant)) > 0 and trial.seed > 0
        before = [one for one in known if one.variant == trial.variant and one.seed == 0]
        assumed = swept and any(known[one] is None for one in before)
        measured = known[trial] if not steps else None
        named = [] if measured else _names(trial, steps)
        new = [stage for stage, name in named if name not in to_build]
        to_build |= {name for _, name in named}
        if trial.request:
            seconds = [pace.of_stage(stage, trial.request.config) for stage in new]
        else:
            seconds = [pace.of_measurement(name_of(campaign.which), trial.variant) for _ in new]
        total = None if None in seconds else sum(each for each in seconds if each is not None)
        reused = sum(step.action == "reuse" for step in steps) + (measured is not None)
        runs.append(PlannedRun(trial, steps, reused, len(new), total, assumed))
    return runs


def _names(trial: Trial, steps: Iterable[Step]) -> list[tuple[str, str]]:
    """Of each stage that a run would build, its name and what it is: two runs that share it build it once."""
    if trial.request is None:
        return [(measurement.name, trial.title)]
    document = trial.request.config.model_dump(mode="json")
    names = []
    for step in steps:
        if step.action.startswith("build"):
            until = list(STAGES)[: list(STAGES).index(step.stage) + 1]
            names.append((step.stage, json.dumps([step.title, *(document[stage] for stage in until)])))
    return names


def _measured(campaign: Campaign, trial: Trial) -> Artifact | None:
    """What the store holds of a run that is no pipeline."""
    from flows.engine.assess import assess
    from flows.engine.stage import Context

    config = measurement_config(campaign.which, trial.variant, trial.settings, trial.seed)
    return assess(measurement, config, {}, Context(campaign.pipeline.store)).artifact
