"""Encoding: text in memory to integer arrays, against tiktoken and gigatok, with a vocabulary of 32,768.

Every run begins with a tokenizer that has seen no text ("cold"); building it is not counted, nor importing and
compiling. Ids are compared with tiktoken's. gigatok (`pip install gigatok`) takes part where it is installed.
"""

from __future__ import annotations

import json
import sys
import tempfile
from collections.abc import Callable
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from benchmarks.support import corpora
from benchmarks.support.report import Row, compare
from benchmarks.support.timing import Contestants, Timed, child, in_turn

if TYPE_CHECKING:
    from tokenization.tokenizer import Tokenizer

GOALS = {"tiktoken": "≥ 25", "gigatok": "≥ 1.2"}


def run(quick: bool) -> list[Row]:
    """Encode every corpus with one thread, and with two."""
    names = list(corpora.available())
    rows = []
    for name in names[:1] if quick else names:
        goals = GOALS if name in ("campus", "openwebtext") else {}
        found = {n: child("benchmarks.tokenizer_encoding", name, n, 3 if quick else 7, threads=n) for n in (1, 2)}
        speed = {n: {peer: found[n]["megabytes"] / s for peer, s in found[n]["seconds"].items()} for n in (1, 2)}
        rows += [
            compare(f"{name}, one thread, cold", "MB/s", speed[1]["ours"], speed[1].get(p), p, goal=goals.get(p, ""))
            for p in GOALS
        ]
        rows.append(Row(f"{name}, one thread, warm", "MB/s", speed[1]["ours, warm"]))
        rows += [compare(f"{name}, two threads, cold", "MB/s", speed[2]["ours"], speed[2].get(p), p) for p in GOALS]
        goal = "≥ 1.8" if goals else ""
        rows.append(compare(f"{name}, two threads", "MB/s", speed[2]["ours"], speed[1]["ours"], "our one", goal=goal))
    return rows


def main(name: str, thread_count: str, repetitions: str) -> None:
    """Encode one corpus, and print the seconds of each contestant."""
    from benchmarks.tokenizer_training import largest
    from tokenization.config import TokenizerConfig
    from tokenization.text import batches
    from tokenization.tokenizer import Tokenizer
    from tokenization.train import train_from_documents

    texts = corpora.available()[name]()
    trained, _ = train_from_documents(batches(texts), TokenizerConfig(vocab_size=largest(texts, 32_768)))
    warm = Tokenizer(trained.tokens, "cl100k", {})
    threads = int(thread_count)

    def cold() -> Timed:
        fresh = Tokenizer(trained.tokens, "cl100k", {})
        fresh.prepare(threads)
        return lambda: fresh.encode_batch(texts, threads=threads)

    contestants = {"ours": cold, "ours, warm": lambda: lambda: warm.encode_batch(texts, threads=threads)}
    contestants |= _tiktoken(trained, texts, threads) | _gigatok(trained, texts)
    _check(warm, texts, contestants["tiktoken"])
    seconds = in_turn(contestants, int(repetitions))
    print(json.dumps({"seconds": seconds, "megabytes": corpora.size_of(texts) / 1e6}))


def _tiktoken(trained: Tokenizer, texts: list[str], threads: int) -> Contestants:
    from concurrent.futures import ThreadPoolExecutor

    from tokenization.interchange import to_tiktoken

    encoding = to_tiktoken(trained)

    def one(text: str) -> np.ndarray:
        return encoding.encode_to_numpy(text, disallowed_special=())

    def encode() -> list[np.ndarray]:
        if threads == 1:
            return [one(text) for text in texts]
        with ThreadPoolExecutor(threads) as pool:
            return list(pool.map(one, texts))

    return {"tiktoken": lambda: encode}


def _gigatok(trained: Tokenizer, texts: list[str]) -> Contestants:
    if not find_spec("gigatok"):
        return {}
    import gigatok

    from tokenization.formats import save_tokenizer

    with tempfile.TemporaryDirectory() as folder:
        save_tokenizer(trained, Path(folder))
        source = (Path(folder) / "tokenizer.json").read_text(encoding="utf-8")

    def prepare() -> Timed:
        tokenizer = gigatok.Tokenizer.from_json(source)
        return lambda: tokenizer.encode_batch(texts)

    return {"gigatok": prepare}


def _check(ours: Tokenizer, texts: list[str], tiktoken: Callable[[], Timed]) -> None:
    for mine, theirs in zip(ours.encode_batch(texts), tiktoken()(), strict=True):
        if not np.array_equal(mine, theirs):
            raise SystemExit("the ids differ from tiktoken's")


if __name__ == "__main__":
    main(*sys.argv[1:])
