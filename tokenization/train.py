"""Train a tokenizer on a corpus, or take the vocabulary of one of tiktoken's encodings."""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

import numpy as np

from textmill.errors import UserError
from textmill.kept import check_apart, kept_work
from textmill.mapping import HERE, Executor
from textmill.progress import Progress, quiet
from tokenization.config import TokenizerConfig
from tokenization.counting import count_corpus, count_words
from tokenization.formats import CONFIG, FILES, write_all
from tokenization.interchange import from_tiktoken
from tokenization.kernels.merges import learn_merges
from tokenization.kernels.word_counts import CountedWords
from tokenization.patterns import portable_pattern
from tokenization.shard_writer import made_with
from tokenization.text import Documents
from tokenization.tokenizer import Tokenizer

__all__ = ["train_from_documents", "train_tokenizer"]

COUNTS = "word-counts"  # folder of finished counts below the output, removed at the end


def train_tokenizer(
    corpus: Path, config: TokenizerConfig, out: Path, *, progress: Progress = quiet, executor: Executor = HERE
) -> None:
    """Train on column `text` of corpus/train-*.parquet and write the tokenizer's files and `stats.json` to `out`.

    A killed run continues after the shards it had counted.

    Raises:
        UserError: the corpus cannot be read, supports no vocabulary so large (the message names the largest), or is
            `out`.
    """
    check_apart(out, corpus)
    with kept_work(out, COUNTS, made_with(pattern=portable_pattern(config.pattern).regex)) as work:
        stats: dict[str, Any] = {}
        if config.encoding:
            taken = from_tiktoken(config.encoding)
            special = _special_tokens(taken.special_tokens, taken.vocab_size, config)
            tokenizer = Tokenizer(taken.tokens, taken.pattern.regex, special)
        else:
            words = count_corpus(corpus, config, work, progress, executor).unpack()
            tokenizer, stats = _learn(words, config, progress)
        stats |= {
            "encoding": config.encoding,
            "longest_token_bytes": max(map(len, tokenizer.tokens)),
            "merges": len(tokenizer.tokens) - 256,
            "pattern": tokenizer.pattern.name or tokenizer.pattern.regex,
            "special_tokens": len(tokenizer.special_tokens),
            "vocab_size": tokenizer.vocab_size,
        }
        write_all(tokenizer, work.complete)
        (work.complete / "stats.json").write_text(json.dumps(stats, indent=2, sort_keys=True) + "\n")
        work.publish([], last=CONFIG, replaces=FILES)


def train_from_documents(
    documents: Iterable[Documents], config: TokenizerConfig, progress: Progress = quiet
) -> tuple[Tokenizer, dict[str, Any]]:
    """Train on batches of documents (`tokenization/text.py` makes them of files and strings): (tokenizer, statistics).

    Raises:
        UserError: as `train_tokenizer` does.

    Example:
        >>> from tokenization.text import batches
        >>> tokenizer, stats = train_from_documents(batches(["to be or not to be"]), TokenizerConfig(vocab_size=264))
        >>> tokenizer.encode("to be")
        [257, 258]
    """
    words = count_words(documents, portable_pattern(config.pattern), config.threads).unpack()
    return _learn(words, config, progress)


def _learn(words: CountedWords, config: TokenizerConfig, progress: Progress) -> tuple[Tokenizer, dict[str, Any]]:
    # nobody holds the table that counted the words any more: of millions of words it takes hundreds of megabytes
    names = config.special_names()
    total = config.vocab_size - 256 - len(names)
    if not len(words.counts):
        raise UserError("the corpus has no text to train a tokenizer on")
    spelled = [bytes([b]) for b in range(256)]
    tokens = dict(zip(spelled, range(256), strict=True))

    def spell(merges: np.ndarray) -> None:  # while more are being learned
        for left, right in zip(*merges[len(spelled) - 256 :].T.tolist(), strict=True):
            token = spelled[left] + spelled[right]
            tokens[token] = len(spelled)
            spelled.append(token)
        progress(len(merges), total, unit="merges", phase="merging")

    merges, merge_counts = learn_merges(words, total, watch=spell)
    if len(merges) < total:
        raise UserError(
            f"the corpus supports at most vocab_size {256 + len(merges) + len(names)}: after {len(merges)} merges no "
            f"pair of neighbors occurs twice; lower vocab_size from {config.vocab_size}, or add text"
        )
    stats = {
        "corpus_bytes": int(np.diff(words.offsets) @ words.counts),
        "corpus_words": int(words.counts.sum()),
        "distinct_words": len(words.counts),
        "last_merge_count": int(merge_counts[-1]) if len(merge_counts) else None,
    }
    special = _special_tokens({}, len(tokens), config)
    return Tokenizer(tokens, portable_pattern(config.pattern).regex, special), stats


def _special_tokens(existing: Mapping[str, int], free: int, config: TokenizerConfig) -> dict[str, int]:
    """The existing special tokens, the missing ones from the first free id on, and ids reserved up to a multiple."""
    special = dict(existing)
    for name in config.special_names():
        if name not in special:
            special[name] = free
            free += 1
    reserved = config.reserved
    while free % config.multiple_of:
        name = f"<|reserved_{reserved}|>"
        reserved += 1
        if name not in special:
            special[name] = free
            free += 1
    return special
