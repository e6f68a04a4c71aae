"""What differs between two corpora: documents that came and went, with reasons, and texts that changed.

Documents are compared by their ids. That of a page's document is a hash of its URL, so its text may change; that of an
ingested document is a hash of its text.
"""

from __future__ import annotations

from dataclasses import dataclass
from difflib import unified_diff
from itertools import pairwise
from pathlib import Path
from typing import Any

from scraping.explorer.corpus import Corpus, Document, Sampling

NOT_SEEN = "not among its documents"  # neither kept nor dropped: another crawl or collection

# One row an id. Collections may hold a text several times where exact duplicates are kept.
_KEPT = """
SELECT id, min(source) AS source, count(*) AS number, min(split) AS split, min(hash(text)) AS content
FROM {prefix}documents WHERE id >= $first AND id < $last GROUP BY id
"""
_COMPARED = f"""
SELECT coalesce(a.id, b.id) AS id, coalesce(a.source, b.source) AS source,
  coalesce(a.number, 0) AS before, coalesce(b.number, 0) AS after,
  coalesce(a.split != b.split, false) AS resplit, a.content IS DISTINCT FROM b.content AS differs
FROM ({_KEPT.format(prefix="other_")}) a FULL JOIN ({_KEPT.format(prefix="")}) b ON a.id = b.id
"""
_PART = 500_000  # documents of both that are compared at once: shards are sorted by id, so that each is read once
_REASONS = "(SELECT id, min(reason) AS reason, min_by(detail, reason) AS detail FROM {prefix}dropped GROUP BY id)"


@dataclass(frozen=True)
class Moved:
    """A document that only one of two corpora has. `reason` is why the other lacks it."""

    document: Document
    reason: str
    detail: str


@dataclass(frozen=True)
class Changed:
    """A document whose text is another one now, as lines of a unified diff."""

    document: Document
    diff: list[str]


@dataclass(frozen=True)
class Difference:
    """From one corpus to another: `before` - went + came = `after`.

    Attributes:
        before, after: documents of each.
        same: documents with the same text in both; `changed` those with another one.
        resplit: documents that moved between train and validation.
        went: how many of `before` are not in `after`, by source and by why `after` dropped them.
        came: how many of `after` are not in `before`, by source and by why `before` had dropped them.
        went_examples, came_examples, changed_examples: some of each.
    """

    before: int
    after: int
    same: int
    changed: dict[str, int]
    resplit: int
    went: dict[str, dict[str, int]]
    came: dict[str, dict[str, int]]
    went_examples: list[Moved]
    came_examples: list[Moved]
    changed_examples: list[Changed]


def difference(corpus: Corpus, before: Path, sampling: Sampling) -> Difference:
    """What happened from the corpus in the folder `before` to this one, with random examples of each.

    Raises:
        UserError: `before` holds no corpus, or neither has such a source.
    """
    corpus.attach(before, "other_")
    _compare(corpus)
    if sampling.source is not None:
        if not corpus.rows("SELECT 1 FROM compared WHERE source = ? LIMIT 1", [sampling.source]):
            corpus.check(source=sampling.source)
        corpus.execute("DELETE FROM compared WHERE source != ?", [sampling.source])
    [total] = corpus.rows(
        "SELECT coalesce(sum(before), 0)::BIGINT AS before, coalesce(sum(after), 0)::BIGINT AS after,"
        " coalesce(sum(least(before, after)) FILTER (NOT differs), 0)::BIGINT AS same,"
        " count(*) FILTER (resplit) AS resplit FROM compared"
    )
    changed = corpus.rows(
        "SELECT source, sum(least(before, after))::BIGINT AS number FROM compared"
        " WHERE differs AND before > 0 AND after > 0 GROUP BY source ORDER BY source"
    )
    examples = _Examples(corpus, sampling)
    return Difference(
        **total,
        changed={row["source"]: row["number"] for row in changed},
        went=_moved(corpus, "before", "after", ""),
        came=_moved(corpus, "after", "before", "other_"),
        went_examples=examples.moved("before > after", "other_", ""),
        came_examples=examples.moved("after > before", "", "other_"),
        changed_examples=examples.changed(),
    )


def _compare(corpus: Corpus) -> None:
    """Fill the table `compared`, a row for each id of either corpus, range by range of the ids."""
    [count] = corpus.rows("SELECT (SELECT count(*) FROM documents) + (SELECT count(*) FROM other_documents) AS number")
    parts = 1 + count["number"] // _PART
    bounds = ["", *(f"{(part << 32) // parts:08x}" for part in range(1, parts)), "~"]  # "~" is behind all digits
    for number, (first, last) in enumerate(pairwise(bounds)):
        into = "INSERT INTO compared" if number else "CREATE OR REPLACE TEMP TABLE compared AS"
        corpus.execute(f"{into} {_COMPARED}", {"first": first, "last": last})


def _moved(corpus: Corpus, more: str, fewer: str, dropped_by: str) -> dict[str, dict[str, int]]:
    counts: dict[str, dict[str, int]] = {}
    for row in corpus.rows(
        f"SELECT c.source, coalesce(d.reason, '{NOT_SEEN}') AS reason, sum({more} - {fewer})::BIGINT AS number"
        f" FROM compared c LEFT JOIN {_REASONS.format(prefix=dropped_by)} d USING (id) WHERE {more} > {fewer}"
        " GROUP BY ALL ORDER BY c.source, number DESC, reason"
    ):
        counts.setdefault(row["source"], {})[row["reason"]] = row["number"]
    return counts


@dataclass(frozen=True)
class _Examples:
    corpus: Corpus
    sampling: Sampling

    def moved(self, condition: str, held_by: str, dropped_by: str) -> list[Moved]:
        rows = self._drawn(
            f"SELECT c.id, coalesce(d.reason, '{NOT_SEEN}') AS reason, coalesce(d.detail, '') AS detail"
            f" FROM compared c LEFT JOIN {_REASONS.format(prefix=dropped_by)} d USING (id) WHERE {condition}"
        )
        documents = self.corpus.documents([row["id"] for row in rows], self.sampling.characters, held_by)
        why = {row["id"]: (row["reason"], row["detail"]) for row in rows}
        return [Moved(document, *why[document.id]) for document in documents]

    def changed(self) -> list[Changed]:
        rows = self._drawn("SELECT c.id FROM compared c WHERE differs AND before > 0 AND after > 0")
        ids = [row["id"] for row in rows]
        after = {document.id: document for document in self.corpus.documents(ids)}
        before = self.corpus.documents(ids, prefix="other_")
        return [Changed(after[old.id], _diff(old.text, after[old.id].text)) for old in before]

    def _drawn(self, sql: str) -> list[dict[str, Any]]:
        return self.corpus.rows(
            f"{sql} ORDER BY md5(? || c.id), c.id LIMIT ?", [self.sampling.key, self.sampling.number]
        )


def _diff(before: str, after: str) -> list[str]:
    lines = unified_diff(before.splitlines(), after.splitlines(), lineterm="", n=1)
    return list(lines)[2:]  # without the names of files
