"""The corpus of the training benchmarks, as nanoGPT reads it and as token arrays: the same tokens in both."""

import hashlib
import pickle
from pathlib import Path

import numpy as np
import pyarrow.parquet as pq

from tokenization.arrays import TOKEN_BYTES, TokenFile, write_meta
from tokenization.text import batches
from tokenization.train import TokenizerConfig, train_from_documents

TEXT = Path(__file__).parents[2] / "shared" / "data" / "umb_site_text.parquet"
VOCABULARY = 8192
VALIDATION_SHARE = 0.05


def texts(limit: int | None = None) -> list[str]:
    """Documents of the benchmark corpus."""
    if not TEXT.exists():
        raise SystemExit(f"{TEXT} is missing: the training benchmarks need it")
    return pq.read_table(TEXT, columns=["text"])["text"].to_pylist()[:limit]


def build(folder: Path, documents: list[str], vocabulary: int = VOCABULARY) -> tuple[Path, Path, Path]:
    """Train a tokenizer and encode; folders of the tokenizer, of token arrays, and of nanoGPT's data set."""
    words, _ = train_from_documents(batches(documents), TokenizerConfig(vocab_size=vocabulary))
    tokenizer, arrays, peer = (folder / name for name in ("tokenizer", "tokens", "nanogpt"))
    for path in (tokenizer, arrays, peer):
        path.mkdir(parents=True)
    words.save(tokenizer)
    listed = {}
    for split, file in (("train", "train.bin"), ("validation", "val.bin")):
        chosen = [text for text in documents if (share(text) < VALIDATION_SHARE) == (split == "validation")]
        encoded = [np.append(ids, words.eot_id) for ids in words.encode_batch(chosen, threads=2)]
        flat = np.concatenate(encoded).astype(np.uint16)
        flat.tofile(arrays / f"{split}-00000.bin")
        flat.tofile(peer / file)
        np.cumsum([len(ids) for ids in encoded]).astype("<u8").tofile(arrays / f"{split}-00000.idx")
        size = sum(len(text.encode()) for text in chosen)
        listed[split] = [TokenFile(f"{split}-00000.bin", len(flat), len(encoded), size, "")]
    write_meta(arrays, listed, vocab_size=words.vocab_size, eot_id=words.eot_id)
    np.save(arrays / TOKEN_BYTES, words.byte_lengths())
    (peer / "meta.pkl").write_bytes(pickle.dumps({"vocab_size": words.vocab_size}))
    return tokenizer, arrays, peer


def share(text: str) -> float:
    """A number in [0, 1) that the text alone decides."""
    return int.from_bytes(hashlib.blake2b(text.encode(), digest_size=4).digest()) / 2**32
