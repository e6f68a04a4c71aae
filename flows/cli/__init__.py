"""The command line. Commands import what they need when they run, so that `--help` and mistakes answer at once.

    project      init, compile
    pipeline     run
    status       status
    corpus       what is in a corpus, and why the rest is not
    artifacts    reproduce, fetch, verify, gc
    model        generate, fill, next-sentence, questions, answer, evaluate, export, import, cost
    vectors      embed, neighbors
    experiment   the project's claims put to the test
    service      up, deploy, worker, doctor
    source       declared web sites: list, check, new
    tokenizer    train, use, compare and convert tokenizers
    arrays       tokenizer arrays: from and for other trainers
    document     --json
    blocks       what a stage's page or the corpus shows, in a terminal
    progress     a bar for commands that take long
    places       arguments: folders that may also be artifacts of a remote store, and texts

Each file registers its commands; `main` is the entry point.
"""

from __future__ import annotations

import os
import signal
import sys
import traceback

import typer

from flows.cli import (
    artifacts,
    corpus,
    experiment,
    model,
    pipeline,
    project,
    service,
    source,
    status,
    tokenizer,
    vectors,
)

app = typer.Typer(
    name="textmill",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
    rich_markup_mode="markdown",
    help="Turn web text into language models: scrape, tokenize, pretrain and fine-tune as one Prefect pipeline.",
)
project.register(app)
pipeline.register(app)
status.register(app)
corpus.register(app)
experiment.register(app)
artifacts.register(app)
service.register(app)
model.register(app)
vectors.register(app)
app.add_typer(source.app, name="source", help="Declared web sites: list, try out, add.")
app.add_typer(tokenizer.app, name="tokenizer", help="Train, use, compare and convert tokenizers.")


def main() -> None:
    """Entry point of `textmill`. A user's mistake is one line on stderr and exit code 2."""
    from textmill.errors import UserError
    from textmill.secrets import mask, mask_logs

    mask_logs()

    # As an exception, so that a training child saves a checkpoint and Prefect stops the server it started.
    signal.signal(signal.SIGTERM, lambda number, frame: sys.exit(128 + number))
    try:
        app()
    except UserError as error:
        print(f"textmill: {error}", file=sys.stderr)
        sys.exit(2)
    except BrokenPipeError:  # `textmill status | head`
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        sys.exit(1)
    except Exception:  # told as Python tells it, but for the secrets
        sys.stderr.write(mask(traceback.format_exc()))
        sys.exit(1)
