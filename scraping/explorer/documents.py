"""Documents of a corpus: random samples, what a rule dropped, and those that hold a phrase."""

from __future__ import annotations

import re
from dataclasses import dataclass, replace
from typing import TypeVar

from scraping.explorer.corpus import DROPPED, Corpus, Document, Dropped, Sampling
from textmill.errors import UserError

CONTEXT = 120  # characters on each side of what was found
_ASCII_SYMBOL = re.compile(r"[!-/:-@\[-^`{-~]")

Found = TypeVar("Found", Document, Dropped)


@dataclass(frozen=True)
class Matches:
    """Where a phrase occurs.

    Attributes:
        phrase: what was looked for.
        documents: how many hold it, by source and split.
        dropped: how many of the dropped hold it in what is kept of them, by source and reason.
        found: some of the documents; their `text` is the surroundings of the first occurrence.
        found_dropped: the same of the dropped.
    """

    phrase: str
    documents: dict[str, dict[str, int]]
    dropped: dict[str, dict[str, int]]
    found: list[Document]
    found_dropped: list[Dropped]


def sample(corpus: Corpus, sampling: Sampling) -> list[Document]:
    """Random documents.

    Raises:
        UserError: there is no such source.
    """
    corpus.check(source=sampling.source)
    drawn = corpus.rows(
        "SELECT id FROM documents WHERE $source IS NULL OR source = $source ORDER BY md5($key || id), id LIMIT $number",
        {"source": sampling.source, "key": sampling.key, "number": sampling.number},
    )
    return corpus.documents([row["id"] for row in drawn], sampling.characters)


def sample_dropped(corpus: Corpus, sampling: Sampling, reason: str | None = None) -> list[Dropped]:
    """Random documents of those that were dropped (for a reason).

    Raises:
        UserError: there is no such source or reason.
    """
    corpus.check(sampling.source, reason)
    drawn = corpus.rows(
        f"SELECT {DROPPED} FROM dropped"
        " WHERE ($source IS NULL OR source = $source) AND ($reason IS NULL OR reason = $reason)"
        " ORDER BY md5($key || id || coalesce(url, '')), id LIMIT $number",
        {"source": sampling.source, "reason": reason, "key": sampling.key, "number": sampling.number},
    )
    return [Dropped(**row) for row in drawn]


def search(corpus: Corpus, phrase: str, sampling: Sampling) -> Matches:
    """Find a phrase in the texts, whatever the case of its letters and the space between its words. All documents are
    read and counted; random ones of those that hold it are returned.

    Raises:
        UserError: there is no such source, or the phrase is empty.
    """
    corpus.check(source=sampling.source)
    pattern = _pattern(phrase)
    parameters = {"pattern": f"(?i){pattern}", "source": sampling.source}
    for table, columns, text in (("documents", "id, source, split", "text"), ("dropped", DROPPED, "excerpt")):
        corpus.execute(
            f"CREATE OR REPLACE TEMP TABLE matching_{table} AS SELECT {columns} FROM {table}"
            f" WHERE regexp_matches({text}, $pattern) AND ($source IS NULL OR source = $source)",
            parameters,
        )
    drawn = "ORDER BY md5($key || id), id LIMIT $number"
    shown = {"key": sampling.key, "number": sampling.number}
    ids = [
        row["id"] for row in corpus.rows(f"SELECT DISTINCT id, md5($key || id) FROM matching_documents {drawn}", shown)
    ]
    dropped = corpus.rows(f"SELECT * FROM matching_dropped {drawn}", shown)
    around = re.compile(f"(?is).{{0,{CONTEXT}}}{pattern}.{{0,{CONTEXT}}}")
    return Matches(
        phrase,
        _counts(corpus, "SELECT source, split, count(*) FROM matching_documents GROUP BY ALL ORDER BY ALL"),
        _counts(corpus, "SELECT source, reason, count(*) FROM matching_dropped GROUP BY ALL ORDER BY ALL"),
        [_around(document, around) for document in corpus.documents(ids)],
        [_around(Dropped(**row), around) for row in dropped],
    )


def _pattern(phrase: str) -> str:
    """An expression that RE2 and Python read alike."""
    words = phrase.split()
    if not words:
        raise UserError("there is nothing to look for: give a word or a phrase")
    return r"\s+".join(_ASCII_SYMBOL.sub(r"\\\g<0>", word) for word in words)


def _around(found: Found, pattern: re.Pattern[str]) -> Found:
    """The document with the surroundings of the phrase for its text."""
    match = pattern.search(found.text or "")
    return replace(found, text=match[0]) if match else found


def _counts(corpus: Corpus, sql: str) -> dict[str, dict[str, int]]:
    counts: dict[str, dict[str, int]] = {}
    for row in corpus.rows(sql):
        source, key, number = row.values()
        counts.setdefault(source, {})[key] = number
    return counts
