"""What an experiment is: a claim, what is varied, which figure decides, and what must be equal for it to be fair.

It is written as a YAML file, or as a Python module that gives an `EXPERIMENT`. Variants are settings of a pipeline; a
module may instead give a function, `measure`, for what is no pipeline.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Collection, Iterator, Mapping
from itertools import product
from typing import Any, Literal

from pydantic import BaseModel, ConfigDict, Field, ValidationInfo, field_validator, model_validator

from textmill.progress import Progress
from textmill.settings import layered, merged

__all__ = [
    "AXES", "Agrees", "Axis", "Better", "Contrast", "Experiment", "Figure", "Measure", "Measured", "Published", "Quick",
    "Same", "Slope", "nested",
]  # fmt: skip

Axis = Literal["steps", "tokens", "parameters", "flops", "seconds"]
AXES: tuple[Axis, ...] = ("steps", "tokens", "parameters", "flops", "seconds")


class Section(BaseModel):
    """A part of an experiment that knows all its keys."""

    model_config = ConfigDict(extra="forbid", frozen=True)


class Measured(Section):
    """What `measure` gives of one variant and seed.

    Attributes:
        figures: by name.
        curve: points of a curve, each with a `step` and whatever else was measured there.
        pictures: SVG elements by their titles, shown in the report.
    """

    figures: dict[str, float]
    curve: list[dict[str, float]] = []
    pictures: dict[str, str] = {}


Measure = Callable[[Mapping[str, Any], int, Progress], Measured]  # of settings, seed, and where to tell how far it is


Spending = Literal["flops", "seconds"]


class Figure(Section):
    """The number that decides between variants: a key of what a stage's `stats.json`, or `measure`, gives."""

    name: str = Field("bits_per_byte", description="Its key; nested keys are joined by dots")
    stage: str = Field("pretrain", description="The stage that gives it; later stages are not run")
    better: Literal["lower", "higher"] = Field("lower", description="Which way is better")
    baseline: str | None = Field(None, description="Key of what a constant answer reaches, which an accuracy must have")
    at_equal: Spending | None = Field(
        None, description="Read it off the curve where the run that spent least of these ended; null: at the end"
    )
    held_out: str | None = Field(
        None,
        description="Where variants have other text: judge all by the text that the corpus of this variant sets aside "
        "and no variant trains on, by bits per byte, `sources.NAME.bits_per_byte` of each source; null: by its own",
    )

    @property
    def worst(self) -> float:
        """What a run that diverged is worth."""
        return math.inf if self.better == "lower" else -math.inf

    @model_validator(mode="after")
    def _held_out_text_is_continued(self) -> Figure:
        if self.held_out is not None and (self.stage != "pretrain" or self.at_equal is not None):
            raise ValueError("held_out text is read by models at the end of `pretrain`; leave `stage`, `at_equal` out")
        return self

    @model_validator(mode="after")
    def _an_accuracy_has_a_baseline(self) -> Figure:
        if "accuracy" in self.name and self.baseline is None:
            raise ValueError(f"figure {self.name} needs a baseline: the key of what a constant answer reaches")
        return self


class Better(Section):
    """One variant beats another, by more than `by`, over paired seeds."""

    better: str = Field(description="The variant that wins if the claim is true")
    than: str = Field(description="The one that it beats")
    by: float = Field(0.0, ge=0, description="Least difference that counts, in units of the figure")
    figure: str | None = Field(None, description="Another figure than the experiment's; lower is better as there")
    at_equal: Spending | None = Field(
        None, description="Read the experiment's figure off the curves where the cheapest run ended; null: as there"
    )

    @property
    def variants(self) -> tuple[str, ...]:
        return (self.better, self.than)


class Same(Section):
    """Two variants differ by at most `within`."""

    same: tuple[str, str] = Field(description="The two variants")
    within: float = Field(gt=0, description="Greatest difference that does not count, in units of the figure")
    figure: str | None = Field(None, description="Another figure than the experiment's")

    @property
    def variants(self) -> tuple[str, ...]:
        return self.same


