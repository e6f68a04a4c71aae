"""measurement: one variant and seed of an experiment that is no pipeline -> its figures, a curve and pictures."""

from __future__ import annotations

import json
import math
from collections.abc import Iterator, Mapping
from typing import Any

from pydantic import BaseModel, Field

from experiments.catalog import code_of, load, name_of
from flows.engine.page import Block, Picture, Table
from flows.engine.stage import Job, Stage
from flows.store.local import Artifact
from textmill.errors import Diverged


class MeasurementConfig(BaseModel, extra="forbid"):
    """What is measured."""

    experiment: str = Field(description="Name or path of the experiment")
    code: str = Field(description="SHA-256 of what measures")
    variant: str = Field(description="Name of the variant")
    settings: dict[str, Any] = Field(description="What the function is given")
    seed: int = Field(description="The number of the seed")


class Measurement(Stage[MeasurementConfig]):
    """What an experiment's own function measures of a variant."""

    name = "measurement"
    label_is_subject = True
    version = 1

    def build(self, job: Job[MeasurementConfig]) -> None:
        """
        Raises:
            Diverged: a figure is not finite.
        """
        config = job.config
        measure = load(config.experiment).measure
        assert measure is not None
        measured = measure(config.settings, config.seed, job.progress)
        if not all(map(math.isfinite, measured.figures.values())):
            raise Diverged(f"{self.label(config)} came to figures that are not finite")
        rows = "".join(json.dumps(row) + "\n" for row in measured.curve)
        (job.out / "metrics.jsonl").write_text(rows)
        for title, svg in measured.pictures.items():
            (job.out / f"{title}.svg").write_text(svg, encoding="utf-8")
        (job.out / "stats.json").write_text(json.dumps(measured.figures))

    def identity(self, config: MeasurementConfig, store: object) -> Any:
        return config.model_dump() | {"experiment": name_of(config.experiment)}

    def label(self, config: MeasurementConfig) -> str:
        return f"{name_of(config.experiment)}, {config.variant}, seed {config.seed}"

    def timeline(self, label: str, pipeline: str) -> str:
        return f"measurement of {label}"

    def headline(self, stats: dict[str, Any]) -> str:
        return ", ".join(f"{name.replace('_', ' ')} {value:.4g}" for name, value in list(stats.items())[:4])

    def page(self, artifact: Artifact) -> Iterator[Block]:
        yield Table(("figure", "value"), list(artifact.stats.items()))
        for name in sorted(artifact.manifest.files):
            if name.endswith(".svg"):
                with artifact.open(name) as svg:
                    yield Picture(name.removesuffix(".svg"), svg.read().decode())


def measurement_config(which: str, variant: str, settings: Mapping[str, Any], seed: int) -> MeasurementConfig:
    """One measurement of an experiment, which is given by name or path.

    Raises:
        UserError: its file is not there.
    """
    return MeasurementConfig(experiment=which, code=code_of(which), variant=variant, settings=dict(settings), seed=seed)


measurement = Measurement()
