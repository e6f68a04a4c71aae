"""Training to find the answer in its context: an objective for the `Trainer`, of windows with spans."""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from modeling.answering.config import AnsweringConfig
from modeling.answering.metrics import scores
from modeling.answering.spans import COLUMNS, answers_of, best_spans
from modeling.answering.windows import QuestionWindows
from modeling.training.distributed import Ranks
from modeling.training.objectives import epoch_order, evaluation_rows, to_device

__all__ = ["LONGEST", "SpanBatch", "SpanSearch"]

LONGEST = 30  # tokens of an answer (Devlin et al. 2019)


class SpanBatch(NamedTuple):
    """Windows, and where the answers are.

    Attributes:
        ids: int64 [B, T].
        allowed: bool [B, T], where an answer may be.
        documents: int64 [B, T], 1 where there is padding, which nothing sees.
        starts, ends: int64 [B], the first and the last position of the answer.
    """

    ids: Tensor
    allowed: Tensor
    documents: Tensor
    starts: Tensor
    ends: Tensor

    def to(self, device: torch.device) -> SpanBatch:
        return SpanBatch(*to_device(self, device))


class SpanSearch:
    """Point at the first and the last token of the answer (Devlin et al. 2019, BERT)."""

    def __init__(self, train: QuestionWindows, validation: QuestionWindows, config: AnsweringConfig):
        """`config` has no open settings, `train` only questions whose answers have a place, or that have none."""
        self.train, self.validation, self.config = train, validation, config
        self.length = train.layout.length

    def train_batch(self, step: int, batch: int, batch_rows: range) -> SpanBatch:
        numbers = np.arange(step * batch + batch_rows.start, step * batch + batch_rows.stop, dtype=np.int64)
        return read(self.train, epoch_order(numbers, len(self.train), self.config.seed))

    def evaluate(
        self, model: Callable[..., Tensor], ranks: Ranks, device: torch.device, batch: int
    ) -> dict[str, float]:
        windows, longest = self.validation, self.config.longest_answer or LONGEST
        found = torch.zeros(len(windows), COLUMNS, dtype=torch.float64)
        nats = torch.zeros(2, dtype=torch.float64)  # and the windows that they are of
        located = np.array([question.is_found for question in windows.questions])[windows.question]
        for rows, weight in evaluation_rows(len(windows), ranks, batch):
            ids, allowed, documents, starts, ends = read(windows, rows.numpy()).to(device)
            logits = model(ids, allowed, documents)
            found[rows] += best_spans(logits, allowed, longest).cpu() * weight
            first, last = (F.cross_entropy(logits[..., i], (starts, ends)[i], reduction="none") for i in (0, 1))
            counted = torch.from_numpy(located[rows.numpy()]) * weight
            nats += torch.stack((((first + last).cpu().double() / 2 * counted).sum(), counted.sum().double()))
        found, nats = ranks.sum(found, device), ranks.sum(nats, device)
        answers = answers_of(windows, found.numpy(), bool(self.config.no_answer))
        texts = [answer.text for answer in answers]
        return {"validation_loss": (nats[0] / nats[1].clamp(min=1)).item()} | scores(texts, windows.questions)


def read(windows: QuestionWindows, numbers: np.ndarray) -> SpanBatch:
    """Windows of these numbers."""
    ids, allowed = windows.batch(numbers)
    documents = (ids == windows.layout.special_tokens["[PAD]"]).astype(np.int64)
    tensors = (ids, allowed, documents, windows.starts[numbers], windows.ends[numbers])
    return SpanBatch(*map(torch.from_numpy, tensors))
