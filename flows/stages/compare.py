"""An experiment's page: the claim, the verdict, the figure of every variant, and their curves."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from statistics import mean
from typing import TYPE_CHECKING

from markupsafe import Markup

from flows.stages.pages import metrics, series, svg_of, template

if TYPE_CHECKING:
    from flows.engine.stage import Job
    from flows.stages.comparison import Comparison
    from flows.store.local import Artifact

ENOUGH_SEEDS = 3


def write_comparison(job: Job[Comparison]) -> None:
    """Write `index.html`, `curves.svg` and `stats.json` into `job.out`."""
    settings, results = job.config, job.inputs["results"]
    figures: dict[str, list[float]] = {}
    for (variant, _), artifact in zip(settings.runs, results, strict=True):
        figures.setdefault(variant, []).append(artifact.stats[settings.figure])
    stats = {
        "claim": settings.claim,
        "verdict": verdict(figures, settings.favoured, lower_is_better=settings.lower_is_better),
        "figure": settings.figure,
        "variants": {name: {"mean": mean(values), "seeds": values} for name, values in figures.items()},
    }
    curves = _curves(settings.runs, results)
    page = template("comparison.html").render(
        title=settings.experiment, stats=stats, settings=settings, curves=Markup(curves)
    )
    (job.out / "index.html").write_text(page, encoding="utf-8")
    (job.out / "curves.svg").write_text(curves, encoding="utf-8")
    (job.out / "stats.json").write_text(json.dumps(stats, indent=1))


def verdict(figures: Mapping[str, Sequence[float]], favoured: str, *, lower_is_better: bool) -> str:
    """What the figures (of each variant, one a seed) say: the favoured variant has to win with every seed, and of
    fewer than three seeds a win may be luck."""
    sign = 1 if lower_is_better else -1
    others = [values for name, values in figures.items() if name != favoured]
    by_seed = zip(figures[favoured], *others, strict=True)
    wins = [all(sign * own < sign * other for other in rest) for own, *rest in by_seed]
    told = f"with {sum(wins)} of {len(wins)} seeds"
    if all(wins):
        few = "" if len(wins) >= ENOUGH_SEEDS else f"; fewer than {ENOUGH_SEEDS} may be luck: --seeds {ENOUGH_SEEDS}"
        return f"holds ({told}{few})"
    return f"is undecided ({told})" if any(wins) else f"does not hold ({told})"


def _curves(runs: Sequence[tuple[str, int]], results: Sequence[Artifact]) -> str:
    """Validation loss over the steps, a colour for each variant, as SVG."""
    import matplotlib.pyplot as plt

    figure, axes = plt.subplots(figsize=(7, 3.2), layout="constrained")
    colours: dict[str, str] = {}
    for (variant, _), artifact in zip(runs, results, strict=True):
        label = variant if variant not in colours else None
        colour = colours.setdefault(variant, f"C{len(colours)}")
        curve = series(metrics(artifact), "validation_loss")
        axes.plot(*curve, color=colour, marker="o", markersize=3, linewidth=1, label=label)
    axes.set(xlabel="step", ylabel="validation loss, nats a token")
    axes.legend(frameon=False)
    return svg_of(figure)
