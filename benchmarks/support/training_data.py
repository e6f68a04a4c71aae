"""The data of the training benchmarks, as token arrays and as nanoGPT reads it: the same tokens in both."""

from __future__ import annotations

import hashlib
import pickle
from pathlib import Path
from typing import NamedTuple

import numpy as np

from tokenization.arrays import TOKEN_BYTES, TokenFile, write_meta
from tokenization.config import TokenizerConfig
from tokenization.formats import save_tokenizer
from tokenization.text import batches
from tokenization.train import train_from_documents

VOCABULARY = 8192
VALIDATION_FRACTION = 0.05


class TrainingData(NamedTuple):
    """Folders with one corpus.

    Attributes:
        tokenizer: its tokenizer.
        tokens: its token arrays, train and validation.
        nanogpt: the same tokens as a data set of nanoGPT's: train.bin, val.bin, meta.pkl.
    """

    tokenizer: Path
    tokens: Path
    nanogpt: Path


def build(folder: Path, documents: list[str], vocabulary: int = VOCABULARY) -> TrainingData:
    """Train a tokenizer on the documents and encode them into new folders below `folder`."""
    tokenizer, _ = train_from_documents(batches(documents), TokenizerConfig(vocab_size=vocabulary))
    data = TrainingData(folder / "tokenizer", folder / "tokens", folder / "nanogpt")
    for path in data:
        path.mkdir(parents=True)
    save_tokenizer(tokenizer, data.tokenizer)
    files = {}
    for split, peer_file in (("train", "train.bin"), ("validation", "val.bin")):
        chosen = [text for text in documents if (_fraction(text) < VALIDATION_FRACTION) == (split == "validation")]
        encoded = [np.append(ids, tokenizer.eot_id) for ids in tokenizer.encode_batch(chosen, threads=2)]
        flat = np.concatenate(encoded).astype(np.uint16)
        flat.tofile(data.tokens / f"{split}-00000.bin")
        flat.tofile(data.nanogpt / peer_file)
        np.cumsum([len(ids) for ids in encoded]).astype("<u8").tofile(data.tokens / f"{split}-00000.idx")
        size = sum(len(text.encode()) for text in chosen)
        files[split] = [TokenFile(f"{split}-00000.bin", len(flat), len(encoded), size, "")]
    write_meta(data.tokens, files, vocab_size=tokenizer.vocab_size, eot_id=tokenizer.eot_id)
    np.save(data.tokens / TOKEN_BYTES, tokenizer.byte_lengths())
    (data.nanogpt / "meta.pkl").write_bytes(pickle.dumps({"vocab_size": tokenizer.vocab_size}))
    return data


def _fraction(text: str) -> float:
    """A number in [0, 1) that the text alone decides."""
    return int.from_bytes(hashlib.blake2b(text.encode(), digest_size=4).digest()) / 2**32
