"""The rows of a benchmark, as a table and as JSON."""

from __future__ import annotations

import json
import os
import platform
import subprocess
from collections.abc import Iterable
from dataclasses import asdict, dataclass
from pathlib import Path


@dataclass
class Row:
    """One metric of ours beside a peer's. `ratio` above 1 means that ours is better by that factor."""

    name: str
    unit: str
    ours: float
    peer: float | None = None  # None: the peer is not installed, or there is none
    peer_name: str = ""
    ratio: float | None = None
    goal: str = ""


def compare(
    name: str,
    unit: str,
    ours: float,
    peer: float | None,
    peer_name: str,
    *,
    goal: str = "",
    lower_is_better: bool = False,
) -> Row:
    """A row with its ratio worked out."""
    ratio = None if not peer or not ours else peer / ours if lower_is_better else ours / peer
    return Row(name, unit, ours, peer, peer_name, ratio, goal)


def print_table(rows: Iterable[Row]) -> None:
    """The rows for people."""
    from rich.console import Console
    from rich.table import Table

    table = Table("what", "unit", "ours", "peer", "", "ratio", "goal", box=None)
    for row in rows:
        peer = "missing" if row.peer is None and row.peer_name else _number(row.peer)
        table.add_row(
            row.name,
            row.unit,
            _number(row.ours),
            peer,
            row.peer_name,
            f"{row.ratio:.2f}" if row.ratio else "",
            row.goal,
        )
    Console().print(table)


def as_json(benchmark: str, rows: Iterable[Row]) -> str:
    """The rows for programs: one object on one line."""
    return json.dumps(
        {"benchmark": benchmark, "commit": _commit(), "machine": _machine(), "rows": [asdict(row) for row in rows]}
    )


def _number(value: float | None) -> str:
    return "" if value is None else f"{value:,.0f}" if abs(value) >= 100 else f"{value:.3g}"


def _commit() -> str:
    result = subprocess.run(
        ["git", "describe", "--always", "--dirty"], cwd=Path(__file__).parent, capture_output=True, text=True
    )
    return result.stdout.strip() or "unknown"


def _machine() -> str:
    names = [line.partition(":")[2].strip() for line in _lines("/proc/cpuinfo") if line.startswith("model name")]
    return f"{names[0] if names else platform.machine()}, {os.cpu_count()} cores, Python {platform.python_version()}"


def _lines(path: str) -> list[str]:
    return Path(path).read_text().splitlines() if Path(path).exists() else []
