"""The stages, one file each: its configuration, its code, and what its page in the Prefect UI and in the report shows.

`flows.pipeline.chain` puts them in order; `measurement`, `comparison` and those in the room `judging` are those of
experiments. The stage NAME is the attribute NAME of the module NAME. Beside them are `html` and `templates/` (pages
that need nothing else).
"""

from __future__ import annotations

from importlib import import_module
from importlib.util import find_spec
from typing import Any

from flows.engine.stage import Stage
from flows.stages import judging


def stage_named(name: str) -> Stage[Any] | None:
    """The stage of that name; None for one that this version does not have, as in an old or a stranger's store."""
    for room in (__name__, judging.__name__):
        if name.isidentifier() and find_spec(f"{room}.{name}") is not None:
            stage = getattr(import_module(f"{room}.{name}"), name, None)
            return stage if isinstance(stage, Stage) else None
    return None
