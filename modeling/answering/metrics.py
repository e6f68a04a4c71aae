"""Exact match and F1 of answers, as SQuAD's evaluation counts them (Rajpurkar et al. 2016; v2: Rajpurkar et al. 2018).

Both compare texts in lower case without punctuation, articles and repeated blanks. A question without an answer is
answered by an empty text.
"""

from __future__ import annotations

import re
import string
from collections import Counter
from collections.abc import Sequence

from modeling.answering.questions import Question

__all__ = ["exact_match", "f1", "normalized", "scores"]

ARTICLES = re.compile(r"\b(a|an|the)\b")
NO_PUNCTUATION = str.maketrans("", "", string.punctuation)


def normalized(answer: str) -> str:
    """An answer as it is compared.

    Example:
        >>> normalized("The  Eiffel Tower!")
        'eiffel tower'
    """
    return " ".join(ARTICLES.sub(" ", answer.lower().translate(NO_PUNCTUATION)).split())


def exact_match(answer: str, right: str) -> float:
    """1 where both are the same once normalized, else 0."""
    return float(normalized(answer) == normalized(right))


def f1(answer: str, right: str) -> float:
    """Harmonic mean of precision and recall of the answer's words; of an empty text, 1 where both are.

    Example:
        >>> f1("the tall tower", "Eiffel Tower")
        0.5
    """
    given, wanted = normalized(answer).split(), normalized(right).split()
    if not given or not wanted:
        return float(given == wanted)
    common = (Counter(given) & Counter(wanted)).total()
    return 2 * common / (len(given) + len(wanted))


def scores(answers: Sequence[str], questions: Sequence[Question]) -> dict[str, float]:
    """Means over the questions, each by the right answer that suits it best: `exact_match` and `f1`, from 0 to 1."""
    exact = harmonic = 0.0
    for answer, question in zip(answers, questions, strict=True):
        right = [text for text in question.answers if normalized(text)] or [""]
        exact += max(exact_match(answer, text) for text in right)
        harmonic += max(f1(answer, text) for text in right)
    return {"exact_match": exact / len(questions), "f1": harmonic / len(questions)}
