"""The step that makes documents fit for the corpus: without their site's template, filtered, signed for deduplication.

Documents are refined in pieces of some row groups, each by a child process, whether they lie in many small shards or in
few large ones. Texts go through the step one by one, all else as columns. Four files of each piece are kept, from which
a killed run goes on.
"""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Callable, Iterator
from functools import partial
from itertools import count
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import pyarrow as pa
from pydantic import BaseModel

from scraping.corpus.boilerplate import remove_template
from scraping.corpus.config import DedupConfig, FilterConfig, PersonalData
from scraping.corpus.dedup import save_signatures, sign
from scraping.corpus.kernels.plain import normalized
from scraping.corpus.ranges import deal, write_ranges
from scraping.corpus.recipe import FilterResult, apply_filters, recipe
from scraping.corpus.safeguards.decontaminate import CONTAMINATED, load_index
from scraping.corpus.safeguards.redact import redact
from scraping.corpus.steps import Execution
from scraping.corpus.templates import DocumentShard, SiteTemplates
from scraping.corpus.writer import EXCERPT, with_columns
from scraping.extraction.sandbox import Call, Failure, Sandbox
from scraping.shards import DOCUMENTS, DROPPED, ROW_GROUP_ROWS, open_parquet, write_table
from textmill.files import atomic_write, remove_temporary

_PIECE_GROUPS, _PIECE_BYTES = 8, 48 << 20  # of a piece, at most: some seconds of work; its memory is a few times that
_CALL_PIECES = 16  # for each child that a call starts: starting it takes a fiftieth of the time they take


class RefineConfig(BaseModel, extra="forbid"):
    """The rules that decide what becomes of a document."""

    filters: FilterConfig
    dedup: DedupConfig
    redact: list[PersonalData] = []
    evaluation: Path | None = None  # the index of the texts that no document may hold a part of


class RefinedPiece(NamedTuple):
    """What refining a piece leaves."""

    documents: Path  # DOCUMENTS that passed the filters, in ranges
    signatures: Path  # of these, in their order
    dropped: Path  # DROPPED
    counts: Path  # JSON; written last


class Piece(BaseModel, frozen=True):
    """Row groups of a shard that are refined together."""

    shard: DocumentShard
    groups: list[int]
    rows: int
    ranges: int
    output: RefinedPiece


class RefineOutput(NamedTuple):
    """Where refined documents are written, and into how many ranges of ids they are dealt."""

    folder: Path
    ranges: int


def refine(
    shards: list[DocumentShard], templates: Path, config: RefineConfig, output: RefineOutput, execution: Execution
) -> list[RefinedPiece]:
    """Refine all documents; what an earlier run finished is kept."""
    folder = output.folder
    folder.mkdir(exist_ok=True)
    remove_temporary(folder)
    pieces = list(_pieces(shards, output))
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
    work, rules = Piece(**piece), RefineConfig(**config)
    refinement = _Refinement(work, SiteTemplates(Path(templates)), rules)
    refinement.refine()
    dealt = deal(pa.concat_tables(refinement.documents), work.ranges)
    write_ranges(work.output.documents, dealt)
    signatures = sign(dealt.table["id"].to_pylist(), dealt.table["text"].to_pylist(), rules.dedup)
    save_signatures(work.output.signatures, signatures)
    write_table(work.output.dropped, pa.concat_tables(refinement.dropped))
    atomic_write(work.output.counts, json.dumps(refinement.counts))


def sum_counts(pieces: list[RefinedPiece]) -> dict[str, int]:
    """How many characters all documents had before and after template removal, and personal data of each kind."""
    counts: Counter[str] = Counter()
    for piece in pieces:
        counts.update(json.loads(piece.counts.read_text()))
    return dict(counts)


