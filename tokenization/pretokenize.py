"""A corpus as token arrays: one pair of files for each Parquet shard, encoded in parallel, resumable by shard."""

import hashlib
import json
import os
from collections import deque
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict
from pathlib import Path

import numpy as np
import pyarrow.parquet as pq
from pydantic import BaseModel, Field

from tokenization.arrays import TOKEN_BYTES, TokenFile, write_meta
from tokenization.formats import load_tokenizer
from tokenization.text import Documents, read_shard, shards
from tokenization.tokenizer import Tokenizer

SPLITS = ("train", "validation")
PIECE_BYTES = 1 << 20  # text encoded by one thread at a time


def _quiet(done: int, total: int | None, **figures) -> None:
    pass


class PretokenizeConfig(BaseModel, extra="forbid"):
    """How a corpus becomes token arrays."""

    threads: int = Field(
        default_factory=lambda: os.cpu_count() or 1,
        gt=0,
        description="Threads that encode",
        json_schema_extra={"affects_output": False},
    )


def pretokenize(
    corpus: Path,
    tokenizer: Path,
    config: PretokenizeConfig,
    out: Path,
    progress: Callable[..., None] = _quiet,
) -> None:
    """Encode corpus/{train,validation}-*.parquet into token arrays (format: `tokenization/arrays.py`) in `out`.

    Every document ends with the end-of-text token; special tokens in the text mean nothing. The files do not depend on
    the number of threads, and a killed run continues after the shards it had finished.
    Raises `TokenizationError` if the corpus or the tokenizer cannot be read, or a split is missing.
    """
    loaded = load_tokenizer(tokenizer)
    eot_id = loaded.eot_id
    splits = {split: shards(corpus, split) for split in SPLITS}
    documents = sum(pq.read_metadata(shard).num_rows for files in splits.values() for shard in files)
    out.mkdir(parents=True, exist_ok=True)
    np.save(out / TOKEN_BYTES, loaded.byte_lengths())
    finished: dict[str, list[TokenFile]] = {split: [] for split in SPLITS}
    done = tokens = 0
    with ThreadPoolExecutor(config.threads) as pool:
        for split, files in splits.items():
            for shard in files:
                file = _finished(out, shard)
                if file is None:
                    encoded = _encode_in_order(shard, loaded, eot_id, pool, ahead=2 * config.threads)
                    file = _write_shard(
                        out,
                        shard,
                        encoded,
                        lambda more, d=done, t=tokens: progress(
                            d + more["documents"], documents, unit="documents", tokens=t + more["tokens"]
                        ),
                    )
                finished[split].append(file)
                done += file.documents
                tokens += file.tokens
                progress(done, documents, unit="documents", tokens=tokens)
    write_meta(out, finished, vocab_size=loaded.vocab_size, eot_id=eot_id)
    (out / "stats.json").write_text(json.dumps(_stats(finished, loaded), indent=2, sort_keys=True) + "\n")
    for note in out.glob("*.done"):
        note.unlink()


def _encode_in_order(
    shard: Path, tokenizer: Tokenizer, eot_id: int, pool: ThreadPoolExecutor, ahead: int
) -> Iterator[tuple[np.ndarray, np.ndarray, int]]:
    """(ids, ends of documents, bytes of text) of consecutive pieces of a shard; at most `ahead` pieces wait."""

    def encode(piece: Documents) -> tuple[np.ndarray, np.ndarray, int]:
        return *tokenizer.encode_documents(piece, closing=eot_id), piece.nbytes

    waiting: deque = deque()
    try:
        for batch in read_shard(shard):
            for piece in batch.slices(PIECE_BYTES):
                waiting.append(pool.submit(encode, piece))
                if len(waiting) > ahead:
                    yield waiting.popleft().result()
        while waiting:
            yield waiting.popleft().result()
    finally:
        for future in waiting:
            future.cancel()


def _write_shard(
    out: Path,
    shard: Path,
    encoded: Iterator[tuple[np.ndarray, np.ndarray, int]],
    report: Callable[[dict[str, int]], None],
) -> TokenFile:
    """Write `<shard>.bin` and `<shard>.idx`, whole or not at all, and a note that they are finished."""
    name = f"{shard.stem}.bin"
    digest = hashlib.sha256()
    totals = {"tokens": 0, "documents": 0, "bytes": 0}
    unfinished = [(out / name).with_suffix(".bin.tmp"), (out / name).with_suffix(".idx.tmp")]
    with unfinished[0].open("wb") as tokens_file, unfinished[1].open("wb") as ends_file:
        for ids, ends, text_bytes in encoded:
            digest.update(ids)
            tokens_file.write(ids)
            ends_file.write((ends + totals["tokens"]).astype("<u8"))
            totals["tokens"] += len(ids)
            totals["documents"] += len(ends)
            totals["bytes"] += text_bytes
            report(totals)
    for path in unfinished:
        path.rename(path.with_suffix(""))
    file = TokenFile(name=name, sha256=digest.hexdigest(), **totals)
    _note(out, shard).write_text(json.dumps(asdict(file)))
    return file


def _note(out: Path, shard: Path) -> Path:
    return out / f"{shard.stem}.done"


def _finished(out: Path, shard: Path) -> TokenFile | None:
    """What the note of a killed run says about a shard that it had finished."""
    try:
        return TokenFile(**json.loads(_note(out, shard).read_text()))
    except (OSError, ValueError, TypeError):
        return None


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
