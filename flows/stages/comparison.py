"""comparison: what an experiment's runs gave -> figures, curves and costs of each, and what they say of the claim."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any

from pydantic import BaseModel, Field

from experiments.declaration import Experiment
from experiments.outcome import Result, Spent, document
from experiments.sweep import Point
from flows.engine.page import Block, Picture, Table, Text
from flows.engine.stage import Job, Stage
from flows.stages.html import flat_metrics
from flows.store.lineage import lineage
from flows.store.local import Artifact
from modeling.config.network import MODEL_CONFIG
from modeling.config.pretrain import PretrainConfig
from modeling.cost import flops_per_token
from textmill.settings import execution_only

TRAININGS = ("pretrain", "finetune", "answering")
ATTENTION = {"heads", "kv_heads", "attention_scale", "qk_norm", "positions", "rope_base"}  # settings of a model
FUNCTIONS = {"feed_forward"}
NO_BREAK = "\N{NO-BREAK SPACE}"
READ = "The function returns a list of strings, and an empty list if there are none of that name."
CURVES = "The best of each variant: every seed, and their mean"


class ComparisonConfig(BaseModel, extra="forbid"):
    """What is compared. The runs are in the order of the results that the stage is given."""

    experiment: str = Field(description="Name of the experiment")
    declared: dict[str, Any] = Field(description="What it declares")
    quick: bool = Field(description="Whether it was only tried")
    runs: list[tuple[str, Point, int]] = Field(description="Variant, point of the sweep, and seed of each result")
    stages: list[list[int]] = Field(description="Which of the stages each run went through, by number")
    diverged: list[tuple[str, Point, int]] = Field([], description="The same of each run that has none")
    reasons: list[str] = execution_only([], description="Why it has none, of each of these")


class Comparison(Stage[ComparisonConfig]):
    """An experiment's page: `index.html`, and all that it came to in `stats.json`."""

    name = "comparison"
    label_is_subject = True
    version = 7
    inputs = ("results", "stages")

    def build(self, job: Job[ComparisonConfig]) -> None:
        from flows.stages.html import template

        stats = self.compared(job)
        page = template("comparison.html").render(
            title=job.config.experiment, stats=stats, findings=findings_of(stats), pictures=pictures_of(stats)
        )
        (job.out / "index.html").write_text(page, encoding="utf-8")
        (job.out / "stats.json").write_text(json.dumps(stats, indent=1))

    def compared(self, job: Job[ComparisonConfig]) -> dict[str, Any]:
        """All that the experiment came to."""
        config, given = job.config, job.given("results")
        results = [result_of(*run, made) for run, made in zip(config.runs, given, strict=True)]
        by_location = {result.location: made for result, made in zip(results, given, strict=True)}
        results += [
            Result(*run, {}, [], {}, location="", diverged=why)
            for run, why in zip(config.diverged, config.reasons, strict=True)
        ]
        experiment = Experiment.model_validate(config.declared)
        stats = {"experiment": config.experiment, "quick": config.quick, **document(experiment, results)}
        stats["pictures"] |= {shown.title: shown.svg for shown in model_pictures(experiment, stats, by_location)}
        for made in lineage(given, job.context.store):
            if made.manifest.stage == "held_out":
                stats["held_out"] = {name: made.stats[name] for name in ("documents", "bytes", "known")}
        stats["work"] = _work(config, [made.manifest.seconds for made in job.given("stages")])
        return stats

    def label(self, config: ComparisonConfig) -> str:
        return config.experiment + (" (quick)" if config.quick else "")

    def timeline(self, label: str, pipeline: str) -> str:
        return f"comparison of {label}"

    def headline(self, stats: dict[str, Any]) -> str:
        return verdict_in_words(stats)

    def page(self, artifact: Artifact) -> Iterator[Block]:
        stats = artifact.stats
        yield Text(f"{stats['claim']} {verdict_in_words(stats)}.")
        for said in (*stats["judgements"], *({"says": fault, "because": ""} for fault in stats["faults"])):
            yield Text(f"{said['says']}: {said['because']}" if said["because"] else said["says"])
        yield from pictures_of(stats)
        yield from findings_of(stats)


def verdict_in_words(stats: Mapping[str, Any]) -> str:
    """What an experiment came to, in a few words."""
    tried = " (only tried, with --quick)" if stats["quick"] else ""
    match stats["verdict"]:
        case "agree":
            return f"The figures agree with the claim{tried}"
        case "disagree":
            return f"The figures contradict the claim{tried}"
    return f"The figures cannot tell{tried}"


