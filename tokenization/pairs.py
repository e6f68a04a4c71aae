"""Pairs of sentences as arrays, for fine-tuning with masked tokens and next-sentence prediction.

Devlin et al., "BERT: Pre-training of Deep Bidirectional Transformers" (NAACL 2019): half of the pairs are two
consecutive sentences of a document, in the other half the second comes from another document. Sentences are stored
once, as token arrays whose "documents" are sentences; a pair is two sentence numbers and a label. Rows of any length
are laid out when a batch is read:

    ids        [CLS] A… [SEP] B… [SEP] [PAD] …
    segments     0   0    0   1    1     0
    attention    1   1    1   1    1     0
"""

import hashlib
import json
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import regex
from pydantic import BaseModel, Field

from tokenization.arrays import TokenArrays, TokenFile, write_meta
from tokenization.errors import TokenizationError
from tokenization.formats import load_tokenizer
from tokenization.pretokenize import SPLITS
from tokenization.text import documents_of, read_shard, shards
from tokenization.tokenizer import Tokenizer

# after closing punctuation (and quotes or brackets) and a blank, or at a line's end
SENTENCE_END = regex.compile(r"(?<=[.!?…。！？][\"'”’)\]]*)\s+|\s*\n\s*")


class PairsConfig(BaseModel, extra="forbid"):
    """How sentences are paired."""

    seed: int = Field(0, ge=0, description="Seed of the choice of strangers")
    strangers: float = Field(0.5, ge=0, le=1, description="Share of pairs whose second sentence is from elsewhere")
    least_characters: int = Field(10, ge=1, description="Shorter sentences are left out")


def sentences(text: str, least_characters: int) -> list[str]:
    """The sentences of a document, blanks trimmed, short ones left out."""
    return [s for part in SENTENCE_END.split(text) if len(s := part.strip()) >= least_characters]


def make_pairs(
    corpus: Path,
    tokenizer: Path,
    config: PairsConfig,
    out: Path,
    progress: Callable[..., None] = lambda done, total, **figures: None,
) -> None:
    """Write the sentences of corpus/{train,validation}-*.parquet and their pairs to `out`.

    A document of n sentences makes n - 1 pairs. The files depend on the corpus, the tokenizer and the config alone.
    Raises `TokenizationError` if a split has no two sentences in one document, or fewer than two documents.
    """
    loaded = load_tokenizer(tokenizer)
    out.mkdir(parents=True, exist_ok=True)
    files: dict[str, list[TokenFile]] = {}
    stats = {}
    for number, split in enumerate(SPLITS):
        writer = _Sentences(out / f"{split}-00000.bin", loaded)
        documents: list[int] = []  # sentences of each document
        for done, shard in enumerate(paths := shards(corpus, split)):
            progress(done, len(paths), unit="shards", step=split, sentences=writer.written)
            for batch in read_shard(shard):
                for text in batch.strings():
                    found = sentences(text, config.least_characters)
                    writer.add(found)
                    documents.append(len(found))
        files[split] = [writer.close()]
        pairs = _pair_up(np.array(documents, np.int64), np.random.default_rng([config.seed, number]), config.strangers)
        if not len(pairs):
            raise TokenizationError(f"the {split} split of {corpus} has no two documents with sentences to pair")
        np.save(out / f"{split}-pairs.npy", pairs)
        stats[split] = {"sentences": writer.written, "pairs": len(pairs), "next": int(pairs[:, 2].sum())}
    write_meta(out, files, vocab_size=loaded.vocab_size, eot_id=loaded.eot_id)
    special = {name: loaded.special_tokens[name] for name in ("[CLS]", "[SEP]", "[PAD]", "[MASK]")}
    (out / "stats.json").write_text(json.dumps(stats | {"special_tokens": special}, indent=2, sort_keys=True) + "\n")


