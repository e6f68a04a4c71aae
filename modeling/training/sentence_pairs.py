"""Fine-tuning on pairs of sentences: hidden tokens, and whether the second sentence follows the first.

Devlin et al. 2019: rows `[CLS] A [SEP] B [SEP]`, a small head that reads the first position, the sum of both losses.

Two things are simpler than there, and leave the model file as it is. [SEP] alone says where the second sentence begins,
without an embedding of segments, as in DistilBERT (Sanh et al. 2019). And rows are attended to whole: [PAD] is a token
that the model learns to pass over; a mask of its own for every row would take attention off its fastest kernels.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from functools import lru_cache
from pathlib import Path
from typing import NamedTuple

import numpy as np
import safetensors.torch
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from modeling.checkpoint import WEIGHTS, load_model, write_tensors
from modeling.config import FinetuneConfig, ModelConfig
from modeling.device import choose
from modeling.networks.loss_head import cross_entropy
from modeling.networks.transformer import GPT, at_rows
from modeling.training.distributed import Ranks
from modeling.training.objectives import Masking, generator_of, moved, shares
from textmill.errors import UserError
from tokenization.arrays import shuffled
from tokenization.formats import load_tokenizer
from tokenization.sentence_pairs import SentencePairs, lay_out

LEAST_LENGTH = 8  # three special tokens, and something of each sentence
HEAD = "next_sentence."  # name of the head among the weights
HEAD_FILE = "next_sentence.safetensors"


class PairModel(GPT):
    """A masked model with one logit more, read at the first position: that the second sentence follows the first."""

    def __init__(self, config: ModelConfig, vocab_size: int):
        super().__init__(config, vocab_size, causal=False)
        self.next_sentence = nn.Linear(config.width, 1)
        nn.init.zeros_(self.next_sentence.weight)
        nn.init.zeros_(self.next_sentence.bias)

    def follows(self, hidden: Tensor) -> Tensor:
        """Logits [B] in fp32 from hidden states [B, T, W]."""
        return self.next_sentence(hidden[:, 0]).squeeze(-1).float()

    def forward(
        self, ids: Tensor, targets: Tensor | None = None, rows: Tensor | None = None, is_next: Tensor | None = None
    ) -> Tensor | tuple[Tensor, Tensor]:
        """From ids [B, T] and `rows` [B, K]: with `targets` [B, K] and `is_next` [B] the sum of the two mean losses in
        nats, a scalar; without them logits [B, K, V] of tokens and [B] of following."""
        hidden = self.hidden(ids)
        follows = self.follows(hidden)
        chosen = at_rows(hidden, rows)
        if targets is None:
            return self.logits(chosen), follows
        tokens = cross_entropy(chosen.flatten(0, 1), self.head.weight, targets.flatten(), self.config.softcap)
        return tokens + F.binary_cross_entropy_with_logits(follows, is_next.float())


class PairedBatch(NamedTuple):
    """ids [B, T], targets and rows [B, K] as in `Batch`; is_next bool [B]."""

    ids: Tensor
    targets: Tensor
    rows: Tensor
    is_next: Tensor

    def to(self, device: torch.device) -> PairedBatch:
        return PairedBatch(*moved(self, device))


class PairedLM:
    """Predict tokens hidden from a pair of sentences, and whether they belong together.

    Rows have `pair_length` tokens, or the context if that is less. A share of a row's own tokens is hidden, so that
    short rows are not hidden whole.
    """

    def __init__(
        self, train: SentencePairs, validation: SentencePairs, context: int, config: FinetuneConfig,
        special_tokens: Mapping[str, int],
    ):  # fmt: skip
        self.train, self.config = train, config
        self.length = min(config.pair_length, context)
        if self.length < LEAST_LENGTH:
            raise UserError(
                f"a row with a pair of sentences needs at least {LEAST_LENGTH} tokens but the window holds {context}; "
                "pretrain with a larger model.context"
            )
        self.masking = Masking(special_tokens, train.sentences.vocab_size, config.shift)
        count = max(1, min(len(validation), config.evaluate_tokens // self.length))
        spread = np.arange(count, dtype=np.int64) * len(validation) // count
        fixed = torch.Generator().manual_seed(0)
        self.validation_batch, counts = self.masked(validation, spread, config.evaluate_mask_rate, 0.0, 0.0, fixed)
        # a row with fewer targets than the most repeats its own: in figures each counts once
        self.counted = torch.arange(self.validation_batch.targets.shape[1]) < counts.unsqueeze(1)
        self.validation_targets = self.validation_batch.targets[self.counted]

    def train_batch(self, step: int, batch: int, rows: range) -> PairedBatch:
        return PairedBatch(*(tensor[rows.start : rows.stop] for tensor in self.whole_batch(step, batch)))

    @lru_cache(maxsize=1)  # noqa: B019 - an objective lives as long as its run
    def whole_batch(self, step: int, batch: int) -> PairedBatch:
        """The global batch, for which rows are laid out: a rank's do not depend on the number of ranks."""
        config = self.config
        numbers = np.arange(step * batch, (step + 1) * batch, dtype=np.int64)
        epochs, places = np.divmod(numbers, len(self.train))
        indices = np.empty_like(numbers)
        for epoch in np.unique(epochs):
            chosen = epochs == epoch
            indices[chosen] = shuffled(places[chosen], len(self.train), config.seed, int(epoch))
        generator = generator_of(config.seed, step)
        return self.masked(self.train, indices, config.mask_rate, config.mask_random, config.mask_keep, generator)[0]

    def masked(
        self, pairs: SentencePairs, indices: np.ndarray, rate: float, random: float, keep: float,
        generator: torch.Generator,
    ) -> tuple[PairedBatch, Tensor]:  # fmt: skip
        """Rows of these pairs, and how many tokens are hidden in each, int64 [B]."""
        read = pairs.batch(indices, self.length)
        ids = torch.from_numpy(read.ids)
        words = (~torch.isin(ids, self.masking.special)).sum(dim=1)
        counts = (words * rate).round().long().clamp(min=1)
        hidden = self.masking.hide(ids, counts, random, keep, generator)
        return PairedBatch(*hidden, torch.from_numpy(read.is_next)), counts

    def evaluate(
        self, model: Callable[..., tuple[Tensor, Tensor]], ranks: Ranks, device: torch.device, batch: int
    ) -> dict[str, float]:
        sums = torch.zeros(4, dtype=torch.float64)  # nats and right guesses of tokens, nats and right guesses of pairs
        total = len(self.counted)
        for rows, weight in shares(total, ranks, batch):
            ids, targets, places, is_next = PairedBatch(*(t[rows] for t in self.validation_batch)).to(device)
            counted = self.counted[rows].to(device)
            logits, follows = model(ids, rows=places)
            logits, targets = logits.float()[counted], targets[counted]
            figures = (
                F.cross_entropy(logits, targets, reduction="sum"),
                (logits.argmax(dim=-1) == targets).sum(),
                F.binary_cross_entropy_with_logits(follows, is_next.float(), reduction="sum"),
                ((follows > 0) == is_next).sum(),
            )
            sums += torch.stack(figures).cpu().double() * weight
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


