"""Training on one GPU at the size of GPT-2 124M: tokens a second, share of the peak and memory beside the peers.

`NANOGPT=CHECKOUT NANOCHAT=CHECKOUT python -m benchmarks gpu`. The classic model against nanoGPT's training script, the
modern one against nanochat's model and optimizer, each pair of one architecture, context, vocabulary and batch; ours as
the stage runs it, reading the corpus, the peers with their own optimizers. All compiled, in bf16; medians over the
steps after the first ones, which compile.
"""

import json
import os
import re
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from statistics import median

import numpy as np
import torch

from benchmarks import corpus
from benchmarks.nanogpt import step_milliseconds
from benchmarks.nanogpt import train as train_nanogpt
from benchmarks.pretrain import trained
from benchmarks.report import Row, compare
from modeling.config import PretrainConfig
from modeling.cost import flops_per_token, plan
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


def run(quick: bool) -> list[Row]:
    """Rows of the classic and the modern model, and whether a continued run repeats an uninterrupted one."""
    if not torch.cuda.is_available():
        raise SystemExit("this benchmark needs a CUDA GPU")
    documents = corpus.texts(3000 if quick else None)
    with tempfile.TemporaryDirectory() as temporary:
        folder = Path(temporary)
        classic = corpus.build(folder / "classic", documents, CLASSIC_VOCABULARY)
        modern = corpus.build(folder / "modern", documents, MODERN_VOCABULARY)
        return [
            *throughput(CLASSIC, classic, folder, os.environ.get("NANOGPT"), nanogpt),
            *throughput(MODERN, modern, folder, os.environ.get("NANOCHAT"), nanochat),
            *continuation(modern, folder),
        ]


def throughput(settings: dict, data: tuple[Path, Path, Path], folder: Path, checkout: str | None, peer) -> list[Row]:
    """Ours and the peer's medians of tokens a second, with what follows from them, and most memory taken."""
    config = PretrainConfig.model_validate(
        {"steps": STEPS, "log_every": 1, "evaluate_every": STEPS, "evaluate_tokens": 65_536, "sample_tokens": 0}
        | settings
    )
    tokenizer, tokens, peer_data = data
    vocabulary = TokenArrays(tokens, "train").vocab_size
    ours, memory = train(config, tokens, tokenizer, folder / f"ours-{peer.__name__}")
    theirs = peer_memory = None
    if checkout:
        theirs, peer_memory = peer(Path(checkout), config, peer_data, folder / peer.__name__)
    flops, peak = flops_per_token(config.model, vocabulary), choose().peak_flops
    name = f"{config.model.layers} x {config.model.width}, {config.micro_batch} x {config.model.context} a pass"
    estimated = plan(config, vocabulary, "1xH100").memory / 2**30
    rows = [
        compare(f"{name}: training", "tok/s", ours, theirs, peer.__name__),
        compare(f"{name}: most memory", "GiB", memory, peer_memory, peer.__name__, lower_is_better=True),
        compare(f"{name}: most memory", "GiB", memory, estimated, "textmill plan", lower_is_better=True),
    ]
    if peak:
        share = [rate and 100 * rate * flops / peak for rate in (ours, theirs)]
        rows.insert(1, compare(f"{name}: share of the peak (MFU)", "%", *share, peer.__name__, goal=">= 45"))
    return rows


def train(config: PretrainConfig, tokens: Path, tokenizer: Path, out: Path) -> tuple[float, float]:
    """Tokens a second, and GiB."""
    trained(config, tokens, tokenizer, out)
    lines = [json.loads(line) for line in (out / "timing.jsonl").read_text().splitlines()]
    lines = [line for line in lines if "tokens_per_second" in line and "validation_loss" not in line]
    return median(line["tokens_per_second"] for line in lines[COMPILING:]), lines[-1]["gpu_gib"]


def nanogpt(checkout: Path, config: PretrainConfig, data: Path, out: Path) -> tuple[float, float]:
    """Its training script as it is, but for a last line that tells the memory."""
    options = {
        "device": "cuda", "compile": True, "eval_interval": 10 * STEPS, "block_size": config.model.context,
        "batch_size": config.micro_batch, "gradient_accumulation_steps": config.batch // config.micro_batch,
        "max_iters": STEPS,
    }  # fmt: skip
    tell = "if ddp:\n    destroy_process_group()"
    changes = {tell: f"print('most memory', torch.cuda.max_memory_allocated())\n{tell}"}
    log = train_nanogpt(checkout, data, out, options, changes)
    milliseconds = step_milliseconds(log)[COMPILING:]
    memory = int(re.search(r"most memory (\d+)", log)[1]) / 2**30
    return config.batch * config.model.context * 1000 / median(milliseconds), memory


def nanochat(checkout: Path, config: PretrainConfig, data: Path, out: Path) -> tuple[float, float]:
    """Its model and optimizer in a loop of a process of their own: its script would fetch a data set first."""
    code = f"from benchmarks.gpu import nanochat_loop; nanochat_loop({str(data)!r}, {config.model_dump_json()!r})"
    environment = os.environ | {"PYTHONPATH": os.pathsep.join([*sys.path, str(checkout)])}
    command = [sys.executable, "-c", code]
    finished = subprocess.run(command, env=environment, check=True, capture_output=True, text=True)
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


def continuation(data: tuple[Path, Path, Path], folder: Path) -> list[Row]:
    """How far the losses of a run that was interrupted and continued are from those of runs that were not.

    Sums on a GPU are not made in one order, so that two equal runs differ too: the figure to compare with.
    """
    tokenizer, tokens, _ = data
    settings = {
        "depth": 4, "steps": 40, "batch": 64, "schedule": {"warmup": 0}, "checkpoint_every": 20, "evaluate_every": 40,
        "evaluate_tokens": 65_536, "sample_tokens": 0, "log_every": 5,
    }  # fmt: skip
    config = PretrainConfig.model_validate(settings)
    losses = []
    for name, until in (("first", None), ("second", None), ("continued", 20)):
        out = folder / name
        if until:
            interrupt(config, tokens, tokenizer, out, until)
        train(config, tokens, tokenizer, out)
        rows = [json.loads(line) for line in (out / "metrics.jsonl").read_text().splitlines()]
        losses.append({row["step"]: row["loss"] for row in rows if "loss" in row})
    whole, again, continued = losses
    apart = [max(abs(whole[step] - other[step]) for step in whole) for other in (continued, again)]
    return [compare("continued run, most apart in loss", "nats", *apart, "two equal runs", lower_is_better=True)]


def interrupt(config: PretrainConfig, tokens: Path, tokenizer: Path, out: Path, step: int) -> None:
    """Train until the checkpoint of `step` is there, and kill."""
    process = subprocess.Popen(
        command(config, tokens, tokenizer, out), env=training_environment(), stdout=subprocess.PIPE
    )
    for line in process.stdout:
        if json.loads(line).get("done", 0) > step:
            process.kill()
    process.wait()
