"""Parquet shards to token arrays on disk with two workers, against gigatoken, the nanoGPT recipe and datatrove.

Each runs in a process of its own, with the same vocabulary of 32,768, on 240 MB and on 1 GB of text; wall seconds of
the whole process, imports included, after a run that compiles. Memory and time are also measured on ten times the
corpus.

- gigatoken is `encode_files` of the Parquet files, and of a text file that has the end-of-text token after each
  document; then its ids, as uint16 and with that token in its places, written at once. It keeps all ids in memory.
- The nanoGPT recipe is `datasets.map` with tiktoken in two processes, then a memory map.

The tokens of gigatoken and of the nanoGPT recipe are compared with ours. The extra `bench` brings the peers.
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
from typing import Any, NamedTuple

import numpy as np

from benchmarks.support import corpora
from benchmarks.support.report import Row, compare
from benchmarks.support.timing import child, peak_megabytes

# What the peers depend on and we do not; Numba and Arrow import it wherever they find it, for half a second
PEERS_OWN = ("awkward", "pandas", "scipy")


class Peer(NamedTuple):
    """A contestant: the task of this module that runs it, the package that it needs, and what there is to reach."""

    task: str
    package: str
    goal: str


PEERS = {
    "gigatoken (Parquet)": Peer("gigatoken_parquet", "gigatoken", "≥ 1.0"),
    "gigatoken (text file)": Peer("gigatoken_text", "gigatoken", "≥ 1.0"),
    "nanogpt": Peer("nanogpt", "datasets", "≥ 20"),
}
DATATROVE = {"datatrove": Peer("datatrove", "datatrove", "≥ 10")}  # would take three minutes for 1 GB
SIZES = {  # how often a corpus is repeated, how often each contestant runs, and which there are
    "240 MB": (8, 5, PEERS | DATATROVE),
    "1 GB": (34, 3, PEERS),
}
QUICK = {"30 MB": (1, 1, {name: peer._replace(goal="") for name, peer in (PEERS | DATATROVE).items()})}
WORKERS = 2
ROWS = 1000  # documents in a row group
SAME_TOKENS = ("gigatoken_parquet", "gigatoken_text", "nanogpt")
END = b"<|endoftext|>"


def run(quick: bool) -> list[Row]:
    """Ours and the peers in turn on the first corpora, in two sizes; then ours on one and ten times the corpus."""
    rows = []
    with tempfile.TemporaryDirectory() as temporary:
        for name in list(corpora.available())[: 1 if quick else 2]:
            texts = corpora.available()[name]()
            tokenizer = Path(temporary) / name
            _train(tokenizer, texts)
            for size, (repeats, runs, peers) in (QUICK if quick else SIZES).items():
                with tempfile.TemporaryDirectory() as folder:
                    _write_corpus(Path(folder) / "corpus", texts, repeats)
                    shutil.copytree(tokenizer, Path(folder) / "tokenizer")
                    rows += _against(peers, f"{name}, {size}, whole process", Path(folder), runs)
        if not quick:
            rows += _growth(Path(temporary) / next(iter(corpora.available())), Path(temporary), 10)
    return rows


def _against(peers: dict[str, Peer], label: str, folder: Path, runs: int) -> list[Row]:
    seconds: dict[str, list[float]] = {"ours": []} | {p.task: [] for p in peers.values() if find_spec(p.package)}
    _one("ours", folder)
    for _ in range(runs):
        for task in seconds:
            seconds[task].append(_one(task, folder)["wall"])
            if task in SAME_TOKENS:
                _compare_tokens(folder, task)
            if task != "ours":
                shutil.rmtree(folder / f"out-{task}")
    mid = {task: median(values) for task, values in seconds.items()}
    return [
        compare(label, "s", mid["ours"], mid.get(peer.task), name, goal=peer.goal, lower_is_better=True)
        for name, peer in peers.items()
    ]


def _compare_tokens(folder: Path, task: str) -> None:
    """Compare the tokens of the train split, shard after shard, with those that a peer wrote into one file."""
    theirs = np.memmap(folder / f"out-{task}" / "train.bin", np.uint16, "r")
    position = 0
    for shard in sorted((folder / "out-ours").glob("train-*.bin")):
        tokens = np.fromfile(shard, np.uint16)
        if not np.array_equal(tokens, theirs[position : position + len(tokens)]):
            raise SystemExit(f"the tokens of {task} in {shard.name} are not ours")
        position += len(tokens)
    if position != len(theirs):
        raise SystemExit(f"{task} wrote {len(theirs):,} tokens, and ours are {position:,}")


def _growth(small: Path, temporary: Path, factor: int) -> list[Row]:
    texts = next(iter(corpora.available().values()))()
    rows = []
    for repeats in (1, factor):
        folder = temporary / f"times-{repeats}"
        _write_corpus(folder / "corpus", texts, repeats)
        shutil.copytree(small, folder / "tokenizer")
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
    with (folder.parent / "corpus.txt").open("wb") as file:
        for i in range(repeats):
            shard = order.sample(texts, len(texts)) if i else texts
            table = pa.table({"text": shard})
            pq.write_table(table, folder / f"train-{i:05}.parquet", compression="zstd", row_group_size=ROWS)
            file.writelines(text.encode() + END for text in shard)
    pq.write_table(pa.table({"text": texts[:1]}), folder / "validation-00000.parquet")


def _train(out: Path, texts: list[str]) -> None:
    from tokenization.config import TokenizerConfig
    from tokenization.formats import save_tokenizer
    from tokenization.text import batches
    from tokenization.train import train_from_documents

    tokenizer, _ = train_from_documents(batches(texts), TokenizerConfig(vocab_size=32_768))
    save_tokenizer(tokenizer, out)


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


def gigatoken_parquet(folder: Path, out: Path) -> None:
    """gigatoken reads the Parquet shards; the end-of-text token is put after each document."""
    import gigatoken

    tokenizer = gigatoken.Tokenizer(str(folder / "tokenizer" / "tokenizer.json"))
    shards = sorted((folder / "corpus").glob("train-*.parquet"))
    encoded = tokenizer.encode_files(gigatoken.ParquetFileSource(shards)).layout
    eot = next(i for i, token in tokenizer.vocab.items() if token == END)
    np.insert(encoded.content.data.astype(np.uint16), encoded.offsets.data[1:], eot).tofile(out / "train.bin")


def gigatoken_text(folder: Path, out: Path) -> None:
    """gigatoken reads the text file as one document; the end-of-text tokens are in it."""
    import gigatoken

    tokenizer = gigatoken.Tokenizer(str(folder / "tokenizer" / "tokenizer.json"))
    encoded = tokenizer.encode_files(gigatoken.TextFileSource([folder / "corpus.txt"]))
    encoded.layout.content.data.astype(np.uint16).tofile(out / "train.bin")


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


TASKS = {task.__name__: task for task in (ours, train, gigatoken_parquet, gigatoken_text, nanogpt, datatrove)}


def main(task: str, folder: str) -> None:
    """Run one task, and print its seconds and its peak memory in MB."""
    out = Path(folder) / f"out-{task}"
    out.mkdir()
    started = time.perf_counter()
    TASKS[task](Path(folder), out)
    seconds = time.perf_counter() - started
    sys.stdout.flush()
    os.write(1, (json.dumps({"seconds": seconds, "memory": peak_megabytes()}) + "\n").encode())


if __name__ == "__main__":
    main(*sys.argv[1:])
