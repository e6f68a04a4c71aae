"""`textmill run` and `textmill status`."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer
from rich.console import Console
from rich.markup import escape
from rich.table import Table

if TYPE_CHECKING:
    from flows.engine.stage import Outcome
    from flows.pipeline.plan import Step
    from flows.store.local import Artifact
    from flows.store.manifest import Name

ConfigPath = Annotated[Path, typer.Argument(metavar="CONFIG", help="A pipeline's YAML file, e.g. configs/demo.yaml")]
Overrides = Annotated[
    list[str],
    typer.Option("--set", metavar="KEY=VALUE", help="Override one key, e.g. `pretrain.steps=200`; repeatable"),
]
COLORS = {"reuse": "green", "build": "yellow", "build?": "cyan", "skip": "dim"}


def register(app: typer.Typer) -> None:
    app.command()(run)
    app.command()(status)


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
) -> None:
    """Run a pipeline: build what is not in the store, reuse the rest.

    Stages: scrape, ingest, prepare, train_tokenizer, pretokenize, pairs, pretrain, finetune, report.
    A run that was killed continues where it was when it is started again.
    """
    from flows.pipeline.config import parse_overrides
    from flows.pipeline.request import RunRequest
    from flows.pipeline.selection import Selection

    selection = Selection(force=frozenset(force), start=start, only=only, build_missing=build_missing, verify=verify)
    request = RunRequest.load(config, parse_overrides(overrides), selection)
    if dry_run:
        print_steps(request.steps, request.config.name)
        return
    request.check()  # a mistake should not have to wait for a Prefect server to start

    from flows.service.flows import start_run

    _print_outcomes(start_run(request))


def status(
    config: Annotated[
        Path | None, typer.Argument(metavar="[CONFIG]", help="Also say what a run of this configuration would reuse")
    ] = None,
    overrides: Overrides = [],  # noqa: B006
    store: Annotated[str, typer.Option(help="The store, where no CONFIG names one: a folder or a URL")] = "store",
) -> None:
    """List the artifacts of a store, and what a run would reuse or build."""
    from flows.pipeline.config import parse_overrides
    from flows.pipeline.request import RunRequest
    from flows.store.open import open_store

    request = RunRequest.load(config, parse_overrides(overrides)) if config else None
    steps = request.steps if request else []
    reused = {step.artifact.name for step in steps if step.artifact}
    artifacts = open_store(request.config.store if request else store).artifacts()
    _print_artifacts(artifacts, reused, marked=request is not None)
    if request:
        print_steps(steps, request.config.name)


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
        fingerprint = step.artifact.manifest.fingerprint if step.artifact else ""
        table.add_row(escape(step.title), f"[{color}]{step.action}[/]", escape(step.reason), fingerprint)
    Console().print(table)


def _print_artifacts(artifacts: Iterable[Artifact], reused: set[Name], *, marked: bool) -> None:
    table = Table(title="Artifacts", title_justify="left")
    for column in ("stage", "made for", "fingerprint", "MB", "built (UTC)", "s"):
        table.add_column(column, justify="right" if column in ("MB", "s") else "left")
    if marked:
        table.add_column("now")
    for artifact in artifacts:
        manifest = artifact.manifest
        row = [
            escape(manifest.title), escape(manifest.pipeline), manifest.fingerprint,
            f"{manifest.size / 1e6:,.1f}", f"{manifest.finished:%Y-%m-%d %H:%M}", f"{manifest.seconds:,.1f}",
        ]  # fmt: skip
        if marked:
            damage = artifact.damage()
            row.append(f"[red]{escape(damage)}[/]" if damage else "[green]reused[/]" if artifact.name in reused else "")
        table.add_row(*row)
    Console().print(table)
