"""Run an experiment: the pipeline once for each of its runs, and the comparison of what came out."""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from prefect import State, flow, get_run_logger
from prefect.runtime import flow_run
from prefect.states import Completed
from pydantic import BaseModel

from flows.engine.stage import Outcome, Stage
from flows.pipeline.experiments.keeping import keep
from flows.pipeline.experiments.trials import Campaign, Trial, campaign
from flows.pipeline.selection import Selection
from flows.service.beats import beating
from flows.service.building import Builder, build_chain, mending
from flows.service.form import DEFAULT_CONFIG, REQUIRED, checked, experiment_form, takes
from flows.service.watching.live import LivePage, Watch
from flows.service.watching.pages import RunPage, chapters, key_of
from flows.stages.comparison import ComparisonConfig, comparison, figures_of
from flows.stages.judging.evaluation import EvaluationConfig, evaluation
from flows.stages.judging.held_out import HeldOutConfig, held_out
from flows.stages.measurement import measurement, measurement_config
from flows.store.local import Artifact
from flows.store.manifest import Name
from textmill.errors import Diverged, UserError, first_line
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
        made: dict[Trial, list[Artifact]] = {}
        diverged: dict[Trial, str] = {}

        def figure_of(trial: Trial) -> float:
            return asked.experiment.figure.worst if trial in diverged else _figure(asked, made[trial][-1])

        for number, trial in enumerate(asked.trials(figure_of), 1):
            logger.info("Run %d: %s", number, trial.title)
            page = pages.setdefault(trial.title, RunPage(trial.request.steps if trial.request else []))
            try:
                made[trial] = _run(asked, trial, page, watch, suspects)
            except Diverged as error:
                logger.warning("%s diverged, and counts as the worst: %s", trial.title, first_line(error))
                diverged[trial] = first_line(error).partition(" (")[0]  # what became not finite, and at which step
                continue
            if asked.experiment.figure.held_out is None:
                _check_figures(asked, made[trial][-1])
        if not made:
            raise UserError(f"every run of {asked.name} diverged; lower the learning rates")
        if asked.experiment.figure.held_out is not None:
            made = Judging(asked, pages, watch, suspects)(made, [*diverged])
            _check_figures(asked, next(iter(made.values()))[-1])
        stages = list({artifact.name: artifact for run in made.values() for artifact in run}.values())
        builder = Builder(asked.pipeline, watch, pages.setdefault("comparison", RunPage([])), suspects)
        results = [run[-1] for run in made.values()]
        return _built(builder, comparison, comparison_of(asked, made, stages, diverged), results=results, stages=stages)

    with live.closed_with(lambda: chapters(pages, RunPage.final)):
        for trial in asked.trials(lambda trial: None):
            if trial.request:
                trial.request.check()
        with Watch() as watch, watch.showing(live):
            outcome = mending(compare)
        path = keep(outcome.artifact.stats, asked.pipeline.config.name, outcome.artifact.manifest.code)
        logger.info("%s: %s, kept in %s", asked.name, outcome.headline, path)
    return Completed(message=outcome.headline, data=outcome)


def _run(asked: Campaign, trial: Trial, page: RunPage, watch: Watch, suspects: Collection[Name]) -> list[Artifact]:
    """One run: the artifacts of its stages, the last of which holds its figure."""
    if trial.request is not None:
        artifacts = [outcome.artifact for outcome in build_chain(trial.request, watch, page, suspects)]
        return sorted(artifacts, key=lambda artifact: artifact.manifest.stage == asked.experiment.figure.stage)
    measured = measurement_config(asked.which, trial.variant, trial.settings, trial.seed)
    return [_built(Builder(asked.pipeline, watch, page, suspects), measurement, measured).artifact]


def _built(builder: Builder, stage: Stage[Any], config: BaseModel, **inputs: Any) -> Outcome:
    """What came of a stage that is built by itself."""
    with builder:
        builder(stage, config, **inputs)
    [outcome] = builder.outcomes
    return outcome


@dataclass(frozen=True)
class Judging:
    """Asks the models of all runs about the same text, which the corpus of one variant holds out."""

    asked: Campaign
    pages: dict[str, RunPage]
    watch: Watch
    suspects: Collection[Name]

    def __call__(self, made: Mapping[Trial, list[Artifact]], diverged: Sequence[Trial]) -> dict[Trial, list[Artifact]]:
        """The artifacts of each run, and what its model makes of the text, which does not depend on which diverged."""
        corpora = {trial: _corpus(run) for trial, run in made.items()}
        corpora |= {trial: self._corpus_of(trial) for trial in diverged}
        named = self.asked.experiment.figure.held_out
        reference = next(corpus for trial, corpus in corpora.items() if trial.variant == named)
        different = {corpus.digest: corpus for corpus in corpora.values()}
        text = self._built(
            "held-out text", held_out, HeldOutConfig(experiment=self.asked.name), reference=reference,
            corpora=[different[digest] for digest in sorted(different)],
        )  # fmt: skip
        return {
            trial: [
                *run,
                self._built(
                    trial.title, evaluation, EvaluationConfig(run=trial.title), checkpoint=run[-1], held_out=text
                ),
            ]
            for trial, run in made.items()
        }

    def _corpus_of(self, trial: Trial) -> Artifact:
        """The corpus of a run that has no model."""
        assert trial.request is not None
        request = replace(trial.request, selection=Selection(until="prepare"))
        page = self.pages.setdefault(trial.title, RunPage([]))
        return _corpus([outcome.artifact for outcome in build_chain(request, self.watch, page, self.suspects)])

    def _built(self, title: str, stage: Stage[Any], config: BaseModel, **inputs: Any) -> Artifact:
        page = self.pages.setdefault(title, RunPage([]))
        return _built(Builder(self.asked.pipeline, self.watch, page, self.suspects), stage, config, **inputs).artifact


def _corpus(artifacts: Sequence[Artifact]) -> Artifact:
    return next(artifact for artifact in artifacts if artifact.manifest.stage == "prepare")


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


def comparison_of(
    asked: Campaign,
    made: Mapping[Trial, Sequence[Artifact]],
    stages: Sequence[Artifact],
    diverged: Mapping[Trial, str],
) -> ComparisonConfig:
    """What the comparison of these runs is told, each of which went through some of the stages, or diverged."""
    places = {artifact.name: place for place, artifact in enumerate(stages)}
    return ComparisonConfig(
        experiment=asked.name,
        declared=asked.declared.model_dump(exclude={"measure"}),
        quick=asked.quick,
        runs=[(trial.variant, trial.point, trial.seed) for trial in made],
        stages=[sorted({places[artifact.name] for artifact in run}) for run in made.values()],
        diverged=[(trial.variant, trial.point, trial.seed) for trial in diverged],
        reasons=list(diverged.values()),
    )
