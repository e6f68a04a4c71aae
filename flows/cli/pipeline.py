"""`textmill run` and `textmill status`."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer
from rich.console import Console
from rich.markup import escape
from rich.table import Table

if TYPE_CHECKING:
    from flows.pipeline.chain import Selection
    from flows.pipeline.config import PipelineConfig
    from flows.pipeline.plan import Step
    from flows.store.local import Artifact, Name

ConfigPath = Annotated[Path, typer.Argument(metavar="CONFIG", help="A pipeline's YAML file, e.g. configs/demo.yaml")]
Settings = Annotated[
    list[str],
    typer.Option("--set", metavar="KEY=VALUE", help="Override one key, e.g. `pretrain.steps=200`; repeatable"),
]
COLOURS = {"reuse": "green", "build": "yellow", "build?": "cyan", "skip": "dim"}


def register(app: typer.Typer) -> None:
    app.command()(run)
    app.command()(status)


def run(
    config: ConfigPath,
    settings: Settings = [],  # noqa: B006 - Typer's way
    only: Annotated[
        str | None, typer.Option(metavar="STAGE", help="Run this stage alone, on what the store holds of earlier ones")
    ] = None,
    start: Annotated[
        str | None, typer.Option("--from", metavar="STAGE", help="Build this stage and everything after it again")
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
    from flows.pipeline.chain import Selection
    from flows.pipeline.config import load_config, parse_settings
    from flows.pipeline.plan import plan

    chosen = Selection(force=frozenset(force), start=start, only=only, verify=verify)
    given = parse_settings(settings)
    loaded = load_config(config, given)
    if dry_run:
        print_steps(plan(loaded, chosen), loaded.name)
    else:
        _run(config, given, loaded, chosen)


def status(
    config: Annotated[
        Path | None, typer.Argument(metavar="[CONFIG]", help="Also say what a run of this configuration would reuse")
    ] = None,
    settings: Settings = [],  # noqa: B006
    store: Annotated[str, typer.Option(help="The store, where no CONFIG names one: a folder or a URL")] = "store",
) -> None:
    """List the artifacts of a store, and what a run would reuse or build."""
    from flows.pipeline.config import load_config, parse_settings
    from flows.pipeline.plan import plan
    from flows.store.local import open_store

    loaded = load_config(config, parse_settings(settings)) if config else None
    steps = plan(loaded) if loaded else []
    reused = {step.artifact.name for step in steps if step.artifact}
    _print_artifacts(open_store(loaded.store if loaded else store).artifacts(), reused, marked=loaded is not None)
    if loaded:
        print_steps(steps, loaded.name)


def _run(path: Path, settings: dict[str, Any], config: PipelineConfig, selection: Selection) -> None:
    from flows.pipeline.plan import plan
    from flows.store.local import open_store

    # The flow looks at its plan as well, but a mistake should not have to wait for a Prefect server to start.
    open_store(config.store).check_writable()
    plan(config, selection)

    from flows.service.flows import PipelineForm, pipeline, stage_flow

    form = PipelineForm.of(settings)
    if selection.only:
        force = selection.only in selection.force or selection.only == selection.start
        alone = stage_flow(selection.only)
        state = alone(str(path), form, force=force, verify=selection.verify, return_state=True)
    else:
        force, start = sorted(selection.force), selection.start
        state = pipeline(str(path), form, force=force, start=start, verify=selection.verify, return_state=True)
    _print_outcome(state.result())


def _print_outcome(built: list[tuple[Artifact, bool]]) -> None:
    from flows.pipeline.chain import STAGES

    table = Table(title="Result", title_justify="left")
    for column, justify in (("stage", "left"), ("", "left"), ("s", "right"), ("what came out", "left")):
        table.add_column(column, justify=justify)
    for artifact, reused in built:
        manifest = artifact.manifest
        action = "[green]reused[/]" if reused else "[yellow]built[/]"
        headline = STAGES[manifest.stage].headline(artifact.stats)
        title = f"{manifest.stage} {manifest.label}".strip()
        table.add_row(escape(title), action, f"{manifest.seconds:,.1f}", escape(headline))
    console = Console()
    console.print(table)
    for artifact, _ in built:
        if "index.html" in artifact.manifest.files:
            page = artifact.path / "index.html"
            where = page if page.exists() else f"textmill fetch {artifact.location}"
            console.print(f"Report: {where}", soft_wrap=True, markup=False)


def print_steps(steps: Iterable[Step], name: str) -> None:
    table = Table(title=escape(f"Plan of {name}"), title_justify="left")
    for column in ("stage", "action", "why", "fingerprint"):
        table.add_column(column, overflow="fold")
    for step in steps:
        colour = COLOURS[step.action]
        fingerprint = step.artifact.manifest.fingerprint if step.artifact else ""
        table.add_row(escape(step.title), f"[{colour}]{step.action}[/]", escape(step.reason), fingerprint)
    Console().print(table)


def _print_artifacts(artifacts: Iterable[Artifact], reused: set[Name], *, marked: bool) -> None:
    table = Table(title="Artifacts", title_justify="left")
    for column, justify in (
        ("stage", "left"), ("made for", "left"), ("fingerprint", "left"), ("MB", "right"), ("built (UTC)", "left"),
        ("s", "right"),
    ):  # fmt: skip
        table.add_column(column, justify=justify)
    if marked:
        table.add_column("now")
    for artifact in artifacts:
        manifest = artifact.manifest
        row = [
            escape(f"{manifest.stage} {manifest.label}".strip()), escape(manifest.pipeline), manifest.fingerprint,
            f"{manifest.size / 1e6:,.1f}", f"{manifest.finished:%Y-%m-%d %H:%M}", f"{manifest.seconds:,.1f}",
        ]  # fmt: skip
        if marked:
            damage = artifact.damage()
            row.append(f"[red]{escape(damage)}[/]" if damage else "[green]reused[/]" if artifact.name in reused else "")
        table.add_row(*row)
    Console().print(table)
