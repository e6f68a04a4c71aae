"""Training on one GPU at the size of GPT-2 124M: tokens a second, share of the peak and memory beside the peers.

The classic model against nanoGPT's training script (`--nanogpt PATH`), the modern one against nanochat's model and
optimizer (`--nanochat PATH`), each pair of one architecture, context, vocabulary and batch; ours as the stage runs it,
reading the corpus, the peers with their own optimizers. All compiled, in bf16; medians over the steps after the first
ones, which compile.
"""

from __future__ import annotations

import argparse
import json
import os
import re
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from statistics import median
from typing import Any

import numpy as np
import torch

from benchmarks.pretrain import seconds_of_training
from benchmarks.support import corpora, training_data
from benchmarks.support.peers import NANOCHAT_FILE, NANOGPT_FILE, NanoGPT, add_checkout, step_milliseconds
from benchmarks.support.report import Row, compare
from benchmarks.support.training_data import TrainingData
from modeling.config.pretrain import PretrainConfig
from modeling.cost import flops_per_token, training_cost
from modeling.device import choose, training_environment
from modeling.training.process import command
from tokenization.arrays import TokenArrays

STEPS, COMPILING = 16, 4
CLASSIC_VOCABULARY, MODERN_VOCABULARY = 50_304, 32_768
CLASSIC = {
    "preset": "gpt2-124m", "model": {"bias": False}, "batch": 128, "micro_batch": 32, "schedule": {"warmup": 1},
}  # fmt: skip
# nanochat's model of depth 12, but for its skip from the middle of the stack
MODERN = {
    "depth": 12, "batch": 64, "micro_batch": 16, "schedule": {"warmup": 0},
    "model": {"value_embeddings": True, "x0_skip": True, "smear": True, "softcap": 15.0, "heads": 6, "context": 2048},
}  # fmt: skip


Speed = tuple[float, float]  # tokens a second, and the most GiB taken


@dataclass(frozen=True)
class Peer:
    """A peer's name, its checkout (None: left out), and how it trains with a config on data, in a folder."""

    name: str
    checkout: Path | None
    train: Callable[[Path, PretrainConfig, Path, Path], Speed]


def options(parser: argparse.ArgumentParser) -> None:
    """Declare the options of this benchmark."""
    add_checkout(parser, "nanogpt", NANOGPT_FILE)
    add_checkout(parser, "nanochat", NANOCHAT_FILE)


def run(quick: bool, nanogpt: Path | None = None, nanochat: Path | None = None) -> list[Row]:
    """Rows of the classic and the modern model, and whether a continued run repeats an uninterrupted one."""
    if not torch.cuda.is_available():
        raise SystemExit("this benchmark needs a CUDA GPU")
    documents = corpora.campus(3000 if quick else None)
    with tempfile.TemporaryDirectory() as temporary:
        folder = Path(temporary)
        classic = training_data.build(folder / "classic", documents, CLASSIC_VOCABULARY)
        modern = training_data.build(folder / "modern", documents, MODERN_VOCABULARY)
        return [
            *throughput(CLASSIC, classic, folder, Peer("nanogpt", nanogpt, train_nanogpt)),
            *throughput(MODERN, modern, folder, Peer("nanochat", nanochat, train_nanochat)),
            *continuation(modern, folder),
        ]


def throughput(settings: dict[str, Any], data: TrainingData, folder: Path, peer: Peer) -> list[Row]:
    """Ours and the peer's medians of tokens a second, with what follows from them, and most memory taken."""
    config = PretrainConfig.model_validate(
        {"steps": STEPS, "log_every": 1, "evaluate_every": STEPS, "evaluate_tokens": 65_536, "sample_tokens": 0}
        | settings
    )
    vocabulary = TokenArrays(data.tokens, "train").vocab_size
    ours, memory = train(config, data, folder / f"ours-{peer.name}")
    theirs = peer_memory = None
    if peer.checkout:
        theirs, peer_memory = peer.train(peer.checkout, config, data.nanogpt, folder / peer.name)
    flops, peak = flops_per_token(config.model, vocabulary), choose().peak_flops
    name = f"{config.model.layers} x {config.model.width}, {config.micro_batch} x {config.model.context} a pass"
    estimated = training_cost(config, vocabulary, "1xH100").memory / 2**30
    rows = [
        compare(f"{name}: training", "tok/s", ours, theirs, peer.name),
        compare(f"{name}: most memory", "GiB", memory, peer_memory, peer.name, lower_is_better=True),
        compare(f"{name}: most memory", "GiB", memory, estimated, "textmill cost", lower_is_better=True),
    ]
    if peak:
        percent = [rate and 100 * rate * flops / peak for rate in (ours, theirs)]
        rows.insert(1, compare(f"{name}: share of the peak (MFU)", "%", *percent, peer.name, goal=">= 45"))
    return rows


def train(config: PretrainConfig, data: TrainingData, out: Path) -> Speed:
    """Train ours in a process of its own."""
    seconds_of_training(config, data, out)
    lines = [json.loads(line) for line in (out / "timing.jsonl").read_text().splitlines()]
    lines = [line for line in lines if "tokens_per_second" in line and "validation_loss" not in line]
    return median(line["tokens_per_second"] for line in lines[COMPILING:]), lines[-1]["gpu_gib"]


