"""`textmill up`: the service on one machine; `textmill doctor`: what is missing for it."""

from __future__ import annotations

import signal
from pathlib import Path
from typing import Annotated

import typer


def register(app: typer.Typer) -> None:
    app.command()(up)
    app.command()(doctor)


def up(
    host: Annotated[str, typer.Option(help="Address to serve on; 127.0.0.1 is reached from this machine only")] = (
        "127.0.0.1"
    ),
    port: Annotated[int, typer.Option(help="Port of the UI and the API")] = 4200,
    database: Annotated[
        str | None,
        typer.Option(metavar="URL", help="postgresql+asyncpg://user:password@host/name; SQLite if left out"),
    ] = None,
) -> None:
    """Serve schedules, re-runs and the Prefect UI: server, deployments and a worker, until Ctrl-C.

    Stopping cancels the runs under way: a training saves its checkpoint first, and a retry continues there.
    """
    from flows import service

    signal.signal(signal.SIGTERM, signal.default_int_handler)  # a service manager's stop is a Ctrl-C
    try:
        service.run(host, port, database, lambda line: typer.echo(line))
    except KeyboardInterrupt:
        typer.echo("Stopped")


def doctor(
    config: Annotated[Path, typer.Option(help="The configuration whose store and sources are looked at")] = Path(
        "configs/demo.yaml"
    ),
) -> None:
    """Check what Textmill needs on this machine, and say what to do about what is missing."""
    from rich.console import Console
    from rich.markup import escape

    from flows.doctor import examine

    console = Console(highlight=False, soft_wrap=True)
    marks = {"ok": "[green]ok     [/]", "note": "[yellow]note   [/]", "problem": "[red]problem[/]"}
    findings = []
    for finding in examine(config):
        findings.append(finding)
        console.print(f"{marks[finding.verdict]}  {finding.subject:<12} {escape(finding.what)}")
        if finding.remedy:
            console.print(f"                       → {escape(finding.remedy)}")
    if any(finding.verdict == "problem" for finding in findings):
        raise typer.Exit(1)
