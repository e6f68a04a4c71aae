"""pairs: corpus and tokenizer -> pairs of sentences as token arrays, to fine-tune on."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from flows.engine.stage import Job, Stage
from flows.stages.pretokenize import SPLITS, count_tokens
from tokenization.config import PairsConfig


class Pairs(Stage[PairsConfig]):
    """Pairs of sentences, half of them strangers to each other."""

    name = "pairs"
    version = 1
    inputs = ("corpus", "tokenizer")

    def build(self, job: Job[PairsConfig]) -> None:
        from tokenization.sentence_pairs import make_pairs

        make_pairs(job.path("corpus"), job.path("tokenizer"), job.config, job.out, job.progress, job.map_shards)

    def count(self, file: Path) -> int | None:
        """Pairs of a `.pairs`; the sentences are token arrays."""
        return file.stat().st_size // 12 if file.suffix == ".pairs" else count_tokens(file)

    def headline(self, stats: dict[str, Any]) -> str:
        return (
            f"{stats['train']['pairs']:,} + {stats['validation']['pairs']:,} pairs of "
            f"{stats['train']['sentences']:,} + {stats['validation']['sentences']:,} sentences"
        )

    def work(self, stats: dict[str, Any]) -> tuple[int, str]:
        return sum(stats[split]["pairs"] for split in SPLITS), "pairs"


pairs = Pairs()