class Slope(Section):
    """The figure is a power of a variant's size: its exponent, fitted over the variants, lies between two values."""

    over: dict[str, float] = Field(min_length=3, description="Size of each variant, such as bytes or FLOPs")
    size: str = Field("size", description="What the size is, as the verdict calls it")
    between: tuple[float, float] = Field(description="Least and greatest exponent that the claim allows")
    figure: str | None = Field(None, description="Another figure than the experiment's")
    foretells: float | None = Field(
        None,
        gt=0,
        lt=1,
        description="Fit without the largest variant, and foretell it to within this share; null: fit all",
    )

    @property
    def variants(self) -> tuple[str, ...]:
        return tuple(self.over)

    @model_validator(mode="after")
    def _three_are_fitted(self) -> Slope:
        if self.foretells and len(self.over) < 4:
            raise ValueError("foretells needs four variants or more: the law is fitted to three")
        return self

    @field_validator("over")
    @classmethod
    def _sizes_are_positive(cls, over: dict[str, float]) -> dict[str, float]:
        if any(size <= 0 for size in over.values()) or len(set(over.values())) < len(over):
            raise ValueError("sizes must be positive and different: their logarithms are fitted")
        return over


class Agrees(Section):
    """Small runs rank variants as large ones do: of the pairs of variants, `least` have the same winner.

    It is decided by the interval of the share over variants that are drawn again from these: of others, which were not
    tried, they are a sample. Source: DataDecide (Magnusson et al. 2025).
    """

    small: list[str] = Field(min_length=2, description="The variants at the small size; the first is compared with all")
    large: list[str] = Field(description="The same at the large size, in the same order")
    least: float = Field(0.8, ge=0, le=1, description="Share of the pairs that must have the same winner")
    figure: str | None = Field(None, description="Another figure than the experiment's")

    @property
    def variants(self) -> tuple[str, ...]:
        return (*self.small, *self.large)

    def among(self, variants: Collection[str]) -> Agrees | None:
        """The same of those of the variants that were run at both sizes; None if they are fewer than two."""
        pairs = [pair for pair in zip(self.small, self.large, strict=True) if {*pair} <= {*variants}]
        small, large = ([pair[size] for pair in pairs] for size in (0, 1))
        return self.model_copy(update={"small": small, "large": large}) if len(pairs) > 1 else None

    @model_validator(mode="after")
    def _sizes_are_paired(self) -> Agrees:
        if len(self.small) != len(self.large):
            raise ValueError("small and large must name as many variants, in the same order")
        return self


Contrast = Better | Same | Slope | Agrees


class Published(Section):
    """A direction that somebody else published, beside which ours is put."""

    source: str = Field(description="Authors, year, title, and the table or figure")
    says: str = Field(description="What was found there, in one sentence with its number")
    ours: list[Contrast] = Field(
        [],
        description="Contrasts that say the same of our variants; judged, but no part of the verdict. Empty: not tried",
    )


class Quick(Section):
    """What `--quick` changes: a look at whether it runs, never a verdict. What makes a variant stays."""

    settings: dict[str, Any] = Field({}, description="Laid over the settings of the experiment")
    variants: list[str] = Field([], description="Only these variants; empty: all")


