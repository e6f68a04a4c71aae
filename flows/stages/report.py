"""report: everything a run came to, on one page with figures."""

from __future__ import annotations

from pydantic import BaseModel, Field

from flows.engine.stage import Job, Stage


class ReportConfig(BaseModel, extra="forbid"):
    """Settings of the report."""

    title: str = Field("Textmill report", description="Heading of the page")


def build(job: Job[ReportConfig]) -> None:
    from flows.stages.pages import write_report

    write_report(job)


report = Stage(
    name="report",
    version=1,
    build=build,
    headline=lambda stats: f"{stats['stages']} stages, {stats['figures']} figures",
)
