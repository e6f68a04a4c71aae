"""report: all artifacts of a run -> one page with figures.

Each artifact has a section with what its stage shows of it. Times, and artifacts that are not direct inputs (the pages
and documents behind the corpus), are read from the manifests along the lineage: they are shown, but a recrawl that
changed nothing does not make a new report.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from pydantic import BaseModel, Field

from flows.engine.page import Block, Picture
from flows.engine.stage import Job, Stage, each_of
from flows.stages import stage_named
from flows.store.lineage import lineage
from flows.store.local import Artifact


class ReportConfig(BaseModel, extra="forbid"):
    """Settings of the report."""

    title: str = Field("Textmill report", description="Heading of the page")


@dataclass(frozen=True)
class Section:
    """One artifact on the page. `work` is what its stage went through, `rate` how fast."""

    artifact: Artifact
    headline: str
    blocks: list[Block]
    metrics: Mapping[str, object]
    work: str
    rate: str


class Report(Stage[ReportConfig]):
    """One HTML page about a run."""

    name = "report"
    version = 2
    inputs = ("corpus", "tokenizer", "tokens", "pretrained", "finetuned")

    def build(self, job: Job[ReportConfig]) -> None:
        from flows.stages.html import template

        sections = [_section(artifact) for artifact in lineage(each_of(job.inputs), job.context.store)]
        page = template("report.html").render(title=job.config.title, sections=sections)
        figures = sum(isinstance(block, Picture) for section in sections for block in section.blocks)
        (job.out / "index.html").write_text(page, encoding="utf-8")
        (job.out / "stats.json").write_text(json.dumps({"figures": figures, "stages": len(sections)}, sort_keys=True))

    def headline(self, stats: dict[str, Any]) -> str:
        return f"{stats['stages']} stages, {stats['figures']} figures"


def _section(artifact: Artifact) -> Section:
    from flows.stages.html import flat_metrics

    stage, stats = stage_named(artifact.manifest.stage), artifact.stats
    amount, unit = stage.work(stats) if stage else (0, "")
    rate = amount / artifact.manifest.seconds if artifact.manifest.seconds else 0
    return Section(
        artifact,
        headline=stage.headline(stats) if stage else "",
        blocks=list(stage.page(artifact)) if stage else [],
        metrics=flat_metrics(stats),
        work=f"{amount:,} {unit}" if amount else "",
        rate=f"{rate:,.0f} {unit}/s" if rate else "",
    )


report = Report()
