"""Questions with their contexts and answers: a set is a folder with a Parquet file for each split."""

from __future__ import annotations

import hashlib
import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TypeVar

import pyarrow as pa
import pyarrow.parquet as pq

from textmill.errors import UserError, first_line
from textmill.files import atomic_path

__all__ = ["SPLITS", "Question", "hold_out", "locate", "read_split", "spread", "write_split"]

Item = TypeVar("Item")
SPLITS = ("train", "validation")
SCHEMA = pa.schema(
    [
        ("id", pa.string()),
        ("document", pa.string()),
        ("question", pa.string()),
        ("context", pa.string()),
        ("answers", pa.list_(pa.string())),
        ("starts", pa.list_(pa.int64())),
    ]
)
NOT_FOUND = -1


@dataclass(frozen=True)
class Question:
    """A question, and where its answer is.

    Attributes:
        id: of this question alone in its file.
        document: what the context is from; all questions of a document are of one split.
        question: the question, or a prompt.
        context: the text that holds the answer; None: there is only a prompt.
        answers: any of them is right; none: the context does not answer the question.
        starts: where each answer begins in the context, in characters; -1: it does not occur there.
    """

    id: str
    document: str
    question: str
    context: str | None
    answers: tuple[str, ...]
    starts: tuple[int, ...]

    @property
    def is_found(self) -> bool:
        """Whether the first answer is a part of the context, or the context has none."""
        return self.context is not None and (not self.answers or self.starts[0] != NOT_FOUND)


def locate(context: str, answer: str, start: int | None = None) -> int:
    """Where an answer begins in its context, -1 if it does not occur: at `start`, or nearest to it; without one its
    first occurrence that is not a part of a longer word, or else the first.

    Example:
        >>> locate("the cat: a cat", "cat"), locate("the cat: a cat", "cat", 10), locate("the cat", "dog")
        (4, 11, -1)
        >>> locate("concatenate a cat", "cat")
        14
    """
    if start is not None and context.startswith(answer, start) and start >= 0:
        return start
    found = [match.start() for match in re.finditer(f"(?={re.escape(answer)})", context)]
    if not found:
        return NOT_FOUND
    if start is not None:
        return min(found, key=lambda place: abs(place - start))
    words = (match.start() for match in re.finditer(rf"(?<!\w){re.escape(answer)}(?!\w)", context))
    return next(words, found[0])


def hold_out(questions: Sequence[Question], fraction: float) -> tuple[list[Question], list[Question]]:
    """Questions to train on, and those of a share of the documents: at least one, chosen by a hash of its name.

    Raises:
        UserError: they are all of one document.
    """
    documents = sorted({question.document for question in questions}, key=_hash)
    if len(documents) < 2:
        raise UserError("all questions have the same context, so none can be held out; give a file as `validation`")
    held = set(documents[: min(len(documents) - 1, max(1, round(fraction * len(documents))))])
    return [q for q in questions if q.document not in held], [q for q in questions if q.document in held]


def _hash(document: str) -> bytes:
    return hashlib.sha256(document.encode(errors="surrogatepass")).digest()


def spread(questions: Sequence[Item], count: int | None) -> list[Item]:
    """So many questions, or all, evenly from among them."""
    count = min(count or len(questions), len(questions))
    return [questions[number * len(questions) // count] for number in range(count)]


def write_split(folder: Path, split: str, questions: Iterable[Question]) -> None:
    """Write the questions of a split, whole or not at all."""
    rows = [{name: getattr(question, name) for name in SCHEMA.names} for question in questions]
    with atomic_path(folder / f"{split}.parquet") as unfinished:
        pq.write_table(pa.Table.from_pylist(rows, SCHEMA), unfinished, compression="zstd")


def read_split(folder: Path, split: str) -> list[Question]:
    """The questions of a split that `write_split` wrote.

    Raises:
        UserError: there are none.
    """
    path = folder / f"{split}.parquet"
    if not path.is_file():
        raise UserError(f"{folder} holds no set of questions ({path.name} is missing); give what `questions` made")
    try:
        rows = pq.read_table(path, schema=SCHEMA).to_pylist()
    except (pa.ArrowException, OSError) as error:
        raise UserError(f"{path} cannot be read ({first_line(error)}); make the set of questions again") from error
    return [Question(**row | {"answers": tuple(row["answers"]), "starts": tuple(row["starts"])}) for row in rows]
