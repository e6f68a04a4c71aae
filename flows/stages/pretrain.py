"""pretrain: token arrays -> a causal language model."""

from __future__ import annotations

from flows.engine.stage import Job, Stage
from modeling.config import PretrainConfig


def build(job: Job[PretrainConfig]) -> None:
    from flows.engine.training import train
    from modeling.training.process import command

    arguments = command(job.config, job.path("tokens"), job.path("tokenizer"), job.out)
    train(arguments, job.config.device, job.config.processes, job.progress)


pretrain = Stage(
    name="pretrain",
    version=1,
    build=build,
    label=lambda config: f"{config.model.layers} x {config.model.width}, {config.steps:,} steps",
    headline=lambda stats: (
        f"validation loss {stats['validation_loss']:.3f} nats a token, {stats['bits_per_byte']:.3f} bits a byte "
        f"(unigram entropy {stats['unigram_entropy']:.3f}), {stats['parameters']:,} parameters"
    ),
    records=("timing.jsonl", "tensorboard/*"),
)
