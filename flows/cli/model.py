"""`textmill generate`, `fill`, `follows`, `evaluate`, `export`: using a checkpoint; `plan`: what training one takes."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Annotated, Literal

import typer

from flows.cli.places import local

CheckpointPath = Annotated[
    Path,
    typer.Argument(
        parser=local, metavar="CHECKPOINT", help="Folder that pretrain or finetune wrote, or STORE/STAGE/FINGERPRINT"
    ),
]
Device = Annotated[str, typer.Option(help="auto, cpu, cuda or mps")]


def register(app: typer.Typer) -> None:
    for command in (generate, fill, follows, evaluate, export, plan):
        app.command()(command)


def generate(
    checkpoint: CheckpointPath,
    prompts: Annotated[list[str], typer.Argument(metavar="PROMPT...", help="Several are continued as one batch")],
    max_tokens: Annotated[int, typer.Option("--max-tokens", "-n", help="New tokens at most")] = 200,
    temperature: Annotated[float, typer.Option(help="0 always takes the most probable token")] = 0.8,
    top_k: Annotated[int | None, typer.Option(help="Draw from the k most probable tokens only")] = None,
    top_p: Annotated[float | None, typer.Option(help="Draw from the fewest tokens that reach this probability")] = None,
    stop: Annotated[list[str], typer.Option(help="End before this text; repeatable")] = [],  # noqa: B006 - Typer's way
    seed: Annotated[int, typer.Option(help="The same seed gives the same text")] = 0,
    device: Device = "auto",
) -> None:
    """Continue a text. One prompt is written as it comes, several one below the other."""
    from modeling.inference import generate as use

    loaded = use.load(checkpoint, device)
    sampling = use.Sampling(max_tokens, temperature, top_k, top_p, tuple(stop), seed)
    if len(prompts) > 1:
        for prompt, continuation in zip(prompts, use.generate(loaded, prompts, sampling), strict=True):
            typer.echo(prompt + continuation + "\n")
        return
    typer.echo(prompts[0], nl=False)
    for piece in use.stream(loaded, prompts[0], sampling):
        typer.echo(piece, nl=False)
        sys.stdout.flush()
    typer.echo()


def fill(
    checkpoint: CheckpointPath,
    text: Annotated[str, typer.Argument(metavar="TEXT", help="Text with [MASK] where one token is missing")],
    candidates: Annotated[int, typer.Option(min=1, help="Guesses shown for each blank")] = 5,
    device: Device = "auto",
) -> None:
    """Fill the blanks of a text with a fine-tuned checkpoint."""
    from modeling.inference import generate as use

    filled = use.fill(use.load(checkpoint, device), text, candidates)
    typer.echo(filled.text)
    for number, guesses in enumerate(filled.candidates, start=1):
        shown = "  ".join(f"{token!r} {share:.1%}" for token, share in guesses)
        typer.echo(f"blank {number}: {shown}")


def follows(
    checkpoint: CheckpointPath,
    first: Annotated[str, typer.Argument(metavar="FIRST", help="A sentence")],
    seconds: Annotated[list[str], typer.Argument(metavar="SECOND...", help="Sentences that may follow it")],
    device: Device = "auto",
) -> None:
    """Say how probably sentences follow another, by a checkpoint that was fine-tuned on pairs."""
    from modeling.training.sentence_pairs import follows as judge

    shares = judge(checkpoint, [(first, second) for second in seconds], device)
    for share, second in zip(shares, seconds, strict=True):
        typer.echo(f"{share:6.1%}  {second}")


def evaluate(
    checkpoint: CheckpointPath,
    data: Annotated[
        Path | None,
        typer.Argument(parser=local, metavar="[DATA]", help="Folder of token arrays, or a UTF-8 text file"),
    ] = None,
    split: Annotated[str, typer.Option(help="Split of the token arrays")] = "validation",
    stride: Annotated[
        int | None, typer.Option(min=1, help="Tokens between windows; fewer than the context give each more to go by")
    ] = None,
    limit: Annotated[int | None, typer.Option(min=2, help="Tokens, or examples of a task, at most")] = None,
    tasks: Annotated[
        list[str], typer.Option("--task", help="Task of lm-evaluation-harness instead of DATA; repeatable")
    ] = [],  # noqa: B006
    include: Annotated[Path | None, typer.Option(help="Folder with tasks of your own, in the harness's YAML")] = None,
    device: Device = "auto",
) -> None:
    """Measure a pretrained checkpoint: perplexity and bits per byte on held-out text, or tasks."""
    from textmill.errors import UserError

    if (data is None) == (not tasks):
        raise UserError("give either DATA to measure on, or tasks: textmill evaluate CHECKPOINT --task NAME")
    if tasks:
        _evaluate_tasks(checkpoint, tasks, include, limit, device)
        return
    from modeling.inference.evaluate import evaluate as measure

    figures = measure(checkpoint, data, split, stride, limit, device=device)
    typer.echo(f"{figures['tokens']:,} tokens, {figures['bytes']:,} bytes")
    typer.echo(f"loss           {figures['loss']:.4f} nats a token")
    typer.echo(f"perplexity     {figures['perplexity']:.2f}")
    typer.echo(f"bits per byte  {figures['bits_per_byte']:.4f}")


def _evaluate_tasks(checkpoint: Path, tasks: list[str], include: Path | None, limit: int | None, device: str) -> None:
    from textmill.errors import UserError

    try:
        from modeling.inference.harness import run_tasks
    except ImportError as error:
        raise UserError("tasks need lm-evaluation-harness: pip install 'textmill[lm-eval]'") from error
    for task, figures in run_tasks(checkpoint, tasks, include, limit, device=device).items():
        for name, value in figures.items():
            typer.echo(f"{task}  {name.removesuffix(',none')}  {value:.4f}")


def export(
    checkpoint: CheckpointPath,
    out: Annotated[Path, typer.Argument(metavar="DIR", help="New folder")],
    format: Annotated[Literal["hf"], typer.Option(help="hf: for transformers' from_pretrained")] = "hf",
) -> None:
    """Convert a checkpoint for other programs, with tokenizer and model card."""
    from modeling.inference import export as exporting

    architecture = exporting.export(checkpoint, out)
    note = "" if not (out / exporting.REMOTE_CODE).exists() else "; load it with trust_remote_code=True"
    typer.echo(f"{out}: {architecture}{note}")


def plan(
    config: Annotated[Path, typer.Argument(metavar="CONFIG", help="A pipeline's YAML file, e.g. configs/demo.yaml")],
    gpus: Annotated[str, typer.Option(help="How many of which, e.g. 8xH100")] = "1xH100",
    settings: Annotated[
        list[str], typer.Option("--set", metavar="KEY=VALUE", help="Override one key, e.g. `pretrain.depth=20`")
    ] = [],  # noqa: B006
    mfu: Annotated[float, typer.Option(help="Share of the peak FLOP/s that training reaches")] = 0.4,
    price: Annotated[float | None, typer.Option(help="Dollars a GPU hour; default: a usual price")] = None,
) -> None:
    """Say what pretraining a configuration takes: parameters, tokens, FLOPs, memory, time, and cost."""
    from flows.pipeline.config import load_config, parse_overrides
    from modeling.cost import plan as estimate
    from textmill.errors import UserError
    from tokenization.config import ENCODING_SIZES

    loaded = load_config(config, parse_overrides(settings))
    run, model = loaded.pretrain, loaded.pretrain.model
    vocab_size = loaded.train_tokenizer.planned_size()
    if vocab_size is None:
        raise UserError(
            f"the size of the encoding {loaded.train_tokenizer.encoding!r} is not known here; plan with one of "
            f"{', '.join(ENCODING_SIZES)}, or with --set train_tokenizer.encoding=null and a vocab_size"
        )
    made = estimate(run, vocab_size, gpus, mfu, price)
    verdict = "fits" if made.fits else "does not fit: lower pretrain.micro_batch, or set pretrain.parallel=fsdp"
    step = run.batch * model.context
    gigabytes = 1e9
    lines = {
        "model": f"{model.layers} layers, width {model.width}, {model.heads} heads, context {model.context}, "
        f"vocabulary {vocab_size:,}",
        "parameters": f"{made.parameters:,} ({made.block_parameters:,} in blocks)",
        "training": f"{run.steps:,} steps of {step:,} tokens = {made.tokens:,} tokens, "
        f"{made.tokens / made.parameters:.1f} a parameter",
        "compute": f"{made.flops:.3g} FLOPs, {made.flops_per_token:,} a token",
        "memory": f"{made.memory / gigabytes:.1f} of {made.device_memory / gigabytes:.0f} GB a device: {verdict}",
        "": f"{made.state_memory / gigabytes:.1f} GB weights and optimizer, "
        f"{made.activation_memory / gigabytes:.1f} GB activations of {made.windows_per_device} windows",
        "time": f"{_duration(made.seconds)} on {made.devices}x{made.gpu} at {mfu:.0%} of the peak",
        "cost": f"${made.cost:,.2f}",
    }
    if run.depth:
        rates = ("matrix_lr", "embedding_lr", "head_lr", "weight_decay")
        lines[f"depth {run.depth}"] = ", ".join(f"{rate} {getattr(run.optimizer, rate):g}" for rate in rates)
    for name, line in lines.items():
        typer.echo(f"{name:<12}{line}")


def _duration(seconds: float) -> str:
    for unit, size in (("days", 2 * 86_400), ("hours", 2 * 3600), ("minutes", 2 * 60)):
        if seconds >= size:
            return f"{seconds / (size / 2):.1f} {unit}"
    return f"{seconds:.1f} seconds"
