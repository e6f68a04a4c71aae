"""A corpus into token arrays shard by shard, in order; a killed run continues after the shards that were finished.

The step of a stage is a function of one shard. It writes the shard's files with a `ShardWriter` and finishes them:
they are on the disk before a note beside them (`train-00000.done`) says so, and says what they were made with. A note
that was made with another config, or for files that are not there in these sizes, counts for nothing. `encode_shards`
calls the step for the shards without a note.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Iterable
from contextlib import suppress
from dataclasses import asdict, replace
from functools import lru_cache, partial
from pathlib import Path
from typing import Any, NamedTuple, Protocol

import numpy as np

from textmill.errors import UserError
from textmill.files import atomic_path, fsync, remove_temporary
from textmill.mapping import Executor
from textmill.progress import Progress
from tokenization.arrays import SOURCES_DTYPE, TokenFile
from tokenization.formats import load_tokenizer, tokenizer_files
from tokenization.text import content_digest, count_documents, read_sources, shards
from tokenization.tokenizer import Tokenizer

__all__ = ["EncodeShard", "EncodedBatch", "EncodingInputs", "ReportShard", "ShardWriter", "encode_shards"]

SPLITS = ("train", "validation")
ReportShard = Callable[[int, int], None]  # called with the documents and tokens of a shard so far


class EncodingInputs(NamedTuple):
    """What a stage that encodes reads.

    Attributes:
        corpus: the folder with {train,validation}-*.parquet.
        tokenizer: the folder of the tokenizer.
    """

    corpus: Path
    tokenizer: Path


class EncodedBatch(NamedTuple):
    """Some documents of a shard, encoded.

    Attributes:
        documents: number of documents.
        ids: uint16 or uint32 [tokens], one sequence after the other.
        ends: int64 [sequences], the position in `ids` just after each sequence.
        text_bytes: bytes of UTF-8 that were encoded.
    """

    documents: int
    ids: np.ndarray
    ends: np.ndarray
    text_bytes: int


class EncodeShard(Protocol):
    """The step of a stage: write the files of one shard and finish them. It can be pickled."""

    def __call__(self, shard: Path, *, report: ReportShard) -> TokenFile: ...


class ShardWriter:
    """Writes the files of shards into one folder, and knows which shards are finished. It can be pickled.

    Args:
        out: the folder.
        tokenizer: the folder of the tokenizer.
        config: what the files depend on besides shard and tokenizer.

    Raises:
        UserError: there is no tokenizer.
    """

    def __init__(self, out: Path, tokenizer: Path, config: str = "") -> None:
        self.out, self._tokenizer = out, tokenizer
        digest = hashlib.sha256(config.encode())
        for file in tokenizer_files(tokenizer):
            digest.update(file.read_bytes())
        self._recipe = digest.hexdigest()
        self._digests: dict[Path, str] = {}  # of shards that are being written

    def load_tokenizer(self) -> Tokenizer:
        """The tokenizer, loaded once in a process: it remembers the words it has seen in earlier shards."""
        return _load_once(self._tokenizer, self._recipe)

    def path(self, shard: Path, kind: str) -> Path:
        """The shard's file of a kind: `<shard>.<kind>`."""
        return self.out / f"{shard.stem}.{kind}"

    def write(self, shard: Path, batches: Iterable[EncodedBatch], report: ReportShard) -> TokenFile:
        """Write `<shard>.bin` and `<shard>.idx`, whole or not at all.

        `batches` reads the shard only when it is consumed: what is noted of the shard is what it was before that.
        """
        self._digests[shard] = content_digest(shard)
        digest = hashlib.sha256()
        documents = tokens = sequences = text_bytes = 0
        with (
            atomic_path(self.path(shard, "bin"), durable=False) as bin_path,
            atomic_path(self.path(shard, "idx"), durable=False) as idx_path,
            bin_path.open("wb") as tokens_file,
            idx_path.open("wb") as ends_file,
        ):
            for batch in batches:
                digest.update(batch.ids.data)
                tokens_file.write(batch.ids.data)
                ends_file.write((batch.ends + tokens).astype("<u8").data)
                documents += batch.documents
                tokens += len(batch.ids)
                sequences += len(batch.ends)
                text_bytes += batch.text_bytes
                report(documents, tokens)
        return TokenFile(f"{shard.stem}.bin", tokens, sequences, text_bytes, digest.hexdigest())

    def write_sources(self, shard: Path, file: TokenFile) -> TokenFile:
        """Write `<shard>.src` for a shard whose other files are written; `file` with the counts of each source. Nothing
        is written of a shard that does not know sources.

        Raises:
            UserError: the shard has more sources than are told apart.
        """
        found = read_sources(shard)
        if found is None:
            return file
        names, numbers = found
        if len(names) > np.iinfo(SOURCES_DTYPE).max:
            raise UserError(f"{shard} has {len(names):,} sources; {np.iinfo(SOURCES_DTYPE).max:,} can be told apart")
        with atomic_path(self.path(shard, "src"), durable=False) as unfinished:
            unfinished.write_bytes(numbers.astype(SOURCES_DTYPE).tobytes())
        sizes = np.diff(np.fromfile(self.path(shard, "idx"), "<u8").astype(np.int64), prepend=0)
        documents = np.bincount(numbers, minlength=len(names)).tolist()
        tokens = np.bincount(numbers, sizes, minlength=len(names)).astype(np.int64).tolist()
        counts = {
            name: {"documents": count, "tokens": size}
            for name, count, size in zip(names, documents, tokens, strict=True)
        }
        return replace(file, sources=counts)

    def finish(self, shard: Path, file: TokenFile) -> None:
        """Bring the files of a shard that `write` began to the disk, then note that it is finished."""
        sizes = self._sizes(shard)
        for name in sizes:
            fsync(self.out / name)
        fsync(self.out)
        note = {"made_with": self._made_with(self._digests.pop(shard)), "file": asdict(file), "sizes": sizes}
        with atomic_path(self.path(shard, "done"), durable=False) as unfinished:
            unfinished.write_text(json.dumps(note))

    def finished(self, shard: Path) -> TokenFile | None:
        """What a killed run noted of a shard, if its files are there and were made with the same settings."""
        with suppress(OSError, ValueError, TypeError, KeyError):
            note = json.loads(self.path(shard, "done").read_text())
            if note["made_with"] == self._made_with(content_digest(shard)) and note["sizes"] == self._sizes(shard):
                return TokenFile(**note["file"])
        return None

    def clean_up(self) -> None:
        """Remove the notes and the temporary files of killed runs, and let go of the tokenizer.

        Call it when all that depends on the shards is written.
        """
        for note in self.out.glob("*.done"):
            note.unlink()
        remove_temporary(self.out)
        _load_once.cache_clear()

    def _made_with(self, shard_digest: str) -> dict[str, Any]:
        return {"recipe": self._recipe, "shard": shard_digest}

    def _sizes(self, shard: Path) -> dict[str, int]:
        """Bytes of each file that was written for a shard."""
        found = [path for path in self.out.glob(f"{shard.stem}.*") if path.suffix != ".done"]
        return {path.name: path.stat().st_size for path in found}


