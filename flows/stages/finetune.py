"""finetune: a pretrained model -> one that fills blanks, by masked language modelling on the same token arrays."""

from __future__ import annotations

from flows.stage import Job, Stage
from modeling.config import FinetuneConfig


def build(job: Job[FinetuneConfig]) -> None:
    from flows.training import train
    from modeling.train import command

    arguments = command(job.config, job.path("tokens"), job.path("checkpoint"), job.out)
    train(arguments, job.config.device, job.config.processes, job.progress)


finetune = Stage(
    name="finetune",
    version=1,
    build=build,
    label=lambda config: f"masked, {config.steps:,} steps",
    headline=lambda stats: (
        f"{stats['masked_accuracy']:.1%} of masked tokens predicted "
        f"(most frequent token: {stats['most_frequent_accuracy']:.1%}); {stats['sample_filled']!r}"
    ),
    records=("timing.jsonl", "tensorboard/*"),
)
