"""questions: a file of questions, contexts and answers, or a corpus -> a set of questions to train on, and held-out
ones."""

from __future__ import annotations

from collections.abc import Iterator
from itertools import islice
from pathlib import Path
from typing import Any

from flows.engine.page import Block, Sample, Table
from flows.engine.stage import Job, Stage
from flows.store.local import Artifact, Store
from modeling.answering.config import QuestionsConfig
from textmill.errors import UserError

SHOWN, SHOWN_CHARACTERS = 12, 160  # questions on the page, and characters of each cell


class Questions(Stage[QuestionsConfig]):
    """Questions with contexts and answers."""

    name = "questions"
    version = 1
    inputs = ("corpus",)

    def build(self, job: Job[QuestionsConfig]) -> None:
        from modeling.answering.sets import make_set

        corpus = job.path("corpus") if job.given("corpus") else None
        make_set(job.config, corpus, job.out, job.progress)

    def identity(self, config: QuestionsConfig, store: Store) -> Any:
        """Files count by what is in them, wherever they lie, and by the layout that their names tell."""
        files = _files(config)
        return (
            {"settings": config, "files": [[f.suffix.lower(), store.file_digest(f)] for f in files]}
            if files
            else config
        )

    def check_available(self, config: QuestionsConfig) -> None:
        for file in _files(config):
            if not file.is_file():
                raise UserError(f"{file}: no such file of questions; mend questions.path, or leave it out")

    def headline(self, stats: dict[str, Any]) -> str:
        train, held_out = stats["train"], stats["validation"]
        impossible, lost = (train[key] + held_out[key] for key in ("impossible", "not_found"))
        return (
            f"{train['questions']:,} + {held_out['questions']:,} questions on "
            f"{train['documents']:,} + {held_out['documents']:,} documents"
            + (f", {impossible:,} without an answer" if impossible else "")
            + (f", {lost:,} whose answer does not occur in its context (not_found.jsonl)" if lost else "")
        )

    def highlight(self, stats: dict[str, Any]) -> tuple[str, str]:
        return f"{stats['train']['questions']:,}", "questions to train on"

    def work(self, stats: dict[str, Any]) -> tuple[int, str]:
        return stats["train"]["questions"] + stats["validation"]["questions"], "questions"

    def page(self, artifact: Artifact) -> Iterator[Block]:
        import pyarrow.parquet as pq

        with artifact.open("validation.parquet") as file:
            rows = pq.read_table(file, columns=["question", "answers", "context"]).to_pylist()
        shown = rows[:: max(1, len(rows) // SHOWN)][:SHOWN]
        yield Table(
            ("held-out question", "answer"),
            [(_shortened(row["question"]), _shortened(" | ".join(row["answers"]) or "(none)")) for row in shown],
        )
        for row in islice((row for row in shown if row["context"]), 1):
            yield Sample(f"The context of: {row['question']}", row["context"])


def _files(config: QuestionsConfig) -> list[Path]:
    return [Path(path) for path in (config.path, config.validation) if path]


def _shortened(text: str) -> str:
    text = " ".join(text.split())
    return text if len(text) <= SHOWN_CHARACTERS else text[: SHOWN_CHARACTERS - 1] + "…"


questions = Questions()
