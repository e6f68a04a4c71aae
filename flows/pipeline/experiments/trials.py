"""Which runs an experiment comes to. What is swept is settled on the way: the best value goes on with other seeds."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from experiments.catalog import load, name_of
from experiments.data import Data
from experiments.declaration import Experiment
from experiments.sweep import Point, at_edge, best_point, points
from flows.engine.assess import NotThere, assess, check_available
from flows.engine.stage import Context
from flows.pipeline.request import RunRequest
from flows.pipeline.selection import Selection
from flows.stages.ingest import ingest
from flows.store.local import Store
from scraping.collections.config import IngestConfig
from scraping.crawling.source import load_source, shipped_sources
from scraping.extraction.config import RecordsExtractor
from textmill.errors import UserError
from textmill.settings import layered

__all__ = ["Campaign", "Trial", "campaign", "data_of"]

MOST_EXTENSIONS = 4  # values that --extend adds to a swept setting


@dataclass(frozen=True)
class Trial:
    """One run: a variant, at a point of what is swept, with a seed.

    Attributes:
        request: the pipeline that it is; None of what the experiment measures by a function of its own.
        settings: of the variant, the point and the seed.
    """

    variant: str
    point: Point
    seed: int
    request: RunRequest | None = field(compare=False, repr=False)
    settings: Mapping[str, Any] = field(compare=False, repr=False)

    @property
    def title(self) -> str:
        at = "".join(f", {name.rpartition('.')[2]} {value:g}" for name, value in self.point)
        return f"{self.variant}{at}, seed {self.seed}"


FigureOf = Callable[[Trial], float | None]  # of a trial that was run; None where that is not known yet


@dataclass(frozen=True)
class Campaign:
    """An experiment on a configuration.

    Attributes:
        which: name or path of the experiment.
        experiment: what it declares, as far as it is run.
        declared: all that it declares, what --quick leaves out included.
        pipeline: the configuration, with `overrides`, that its variants change; its store is where all is.
        overrides: for all variants, below what makes them.
        quick: whether it is only tried.
        extend: whether a sweep goes on where the best value is its last.
    """

    which: str
    experiment: Experiment
    declared: Experiment
    pipeline: RunRequest
    overrides: Mapping[str, Any]
    quick: bool = False
    extend: bool = False

    @property
    def name(self) -> str:
        return name_of(self.which)

    def trials(self, figure_of: FigureOf) -> Iterator[Trial]:
        """The runs in order, each once.

        `figure_of` is asked for those that were given, when it decides what comes next; where it does not know, the
        middle of a sweep is taken to win.
        """
        given: set[Trial] = set()
        for variant in self.experiment.variants:
            for trial in self._of_variant(variant, figure_of):
                if trial not in given:
                    given.add(trial)
                    yield trial

    def _of_variant(self, variant: str, figure_of: FigureOf) -> Iterator[Trial]:
        swept = self.experiment.swept(variant)
        best: Point = next(iter(points(swept)))
        if len(points(swept)) > 1:
            tried: dict[Point, float | None] = {}
            for _ in range(1 + MOST_EXTENSIONS):
                for point in points(swept):
                    if point not in tried:
                        trial = self.trial(variant, point, 0)
                        yield trial
                        tried[point] = figure_of(trial)
                best = best_point(tried, self.experiment)
                beyond = at_edge(best, swept) if self.extend and None not in tried.values() else {}
                if not beyond:
                    break
                swept = {name: sorted({*values, *beyond.get(name, ())}) for name, values in swept.items()}
            if tried[best] == self.experiment.figure.worst:  # they would diverge too
                return
        for seed in range(self.experiment.seeds):
            yield self.trial(variant, best, seed)

    def trial(self, variant: str, point: Point, seed: int) -> Trial:
        """One run.

        Raises:
            UserError: a mistake in the configuration that its settings come to.
        """
        settings = self.experiment.settled(variant, dict(point), seed)
        if self.experiment.measure is not None:
            return Trial(variant, point, seed, None, settings)
        until = Selection(until=self.experiment.figure.stage)
        overrides = layered(self.overrides, settings)
        request = RunRequest.load(self.pipeline.path, overrides, until, self.experiment.replaces)
        return Trial(variant, point, seed, request, settings)

    def check_that_runs_differ(self) -> None:
        """
        Raises:
            UserError: two runs would be the same on this configuration.
        """
        runs: dict[str, Trial] = {}
        for trial in self.trials(lambda trial: None):
            if trial.request is None:
                continue
            same = runs.setdefault(trial.request.config.model_dump_json(), trial)
            if same is not trial:
                raise UserError(
                    f"on this configuration {same.title} and {trial.title} would be the same run; leave what they "
                    "differ in to the experiment, and give another configuration"
                )


def campaign(
    which: str,
    config: Path,
    overrides: Mapping[str, Any] = {},
    *,
    seeds: int | None = None,
    quick: bool = False,
    extend: bool = False,
) -> Campaign:
    """An experiment, ready to be planned or run.

    Args:
        which: its name, or the path of a file that declares it.
        config: the pipeline, where the experiment names none.
        overrides: settings for all variants; what makes the variants wins.
        seeds: so many, in place of what the experiment says.
        quick: only try whether it runs.
        extend: go on where the best value of a sweep is its last.

    Raises:
        UserError: no such experiment, a mistake in it or in the configuration, or two runs that would be the same.
    """
    declared = load(which, lambda: data_of(RunRequest.load(config, overrides)))
    if seeds is not None and seeds < 1:
        raise UserError(f"{seeds} seeds make no run: give 1 or more")
    experiment = declared.quickly() if quick else declared
    if seeds is not None:
        experiment = experiment.model_copy(update={"seeds": seeds})
    path = _beside(which, declared.config) if declared.config else config
    made = Campaign(which, experiment, declared, RunRequest.load(path, overrides), overrides, quick, extend)
    made.check_that_runs_differ()
    return made


def _beside(which: str, config: str) -> Path:
    """A configuration that a file of one's own names: seen from that file; one that the chapter names: as it is."""
    path = Path(which)
    return path.parent / config if path.suffix else Path(config)


def data_of(pipeline: RunRequest) -> Data:
    """What a pipeline says about its text, as an experiment about it wants to know."""
    config, store = pipeline.config, pipeline.store
    sources = {load_source(entry).name: entry for entry in config.scrape.sources}
    own = config.prepare.reading({source.name: source.extractor for source in config.scrape.load()})
    shipped = shipped_sources()
    return Data(
        prepare=config.prepare.model_dump(mode="json"),
        extractors={name: each.model_dump() for name, each in own.items() if not isinstance(each, RecordsExtractor)},
        sites={name: entry if entry in shipped else str(Path(entry).absolute()) for name, entry in sources.items()},
        collections={each.name: each.model_dump(mode="json") for each in config.collections()},
        there=(*sources, *(each.name for each in config.collections() if _is_there(each, store))),
        mixture={name: each.model_dump() for name, each in config.pretrain.mixture.items()},
    )


def _is_there(collection: IngestConfig, store: Store) -> bool:
    """Whether a run would have a collection: one that is optional may be left out."""
    try:
        if not collection.required and assess(ingest, collection, {}, Context(store)).artifact is None:
            check_available(ingest, collection)
    except NotThere:
        return False
    return True
