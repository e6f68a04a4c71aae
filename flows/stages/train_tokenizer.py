"""train_tokenizer: corpus -> a byte-level BPE vocabulary (or a tiktoken encoding taken as it is)."""

from __future__ import annotations

from collections.abc import Iterator
from itertools import islice
from typing import TYPE_CHECKING, Any

from flows.engine.page import Block, Picture, Tokens
from flows.engine.stage import Job, Stage
from flows.stages.prepare import EXCERPT, sample_documents
from flows.store.local import Artifact
from tokenization.config import TokenizerConfig

if TYPE_CHECKING:
    from tokenization.tokenizer import Tokenizer

BYTES_POWER = 8  # 2 to this are the bytes, which every vocabulary has
SENTENCE = "Naïve cafés aren’t tokenized_like_this(): 3.14159 × 2 = 6.28318, isn't it? 🙂"


class TrainTokenizer(Stage[TokenizerConfig]):
    """The tokenizer of a pipeline."""

    name = "train_tokenizer"
    noun = "tokenizer"
    version = 2
    inputs = ("corpus",)

    def build(self, job: Job[TokenizerConfig]) -> None:
        from tokenization.train import train_tokenizer as train

        train(job.path("corpus"), job.config, job.out, progress=job.progress, executor=job.executor)

    def label(self, config: TokenizerConfig) -> str:
        return config.encoding or f"{config.vocab_size:,} tokens"

    def headline(self, stats: dict[str, Any]) -> str:
        return f"{stats['vocab_size']:,} tokens"

    def highlight(self, stats: dict[str, Any]) -> tuple[str, str]:
        return f"{stats['vocab_size']:,}", "tokens in the vocabulary"

    def work(self, stats: dict[str, Any]) -> tuple[int, str]:
        return stats.get("corpus_bytes", 0), "bytes"  # none where an encoding was taken as it is

    def page(self, artifact: Artifact) -> Iterator[Block]:
        from flows.engine.figures import vocabulary_curve
        from tokenization.formats import load_tokenizer

        tokenizer = load_tokenizer(artifact.fetch())
        yield _sentence(tokenizer, SENTENCE)
        [corpus] = artifact.manifest.inputs["corpus"]
        if origin := artifact.store.find(*corpus.name):  # not where its corpus is gone from the store
            texts = [document["text"] for document in sample_documents(origin)]
            for text in texts[:2]:
                yield _sentence(tokenizer, text[:EXCERPT])
            if sample := "\n".join(texts):
                curve = vocabulary_curve(_bytes_a_token(tokenizer, sample))
                yield Picture("Bytes a token by the size of the vocabulary, on documents of the corpus", curve)


def _sentence(tokenizer: Tokenizer, text: str) -> Tokens:
    ids = tokenizer.encode_ordinary(text)
    pieces = [(tokenizer.token_bytes(token).decode(errors="backslashreplace"), token) for token in ids]
    ratio = len(text.encode()) / max(1, len(ids))
    return Tokens(f"{len(ids):,} tokens, {ratio:.2f} bytes a token", pieces)


def _bytes_a_token(tokenizer: Tokenizer, text: str) -> Iterator[tuple[int, float]]:
    """Sizes of the vocabulary, doubling, and what its first so many tokens make of a text: a smaller vocabulary is the
    beginning of a larger one, once it has the bytes."""
    from tokenization.tokenizer import Tokenizer

    size = len(text.encode())
    ordered = sorted(tokenizer.tokens.items(), key=lambda token: len(token[0]) > 1)
    for power in range(BYTES_POWER, len(tokenizer.tokens).bit_length() + 1):
        tokens = dict(islice(ordered, 1 << power))
        smaller = Tokenizer(tokens, tokenizer.pattern.regex, {})
        yield len(tokens), size / len(smaller.encode_ordinary(text))


train_tokenizer = TrainTokenizer()
