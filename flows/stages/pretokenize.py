"""pretokenize: corpus and tokenizer -> token arrays."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np

from flows.engine.stage import Job, Stage
from flows.store.local import count_rows
from tokenization.config import PretokenizeConfig


def build(job: Job[PretokenizeConfig]) -> None:
    from tokenization.pretokenize import pretokenize as write_token_arrays

    write_token_arrays(job.path("corpus"), job.path("tokenizer"), job.config, job.out, job.progress, job.map_shards)


def count_tokens(file: Path) -> int | None:
    """Tokens of a `.bin`, documents of an `.idx`."""
    match file.suffix:
        case ".bin":
            dtype = json.loads((file.parent / "meta.json").read_bytes())["dtype"]
            return file.stat().st_size // np.dtype(dtype).itemsize
        case ".idx":
            return file.stat().st_size // 8
        case _:
            return count_rows(file)


pretokenize = Stage(
    name="pretokenize",
    version=1,
    build=build,
    headline=lambda stats: (
        f"{stats['train']['tokens']:,} + {stats['validation']['tokens']:,} tokens, "
        f"{stats['train']['bytes_per_token']:.2f} bytes a token"
    ),
    count=count_tokens,
)
