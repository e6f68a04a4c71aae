"""Compile all kernels now, by work on a little text, so that no later run has to."""

from __future__ import annotations

import json
from pathlib import Path
from tempfile import TemporaryDirectory

__all__ = ["precompile"]

WORDS = [
    "river",
    "stone",
    "window",
    "letter",
    "garden",
    "morning",
    "winter",
    "captain",
    "market",
    "signal",
    "paper",
    "kitchen",
    "yellow",
    "engine",
    "silver",
]
DOCUMENTS = 40


def precompile() -> None:
    """Make a corpus, a tokenizer and token arrays of a few made-up texts."""
    with TemporaryDirectory() as name:
        folder = Path(name)
        _corpus(folder)
        _tokens(folder)


def _text(number: int) -> str:
    """Prose, of which some is near another's; a long word; characters of several bytes."""
    sentences = [
        f"The {WORDS[(number + i) % len(WORDS)]} of the {WORDS[(number * i + 3) % len(WORDS)]} "
        f"was {number * i}, naïve and 北京."
        for i in range(12)
    ]
    return " ".join(sentences) + f"\n\nA last paragraph of text {number // 2} with one long word: {'ab' * 90}.\n"


def _corpus(folder: Path) -> None:
    from scraping.corpus import filters
    from scraping.corpus.config import DecontaminationConfig, PrepareConfig
    from scraping.corpus.prepare import CorpusInputs, prepare
    from scraping.shards import DOCUMENTS as SCHEMA
    from scraping.shards import write_shard

    rows = [
        {
            "id": f"{i:08}", "source": "made-up", "url": f"http://made-up.example/{i}", "title": str(i), "lang": "en",
            "text": _text(i), "n_chars": len(_text(i)), "extractor": "",
        }
        for i in range(DOCUMENTS)
    ]  # fmt: skip
    (folder / "documents").mkdir()
    write_shard(folder / "documents" / "part-00000.parquet", rows, SCHEMA)
    evaluation = folder / "evaluation.jsonl"
    evaluation.write_text(json.dumps({"text": " ".join(WORDS)}) + "\n")
    text = filters.Document(_text(0))
    _ = text.sentences, text.single  # which the filters look at in some texts alone
    config = PrepareConfig(
        workers=1, validation_fraction=0.3, decontaminate=DecontaminationConfig(paths=[str(evaluation)])
    )
    prepare(CorpusInputs(documents=[folder / "documents"]), config, folder / "corpus")


def _tokens(folder: Path) -> None:
    import numpy as np

    from tokenization.arrays import TokenArrays, shuffled
    from tokenization.config import PretokenizeConfig, TokenizerConfig
    from tokenization.formats import load_tokenizer
    from tokenization.pretokenize import pretokenize
    from tokenization.shard_writer import EncodingInputs
    from tokenization.tokenizer import Tokenizer
    from tokenization.train import train_tokenizer

    train_tokenizer(folder / "corpus", TokenizerConfig(vocab_size=400, threads=2), folder / "tokenizer")
    pretokenize(
        EncodingInputs(folder / "corpus", folder / "tokenizer"), PretokenizeConfig(threads=1), folder / "tokens"
    )
    narrow = load_tokenizer(folder / "tokenizer")
    wide = Tokenizer(narrow.tokens, "gpt2", {"<|last|>": 1 << 17})
    for tokenizer in (narrow, wide):
        tokenizer.encode_ordinary(_text(0))
    arrays = TokenArrays(folder / "tokens")
    arrays.windows(shuffled(np.arange(2), 2, seed=0), 8)
