"""Sources and their targets as token arrays, to train an encoder-decoder on: translations, questions and answers.

A folder of them is one of token arrays whose documents are a source, its target, the next source, and so on, each
ended by the end-of-text token, and `text_pairs.json`, which says so. They come from files with a column of each
(Parquet, JSON lines, CSV). Which pairs are held out follows from the sources, so that no source is in both splits.

Example:
    >>> config = TextPairsConfig(paths=["questions.jsonl"], source="question", target="answer")
    >>> make_text_pairs(config, Path("tokenizer"), Path("pairs"))  # doctest: +SKIP
    >>> source, target = TextPairs(Path("pairs"), "train").pair(0)  # doctest: +SKIP
"""

from __future__ import annotations

import hashlib
import json
from collections import Counter
from collections.abc import Iterator
from dataclasses import asdict
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np

from textmill.errors import UserError
from textmill.kept import Made, check_apart, kept_work
from textmill.mapping import HERE, Executor
from textmill.progress import Progress, quiet
from textmill.rows import ROW_FILES, read_rows
from tokenization.arrays import META, TokenArrays, TokenFile, write_meta
from tokenization.config import TextPairsConfig
from tokenization.shard_writer import SHARDS, EncodedBatch, SharedTokenizer, made_with, write_tokens
from tokenization.text import documents_of, read_shard

__all__ = ["TextPairs", "holds_text_pairs", "make_text_pairs", "pair_files"]

TEXT_PAIRS = "text_pairs.json"
SPLITS = ("train", "validation")
PARQUET = ".parquet"
BATCH_PAIRS = 256  # encoded at once
Pair = tuple[str, str]


