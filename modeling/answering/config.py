"""What a configuration says of questions. Without torch and pyarrow, so that it is read at once."""

from __future__ import annotations

from pydantic import BaseModel, Field

from textmill.settings import execution_only

__all__ = ["QuestionsConfig"]


class QuestionsConfig(BaseModel, extra="forbid"):
    """A set of questions: of files, or made from the corpus."""

    path: str | None = execution_only(
        None,
        description="File of questions, contexts and answers, or of prompts and answers: JSON lines, Parquet, CSV, or "
        "SQuAD's JSON; null: made from the corpus",
    )
    validation: str | None = execution_only(
        None,
        description="File of the held-out questions; null: documents of `path`, or of the corpus' validation split",
    )
    validation_fraction: float = Field(0.1, gt=0, lt=1, description="Share of the documents of `path` that is held out")
    per_document: int = Field(40, gt=0, description="Questions made of a document, at most")
    context_characters: int = Field(800, ge=100, description="Characters of a context that is made, about")
    impossible: float = Field(
        0.0, ge=0, lt=1, description="Share of the questions made that get a context without the answer"
    )
    seed: int = Field(0, ge=0, description="Decides where in its context an answer lies, and what has no answer")
