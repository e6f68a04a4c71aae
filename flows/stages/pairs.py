"""pairs: corpus and tokenizer -> pairs of sentences as token arrays, to fine-tune on."""

from __future__ import annotations

from pathlib import Path

from flows.engine.stage import Job, Stage
from flows.stages.pretokenize import count_tokens
from tokenization.config import PairsConfig


def build(job: Job[PairsConfig]) -> None:
    from tokenization.sentence_pairs import make_pairs

    make_pairs(job.path("corpus"), job.path("tokenizer"), job.config, job.out, job.progress, job.map_shards)


def count(file: Path) -> int | None:
    """Pairs of a `.pairs`; the sentences are token arrays."""
    return file.stat().st_size // 12 if file.suffix == ".pairs" else count_tokens(file)


pairs = Stage(
    name="pairs",
    version=1,
    build=build,
    headline=lambda stats: (
        f"{stats['train']['pairs']:,} + {stats['validation']['pairs']:,} pairs of "
        f"{stats['train']['sentences']:,} + {stats['validation']['sentences']:,} sentences"
    ),
    count=count,
)
