"""comparison: the results of an experiment's runs -> one page with the verdict, the figures and their curves."""

from __future__ import annotations

from pydantic import BaseModel, Field

from flows.engine.stage import Job, Stage


class Comparison(BaseModel, extra="forbid"):
    """What was compared. The runs are in the order of the results that the stage is given."""

    experiment: str = Field(description="Name of the experiment")
    claim: str = Field(description="The sentence that is put to the test")
    favoured: str = Field(description="The variant that must win for the claim to hold")
    figure: str = Field(description="The figure that decides")
    lower_is_better: bool = Field(description="Which way is better")
    runs: list[tuple[str, int]] = Field(description="Variant and seed of each result")


def build(job: Job[Comparison]) -> None:
    from flows.stages.compare import write_comparison

    write_comparison(job)


comparison = Stage(
    name="comparison",
    version=1,
    build=build,
    label=lambda settings: settings.experiment,
    headline=lambda stats: f"the claim {stats['verdict']}",
)
