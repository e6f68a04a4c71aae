"""`textmill status`: what a store holds, in which state, and what a run would do."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from itertools import groupby
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer
from rich.box import HORIZONTALS
from rich.markup import escape
from rich.table import Table

from flows.cli.blocks import wide_console
from flows.cli.document import AsJson, print_document, steps_of
from flows.cli.pipeline import COLORS, Overrides

if TYPE_CHECKING:
    from flows.pipeline.inventory import Item
    from flows.pipeline.plan import Step
    from flows.store.local import Store

STATES = {
    "whole": "[green]●[/] whole", "incomplete": "[yellow]◐[/] incomplete", "damaged": "[red]✗[/] damaged",
    "stale": "[yellow]○[/] stale", "building": "[cyan]▶[/] building", "interrupted": "[yellow]‖[/] interrupted",
    "missing": "[dim]·[/] missing",
}  # fmt: skip
STATE_WIDTH = 13  # columns of the longest state; what a snapshot lacks goes on below it
WIDE, NARROW = 110, 72  # columns of a terminal with room for everything, and for the sizes


def register(app: typer.Typer) -> None:
    app.command()(status)


def status(
    config: Annotated[
        Path | None, typer.Argument(metavar="[CONFIG]", help="Also say what a run of this configuration would do")
    ] = None,
    overrides: Overrides = [],  # noqa: B006
    store: Annotated[str, typer.Option(help="The store, where no CONFIG names one: a folder or a URL")] = "store",
    as_json: AsJson = False,
) -> None:
    """Show what a store holds, stage by stage: its state, age and size, and with CONFIG what a run would do, and why.

    States: whole, incomplete (intact, but less than was asked for), damaged, stale (a run makes it anew), building
    (now, on this machine), interrupted (a run goes on from there), missing.
    """
    from flows.pipeline.config import parse_overrides
    from flows.pipeline.inventory import inventory
    from flows.pipeline.request import RunRequest
    from flows.store.open import open_store

    request = RunRequest.load(config, parse_overrides(overrides)) if config else None
    opened = request.store if request else open_store(store)
    steps = request.steps if request else []
    items = inventory(opened, steps)
    if as_json:
        print_document(_document(opened, items) | ({"plan": steps_of(steps)} if request else {}))
        return
    console = wide_console()
    if items:
        console.print(_table(items, console.width, title=f"Store {opened.location}", planned=request is not None))
        console.print(_totals(items), style="dim")
    else:
        console.print(f"The store {opened.location} holds nothing yet.", markup=False, soft_wrap=True)
    console.print(
        *(_next_run(config, steps) if config else _hints(bool(items))), soft_wrap=True, markup=False, sep="\n"
    )


def _document(store: Store, items: Sequence[Item]) -> dict[str, Any]:
    from flows.store.local import now

    return {
        "store": store.location,
        "bytes": sum(item.size for item in items),
        "artifacts": [
            {
                "stage": item.stage,
                "title": item.title,
                "fingerprint": item.fingerprint,
                "state": item.state,
                "detail": item.detail,
                "bytes": item.size,
                "changed": item.changed,
                "age": round((now() - item.changed).total_seconds()),
                "seconds": item.seconds,
                "pipeline": item.pipeline,
                "action": item.step.action if item.step else None,
                "reason": item.step.reason if item.step else None,
            }
            for item in items
            if item.changed
        ],
    }


def _table(items: Sequence[Item], width: int, title: str, *, planned: bool) -> Table:
    """One row an item, the stages apart; in a narrow terminal what can be spared goes first."""
    columns = {
        "stage": True,
        "state": True,
        "age": True,
        "size": width >= NARROW,
        "made for": width >= WIDE,
        "fingerprint": width >= WIDE or not planned,
        "a run would": planned,
    }
    table = Table(
        title=escape(title), title_justify="left", title_style="bold", box=HORIZONTALS, show_edge=False, pad_edge=False
    )
    for column in (name for name, shown in columns.items() if shown):
        right = column in ("age", "size")
        table.add_column(
            column,
            justify="right" if right else "left",
            no_wrap=right,
            min_width=STATE_WIDTH if column == "state" else None,
            max_width=max(STATE_WIDTH, width // 4) if column == "state" else None,
            overflow="fold",
        )
    for _, of_stage in groupby(items, key=lambda item: item.stage):
        for item in of_stage:
            row = _row(item)
            table.add_row(*(row[name] for name, shown in columns.items() if shown))
        table.add_section()
    return table


def _row(item: Item) -> dict[str, str]:
    from flows.store.local import now
    from textmill.progress import duration

    step = item.step
    would = f"[{COLORS[step.action]}]{step.action}[/]: {escape(step.reason)}" if step else "[dim]not use it[/]"
    return {
        "stage": escape(item.title),
        "state": STATES[item.state] + (f": {escape(item.detail)}" if item.detail else ""),
        "age": duration((now() - item.changed).total_seconds()) if item.changed else "",
        "size": f"{item.size / 1e6:,.1f} MB" if item.changed else "",
        "made for": escape(item.pipeline),
        "fingerprint": f"[dim]{item.fingerprint or ''}[/]",
        "a run would": would,
    }


def _totals(items: Sequence[Item]) -> str:
    held = [item for item in items if item.changed]
    counts = {state: sum(item.state == state for item in held) for state in STATES}
    told = ", ".join(f"{count} {state}" for state, count in counts.items() if count)
    return f"{told or 'nothing'}; {sum(item.size for item in held) / 1e6:,.1f} MB"


def _next_run(config: Path, steps: Sequence[Step]) -> Iterator[str]:
    counts = {action: sum(step.action == action for step in steps) for action in COLORS}
    told = {"reuse": "reuse", "build": "build", "build?": "perhaps build", "skip": "skip"}
    yield f"textmill run {config} would " + ", ".join(
        f"{told[action]} {count}" for action, count in counts.items() if count
    )
    for step in steps:
        if step.action == "skip":
            yield f"  skip {step.title}: {step.reason}"


def _hints(holds_something: bool) -> Iterator[str]:
    configs = sorted(Path("configs").glob("*.yaml"))
    if not configs:
        yield "There is no configs/*.yaml here; another store is shown with --store FOLDER-OR-URL"
    for config in configs:
        yield f"What a run would do: textmill {'status' if holds_something else 'run --dry-run'} {config}"
