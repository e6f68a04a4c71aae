"""Plots of a training's metrics, as SVG elements that are the same bytes each time."""

from __future__ import annotations

import io
import json
from collections.abc import Iterable, Sequence
from typing import TYPE_CHECKING, Any

import matplotlib

from flows.store.local import Artifact

if TYPE_CHECKING:
    from matplotlib.figure import Figure

matplotlib.use("svg")
matplotlib.rcParams.update(
    {"svg.hashsalt": "textmill", "font.size": 9, "axes.spines.top": False, "axes.spines.right": False}
)

Metrics = list[dict[str, Any]]


def loss_curves(artifact: Artifact) -> str:
    """Training and validation loss over the steps, with the level that a model without context reaches."""
    import matplotlib.pyplot as plt

    metrics = read_metrics(artifact)
    figure, axes = plt.subplots(figsize=(7, 3.2), layout="constrained")
    axes.plot(*series(metrics, "loss"), color="#9db4c8", linewidth=1, label="training loss")
    axes.plot(*series(metrics, "validation_loss"), color="#c23b22", marker="o", markersize=3, label="validation loss")
    if "unigram_entropy" in artifact.stats:
        axes.axhline(
            artifact.stats["unigram_entropy"], color="#555555", linestyle="--", linewidth=1, label="unigram entropy"
        )
    axes.set(xlabel="step", ylabel="nats a token")
    axes.legend(frameon=False)
    return svg_of(figure)


def validation_curves(runs: Iterable[tuple[str, Artifact]]) -> str:
    """Validation loss over the steps of several trainings, a color for each name among them."""
    import matplotlib.pyplot as plt

    figure, axes = plt.subplots(figsize=(7, 3.2), layout="constrained")
    colors: dict[str, str] = {}
    for name, artifact in runs:
        label = name if name not in colors else None
        color = colors.setdefault(name, f"C{len(colors)}")
        curve = series(read_metrics(artifact), "validation_loss")
        axes.plot(*curve, color=color, marker="o", markersize=3, linewidth=1, label=label)
    axes.set(xlabel="step", ylabel="validation loss, nats a token")
    axes.legend(frameon=False)
    return svg_of(figure)


def read_metrics(artifact: Artifact) -> Metrics:
    """The rows of a training's `metrics.jsonl`: a step, and what was measured there."""
    with artifact.open("metrics.jsonl") as lines:
        return [json.loads(line) for line in lines]


def series(metrics: Metrics, name: str) -> tuple[Sequence[int], Sequence[float]]:
    """Steps and values of those rows that hold `name`."""
    points = [(row["step"], row[name]) for row in metrics if row.get(name) is not None]
    return [step for step, _ in points], [value for _, value in points]


def svg_of(figure: Figure) -> str:
    """The figure as an SVG element; the figure is closed."""
    import matplotlib.pyplot as plt

    svg = io.StringIO()
    figure.savefig(svg, format="svg", metadata={"Date": None, "Creator": None})
    plt.close(figure)
    return svg.getvalue()[svg.getvalue().index("<svg") :]
