"""What is said of the sources of a training: what each is going to give, and what it gave."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from flows.engine.page import Block, Table
from flows.store.local import Artifact
from modeling.config.run import RunConfig
from modeling.mixture import WindowPlan, allocate

_ROUNDING = 0.005  # of a share: runs of few windows cannot be divided as finely as weights ask


def foreseen(tokens: object, config: RunConfig, context: int, extra: int) -> str:
    """What each source is going to give to a training on token arrays, if they are there, in windows that count for
    `context` tokens and have so many extra.

    Raises:
        UserError: the mixture allows fewer tokens than the run asks for.
    """
    sources = tokens.stats["train"].get("sources", {}) if isinstance(tokens, Artifact) else {}
    if not config.mixture or not sources:
        return ""
    sizes = {name: counts["tokens"] for name, counts in sources.items()}
    plan = WindowPlan(context, extra, config.steps * config.batch)
    told = []
    for name, windows in allocate(sizes, config.mixture, plan).items():
        seen = windows * context
        told.append(f"{name} {seen:,} tokens ({windows / plan.windows:.1%}, {seen / sizes[name]:.2f} epochs)")
    return ", ".join(told)


def fallen_short(stats: dict[str, Any]) -> str:
    """Which sources gave less than their weights ask for, with a comma before; empty if none did."""
    short = [
        f"{name} {seen['share']:.1%} of {seen['asked']:.1%}"
        for name, seen in sorted(stats.get("sources", {}).items())
        if seen["asked"] is not None and seen["share"] < seen["asked"] - _ROUNDING
    ]
    return f", less than its weight asks for: {'; '.join(short)}" if short else ""


def sources_table(artifact: Artifact) -> Iterator[Block]:
    """What a training was shown of each source, and what its settings ask for."""
    sources, mixture = artifact.stats.get("sources", {}), artifact.manifest.settings.get("mixture", {})
    if sources:
        yield Table(
            ("source", "its tokens", "tokens seen", "share", "epochs", "asked for"),
            [
                (
                    name, seen["tokens"], seen["seen"], f"{seen['share']:.1%}", f"{seen['epochs']:.2f}",
                    _asked(mixture.get(name, {})),
                )
                for name, seen in sorted(sources.items())
            ],
        )  # fmt: skip


def _asked(source: dict[str, Any]) -> str:
    asked = (f"{key} {value:,}".removesuffix(".0") for key, value in source.items() if value is not None)
    return ", ".join(asked) or "as it comes"
