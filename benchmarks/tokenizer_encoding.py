"""Encoding: text in memory to integer arrays, against gigatoken and tiktoken, with a vocabulary of 32,768.

Ours encodes a list of strings, gigatoken a list of strings, one of bytes, and a text file; the fastest of the three
counts, and the table says which. All ids are compared with tiktoken's. "Cold" is a tokenizer that has met no word:
each run has a new one, for both remember words in the object. Its tables are built before; building them is not
counted, nor importing and compiling. "Warm" is one that has encoded the same text before.

The limit is the time that moving the bytes takes: the text read once and the ids written once, at the bandwidth of
memory that the same process measures with as many threads.
"""

from __future__ import annotations

import json
import sys
import tempfile
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from importlib.util import find_spec
from pathlib import Path
from statistics import median
from typing import TYPE_CHECKING, Any

import numpy as np

from benchmarks.support import corpora
from benchmarks.support.report import Row, compare
from benchmarks.support.timing import Contestants, Timed, child, in_turn

if TYPE_CHECKING:
    from tokenization.tokenizer import Tokenizer

PEERS = ("gigatoken", "tiktoken")
GOALS = {  # of one thread and of two
    "cold": ({"gigatoken": "≥ 1.1", "tiktoken": "≥ 20"}, {"gigatoken": "≥ 1.1"}),
    "warm": ({"gigatoken": "≥ 1.0"}, {}),
}
SEPARATOR = b"<|endoftext|>"
COPIED = 1 << 28  # bytes that are copied to measure the memory


def run(quick: bool) -> list[Row]:
    """Encode every corpus with one thread, and with two."""
    names = list(corpora.available())
    rows = []
    for name in names[:1] if quick else names:
        with_goals = name in ("campus", "openwebtext")
        found = {n: child("benchmarks.tokenizer_encoding", name, n, 3 if quick else 7, threads=n) for n in (1, 2)}
        for threads, measured in found.items():
            many = "one thread" if threads == 1 else "two threads"
            for state, goals in GOALS.items():
                label = f"{name}, {many}, {state}"
                wanted = goals[threads - 1] if with_goals else {}
                rows += [_against(peer, label, state, measured, wanted.get(peer, "")) for peer in PEERS]
            ours, limit = _speed(measured, "ours, warm"), measured["megabytes"] / measured["limit"]
            rows.append(compare(f"{name}, {many}, warm, of the limit", "MB/s", ours, limit, "memory bandwidth"))
        one, two = (_speed(found[n], "ours, cold") for n in (1, 2))
        rows.append(compare(f"{name}, two threads, cold", "MB/s", two, one, "our one"))
    return rows


def _against(peer: str, label: str, state: str, measured: dict[str, Any], goal: str) -> Row:
    """Ours beside a peer in its fastest form; tiktoken remembers nothing, so that it has one speed."""
    forms = {n.rpartition(", ")[0]: n for n in measured["seconds"] if n.startswith(peer) and n.endswith(state)}
    if peer == "tiktoken":
        forms = {peer: peer}
    fastest = min(forms, key=lambda form: measured["seconds"][forms[form]], default=peer)
    theirs = _speed(measured, forms[fastest]) if forms else None
    return compare(label, "MB/s", _speed(measured, f"ours, {state}"), theirs, fastest, goal=goal)


def _speed(measured: dict[str, Any], contestant: str) -> float:
    return measured["megabytes"] / measured["seconds"][contestant]


# --- run by the child processes ---------------------------------------------------------------------------------------


def main(name: str, thread_count: str, repetitions: str) -> None:
    """Encode one corpus, and print the seconds of each contestant."""
    from benchmarks.tokenizer_training import largest
    from tokenization.config import TokenizerConfig
    from tokenization.text import batches
    from tokenization.tokenizer import Tokenizer
    from tokenization.train import train_from_documents

    texts, threads = corpora.available()[name](), int(thread_count)
    trained, _ = train_from_documents(batches(texts), TokenizerConfig(vocab_size=largest(texts, 32_768)))
    with tempfile.TemporaryDirectory() as folder:
        contestants = _ours(trained, texts, threads) | _tiktoken(trained, texts, threads)
        if find_spec("gigatoken"):
            contestants |= _gigatoken(trained, texts, threads, Path(folder))
        ids = Tokenizer(trained.tokens, "cl100k", {}).encode_batch(texts)
        _check(ids, contestants)
        seconds = in_turn(contestants, int(repetitions))
    size = corpora.size_of(texts)
    moved = size + sum(each.nbytes for each in ids)
    limit = moved / _bandwidth(threads)
    print(json.dumps({"seconds": seconds, "megabytes": size / 1e6, "limit": limit}))


