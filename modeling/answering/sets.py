"""A set of questions, of a user's files or made from a corpus, split into those to train on and those held out.

train.parquet, validation.parquet   the questions
stats.json                          how many, of which kind
not_found.jsonl                     answers that do not occur in their context, and where in the files they stand
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from modeling.answering.config import QuestionsConfig
from modeling.answering.files import read_questions
from modeling.answering.maker import Document, made_questions
from modeling.answering.questions import SPLITS, Question, hold_out, write_split
from textmill.errors import UserError, first_line
from textmill.files import atomic_write
from textmill.progress import Progress, quiet
from tokenization.text import shards

__all__ = ["NOT_FOUND", "make_set"]

NOT_FOUND = "not_found.jsonl"


def make_set(config: QuestionsConfig, corpus: Path | None, out: Path, progress: Progress = quiet) -> dict[str, Any]:
    """Write a set of questions to `out`.

    Args:
        config: the files, or how questions are made.
        corpus: the one that they are made from, where the config names no file.
        out: folder to fill.
        progress: is told the splits.

    Returns:
        What `stats.json` says.

    Raises:
        UserError: a file is not one of questions, no answer occurs in its context, nothing can be held out, or the
            corpus gives no questions.
    """
    if config.path is None and corpus is None:
        raise UserError("give a file of questions as `path`, or a corpus to make them from")
    found = _of_files(config) if config.path else _of_corpus(corpus, config) if corpus else {}
    out.mkdir(parents=True, exist_ok=True)
    stats: dict[str, Any] = {}
    lost = []
    for done, (split, questions) in enumerate(found.items(), start=1):
        write_split(out, split, questions)
        stats[split] = _counted(questions)
        lost += [
            {"split": split, "id": q.id, "question": q.question, "answer": q.answers[0]}
            for q in questions
            if q.context is not None and not q.is_found
        ]
        progress(done, len(found), unit="splits", questions=len(questions))
    stats["made"] = config.path is None
    atomic_write(out / NOT_FOUND, "".join(json.dumps(row, ensure_ascii=False) + "\n" for row in lost))
    atomic_write(out / "stats.json", json.dumps(stats, indent=2, sort_keys=True) + "\n")
    return stats


def _of_files(config: QuestionsConfig) -> dict[str, list[Question]]:
    path = Path(config.path or "")
    questions = read_questions(path)
    if config.validation:
        splits = questions, read_questions(Path(config.validation))
    else:
        try:
            splits = hold_out(questions, config.validation_fraction)
        except UserError as error:
            raise UserError(f"{path}: {error}") from error
    for file, part in ((path, questions), (config.validation, splits[1])):
        asked = [q for q in part if q.context is not None and q.answers]
        if asked and not any(q.is_found for q in asked):
            raise UserError(
                f"{file}: no answer occurs in its context (the first: {asked[0].answers[0][:60]!r}); an answer is a "
                "part of its context, letter by letter"
            )
    if {q.context is None for part in splits for q in part} == {True, False}:
        raise UserError(f"{path} has prompts where {config.validation} has questions with contexts; give two of a kind")
    return dict(zip(SPLITS, splits, strict=True))


def _of_corpus(corpus: Path, config: QuestionsConfig) -> dict[str, list[Question]]:
    made = {split: list(made_questions(_documents(corpus, split), config)) for split in SPLITS}
    for split, questions in made.items():
        if not questions:
            raise UserError(f"the {split} split of {corpus} gives no questions; give more text, or a file as `path`")
    return made


def _documents(corpus: Path, split: str) -> Iterator[Document]:
    for shard in shards(corpus, split):
        try:
            with pq.ParquetFile(shard) as file:
                columns = [name for name in Document._fields if name in file.schema_arrow.names]
                for batch in file.iter_batches(256, columns=columns):
                    for row in batch.to_pylist():
                        yield Document(row["id"], row.get("title") or "", row["text"] or "")
        except (pa.ArrowException, OSError, KeyError) as error:
            raise UserError(f"{shard} is not a shard of a corpus ({first_line(error)}); run prepare first") from error


def _counted(questions: list[Question]) -> dict[str, int]:
    with_context = [q for q in questions if q.context is not None]
    return {
        "questions": len(questions),
        "documents": len({q.document for q in questions}),
        "prompts": len(questions) - len(with_context),
        "impossible": sum(not q.answers for q in with_context),
        "not_found": sum(not q.is_found for q in with_context),
    }
