"""A corpus as token arrays: one pair of files for each Parquet shard, encoded in parallel, resumable by shard.

Parallel means either that threads share each shard, or, where the caller has a way to map a function over shards
(processes, a cluster), that each shard is one call of its own. The files are the same.
"""

import contextlib
import hashlib
import json
from collections import deque
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict
from functools import lru_cache, partial
from pathlib import Path
from secrets import token_hex

import numpy as np
import pyarrow.parquet as pq

from tokenization.arrays import TOKEN_BYTES, TokenFile, write_meta
from tokenization.config import PretokenizeConfig
from tokenization.formats import RANKS, load_tokenizer
from tokenization.text import Documents, read_shard, shards
from tokenization.tokenizer import Tokenizer

SPLITS = ("train", "validation")
PIECE_BYTES = 1 << 20  # text encoded by one thread at a time


def _quiet(done: int, total: int | None, **figures) -> None:
    pass


def pretokenize(
    corpus: Path,
    tokenizer: Path,
    config: PretokenizeConfig,
    out: Path,
    progress: Callable[..., None] = _quiet,
    map_shards: Callable[..., Iterator] | None = None,
) -> None:
    """Encode corpus/{train,validation}-*.parquet into token arrays (format: `tokenization/arrays.py`) in `out`.

    Every document ends with the end-of-text token; special tokens in the text mean nothing. The files do not depend on
    the number of threads, and a killed run continues after the shards it had finished.

    `map_shards(function, items)`, like the builtin `map`, calls a function that can be pickled for each item and yields
    the results in order. Given it, each shard is encoded by one such call, in one thread; the three folders must then
    be found at the same paths wherever it runs.
    Raises `TokenizationError` if the corpus or the tokenizer cannot be read, or a split is missing.
    """
    loaded = load_tokenizer(tokenizer)
    eot_id = loaded.eot_id
    splits = {split: shards(corpus, split) for split in SPLITS}
    files = [shard for split in splits.values() for shard in split]
    documents = sum(pq.read_metadata(shard).num_rows for shard in files)
    out.mkdir(parents=True, exist_ok=True)
    np.save(out / TOKEN_BYTES, loaded.byte_lengths())
    finished = _finished(out)
    missing = [shard for shard in files if shard.stem not in finished]
    done = sum(file.documents for file in finished.values())
    tokens = sum(file.tokens for file in finished.values())

    def report(more: dict[str, int]) -> None:
        progress(done + more["documents"], documents, unit="documents", tokens=tokens + more["tokens"])

    with ThreadPoolExecutor(config.threads) as pool:
        if map_shards:
            encoded = map_shards(partial(_encode_alone, tokenizer=tokenizer, out=out), missing)
        else:
            encoded = (
                _write_shard(out, shard, _encode_in_order(shard, loaded, pool, 2 * config.threads), report)
                for shard in missing
            )
        for shard, file in zip(missing, encoded, strict=True):
            finished[shard.stem] = file
            done += file.documents
            tokens += file.tokens
            progress(done, documents, unit="documents", tokens=tokens)
    written = {split: [finished[shard.stem] for shard in shards] for split, shards in splits.items()}
    write_meta(out, written, vocab_size=loaded.vocab_size, eot_id=eot_id)
    (out / "stats.json").write_text(json.dumps(_stats(written, loaded), indent=2, sort_keys=True) + "\n")
    for leftover in (*out.glob("*.done"), *out.glob("*.tmp")):
        leftover.unlink()


def _encode_alone(shard: Path, tokenizer: Path, out: Path) -> TokenFile:
    """Encode one shard in one thread; what a mapped call does."""
    loaded = _loaded(tokenizer, (tokenizer / RANKS).stat().st_mtime_ns)
    return _write_shard(out, shard, (_encode(piece, loaded) for piece in _pieces(shard)))


@lru_cache(maxsize=1)
def _loaded(tokenizer: Path, changed: int) -> Tokenizer:
    """The tokenizer of all shards that a process encodes: it remembers the words it has seen."""
    return load_tokenizer(tokenizer)


def _encode_in_order(
    shard: Path, tokenizer: Tokenizer, pool: ThreadPoolExecutor, ahead: int
) -> Iterator[tuple[np.ndarray, np.ndarray, int]]:
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


def _encode(piece: Documents, tokenizer: Tokenizer) -> tuple[np.ndarray, np.ndarray, int]:
    """(ids, ends of documents among them, bytes of text) of a piece."""
    return *tokenizer.encode_documents(piece, closing=tokenizer.eot_id), piece.nbytes


def _write_shard(
    out: Path,
    shard: Path,
    encoded: Iterator[tuple[np.ndarray, np.ndarray, int]],
    report: Callable[[dict[str, int]], None] = lambda totals: None,
) -> TokenFile:
    """Write `<shard>.bin` and `<shard>.idx`, whole or not at all, and a note that they are finished.

    A cluster may run a shard twice at once, where it took a slow worker for a dead one: unfinished files have names of
    their own, and whoever is last replaces finished files by equal ones.
    """
    digest = hashlib.sha256()
    totals = {"tokens": 0, "documents": 0, "bytes": 0}
    attempt = token_hex(4)
    unfinished = {kind: out / f"{shard.stem}.{kind}.{attempt}.tmp" for kind in ("bin", "idx", "done")}
    with unfinished["bin"].open("wb") as tokens_file, unfinished["idx"].open("wb") as ends_file:
        for ids, ends, text_bytes in encoded:
            digest.update(ids)
            tokens_file.write(ids)
            ends_file.write((ends + totals["tokens"]).astype("<u8"))
            totals["tokens"] += len(ids)
            totals["documents"] += len(ends)
            totals["bytes"] += text_bytes
            report(totals)
    file = TokenFile(name=f"{shard.stem}.bin", sha256=digest.hexdigest(), **totals)
    unfinished["done"].write_text(json.dumps(asdict(file)))
    for kind, path in unfinished.items():  # the note last
        path.rename(out / f"{shard.stem}.{kind}")
    return file


def _finished(out: Path) -> dict[str, TokenFile]:
    """What the notes of a killed run say about the shards that it had finished, by the name of the shard."""
    found = {}
    for note in out.glob("*.done"):
        with contextlib.suppress(ValueError, TypeError):
            found[note.stem] = TokenFile(**json.loads(note.read_text()))
    return found


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
