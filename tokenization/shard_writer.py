"""A corpus into token arrays shard by shard: what `pretokenize.py` and `sentence_pairs.py` share.

The step of a stage writes the files of one shard into a folder. `encode_shards` calls it for every shard that no killed
run has finished (`textmill/kept.py`), and `publish_arrays` moves the files to their place when all of them are there.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterable, Mapping
from dataclasses import asdict, dataclass, replace
from functools import lru_cache, partial
from pathlib import Path
from typing import Any, NamedTuple, Protocol

import numpy as np
import regex

from textmill.errors import UserError
from textmill.kept import KeptWork, Made, code_digest
from textmill.mapping import Executor
from textmill.progress import Progress
from tokenization.arrays import META, SOURCES_DTYPE, TokenFile
from tokenization.formats import load_tokenizer, tokenizer_files
from tokenization.text import ShardColumns, check_listed, look_at, read_sources, shards
from tokenization.tokenizer import Tokenizer

__all__ = [
    "EncodeShard", "EncodedBatch", "EncodedShard", "EncodingInputs", "ReportShard", "SharedTokenizer",
    "encode_shards", "made_with", "publish_arrays", "write_sources", "write_tokens",
]  # fmt: skip

SHARDS = "shards"  # folder of finished shards below the output, removed at the end
SPLITS = ("train", "validation")
KINDS = ("bin", "idx", "src", "pairs", "done")  # of files that an older output may have for shards we have not
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


class EncodedShard(NamedTuple):
    """The files of a shard, not yet at their place.

    Attributes:
        file: its entry in `meta.json`.
        paths: all of its files.
    """

    file: TokenFile
    paths: list[Path]


class EncodeShard(Protocol):
    """The step of a stage: write the files of a shard into a folder. It can be pickled."""

    def __call__(self, shard: Path, folder: Path, *, report: ReportShard) -> TokenFile: ...


@dataclass(frozen=True)
class SharedTokenizer:
    """A tokenizer that every process loads once. It can be pickled.

    Attributes:
        folder: of its files.
        digest: of the files that decide its ids.
    """

    folder: Path
    digest: str

    @staticmethod
    def of(folder: Path) -> SharedTokenizer:
        """The tokenizer in a folder.

        Raises:
            UserError: there is none.
        """
        return SharedTokenizer(folder, _digest_of(folder))

    def load(self) -> Tokenizer:
        """The tokenizer. It remembers the words it has seen in earlier shards.

        Raises:
            UserError: it is damaged, or its files are no longer what they were.
        """
        return _load_once(self.folder, self.digest)

    def forget(self) -> None:
        """Let go of it in this process."""
        _load_once.cache_clear()


@lru_cache(maxsize=1)
def _load_once(folder: Path, digest: str) -> Tokenizer:
    tokenizer = load_tokenizer(folder)
    if _digest_of(folder) != digest:
        raise UserError(f"the tokenizer in {folder} changed while it was in use; run again")
    return tokenizer


def _digest_of(folder: Path) -> str:
    return hashlib.sha256(
        b"".join(hashlib.sha256(f.read_bytes()).digest() for f in tokenizer_files(folder))
    ).hexdigest()


def made_with(**settings: Any) -> dict[str, Any]:
    """What the pieces of work of this package depend on, beside the shards: the settings, and the code that cuts text
    into words and sentences."""
    return {**settings, "code": code_digest(Path(__file__).parent), "regex": regex.__version__}


# ---- files of a shard


def write_tokens(shard: Path, folder: Path, batches: Iterable[EncodedBatch], report: ReportShard) -> TokenFile:
    """Write `<shard>.bin` and `<shard>.idx`."""
    digest = hashlib.sha256()
    documents = tokens = sequences = text_bytes = 0
    file = folder / f"{shard.stem}.bin"
    with file.open("wb") as tokens_file, file.with_suffix(".idx").open("wb") as ends_file:
        for batch in batches:
            digest.update(batch.ids.data)
            tokens_file.write(batch.ids.data)
            ends_file.write((batch.ends + tokens).astype("<u8").data)
            documents += batch.documents
            tokens += len(batch.ids)
            sequences += len(batch.ends)
            text_bytes += batch.text_bytes
            report(documents, tokens)
    return TokenFile(file.name, tokens, sequences, text_bytes, digest.hexdigest())


def write_sources(shard: Path, folder: Path, file: TokenFile) -> TokenFile:
    """Write `<shard>.src` for a shard whose tokens are written; `file` with the counts of each source. Nothing is
    written of a shard that does not know sources.

    Raises:
        UserError: the shard has more sources than are told apart.
    """
    found = read_sources(shard)
    if found is None:
        return file
    names, numbers = found
    if len(names) > np.iinfo(SOURCES_DTYPE).max:
        raise UserError(f"{shard} has {len(names):,} sources; {np.iinfo(SOURCES_DTYPE).max:,} can be told apart")
    tokens_file = folder / file.name
    numbers.astype(SOURCES_DTYPE).tofile(tokens_file.with_suffix(".src"))
    sizes = np.diff(np.fromfile(tokens_file.with_suffix(".idx"), "<u8").astype(np.int64), prepend=0)
    documents = np.bincount(numbers, minlength=len(names)).tolist()
    tokens = np.bincount(numbers, sizes, minlength=len(names)).astype(np.int64).tolist()
    counts = {
        name: {"documents": count, "tokens": size} for name, count, size in zip(names, documents, tokens, strict=True)
    }
    return replace(file, sources=counts)


# ---- all shards


def encode_shards(
    corpus: Path, work: KeptWork, encode: EncodeShard, progress: Progress, executor: Executor
) -> dict[str, list[EncodedShard]]:
    """Encode the shards of every split.

    Args:
        corpus: the folder with {train,validation}-*.parquet.
        work: where finished shards are kept.
        encode: called for each shard that is not finished, through `executor`.
        progress: told the documents and tokens of all shards.
        executor: where the shards are encoded.

    Returns:
        the shards of each split, in order.

    Raises:
        UserError: a split is missing, a shard cannot be read, only some know sources, or the corpus changed meanwhile.
    """
    splits = {split: shards(corpus, split) for split in SPLITS}
    every = [shard for split in splits.values() for shard in split]
    columns = {shard: look_at(shard) for shard in every}
    for listed in splits.values():
        _check_sources(listed, columns)
    total, done, tokens = sum(found.documents for found in columns.values()), 0, 0

    def report(more_documents: int, more_tokens: int) -> None:
        progress(done + more_documents, total, unit="documents", tokens=tokens + more_tokens)

    encoded: dict[Path, EncodedShard] = {}
    make = partial(_make, encode=encode, report=executor.report(report))
    for shard, piece in zip(every, work.map(make, every, executor), strict=True):
        encoded[shard] = EncodedShard(TokenFile(**piece.result), piece.files())
        done += columns[shard].documents
        tokens += encoded[shard].file.tokens
        report(0, 0)
    for split, listed in splits.items():
        check_listed(corpus, split, listed)
    return {split: [encoded[shard] for shard in listed] for split, listed in splits.items()}


def _check_sources(listed: list[Path], columns: Mapping[Path, ShardColumns]) -> None:
    """Check that all shards of a split know the sources of their documents, or none."""
    knowing = [shard for shard in listed if columns[shard].knows_sources]
    if 0 < len(knowing) < len(listed):
        other = next(shard for shard in listed if shard not in knowing)
        raise UserError(f"{other} has no column 'source', and {knowing[0].name} has one; give it to all or to none")


def _make(shard: Path, folder: Path, *, encode: EncodeShard, report: ReportShard) -> Made:
    file = encode(shard, folder, report=report)
    return Made(asdict(file), {file.name: file.sha256})


def publish_arrays(work: KeptWork, encoded: dict[str, list[EncodedShard]]) -> None:
    """Move token arrays to their place, in place of older ones. `meta.json`, without which nothing can be read, is in
    `work.complete` and comes last."""
    paths = [path for shards in encoded.values() for shard in shards for path in shard.paths]
    work.publish(paths, META, [f"{split}-*.{kind}" for split in SPLITS for kind in KINDS])
