"""The step that makes documents fit for the corpus: without their site's template, filtered, signed for deduplication.

Documents are refined in pieces of some row groups, each by a child process, whether they lie in many small shards or in
few large ones. Four files of each piece are kept, from which a killed run goes on.
"""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from pydantic import BaseModel

from scraping.corpus.boilerplate import remove_template
from scraping.corpus.config import DedupConfig, FilterConfig
from scraping.corpus.dedup import Signatures, concatenated, sign
from scraping.corpus.kernels.plain import normalized
from scraping.corpus.recipe import apply_filters, recipe
from scraping.corpus.steps import Execution
from scraping.corpus.templates import DocumentShard, SiteTemplates
from scraping.corpus.writer import dropped_row
from scraping.extraction.sandbox import Call, Failure, Sandbox
from scraping.shards import DOCUMENTS, DROPPED, ROW_GROUP_ROWS, open_parquet, read_groups, write_shard
from textmill.files import atomic_path, atomic_write

_PIECE_GROUPS = 4  # row groups of a piece: some seconds of work
_CALL_PIECES = 4  # for each child that a call starts: starting it takes a fiftieth of the time they take


class RefineConfig(BaseModel, extra="forbid"):
    """The rules that decide what becomes of a document."""

    filters: FilterConfig
    dedup: DedupConfig


class RefinedPiece(NamedTuple):
    """What refining a piece leaves."""

    documents: Path  # DOCUMENTS that passed the filters
    signatures: Path  # .npz: the fields of `Signatures`
    dropped: Path  # DROPPED
    counts: Path  # JSON; written last


class Piece(BaseModel, frozen=True):
    """Row groups of a shard that are refined together."""

    shard: DocumentShard
    groups: list[int]
    rows: int
    output: RefinedPiece


def refine(
    shards: list[DocumentShard], templates: Path, config: RefineConfig, folder: Path, execution: Execution
) -> list[RefinedPiece]:
    """Refine all documents into `folder`; what an earlier run finished is kept."""
    folder.mkdir(exist_ok=True)
    pieces = list(_pieces(shards, folder))
    finished = set(folder.glob("counts-*.json"))
    missing = [piece for piece in pieces if piece.output.counts not in finished]
    per_call = _CALL_PIECES * execution.children
    calls = [missing[start : start + per_call] for start in range(0, len(missing), per_call)]
    jobs = [(call, sum(piece.rows for piece in call)) for call in calls]
    work = partial(refine_pieces, templates=templates, config=config)
    execution.run(work, jobs, sum(piece.rows for piece in pieces), unit="documents", phase="filtering")
    return [piece.output for piece in pieces]


def refine_pieces(
    pieces: list[Piece], *, templates: Path, config: RefineConfig, children: int, report: Callable[[int], None]
) -> None:
    """Refine some pieces, each in a child."""
    pieces = [piece for piece in pieces if not piece.output.counts.exists()]  # a worker that died finished the others
    shared = {"templates": str(templates), "config": config.model_dump(mode="json")}
    calls = (Call({"piece": piece.model_dump(mode="json"), **shared}) for piece in pieces)
    done = 0
    with Sandbox("scraping.corpus.refine:refine_piece", min(children, len(pieces) or 1)) as sandbox:
        for piece, answer in zip(pieces, sandbox.run(calls), strict=True):
            if isinstance(answer, Failure):
                raise RuntimeError(f"refining {piece.shard.path} failed: {answer.detail}")
            done += piece.rows
            report(done)


def refine_piece(_: bytes, piece: dict[str, Any], templates: str, config: dict[str, Any]) -> None:
    """Refine one piece; runs in the sandbox."""
    refinement = _Refinement(Piece(**piece), SiteTemplates(Path(templates)), RefineConfig(**config))
    output = refinement.piece.output
    write_shard(output.documents, refinement.documents(), DOCUMENTS)  # fills what is written below
    with atomic_path(output.signatures) as unfinished, unfinished.open("wb") as file:
        np.savez(file, **concatenated(refinement.signatures)._asdict())
    write_shard(output.dropped, refinement.dropped, DROPPED)
    atomic_write(output.counts, json.dumps(refinement.counts))


def sum_counts(pieces: list[RefinedPiece]) -> dict[str, int]:
    """How many characters all documents had before and after template removal."""
    counts: Counter[str] = Counter()
    for piece in pieces:
        counts.update(json.loads(piece.counts.read_text()))
    return dict(counts)


class _Refinement:
    """Refines the documents of a piece; the other fields fill up while `documents` is consumed."""

    def __init__(self, piece: Piece, templates: SiteTemplates, config: RefineConfig) -> None:
        self.piece = piece
        self.dropped: list[dict[str, Any]] = []
        self.signatures: list[Signatures] = []
        self.counts = Counter(characters_before_template_removal=0, characters_after_template_removal=0)
        self._templates, self._config = templates, config

    def documents(self) -> Iterator[dict[str, Any]]:
        """The rows of the documents that passed the filters, signed in batches."""
        batch: list[dict[str, Any]] = []
        for row in self._filtered():
            batch.append(row)
            if len(batch) == ROW_GROUP_ROWS:
                yield from self._signed(batch)
                batch = []
        yield from self._signed(batch)

    def _filtered(self) -> Iterator[dict[str, Any]]:
        shard, filters = self.piece.shard, recipe(self._config.filters)
        for row in read_groups(shard.path, self.piece.groups):
            text = row["text"] if shard.crawled else normalized(row["text"])
            self.counts["characters_before_template_removal"] += len(text)
            text = remove_template(text, self._templates.of(shard.site(row["source"], row["url"])))
            self.counts["characters_after_template_removal"] += len(text)
            result = apply_filters(text, filters)
            if result.reason:
                self.dropped.append(dropped_row(row, result.reason, result.detail, text))
            else:
                yield {**row, "lang": result.lang, "text": text, "n_chars": len(text)}

    def _signed(self, batch: list[dict[str, Any]]) -> list[dict[str, Any]]:
        ids, texts = [row["id"] for row in batch], [row["text"] for row in batch]
        self.signatures.append(sign(ids, texts, self._config.dedup))
        return batch


def _pieces(shards: list[DocumentShard], folder: Path) -> Iterator[Piece]:
    """The pieces of all shards; a shard without rows is one empty piece."""
    number = 0
    for shard in shards:
        with open_parquet(shard.path) as file:
            sizes = [file.metadata.row_group(group).num_rows for group in range(file.metadata.num_row_groups)]
        for start in range(0, max(1, len(sizes)), _PIECE_GROUPS):
            groups = list(range(start, min(start + _PIECE_GROUPS, len(sizes))))
            output = RefinedPiece(
                folder / f"documents-{number:05d}.parquet",
                folder / f"signatures-{number:05d}.npz",
                folder / f"dropped-{number:05d}.parquet",
                folder / f"counts-{number:05d}.json",
            )
            yield Piece(shard=shard, groups=groups, rows=sum(sizes[group] for group in groups), output=output)
            number += 1