def train_nanogpt(checkout: Path, config: PretrainConfig, data: Path, out: Path) -> Speed:
    """nanoGPT's training script as it is, but for a last line that tells the memory."""
    options = {
        "device": "cuda", "compile": True, "eval_interval": 10 * STEPS, "block_size": config.model.context,
        "batch_size": config.micro_batch, "gradient_accumulation_steps": config.batch // config.micro_batch,
        "max_iters": STEPS,
    }  # fmt: skip
    end = "if ddp:\n    destroy_process_group()"
    changes = {end: f"print('most memory', torch.cuda.max_memory_allocated())\n{end}"}
    log = NanoGPT(checkout, data, out).train(options, changes)
    milliseconds = step_milliseconds(log)[COMPILING:]
    memory = int(re.search(r"most memory (\d+)", log)[1]) / 2**30
    return config.batch * config.model.context * 1000 / median(milliseconds), memory


def train_nanochat(checkout: Path, config: PretrainConfig, data: Path, out: Path) -> Speed:
    """nanochat's model and optimizer in a loop of a process of their own: its script would fetch a data set first."""
    code = f"from benchmarks.gpu import nanochat_loop; nanochat_loop({str(data)!r}, {config.model_dump_json()!r})"
    environment = os.environ | {"PYTHONPATH": os.pathsep.join([*sys.path, str(checkout)])}
    finished = subprocess.run([sys.executable, "-c", code], env=environment, check=True, capture_output=True, text=True)
    rate, memory = json.loads(finished.stdout.splitlines()[-1])
    return rate, memory


def nanochat_loop(data: str, settings: str) -> None:
    """Print tokens a second and GiB of nanochat's model, set up and stepped as its own script does."""
    from nanochat.gpt import GPT, GPTConfig

    config = PretrainConfig.model_validate_json(settings)
    length, width, heads = config.model.context, config.model.width, config.model.heads
    tokens = np.memmap(Path(data) / "train.bin", np.uint16, "r")
    with torch.device("meta"):
        model = GPT(GPTConfig(sequence_len=length, vocab_size=MODERN_VOCABULARY, n_layer=config.model.layers,
                              n_head=heads, n_kv_head=heads, n_embd=width, window_pattern="L"))  # fmt: skip
    model.to_empty(device="cuda")
    model.init_weights()
    optimizer = model.setup_optimizer(weight_decay=0.2)
    compiled = torch.compile(model, dynamic=False)
    passes = config.batch // config.micro_batch
    rates, generator = [], np.random.default_rng(0)
    for _ in range(STEPS):
        start = time.perf_counter()
        for _ in range(passes):
            starts = generator.integers(0, len(tokens) - length, config.micro_batch)
            windows = np.stack([tokens[first : first + length + 1] for first in starts]).astype(np.int64)
            windows = torch.from_numpy(windows).pin_memory().to("cuda", non_blocking=True)
            loss = compiled(windows[:, :-1].contiguous(), windows[:, 1:].contiguous())
            (loss / passes).backward()
        optimizer.step()
        model.zero_grad(set_to_none=True)
        loss.item()
        rates.append(config.batch * length / (time.perf_counter() - start))
    print(json.dumps([median(rates[COMPILING:]), torch.cuda.max_memory_allocated() / 2**30]))


def continuation(data: TrainingData, folder: Path) -> list[Row]:
    """How far the losses of a run that was interrupted and continued are from those of runs that were not.

    Sums on a GPU are not made in one order, so that two equal runs differ too: the number to compare with.
    """
    settings = {
        "depth": 4, "steps": 40, "batch": 64, "schedule": {"warmup": 0}, "checkpoint_every": 20, "evaluate_every": 40,
        "evaluate_tokens": 65_536, "sample_tokens": 0, "log_every": 5,
    }  # fmt: skip
    config = PretrainConfig.model_validate(settings)
    losses = []
    for name, until in (("first", None), ("second", None), ("continued", 20)):
        out = folder / name
        if until:
            interrupt(config, data, out, until)
        train(config, data, out)
        lines = [json.loads(line) for line in (out / "metrics.jsonl").read_text().splitlines()]
        losses.append({line["step"]: line["loss"] for line in lines if "loss" in line})
    first, second, continued = losses
    apart = [max(abs(first[step] - other[step]) for step in first) for other in (continued, second)]
    return [compare("continued run, most apart in loss", "nats", *apart, "two equal runs", lower_is_better=True)]


def interrupt(config: PretrainConfig, data: TrainingData, out: Path, step: int) -> None:
    """Train until the checkpoint of `step` is there, and kill."""
    process = subprocess.Popen(
        command(config, data.tokens, data.tokenizer, out), env=training_environment(), stdout=subprocess.PIPE
    )
    for line in process.stdout:
        if json.loads(line).get("done", 0) > step:
            process.kill()
    process.wait()
