"""From a source to a target: what an encoder-decoder is trained on.

Either spans of text are hidden, and the model writes what was there (span corruption: Raffel et al. 2020, T5), or the
data has a target to each source. Every target begins with an end of text and ends with one; every source ends with one.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from functools import lru_cache
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor

from modeling.config import EVALUATED_SPANS, PretrainConfig
from modeling.networks.encoder_decoder import Sources
from modeling.spans import Spans, begun
from modeling.training.distributed import Ranks
from modeling.training.objectives import evaluation_rows, generator_at, to_device
from modeling.training.windows import MixedWindows, TrainWindows, training_windows, validation_windows
from textmill.errors import UserError
from tokenization.arrays import TokenArrays
from tokenization.config import sentinel_names
from tokenization.tokenizer import Tokenizer

__all__ = ["Seq2SeqBatch", "SpanCorruption", "span_corruption", "summed_loss"]


class Seq2SeqBatch(NamedTuple):
    """Sources and targets, in the order of what `EncoderDecoder.forward` takes.

    Attributes:
        ids: int64 [B, T], what the decoder reads: the targets one position later, after an end of text.
        targets: int64 [B, T].
        positions: None: every position predicts a target.
        state: None: the sources are given, and not read yet.
        sources: of these targets.
    """

    ids: Tensor
    targets: Tensor
    positions: None
    state: None
    sources: Sources

    def to(self, device: torch.device) -> Seq2SeqBatch:
        ids, targets, *sources = to_device((self.ids, self.targets, *self.sources), device)
        return Seq2SeqBatch(ids, targets, None, None, Sources(*sources))

    def rows(self, chosen: slice | Tensor) -> Seq2SeqBatch:
        ids, lengths, counts = self.sources
        sources = Sources(
            ids[chosen], None if lengths is None else lengths[chosen], None if counts is None else counts[chosen]
        )
        return Seq2SeqBatch(self.ids[chosen], self.targets[chosen], None, None, sources)


class SpanCorruption:
    """Write the spans that are hidden from running text.

    Spans of training follow from (seed, step). Evaluation hides those of the paper's settings, whatever training does,
    in fixed windows, so that losses of runs compare.
    """

    def __init__(
        self, train: TrainWindows | MixedWindows, validation: TokenArrays, spans: Spans, evaluation: Spans, seed: int,
        evaluate_tokens: int,
    ):  # fmt: skip
        """`train` has windows of `spans.window` tokens.

        Raises:
            UserError: the validation split has not enough tokens for a window.
        """
        self.train, self.spans, self.seed, self.length = train, spans, seed, spans.length
        windows = validation_windows(validation, evaluation.window, 0, evaluate_tokens)
        self.validation = hidden_spans(evaluation, windows, torch.Generator().manual_seed(0))
        sizes = torch.from_numpy(validation.token_bytes.astype(np.int64))  # 0 of sentinels
        self.hidden_bytes = int(sizes[self.validation.targets].sum())

    def train_batch(self, step: int, batch: int, batch_rows: range) -> Seq2SeqBatch:
        return self.global_batch(step, batch).rows(slice(batch_rows.start, batch_rows.stop))

    @lru_cache(maxsize=1)  # noqa: B019 - an objective lives as long as its run
    def global_batch(self, step: int, batch: int) -> Seq2SeqBatch:
        """The batch of all ranks, for which spans are drawn: a rank's rows do not depend on the number of ranks."""
        windows = torch.from_numpy(self.train.read(step * batch, range(batch)))
        return hidden_spans(self.spans, windows, generator_at(self.seed, step))

    def evaluate(
        self, model: Callable[..., Tensor], ranks: Ranks, device: torch.device, batch: int
    ) -> dict[str, float]:
        nats, tokens = summed_loss(self.validation, model, ranks, device, batch)
        return {
            "validation_loss": nats / tokens,
            "bits_per_byte": nats / math.log(2) / max(1, self.hidden_bytes),
        }


def hidden_spans(spans: Spans, windows: Tensor, generator: torch.Generator) -> Seq2SeqBatch:
    """The batch of windows int64 [B, spans.window]."""
    source, target = spans.corrupt(windows, generator)
    return Seq2SeqBatch(begun(target, spans.end), target, None, None, Sources(source))


def span_corruption(
    train: TokenArrays, validation: TokenArrays, config: PretrainConfig, tokenizer: Tokenizer
) -> SpanCorruption:
    """The objective of a pretraining on running text.

    Raises:
        UserError: the tokenizer has too few sentinels, or as `training_windows` and `SpanCorruption` do.
    """
    sentinels, wanted = tokenizer.sentinels, config.sentinels()
    if len(sentinels) < wanted:
        names = sentinel_names(wanted)
        raise UserError(
            f"the tokenizer has {len(sentinels)} sentinels but spans of this context need {wanted}, the special tokens "
            f"{names[0]} to {names[-1]}; train one with --set train_tokenizer.sentinels={wanted}"
        )
    context, end = config.model.context, tokenizer.eot_id
    spans = Spans(config.spans, context, sentinels, end)
    windows = training_windows(train, config, spans.window, 0)
    evaluation = Spans(EVALUATED_SPANS, context, sentinels, end)
    return SpanCorruption(windows, validation, spans, evaluation, config.seed, config.evaluate_tokens)


def summed_loss(
    data: Seq2SeqBatch, model: Callable[..., Tensor], ranks: Ranks, device: torch.device, batch: int
) -> tuple[float, float]:
    """The loss of all targets in nats, and how many there are; arguments as in `Objective.evaluate`. The counts of
    targets are 0 or 1."""
    sums = torch.zeros(2, dtype=torch.float64)
    for rows, weight in evaluation_rows(len(data.ids), ranks, batch):
        part = data.rows(rows).to(device)
        counts = part.sources.counts
        tokens = part.targets.numel() if counts is None else counts.sum().item()
        nats = model(*part).cpu().double() * part.targets.numel()
        sums += torch.stack((nats, torch.tensor(tokens, dtype=torch.float64))) * weight
    nats, tokens = ranks.sum(sums, device).tolist()
    return nats, tokens
