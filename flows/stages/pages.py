"""The report: tables and figures from the artifacts of a run, as one HTML page that needs nothing else.

The figures come from the artifacts' own files. Times, and artifacts that are not direct inputs (the pages and documents
behind the corpus), are read from the manifests along the lineage: they are shown, but a recrawl that changed nothing
does not make a new report.
"""

from __future__ import annotations

import io
import json
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import matplotlib
from jinja2 import Environment, PackageLoader, StrictUndefined, Template
from markupsafe import Markup

if TYPE_CHECKING:
    from matplotlib.figure import Figure

    from flows.engine.stage import Job
    from flows.stages.report import ReportConfig
    from flows.store.local import Artifact, Name, Store

matplotlib.use("svg")
matplotlib.rcParams.update(
    {"svg.hashsalt": "textmill", "font.size": 9, "axes.spines.top": False, "axes.spines.right": False}
)


@dataclass(frozen=True)
class StageRow:
    """One stage in the table of times. `work` is what it went through, `rate` how fast."""

    name: str
    seconds: float
    work: str
    rate: str
    megabytes: float
    fingerprint: str
    code: str


def write_report(job: Job[ReportConfig]) -> None:
    """Write `index.html` and `stats.json` into `job.out`."""
    artifacts = {name: artifact for name, artifact in job.inputs.items() if artifact is not None}
    rows = [_stage_row(artifact) for artifact in lineage(list(artifacts.values()), job.store)]
    figures = {name: loss_figure(artifacts[name]) for name in ("pretrained", "finetuned") if name in artifacts}
    page = template("report.html").render(
        title=job.config.title,
        rows=rows,
        figures=figures,
        stats={name: artifact.stats for name, artifact in artifacts.items()},
        settings={name: artifact.manifest.settings for name, artifact in artifacts.items()},
    )
    (job.out / "index.html").write_text(page, encoding="utf-8")
    (job.out / "stats.json").write_text(json.dumps({"figures": len(figures), "stages": len(rows)}, sort_keys=True))


def template(name: str) -> Template:
    """A page of `flows/stages/templates`; what a page names and is not given is an error."""
    environment = Environment(
        loader=PackageLoader("flows.stages"), autoescape=True, undefined=StrictUndefined, trim_blocks=True
    )
    environment.filters["number"] = _number
    return environment.get_template(name)


def lineage(artifacts: list[Artifact], store: Store) -> list[Artifact]:
    """The artifacts and everything they were made from, each once, sources first."""
    found: dict[Name, Artifact] = {}

    def visit(artifact: Artifact) -> None:
        for entries in artifact.manifest.inputs.values():
            for entry in entries:
                if upstream := store.find(entry.stage, entry.fingerprint):
                    visit(upstream)
        found.setdefault(artifact.name, artifact)

    for artifact in artifacts:
        visit(artifact)
    return list(found.values())


def _stage_row(artifact: Artifact) -> StageRow:
    manifest = artifact.manifest
    amount, unit = _work(artifact)
    rate = amount / manifest.seconds if manifest.seconds else 0
    return StageRow(
        name=f"{manifest.stage} {manifest.label}".strip(),
        seconds=manifest.seconds,
        work=f"{amount:,} {unit}" if amount else "",
        rate=f"{rate:,.0f} {unit}/s" if rate else "",
        megabytes=manifest.size / 1e6,
        fingerprint=manifest.fingerprint,
        code=manifest.code,
    )


def _work(artifact: Artifact) -> tuple[int, str]:
    """How much a stage went through, and of what."""
    stats = artifact.stats
    match artifact.manifest.stage:
        case "scrape":
            return stats["pages"], "pages"
        case "ingest":
            return stats["documents"], "documents"
        case "prepare":
            return stats["candidates"], "documents"
        case "train_tokenizer":
            return stats.get("corpus_bytes", 0), "bytes"  # none where an encoding was taken as it is
        case "pretokenize":
            return stats["train"]["tokens"] + stats["validation"]["tokens"], "tokens"
        case "pairs":
            return stats["train"]["pairs"] + stats["validation"]["pairs"], "pairs"
        case _:
            return stats["tokens_seen"], "tokens"


def loss_figure(artifact: Artifact) -> Markup:
    """Training and validation loss over the steps, with the level that a model without context reaches, as SVG."""
    import matplotlib.pyplot as plt

    rows = metrics(artifact)
    figure, axes = plt.subplots(figsize=(7, 3.2), layout="constrained")
    axes.plot(*series(rows, "loss"), color="#9db4c8", linewidth=1, label="training loss")
    axes.plot(*series(rows, "validation_loss"), color="#c23b22", marker="o", markersize=3, label="validation loss")
    if "unigram_entropy" in artifact.stats:
        axes.axhline(
            artifact.stats["unigram_entropy"], color="#555555", linestyle="--", linewidth=1, label="unigram entropy"
        )
    axes.set(xlabel="step", ylabel="nats a token")
    axes.legend(frameon=False)
    return Markup(svg_of(figure))


def svg_of(figure: Figure) -> str:
    """The figure as an SVG element, the same bytes each time; the figure is closed."""
    import matplotlib.pyplot as plt

    svg = io.StringIO()
    figure.savefig(svg, format="svg", metadata={"Date": None, "Creator": None})
    plt.close(figure)
    return svg.getvalue()[svg.getvalue().index("<svg") :]


def metrics(artifact: Artifact) -> list[dict[str, Any]]:
    """The rows of a training's `metrics.jsonl`: a step, and what was measured there."""
    with artifact.open("metrics.jsonl") as lines:
        return [json.loads(line) for line in lines]


def series(rows: list[dict[str, Any]], name: str) -> tuple[list[int], list[float]]:
    """Steps and values of those rows of `metrics.jsonl` that hold `name`."""
    points = [(row["step"], row[name]) for row in rows if row.get(name) is not None]
    return [step for step, _ in points], [value for _, value in points]


def _number(value: Any) -> str:
    """A number for people: thousands apart, four significant digits."""
    if isinstance(value, bool) or not isinstance(value, int | float):
        return str(value)
    return f"{value:,}" if isinstance(value, int) else f"{value:,.4g}"
