"""Whether several threads can train byte pair encoding, and whose training is fast: ours, that of Hugging Face's
tokenizers, and the one that tiktoken carries. The text is the source code of the interpreter's own library.

Threads and shards share the counting of words; each merge depends on the one before it, so that merging is the work of
one thread. tiktoken's trainer is meant for teaching: it goes through the whole text for every merge, which is why it
gets a smaller text and fewer merges, and ours the same beside it.
"""

from __future__ import annotations

import math
import os
from collections.abc import Mapping, Sequence
from concurrent.futures import ProcessPoolExecutor
from multiprocessing import get_context
from typing import Any
from zlib import crc32

from experiments.declaration import Better, Experiment, Figure, Measured, Published, Quick, Same
from experiments.library import library_text
from experiments.timing import fastest
from textmill.errors import Unavailable
from textmill.progress import Progress
from tokenization.config import TokenizerConfig
from tokenization.counting import count_words
from tokenization.kernels.merges import learn_merges
from tokenization.patterns import portable_pattern
from tokenization.text import batches

PATTERN = portable_pattern(TokenizerConfig().pattern)
REPEATS = 5  # of what takes less than a second; the shortest counts
LARGE: dict[str, Any] = {"bytes": 8_000_000, "merges": 8000}
SMALL: dict[str, Any] = {"bytes": 100_000, "merges": 200}


def ours(texts: Sequence[str], merges: int, threads: int, shards: int) -> list[bytes]:
    """Tokens of Textmill's trainer; of several shards, each is counted alone and the counts are added up."""
    size = -(-len(texts) // shards)
    total, *others = (
        count_words(batches(texts[start : start + size]), PATTERN, threads) for start in range(0, len(texts), size)
    )
    for other in others:
        total.update(other)
    tokens = [bytes([value]) for value in range(256)]
    pairs, _ = learn_merges(total.unpack(), merges)
    for left, right in zip(*pairs.T.tolist(), strict=True):
        tokens.append(tokens[left] + tokens[right])
    return tokens[256:]


def tiktokens(texts: Sequence[str], merges: int) -> list[bytes]:
    """Tokens of `tiktoken._educational`."""
    from tiktoken._educational import bpe_train

    ranks = bpe_train("\n".join(texts), 256 + merges, PATTERN.regex, visualise=None)
    return list(ranks)[256:]


def hugging_faces(texts: Sequence[str], merges: int, threads: int) -> tuple[float, list[bytes]]:
    """The shortest seconds of three, and the tokens, of Hugging Face's trainer. It reads the number of threads when it
    first uses any, so that this runs in a process of its own."""
    os.environ |= {"RAYON_NUM_THREADS": str(threads), "TOKENIZERS_PARALLELISM": "true"}
    from tokenizers import Regex, Tokenizer, models, pre_tokenizers, trainers

    def train() -> list[bytes]:
        tokenizer = Tokenizer(models.BPE())
        split = pre_tokenizers.Split(Regex(PATTERN.regex), "isolated")
        byte_level = pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)
        tokenizer.pre_tokenizer = pre_tokenizers.Sequence([split, byte_level])
        alphabet = pre_tokenizers.ByteLevel.alphabet()
        trainer = trainers.BpeTrainer(vocab_size=256 + merges, initial_alphabet=alphabet, show_progress=False)
        tokenizer.train_from_iterator(texts, trainer)
        ids = tokenizer.get_vocab()
        return [token.encode() for token in sorted(ids, key=ids.__getitem__)][256:]

    return fastest(train, 3)


def measure(settings: Mapping[str, Any], seed: int, progress: Progress) -> Measured:
    """Seconds of one trainer, and a checksum of the tokens that it made.

    Raises:
        Unavailable: the library of another trainer is not installed.
    """
    trainer, merges = settings["trainer"], int(settings["merges"])
    threads, shards = int(settings.get("threads", 1)), int(settings.get("shards", 1))
    texts = library_text(int(settings["bytes"]), seed)
    progress(0, 1, unit="trainings", phase=trainer)
    try:
        match trainer:
            case "tiktoken":
                seconds, tokens = fastest(lambda: tiktokens(texts, merges), 1)
            case "tokenizers":
                with ProcessPoolExecutor(1, mp_context=get_context("spawn")) as alone:
                    seconds, tokens = alone.submit(hugging_faces, texts, merges, threads).result()
            case _:
                ours(texts[:1], 10, threads, 1)  # loads the kernels
                seconds, tokens = fastest(lambda: ours(texts, merges, threads, shards), REPEATS)
    except ImportError as error:
        raise Unavailable(f"{trainer} is not installed; pip install 'textmill[bench]'") from error
    figures = {
        "log10_seconds": math.log10(seconds), "seconds": seconds, "merges": float(len(tokens)),
        "checksum": float(crc32(b"".join(len(token).to_bytes(4) + token for token in tokens))),
    }  # fmt: skip
    return Measured(figures=figures)


EXPERIMENT = Experiment(
    claim="Two threads train a tokenizer on eight megabytes faster than one, Textmill's and Hugging Face's alike; "
    "Textmill's merges are the same by one thread, by two and from counts of shards, and its trainer is over a hundred "
    "times as fast as tiktoken's.",
    chapter="BPE is inherently single-threaded and tiktoken's training is faster.",
    variants={
        "ours, one thread": {"trainer": "textmill", **LARGE},
        "ours, two threads": {"trainer": "textmill", "threads": 2, **LARGE},
        "ours, four shards": {"trainer": "textmill", "shards": 4, **LARGE},
        "Hugging Face, one thread": {"trainer": "tokenizers", **LARGE},
        "Hugging Face, two threads": {"trainer": "tokenizers", "threads": 2, **LARGE},
        "ours, small text": {"trainer": "textmill", **SMALL},
        "tiktoken, small text": {"trainer": "tiktoken", **SMALL},
    },
    measure=measure,
    figure=Figure(name="log10_seconds"),
    contrasts=[
        Better(better="ours, two threads", than="ours, one thread"),
        Better(better="Hugging Face, two threads", than="Hugging Face, one thread"),
        Same(same=("ours, one thread", "ours, two threads"), within=0.5, figure="checksum"),
        Same(same=("ours, one thread", "ours, four shards"), within=0.5, figure="checksum"),
        Better(better="ours, small text", than="tiktoken, small text", by=2),
    ],
    seeds=5,
    published=[
        Published(
            source="OpenAI, README of tiktoken, 'Performance'",
            says="tiktoken is 3 to 6 times as fast as a comparable open source tokenizer: in encoding a gigabyte of "
            "text; nothing is said of training.",
        ),
        Published(
            source="Hugging Face, README of tokenizers before 1.0, 'Main features'",
            says="Training and tokenization are called extremely fast; to tokenize a gigabyte takes less than 20 "
            "seconds on a server's CPU; no time is given for training.",
        ),
    ],
    quick=Quick(variants=["ours, one thread", "ours, two threads", "ours, four shards"]),
)
