"""Training a tokenizer: text in memory to vocabulary with two threads, against Hugging Face tokenizers, rustbpe and
gigatoken.

All learn the same merges from the same pattern, which is cl100k, and gpt2 against gigatoken, which trains with no
other. gigatoken takes bytes or a file; the faster of the two counts, and the table says which. Its merges are compared
with ours here, those of the others by the tests. Importing and compiling are not counted; the first training in a
process, with the machine code already in Numba's cache, is shown apart.
"""

from __future__ import annotations

import json
import sys
import tempfile
import time
from importlib.util import find_spec
from pathlib import Path
from typing import Any

from benchmarks.support import corpora
from benchmarks.support.report import Row, compare
from benchmarks.support.timing import Contestants, Timed, child, in_turn

GOALS = {"tokenizers": "≥ 30", "rustbpe": "≥ 9", "gigatoken": "≥ 20"}
PATTERNS = {"tokenizers": "cl100k", "rustbpe": "cl100k", "gigatoken": "gpt2"}
THREADS = 2
SEPARATOR = "<|endoftext|>"


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
            rows += [_against(peer, label, found, goals.get(peer, "")) for peer in GOALS]
            rows.append(Row(f"{label}: first training of a process", "s", found["first"]))
    return rows


def _against(peer: str, label: str, found: dict[str, Any], goal: str) -> Row:
    """Ours beside a peer in its fastest form."""
    forms = [name for name in found if name.partition(" ")[0] == peer]
    fastest = min(forms, key=found.__getitem__, default=peer)
    pattern = PATTERNS[peer]
    label, ours = f"{label}, {pattern}", found[f"ours, {pattern}"]
    return compare(label, "s", ours, found.get(fastest), fastest, goal=goal, lower_is_better=True)


def contestants(texts: list[str], vocab_size: int, folder: Path) -> Contestants:
    """Each as a function that prepares and returns the training; `folder` is for files."""
    from tokenization.config import TokenizerConfig
    from tokenization.patterns import NAMED
    from tokenization.text import batches
    from tokenization.train import train_from_documents

    pattern = NAMED["cl100k"].regex
    config = TokenizerConfig(vocab_size=vocab_size, threads=THREADS)
    merges = vocab_size - len(config.special_names())
    found: Contestants = {"ours, cl100k": lambda: lambda: train_from_documents(batches(texts), config)}
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
    gpt2 = config.model_copy(update={"pattern": "gpt2"})
    found["ours, gpt2"] = lambda: lambda: train_from_documents(batches(texts), gpt2)
    if find_spec("gigatoken"):
        found |= _gigatoken(texts, merges, folder)
        tokenizer, _ = train_from_documents(batches(texts), gpt2)
        _, theirs = found["gigatoken (bytes)"]()()
        if [left + right for left, right in theirs] != list(tokenizer.tokens)[256:]:
            raise SystemExit("the merges of gigatoken are not ours")
    return found


def _gigatoken(texts: list[str], merges: int, folder: Path) -> Contestants:
    """Its two sources; of equally frequent pairs it takes the one with the smaller ids first, as we do."""
    import gigatoken

    raw, file = SEPARATOR.join(texts).encode(), folder / "texts.txt"
    file.write_bytes(raw)

    def train(source: bytes | Path) -> Any:
        return gigatoken.train_bpe(source, merges + 1, [SEPARATOR], "raw_token_ids", SEPARATOR.encode())

    return {"gigatoken (bytes)": lambda: lambda: train(raw), "gigatoken (file)": lambda: lambda: train(file)}


def largest(texts: list[str], vocab_size: int, pattern: str = "cl100k") -> int:
    """The vocabulary size, or the largest that the corpus supports."""
    from textmill.errors import UserError
    from tokenization.config import TokenizerConfig
    from tokenization.text import batches
    from tokenization.train import train_from_documents

    try:
        train_from_documents(batches(texts), TokenizerConfig(vocab_size=vocab_size, pattern=pattern))
    except UserError as error:
        return int(str(error).split("vocab_size ")[1].split(":")[0])
    return vocab_size


def main(name: str, vocab_size: str, repetitions: str) -> None:
    """Train on one corpus, and print the seconds of each contestant."""
    texts = corpora.available()[name]()
    started = time.perf_counter()
    size = largest(texts, int(vocab_size))
    first = time.perf_counter() - started
    size = min(size, largest(texts, size, "gpt2"))
    with tempfile.TemporaryDirectory() as folder:
        seconds = in_turn(contestants(texts, size, Path(folder)), int(repetitions))
    print(json.dumps(seconds | {"first": first, "vocab_size": size}))


if __name__ == "__main__":
    main(*sys.argv[1:])
