"""`textmill run`, and how its plan is printed."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer
from rich.console import Console
from rich.markup import escape
from rich.table import Table

from flows.cli.document import AsJson, print_document, steps_of

if TYPE_CHECKING:
    from flows.engine.stage import Outcome
    from flows.pipeline.plan import Step

ConfigPath = Annotated[Path, typer.Argument(metavar="CONFIG", help="A pipeline's YAML file, e.g. configs/demo.yaml")]
Overrides = Annotated[
    list[str],
    typer.Option("--set", metavar="KEY=VALUE", help="Override one key, e.g. `pretrain.steps=200`; repeatable"),
]
COLORS = {"reuse": "green", "build": "yellow", "build?": "cyan", "skip": "dim"}


def register(app: typer.Typer) -> None:
    app.command()(run)


def run(
    config: ConfigPath,
    overrides: Overrides = [],  # noqa: B006 - Typer's way
    only: Annotated[
        str | None, typer.Option(metavar="STAGE", help="Run this stage alone, on what the store holds of earlier ones")
    ] = None,
    build_missing: Annotated[
        bool, typer.Option("--build-missing", help="With --only: also build what the store lacks of earlier stages")
    ] = False,
    start: Annotated[
        str | None, typer.Option("--from", metavar="STAGE", help="Build this stage and all that is made from it again")
    ] = None,
    force: Annotated[
        list[str],
        typer.Option(metavar="STAGE", help="Build this stage again; what follows only if it comes out different"),
    ] = [],  # noqa: B006
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Print what would be reused or built, and why")] = False,
    verify: Annotated[bool, typer.Option(help="Compare the SHA-256 of every file before reusing it")] = False,
    as_json: AsJson = False,
) -> None:
    """Run a pipeline: build what is not in the store, reuse the rest.

    Stages: scrape, ingest, prepare, import_checkpoint, train_tokenizer, pretokenize, pairs, text_pairs, questions,
    pretrain, finetune, answering, report.
    A run that was killed continues where it was when it is started again.
    """
    from flows.pipeline.config import parse_overrides
    from flows.pipeline.request import RunRequest
    from flows.pipeline.selection import Selection

    selection = Selection(force=frozenset(force), start=start, only=only, build_missing=build_missing, verify=verify)
    request = RunRequest.load(config, parse_overrides(overrides), selection)
    if dry_run:
        if as_json:
            print_document(
                {"pipeline": request.config.name, "store": request.config.store, "plan": steps_of(request.steps)}
            )
        else:
            print_steps(request.steps, request.config.name)
        return
    request.check()  # a mistake should not have to wait for a Prefect server to start

    from flows.service.embedded import served
    from flows.service.flows import start_run

    with served():
        outcomes = start_run(request)
    if as_json:
        print_document({"pipeline": request.config.name, "store": request.config.store, "result": results_of(outcomes)})
    else:
        _print_outcomes(outcomes)


def results_of(outcomes: Iterable[Outcome]) -> list[dict[str, Any]]:
    """What came of a run, as `--json` shows it."""
    return [
        {
            "stage": outcome.stage.name,
            "title": outcome.artifact.title,
            "action": "reuse" if outcome.reused else "build",
            "fingerprint": outcome.artifact.manifest.fingerprint,
            "location": outcome.artifact.location,
            "headline": outcome.headline,
            "seconds": outcome.artifact.manifest.seconds,
            "bytes": outcome.artifact.manifest.size,
            "stats": outcome.artifact.stats,
        }
        for outcome in outcomes
    ]


def _print_outcomes(outcomes: list[Outcome]) -> None:
    table = Table(title="Result", title_justify="left")
    for column in ("stage", "", "s", "what came out"):
        table.add_column(column, justify="right" if column == "s" else "left")
    for outcome in outcomes:
        action = "[green]reused[/]" if outcome.reused else "[yellow]built[/]"
        manifest = outcome.artifact.manifest
        table.add_row(escape(manifest.title), action, f"{manifest.seconds:,.1f}", escape(outcome.headline))
    console = Console()
    console.print(table)
    for artifact in (outcome.artifact for outcome in outcomes):
        if "index.html" in artifact.manifest.files:
            page = artifact.path / "index.html"
            where = page if page.exists() else f"textmill fetch {artifact.location}"
            console.print(f"Report: {where}", soft_wrap=True, markup=False)


def print_steps(steps: Iterable[Step], name: str) -> None:
    table = Table(title=escape(f"Plan of {name}"), title_justify="left")
    for column in ("stage", "action", "why", "fingerprint"):
        table.add_column(column, overflow="fold")
    for step in steps:
        color = COLORS[step.action]
        table.add_row(escape(step.title), f"[{color}]{step.action}[/]", escape(step.reason), step.fingerprint)
    Console().print(table)