class _Sentences:
    """Writes sentences to one token file."""

    def __init__(self, path: Path, tokenizer: Tokenizer):
        self._path, self._tokenizer = path, tokenizer
        self._tokens, self._ends = path.open("wb"), path.with_suffix(".idx").open("wb")
        self._digest = hashlib.sha256()
        self.written = self._total = self._bytes = 0

    def add(self, found: list[str]) -> None:
        documents = documents_of(found)
        ids, ends = self._tokenizer.encode_documents(documents)
        self._digest.update(ids)
        self._tokens.write(ids)
        self._ends.write((ends + self._total).astype("<u8"))
        self.written += len(found)
        self._total += len(ids)
        self._bytes += documents.nbytes

    def close(self) -> TokenFile:
        self._tokens.close()
        self._ends.close()
        return TokenFile(self._path.name, self._total, self.written, self._bytes, self._digest.hexdigest())


def _pair_up(documents: np.ndarray, random: np.random.Generator, strangers: float) -> np.ndarray:
    """int64[pairs, 3]: sentence A, sentence B, 1 if B follows A. `documents`: the number of sentences of each."""
    total = int(documents.sum())
    if (documents > 0).sum() < 2:
        return np.empty((0, 3), np.int64)
    document_of = np.repeat(np.arange(len(documents)), documents)
    first = np.flatnonzero(document_of[1:] == document_of[:-1])
    pairs = np.stack([first, first + 1, np.ones_like(first)], axis=1)
    changed = np.flatnonzero(random.random(len(pairs)) < strangers)
    starts = np.cumsum(documents) - documents
    own = document_of[pairs[changed, 0]]
    # uniform over the sentences of the other documents: those of the own document are skipped
    other = random.integers(0, total - documents[own])
    pairs[changed, 1] = other + np.where(other >= starts[own], documents[own], 0)
    pairs[changed, 2] = 0
    return pairs


@dataclass(frozen=True)
class PairBatch:
    """Rows of pairs: ids int64, segments uint8 (1 in the second sentence), attention bool, all [rows, length], and
    is_next bool[rows]."""

    ids: np.ndarray
    segments: np.ndarray
    attention: np.ndarray
    is_next: np.ndarray


class SentencePairs:
    """The pairs of a split that `make_pairs` wrote; `len()` is their number."""

    def __init__(self, path: Path, split: str = "train"):
        self._sentences = TokenArrays(path, split)
        pairs = Path(path) / f"{split}-pairs.npy"
        if not pairs.is_file():
            raise TokenizationError(f"{path} holds no pairs of sentences ({pairs.name} is missing); run make_pairs")
        self._pairs = np.load(pairs, mmap_mode="r", allow_pickle=False)
        self.special_tokens: dict[str, int] = json.loads((Path(path) / "stats.json").read_text())["special_tokens"]

    def __len__(self) -> int:
        return len(self._pairs)

    def batch(self, indices: np.ndarray, length: int) -> PairBatch:
        """The given pairs as rows of `length` tokens; of pairs too long the longer sentence is cut at its end."""
        cls, sep, pad = (self.special_tokens[name] for name in ("[CLS]", "[SEP]", "[PAD]"))
        ids = np.full((len(indices), length), pad, np.int64)
        segments, attention = np.zeros(ids.shape, np.uint8), np.zeros(ids.shape, bool)
        for row, index in enumerate(indices):
            a, b = (self._sentences.document(int(sentence)) for sentence in self._pairs[index, :2])
            room = length - 3
            keep_a = min(len(a), max(room - len(b), (room + 1) // 2))
            a, b = a[:keep_a], b[: room - keep_a]
            filled = len(a) + len(b) + 3
            ids[row, :filled] = np.concatenate([[cls], a, [sep], b, [sep]])
            segments[row, len(a) + 2 : filled] = 1
            attention[row, :filled] = True
        return PairBatch(ids, segments, attention, self._pairs[indices, 2].astype(bool))