def make_text_pairs(
    config: TextPairsConfig, tokenizer: Path, out: Path, *, progress: Progress = quiet, executor: Executor = HERE
) -> None:
    """Write the pairs of files to `out`. A pair of which a side is blank is left out, and counted in `stats.json`.

    The files that are written depend on the contents and names of those that are read, the tokenizer and the config;
    `meta.json`, without which nothing can be read, comes last. A killed run goes on after the files it had finished.

    Args:
        config: which files, and which columns of them.
        tokenizer: folder of the tokenizer.
        out: folder to fill.
        progress: is told files and pairs.
        executor: where the files are encoded.

    Raises:
        UserError: a file cannot be read or lacks a column, a split has no pairs, or `out` holds other token arrays.
    """
    check_apart(out, tokenizer)
    files = pair_files(config)
    if (out / META).exists() and not holds_text_pairs(out):
        raise UserError(f"{out} holds other token arrays; choose another folder for pairs")
    shared = SharedTokenizer.of(tokenizer)
    held_out = frozenset(map(Path, config.validation))
    recipe = made_with(
        work="text pairs", tokenizer=shared.digest, config=config.model_dump(exclude={"paths", "validation"}),
        held_out=sorted(file.name for file in held_out),
    )  # fmt: skip
    encode = partial(_encode_file, tokenizer=shared, config=config, held_out=held_out)
    listed: dict[str, list[TokenFile]] = {split: [] for split in SPLITS}
    blank, paths, pairs = 0, [], 0
    with kept_work(out, SHARDS, recipe) as work:
        for done, piece in enumerate(work.map(encode, files, executor), start=1):
            paths += piece.files()
            blank += piece.result["blank"]
            for split in SPLITS:
                listed[split].append(TokenFile(**piece.result[split]))
            pairs = sum(file.documents for part in listed.values() for file in part) // 2
            progress(done, len(files), unit="files", pairs=pairs)
        for split, part in listed.items():
            if not sum(file.documents for file in part):
                advice = "give more pairs, or files of `validation`" if split == "validation" else "give more pairs"
                raise UserError(f"no pair is for {split}; {advice}")
        stats = {split: {"pairs": sum(f.documents for f in part) // 2, "tokens": sum(f.tokens for f in part)}
                 for split, part in listed.items()}  # fmt: skip
        loaded = shared.load()
        about = {"format": "textmill-text-pairs 1"}
        for name, content in ((TEXT_PAIRS, about), ("stats.json", stats | {"blank": blank})):
            (work.complete / name).write_text(json.dumps(content, indent=2, sort_keys=True) + "\n")
        write_meta(work.complete, listed, vocab_size=loaded.vocab_size, eot_id=loaded.eot_id)
        work.publish(paths, META, [f"{split}-*.{kind}" for split in SPLITS for kind in ("bin", "idx")])
    shared.forget()


def pair_files(config: TextPairsConfig) -> list[Path]:
    """The files of a config, those that are held out last.

    Raises:
        UserError: one is missing or of another kind, or two have one name.
    """
    files = [Path(path) for path in (*config.paths, *config.validation)]
    for file in files:
        if not file.is_file():
            raise UserError(f"{file}: no such file; give files of pairs")
        if file.suffix.lower() not in (PARQUET, *ROW_FILES):
            raise UserError(f"{file}: pairs are read from {', '.join((PARQUET, *ROW_FILES))}")
    name, count = Counter(file.name for file in files).most_common(1)[0]
    if count > 1:
        raise UserError(f"two files of pairs are called {name}; give each a name of its own, and list it once")
    return files


def _encode_file(
    file: Path, folder: Path, *, tokenizer: SharedTokenizer, config: TextPairsConfig, held_out: frozenset[Path]
) -> Made:
    """Write the pairs of a file, those of each split by themselves."""
    loaded = tokenizer.load()
    blank = 0

    def split_of(pair: Pair) -> str:
        if held_out:
            return "validation" if file in held_out else "train"
        share = int.from_bytes(hashlib.sha256(pair[0].encode("utf-8", "replace")).digest()[:8]) / 2**64
        return "validation" if share < config.validation_fraction else "train"

    def chosen(split: str) -> Iterator[Pair]:
        nonlocal blank
        blank = 0
        for pair in _pairs(file, config):
            if not all(side.strip() for side in pair):
                blank += 1
            elif split_of(pair) == split:
                yield pair

    def batches(split: str) -> Iterator[EncodedBatch]:
        for pairs in _batched(chosen(split)):
            documents = documents_of([side for pair in pairs for side in pair])
            ids, ends = loaded.encode_documents(documents, loaded.eot_id)
            yield EncodedBatch(len(pairs), ids, ends, documents.nbytes)

    made = {
        split: write_tokens(Path(f"{split}-{file.name}.pairs"), folder, batches(split), lambda *_: None)
        for split in SPLITS
    }
    digests = {written.name: written.sha256 for written in made.values()}
    return Made({"blank": blank, **{split: asdict(written) for split, written in made.items()}}, digests)


def _batched(pairs: Iterator[Pair]) -> Iterator[list[Pair]]:
    batch: list[Pair] = []
    for pair in pairs:
        batch.append(pair)
        if len(batch) == BATCH_PAIRS:
            yield batch
            batch = []
    if batch:
        yield batch


# ---- reading


def _pairs(file: Path, config: TextPairsConfig) -> Iterator[Pair]:
    columns = (config.source, config.target)
    if file.suffix.lower() == PARQUET:
        for sources, targets in zip(*(read_shard(file, column) for column in columns), strict=True):
            yield from zip(sources.strings(), targets.strings(), strict=True)
        return
    for place, row in read_rows(file, "a source and a target"):
        source, target = (_text_of(row, column, place) for column in columns)
        yield source, target


def _text_of(row: dict[str, Any], column: str, place: str) -> str:
    if column not in row:
        raise UserError(f"{place}: no column {column!r} (it has: {', '.join(map(str, row))[:200]}); set the right one")
    value = row[column]
    if value is None:
        return ""
    if not isinstance(value, str):
        raise UserError(f"{place}: {column} is {json.dumps(value, default=str)[:40]}, not a text")
    return value


def holds_text_pairs(path: Path) -> bool:
    """Whether a folder of token arrays is one of sources and targets."""
    return (path / TEXT_PAIRS).is_file()


class TextPairs:
    """The pairs of a split that `make_text_pairs` wrote; `len()` is their number. They stay in mapped files.

    Raises:
        UserError: the folder holds no pairs, or a file is missing, truncated or damaged.
    """

    def __init__(self, path: Path, split: str = "train") -> None:
        if not holds_text_pairs(path):
            raise UserError(f"{path} holds no pairs of sources and targets ({TEXT_PAIRS} is missing)")
        self.arrays = TokenArrays(path, split)
        if self.arrays.documents % 2:
            raise UserError(
                f"{path} is damaged (the {split} split has a source without a target); make the pairs again"
            )

    def __len__(self) -> int:
        return self.arrays.documents // 2

    def pair(self, index: int) -> tuple[np.ndarray, np.ndarray]:
        """The ids of a source and of its target, each with its end of text, in the dtype of the token arrays.

        Raises:
            IndexError: the split has no such pair.
        """
        return self.arrays.document(2 * index), self.arrays.document(2 * index + 1)

    def lengths(self) -> np.ndarray:
        """int64 [pairs, 2]: tokens of each source and target, with their ends of text."""
        return np.diff(self.arrays.document_ends(), prepend=0).reshape(-1, 2)
