"""From a source to a target: what an encoder-decoder is trained on.

Either spans of text are hidden, and the model writes what was there (span corruption: Raffel et al. 2020, T5), or the
data has a target to each source. Every target begins with an end of text and ends with one; every source ends with one.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from functools import lru_cache
from typing import NamedTuple, Protocol

import numpy as np
import torch
from torch import Tensor

from modeling.config.objective import EVALUATED_SPANS, SourceTarget
from modeling.config.pretrain import PretrainConfig
from modeling.config.run import RunConfig
from modeling.networks.encoder_decoder import Sources
from modeling.spans import Spans, begun
from modeling.training.distributed import Ranks
from modeling.training.objectives import epoch_order, evaluation_rows, generator_at, to_device
from modeling.training.windows import MixedWindows, TrainWindows, training_windows, validation_windows
from textmill.errors import UserError
from tokenization.arrays import TokenArrays
from tokenization.config import sentinel_names
from tokenization.tokenizer import Tokenizer

__all__ = ["PairWriting", "Pairs", "Seq2SeqBatch", "SpanCorruption", "pair_batch", "span_corruption", "summed_loss"]


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


class Pairs(Protocol):
    """Sources and targets, each with its end of text; `tokenization.text_pairs.TextPairs` are some."""

    def __len__(self) -> int: ...

    def pair(self, index: int) -> tuple[np.ndarray, np.ndarray]: ...

    def lengths(self) -> np.ndarray: ...


class PairWriting:
    """Write the target of each source.

    Of a source or a target that is longer than the context the end is cut, but for its end of text. The loss is the
    mean over the tokens of all targets of a step, those of padding aside.

    Attributes:
        length: of a source and a target, on average.
        cut: how many pairs of the training split are cut.
    """

    def __init__(self, train: Pairs, validation: Pairs, config: RunConfig, context: int, token_bytes: np.ndarray):
        """`token_bytes` [V]: bytes that each id stands for.

        Raises:
            UserError: a split has no pairs.
        """
        if not (len(train) and len(validation)):
            raise UserError(f"the {'validation' if len(train) else 'train'} split has no pairs; give more of them")
        self.train, self.config, self.context = train, config, context
        lengths = train.lengths()
        self.cut = int((lengths > context).any(axis=1).sum())
        self.length = SourceTarget(*np.ceil(np.minimum(lengths, context).mean(axis=0)).astype(int).tolist())
        count = max(1, min(len(validation), config.evaluate_tokens // sum(self.length)))
        spread = np.arange(count, dtype=np.int64) * len(validation) // count
        self.validation = pair_batch([validation.pair(number) for number in spread.tolist()], context)
        counts = self.validation.sources.counts
        sizes = torch.from_numpy(token_bytes.astype(np.int64))[self.validation.targets]
        self.target_bytes = int(sizes.sum() if counts is None else sizes[counts > 0].sum())

    def train_batch(self, step: int, batch: int, batch_rows: range) -> Seq2SeqBatch:
        return self.global_batch(step, batch).rows(slice(batch_rows.start, batch_rows.stop))

    @lru_cache(maxsize=1)  # noqa: B019 - an objective lives as long as its run
    def global_batch(self, step: int, batch: int) -> Seq2SeqBatch:
        """The batch of all ranks: rows of each are padded alike, and its targets count as their share of all."""
        numbers = np.arange(step * batch, (step + 1) * batch, dtype=np.int64)
        chosen = epoch_order(numbers, len(self.train), self.config.seed).tolist()
        whole = pair_batch([self.train.pair(number) for number in chosen], self.context)
        counts = whole.sources.counts
        if counts is None:
            return whole
        return whole._replace(sources=whole.sources._replace(counts=counts * (counts.numel() / counts.sum())))

    def evaluate(
        self, model: Callable[..., Tensor], ranks: Ranks, device: torch.device, batch: int
    ) -> dict[str, float]:
        nats, tokens = summed_loss(self.validation, model, ranks, device, batch)
        return {"validation_loss": nats / tokens, "bits_per_byte": nats / math.log(2) / max(1, self.target_bytes)}


def pair_batch(pairs: Sequence[tuple[np.ndarray, np.ndarray]], context: int) -> Seq2SeqBatch:
    """Pairs as a batch, as long as the longest of them and at most as the context; real targets count 1, padding 0.

    Args:
        pairs: ids of each source and target, with the end of text that ends both.
        context: most tokens of either.
    """
    end = int(pairs[0][0][-1])
    sources, source_lengths = padded([cut(source, context) for source, _ in pairs], end)
    targets, target_lengths = padded([cut(target, context) for _, target in pairs], end)
    counts = None
    if target_lengths is not None:
        counts = (torch.arange(targets.shape[1]) < target_lengths[:, None]).float()
    return Seq2SeqBatch(begun(targets, end), targets, None, None, Sources(sources, source_lengths, counts))


def cut(ids: np.ndarray, most: int) -> np.ndarray:
    """The ids, at most so many: the last stays the last."""
    return ids if len(ids) <= most else np.append(ids[: most - 1], ids[-1])


def padded(rows: Sequence[np.ndarray], end: int) -> tuple[Tensor, Tensor | None]:
    """Rows of ids as int64 [B, T], filled up with `end`, and their lengths [B]; None where all have the same."""
    lengths = torch.tensor([len(row) for row in rows])
    ids = torch.full((len(rows), int(lengths.max())), end)
    for row, own in zip(ids, rows, strict=True):
        row[: len(own)] = torch.from_numpy(own.astype(np.int64))
    return ids, None if lengths.min() == lengths.max() else lengths


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
