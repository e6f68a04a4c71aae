"""evaluation: a model and held-out text -> how well it predicts it, by bits per byte, of all and of each source."""

from __future__ import annotations

import json
from collections import defaultdict
from collections.abc import Iterator
from typing import Any

from pydantic import BaseModel

from flows.engine.page import Block, Table
from flows.engine.stage import Job, Stage
from flows.store.local import Artifact
from textmill.settings import execution_only


class EvaluationConfig(BaseModel, extra="forbid"):
    """Which model is judged, for its title."""

    run: str = execution_only("", description="Name of the run that gave the model")


class Evaluation(Stage[EvaluationConfig]):
    """How well a model predicts text that it has not seen, whatever its tokenizer."""

    name = "evaluation"
    version = 1
    label_is_subject = True
    inputs = ("checkpoint", "held_out")

    def build(self, job: Job[EvaluationConfig]) -> None:
        from modeling.inference.evaluate import evaluate_texts
        from scraping.corpus.safeguards.held_out import HELD_OUT
        from scraping.shards import read_rows

        texts: defaultdict[str, list[str]] = defaultdict(list)
        for row in read_rows([job.path("held_out") / HELD_OUT], ["source", "text"]):
            texts[row["source"]].append(row["text"])
        metrics = evaluate_texts(job.path("checkpoint"), texts, progress=job.progress)
        (job.out / "stats.json").write_text(json.dumps(metrics))

    def label(self, config: EvaluationConfig) -> str:
        return config.run

    def headline(self, stats: dict[str, Any]) -> str:
        return f"{stats['bits_per_byte']:.4f} bits a byte of {stats['bytes']:,} held-out bytes"

    def work(self, stats: dict[str, Any]) -> tuple[int, str]:
        return stats["tokens"], "tokens"

    def page(self, artifact: Artifact) -> Iterator[Block]:
        rows = [
            (source, metrics["bits_per_byte"], metrics["bytes"], metrics["tokens"])
            for source, metrics in artifact.stats["sources"].items()
        ]
        yield Table(("source", "bits per byte", "bytes", "tokens"), rows)


evaluation = Evaluation()
