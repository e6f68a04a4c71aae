"""What a finished stage leaves on its run's page in the Prefect UI."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from prefect.artifacts import create_markdown_artifact

from flows.store import Artifact


def publish(artifact: Artifact, headline: str) -> None:
    """A Markdown page with the stage's figures, its inputs and its files. One key a stage, so that the UI shows how the
    figures went from run to run."""
    create_markdown_artifact(
        "\n".join(_page(artifact, headline)),
        key=f"{artifact.manifest.stage}-{artifact.manifest.label}".lower().translate(_KEY_CHARACTERS).strip("-"),
        description=headline,
    )


def figures(stats: dict[str, Any], prefix: str = "") -> Iterator[tuple[str, str]]:
    """The numbers and short texts of `stats.json`, nested names joined by dots, formatted for people."""
    for name, value in stats.items():
        key = f"{prefix}{name}"
        if isinstance(value, dict):
            yield from figures(value, f"{key}.")
        elif isinstance(value, float):
            yield key, f"{value:,.4g}"
        elif isinstance(value, int):
            yield key, f"{value:,}"
        elif isinstance(value, str) and len(value) < 80:
            yield key, value


def _page(artifact: Artifact, headline: str) -> Iterator[str]:
    manifest = artifact.manifest
    yield f"**{headline}**\n"
    yield f"`{artifact.path}` · {manifest.size / 1e6:,.1f} MB · {manifest.seconds:,.1f} s\n"
    yield "| figure | value |\n|---|---|"
    for name, value in figures(artifact.stats):
        yield f"| {name} | {value.replace('|', '&#124;')} |"
    yield "\n| input | stage | fingerprint |\n|---|---|---|"
    for name, entries in manifest.inputs.items():
        for entry in entries:
            yield f"| {name} | {entry.stage} | `{entry.fingerprint}` |"


class _KeyCharacters(dict):
    """Artifact keys may hold lower-case letters, digits and dashes."""

    def __missing__(self, code: int) -> str:
        character = chr(code)
        return character if character.isascii() and character.isalnum() else "-"


_KEY_CHARACTERS = _KeyCharacters()
