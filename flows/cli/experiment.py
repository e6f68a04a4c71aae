"""`textmill experiment`."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer
from rich.console import Console
from rich.markup import escape
from rich.table import Table

from flows.cli.document import AsJson, print_document, steps_of
from flows.cli.pipeline import Overrides, print_steps

if TYPE_CHECKING:
    from flows.engine.stage import Outcome


def register(app: typer.Typer) -> None:
    app.command()(experiment)


def experiment(
    name: Annotated[str | None, typer.Argument(metavar="[NAME]", help="Which one; without, they are listed")] = None,
    config: Annotated[
        Path | None, typer.Argument(metavar="[CONFIG]", help="The pipeline whose settings the variants change")
    ] = None,
    overrides: Overrides = [],  # noqa: B006
    seeds: Annotated[int, typer.Option(help="Train every variant so many times, each with another seed")] = 1,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Print what would be reused or built, and why")] = False,
    as_json: AsJson = False,
) -> None:
    """Put one of the project's claims to the test: train its variants and compare them."""
    if name is None:
        _list(as_json=as_json)
        return
    from flows.pipeline.config import parse_overrides
    from flows.pipeline.experiment import plan_experiment
    from flows.pipeline.project import Project

    given = parse_overrides(overrides)
    config = config or Path(Project.open().main)
    runs = plan_experiment(name, config, given, seeds)
    if dry_run and as_json:
        plans = [{"variant": run.variant, "seed": run.seed, "plan": steps_of(run.request.steps)} for run in runs]
        print_document({"experiment": name, "runs": plans})
        return
    if dry_run:
        for run in runs:
            print_steps(run.request.steps, run.title)
        return

    from flows.service.embedded import served
    from flows.service.experiment import experiment as flow
    from flows.service.form import checked

    checked(given)
    with served():
        state: Any = flow(name=name, seeds=seeds, overrides=given, config=str(config), return_state=True)
        outcome: Outcome = state.result()  # that of the comparison
    if as_json:
        print_document({"experiment": name, "location": outcome.artifact.location, **outcome.artifact.stats})
        return
    _print_result(outcome.artifact.stats)
    Console().print(f"Page: {outcome.artifact.location}/index.html", soft_wrap=True)


def _list(*, as_json: bool) -> None:
    from experiments import NAMES, load

    if as_json:
        print_document([{"experiment": name, "claim": load(name).claim} for name in NAMES])
        return
    table = Table("experiment", "claim", box=None)
    for name in NAMES:
        table.add_row(name, escape(load(name).claim))
    Console().print(table)


def _print_result(stats: dict[str, Any]) -> None:
    table = Table(title=escape(f"{stats['claim']}\nThe claim {stats['conclusion']}."), title_justify="left")
    table.add_column("variant")
    for column in (stats["metric"].replace("_", " "), "seed by seed"):
        table.add_column(column, justify="right")
    for variant, values in stats["variants"].items():
        seeds = " · ".join(f"{value:.4g}" for value in values["seeds"])
        table.add_row(variant, f"{values['mean']:.4g}", seeds)
    Console().print(table)
