"""Fine-tuning on pairs of sentences: hidden tokens, and whether the second sentence follows the first.

Devlin et al. 2019 (BERT): windows `[CLS] A [SEP] B [SEP]`, and the sum of both losses. The network is in
`modeling.networks.sentence_pairs`.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import lru_cache
from typing import NamedTuple

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from modeling.config.finetune import FinetuneConfig
from modeling.masking import Masking, MaskRates, own_targets
from modeling.training.distributed import Ranks
from modeling.training.objectives import (
    epoch_order,
    evaluation_rows,
    generator_at,
    to_device,
)
from textmill.errors import UserError
from tokenization.sentence_pairs import SentencePairs
from tokenization.tokenizer import Tokenizer

__all__ = ["SentencePairBatch", "SentencePairLM"]

MIN_LENGTH = 8  # three special tokens, and something of each sentence


class SentencePairBatch(NamedTuple):
    """Windows, what is to be predicted in them, and whether their sentences belong together.

    Attributes:
        ids: int64 [B, T].
        targets: int64 [B, K].
        positions: int64 [B, K], the ones that predict the targets.
        is_next: bool [B], whether the second sentence follows the first.
        documents: int64 [B, T], 0 for the pair and 1 for [PAD], which nothing else sees.
    """

    ids: Tensor
    targets: Tensor
    positions: Tensor
    is_next: Tensor
    documents: Tensor

    def to(self, device: torch.device) -> SentencePairBatch:
        return SentencePairBatch(*to_device(self, device))

    def rows(self, chosen: slice | Tensor) -> SentencePairBatch:
        return SentencePairBatch(*(tensor[chosen] for tensor in self))


class SentencePairLM:
    """Predict tokens hidden from a pair of sentences, and whether the second follows the first.

    Windows have `pair_length` tokens, or the context if that is less. A share of a window's own tokens is hidden, so
    that short pairs are not hidden whole.
    """

    def __init__(
        self, train: SentencePairs, validation: SentencePairs, context: int, config: FinetuneConfig,
        tokenizer: Tokenizer,
    ):  # fmt: skip
        """
        Raises:
            UserError: the context is too short for a pair, or a split has none.
        """
        self.train, self.config = train, config
        self.length = min(config.pair_length, context)
        if self.length < MIN_LENGTH:
            raise UserError(
                f"a pair of sentences needs at least {MIN_LENGTH} tokens but the window holds {context}; "
                "pretrain with a larger model.context"
            )
        for pairs in (train, validation):
            if not len(pairs):
                raise UserError(f"the {pairs.sentences.split} split has no pairs of sentences; give more text")
        self.masking = Masking(tokenizer, config.masking.shift)
        count = max(1, min(len(validation), config.evaluate_tokens // self.length))
        spread = np.arange(count, dtype=np.int64) * len(validation) // count
        rates, fixed = MaskRates(config.evaluate_mask_rate), torch.Generator().manual_seed(0)
        self.validation_batch, counts = self.masked(validation, spread, rates, fixed)
        self.counted = own_targets(self.validation_batch.targets, counts)
        self.validation_targets = self.validation_batch.targets[self.counted]

    def train_batch(self, step: int, batch: int, batch_rows: range) -> SentencePairBatch:
        return self.global_batch(step, batch).rows(slice(batch_rows.start, batch_rows.stop))

    @lru_cache(maxsize=1)  # noqa: B019 - an objective lives as long as its run
    def global_batch(self, step: int, batch: int) -> SentencePairBatch:
        """The batch of all ranks, for which masks are drawn: a rank's rows do not depend on the number of ranks."""
        numbers = np.arange(step * batch, (step + 1) * batch, dtype=np.int64)
        indices = epoch_order(numbers, len(self.train), self.config.seed)
        rates, generator = MaskRates.of_training(self.config), generator_at(self.config.seed, step)
        return self.masked(self.train, indices, rates, generator)[0]

    def masked(
        self, pairs: SentencePairs, indices: np.ndarray, rates: MaskRates, generator: torch.Generator
    ) -> tuple[SentencePairBatch, Tensor]:
        """Windows of these pairs, and how many tokens are hidden in each, int64 [B]."""
        read = pairs.batch(indices, self.length)
        ids = torch.from_numpy(read.ids)
        ordinary = self.masking.ordinary(ids).sum(dim=1)
        counts = (ordinary * rates.hidden).round().long().clamp(min=1)
        hidden, targets, positions, counts = self.masking.hide(ids, counts, rates, generator)
        padding = torch.from_numpy(~read.attention).long()
        return SentencePairBatch(hidden, targets, positions, torch.from_numpy(read.is_next), padding), counts

    def evaluate(
        self, model: Callable[..., tuple[Tensor, Tensor]], ranks: Ranks, device: torch.device, batch: int
    ) -> dict[str, float]:
        sums = torch.zeros(4, dtype=torch.float64)  # nats and right guesses of tokens, nats and right guesses of pairs
        total = len(self.counted)
        for rows, weight in evaluation_rows(total, ranks, batch):
            ids, targets, positions, is_next, documents = self.validation_batch.rows(rows).to(device)
            counted = self.counted[rows].to(device)
            logits, follows = model(ids, positions=positions, documents=documents)
            logits, targets = logits.float()[counted], targets[counted]
            metrics = (
                F.cross_entropy(logits, targets, reduction="sum"),
                (logits.argmax(dim=-1) == targets).sum(),
                F.binary_cross_entropy_with_logits(follows, is_next.float(), reduction="sum"),
                ((follows > 0) == is_next).sum(),
            )
            sums += torch.stack(metrics).cpu().double() * weight
        sums = ranks.sum(sums, device)
        token_loss, accuracy = (sums[:2] / len(self.validation_targets)).tolist()
        pair_loss, pair_accuracy = (sums[2:] / total).tolist()
        return {
            "validation_loss": token_loss + pair_loss,
            "masked_loss": token_loss,
            "masked_accuracy": accuracy,
            "next_sentence_loss": pair_loss,
            "next_sentence_accuracy": pair_accuracy,
        }
