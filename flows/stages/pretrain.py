"""pretrain: token arrays -> a causal language model."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from flows.engine.page import Block, Picture, Sample
from flows.engine.stage import Job, Stage
from flows.store.local import Artifact
from modeling.config import PretrainConfig


class Pretrain(Stage[PretrainConfig]):
    """A model trained from scratch."""

    name = "pretrain"
    version = 1
    inputs = ("tokens", "tokenizer")
    records = ("samples.jsonl", "timing.jsonl", "tensorboard/*")

    def build(self, job: Job[PretrainConfig]) -> None:
        from flows.engine.training import train

        train(job, origin="tokenizer")

    def label(self, config: PretrainConfig) -> str:
        return f"{config.model.layers} x {config.model.width}, {config.steps:,} steps"

    def headline(self, stats: dict[str, Any]) -> str:
        return (
            f"validation loss {stats['validation_loss']:.3f} nats a token, {stats['bits_per_byte']:.3f} bits a byte "
            f"(unigram entropy {stats['unigram_entropy']:.3f}), {stats['parameters']:,} parameters"
        )

    def work(self, stats: dict[str, Any]) -> tuple[int, str]:
        return stats["tokens_seen"], "tokens"

    def page(self, artifact: Artifact) -> Iterator[Block]:
        from flows.stages.figures import loss_curves

        stats = artifact.stats
        yield Picture("Loss over the steps", loss_curves(artifact))
        yield Sample("It writes", stats["sample_prompt"] + stats["sample"])


pretrain = Pretrain()
