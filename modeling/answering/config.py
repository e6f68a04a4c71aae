"""What a configuration says of questions and answers. Without torch and pyarrow, so that it is read at once."""

from __future__ import annotations

from typing import Literal

from pydantic import BaseModel, Field, field_validator, model_validator

from modeling.config.finetune import TuningConfig
from textmill.settings import execution_only

__all__ = ["AnsweringConfig", "QuestionsConfig"]

OF_RUNNING_TEXT = ("mixture", "window_start")  # settings that say how it is cut into windows


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


class AnsweringConfig(TuningConfig):
    """How a checkpoint learns to answer questions."""

    steps: int = Field(200, gt=0, description="Optimizer steps")
    method: Literal["extractive", "generative"] = Field(
        "extractive", description="extractive: the answer is a part of the context; generative: it is written"
    )
    length: int = Field(384, ge=16, description="Tokens of a window with question and context, at most the context")
    stride: int | None = Field(
        None, gt=0, description="Tokens between the windows of a long context; null: half of what a window holds of it"
    )
    longest_answer: int | None = Field(
        None, gt=0, description="Most tokens of an answer; null: 30, or of a written one a quarter of the window"
    )
    no_answer: bool | None = Field(
        None, description="Whether there may be no answer; null: whether a question to train on has none"
    )
    template: str = Field(
        "{context}\nQuestion: {question}\nAnswer:",
        description="What a written answer continues, after a space; a prompt is taken as it is",
    )

    @field_validator("template")
    @classmethod
    def _has_both(cls, template: str) -> str:
        if template.count("{question}") != 1 or template.count("{context}") != 1:
            raise ValueError("write {context} and {question} once each where they are to stand")
        return template

    @model_validator(mode="after")
    def _reads_no_running_text(self) -> AnsweringConfig:
        for name in OF_RUNNING_TEXT:
            if getattr(self, name) != type(self).model_fields[name].default:
                raise ValueError(f"{name}: windows of questions are not cut from running text; leave it out")
        return self
