"""Files of questions, contexts and answers, in the layouts that there are.

- **JSON lines** (`.jsonl`, `.ndjson`), **Parquet**, **CSV** and **TSV** with a header: `question`, `context` and
  `answer`, or `prompt` and `answer`; if there, also `id`, `title` (the document) and `answer_start` (in characters).
  Several right answers are a list `answers`, of texts, or as Hugging Face's SQuAD has them (`{"text": […],
  "answer_start": […]}`). An answer that is empty or null says that the context does not answer the question.
- **SQuAD's JSON** (`.json`), v1.1 (Rajpurkar et al. 2016) and v2 with `is_impossible` (Rajpurkar et al. 2018).

A mistake is an error that names the file and the line, the row, or the place in SQuAD's JSON.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from functools import partial
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from modeling.answering.questions import SPLITS, Question, locate
from textmill.errors import UserError, first_line
from textmill.rows import ROW_FILES, Rows, json_object, parse_json_lines, read_rows

__all__ = ["is_questions", "parse_questions", "read_questions"]

COLUMNS = "question, context and answer, or prompt and answer"
READ = f"{', '.join(ROW_FILES)}, .json (SQuAD) or .parquet"


def is_questions(path: Path) -> bool:
    """Whether a file's name says that it may hold questions, or a folder holds a set of them."""
    return path.suffix.lower() in READERS or any((path / f"{split}.parquet").is_file() for split in SPLITS)


def read_questions(path: Path, *, wants_answers: bool = True) -> list[Question]:
    """All questions of a file, in order. Answers that do not occur in their context are kept, without a place.

    Args:
        path: the file; what its name ends with says of which layout it is.
        wants_answers: whether a question without the key of an answer is a mistake.

    Raises:
        UserError: the file cannot be read, or holds anything else; it names the line.
    """
    reader = READERS.get(path.suffix.lower())
    if not path.is_file():
        raise UserError(f"{path}: no such file; give a file of questions: {READ}")
    if reader is None:
        raise UserError(f"{path}: a file of questions is {READ}")
    return _questions(str(path), reader(path), wants_answers)


def parse_questions(text: str, name: str) -> list[Question]:
    """The questions of JSON lines that need no answers, as of standard input.

    Raises:
        UserError: they are something else; it names the line.
    """
    return _questions(name, parse_json_lines(text.split("\n"), name, COLUMNS), wants_answers=False)


def _questions(name: str, rows: Rows, wants_answers: bool) -> list[Question]:
    questions: list[Question] = []
    places: dict[str, str] = {}
    for place, row in rows:
        if not wants_answers and "answers" not in row:
            row = {"answer": None} | row
        question = _question(row, place, str(len(questions)), wants_answers)
        if question.id in places:
            raise UserError(f"{place}: the id {question.id!r} is also that of {places[question.id]}; give each its own")
        places[question.id] = place
        questions.append(question)
    if not questions:
        raise UserError(f"{name} holds no question")
    return questions


# -- the layouts -------------------------------------------------------------------------------------------------------


def _parquet(path: Path) -> Rows:
    try:
        with pq.ParquetFile(path) as file:
            number = 0
            for batch in file.iter_batches():
                for row in batch.to_pylist():
                    number += 1
                    yield f"{path}: row {number}", row
    except (pa.ArrowException, OSError) as error:
        raise UserError(f"{path} cannot be read as Parquet ({first_line(error)})") from error


def _squad(path: Path) -> Rows:
    """SQuAD nests questions in paragraphs in articles."""
    content = json_object(_text(path), str(path), "a list `data`")
    for i, article in enumerate(_list(content, "data", str(path))):
        place = f"{path}: data[{i}]"
        for j, paragraph in enumerate(_list(article, "paragraphs", place)):
            below = f"{place}.paragraphs[{j}]"
            for k, asked in enumerate(_list(paragraph, "qas", below)):
                here = f"{below}.qas[{k}]"
                if not isinstance(asked, Mapping):
                    raise UserError(f"{here} is not an object with a question")
                row = {"title": article.get("title"), "context": paragraph.get("context"), **asked}
                if row.get("is_impossible"):
                    row["answers"] = []
                yield here, {"answers": [], **row} if "is_impossible" in row else row