def set_head_apart(checkpoint: Path) -> None:
    """Move the head into a file of its own: what is left is a masked model like any other, for `fill` and `export`."""
    weights = safetensors.torch.load_file(checkpoint / WEIGHTS)
    head = {name: weights.pop(name) for name in list(weights) if name.startswith(HEAD)}
    write_tensors(checkpoint / HEAD_FILE, head)
    write_tensors(checkpoint / WEIGHTS, weights)


@torch.inference_mode()
def follows(checkpoint: Path, pairs: list[tuple[str, str]], device: str = "auto") -> list[float]:
    """For each pair of sentences the probability that the second follows the first.

    Raises UserError if the checkpoint is none, was not fine-tuned on pairs, or the device is not there.
    """
    base, description = load_model(checkpoint)
    if not (checkpoint / HEAD_FILE).is_file():
        raise UserError(
            f"{checkpoint} was not fine-tuned on pairs of sentences ({HEAD_FILE} is missing); "
            "give the configuration a section `pairs: {}` and run finetune"
        )
    model = PairModel(description.model, description.vocab_size).eval()
    model.load_state_dict(base.state_dict() | safetensors.torch.load_file(checkpoint / HEAD_FILE))
    words = load_tokenizer(checkpoint)
    encoded = [tuple(np.array(words.encode_ordinary(text), np.int64) for text in pair) for pair in pairs]
    length = min(description.run["pair_length"], description.model.context)
    ids, _, _ = lay_out(encoded, length, words.special_tokens)
    place = choose(device, "fp32").device
    return model.to(place).follows(model.hidden(torch.from_numpy(ids).to(place))).sigmoid().tolist()