def encode_shards(
    corpus: Path, writer: ShardWriter, encode: EncodeShard, progress: Progress, executor: Executor
) -> dict[str, list[TokenFile]]:
    """Encode the shards of every split that are not finished.

    Args:
        corpus: the folder with {train,validation}-*.parquet.
        writer: the one that `encode` writes with.
        encode: called for each missing shard, through `executor`.
        progress: told the documents and tokens of all shards.
        executor: where the shards are encoded.

    Returns:
        the token files of each split, in the order of its shards.

    Raises:
        UserError: a split is missing, or a shard cannot be read.
    """
    splits = {split: shards(corpus, split) for split in SPLITS}
    every = [shard for split in splits.values() for shard in split]
    rows = {shard: count_documents(shard) for shard in every}
    total = sum(rows.values())
    writer.out.mkdir(parents=True, exist_ok=True)
    files = {shard: file for shard in every if (file := writer.finished(shard))}
    missing = [shard for shard in every if shard not in files]
    done, tokens = sum(rows[shard] for shard in files), sum(file.tokens for file in files.values())

    def report(more_documents: int, more_tokens: int) -> None:
        progress(done + more_documents, total, unit="documents", tokens=tokens + more_tokens)

    encoded = executor.map(partial(encode, report=executor.report(report)), missing)
    for shard, file in zip(missing, encoded, strict=True):
        files[shard] = file
        done += rows[shard]
        tokens += file.tokens
        report(0, 0)
    return {split: [files[shard] for shard in listed] for split, listed in splits.items()}


@lru_cache(maxsize=1)
def _load_once(folder: Path, recipe: str) -> Tokenizer:
    return load_tokenizer(folder)