def _list(holder: Any, name: str, place: str) -> list[Any]:
    value = holder.get(name) if isinstance(holder, Mapping) else None
    if not isinstance(value, list):
        raise UserError(f"{place}: SQuAD's JSON has a list `{name}` there; other questions go into a .jsonl file")
    return value


READERS: dict[str, Callable[[Path], Rows]] = {
    **dict.fromkeys(ROW_FILES, partial(read_rows, wanted=COLUMNS)),
    ".json": _squad,
    ".parquet": _parquet,
}


def _text(path: Path) -> str:
    try:
        return path.read_text(encoding="utf-8-sig")
    except UnicodeDecodeError as error:
        raise UserError(f"{path} is not UTF-8 text ({error.reason} at byte {error.start})") from error
    except OSError as error:
        raise UserError(f"{path} cannot be read ({error.strerror})") from error


# -- a row -------------------------------------------------------------------------------------------------------------


def _question(row: Mapping[str, Any], place: str, default_id: str, wants_answers: bool) -> Question:
    is_prompt = "prompt" in row and "question" not in row
    asked = _required(row, "prompt" if is_prompt else "question", place)
    context = None if is_prompt else _required(row, "context", place)
    found = _answers(row, place)
    if is_prompt and wants_answers and not found:
        raise UserError(
            f"{place}: answer is missing or empty; a prompt needs one" if "answer" in row else _lacks(place)
        )
    document = row.get("title") or context or asked
    return Question(
        id=str(default_id if row.get("id") is None else row["id"]),
        document=str(document),
        question=asked,
        context=context,
        answers=tuple(text for text, _ in found),
        starts=tuple(-1 if context is None else locate(context, text, start) for text, start in found),
    )


def _required(row: Mapping[str, Any], name: str, place: str) -> str:
    if name not in row:
        raise UserError(f"{place}: {name} is missing; it needs {COLUMNS}")
    return _filled(row[name], name, place)


def _filled(value: Any, name: str, place: str) -> str:
    if not isinstance(value, str):
        raise UserError(f"{place}: {name} is {json.dumps(value, default=str)[:40]}, not a text")
    if not value.strip():
        raise UserError(f"{place}: {name} is empty")
    if not value.isascii() and any("\ud800" <= character <= "\udfff" for character in value):
        raise UserError(f"{place}: {name} holds half a surrogate pair, which is no character")
    return value


def _answers(row: Mapping[str, Any], place: str) -> list[tuple[str, int | None]]:
    """The right answers with where they say they begin; none where there is no answer."""
    if "answers" not in row and "answer" not in row:
        raise UserError(_lacks(place))
    value = row["answers"] if "answers" in row else row["answer"]
    if isinstance(value, Mapping) and isinstance(value.get("text"), list):  # as Hugging Face has SQuAD
        starts = value.get("answer_start") or [None] * len(value["text"])
        value = [{"text": text, "answer_start": start} for text, start in zip(value["text"], starts, strict=False)]
    elif isinstance(value, str):
        value = [{"text": value, "answer_start": row.get("answer_start")}] if value.strip() else []
    elif value is None:
        value = []
    if not isinstance(value, list):
        raise UserError(f"{place}: answer is {json.dumps(value, default=str)[:40]}, not a text or a list of texts")
    found: dict[str, int | None] = {}
    for answer in value:
        given = answer if isinstance(answer, Mapping) else {"text": answer}
        text = _filled(given.get("text"), "answer", place).strip()
        found.setdefault(text, _start(given.get("answer_start"), place))
    return list(found.items())


def _start(value: Any, place: str) -> int | None:
    if value is None or value == "":
        return None
    try:
        return int(value)
    except (TypeError, ValueError):
        raise UserError(f"{place}: answer_start is {value!r}, not a number of characters") from None


def _lacks(place: str) -> str:
    return f"{place}: answer is missing; it needs {COLUMNS} (an empty answer says that there is none)"
