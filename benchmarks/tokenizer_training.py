"""Training a tokenizer: text in memory to vocabulary with two threads, against Hugging Face tokenizers and rustbpe.

All learn the same merges from the same pattern (cl100k); the tests compare them. Importing and compiling are not
counted; the first training in a process, with the machine code already in Numba's cache, is shown apart.
"""

from __future__ import annotations

import json
import sys
import time
from importlib.util import find_spec

from benchmarks.support import corpora
from benchmarks.support.report import Row, compare
from benchmarks.support.timing import Contestants, Timed, child, in_turn

GOALS = {"tokenizers": "≥ 40", "rustbpe": "≥ 12"}
THREADS = 2


def run(quick: bool) -> list[Row]:
    """Train on every corpus, two vocabulary sizes where there are goals."""
    names = list(corpora.available())
    rows = []
    for name in names[:1] if quick else names:
        goals = GOALS if name in ("campus", "openwebtext") else {}
        for vocab_size in (32_768, 50_257) if goals and not quick else (32_768,):
            repetitions = 5 if goals and not quick else 3
            found = child("benchmarks.tokenizer_training", name, vocab_size, repetitions, threads=THREADS)
            label = f"{name}, {found['vocab_size']:,}"
            rows += [
                compare(
                    label,
                    "s",
                    found["ours"],
                    found.get(peer),
                    peer,
                    goal=goals.get(peer, ""),
                    lower_is_better=True,
                )
                for peer in GOALS
            ]
            rows.append(Row(f"{label}: first training of a process", "s", found["first"]))
    return rows


def contestants(texts: list[str], vocab_size: int) -> Contestants:
    """Each as a function that prepares and returns the training."""
    from tokenization.config import TokenizerConfig
    from tokenization.patterns import NAMED
    from tokenization.text import batches
    from tokenization.train import train_from_documents

    pattern = NAMED["cl100k"].regex
    config = TokenizerConfig(vocab_size=vocab_size, threads=THREADS)
    merges = vocab_size - len(config.special_names())
    found: Contestants = {"ours": lambda: lambda: train_from_documents(batches(texts), config)}
    if find_spec("rustbpe"):
        import rustbpe

        def prepare_rustbpe() -> Timed:
            tokenizer = rustbpe.Tokenizer()
            return lambda: tokenizer.train_from_iterator(iter(texts), merges, pattern=pattern)

        found["rustbpe"] = prepare_rustbpe
    if find_spec("tokenizers"):
        from tokenizers import Regex, Tokenizer, models, pre_tokenizers, trainers

        def prepare_tokenizers() -> Timed:
            tokenizer = Tokenizer(models.BPE())
            split = pre_tokenizers.Split(Regex(pattern), "isolated")
            byte_level = pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)
            tokenizer.pre_tokenizer = pre_tokenizers.Sequence([split, byte_level])
            alphabet = pre_tokenizers.ByteLevel.alphabet()
            trainer = trainers.BpeTrainer(vocab_size=merges, initial_alphabet=alphabet, show_progress=False)
            return lambda: tokenizer.train_from_iterator(texts, trainer)

        found["tokenizers"] = prepare_tokenizers
    return found


def largest(texts: list[str], vocab_size: int) -> int:
    """The vocabulary size, or the largest that the corpus supports."""
    from textmill.errors import UserError
    from tokenization.config import TokenizerConfig
    from tokenization.text import batches
    from tokenization.train import train_from_documents

    try:
        train_from_documents(batches(texts), TokenizerConfig(vocab_size=vocab_size))
    except UserError as error:
        return int(str(error).split("vocab_size ")[1].split(":")[0])
    return vocab_size


def main(name: str, vocab_size: str, repetitions: str) -> None:
    """Train on one corpus, and print the seconds of each contestant."""
    texts = corpora.available()[name]()
    started = time.perf_counter()
    size = largest(texts, int(vocab_size))
    first = time.perf_counter() - started
    print(json.dumps(in_turn(contestants(texts, size), int(repetitions)) | {"first": first, "vocab_size": size}))


if __name__ == "__main__":
    main(*sys.argv[1:])
