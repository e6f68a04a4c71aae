"""Parquet shards to token arrays with two workers, against the nanoGPT recipe and datatrove's tokenizer.

Each runs in a process of its own, with the same vocabulary of 32,768; wall seconds of the whole process, imports
included, after a run that compiles. Memory and time are also measured on ten times the corpus. The nanoGPT recipe is
`datasets.map` with tiktoken in two processes, then a memory map; `pip install datasets datatrove` brings the peers.
"""

from __future__ import annotations

import json
import os
import shutil
import sys
import tempfile
import time
from importlib.util import find_spec
from pathlib import Path
from statistics import median
from typing import Any

import numpy as np

from benchmarks.support import corpora
from benchmarks.support.report import Row, compare
from benchmarks.support.timing import child, peak_megabytes

# What the peers depend on and we do not; Numba and Arrow import it wherever they find it, for half a second
PEERS_OWN = ("awkward", "pandas", "scipy")
GOALS = {"nanogpt": "≥ 20", "datatrove": "≥ 10"}
WORKERS = 2
ROWS = 1000  # documents in a row group


def run(quick: bool) -> list[Row]:
    """Ours and the peers in turn on the first corpora; then ours on one and ten times the corpus."""
    names = list(corpora.available())[: 1 if quick else 2]
    peers = {"nanogpt": "datasets", "datatrove": "datatrove"}
    rows = []
    with tempfile.TemporaryDirectory() as temporary:
        for name in names:
            folder = Path(temporary) / name
            repeats = 1 if quick else 8
            texts = corpora.available()[name]()
            _write_corpus(folder / "corpus", texts, repeats)
            _train(folder, texts)
            del texts
            present = ["ours", *(peer for peer, package in peers.items() if find_spec(package))]
            seconds: dict[str, list[float]] = {task: [] for task in present}
            _one("ours", folder)
            for _ in range(1 if quick else 5):
                for task in present:
                    seconds[task].append(_one(task, folder)["wall"])
            mid = {task: median(values) for task, values in seconds.items()}
            label = f"{name} × {repeats}, whole process"
            rows += [
                compare(label, "s", mid["ours"], mid.get(peer), peer, goal=GOALS[peer], lower_is_better=True)
                for peer in GOALS
            ]
        if not quick:
            rows += _growth(Path(temporary) / names[0], Path(temporary), 10)
    return rows


def _growth(small: Path, temporary: Path, factor: int) -> list[Row]:
    texts = next(iter(corpora.available().values()))()
    rows = []
    for repeats in (1, factor):
        folder = temporary / f"times-{repeats}"
        _write_corpus(folder / "corpus", texts, repeats)
        shutil.copytree(small / "tokenizer", folder / "tokenizer")
    for task, name in (("ours", "pretokenize"), ("train", "train_tokenizer")):
        found = {r: [_one(task, temporary / f"times-{r}") for _ in range(3)] for r in (1, factor)}
        for metric, unit, goal in (("memory", "MB", "0.9 to 1.1"), ("seconds", "s", "≥ 0.095")):
            more, once = (median(run[metric] for run in found[r]) for r in (factor, 1))
            label = f"{name}: {metric}, {factor} times the corpus"
            rows.append(compare(label, unit, more, once, "once", lower_is_better=True, goal=goal))
    return rows


def _write_corpus(folder: Path, texts: list[str], repeats: int) -> None:
    import random

    import pyarrow as pa
    import pyarrow.parquet as pq

    folder.mkdir(parents=True)
    order = random.Random(0)
    for i in range(repeats):
        table = pa.table({"text": order.sample(texts, len(texts)) if i else texts})
        pq.write_table(table, folder / f"train-{i:05}.parquet", compression="zstd", row_group_size=ROWS)
    pq.write_table(pa.table({"text": texts[:1]}), folder / "validation-00000.parquet")


def _train(folder: Path, texts: list[str]) -> None:
    from tokenization.config import TokenizerConfig
    from tokenization.formats import save_tokenizer
    from tokenization.text import batches
    from tokenization.train import train_from_documents

    tokenizer, _ = train_from_documents(batches(texts), TokenizerConfig(vocab_size=32_768))
    save_tokenizer(tokenizer, folder / "tokenizer")


