"""Blocks of `flows.engine.page` in a terminal."""

from __future__ import annotations

import os
import re
from collections.abc import Iterable

from rich.box import HORIZONTALS
from rich.console import Console
from rich.markup import escape
from rich.table import Table as Grid

from flows.engine.page import Bars, Block, Sample, Table, Text, Tokens

UNFOLDED = 200
BAR = 30  # cells
_CONTROL = re.compile(r"[\x00-\x08\x0b-\x1f\x7f-\x9f]")


def wide_console() -> Console:
    """Lines are folded where there is a terminal; a pipe, or a file, has no width."""
    console = Console()
    return console if console.is_terminal or "COLUMNS" in os.environ else Console(width=UNFOLDED)


def print_title(console: Console, title: str) -> None:
    """A line that begins a part."""
    console.rule(_plain(title), align="left")


def print_blocks(console: Console, blocks: Iterable[Block]) -> None:
    """Draw blocks one after the other; texts stay text."""
    for block in blocks:
        match block:
            case Table(head, rows):
                console.print(_grid(head, rows), "")
            case Bars(title, counts, unit):
                most = max(counts.values(), default=0)
                ordered = sorted(counts.items(), key=lambda item: (-item[1], item[0]))
                rows = [(name, count, "█" * round(BAR * count / most)) for name, count in ordered if most]
                console.print(_grid((title, unit or "number", ""), rows))
            case Text(text):
                console.print(_plain(text), highlight=False)
            case Sample(title, text, url):
                console.print(
                    f"\n[bold]{_plain(title)}[/]" + (f"\n[dim]{_plain(url)}[/]" if url else ""), soft_wrap=True
                )
                _print_text(console, text)
            case Tokens(title, tokens):
                console.print(f"\n[bold]{_plain(title)}[/]")
                _print_text(console, "│".join(token for token, _ in tokens))


def _print_text(console: Console, text: str) -> None:
    for line in text.splitlines():
        console.print(f"  [dim]|[/] {_plain(line)}", soft_wrap=True, highlight=False)


def _plain(text: str) -> str:
    """Text from a page as it is: neither markup nor the terminal's own commands."""
    return escape(_CONTROL.sub("\N{REPLACEMENT CHARACTER}", text))


def _grid(head: Iterable[str], rows: Iterable[Iterable[object]]) -> Grid:
    from flows.stages.html import number

    table = [list(row) for row in rows]
    grid = Grid(box=HORIZONTALS, show_edge=False, pad_edge=False)
    for place, name in enumerate(head):
        is_number = bool(table) and isinstance(table[0][place], int | float)
        grid.add_column(escape(name), justify="right" if is_number else "left", no_wrap=is_number, overflow="fold")
    for row in table:
        grid.add_row(*(_plain(number(cell)) for cell in row))
    return grid
