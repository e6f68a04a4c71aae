"""finetune: a pretrained model -> one that fills blanks, by masked language modelling on the same token arrays, or on
pairs of sentences."""

from __future__ import annotations

from typing import Any

from flows.engine.stage import Job, Stage
from modeling.config import FinetuneConfig


def build(job: Job[FinetuneConfig]) -> None:
    from flows.engine.training import train
    from modeling.training.process import command

    arguments = command(job.config, job.path("tokens"), job.path("checkpoint"), job.out)
    train(arguments, job.config.device, job.config.processes, job.progress)


def headline(stats: dict[str, Any]) -> str:
    follows = stats.get("next_sentence_accuracy")
    return (
        f"{stats['masked_accuracy']:.1%} of masked tokens predicted "
        f"(most frequent token: {stats['most_frequent_accuracy']:.1%}), "
        + (f"{follows:.1%} of pairs of sentences told apart, " if follows is not None else "")
        + repr(stats["sample_filled"])
    )


finetune = Stage(
    name="finetune",
    version=1,
    build=build,
    label=lambda config: f"masked, {config.steps:,} steps",
    headline=headline,
    records=("timing.jsonl", "tensorboard/*"),
)
