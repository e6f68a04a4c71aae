"""Masked language modelling: our fine-tuning step against the masked models of `transformers`.

Ours, ModernBERT and BERT of equal layers, width and weights of the blocks, on the same windows of the campus corpus:
the peers once in our dtype, with our allocator settings and AdamW, and once as shipped: `transformers.Trainer` with its
defaults and its collator. Each contestant is a process of its own, and they take a step each in turn, so that what else
the machine does comes to all of them. Medians of the steps are compared, by the clock and by the CPU. Beside them is
ours with documents that do not see each other in a window. At last, smaller models are trained from random weights, the
peers at the better of two rates, and judged on the same hidden tokens: at how many of our steps their loss is reached.
"""

from __future__ import annotations

import json
import os
import signal
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from benchmarks.support import corpora, training_data
from benchmarks.support.report import Row, compare
from modeling.checkpoint import CheckpointConfig
from modeling.config.finetune import FinetuneConfig
from modeling.config.network import TransformerConfig
from modeling.config.optimization import OptimizerConfig
from modeling.device import choose, training_environment
from modeling.training.distributed import Ranks
from modeling.training.objectives import Batch, MaskedLM
from modeling.training.state import TrainingRun
from modeling.training.trainer import Trainer
from textmill.progress import quiet
from tokenization.arrays import TokenArrays
from tokenization.formats import load_tokenizer

PEERS = ("ModernBERT", "BERT")
OURS, PACKED, SHIPPED = "ours", "ours, documents apart", ", as shipped"
SPEED = {"layers": 6, "width": 384, "heads": 6, "context": 256, "batch": 8}  # six at a time in 24 GB of memory
QUICK = {"layers": 2, "width": 128, "heads": 2, "context": 128, "batch": 16}
LEARNING = QUICK
VOCABULARY, LEARNING_VOCABULARY = 32_768, 2048  # that of our tokenizer by default (BERT's: 30,522), and a small one
WARM_STEPS, SPEED_STEPS = 2, 12
PEER_STEPS, OUR_STEPS, PEER_RATES = 240, 120, (1e-3, 2e-3)
EVALUATION_TOKENS = 32_768


def run(quick: bool) -> list[Row]:
    """Tokens a second beside each peer, the cost of keeping documents apart, and steps to the peers' loss."""
    documents = corpora.campus(300 if quick else 3000)
    with tempfile.TemporaryDirectory() as temporary:
        data = training_data.build(Path(temporary) / "speed", documents, LEARNING_VOCABULARY if quick else VOCABULARY)
        rows = speed(data.tokens, data.tokenizer, QUICK if quick else SPEED, 2 if quick else SPEED_STEPS)
        if not quick:
            data = training_data.build(Path(temporary) / "learning", documents, LEARNING_VOCABULARY)
            rows += learning(data.tokens, data.tokenizer)
    return rows


def speed(tokens: Path, tokenizer: Path, shape: dict[str, int], steps: int) -> list[Row]:
    """Rows of tokens a second, of contestants that take a step each in turn."""
    names = [OURS, PACKED, *PEERS, *(peer + SHIPPED for peer in PEERS)]
    with ExitStack() as processes:
        contestants = [
            processes.enter_context(Contestant(name, {"tokens": str(tokens), "tokenizer": str(tokenizer), **shape}))
            for name in names
        ]
        for number in range(WARM_STEPS + steps):
            for contestant in contestants:
                contestant.step(counts=number >= WARM_STEPS)
    measured = {contestant.name: contestant for contestant in contestants}
    ours, packed = measured[OURS], measured[PACKED]
    rows = []
    for name in names[2:]:
        goal = ">= 3" if name.endswith(SHIPPED) else ">= 1.7"
        for unit in ("tok/s", "tok/CPU s"):
            rows.append(compare("masked training", unit, ours.rate(unit), measured[name].rate(unit), name, goal=goal))
        rows.append(compare("parameters", "", ours.parameters, measured[name].parameters, name, lower_is_better=True))
    for unit in ("tok/s", "tok/CPU s"):
        rows.append(compare("documents apart", unit, packed.rate(unit), ours.rate(unit), "window", goal=">= 0.9"))
    return rows