class _Refinement:
    """Refines the documents of a piece, a batch at a time."""

    def __init__(self, piece: Piece, templates: SiteTemplates, config: RefineConfig) -> None:
        self._piece, self._templates, self._filters = piece, templates, recipe(config.filters)
        self._kinds, self._evaluation = config.redact, load_index(config.evaluation) if config.evaluation else None
        self.documents: list[pa.Table] = [DOCUMENTS.empty_table()]
        self.dropped: list[pa.Table] = [DROPPED.empty_table()]
        self.counts = Counter(characters_before_template_removal=0, characters_after_template_removal=0)

    def refine(self) -> None:
        """Fill `documents`, `dropped` and `counts`."""
        with open_parquet(self._piece.shard.path) as file:
            for batch in file.iter_batches(ROW_GROUP_ROWS, row_groups=self._piece.groups, use_threads=False):
                self._refine(pa.table(batch))

    def _refine(self, table: pa.Table) -> None:
        rows = zip(*(table[name].to_pylist() for name in ("text", "source", "url")), strict=True)
        texts = [self._cleaned(*row) for row in rows]
        results = [self._uncontaminated(text, apply_filters(text, self._filters)) for text in texts]
        has_failed = np.array([result.reason is not None for result in results])
        passed, failed = np.flatnonzero(~has_failed).tolist(), np.flatnonzero(has_failed).tolist()
        columns = {
            "lang": [results[place].lang for place in passed],
            "text": [texts[place] for place in passed],
            "n_chars": [len(texts[place]) for place in passed],
        }
        if self._kinds:
            titles = table["title"].to_pylist()
            columns["title"] = [titles[place] and self._redacted(titles[place]) for place in passed]
        self.documents.append(with_columns(table.filter(pa.array(~has_failed)), columns, DOCUMENTS))
        columns = {
            "reason": [results[place].reason for place in failed],
            "detail": [results[place].detail for place in failed],
            "excerpt": [texts[place][:EXCERPT] for place in failed],
        }
        self.dropped.append(with_columns(table.filter(pa.array(has_failed)), columns, DROPPED))

    def _cleaned(self, text: str, source: str, url: str | None) -> str:
        """A document's text in normal form and without its site's template."""
        shard = self._piece.shard
        text = text if shard.crawled else normalized(text)
        self.counts["characters_before_template_removal"] += len(text)
        text = remove_template(text, self._templates.of(shard.site(source, url)))
        self.counts["characters_after_template_removal"] += len(text)
        return self._redacted(text)

    def _redacted(self, text: str) -> str:
        """A text without personal data, which is counted."""
        text, counts = redact(text, self._kinds)
        self.counts.update({f"redacted_{kind}": count for kind, count in counts.items()})
        return text

    def _uncontaminated(self, text: str, result: FilterResult) -> FilterResult:
        """The result of the filters, or that a document that passed them holds a part of an evaluation text."""
        found = self._evaluation.found_in(text) if self._evaluation and result.reason is None else None
        return result._replace(reason=CONTAMINATED, detail=found) if found else result


def _pieces(shards: list[DocumentShard], output: RefineOutput) -> Iterator[Piece]:
    """The pieces of all shards; a shard without rows is one empty piece."""
    folder, ranges = output
    numbers = count()
    for shard in shards:
        with open_parquet(shard.path) as file:
            sizes = [file.metadata.row_group(group) for group in range(file.metadata.num_row_groups)]
        for groups in _cut([size.total_byte_size for size in sizes]):
            number = next(numbers)
            files = RefinedPiece(
                folder / f"documents-{number:05d}.arrow",
                folder / f"signatures-{number:05d}.npz",
                folder / f"dropped-{number:05d}.parquet",
                folder / f"counts-{number:05d}.json",
            )
            rows = sum(sizes[group].num_rows for group in groups)
            yield Piece(shard=shard, groups=groups, rows=rows, ranges=ranges, output=files)


def _cut(sizes: list[int]) -> list[list[int]]:
    """Row groups of so many bytes, by the pieces that they are refined in.

    >>> _cut([_PIECE_BYTES // 2] * 3)
    [[0, 1], [2]]
    """
    pieces: list[list[int]] = [[]]
    size = 0
    for group, more in enumerate(sizes):
        if pieces[-1] and (len(pieces[-1]) == _PIECE_GROUPS or size + more > _PIECE_BYTES):
            pieces.append([])
            size = 0
        pieces[-1].append(group)
        size += more
    return pieces
