"""Groups of duplicates: the document that was kept, and those that were dropped because of it."""

from __future__ import annotations

from dataclasses import dataclass

from scraping.explorer.corpus import DROPPED, Corpus, Document, Dropped, Sampling

MEMBERS = 5  # of a group that are shown

# A duplicate of a document that was dropped itself, as a near-duplicate, belongs to what was kept of that.
_GROUPED = """
CREATE OR REPLACE TEMP TABLE grouped AS
WITH near AS (SELECT id, min(kept) AS kept FROM dropped WHERE reason = 'near-duplicate' GROUP BY id)
SELECT coalesce(near.kept, dropped.kept) AS root, dropped.id, dropped.source, dropped.url, dropped.reason
FROM dropped LEFT JOIN near ON dropped.reason = 'duplicate' AND dropped.kept = near.id
WHERE dropped.kept IS NOT NULL AND (? IS NULL OR dropped.source = ?)
"""


@dataclass(frozen=True)
class Cluster:
    """A document that was kept, and some of the `size` that were dropped because of it; None if the corpus has lost
    it."""

    kept: Document | None
    size: int
    dropped: list[Dropped]


@dataclass(frozen=True)
class Duplicates:
    """The duplicates of a corpus.

    Attributes:
        groups: how many documents have any.
        dropped: how many were dropped in all.
        sources: how many of one source were dropped because of a document of another: (dropped, kept, number).
        largest: the largest groups.
    """

    groups: int
    dropped: int
    sources: list[tuple[str, str, int]]
    largest: list[Cluster]


def duplicates(corpus: Corpus, sampling: Sampling) -> Duplicates:
    """The duplicates of a corpus (of which some are of a source), with its largest groups.

    Raises:
        UserError: there is no such source.
    """
    corpus.check(source=sampling.source)
    corpus.execute(_GROUPED, [sampling.source, sampling.source])
    [total] = corpus.rows("SELECT count(DISTINCT root) AS groups, count(*) AS dropped FROM grouped")
    sources = corpus.rows(
        "WITH kept AS (SELECT DISTINCT id, source FROM documents WHERE id IN (SELECT root FROM grouped))"
        " SELECT grouped.source, kept.source AS kept, count(*) AS number FROM grouped JOIN kept ON kept.id = root"
        " GROUP BY ALL ORDER BY number DESC, grouped.source, kept.source"
    )
    roots = corpus.rows(
        "SELECT root, count(*) AS size FROM grouped GROUP BY root ORDER BY size DESC, root LIMIT ?", [sampling.number]
    )
    kept = {document.id: document for document in corpus.documents([row["root"] for row in roots], sampling.characters)}
    return Duplicates(
        total["groups"],
        total["dropped"],
        [(row["source"], row["kept"], row["number"]) for row in sources],
        [Cluster(kept.get(row["root"]), row["size"], _members(corpus, row["root"])) for row in roots],
    )


def _members(corpus: Corpus, root: str) -> list[Dropped]:
    rows = corpus.rows(
        f"SELECT {DROPPED} FROM dropped WHERE EXISTS (SELECT 1 FROM grouped"
        " WHERE root = $root AND grouped.id = dropped.id AND grouped.url IS NOT DISTINCT FROM dropped.url)"
        " AND kept IS NOT NULL ORDER BY similarity DESC, id, url LIMIT $number",
        {"root": root, "number": MEMBERS},
    )
    return [Dropped(**row) for row in rows]