class Experiment(Section):
    """A claim, and what decides it.

    The claim holds if all `contrasts` hold. Where there is a `sweep`, every variant is tried with each of its values
    and one seed, and the best of them goes on with the other seeds.
    """

    claim: str = Field(description="One sentence that numbers can contradict")
    chapter: str = Field("", description="Where it comes from: a sentence of the report that it tests")
    config: str | None = Field(None, description="The pipeline that the variants change; null: the one that is given")
    settings: dict[str, Any] = Field({}, description="Settings of every variant, nested like a configuration file")
    replaces: list[str] = Field(
        [],
        description="Settings by dotted name, or whole sections, of which the variants say all: what the configuration "
        "says of them is left out",
    )
    variants: dict[str, dict[str, Any]] = Field({}, description="Settings of each variant by its name")
    grid: dict[str, list[Any]] = Field(
        {}, description="In place of variants: values of settings by dotted name; their product are the variants"
    )
    sweep: dict[str, list[float]] = Field(
        {}, description="Values of settings by dotted name to choose from for each variant, such as learning rates"
    )
    sweep_of: dict[str, dict[str, list[float]]] = Field(
        {}, description="In place of `sweep`, by variant: where families have other settings"
    )
    figure: Figure = Field(Figure(), description="What decides")
    contrasts: list[Contrast] = Field(
        min_length=1, description="What must hold: better/than, same/within, a slope, or small/large"
    )
    equal: list[Axis] = Field([], description="What the variants must have in common, which is checked")
    seeds: int = Field(3, ge=1, description="How often each variant is run")
    seeded: list[str] = Field(["pretrain.seed"], description="Settings that the number of the seed goes to")
    published: list[Published] = Field([], description="What others found")
    quick: Quick = Field(Quick(), description="What --quick changes")
    measure: Measure | None = Field(None, description="Of a Python module: measures a variant that is no pipeline")

    @field_validator("measure")
    @classmethod
    def _only_python_measures(cls, measure: Measure | None, info: ValidationInfo) -> Measure | None:
        if measure is not None and info.context == "yaml":
            raise ValueError("a function is given by a Python module, not by a YAML file")
        return measure

    @model_validator(mode="before")
    @classmethod
    def _grid_makes_variants(cls, given: Any) -> Any:
        if isinstance(given, dict) and isinstance(given.get("grid"), dict) and not given.get("variants"):
            return {**given, "variants": {_named(point): nested(point) for point in points_of(given["grid"])}}
        return given

    @model_validator(mode="after")
    def _is_consistent(self) -> Experiment:
        if len(self.variants) < 2 and self.measure is None:
            raise ValueError("an experiment compares: give two variants or more, or a grid")
        for contrast in self.all_contrasts:
            if isinstance(contrast, Better) and contrast.at_equal and (contrast.figure or self.figure.held_out):
                raise ValueError(
                    "at_equal is of the experiment's figure on its own text; leave `figure`, `held_out` out"
                )
            for name in contrast.variants:
                if name not in self.variants:
                    raise ValueError(f"no variant is called {name!r}; there are {', '.join(map(repr, self.variants))}")
        held_out = [self.figure.held_out] if self.figure.held_out else []
        for name in (*self.sweep_of, *self.quick.variants, *held_out):
            if name not in self.variants:
                raise ValueError(f"no variant is called {name!r}; there are {', '.join(map(repr, self.variants))}")
        if self.quick.variants and not {*held_out} <= {*self.quick.variants}:
            raise ValueError(f"quick.variants must have {self.figure.held_out!r} too, whose text all are judged by")
        if held_out and any(self.swept(name) for name in self.variants):
            raise ValueError("held_out text is read when all runs are there, too late to sweep by; leave the sweep out")
        if self.measure is None and not self.seeded:
            raise ValueError("`seeded` names no setting: every seed would be the same run")
        return self

    @property
    def all_contrasts(self) -> list[Contrast]:
        """What decides, and what is put beside the findings of others."""
        return [*self.contrasts, *(contrast for other in self.published for contrast in other.ours)]

    @property
    def figures(self) -> list[str]:
        """Names of all figures that it is judged by."""
        names = [self.figure.name, self.figure.baseline, *(contrast.figure for contrast in self.all_contrasts)]
        return [name for name in dict.fromkeys(names) if name]

    def swept(self, variant: str) -> dict[str, list[float]]:
        """The settings that are swept for a variant, with their values from the lowest to the highest."""
        swept = self.sweep_of.get(variant, self.sweep)
        return {name: sorted(values) for name, values in swept.items()}

    def settled(self, variant: str, point: Mapping[str, Any], seed: int) -> dict[str, Any]:
        """All that one run sets: settings of the experiment, of the variant, of the point of the sweep, the seed."""
        seeds = dict.fromkeys(self.seeded, seed) if self.measure is None else {}
        layers = (self.settings, nested(seeds), self.variants[variant], nested(point))
        result: dict[str, Any] = {}
        for layer in layers:
            result = layered(result, layer)
        return result

    def quickly(self) -> Experiment:
        """Itself as `--quick` runs it: one seed, the middle of every sweep, and the settings for that."""

        def middle(sweep: dict[str, list[float]]) -> dict[str, list[float]]:
            return {name: [sorted(values)[len(values) // 2]] for name, values in sweep.items()}

        changes = {
            "seeds": 1,
            "sweep": middle(self.sweep),
            "sweep_of": {variant: middle(sweep) for variant, sweep in self.sweep_of.items()},
            "settings": layered(self.settings, self.quick.settings),
            "variants": {
                name: settings
                for name, settings in self.variants.items()
                if not self.quick.variants or name in self.quick.variants
            },
        }
        return self.model_copy(update=changes)


def nested(dotted: Mapping[str, Any]) -> dict[str, Any]:
    """Values by dotted names as nested mappings.

    Example:
        >>> nested({"a.b": 1, "a.c": 2})
        {'a': {'b': 1, 'c': 2}}
    """
    result: dict[str, Any] = {}
    for name, value in dotted.items():
        for key in reversed(name.split(".")):
            value = {key: value}
        result = merged(result, value)
    return result


def points_of(grid: Mapping[str, list[Any]]) -> Iterator[dict[str, Any]]:
    """All combinations of the values, the last setting varying fastest."""
    for values in product(*grid.values()):
        yield dict(zip(grid, values, strict=True))


def _named(point: Mapping[str, Any]) -> str:
    """ "layers=2, heads=4" of a point of a grid."""
    return ", ".join(f"{name.rpartition('.')[2]}={value}" for name, value in point.items())
