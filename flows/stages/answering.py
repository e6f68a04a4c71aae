"""answering: a trained model and a set of questions -> one that answers questions."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from flows.engine.page import Block, Picture, Table
from flows.engine.stage import Job, Stage
from flows.store.local import Artifact
from modeling.answering.config import AnsweringConfig


class Answering(Stage[AnsweringConfig]):
    """A model that finds the answer to a question in its context, or writes it."""

    name = "answering"
    noun = "tuning on questions"
    version = 1
    inputs = ("checkpoint", "questions")
    records = ("timing.jsonl", "tensorboard/*", "wandb/*", "resumable/*")

    def build(self, job: Job[AnsweringConfig]) -> None:
        from flows.engine.training import train

        train(self, job, origin="checkpoint", tokens="questions")

    def label(self, config: AnsweringConfig) -> str:
        return f"{config.method}, {config.steps:,} steps"

    def headline(self, stats: dict[str, Any]) -> str:
        left_out, cut = stats.get("left_out", 0), stats["cut"]
        return (
            f"{stats['exact_match']:.1%} of {stats['validation_questions']:,} held-out questions answered exactly, "
            f"F1 {stats['f1']:.1%} ({stats['baseline']}: {stats['baseline_exact_match']:.1%}, "
            f"F1 {stats['baseline_f1']:.1%})"
            + (f", {left_out:,} questions left out whose answer has no place in its context" if left_out else "")
            + (f", {cut:,} questions or answers cut, for they are too long" if cut else "")
        )

    def highlight(self, stats: dict[str, Any]) -> tuple[str, str]:
        return f"{stats['f1']:.1%}", "F1 on held-out questions"

    def work(self, stats: dict[str, Any]) -> tuple[int, str]:
        return stats["tokens_seen"], "tokens"

    def page(self, artifact: Artifact) -> Iterator[Block]:
        from flows.engine.figures import loss_curves

        stats = artifact.stats
        yield Picture("Loss over the steps, and the learning rate", loss_curves(artifact))
        yield Table(
            ("", "exact match", "F1"),
            [
                ("this model", f"{stats['exact_match']:.1%}", f"{stats['f1']:.1%}"),
                (stats["baseline"], f"{stats['baseline_exact_match']:.1%}", f"{stats['baseline_f1']:.1%}"),
            ],
        )
        yield Table(
            ("held-out question", "its answer", "how sure", "right"),
            [
                (
                    each["question"],
                    each["answer"] or "(none)",
                    f"{each['score']:.1%}",
                    " | ".join(each["right"]) or "(none)",
                )
                for each in stats["samples"]
            ],
        )


answering = Answering()