def findings_of(stats: Mapping[str, Any], *, costs: bool = True) -> list[Table | Text]:
    """The rankings of an experiment's variants, if it ranks them, the table of its variants, with what they cost where
    there is room for it, and what reuse saved."""
    numbers = [judgement["numbers"] for judgement in stats["judgements"]]
    findings: list[Table | Text] = [_ranking_table(each["ranking"]) for each in numbers if "ranking" in each]
    findings.append(variants_table(stats, costs=costs))
    if held := stats.get("held_out"):
        findings.append(
            Text(
                f"All were judged by {held['bytes']:,} bytes of {held['documents']:,} documents that no variant trains "
                f"on. {held['known']:,} more were set aside, of which a variant knows a fifth or more."
            )
        )
    if work := stats.get("work"):  # of results that were kept before, it is not known
        saved = work["alone"] - work["built"]
        findings.append(
            Text(
                f"The stages of all runs took {work['built']:,.0f} s, each built once. Built anew for every run they "
                f"would have taken {work['alone']:,.0f} s, so the cache saved {saved:,.0f} s."
                + " Runs that diverged are not counted."
                * any("diverged" in run for run in stats["runs"])
            )
        )
    return findings


def _ranking_table(ranking: Sequence[Mapping[str, Any]]) -> Table:
    """The variants as the large size ranks them, the best first, beside their rank at the small one."""
    sources = list(ranking[0]["by_source"])
    rows = [
        (
            rank, row["large"], row["at_large"], row["rank_at_small"], row["at_small"], _gain_in_words(row),
            *(row["by_source"][source] for source in sources),
        )
        for rank, row in enumerate(ranking, 1)
    ]  # fmt: skip
    first = next((row["large"] for row in ranking if row["is_first"]), "")
    head = ("rank", "variant", "at the large size", "rank at the small size", "at the small size")
    return Table((*head, f"against {first}", *(f"on {source}" for source in sources)), rows)


def _gain_in_words(row: Mapping[str, Any]) -> str:
    if row["is_first"]:
        return ""
    if row["same_run"]:
        return "the same text, so the same run"
    if row["interval"] is None:
        return f"{row['gain']:+.4f}, of one seed"
    low, high = row["interval"]
    said = "better" if low > 0 else "worse" if high < 0 else "cannot tell"
    return f"{said}: {row['gain']:+.4f} ({low:+.4f} to {high:+.4f})"


def variants_table(stats: Mapping[str, Any], *, costs: bool) -> Table:
    """The variants of an experiment with their figure, seed by seed, and what they cost."""
    name = stats["figure"]["name"].replace("_", " ")
    axes = [
        axis
        for axis in ("parameters", "tokens", "flops", "seconds")
        if costs and any(axis in v["spent"] for v in stats["variants"].values())
    ]
    work = stats.get("work", {}).get("variants", {}) if costs else {}
    has_sweep = any(variant["point"] for variant in stats["variants"].values())
    has_baseline = any("baseline" in variant for variant in stats["variants"].values())
    some_diverged = any(not each.get("diverged", "0").startswith("0") for each in stats["variants"].values())
    rows = [
        (
            variant,
            *(
                [", ".join(f"{key.rpartition('.')[2]} {v:g}" for key, v in values["point"].items())]
                if has_sweep
                else []
            ),
            "" if values["mean"] is None else values["mean"],
            " · ".join(f"{value:.4g}" for value in values["seeds"]).replace(" ", NO_BREAK),
            *([values["diverged"]] if some_diverged else []),
            *([values.get("baseline", "")] if has_baseline else []),
            *(values["spent"].get(axis, "") for axis in axes),
            *((work[variant]["built"], work[variant]["alone"]) if variant in work else ("", "") if work else ()),
        )
        for variant, values in stats["variants"].items()
    ]
    head = (
        "variant",
        *(["best of the sweep"] if has_sweep else []),
        name,
        "seed by seed",
        *(["diverged"] if some_diverged else []),
        *(["constant answer"] if has_baseline else []),
        *axes,
        *(("seconds added", "without reuse") if work else ()),
    )
    return Table(head, rows)


def pictures_of(stats: Mapping[str, Any]) -> list[Picture]:
    """The curves of an experiment, and the pictures that its runs gave."""
    from flows.engine.figures import banded_curves

    curves = banded_curves(stats)
    own = [Picture(title, svg) for title, svg in stats["pictures"].items()]
    return [Picture(CURVES, curves), *own] if curves else own


def model_pictures(experiment: Experiment, stats: Mapping[str, Any], made: Mapping[str, Artifact]) -> Iterator[Picture]:
    """The insides of each variant's best model, of the first seed, where it is these that the variants differ in: maps
    of attention, or the functions of a KAN. All models read the same text.

    Args:
        experiment: which.
        stats: what it came to.
        made: artifacts of its runs by location.
    """
    from flows.engine.figures import attention_maps, learned_functions

    varied = {key for variant in experiment.variants.values() for key in variant.get("pretrain", {}).get("model", {})}
    draws = [draw for keys, draw in ((ATTENTION, attention_maps), (FUNCTIONS, learned_functions)) if keys & varied]
    best = {
        run["variant"]: made[run["artifact"]]
        for run in stats["runs"]
        if run["seed"] == 0 and not run.get("diverged") and run["point"] == stats["variants"][run["variant"]]["point"]
    }
    models = {variant: artifact for variant, artifact in best.items() if "config.json" in artifact.manifest.files}
    for draw in draws:
        for variant, artifact in models.items():
            for picture in draw(artifact, READ):
                yield Picture(f"{variant}: {picture.title}", picture.svg)


# -- what a run gave ---------------------------------------------------------------------------------------------------


