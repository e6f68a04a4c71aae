"""pretokenize: corpus and tokenizer -> token arrays."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from flows.engine.page import Block, Table
from flows.engine.stage import Job, Stage
from flows.store.local import Artifact
from flows.store.manifest import count_rows
from tokenization.config import PretokenizeConfig

SPLITS = ("train", "validation")


class Pretokenize(Stage[PretokenizeConfig]):
    """The corpus as integers."""

    name = "pretokenize"
    noun = "tokens"
    version = 2
    inputs = ("corpus", "tokenizer")

    def build(self, job: Job[PretokenizeConfig]) -> None:
        from tokenization.pretokenize import pretokenize as write_token_arrays
        from tokenization.shard_writer import EncodingInputs

        inputs = EncodingInputs(job.path("corpus"), job.path("tokenizer"))
        write_token_arrays(inputs, job.config, job.out, progress=job.progress, executor=job.executor)

    def count(self, file: Path) -> int | None:
        return count_tokens(file)

    def headline(self, stats: dict[str, Any]) -> str:
        return (
            f"{stats['train']['tokens']:,} + {stats['validation']['tokens']:,} tokens, "
            f"{stats['train']['bytes_per_token']:.2f} bytes a token"
        )

    def highlight(self, stats: dict[str, Any]) -> tuple[str, str]:
        return f"{stats['train']['tokens']:,}", "tokens to train on"

    def work(self, stats: dict[str, Any]) -> tuple[int, str]:
        return sum(stats[split]["tokens"] for split in SPLITS), "tokens"

    def page(self, artifact: Artifact) -> Iterator[Block]:
        columns = ("documents", "tokens", "bytes", "bytes_per_token")
        rows = [(split, *(artifact.stats[split][column] for column in columns)) for split in SPLITS]
        yield Table(("split", *(column.replace("_", " ") for column in columns)), rows)
        sources = artifact.stats["train"].get("sources")
        if sources:
            rows = [(name, counts["documents"], counts["tokens"]) for name, counts in sorted(sources.items())]
            yield Table(("source", "documents to train on", "tokens"), rows)


def count_tokens(file: Path) -> int | None:
    """Tokens of a `.bin`, documents of an `.idx` or a `.src`."""
    import numpy as np

    match file.suffix:
        case ".bin":
            dtype = json.loads((file.parent / "meta.json").read_bytes())["dtype"]
            return file.stat().st_size // np.dtype(dtype).itemsize
        case ".idx":
            return file.stat().st_size // 8
        case ".src":
            return file.stat().st_size // 2
        case _:
            return count_rows(file)


pretokenize = Pretokenize()
