"""What was taken out of the texts of a corpus as their sites' templates, from the corpus's `stats.json`."""

from __future__ import annotations

import json
from dataclasses import dataclass
from typing import Any

from scraping.explorer.corpus import Corpus


@dataclass(frozen=True)
class Removed:
    """What was taken out.

    Attributes:
        characters: how many, of all documents.
        before: how many the documents had.
        sites: those with the most of it, each with `site`, `pages` that the template was learned from, `changed` ones,
            `removed_share` of their characters, and the most frequent `parts` that were removed (`text`, `pages`).
    """

    characters: int
    before: int
    sites: list[dict[str, Any]]


def removed(corpus: Corpus) -> Removed | None:
    """What was taken out; None if the corpus does not say."""
    try:
        stats = json.loads((corpus.folder / "stats.json").read_text("utf-8"))
        before, after = (stats[f"characters_{when}_template_removal"] for when in ("before", "after"))
        return Removed(before - after, before, stats["templates"])
    except (OSError, ValueError, KeyError):
        return None
