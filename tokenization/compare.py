"""What tokenizers make of the same text."""

from __future__ import annotations

import time
from collections.abc import Iterable
from dataclasses import dataclass

import numpy as np

from tokenization.text import Documents
from tokenization.tokenizer import Tokenizer


@dataclass(frozen=True)
class Comparison:
    """What one tokenizer makes of a text.

    Attributes:
        vocab_size: number of ids.
        text_bytes: bytes of UTF-8.
        tokens: number of tokens.
        bytes_per_token: compression; more is better.
        fertility: tokens per word, where blanks separate words.
        unused: number of tokens that do not occur in the text, special tokens aside.
        bytes_per_second: speed of one thread, without compilation, that has not seen any word before.
    """

    vocab_size: int
    text_bytes: int
    tokens: int
    bytes_per_token: float
    fertility: float
    unused: int
    bytes_per_second: float


def compare(tokenizer: Tokenizer, texts: Iterable[Documents]) -> Comparison:
    """Encode a text (batches of documents, read once) and measure."""
    # compiles every kernel first: many distinct words, short and long, make tables grow and ids spill
    tokenizer.encode_ordinary(" ".join(f"{i} {'ab' * (i % 40)}{i:x}" for i in range(60_000)))
    fresh = Tokenizer(tokenizer.tokens, tokenizer.pattern.regex, tokenizer.special_tokens, tokenizer.rules)
    seen = np.zeros(tokenizer.vocab_size, bool)
    tokens = text_bytes = words = 0
    seconds = 0.0
    for documents in texts:
        started = time.perf_counter()
        ids, _ = fresh.encode_documents(documents)
        seconds += time.perf_counter() - started
        seen[ids] = True
        tokens += len(ids)
        text_bytes += documents.nbytes
        words += len(documents.text[documents.offsets[0] : documents.offsets[-1]].tobytes().split())
    return Comparison(
        vocab_size=tokenizer.vocab_size,
        text_bytes=text_bytes,
        tokens=tokens,
        bytes_per_token=text_bytes / max(tokens, 1),
        fertility=tokens / max(words, 1),
        unused=len(tokenizer.tokens) - int(seen[list(tokenizer.tokens.values())].sum()),
        bytes_per_second=text_bytes / max(seconds, 1e-9),
    )
