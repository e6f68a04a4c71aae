"""Pairs of sentences as token arrays, for fine-tuning with masked tokens and next-sentence prediction.

Devlin et al., "BERT: Pre-training of Deep Bidirectional Transformers" (NAACL 2019): half of the pairs are two
consecutive sentences of a document, in the other half the second comes from another document. Or the two are in the
wrong order there, which their subject does not tell (Lan et al. 2020, ALBERT). A folder of pairs is one of token arrays
whose "documents" are sentences, with these files beside them:

- `train-00000.pairs` beside each `.bin`: uint32 [pairs, 3], two sentences by their number in this file, and a label: 1
  if the second follows the first.
- `pairs.json`: the number of pairs in each file, and the ids of the special tokens.

Rows of any length are laid out when a batch is read:

    ids        [CLS] A… [SEP] B… [SEP] [PAD] …
    segments     0   0    0   1    1     0
    attention    1   1    1   1    1     0
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import numpy as np
import regex
from pydantic import BaseModel, ValidationError

from textmill.errors import UserError
from textmill.kept import check_apart, kept_work
from textmill.mapping import HERE, Executor
from textmill.progress import Progress, quiet
from tokenization.arrays import META, MappedFile, TokenArrays, TokenFile, write_meta
from tokenization.config import SentencePairsConfig
from tokenization.shard_writer import (
    SHARDS,
    EncodedBatch,
    EncodingInputs,
    ReportShard,
    SharedTokenizer,
    encode_shards,
    made_with,
    publish_arrays,
    write_tokens,
)
from tokenization.text import documents_of, read_shard

__all__ = ["PairBatch", "SentencePairs", "holds_pairs", "lay_out", "make_pairs", "sentences"]

# after closing punctuation (and quotes or brackets) and a blank, or at the end of a line
SENTENCE_END = regex.compile(r"(?<=[.!?…。！？][\"'”’)\]]*)\s+|\s*\n\s*")
PAIRS = "pairs.json"  # the number of pairs in each file, and the special tokens
PAIR_DTYPE = np.dtype("<u4")
ROLES = ("[CLS]", "[SEP]", "[PAD]", "[MASK]")


def sentences(text: str, min_characters: int) -> list[str]:
    """The sentences of a document without the blanks around them; those below `min_characters` are left out.

    Example:
        >>> sentences("He said: Go on. Then he left!\\nA title", min_characters=8)
        ['He said: Go on.', 'Then he left!']
    """
    return [s for part in SENTENCE_END.split(text) if len(s := part.strip()) >= min_characters]


def make_pairs(
    inputs: EncodingInputs,
    config: SentencePairsConfig,
    out: Path,
    *,
    progress: Progress = quiet,
    executor: Executor = HERE,
) -> None:
    """Write the sentences of a corpus and their pairs to `out`.

    A document of n sentences makes n - 1 pairs. Negatives are sentences of other documents of the same shard, and a
    shard with sentences in one document alone makes no pairs; or they are the same two, swapped. The files depend on
    the corpus, the tokenizer and the config; `meta.json`, without which nothing can be read, is written last. A killed
    run continues after the shards it had finished, unless something is different now.

    Raises:
        UserError: the corpus or the tokenizer cannot be read or is `out`, the tokenizer lacks a special token that rows
            need, a split makes no pairs, or `out` holds token arrays that are not pairs.
    """
    check_apart(out, *inputs)
    shared = SharedTokenizer.of(inputs.tokenizer)
    tokenizer = shared.load()
    if missing := [name for name in ROLES if name not in tokenizer.special_tokens]:
        raise UserError(f"the tokenizer has no {' '.join(missing)}; train one with Textmill, which adds them")
    if (out / META).exists() and not holds_pairs(out):
        raise UserError(f"{out} holds the token arrays of a corpus; choose another folder for its pairs")
    recipe = made_with(work="sentence pairs", tokenizer=shared.digest, config=config.model_dump())
    with kept_work(out, SHARDS, recipe) as work:
        encode = partial(_encode_shard, tokenizer=shared, config=config)
        encoded = encode_shards(inputs.corpus, work, encode, progress, executor)
        stats, counts = {}, {}
        for split, shards in encoded.items():
            labels = [_count_labels(shard.paths) for shard in shards]
            counts[split] = [pairs for pairs, _ in labels]
            if not sum(counts[split]):
                needed = "two documents with" if config.task == "next-sentence" else "document with two"
                raise UserError(f"the {split} split of {inputs.corpus} has no {needed} sentences to pair")
            stats[split] = {
                "next": sum(follow for _, follow in labels),
                "pairs": sum(counts[split]),
                "sentences": sum(shard.file.documents for shard in shards),
                "tokens": sum(shard.file.tokens for shard in shards),
            }
        special = {name: tokenizer.special_tokens[name] for name in ROLES}
        about = {"format": "textmill-pairs 1", "pairs": counts, "special_tokens": special}
        for name, content in ((PAIRS, about), ("stats.json", stats)):
            (work.complete / name).write_text(json.dumps(content, indent=2, sort_keys=True) + "\n")
        files = {split: [shard.file for shard in shards] for split, shards in encoded.items()}
        write_meta(work.complete, files, vocab_size=tokenizer.vocab_size, eot_id=tokenizer.eot_id)
        publish_arrays(work, encoded)
    shared.forget()


def _encode_shard(
    shard: Path, folder: Path, *, tokenizer: SharedTokenizer, config: SentencePairsConfig, report: ReportShard
) -> TokenFile:
    """Write the sentences of a shard and their pairs."""
    lengths: list[int] = []  # sentences of each document
    loaded = tokenizer.load()

    def batches() -> Iterator[EncodedBatch]:
        for batch in read_shard(shard):
            found = [sentences(text, config.min_characters) for text in batch.strings()]
            lengths.extend(map(len, found))
            documents = documents_of([sentence for each in found for sentence in each])
            yield EncodedBatch(len(batch), *loaded.encode_documents(documents), documents.nbytes)

    file = write_tokens(shard, folder, batches(), report)
    name = int.from_bytes(hashlib.sha256(shard.stem.encode()).digest()[:8])  # the same on every executor
    pairs = _pair_up(np.array(lengths, np.int64), np.random.default_rng([config.seed, name]), config)
    pairs.astype(PAIR_DTYPE).tofile(folder / f"{shard.stem}.pairs")
    return file


def _pair_up(lengths: np.ndarray, random: np.random.Generator, config: SentencePairsConfig) -> np.ndarray:
    """Pair each sentence with the next one of its document, and make a share of the pairs negative.

    Args:
        lengths: int64 [documents], the number of sentences of each.
        random: decides which pairs are negative, and with what sentence.
        config: what a negative pair is, and their share.

    Returns:
        int64 [pairs, 3]: the number of sentence A and of sentence B, and 1 if B follows A, else 0.
    """
    total = int(lengths.sum())
    if config.task == "next-sentence" and (lengths > 0).sum() < 2:
        return np.empty((0, 3), np.int64)
    document_of = np.repeat(np.arange(len(lengths)), lengths)
    first = np.flatnonzero(document_of[1:] == document_of[:-1])
    pairs = np.stack([first, first + 1, np.ones_like(first)], axis=1)
    changed = np.flatnonzero(random.random(len(pairs)) < config.negatives)
    pairs[changed, 2] = 0
    if config.task == "sentence-order":
        pairs[changed, :2] = pairs[changed, 1::-1]
        return pairs
    starts = np.cumsum(lengths) - lengths
    own = document_of[pairs[changed, 0]]
    # uniform over the sentences of the other documents: those of the own document are skipped
    other = random.integers(0, total - lengths[own])
    pairs[changed, 1] = other + np.where(other >= starts[own], lengths[own], 0)
    return pairs


def _count_labels(files: list[Path]) -> tuple[int, int]:
    """How many pairs a shard makes, and in how many of them the second sentence follows the first."""
    [file] = [path for path in files if path.suffix == ".pairs"]
    pairs = np.fromfile(file, PAIR_DTYPE).reshape(-1, 3)
    return len(pairs), int(pairs[:, 2].sum())


def holds_pairs(path: Path) -> bool:
    """Whether a folder of token arrays is one of sentences, paired."""
    return (path / PAIRS).is_file()


@dataclass(frozen=True)
class PairBatch:
    """A batch of B pairs, laid out in T tokens each.

    Attributes:
        ids: int64 [B, T].
        segments: uint8 [B, T], 1 in the second sentence and the [SEP] after it.
        attention: bool [B, T], false in the padding.
        is_next: bool [B], whether the second sentence follows the first.
    """

    ids: np.ndarray
    segments: np.ndarray
    attention: np.ndarray
    is_next: np.ndarray


def lay_out(
    pairs: Sequence[tuple[np.ndarray, np.ndarray]], length: int, special_tokens: Mapping[str, int]
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Pairs of sentences in rows of `length` tokens. If a pair is too long, its longer sentence is cut at the end.

    Args:
        pairs: the ids of both sentences of each.
        length: tokens in a row.
        special_tokens: name → id of [CLS], [SEP] and [PAD].

    Returns:
        ids, segments and attention, as in `PairBatch`.

    Example:
        >>> pair = (np.array([11, 12, 13]), np.array([21]))
        >>> ids, segments, attention = lay_out([pair], 8, {"[CLS]": 1, "[SEP]": 2, "[PAD]": 0})
        >>> ids.tolist(), segments.tolist()
        ([[1, 11, 12, 13, 2, 21, 2, 0]], [[0, 0, 0, 0, 0, 1, 1, 0]])
    """
    cls, sep, pad = (special_tokens[name] for name in ("[CLS]", "[SEP]", "[PAD]"))
    ids = np.full((len(pairs), length), pad, np.int64)
    segments, attention = np.zeros(ids.shape, np.uint8), np.zeros(ids.shape, bool)
    room = length - 3
    for row, (a, b) in enumerate(pairs):
        keep_a = min(len(a), max(room - len(b), (room + 1) // 2))
        a, b = a[:keep_a], b[: room - keep_a]
        filled = len(a) + len(b) + 3
        ids[row, :filled] = np.concatenate([[cls], a, [sep], b, [sep]])
        segments[row, len(a) + 2 : filled] = 1
        attention[row, :filled] = True
    return ids, segments, attention


class _About(BaseModel):
    """What a reader needs of `pairs.json`."""

    pairs: dict[str, list[int]]
    special_tokens: dict[str, int]


class SentencePairs:
    """The pairs of a split that `make_pairs` wrote; `len()` is their number.

    Attributes:
        sentences: the token arrays whose documents are the sentences.
        special_tokens: name → id of [CLS], [SEP], [PAD] and [MASK].

    Raises:
        UserError: the folder holds no pairs, or a file is missing, truncated or damaged.
    """

    def __init__(self, path: Path, split: str = "train") -> None:
        for name in (PAIRS, META):
            if not (path / name).is_file():
                raise UserError(f"{path} holds no pairs of sentences ({name} is missing); run make_pairs")
        self.sentences = TokenArrays(path, split)
        files = self.sentences.meta["splits"][split]["files"]
        try:
            about = _About.model_validate_json((path / PAIRS).read_bytes())
        except ValidationError as error:
            raise UserError(f"{path / PAIRS} is damaged ({error.errors()[0]['msg']}); run make_pairs again") from None
        self.special_tokens = about.special_tokens
        counts = about.pairs.get(split, [])
        if len(counts) != len(files) or not self.special_tokens.keys() >= set(ROLES):
            raise UserError(f"{path / PAIRS} is damaged (it does not fit {META}); run make_pairs again")
        # number of each file's first pair and first sentence in the split
        self._starts = np.concatenate([[0], np.cumsum(counts, dtype=np.int64)])
        self._sentence_starts = np.concatenate([[0], np.cumsum([f["documents"] for f in files], dtype=np.int64)])
        self._files = [
            MappedFile((path / file["name"]).with_suffix(".pairs"), PAIR_DTYPE, 3 * count)
            for file, count in zip(files, counts, strict=True)
        ]

    def __len__(self) -> int:
        return int(self._starts[-1])

    def pair(self, index: int) -> tuple[np.ndarray, np.ndarray, bool]:
        """The ids of two sentences, in the dtype of the token arrays, and whether the second follows the first.

        Raises:
            IndexError: the split has no such pair.
            UserError: the file of pairs is damaged.
        """
        if not 0 <= index < len(self):
            raise IndexError(f"pair {index} lies outside the {len(self)} pairs of {self.sentences.split}")
        file = int(np.searchsorted(self._starts, index, side="right")) - 1
        inside = 3 * (index - int(self._starts[file]))
        first, second, label = self._files[file].read(inside, inside + 3).tolist()
        before, after = self._sentence_starts[file : file + 2].tolist()
        if max(first, second) >= after - before or label not in (0, 1):
            raise UserError(
                f"a file of pairs in {self.sentences.path} is damaged (pair {index} is {first}, {second}, {label}); "
                "run make_pairs again"
            )
        return self.sentences.document(before + first), self.sentences.document(before + second), bool(label)

    def batch(self, indices: np.ndarray, length: int) -> PairBatch:
        """The given pairs as rows of `length` tokens."""
        read = [self.pair(index) for index in indices.tolist()]
        ids, segments, attention = lay_out([(a, b) for a, b, _ in read], length, self.special_tokens)
        return PairBatch(ids, segments, attention, np.array([is_next for _, _, is_next in read], bool))
