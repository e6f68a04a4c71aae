"""`textmill up`: the service on one machine; `deploy` and `worker`: its parts; `doctor`: what is missing for it."""

from __future__ import annotations

import signal
import socket
import sys
from collections.abc import Callable
from dataclasses import asdict
from pathlib import Path
from typing import Annotated

import typer

from flows.cli.document import AsJson, print_document


def register(app: typer.Typer) -> None:
    for command in (up, deploy, worker, doctor):
        app.command()(command)


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
    from flows.service import server

    _until_stopped(lambda: server.up(host, port, database, typer.echo))


def deploy(
    trainings: Annotated[
        int | None,
        typer.Option(min=1, help="Trainings at once on all machines; at first as many as this one has GPUs, or 1"),
    ] = None,
    prune: Annotated[
        bool | None,
        typer.Option(help="Remove deployments that are not declared any more; on a terminal, ask if left out"),
    ] = None,
    folder: Annotated[
        str | None,
        typer.Option(help="Where workers find the project, e.g. '{{ $TEXTMILL_PROJECT }}'; this folder if left out"),
    ] = None,
    gpu_variables: Annotated[
        list[str], typer.Option("--gpu-variable", metavar="KEY=VALUE", help="Job variable of trainings; repeatable")
    ] = [],  # noqa: B006 - Typer's way
) -> None:
    """Put work pool, limits, automations and deployments on the server that PREFECT_API_URL names.

    The deployments follow from the files of the project in the working directory: each pipeline in configs/, a crawl
    for each source, each stage, each experiment. What was switched on or off in the UI stays so. A work pool of another
    type (Docker, Kubernetes) is made before, with `prefect work-pool create`; it stays as it is.
    """
    from flows.pipeline.config import parse_overrides
    from flows.service import deploying

    def remove(titles: list[str]) -> bool:
        if prune is not None or not sys.stdin.isatty():
            return bool(prune)
        return typer.confirm(f"Not declared any more: {', '.join(titles)}. Remove from the server?")

    options = deploying.DeployOptions(trainings, remove, folder, parse_overrides(gpu_variables))
    deploying.deploy(options, typer.echo)


def worker(
    queues: Annotated[
        list[str], typer.Option("--queue", metavar="QUEUE", help="cpu or gpu; repeatable; all if left out")
    ] = [],  # noqa: B006 - Typer's way
    name: Annotated[
        str | None, typer.Option(help="Tells the workers of one machine apart; the machine's name if left out")
    ] = None,
) -> None:
    """Run what is due at the server that PREFECT_API_URL names, until Ctrl-C.

    Stopping cancels this worker's runs: a training saves its checkpoint first, and a retry continues there.
    """
    from flows.service import server

    _until_stopped(lambda: server.work(name or socket.gethostname(), queues, typer.echo))


def _until_stopped(serve: Callable[[], None]) -> None:
    # SIGINT and SIGTERM alike. SIGINT is set explicitly because shells start background jobs with it ignored, and their
    # children inherit that: a Prefect worker then does not stop at all.
    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, signal.default_int_handler)
    try:
        serve()
    except KeyboardInterrupt:
        typer.echo("Stopped")


def doctor(
    config: Annotated[
        Path | None, typer.Option(help="The configuration whose store is looked at; the project's first if left out")
    ] = None,
    as_json: AsJson = False,
) -> None:
    """Check what Textmill needs on this machine, and say what to do about what is missing."""
    from rich.console import Console
    from rich.markup import escape

    from flows.service.doctor import examine

    console = Console(highlight=False, soft_wrap=True)
    marks = {"ok": "[green]ok     [/]", "note": "[yellow]note   [/]", "problem": "[red]problem[/]"}
    findings = []
    for finding in examine(config):
        findings.append(finding)
        if as_json:
            continue
        console.print(f"{marks[finding.status]}  {finding.subject:<12} {escape(finding.what)}")
        if finding.remedy:
            console.print(f"                       → {escape(finding.remedy)}")
    if as_json:
        print_document([asdict(finding) for finding in findings])
    if any(finding.status == "problem" for finding in findings):
        raise typer.Exit(1)
