"""train_tokenizer: corpus -> a byte-level BPE vocabulary (or a tiktoken encoding taken as it is)."""

from __future__ import annotations

from typing import Any

from flows.engine.stage import Job, Stage
from tokenization.config import TokenizerConfig


class TrainTokenizer(Stage[TokenizerConfig]):
    """The tokenizer of a pipeline."""

    name = "train_tokenizer"
    version = 1
    inputs = ("corpus",)

    def build(self, job: Job[TokenizerConfig]) -> None:
        from tokenization.train import train_tokenizer as train

        train(job.path("corpus"), job.config, job.out, progress=job.progress, executor=job.executor)

    def label(self, config: TokenizerConfig) -> str:
        return config.encoding or f"{config.vocab_size:,} tokens"

    def headline(self, stats: dict[str, Any]) -> str:
        return f"{stats['vocab_size']:,} tokens"

    def work(self, stats: dict[str, Any]) -> tuple[int, str]:
        return stats.get("corpus_bytes", 0), "bytes"  # none where an encoding was taken as it is


train_tokenizer = TrainTokenizer()
