"""A corpus as token arrays: one pair of files for each Parquet shard, encoded in parallel, resumable by shard.

Threads share each shard, or each shard is encoded by a worker of its own, as the executor has it. The files are the
same.
"""

from __future__ import annotations

import json
from collections import Counter
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np

from textmill.errors import UserError
from textmill.kept import check_apart, kept_work
from textmill.mapping import HERE, Executor, Threads, map_in_order
from textmill.progress import Progress, quiet
from tokenization.arrays import TOKEN_BYTES, TokenFile, write_meta
from tokenization.config import PretokenizeConfig
from tokenization.sentence_pairs import holds_pairs
from tokenization.shard_writer import (
    SHARDS,
    EncodedBatch,
    EncodingInputs,
    ReportShard,
    SharedTokenizer,
    encode_shards,
    made_with,
    publish_arrays,
    write_sources,
    write_tokens,
)
from tokenization.text import Documents, read_shard
from tokenization.tokenizer import Tokenizer

__all__ = ["pretokenize"]

SLICE_BYTES = 1 << 20  # text that one thread encodes at a time


def pretokenize(
    inputs: EncodingInputs,
    config: PretokenizeConfig,
    out: Path,
    *,
    progress: Progress = quiet,
    executor: Executor = HERE,
) -> None:
    """Encode a corpus into token arrays (format: `tokenization/arrays.py`) in `out`.

    Every document ends with the end-of-text token; special tokens in the text mean nothing. The files depend neither on
    the number of threads nor on the executor, and a killed run continues after the shards it had finished.

    Raises:
        UserError: the corpus or the tokenizer cannot be read or is `out`, a split is missing, or the tokenizer has no
            end of text.

    Example:
        >>> pretokenize(EncodingInputs(corpus, tokenizer), PretokenizeConfig(), Path("tokens"))  # doctest: +SKIP
    """
    check_apart(out, *inputs)
    if holds_pairs(out):
        raise UserError(f"{out} holds pairs of sentences; choose another folder for the token arrays of a corpus")
    shared = SharedTokenizer.of(inputs.tokenizer)
    tokenizer = shared.load()
    eot_id = tokenizer.eot_id  # a tokenizer without one is refused before any work
    with kept_work(out, SHARDS, made_with(work="token arrays", tokenizer=shared.digest)) as work:
        encode = partial(_encode_shard, tokenizer=shared, threads=executor.threads(config.threads))
        encoded = encode_shards(inputs.corpus, work, encode, progress, executor)
        files = {split: [shard.file for shard in shards] for split, shards in encoded.items()}
        np.save(work.complete / TOKEN_BYTES, tokenizer.byte_lengths())
        stats = json.dumps(_stats(files, tokenizer), indent=2, sort_keys=True)
        (work.complete / "stats.json").write_text(stats + "\n")
        write_meta(work.complete, files, vocab_size=tokenizer.vocab_size, eot_id=eot_id)
        publish_arrays(work, encoded)
    shared.forget()


def _encode_shard(
    shard: Path, folder: Path, *, tokenizer: SharedTokenizer, threads: int, report: ReportShard
) -> TokenFile:
    """Encode one shard by `threads` threads, while this one reads and writes."""
    encode = partial(_encode, tokenizer=tokenizer.load())
    slices = (part for batch in read_shard(shard) for part in batch.slices(SLICE_BYTES))
    with Threads(threads) as pool:
        file = write_tokens(shard, folder, map_in_order(pool.submit, encode, slices, ahead=2 * threads), report)
    return write_sources(shard, folder, file)


def _encode(documents: Documents, tokenizer: Tokenizer) -> EncodedBatch:
    encoded = tokenizer.encode_documents(documents, closing=tokenizer.eot_id)
    return EncodedBatch(len(documents), *encoded, documents.nbytes)


def _stats(files: dict[str, list[TokenFile]], tokenizer: Tokenizer) -> dict[str, Any]:
    stats: dict[str, Any] = {"dtype": tokenizer.dtype.name, "vocab_size": tokenizer.vocab_size}
    for split, written in files.items():
        tokens, documents = sum(f.tokens for f in written), sum(f.documents for f in written)
        text_bytes = sum(f.bytes for f in written)
        stats[split] = {
            "bytes": text_bytes,
            "bytes_per_token": round(text_bytes / max(tokens - documents, 1), 4),
            "documents": documents,
            "files": len(written),
            "tokens": tokens,
            "sources": _by_source(written),
        }
    return stats


def _by_source(files: list[TokenFile]) -> dict[str, dict[str, int]]:
    """Documents and tokens of each source."""
    sums: dict[str, Counter[str]] = {}
    for file in files:
        for name, counts in file.sources.items():
            sums.setdefault(name, Counter()).update(counts)
    return {name: dict(counts) for name, counts in sums.items()}