def result_of(variant: str, point: Point, seed: int, artifact: Artifact) -> Result:
    """What the artifact of a run's last stage holds."""
    figures = figures_of(artifact)
    files = artifact.manifest.files
    curve = _rows(artifact, "metrics.jsonl") if "metrics.jsonl" in files else []
    trainings = [made for made in lineage([artifact], artifact.store) if made.manifest.stage in TRAININGS]
    spent = _spent(trainings)
    if trainings:
        curve = _with_costs(curve, trainings)
    pictures = {}
    for name in sorted(files):
        if name.endswith(".svg"):
            with artifact.open(name) as svg:
                pictures[name.removesuffix(".svg")] = svg.read().decode()
    return Result(variant, point, seed, figures, curve, spent, "/".join(artifact.name), pictures)


def figures_of(artifact: Artifact) -> dict[str, float]:
    """The numbers that a stage gave, nested ones by dotted names."""
    return {name: value for name, value in flat_metrics(artifact.stats).items() if isinstance(value, int | float)}


def _work(config: ComparisonConfig, seconds: Sequence[float]) -> dict[str, Any]:
    """What the stages of all runs took, each counted where it was first needed, and what they would have taken had each
    run built all of its own; in seconds, of all and by variant."""
    work: dict[str, dict[str, float]] = {}
    seen: set[int] = set()
    for (variant, _, _), stages in zip(config.runs, config.stages, strict=True):
        of_variant = work.setdefault(variant, {"built": 0.0, "alone": 0.0})
        of_variant["alone"] += sum(seconds[stage] for stage in stages)
        of_variant["built"] += sum(seconds[stage] for stage in stages if stage not in seen)
        seen |= {*stages}
    rounded = {variant: {name: round(value, 1) for name, value in each.items()} for variant, each in work.items()}
    totals = {name: round(sum(each[name] for each in work.values()), 1) for name in ("built", "alone")}
    return {**totals, "variants": rounded}


def _spent(trainings: Sequence[Artifact]) -> Spent:
    """What the trainings that led to an artifact took together; parameters are those of the last."""
    if not trainings:
        return {}
    stats = [made.stats for made in trainings]
    return {
        "steps": sum(each["steps"] for each in stats),
        "tokens": sum(each["tokens_seen"] for each in stats),
        "parameters": stats[-1]["parameters"],
        "flops": sum(flops_of(made)(made.stats["steps"]) for made in trainings),
        "seconds": round(sum(made.manifest.seconds for made in trainings), 1),
    }


def flops_of(training: Artifact) -> Callable[[float], float]:
    """What the first steps of a training took, by their number; layers that join late cost nothing before."""
    with training.open("config.json") as file:
        checkpoint = json.load(file)
    model, vocab_size = MODEL_CONFIG.validate_python(checkpoint["model"]), checkpoint["vocab_size"]
    tokens_per_step = training.stats["tokens_seen"] / training.stats["steps"]
    late = early = flops_per_token(model, vocab_size)
    early_steps = 0
    if training.manifest.stage == "pretrain":
        config = PretrainConfig.model_validate(training.manifest.settings)
        early_steps = config.progressive_steps
        early = flops_per_token(model, vocab_size, layers=config.active_layers(0))

    def until(steps: float) -> float:
        few = min(steps, early_steps)
        return tokens_per_step * ((steps - few) * late + few * early)

    return until


def _with_costs(curve: list[dict[str, float]], trainings: Sequence[Artifact]) -> list[dict[str, float]]:
    """The evaluations of the last training, each with tokens, FLOPs and seconds until then, earlier trainings included.

    Seconds are those of its steps: evaluations, checkpoints and interruptions cost nothing here.
    """
    last, before = trainings[-1], _spent(trainings[:-1])
    tokens_per_step = last.stats["tokens_seen"] / last.stats["steps"]
    seconds, flops = _seconds_by_step(last, tokens_per_step), flops_of(last)
    rows = []
    for row in curve:
        if "validation_loss" not in row:
            continue
        at = {
            "steps": row["step"] + before.get("steps", 0),
            "tokens": row["step"] * tokens_per_step + before.get("tokens", 0),
            "flops": flops(row["step"]) + before.get("flops", 0),
        }
        if row["step"] in seconds:
            at["seconds"] = seconds[row["step"]] + before.get("seconds", 0)
        rows.append(row | at)
    return rows


def _seconds_by_step(artifact: Artifact, tokens_per_step: float) -> dict[float, float]:
    """How long a training had stepped when it came to the steps that its log names."""
    if "timing.jsonl" not in artifact.manifest.files:
        return {}
    total, at = 0.0, 0.0
    seconds: dict[float, float] = {}
    for row in _rows(artifact, "timing.jsonl"):
        if "tokens_per_second" in row and row["step"] > at:
            total += (row["step"] - at) * tokens_per_step / row["tokens_per_second"]
            at = row["step"]
        seconds[row["step"]] = total
    return seconds


def _rows(artifact: Artifact, name: str) -> list[dict[str, float]]:
    with artifact.open(name) as lines:
        return [json.loads(line) for line in lines]


comparison = Comparison()
