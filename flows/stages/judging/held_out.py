"""held_out: the corpora of an experiment -> text that one of them sets aside and none would train on."""

from __future__ import annotations

import json
from collections.abc import Iterator
from typing import Any

from pydantic import BaseModel

from flows.engine.page import Block, Table
from flows.engine.stage import Job, Stage
from flows.store.local import Artifact
from textmill.settings import execution_only


class HeldOutConfig(BaseModel, extra="forbid"):
    """Whose text is held out, for its title."""

    experiment: str = execution_only("", description="Name of the experiment")


class HeldOut(Stage[HeldOutConfig]):
    """The text that all variants of an experiment are judged by."""

    name = "held_out"
    version = 1
    label_is_subject = True
    inputs = ("reference", "corpora")

    def build(self, job: Job[HeldOutConfig]) -> None:
        from scraping.corpus.safeguards.held_out import write_held_out

        counts = write_held_out(job.path("reference"), job.paths("corpora"), job.out, job.progress)
        sources = {source: count._asdict() for source, count in counts.items()}
        totals = {name: sum(count[name] for count in sources.values()) for name in ("documents", "bytes", "known")}
        (job.out / "stats.json").write_text(json.dumps({**totals, "sources": sources}))

    def label(self, config: HeldOutConfig) -> str:
        return config.experiment

    def headline(self, stats: dict[str, Any]) -> str:
        known = f", {stats['known']:,} more are known to a variant" if stats["known"] else ""
        return f"{stats['documents']:,} documents, {stats['bytes']:,} bytes held out{known}"

    def page(self, artifact: Artifact) -> Iterator[Block]:
        columns = ("documents", "bytes", "set_aside", "known")
        rows = [(source, *map(counts.get, columns)) for source, counts in artifact.stats["sources"].items()]
        yield Table(("source", "documents held out", "bytes", "set aside by the reference", "known to a variant"), rows)


held_out = HeldOut()