def learning(tokens: Path, tokenizer: Path) -> list[Row]:
    """Rows of steps to the loss that each peer ends with."""
    shape = {"tokens": str(tokens), "tokenizer": str(tokenizer), **LEARNING}
    ours = trained(OURS, {**shape, "steps": OUR_STEPS})
    rows = []
    for peer in PEERS:
        curves = [trained(peer, {**shape, "steps": PEER_STEPS, "rate": rate}) for rate in PEER_RATES]
        target = min(curve[-1][1] for curve in curves)
        reached = next((step for step, loss in ours if loss <= target), None)
        goal = f"loss {ours[-1][1]:.3f} after {OUR_STEPS}, its {target:.3f}"
        rows.append(
            compare("steps to its loss", "", reached or float("inf"), PEER_STEPS, peer, goal=goal, lower_is_better=True)
        )
    return rows


# -- contestants, seen from outside ------------------------------------------------------------------------------------


@dataclass
class Contestant:
    """A process that trains, a step whenever it is told to.

    Attributes:
        name: one of ours or of the peers.
        asked: what it trains on, and of which shape.
        parameters: of its model.
    """

    name: str
    asked: dict[str, Any]
    parameters: int = 0
    seconds: list[float] = field(default_factory=list)
    cpu_seconds: list[float] = field(default_factory=list)

    def __enter__(self) -> Contestant:
        self.process = start(self.name, self.asked)
        self.parameters = self.answer()["parameters"]
        return self

    def __exit__(self, *_: object) -> None:
        assert self.process.stdin is not None
        with suppress(BrokenPipeError):
            self.process.stdin.close()
        self.process.wait()

    def answer(self) -> dict[str, Any]:
        """The next object that it prints."""
        assert self.process.stdout is not None
        for line in self.process.stdout:
            if line.startswith("{"):
                return json.loads(line)
        raise SystemExit(f"{self.name} {how_it_ended(self.process)}")

    def step(self, *, counts: bool) -> None:
        """Have it take a step."""
        assert self.process.stdin is not None
        with suppress(BrokenPipeError):  # it has ended, as its answer tells
            self.process.stdin.write("\n")
            self.process.stdin.flush()
        taken = self.answer()
        if counts:
            self.seconds.append(taken["seconds"])
            self.cpu_seconds.append(taken["cpu_seconds"])

    def rate(self, unit: str) -> float:
        """Tokens a second of the clock, or of the CPU: the median."""
        taken = self.seconds if unit == "tok/s" else self.cpu_seconds
        return self.asked["batch"] * self.asked["context"] / statistics.median(taken)


def start(name: str, asked: dict[str, Any]) -> subprocess.Popen[str]:
    """The process of a contestant: with our allocator settings, unless it is a peer as shipped."""
    environment = (dict(os.environ) if name.endswith(SHIPPED) else training_environment()) | {"HF_HUB_OFFLINE": "1"}
    command = [sys.executable, "-m", "benchmarks.mlm", name, json.dumps(asked)]
    return subprocess.Popen(command, env=environment, text=True, stdin=subprocess.PIPE, stdout=subprocess.PIPE)


def how_it_ended(process: subprocess.Popen[str]) -> str:
    """Why a process gave no answer, as far as its exit tells."""
    code = process.wait()
    return "was killed: is there memory for all contestants?" if code == -signal.SIGKILL else "failed: see above"


def trained(name: str, asked: dict[str, Any]) -> list[tuple[int, float]]:
    """Steps and validation losses of a contestant that trains to its end."""
    process = start(name, asked)
    output, _ = process.communicate()
    if process.returncode:
        raise SystemExit(f"{name} {how_it_ended(process)}")
    curve = json.loads(output.splitlines()[-1])["curve"]
    print(f"{name}, {asked.get('rate', '')}: {curve[-1][1]:.4f} after {curve[-1][0]}", file=sys.stderr)
    return curve


