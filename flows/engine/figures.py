"""Plots as SVG elements that are the same bytes each time, and that suit a light and a dark page.

What is drawn in the color of the text is `currentColor`: the page says which that is. A picture that stands alone, as
in the Prefect UI, gets a gray that can be read on white and on black.
"""

from __future__ import annotations

import io
import json
import re
import warnings
from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import TYPE_CHECKING, Any

import matplotlib

from flows.engine.page import Picture
from flows.store.local import Artifact

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

TEXT, FAINT = "#808080", "#80808040"
TRAINING, VALIDATION, RATE = "#6f9fd0", "#e2603f", "#3f9e78"
COLORS = ("#e2603f", "#4a86c5", "#3f9e78", "#b58a1b", "#9467bd", "#c2559a")

matplotlib.use("svg")
matplotlib.rcParams.update(
    {
        "svg.hashsalt": "textmill", "svg.fonttype": "none", "font.family": "sans-serif", "font.size": 9,
        "axes.spines.top": False, "axes.spines.right": False, "savefig.transparent": True,
        "text.color": TEXT, "axes.labelcolor": TEXT, "axes.edgecolor": TEXT, "xtick.color": TEXT, "ytick.color": TEXT,
        "axes.grid": True, "grid.color": FAINT, "grid.linewidth": 0.6,
    }
)  # fmt: skip

Metrics = list[dict[str, Any]]


def loss_curves(artifact: Artifact) -> str:
    """Training and validation loss over the steps and the tokens seen, with the level that a model without context
    reaches; below them the learning rate."""
    import matplotlib.pyplot as plt

    metrics, stats = read_metrics(artifact), artifact.stats
    figure, (losses, rates) = plt.subplots(
        2, 1, figsize=(5.2, 3.9), layout="constrained", sharex=True, height_ratios=(4, 1)
    )
    losses.plot(*series(metrics, "loss"), color=TRAINING, linewidth=1, label="training loss")
    losses.plot(
        *series(metrics, "validation_loss"), color=VALIDATION, marker="o", markersize=3, label="validation loss"
    )
    if "unigram_entropy" in stats and "cut_pairs" not in stats:  # which is of the sources too, and the loss is not
        losses.axhline(stats["unigram_entropy"], color=TEXT, linestyle="--", linewidth=1, label="unigram entropy")
    losses.set(ylabel="nats a target token" if "cut_pairs" in stats else "nats a token")
    losses.legend(frameon=False)
    if stats.get("steps"):
        _count_tokens(losses, stats["tokens_seen"] / stats["steps"])
    rates.plot(*series(metrics, "learning_rate"), color=RATE, linewidth=1.2)
    rates.set(xlabel="step", ylabel="learning rate")
    rates.set_ylim(bottom=0)
    return svg_of(figure)


def _count_tokens(axes: Axes, tokens_per_step: float) -> None:
    """A second horizontal axis, in tokens."""
    from matplotlib.ticker import EngFormatter

    def tokens(steps: Any) -> Any:
        return steps * tokens_per_step

    def steps(tokens: Any) -> Any:
        return tokens / tokens_per_step

    above = axes.secondary_xaxis("top", functions=(tokens, steps))
    above.set_xlabel("tokens seen")
    above.xaxis.set_major_formatter(EngFormatter(sep=""))


def banded_curves(stats: Mapping[str, Any]) -> str:
    """The deciding figure over the steps of an experiment's best runs: for each variant the mean over its seeds, and a
    band from the lowest to the highest. Empty where the runs have no curve of it.

    Args:
        stats: what `comparison` came to.
    """
    import matplotlib.pyplot as plt
    import numpy as np

    name, drawn = stats["figure"]["name"], {}
    for variant, best in stats["variants"].items():
        curves = [
            [(row.get("steps", row.get("step")), row[name]) for row in run["curve"] if name in row]
            for run in stats["runs"]
            if run["variant"] == variant and run["point"] == best["point"] and not run.get("diverged")
        ]
        steps = sorted(set.intersection(*({step for step, _ in curve} for curve in curves))) if curves else []
        if len(steps) > 1:
            drawn[variant] = steps, np.array([[dict(curve)[step] for step in steps] for curve in curves])
    if not drawn:
        return ""
    figure, axes = plt.subplots(figsize=(5.2, 3.2), layout="constrained")
    for number, (variant, (steps, values)) in enumerate(drawn.items()):
        color = COLORS[number % len(COLORS)]
        axes.plot(steps, values.mean(axis=0), color=color, marker="o", markersize=3, linewidth=1, label=variant)
        axes.fill_between(steps, values.min(axis=0), values.max(axis=0), color=color, alpha=0.2, linewidth=0)
    axes.set(xlabel="step", ylabel=name.replace("_", " "))
    axes.legend(frameon=False)
    return svg_of(figure)


