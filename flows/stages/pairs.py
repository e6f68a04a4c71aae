"""pairs: corpus and tokenizer -> pairs of sentences as token arrays, to fine-tune on."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from flows.engine.stage import Job, Stage
from flows.stages.pretokenize import SPLITS, count_tokens
from tokenization.config import SentencePairsConfig


class Pairs(Stage[SentencePairsConfig]):
    """Pairs of sentences, half of them with a second sentence from elsewhere."""

    name = "pairs"
    version = 1
    inputs = ("corpus", "tokenizer")

    def build(self, job: Job[SentencePairsConfig]) -> None:
        from tokenization.sentence_pairs import make_pairs
        from tokenization.shard_writer import EncodingInputs

        inputs = EncodingInputs(job.path("corpus"), job.path("tokenizer"))
        make_pairs(inputs, job.config, job.out, progress=job.progress, executor=job.executor)

    def count(self, file: Path) -> int | None:
        """Pairs of a `.pairs`; the sentences are token arrays."""
        return file.stat().st_size // 12 if file.suffix == ".pairs" else count_tokens(file)

    def headline(self, stats: dict[str, Any]) -> str:
        return (
            f"{stats['train']['pairs']:,} + {stats['validation']['pairs']:,} pairs of "
            f"{stats['train']['sentences']:,} + {stats['validation']['sentences']:,} sentences"
        )

    def highlight(self, stats: dict[str, Any]) -> tuple[str, str]:
        return f"{stats['train']['pairs']:,}", "pairs to train on"

    def work(self, stats: dict[str, Any]) -> tuple[int, str]:
        return sum(stats[split]["pairs"] for split in SPLITS), "pairs"


pairs = Pairs()
