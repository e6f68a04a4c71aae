"""`--json`: one JSON document on standard output, and nothing else there, for scripts.

The names of the fields stay. Sizes are bytes, times are UTC in ISO 8601, durations are seconds.
"""

from __future__ import annotations

import json
from collections.abc import Iterable
from datetime import datetime
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

if TYPE_CHECKING:
    from flows.pipeline.plan import Step

AsJson = Annotated[
    bool, typer.Option("--json", help="Print one JSON document on standard output, and nothing else there")
]


def print_document(document: dict[str, Any] | list[Any]) -> None:
    """Write the document to standard output, whatever the terminal's width is."""
    typer.echo(json.dumps(document, indent=1, ensure_ascii=False, default=_plain))


def steps_of(steps: Iterable[Step]) -> list[dict[str, Any]]:
    """A plan, as `--json` shows it everywhere."""
    return [
        {
            "stage": step.stage,
            "title": step.title,
            "action": step.action,
            "reason": step.reason,
            "fingerprint": step.fingerprint or None,
        }
        for step in steps
    ]


def _plain(value: Any) -> Any:
    if isinstance(value, datetime):
        return value.isoformat(timespec="seconds")
    if isinstance(value, Path):
        return str(value)
    raise TypeError(f"{type(value).__name__} has no form in JSON")
