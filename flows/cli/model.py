"""`textmill generate`, `fill`: using a checkpoint."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Annotated

import typer

CheckpointPath = Annotated[
    Path, typer.Argument(metavar="CHECKPOINT", help="Folder that pretrain or finetune wrote, or one in the store")
]
Device = Annotated[str, typer.Option(help="auto, cpu, cuda or mps")]


def register(app: typer.Typer) -> None:
    for command in (generate, fill):
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
    from modeling import generate as use

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
    from modeling import generate as use

    filled = use.fill(use.load(checkpoint, device), text, candidates)
    typer.echo(filled.text)
    for number, guesses in enumerate(filled.candidates, start=1):
        shown = "  ".join(f"{token!r} {share:.1%}" for token, share in guesses)
        typer.echo(f"blank {number}: {shown}")