def _ours(trained: Tokenizer, texts: list[str], threads: int) -> Contestants:
    from tokenization.tokenizer import Tokenizer

    warm = Tokenizer(trained.tokens, "cl100k", {})

    def cold() -> Timed:
        fresh = Tokenizer(trained.tokens, "cl100k", {})
        fresh.prepare(threads)
        return lambda: fresh.encode_batch(texts, threads=threads)

    return {"ours, cold": cold, "ours, warm": lambda: lambda: warm.encode_batch(texts, threads=threads)}


def _tiktoken(trained: Tokenizer, texts: list[str], threads: int) -> Contestants:
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


def _gigatoken(trained: Tokenizer, texts: list[str], threads: int, folder: Path) -> Contestants:
    """Its three sources, cold and warm. A new tokenizer builds the tables of its threads from the bytes that it is
    first given, so it is first given as many of one word."""
    import gigatoken

    from tokenization.formats import save_tokenizer

    save_tokenizer(trained, folder)
    source = (folder / "tokenizer.json").read_text(encoding="utf-8")
    raw = [text.encode() for text in texts]
    file = folder / "texts.txt"
    file.write_bytes(SEPARATOR.join(raw))
    one_word = [b" a" * (file.stat().st_size // 32)] * 16
    parallel = threads > 1

    def fresh() -> gigatoken.Tokenizer:
        tokenizer = gigatoken.Tokenizer.from_json(source)
        tokenizer.encode_batch(one_word, parallel=parallel)
        return tokenizer

    def of_file(tokenizer: gigatoken.Tokenizer) -> object:
        return tokenizer.encode_files(gigatoken.TextFileSource([file], SEPARATOR), parallel=parallel)

    forms: dict[str, Callable[[gigatoken.Tokenizer], object]] = {
        "gigatoken (str)": lambda tokenizer: tokenizer.encode_batch(texts, parallel=parallel),
        "gigatoken (bytes)": lambda tokenizer: tokenizer.encode_batch(raw, parallel=parallel),
        "gigatoken (file)": of_file,
    }

    def cold(encode: Callable[[gigatoken.Tokenizer], object]) -> Timed:
        tokenizer = fresh()
        return lambda: encode(tokenizer)

    warm = {name: fresh() for name in forms}
    found: Contestants = {}
    for name, encode in forms.items():
        found[f"{name}, cold"] = lambda encode=encode: cold(encode)
        found[f"{name}, warm"] = lambda name=name, encode=encode: lambda: encode(warm[name])
    return found


def _check(ours: list[np.ndarray], contestants: Contestants) -> None:
    """Compare our ids with those of each other contestant; gigatoken leaves out the empty documents of a file."""
    for name, prepare in contestants.items():
        theirs = list(prepare()())
        expected = [each for each in ours if len(each)] if "(file)" in name else ours
        if len(theirs) != len(expected) or not all(map(np.array_equal, expected, map(np.asarray, theirs))):
            raise SystemExit(f"the ids of {name} are not ours")


def _bandwidth(threads: int) -> float:
    """Bytes read and written a second when `threads` threads copy memory, the median of seven copies."""
    source, target = np.ones(COPIED, np.uint8), np.ones(COPIED, np.uint8)
    seconds = []
    with ThreadPoolExecutor(threads) as pool:
        for _ in range(7):
            started = time.perf_counter()
            list(pool.map(np.copyto, np.array_split(target, threads), np.array_split(source, threads)))
            seconds.append(time.perf_counter() - started)
    return 2 * COPIED / median(seconds)


if __name__ == "__main__":
    main(*sys.argv[1:])
