"""report: all artifacts of a run -> one page with figures.

The page begins with the chain as it was run. Each artifact has a section with what its stage shows of it and with links
to what it was made from. The page needs no network and runs no code: the policy in its head forbids both.

Times, and artifacts that are not direct inputs (the pages and documents behind the corpus), are read from the manifests
along the lineage: they are shown, but a recrawl that changed nothing does not make a new report.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Set
from dataclasses import dataclass, field
from typing import Any

from pydantic import BaseModel, Field

from flows.engine.page import Bars, Block, Picture
from flows.engine.stage import Job, Stage, each_of
from flows.stages import stage_named
from flows.store.lineage import lineage
from flows.store.local import Artifact, Damaged
from flows.store.manifest import Name


class ReportConfig(BaseModel, extra="forbid"):
    """Settings of the report."""

    title: str = Field("Textmill report", description="Heading of the page")


@dataclass(frozen=True)
class Section:
    """One artifact on the page.

    Attributes:
        artifact: which.
        level: how many artifacts one after the other lead to it.
        origins: the sections of what it was made from, as far as the store still has it.
        headline: what came out.
        number, unit: the number that says most of it, and what that counts.
        blocks: what its stage shows of it.
        metrics: all of its numbers.
        work: what its stage went through.
        rate: how fast.
    """

    artifact: Artifact
    level: int
    origins: list[Section]
    headline: str
    number: str = ""
    unit: str = ""
    blocks: list[Block] = field(default_factory=list)
    metrics: Mapping[str, object] = field(default_factory=dict)
    work: str = ""
    rate: str = ""

    @property
    def anchor(self) -> str:
        """The id of its place on the page."""
        return "-".join(self.artifact.name)


class Report(Stage[ReportConfig]):
    """One HTML page about a run."""

    name = "report"
    version = 8
    inputs = ("corpus", "tokenizer", "tokens", "pretrained", "finetuned", "answering")

    def build(self, job: Job[ReportConfig]) -> None:
        from flows.stages.html import template

        sections: dict[Name, Section] = {}
        given = {artifact.name for artifact in each_of(job.inputs)}
        for artifact in lineage(each_of(job.inputs), job.context.store):
            sections[artifact.name] = _section(artifact, sections, given)
        shown = list(sections.values())
        page = template("report.html").render(
            title=job.config.title,
            sections=shown,
            levels=[[section for section in shown if section.level == level] for level in _levels(shown)],
            times=Bars(
                "time by stage", {section.artifact.title: section.artifact.manifest.seconds for section in shown}, "s"
            ),
        )
        figures = sum(isinstance(block, Picture) for section in shown for block in section.blocks)
        (job.out / "index.html").write_text(page, encoding="utf-8")
        (job.out / "stats.json").write_text(json.dumps({"figures": figures, "stages": len(shown)}, sort_keys=True))

    def headline(self, stats: dict[str, Any]) -> str:
        return f"{stats['stages']} stages, {stats['figures']} figures"


def _levels(sections: list[Section]) -> list[int]:
    return sorted({section.level for section in sections})


def _section(artifact: Artifact, earlier: Mapping[Name, Section], given: Set[Name]) -> Section:
    """One artifact's. A damaged one that the report is not made from, which its run may not build again, is named."""
    origins = [earlier[entry.name] for entry in artifact.manifest.origins if entry.name in earlier]
    level = max((origin.level + 1 for origin in origins), default=0)
    try:
        return _drawn(artifact, level, origins)
    except Damaged as damaged:
        if damaged.artifact.name in given:
            raise
        return Section(artifact, level, origins, f"not shown, because it is damaged: {damaged.damage}")


def _drawn(artifact: Artifact, level: int, origins: list[Section]) -> Section:
    from flows.stages.html import flat_metrics

    stage, stats = stage_named(artifact.manifest.stage), artifact.stats
    amount, unit = stage.work(stats) if stage else (0, "")
    rate = amount / artifact.manifest.seconds if artifact.manifest.seconds else 0
    number, counted = stage.highlight(stats) if stage else ("", "")
    return Section(
        artifact,
        level=level,
        origins=origins,
        headline=stage.headline(stats) if stage else "",
        number=number,
        unit=counted,
        blocks=list(stage.page(artifact)) if stage else [],
        metrics=flat_metrics(stats),
        work=f"{amount:,} {unit}" if amount else "",
        rate=f"{rate:,.0f} {unit}/s" if rate else "",
    )


report = Report()