def _one(task: str, folder: Path) -> dict[str, float]:
    out = folder / f"out-{task}"
    shutil.rmtree(out, ignore_errors=True)
    return child("benchmarks.pretokenize", task, folder, threads=WORKERS)


# --- run by the child processes ---------------------------------------------------------------------------------------


def without_the_peers() -> None:
    """Hide the packages that only the peers need: this process shall find those of an environment of our own."""
    sys.modules |= dict.fromkeys(PEERS_OWN)


def ours(folder: Path, out: Path) -> None:
    """Pretokenize as the stage does."""
    without_the_peers()
    from tokenization.config import PretokenizeConfig
    from tokenization.pretokenize import pretokenize
    from tokenization.shard_writer import EncodingInputs

    pretokenize(EncodingInputs(folder / "corpus", folder / "tokenizer"), PretokenizeConfig(threads=WORKERS), out)


def train(folder: Path, out: Path) -> None:
    """Train a tokenizer as the stage does."""
    without_the_peers()
    from tokenization.config import TokenizerConfig
    from tokenization.train import train_tokenizer

    train_tokenizer(folder / "corpus", TokenizerConfig(threads=WORKERS), out)


def nanogpt(folder: Path, out: Path) -> None:
    """data/openwebtext/prepare.py of nanoGPT, with our ranks in tiktoken."""
    from datasets import load_dataset

    from tokenization.formats import load_tokenizer
    from tokenization.interchange import to_tiktoken

    tokenizer = load_tokenizer(folder / "tokenizer")
    encoding, eot = to_tiktoken(tokenizer), tokenizer.eot_id

    def process(example: dict[str, Any]) -> dict[str, Any]:
        ids = encoding.encode_ordinary(example["text"])
        ids.append(eot)
        return {"ids": ids, "len": len(ids)}

    files = {split: str(folder / "corpus" / f"{split}-*.parquet") for split in ("train", "validation")}
    dataset = load_dataset("parquet", data_files=files, cache_dir=str(out / "cache"))
    tokenized = dataset.map(process, remove_columns=["text"], num_proc=WORKERS)
    for split, rows in tokenized.items():
        total = np.sum(rows["len"], dtype=np.uint64)
        target = np.memmap(out / f"{split}.bin", dtype=np.uint16, mode="w+", shape=(int(total),))
        batches = min(1024, len(rows))
        position = 0
        for i in range(batches):
            batch = rows.shard(num_shards=batches, index=i, contiguous=True).with_format("numpy")
            values = np.concatenate(batch["ids"])
            target[position : position + len(values)] = values
            position += len(values)
        target.flush()


def datatrove(folder: Path, out: Path) -> None:
    """datatrove's tokenizer, with our vocabulary."""
    from datatrove.executor import LocalPipelineExecutor
    from datatrove.pipeline.readers import ParquetReader
    from datatrove.pipeline.tokens import DocumentTokenizer

    LocalPipelineExecutor(
        pipeline=[
            ParquetReader(str(folder / "corpus"), glob_pattern="train-*.parquet"),
            DocumentTokenizer(
                output_folder=str(out / "tokens"),
                tokenizer_name_or_path=str(folder / "tokenizer" / "tokenizer.json"),
                eos_token="<|endoftext|>",
                shuffle_documents=False,
            ),
        ],
        tasks=max(len(list((folder / "corpus").glob("train-*.parquet"))), WORKERS),
        workers=WORKERS,
        logging_dir=str(out / "logs"),
    ).run()


def main(task: str, folder: str) -> None:
    """Run one task, and print its seconds and its peak memory in MB."""
    out = Path(folder) / f"out-{task}"
    out.mkdir()
    started = time.perf_counter()
    {"ours": ours, "train": train, "nanogpt": nanogpt, "datatrove": datatrove}[task](Path(folder), out)
    seconds = time.perf_counter() - started
    sys.stdout.flush()
    os.write(1, (json.dumps({"seconds": seconds, "memory": peak_megabytes()}) + "\n").encode())


if __name__ == "__main__":
    main(*sys.argv[1:])
