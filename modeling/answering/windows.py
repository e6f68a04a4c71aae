"""Windows of a question and a part of its context, in which an answer is looked for.

    ids      [CLS] question [SEP] context [SEP] [PAD] …
    allowed    1      0       0      1      0     0

A context that is too long for one window is read in several that overlap (Devlin et al. 2019, BERT). Where a window
lacks the answer, [CLS] is to be pointed at.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import NamedTuple

import numpy as np

from modeling.answering.questions import NOT_FOUND, Question
from textmill.errors import UserError
from tokenization.tokenizer import Tokenizer

__all__ = ["Encoded", "Layout", "QuestionWindows", "encoded"]

MIN_LENGTH = 16  # three special tokens, and something of question and context
ROLES = ("[CLS]", "[SEP]", "[PAD]")


class Encoded(NamedTuple):
    """A text as ids, int64 [T], and where the bytes of each token begin, int64 [T + 1]."""

    ids: np.ndarray
    offsets: np.ndarray

    def tokens_of(self, start: int, end: int) -> tuple[int, int]:
        """The first and the last of the tokens that hold these bytes."""
        first = int(np.searchsorted(self.offsets, start, side="right")) - 1
        return first, int(np.searchsorted(self.offsets, end, side="left")) - 1

    def parts(self, room: int, stride: int | None) -> Iterator[tuple[int, int]]:
        """The first token of each window, and the one after its last: windows of `room` tokens that overlap.

        Example:
            >>> list(Encoded(np.arange(10), np.arange(11)).parts(room=6, stride=None))
            [(0, 6), (3, 9), (6, 10)]
        """
        step = min(stride or max(1, room // 2), room)
        for first in range(0, max(1, len(self.ids) - room + step), step):
            yield first, min(first + room, len(self.ids))

    def characters(self, text: str, first: int, last: int) -> tuple[int, int]:
        """Where in the encoded text the tokens from `first` up to `last` begin and end, never within a character."""
        data = text.encode()
        begin, end = (len(data[: self.offsets[token]].decode(errors="ignore")) for token in (first, last))
        return begin, end


def encoded(texts: Iterable[str], tokenizer: Tokenizer) -> dict[str, Encoded]:
    """Each of the texts with its tokens.

    Raises:
        UserError: the tokenizer changes a text, so that the places of its tokens cannot be known.
    """
    distinct = list(dict.fromkeys(texts))
    lengths = tokenizer.byte_lengths().astype(np.int64)
    found = {}
    for text, ids in zip(distinct, tokenizer.encode_batch(distinct), strict=True):
        offsets = np.concatenate([[0], np.cumsum(lengths[ids])])
        if tokenizer.decode_bytes(ids.tolist()) != text.encode():
            raise UserError(
                f"the tokenizer changes the text {text[:40]!r} before it cuts it, so that the place of an answer is "
                "not known; give it as the tokenizer reads it"
            )
        found[text] = Encoded(ids.astype(np.int64), offsets)
    return found


class Layout(NamedTuple):
    """How windows are laid out.

    Attributes:
        length: tokens of a window.
        stride: tokens of the context from one window to the next; None: half of those that a window holds.
        special_tokens: name → id.
    """

    length: int
    stride: int | None
    special_tokens: Mapping[str, int]

    def check(self) -> None:
        """
        Raises:
            UserError: a window is too short, or the tokenizer lacks a special token.
        """
        if self.length < MIN_LENGTH:
            raise UserError(
                f"a question with its context needs at least {MIN_LENGTH} tokens but the window holds {self.length}; "
                "pretrain with a larger model.context"
            )
        if missing := [name for name in ROLES if name not in self.special_tokens]:
            raise UserError(f"the tokenizer has no {' '.join(missing)}; train one with Textmill, which adds them")


class QuestionWindows:
    """All windows of some questions, in their order; those of question i are number `bounds[i]` to `bounds[i + 1]`.

    Attributes:
        questions: the ones asked.
        bounds: int64 [questions + 1].
        starts, ends: int64 [windows], the first and the last position of the answer; 0 where a window lacks it.
        cut: how many questions are cut at the end because they would fill more than half of a window.
    """

    def __init__(self, questions: Sequence[Question], tokenizer: Tokenizer, layout: Layout):
        layout.check()
        self.questions, self.layout = questions, layout
        self.contexts = encoded((question.context or "" for question in questions), tokenizer)
        asked = tokenizer.encode_batch([question.question for question in questions])
        self.cut = sum(len(ids) > self.most_asked for ids in asked)
        self.asked = [ids[: self.most_asked].astype(np.int64) for ids in asked]
        windows: list[tuple[int, ...]] = []
        bounds = [0]
        for number, question in enumerate(questions):
            windows += self._windows_of(number, question)
            bounds.append(len(windows))
        self.bounds = np.array(bounds, np.int64)
        # [windows]: the number of the question, the context's tokens from `first` up to `last`, and the answer
        self.question, self.first, self.last, self.starts, self.ends = np.array(windows, np.int64).reshape(-1, 5).T

    def __len__(self) -> int:
        return len(self.question)

    @property
    def most_asked(self) -> int:
        """Most tokens of a question."""
        return self.layout.length // 2 - 3

    def _windows_of(self, number: int, question: Question) -> Iterable[tuple[int, ...]]:
        context, asked = self.contexts[question.context or ""], self.asked[number]
        answer = self._answer(question, context)
        for first, last in context.parts(self.layout.length - len(asked) - 3, self.layout.stride):
            shift = len(asked) + 2 - first
            holds = answer is not None and first <= answer[0] and answer[1] < last
            yield number, first, last, *((answer[0] + shift, answer[1] + shift) if holds and answer else (0, 0))

    def _answer(self, question: Question, context: Encoded) -> tuple[int, int] | None:
        for answer, start in zip(question.answers, question.starts, strict=True):
            if start != NOT_FOUND:
                before = len((question.context or "")[:start].encode())
                return context.tokens_of(before, before + len(answer.encode()))
        return None

    def batch(self, numbers: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Windows of these numbers: ids int64 [B, T], and where an answer may be, bool [B, T]."""
        cls, sep, pad = (self.layout.special_tokens[name] for name in ROLES)
        ids = np.full((len(numbers), self.layout.length), pad, np.int64)
        allowed = np.zeros(ids.shape, bool)
        for row, window in enumerate(numbers.tolist()):
            question = int(self.question[window])
            asked = self.asked[question]
            context = self.contexts[self.questions[question].context or ""].ids
            part = context[self.first[window] : self.last[window]]
            begin = len(asked) + 2
            ids[row, : begin + len(part) + 1] = np.concatenate([[cls], asked, [sep], part, [sep]])
            allowed[row, 0] = True
            allowed[row, begin : begin + len(part)] = True
        return ids, allowed

    def span(self, window: int, start: int, end: int) -> tuple[int, int]:
        """The characters of the context from one position of a window to another, without blanks around them."""
        question = int(self.question[window])
        text = self.questions[question].context or ""
        shift = len(self.asked[question]) + 2 - int(self.first[window])
        begin, stop = self.contexts[text].characters(text, start - shift, end - shift + 1)
        found = text[begin:stop].strip()
        begin = text.index(found, begin)
        return begin, begin + len(found)
