"""What a model is trained to do, and how well it does it: causal and masked language modelling.

An objective makes the windows of any step as a pure function of (seed, step): a rank asks for its rows of the global
batch, so that the number of ranks changes nothing, and a run continues exactly from a step number.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import NamedTuple, Protocol

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from modeling.config import FinetuneConfig
from modeling.distributed import Ranks
from modeling.errors import ModelingError
from tokenization.arrays import TokenArrays, shuffled

ORDERED = 4096  # windows whose places are worked out at once


class Batch(NamedTuple):
    """ids int64 [B, T]; targets int64 [B, K]; rows int64 [B, K]: positions that predict them, None for every one."""

    ids: Tensor
    targets: Tensor
    rows: Tensor | None = None

    def to(self, device: torch.device) -> Batch:
        if device.type != "cuda":
            return self
        return Batch(*(t if t is None else t.pin_memory().to(device, non_blocking=True) for t in self))


class Objective(Protocol):
    def train_batch(self, step: int, batch: int, rows: range) -> Batch:
        """Rows `rows` of the `batch` windows of a step."""

    def evaluate(
        self, model: Callable[..., Tensor], ranks: Ranks, device: torch.device, batch: int
    ) -> dict[str, float]:
        """Figures on the fixed validation windows; `validation_loss` (nats) is among them. Every rank gets the same."""


class TrainWindows:
    """Windows tile the corpus from an offset that changes each epoch, in an order shuffled each epoch."""

    def __init__(self, tokens: TokenArrays, length: int, extra: int, seed: int):
        self.tokens, self.length, self.extra, self.seed = tokens, length, extra, seed
        if len(tokens) < length + extra:
            raise ModelingError(
                f"a window needs {length + extra} tokens but the {tokens.split} split has {len(tokens)}; "
                "lower model.context or give more text"
            )
        self.count = max(1, (len(tokens) - extra - (length - 1)) // length)
        self._numbers, self._starts = range(0), np.empty(0, np.int64)  # an order worked out ahead: cheaper by the lot

    def read(self, first: int, rows: range) -> np.ndarray:
        """Windows number first + row, int64 [len(rows), length + extra]."""
        start, stop = first + rows.start, first + rows.stop
        if not self._numbers.start <= start <= stop <= self._numbers.stop:
            end_of_epoch = (start // self.count + 1) * self.count
            self._numbers = range(start, max(stop, min(start + ORDERED, end_of_epoch)))
            self._starts = self.starts(np.arange(self._numbers.start, self._numbers.stop, dtype=np.int64))
        begin = self._numbers.start
        return self.tokens.windows(self._starts[start - begin : stop - begin], self.length + self.extra)

    def starts(self, numbers: np.ndarray) -> np.ndarray:
        """Where the windows of these numbers begin, int64 like them: a pure function of number and seed."""
        epochs, places = np.divmod(numbers, self.count)
        starts = np.empty_like(numbers)
        room = min(self.length - 1, len(self.tokens) - self.extra - self.count * self.length)
        for epoch in np.unique(epochs):
            chosen = epochs == epoch
            offset = int(np.random.SeedSequence([self.seed, int(epoch)]).generate_state(1)[0]) % (room + 1)
            starts[chosen] = shuffled(places[chosen], self.count, self.seed, int(epoch)) * self.length + offset
        return starts


class ValidationWindows:
    """Fixed windows, spread evenly over the validation split and never overlapping in what they predict."""

    def __init__(self, tokens: TokenArrays, length: int, extra: int, budget: int):
        available = (len(tokens) - extra) // length
        if available < 1:
            raise ModelingError(
                f"a window needs {length + extra} tokens but the {tokens.split} split has {len(tokens)}; "
                "lower model.context or give more text"
            )
        count = max(1, min(available, budget // length))
        starts = np.arange(count, dtype=np.int64) * available // count * length
        self.windows = torch.from_numpy(tokens.windows(starts, length + extra))

    def shares(self, ranks: Ranks, batch: int):
        """This rank's rows of each batch, as (row numbers, weight); all ranks get equally many batches, as sharded
        models need it: one with nothing left to do repeats row 0 at weight 0."""
        count = len(self.windows)
        for start in range(0, count, batch * ranks.world):
            inside = ranks.share(min(batch * ranks.world, count - start))
            rows = torch.arange(start + inside.start, start + inside.stop)
            yield (rows, 1) if len(rows) else (torch.zeros(1, dtype=torch.int64), 0)


class CausalLM:
    """Predict every next token."""

    def __init__(self, train: TokenArrays, validation: TokenArrays, context: int, seed: int, evaluate_tokens: int):
        self.train = TrainWindows(train, context, 1, seed)
        self.validation = ValidationWindows(validation, context, 1, evaluate_tokens)
        self.token_bytes = torch.from_numpy(validation.token_bytes.astype(np.int64))

    def train_batch(self, step: int, batch: int, rows: range) -> Batch:
        windows = torch.from_numpy(self.train.read(step * batch, rows))
        return Batch(windows[:, :-1], windows[:, 1:])

    def evaluate(
        self, model: Callable[..., Tensor], ranks: Ranks, device: torch.device, batch: int
    ) -> dict[str, float]:
        nats = torch.zeros((), dtype=torch.float64)
        for rows, weight in self.validation.shares(ranks, batch):
            windows = self.validation.windows[rows]
            data = Batch(windows[:, :-1], windows[:, 1:]).to(device)
            nats += model(*data).double().cpu() * data.targets.numel() * weight
        total = ranks.sum(nats, device).item()
        targets = self.validation.windows[:, 1:]
        return {
            "validation_loss": total / targets.numel(),
            "bits_per_byte": total / math.log(2) / max(1, int(self.token_bytes[targets].sum())),
        }


class MaskedLM:
    """Predict tokens hidden from a window that the model sees whole."""

    def __init__(
        self, train: TokenArrays, validation: TokenArrays, context: int, config: FinetuneConfig,
        special_tokens: dict[str, int],
    ):  # fmt: skip
        self.config = config
        self.mask_id = special_tokens["[MASK]"]
        self.special = torch.tensor(sorted(special_tokens.values()))
        self.vocab_size = train.vocab_size
        self.train = TrainWindows(train, context, 0, config.seed)
        self.validation = ValidationWindows(validation, context, 0, config.evaluate_tokens)
        fixed = torch.Generator().manual_seed(0)
        self.validation_batch = self.masked(self.validation.windows, config.evaluate_mask_rate, 0.0, 0.0, fixed)

    def train_batch(self, step: int, batch: int, rows: range) -> Batch:
        # masks are drawn for the global batch: a rank's rows do not depend on the number of ranks
        windows = torch.from_numpy(self.train.read(step * batch, range(batch)))
        state = np.random.SeedSequence([self.config.seed, step]).generate_state(1, np.uint64)[0]
        generator = torch.Generator().manual_seed(int(state >> np.uint64(1)))
        config = self.config
        whole = self.masked(windows, config.mask_rate, config.mask_random, config.mask_keep, generator)
        return Batch(*(tensor[rows.start : rows.stop] for tensor in whole))

    def masked(self, windows: Tensor, rate: float, random: float, keep: float, generator: torch.Generator) -> Batch:
        """Hide the same number of tokens in every window, so that means over ranks are the mean; special tokens and,
        where predictions are shifted, the first token stay."""
        length = windows.shape[1]
        draw = torch.rand(windows.shape, generator=generator)
        draw[torch.isin(windows, self.special)] += 1
        if self.config.shift:
            draw[:, 0] += 2
        places = draw.argsort(dim=1)[:, : max(1, round(rate * length))].sort(dim=1).values
        targets = windows.gather(1, places)
        fate = torch.rand(targets.shape, generator=generator)
        noise = torch.randint(self.vocab_size, targets.shape, generator=generator)
        shown = torch.where(fate < random, noise, torch.full_like(targets, self.mask_id))
        shown = torch.where(fate >= 1 - keep, targets, shown)
        return Batch(windows.scatter(1, places, shown), targets, places - 1 if self.config.shift else places)

    def evaluate(
        self, model: Callable[..., Tensor], ranks: Ranks, device: torch.device, batch: int
    ) -> dict[str, float]:
        sums = torch.zeros(2, dtype=torch.float64)  # nats, right guesses
        for rows, weight in self.validation.shares(ranks, batch):
            ids, targets, places = Batch(*(tensor[rows] for tensor in self.validation_batch)).to(device)
            logits = model(ids, rows=places).float().flatten(0, 1)
            nats = F.cross_entropy(logits, targets.flatten(), reduction="sum")
            right = (logits.argmax(dim=-1) == targets.flatten()).sum()
            sums += torch.stack((nats, right)).double().cpu() * weight
        nats, right = ranks.sum(sums, device).tolist()
        masked = self.validation_batch.targets.numel()
        return {"validation_loss": nats / masked, "masked_accuracy": right / masked}
