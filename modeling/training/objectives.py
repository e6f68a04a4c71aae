"""What a model is trained to do, and how well it does it: causal and masked language modelling.

An objective makes the windows of any step as a pure function of (seed, step): a rank asks for its rows of the global
batch, so that the number of ranks changes nothing, and a run continues exactly from a step number.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Iterator, Mapping
from functools import lru_cache
from typing import NamedTuple, Protocol

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from modeling.config import FinetuneConfig
from modeling.training.distributed import Ranks
from textmill.errors import UserError
from tokenization.arrays import TokenArrays, shuffled

ORDERED = 4096  # windows whose places are worked out at once


class Batch(NamedTuple):
    """ids int64 [B, T]; targets int64 [B, K]; rows int64 [B, K]: positions that predict them, None for every one."""

    ids: Tensor
    targets: Tensor
    rows: Tensor | None = None

    def to(self, device: torch.device) -> Batch:
        return Batch(*moved(self, device))


def moved(tensors: Iterable[Tensor | None], device: torch.device) -> Iterable[Tensor | None]:
    """The tensors of a batch on the device that computes with it."""
    if device.type != "cuda":
        return (t if t is None else t.to(device) for t in tensors)
    return (t if t is None else t.pin_memory().to(device, non_blocking=True) for t in tensors)


class Objective(Protocol):
    length: int  # tokens a row

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
            raise UserError(
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


def validation_windows(tokens: TokenArrays, length: int, extra: int, budget: int) -> Tensor:
    """Fixed windows, int64 [windows, length + extra], of about `budget` tokens together: spread evenly over the
    validation split and never overlapping in what they predict."""
    available = (len(tokens) - extra) // length
    if available < 1:
        raise UserError(
            f"a window needs {length + extra} tokens but the {tokens.split} split has {len(tokens)}; "
            "lower model.context or give more text"
        )
    count = max(1, min(available, budget // length))
    starts = np.arange(count, dtype=np.int64) * available // count * length
    return torch.from_numpy(tokens.windows(starts, length + extra))


def shares(count: int, ranks: Ranks, batch: int) -> Iterator[tuple[Tensor, int]]:
    """This rank's rows of each batch out of `count` rows, as (row numbers, weight); all ranks get equally many batches,
    as sharded models need it: one with nothing left to do repeats row 0 at weight 0."""
    for start in range(0, count, batch * ranks.world):
        inside = ranks.share(min(batch * ranks.world, count - start))
        rows = torch.arange(start + inside.start, start + inside.stop)
        yield (rows, 1) if len(rows) else (torch.zeros(1, dtype=torch.int64), 0)


class CausalLM:
    """Predict every next token."""

    def __init__(self, train: TokenArrays, validation: TokenArrays, context: int, seed: int, evaluate_tokens: int):
        self.length = context
        self.train = TrainWindows(train, context, 1, seed)
        self.validation = validation_windows(validation, context, 1, evaluate_tokens)
        self.token_bytes = torch.from_numpy(validation.token_bytes.astype(np.int64))

    def train_batch(self, step: int, batch: int, rows: range) -> Batch:
        windows = torch.from_numpy(self.train.read(step * batch, rows))
        return Batch(windows[:, :-1], windows[:, 1:])

    def evaluate(
        self, model: Callable[..., Tensor], ranks: Ranks, device: torch.device, batch: int
    ) -> dict[str, float]:
        nats = torch.zeros((), dtype=torch.float64)
        for rows, weight in shares(len(self.validation), ranks, batch):
            windows = self.validation[rows]
            data = Batch(windows[:, :-1], windows[:, 1:]).to(device)
            nats += model(*data).cpu().double() * data.targets.numel() * weight
        total = ranks.sum(nats, device).item()
        targets = self.validation[:, 1:]
        return {
            "validation_loss": total / targets.numel(),
            "bits_per_byte": total / math.log(2) / max(1, int(self.token_bytes[targets].sum())),
        }


class Masking:
    """Hides tokens for the model to predict; special ones and, where predictions are shifted, the first one stay."""

    def __init__(self, special_tokens: Mapping[str, int], vocab_size: int, shift: bool):
        self.mask_id, self.vocab_size, self.shift = special_tokens["[MASK]"], vocab_size, shift
        self.special = torch.tensor(sorted(special_tokens.values()))

    def hide(self, ids: Tensor, counts: Tensor, random: float, keep: float, generator: torch.Generator) -> Batch:
        """Hide `counts` (int64 [B]) tokens in the rows of ids [B, T]: behind [MASK], or for a share of `random` another
        token, or for a share of `keep` themselves.

        A row with fewer than the most repeats its targets, so that every row weighs about the same and means over
        micro-batches and ranks are the mean: row i's own targets are the first counts[i].
        """
        draw = torch.rand(ids.shape, generator=generator)
        draw[torch.isin(ids, self.special)] += 1
        if self.shift:
            draw[:, 0] += 2
        most = int(counts.max())
        number = torch.arange(most).expand(len(ids), most)
        own = number % counts.unsqueeze(1)
        places = draw.argsort(dim=1)[:, :most].masked_fill(number >= counts.unsqueeze(1), ids.shape[1])
        places = places.sort(dim=1).values.gather(1, own)
        targets = ids.gather(1, places)
        fate = torch.rand(targets.shape, generator=generator).gather(1, own)
        noise = torch.randint(self.vocab_size, targets.shape, generator=generator).gather(1, own)
        shown = torch.where(fate < random, noise, torch.full_like(targets, self.mask_id))
        shown = torch.where(fate >= 1 - keep, targets, shown)
        return Batch(ids.scatter(1, places, shown), targets, places - 1 if self.shift else places)


def generator_of(seed: int, step: int) -> torch.Generator:
    """Chance as a function of (seed, step)."""
    state = np.random.SeedSequence([seed, step]).generate_state(1, np.uint64)[0]
    return torch.Generator().manual_seed(int(state >> np.uint64(1)))


class MaskedLM:
    """Predict tokens hidden from a window that the model sees whole."""

    def __init__(
        self, train: TokenArrays, validation: TokenArrays, context: int, config: FinetuneConfig,
        special_tokens: Mapping[str, int],
    ):  # fmt: skip
        self.config, self.length = config, context
        self.masking = Masking(special_tokens, train.vocab_size, config.shift)
        self.train = TrainWindows(train, context, 0, config.seed)
        windows = validation_windows(validation, context, 0, config.evaluate_tokens)
        fixed = torch.Generator().manual_seed(0)
        self.validation_batch = self.masked(windows, config.evaluate_mask_rate, 0.0, 0.0, fixed)
        self.validation_targets = self.validation_batch.targets

    def train_batch(self, step: int, batch: int, rows: range) -> Batch:
        return Batch(*(tensor[rows.start : rows.stop] for tensor in self.whole_batch(step, batch)))

    @lru_cache(maxsize=1)  # noqa: B019 - an objective lives as long as its run
    def whole_batch(self, step: int, batch: int) -> Batch:
        """The global batch, for which masks are drawn: a rank's rows do not depend on the number of ranks."""
        windows = torch.from_numpy(self.train.read(step * batch, range(batch)))
        config = self.config
        generator = generator_of(config.seed, step)
        return self.masked(windows, config.mask_rate, config.mask_random, config.mask_keep, generator)

    def masked(self, windows: Tensor, rate: float, random: float, keep: float, generator: torch.Generator) -> Batch:
        counts = torch.full((len(windows),), max(1, round(rate * self.length)))
        return self.masking.hide(windows, counts, random, keep, generator)

    def evaluate(
        self, model: Callable[..., Tensor], ranks: Ranks, device: torch.device, batch: int
    ) -> dict[str, float]:
        sums = torch.zeros(2, dtype=torch.float64)  # nats, right guesses
        for rows, weight in shares(len(self.validation_batch.ids), ranks, batch):
            ids, targets, places = Batch(*(tensor[rows] for tensor in self.validation_batch)).to(device)
            logits = model(ids, rows=places).float().flatten(0, 1)
            nats = F.cross_entropy(logits, targets.flatten(), reduction="sum")
            right = (logits.argmax(dim=-1) == targets.flatten()).sum()
            sums += torch.stack((nats, right)).cpu().double() * weight
        nats, right = ranks.sum(sums, device).tolist()
        masked = self.validation_targets.numel()
        return {"validation_loss": nats / masked, "masked_accuracy": right / masked}
