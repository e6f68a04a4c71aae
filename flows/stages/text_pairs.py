"""text_pairs: files of sources and targets, and tokenizer -> token arrays of both, to train an encoder-decoder on."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from flows.engine.stage import Job, Stage
from flows.stages.pretokenize import SPLITS, count_tokens
from flows.store.local import Store
from tokenization.config import TextPairsConfig


class TextPairs(Stage[TextPairsConfig]):
    """Sources and their targets: translations, questions and answers."""

    name = "text_pairs"
    version = 1
    inputs = ("tokenizer",)

    def build(self, job: Job[TextPairsConfig]) -> None:
        from tokenization.text_pairs import make_text_pairs

        make_text_pairs(job.config, job.path("tokenizer"), job.out, progress=job.progress, executor=job.executor)

    def identity(self, config: TextPairsConfig, store: Store) -> Any:
        """The columns, and the files by name and contents, wherever they lie."""
        listed = {
            split: [[file.name, store.file_digest(file)] for file in map(Path, paths)]
            for split, paths in (("train", config.paths), ("validation", config.validation))
        }
        return {"settings": config, "files": listed}

    def check_available(self, config: TextPairsConfig) -> None:
        from tokenization.text_pairs import pair_files

        pair_files(config)

    def count(self, file: Path) -> int | None:
        return count_tokens(file)

    def headline(self, stats: dict[str, Any]) -> str:
        blank = f", {stats['blank']:,} with a blank side left out" if stats["blank"] else ""
        return f"{stats['train']['pairs']:,} + {stats['validation']['pairs']:,} pairs of source and target{blank}"

    def highlight(self, stats: dict[str, Any]) -> tuple[str, str]:
        return f"{stats['train']['pairs']:,}", "pairs to train on"

    def work(self, stats: dict[str, Any]) -> tuple[int, str]:
        return sum(stats[split]["pairs"] for split in SPLITS), "pairs"


text_pairs = TextPairs()
