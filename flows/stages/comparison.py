"""comparison: the results of an experiment's runs -> one page with the conclusion, the metric and its curves."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping, Sequence
from statistics import mean
from typing import Any

from pydantic import BaseModel, Field

from flows.engine.page import Block, Picture, Table, Text
from flows.engine.stage import Job, Stage
from flows.store.local import Artifact

ENOUGH_SEEDS = 3
CURVES = "Validation loss of every run"


class ComparisonConfig(BaseModel, extra="forbid"):
    """What is compared. The runs are in the order of the results that the stage is given."""

    experiment: str = Field(description="Name of the experiment")
    claim: str = Field(description="The sentence that is put to the test")
    favored: str = Field(description="The variant that must win for the claim to hold")
    metric: str = Field(description="The metric that decides")
    lower_is_better: bool = Field(description="Which way is better")
    runs: list[tuple[str, int]] = Field(description="Variant and seed of each result")


class Comparison(Stage[ComparisonConfig]):
    """An experiment's page: `index.html`, `curves.svg` and `stats.json`."""

    name = "comparison"
    label_is_subject = True
    version = 3
    inputs = ("results",)

    def build(self, job: Job[ComparisonConfig]) -> None:
        from flows.stages.figures import validation_curves
        from flows.stages.html import template

        config, results = job.config, job.given("results")
        variants = [variant for variant, _ in config.runs]
        values: dict[str, list[float]] = {}
        for variant, artifact in zip(variants, results, strict=True):
            values.setdefault(variant, []).append(artifact.stats[config.metric])
        stats = {
            "claim": config.claim,
            "conclusion": conclusion(values, config.favored, lower_is_better=config.lower_is_better),
            "metric": config.metric,
            "variants": {name: {"mean": mean(seeds), "seeds": seeds} for name, seeds in values.items()},
        }
        curves = validation_curves(zip(variants, results, strict=True))
        page = template("comparison.html").render(
            title=config.experiment, stats=stats, config=config, curves=Picture(CURVES, curves)
        )
        (job.out / "index.html").write_text(page, encoding="utf-8")
        (job.out / "curves.svg").write_text(curves, encoding="utf-8")
        (job.out / "stats.json").write_text(json.dumps(stats, indent=1))

    def label(self, config: ComparisonConfig) -> str:
        return config.experiment

    def timeline(self, label: str, pipeline: str) -> str:
        return f"comparison of {label}"

    def headline(self, stats: dict[str, Any]) -> str:
        return f"the claim {stats['conclusion']}"

    def page(self, artifact: Artifact) -> Iterator[Block]:
        stats = artifact.stats
        yield Text(f"{stats['claim']} The claim {stats['conclusion']}.")
        with artifact.open("curves.svg") as svg:
            yield Picture(CURVES, svg.read().decode())
        rows = [(name, variant["mean"], len(variant["seeds"])) for name, variant in stats["variants"].items()]
        yield Table(("variant", stats["metric"].replace("_", " "), "seeds"), rows)


def conclusion(values: Mapping[str, Sequence[float]], favored: str, *, lower_is_better: bool) -> str:
    """What the values of the deciding metric (by variant, one a seed) say about the claim.

    The favored variant has to win with every seed, and of fewer than three seeds a win may be luck.
    """
    sign = 1 if lower_is_better else -1
    others = [seeds for name, seeds in values.items() if name != favored]
    by_seed = zip(values[favored], *others, strict=True)
    wins = [all(sign * own < sign * other for other in rest) for own, *rest in by_seed]
    counted = f"with {sum(wins)} of {len(wins)} seeds"
    if all(wins):
        few = "" if len(wins) >= ENOUGH_SEEDS else f"; fewer than {ENOUGH_SEEDS} may be luck: --seeds {ENOUGH_SEEDS}"
        return f"holds ({counted}{few})"
    return f"is undecided ({counted})" if any(wins) else f"does not hold ({counted})"


comparison = Comparison()
