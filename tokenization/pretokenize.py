"""A corpus as token arrays: one pair of files for each Parquet shard, encoded in parallel, resumable by shard.

Parallel means either that threads share each shard, or, where the caller has a way to map a function over shards
(processes, a cluster), that each shard is one call of its own. The files are the same.
"""

import json
from collections import deque
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from pathlib import Path

import numpy as np

from textmill.progress import quiet
from tokenization.arrays import TOKEN_BYTES, TokenFile, write_meta
from tokenization.config import PretokenizeConfig
from tokenization.formats import load_tokenizer
from tokenization.shard_writer import Piece, Report, encode_shards, forget_notes, load_once, write_shard
from tokenization.text import Documents, read_shard
from tokenization.tokenizer import Tokenizer

PIECE_BYTES = 1 << 20  # text encoded by one thread at a time


def pretokenize(
    corpus: Path,
    tokenizer: Path,
    config: PretokenizeConfig,
    out: Path,
    progress: Callable[..., None] = quiet,
    map_shards: Callable[..., Iterator] | None = None,
) -> None:
    """Encode corpus/{train,validation}-*.parquet into token arrays (format: `tokenization/arrays.py`) in `out`.

    Every document ends with the end-of-text token; special tokens in the text mean nothing. The files do not depend on
    the number of threads, and a killed run continues after the shards it had finished.

    `map_shards(function, items)`, like the builtin `map`, calls a function that can be pickled for each item and yields
    the results in order. Given it, each shard is encoded by one such call, in one thread; the three folders must then
    be found at the same paths wherever it runs.
    Raises `UserError` if the corpus or the tokenizer cannot be read, or a split is missing.
    """
    loaded = load_tokenizer(tokenizer)
    eot_id = loaded.eot_id
    with ThreadPoolExecutor(config.threads) as pool:

        def encode_here(shard: Path, report: Report) -> TokenFile:
            return write_shard(out, shard, _encode_in_order(shard, loaded, pool, 2 * config.threads), report)

        encode = partial(_encode_alone, tokenizer=tokenizer, out=out) if map_shards else encode_here
        written = encode_shards(corpus, tokenizer, out, encode, progress, map_shards)
    np.save(out / TOKEN_BYTES, loaded.byte_lengths())
    write_meta(out, written, vocab_size=loaded.vocab_size, eot_id=eot_id)
    (out / "stats.json").write_text(json.dumps(_stats(written, loaded), indent=2, sort_keys=True) + "\n")
    forget_notes(out)


def _encode_alone(shard: Path, report: Report, *, tokenizer: Path, out: Path) -> TokenFile:
    """Encode one shard in one thread; what a mapped call does."""
    loaded = load_once(tokenizer)
    return write_shard(out, shard, (_encode(piece, loaded) for piece in _pieces(shard)), report)


def _encode_in_order(shard: Path, tokenizer: Tokenizer, pool: ThreadPoolExecutor, ahead: int) -> Iterator[Piece]:
    """The encoded pieces of a shard, in order; at most `ahead` of them wait."""
    waiting: deque = deque()
    try:
        for piece in _pieces(shard):
            waiting.append(pool.submit(_encode, piece, tokenizer))
            if len(waiting) > ahead:
                yield waiting.popleft().result()
        while waiting:
            yield waiting.popleft().result()
    finally:
        for future in waiting:
            future.cancel()


def _pieces(shard: Path) -> Iterator[Documents]:
    return (piece for batch in read_shard(shard) for piece in batch.slices(PIECE_BYTES))


def _encode(piece: Documents, tokenizer: Tokenizer) -> Piece:
    return Piece(len(piece), *tokenizer.encode_documents(piece, closing=tokenizer.eot_id), piece.nbytes)


def _stats(finished: dict[str, list[TokenFile]], tokenizer: Tokenizer) -> dict:
    stats: dict = {"dtype": tokenizer.dtype.name, "vocab_size": tokenizer.vocab_size}
    for split, files in finished.items():
        tokens, documents = sum(f.tokens for f in files), sum(f.documents for f in files)
        text_bytes = sum(f.bytes for f in files)
        stats[split] = {
            "bytes": text_bytes,
            "bytes_per_token": round(text_bytes / max(tokens - documents, 1), 4),
            "documents": documents,
            "files": len(files),
            "tokens": tokens,
        }
    return stats