def vocabulary_curve(points: Iterable[tuple[int, float]]) -> str:
    """Bytes a token over the size of the vocabulary, as (size, bytes a token)."""
    import matplotlib.pyplot as plt
    from matplotlib.ticker import StrMethodFormatter

    sizes, ratios = zip(*points, strict=True)
    figure, axes = plt.subplots(figsize=(5.2, 2.6), layout="constrained")
    axes.plot(sizes, ratios, color=COLORS[1], marker="o", markersize=3, linewidth=1.2)
    axes.set_xscale("log", base=2)
    axes.xaxis.set_major_formatter(StrMethodFormatter("{x:,.0f}"))
    axes.minorticks_off()
    axes.set(xlabel="tokens in the vocabulary", ylabel="bytes a token")
    axes.set_ylim(bottom=0)
    return svg_of(figure)


def learned_functions(artifact: Artifact, text: str) -> Iterator[Picture]:
    """The functions that the first and the last feed-forward of a KAN have learned, a row for each of their layers;
    nothing of a model that is not a KAN. `text` gives the inputs whose spread is shown."""
    with artifact.open("config.json") as file:
        feed_forward = json.load(file)["model"].get("feed_forward")
    if not isinstance(feed_forward, dict) or feed_forward["kind"] == "mlp":  # of a recurrent network it is a size
        return
    import matplotlib.pyplot as plt

    from modeling.inference.edges import learned_functions as read_functions

    rows = read_functions(artifact.fetch(), text)
    if not rows:  # of another network than a GPT
        return
    columns = max(map(len, rows))
    size = (1.9 * columns, 1.6 * len(rows)) if columns > 1 else (4.2, 1.9 * len(rows))
    figure, axes = plt.subplots(len(rows), columns, figsize=size, layout="constrained", squeeze=False)
    for row, functions in zip(axes, rows, strict=True):
        for panel, shown in zip(row, functions, strict=True):
            low, lower, upper, high = shown.spread
            panel.axvspan(low, high, color=FAINT, linewidth=0)
            panel.axvspan(lower, upper, color=FAINT, linewidth=0)
            panel.plot(shown.x, shown.beside, color=TEXT, linestyle="--", linewidth=0.8)
            for number, values in enumerate(shown.learned):
                panel.plot(shown.x, values, color=COLORS[number % len(COLORS)], linewidth=1.2)
            panel.set_title(shown.title, fontsize=7)
            panel.tick_params(labelsize=6)
            panel.locator_params(nbins=3)
    yield Picture(
        "Learned functions of the first and the last block: the edges that vary most over the inputs of a text, or all "
        "groups of rationals. Dashed: the base function alone, or what a rational began as. Shaded: half of the "
        "inputs, and nine tenths.",
        svg_of(figure),
    )


def attention_maps(artifact: Artifact, text: str) -> Iterator[Picture]:
    """Where a few heads of a GPT look while it reads the beginning of a text; nothing of another network."""
    with artifact.open("config.json") as file:
        if json.load(file)["model"].get("kind", "transformer") != "transformer":
            return
    import matplotlib.pyplot as plt
    from matplotlib.colors import LinearSegmentedColormap, to_rgba

    from modeling.inference.attention_maps import attention_maps as read_maps

    maps = read_maps(artifact.fetch(), text)
    if not maps:
        return
    strength = LinearSegmentedColormap.from_list("strength", [to_rgba(VALIDATION, 0), to_rgba(VALIDATION, 1)])
    figure, panels = plt.subplots(
        1, len(maps), figsize=(0.9 + 1.9 * len(maps), 2.3), layout="constrained", sharey=True, squeeze=False
    )
    places = range(len(maps[0].tokens))
    names = [_visible(token) for token in maps[0].tokens]
    for panel, shown in zip(panels[0], maps, strict=True):
        panel.imshow(shown.weights, cmap=strength, vmin=0, vmax=1, interpolation="none")
        panel.set_title(shown.title, fontsize=7)
        panel.set_xticks([])
        panel.set_yticks(places, names, fontsize=5, parse_math=False)
        panel.tick_params(length=0)
        panel.grid(visible=False)
    with warnings.catch_warnings(action="ignore"):  # the page has glyphs that the font for measuring lacks
        picture = svg_of(figure)
    yield Picture(
        "Where the heads of the middle block look: each row is a token that reads, each column a token that it reads "
        "from, in the same order; the stronger the color, the greater its share.",
        picture,
    )


def _visible(token: str) -> str:
    """A token as a label: spaces and line ends can be seen, and what has no form cannot break the picture."""
    shown = token.replace(" ", "·").replace("\n", "↵").replace("\t", "→")
    return "".join(character if character.isprintable() else "?" for character in shown)


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

    stream = io.StringIO()
    figure.savefig(stream, format="svg", metadata={"Date": None, "Creator": None})
    plt.close(figure)
    svg = stream.getvalue()[stream.getvalue().index("<svg") :]
    svg = re.sub(r"<metadata>.*?</metadata>\s*", "", svg, flags=re.DOTALL)
    return svg.replace("<svg ", f'<svg color="{TEXT}" ', 1).replace(f": {TEXT}", ": currentColor")