# -- contestants, from inside ------------------------------------------------------------------------------------------


def turns() -> Iterator[None]:
    """One for each step that is asked for."""
    for _ in sys.stdin:
        yield


class Stopwatch:
    """Prints what a step took."""

    def start(self) -> None:
        self.started = time.perf_counter(), time.process_time()

    def stop(self) -> None:
        seconds, cpu_seconds = time.perf_counter() - self.started[0], time.process_time() - self.started[1]
        print(json.dumps({"seconds": seconds, "cpu_seconds": cpu_seconds}), flush=True)


def objective(asked: dict[str, Any], **changes: Any) -> MaskedLM:
    """The windows and their hidden tokens."""
    config = FinetuneConfig(batch=asked["batch"], evaluate_tokens=EVALUATION_TOKENS, **changes)
    arrays = [TokenArrays(Path(asked["tokens"]), split) for split in ("train", "validation")]
    return MaskedLM(*arrays, asked["context"], config, load_tokenizer(Path(asked["tokenizer"])))


def our_trainer(asked: dict[str, Any], out: Path, attend: str) -> Trainer:
    """The trainer of our fine-tuning, of random weights and so at the rates of pretraining."""
    steps = asked.get("steps", 1000)
    made = objective(
        asked, attend=attend, steps=steps, evaluate_every=max(1, steps // 12), log_every=steps,
        optimizer=OptimizerConfig().model_dump(), schedule={"warmup": 0},
    )  # fmt: skip
    model_config = TransformerConfig(**{name: asked[name] for name in SPEED if name != "batch"})
    checkpoint_config = CheckpointConfig(model_config, made.masking.vocab_size, "masked", made.config.masking.shift, {})
    torch.manual_seed(0)
    run = TrainingRun(checkpoint_config.build_model(), made, checkpoint_config, made.config, out)
    return Trainer(run, choose(), Ranks(), quiet)


def peer_model(name: str, asked: dict[str, Any], vocab_size: int) -> nn.Module:
    """A masked model of `transformers` of the same shape and as many weights in its blocks."""
    import transformers

    torch.manual_seed(0)
    width = asked["width"]
    fields: dict[str, Any] = {
        "vocab_size": vocab_size, "hidden_size": width, "num_hidden_layers": asked["layers"],
        "num_attention_heads": asked["heads"], "max_position_embeddings": asked["context"],
        "tie_word_embeddings": False,
    }  # fmt: skip
    if name == "BERT":
        return transformers.BertForMaskedLM(transformers.BertConfig(intermediate_size=4 * width, **fields))
    ids = dict.fromkeys(("pad_token_id", "bos_token_id", "eos_token_id", "cls_token_id", "sep_token_id"), 0)
    config = transformers.ModernBertConfig(intermediate_size=8 * width // 3, **fields, **ids)  # gated: 3 matrices
    return transformers.ModernBertForMaskedLM(config)


def labels_of(batch: Batch) -> Tensor:
    """What peers are given as targets: int64 [B, T], -100 where a token is not hidden."""
    assert batch.positions is not None
    return torch.full_like(batch.ids, -100).scatter(1, batch.positions, batch.targets)


def peer_step(model: nn.Module, optimizer: torch.optim.Optimizer, batch: Batch) -> None:
    """A step of a peer in our dtype."""
    with choose().autocast():
        loss = model(input_ids=batch.ids, labels=labels_of(batch)).loss
    loss.backward()
    optimizer.step()
    optimizer.zero_grad(set_to_none=True)


def our_steps(asked: dict[str, Any], attend: str) -> None:
    """Ours, in turn with the others or to its end."""
    with tempfile.TemporaryDirectory() as out:
        trainer, watch = our_trainer(asked, Path(out), attend), Stopwatch()
        if "steps" in asked:
            trainer.run()
            curve = [(line["step"], line["validation_loss"]) for line in trainer.state.evaluations()]
            print(json.dumps({"curve": curve}))
            return
        print(json.dumps({"parameters": sum(p.numel() for p in trainer.state.model.parameters())}), flush=True)
        for _ in turns():
            watch.start()
            trainer.train_step()
            trainer.state.step += 1
            watch.stop()


def peer_steps(name: str, asked: dict[str, Any]) -> None:
    """A peer in our dtype, in turn with the others or to its end."""
    made, watch = objective(asked, shift=False), Stopwatch()
    model = peer_model(name, asked, made.masking.vocab_size).train()
    rate, steps, batch = asked.get("rate", 5e-4), asked.get("steps"), asked["batch"]
    optimizer = torch.optim.AdamW(model.parameters(), lr=rate, betas=(0.9, 0.98), fused=True)
    if steps:
        for step in range(steps):
            for group in optimizer.param_groups:  # a tenth of warm-up, then linear, as BERT is trained
                group["lr"] = rate * min(10 * (step + 1) / steps, 1, (steps - step) / (0.9 * steps))
            peer_step(model, optimizer, made.train_batch(step, batch, range(batch)))
        print(json.dumps({"curve": [(steps, peer_loss(model, made, batch))]}))
        return
    print(json.dumps({"parameters": sum(p.numel() for p in model.parameters())}), flush=True)
    for step, _ in enumerate(turns()):
        watch.start()
        peer_step(model, optimizer, made.train_batch(step, batch, range(batch)))
        watch.stop()


@torch.no_grad()
def peer_loss(model: nn.Module, made: MaskedLM, batch: int) -> float:
    """Nats of the hidden validation tokens."""
    model.eval()

    def at_positions(ids: Tensor, positions: Tensor, documents: None) -> Tensor:
        logits = model(input_ids=ids).logits
        return logits.gather(1, positions.unsqueeze(2).expand(-1, -1, logits.shape[2]))

    with choose().autocast():
        return made.evaluate(at_positions, Ranks(), torch.device("cpu"), batch)["validation_loss"]


def shipped_steps(name: str, asked: dict[str, Any]) -> None:
    """A peer with the Trainer and collator of `transformers`, as their defaults are; in turn with the others."""
    import transformers

    made, watch = objective(asked), Stopwatch()
    files = Path(asked["tokenizer"]) / "tokenizer.json"
    tokenizer = transformers.PreTrainedTokenizerFast(
        tokenizer_file=str(files), mask_token="[MASK]", pad_token="[PAD]"
    )  # fmt: skip
    model = peer_model(name, asked, made.masking.vocab_size)
    windows = made.train.read(0, range(64 * asked["batch"]))

    class Turns(transformers.TrainerCallback):
        def on_step_begin(self, *_: object, **__: object) -> None:
            if not sys.stdin.readline():
                raise EOFError
            watch.start()

        def on_step_end(self, *_: object, **__: object) -> None:
            watch.stop()

    with tempfile.TemporaryDirectory() as out:
        arguments = transformers.TrainingArguments(
            output_dir=out, per_device_train_batch_size=asked["batch"], disable_tqdm=True, report_to=[],
            save_strategy="no", use_cpu=not torch.cuda.is_available(),
        )  # fmt: skip
        trainer = transformers.Trainer(
            model=model, args=arguments, train_dataset=[{"input_ids": window} for window in windows],
            data_collator=transformers.DataCollatorForLanguageModeling(tokenizer), callbacks=[Turns()],
        )  # fmt: skip
        print(json.dumps({"parameters": sum(p.numel() for p in model.parameters())}), flush=True)
        try:
            trainer.train()
        except EOFError:
            return


def main(name: str, asked: dict[str, Any]) -> None:
    """Be a contestant."""
    ways: dict[str, Callable[[], None]] = {
        OURS: lambda: our_steps(asked, "window"), PACKED: lambda: our_steps(asked, "document")
    }  # fmt: skip
    for peer in PEERS:
        ways[peer] = lambda peer=peer: peer_steps(peer, asked)  # type: ignore[misc]
        ways[peer + SHIPPED] = lambda peer=peer: shipped_steps(peer, asked)  # type: ignore[misc]
    ways[name]()


if __name__ == "__main__":
    main(sys.argv[1], json.loads(sys.argv[2]))
