"""train_tokenizer: corpus -> a byte-level BPE vocabulary (or a tiktoken encoding taken as it is)."""

from __future__ import annotations

from flows.engine.stage import Job, Stage
from tokenization.config import TokenizerConfig


def build(job: Job[TokenizerConfig]) -> None:
    from tokenization.train import train_tokenizer as train

    train(job.path("corpus"), job.config, job.out, job.progress, job.map_shards)


train_tokenizer = Stage(
    name="train_tokenizer",
    version=1,
    build=build,
    headline=lambda stats: f"{stats['vocab_size']:,} tokens",
    label=lambda config: config.encoding or f"{config.vocab_size:,} tokens",
)
