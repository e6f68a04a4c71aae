"""From logits of beginnings and ends to the answers of questions."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise

import numpy as np
import torch
from torch import Tensor

from modeling.answering.windows import QuestionWindows

__all__ = ["COLUMNS", "Answer", "answers_of", "best_spans"]

# What is kept of a window: its best span's logit, where that begins and ends, the logit of no answer, and the logarithm
# of the sum of all spans' exponentials
COLUMNS = 5


@dataclass(frozen=True)
class Answer:
    """An answer; a text of no characters says that there is none.

    Attributes:
        text: the answer.
        score: its probability by the model, in [0, 1].
        start, end: its characters in the context; None where it is not a part of one.
    """

    text: str
    score: float
    start: int | None = None
    end: int | None = None


def best_spans(logits: Tensor, allowed: Tensor, longest: int) -> Tensor:
    """The best span of each window, and what is needed to compare windows: fp64 [B, COLUMNS].

    Args:
        logits: of beginning and end, [B, T, 2].
        allowed: bool [B, T], the context's positions and the first one, which stands for no answer.
        longest: most positions of a span.
    """
    inside = allowed.clone()
    inside[:, 0] = False
    starts, ends = logits.double().masked_fill(~inside.unsqueeze(2), -torch.inf).unbind(2)
    T = allowed.shape[1]
    band = torch.ones(T, T, dtype=torch.bool, device=logits.device).triu().tril(longest - 1)
    spans = (starts.unsqueeze(2) + ends.unsqueeze(1)).masked_fill(~band, -torch.inf).flatten(1)
    score, place = spans.max(dim=1)
    none = logits[:, 0].double().sum(dim=1)
    return torch.stack((score, (place // T).double(), (place % T).double(), none, spans.logsumexp(dim=1)), dim=1)


def answers_of(windows: QuestionWindows, found: np.ndarray, no_answer: bool) -> list[Answer]:
    """The answers to the questions whose windows these are.

    Args:
        windows: of the questions.
        found: what `best_spans` gives for each, fp64 [windows, COLUMNS].
        no_answer: whether a question may have none. It has none if that is more probable than the best span, in the
            window where a span is most probable.
    """
    bounds: Sequence[int] = windows.bounds.tolist()
    return [_answer(windows, first, found[first:last], no_answer) for first, last in pairwise(bounds)]


def _answer(windows: QuestionWindows, first: int, found: np.ndarray, no_answer: bool) -> Answer:
    best = int(found[:, 0].argmax())
    score, start, end, _, _ = found[best].tolist()
    none = float(found[:, 3].min()) if no_answer else -np.inf
    total = float(np.logaddexp.reduce(np.append(found[:, 4], none)))
    if none >= score:
        return Answer("", float(np.exp(none - total)))
    begin, stop = windows.span(first + best, int(start), int(end))
    context = windows.questions[int(windows.question[first + best])].context or ""
    return Answer(context[begin:stop], float(np.exp(score - total)), begin, stop)
