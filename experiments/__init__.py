"""The project's claims, each as an experiment that anyone can run again: `textmill experiment NAME`.

One module a claim, which declares an `EXPERIMENT`: variants of one configuration, and the metric that decides between
them. `flows/service/experiment.py` runs them through the pipeline, so that what the variants have in common is built
once, and what another experiment has built already is not built again.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from importlib import import_module
from pkgutil import iter_modules
from typing import Any


@dataclass(frozen=True)
class Experiment:
    """A claim, and what decides it.

    Attributes:
        claim: one sentence that numbers can contradict.
        favored: the variant that comes out best if the claim is true.
        variants: settings of each variant, nested like a configuration file, laid over the configuration.
        stage: the stage whose `stats.json` holds the metric; later stages are not run.
        metric: its key there.
        lower_is_better: which way is better.
    """

    claim: str
    favored: str
    variants: Mapping[str, Mapping[str, Any]]
    stage: str = "pretrain"
    metric: str = "bits_per_byte"
    lower_is_better: bool = True

    def __post_init__(self) -> None:
        if self.favored not in self.variants:
            raise ValueError(f"no variant is called {self.favored!r}")


NAMES = tuple(sorted(module.name for module in iter_modules(__path__)))


def load(name: str) -> Experiment:
    """The experiment that the module `name` declares; `name` is one of `NAMES`."""
    experiment: Experiment = import_module(f"{__name__}.{name}").EXPERIMENT
    return experiment
