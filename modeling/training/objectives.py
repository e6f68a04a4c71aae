"""What a model is trained to do, and how well it does it: causal and masked language modelling.

An objective makes the windows of any step as a pure function of (seed, step): a rank asks for its rows of the global
batch, so that the number of ranks changes nothing, and a run continues exactly from a step number.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Iterator, Mapping
from functools import lru_cache
from typing import Any, NamedTuple, Protocol

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from modeling.config import FinetuneConfig
from modeling.training.distributed import Ranks
from modeling.training.windows import MixedWindows, TrainWindows, training_windows, validation_windows
from textmill.errors import UserError
from tokenization.arrays import TokenArrays

__all__ = [
    "Batch", "CausalLM", "MaskRates", "MaskedLM", "Masking", "Objective", "evaluation_rows", "generator_at",
    "own_targets", "to_device",
]  # fmt: skip


class Batch(NamedTuple):
    """Windows, and what is to be predicted in them.

    Attributes:
        ids: int64 [B, T].
        targets: int64 [B, K].
        positions: int64 [B, K], the ones that predict the targets; None for all of them, in order (K = T).
    """

    ids: Tensor
    targets: Tensor
    positions: Tensor | None = None

    def to(self, device: torch.device) -> Batch:
        return Batch(*to_device(self, device))

    def rows(self, chosen: slice | Tensor) -> Batch:
        positions = None if self.positions is None else self.positions[chosen]
        return Batch(self.ids[chosen], self.targets[chosen], positions)


def to_device(tensors: Iterable[Tensor | None], device: torch.device) -> Iterator[Any]:
    """The tensors of a batch on the device that computes with it; a GPU fetches them while it does other work."""
    for tensor in tensors:
        if tensor is None or device.type != "cuda":
            yield tensor if tensor is None else tensor.to(device)
        else:
            yield tensor.pin_memory().to(device, non_blocking=True)


class Objective(Protocol):
    """What a `Trainer` asks of an objective.

    Attributes:
        length: tokens of a window.
    """

    length: int

    def train_batch(self, step: int, batch: int, batch_rows: range) -> Any:
        """Rows `batch_rows` of the `batch` windows of a step: a tuple of tensors, with `to`, that the model takes."""

    def evaluate(self, model: Callable[..., Any], ranks: Ranks, device: torch.device, batch: int) -> dict[str, float]:
        """Metrics on the fixed validation windows, the same on every rank.

        Args:
            model: on `device`, in evaluation mode.
            ranks: they share the windows.
            device: where to compute.
            batch: most windows at once.

        Returns:
            `validation_loss` in nats, and what else the objective measures.
        """


def evaluation_rows(count: int, ranks: Ranks, batch: int) -> Iterator[tuple[Tensor, int]]:
    """This rank's rows of each batch out of `count` rows, as (row numbers int64 [B], weight).

    All ranks get equally many batches, as sharded models need it: a rank with nothing left to do repeats row 0 at
    weight 0.
    """
    for start in range(0, count, batch * ranks.world):
        inside = ranks.share(min(batch * ranks.world, count - start))
        rows = torch.arange(start + inside.start, start + inside.stop)
        yield (rows, 1) if len(rows) else (torch.zeros(1, dtype=torch.int64), 0)


class CausalLM:
    """Predict every next token."""

    def __init__(self, train: TrainWindows | MixedWindows, validation: TokenArrays, context: int, evaluate_tokens: int):
        """`train` has windows of `context` tokens, and one more."""
        self.length = context
        self.train = train
        self.validation = validation_windows(validation, context, 1, evaluate_tokens)
        self.token_bytes = torch.from_numpy(validation.token_bytes.astype(np.int64))

    def train_batch(self, step: int, batch: int, batch_rows: range) -> Batch:
        windows = torch.from_numpy(self.train.read(step * batch, batch_rows))
        return Batch(windows[:, :-1], windows[:, 1:])

    def evaluate(
        self, model: Callable[..., Tensor], ranks: Ranks, device: torch.device, batch: int
    ) -> dict[str, float]:
        nats = torch.zeros((), dtype=torch.float64)
        for rows, weight in evaluation_rows(len(self.validation), ranks, batch):
            windows = self.validation[rows]
            data = Batch(windows[:, :-1], windows[:, 1:]).to(device)
            nats += model(*data).cpu().double() * data.targets.numel() * weight
        total = ranks.sum(nats, device).item()
        targets = self.validation[:, 1:]
        return {
            "validation_loss": total / targets.numel(),
            "bits_per_byte": total / math.log(2) / max(1, int(self.token_bytes[targets].sum())),
        }


class MaskRates(NamedTuple):
    """How many tokens are hidden, and behind what.

    Attributes:
        hidden: share of the tokens.
        random: of the hidden ones, share that is replaced by a random token instead of [MASK].
        keep: of the hidden ones, share that is left as it is.
    """

    hidden: float
    random: float = 0.0
    keep: float = 0.0

    @classmethod
    def of_training(cls, config: FinetuneConfig) -> MaskRates:
        return cls(config.mask_rate, config.mask_random, config.mask_keep)


Masked = tuple[Tensor, Tensor, Tensor]  # ids [B, T], targets and positions [B, K], as in `Batch`


class Masking:
    """Hides tokens for the model to predict; special ones and, where predictions are shifted, the first one stay.

    A window of nothing else has one of its special tokens hidden, so that there is something to predict in each.
    """

    def __init__(self, special_tokens: Mapping[str, int], vocab_size: int, shift: bool):
        self.mask_id, self.vocab_size, self.shift = special_tokens["[MASK]"], vocab_size, shift
        self.special = torch.tensor(sorted(special_tokens.values()))

    def ordinary(self, ids: Tensor) -> Tensor:
        """Which of the ids [B, T] may be hidden, bool like them."""
        ordinary = ~torch.isin(ids, self.special)
        if self.shift:
            ordinary[:, 0] = False
        return ordinary

    def hide(self, ids: Tensor, counts: Tensor, rates: MaskRates, generator: torch.Generator) -> Masked:
        """Hide `counts` (int64 [B]) tokens in the windows of ids [B, T]: at least 1, at most the ordinary ones.

        A window with fewer than the most repeats its targets, so that every window weighs about the same and means over
        micro-batches and ranks are the mean: window i's own targets are the first counts[i].
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
        shown = torch.where(fate < rates.random, noise, torch.full_like(targets, self.mask_id))
        shown = torch.where(fate >= 1 - rates.keep, targets, shown)
        return ids.scatter(1, places, shown), targets, places - 1 if self.shift else places


def own_targets(targets: Tensor, counts: Tensor) -> Tensor:
    """Which of the targets [B, K] that `Masking.hide` gave are a window's own and not repeated, bool like them: in
    metrics each counts once."""
    return torch.arange(targets.shape[1]) < counts.unsqueeze(1)


def generator_at(seed: int, step: int) -> torch.Generator:
    """Chance as a function of (seed, step)."""
    state = np.random.SeedSequence([seed, step]).generate_state(1, np.uint64)[0]
    return torch.Generator().manual_seed(int(state >> np.uint64(1)))


class MaskedLM:
    """Predict tokens hidden from a window that the model sees whole (Devlin et al. 2019, BERT)."""

    def __init__(
        self, train: TokenArrays, validation: TokenArrays, context: int, config: FinetuneConfig,
        special_tokens: Mapping[str, int],
    ):  # fmt: skip
        """
        Raises:
            UserError: the window is of one token, or there are too few tokens for a window.
        """
        if context < 2:
            raise UserError("a blank needs something beside it but the window holds 1 token; raise model.context")
        self.config, self.length = config, context
        self.masking = Masking(special_tokens, train.vocab_size, config.shift)
        self.train = training_windows(train, config, context, 0)
        windows = validation_windows(validation, context, 0, config.evaluate_tokens)
        fixed = torch.Generator().manual_seed(0)
        self.validation_batch, counts = self.masked(windows, MaskRates(config.evaluate_mask_rate), fixed)
        self.counted = own_targets(self.validation_batch.targets, counts)
        self.validation_targets = self.validation_batch.targets[self.counted]

    def train_batch(self, step: int, batch: int, batch_rows: range) -> Batch:
        return self.global_batch(step, batch).rows(slice(batch_rows.start, batch_rows.stop))

    @lru_cache(maxsize=1)  # noqa: B019 - an objective lives as long as its run
    def global_batch(self, step: int, batch: int) -> Batch:
        """The batch of all ranks, for which masks are drawn: a rank's rows do not depend on the number of ranks."""
        windows = torch.from_numpy(self.train.read(step * batch, range(batch)))
        return self.masked(windows, MaskRates.of_training(self.config), generator_at(self.config.seed, step))[0]

    def masked(self, windows: Tensor, rates: MaskRates, generator: torch.Generator) -> tuple[Batch, Tensor]:
        """The windows [B, T] as a batch, and how many tokens are hidden in each, int64 [B]."""
        ordinary = self.masking.ordinary(windows).sum(dim=1)
        counts = torch.minimum(torch.tensor(round(rates.hidden * self.length)), ordinary).clamp(min=1)
        return Batch(*self.masking.hide(windows, counts, rates, generator)), counts

    def evaluate(
        self, model: Callable[..., Tensor], ranks: Ranks, device: torch.device, batch: int
    ) -> dict[str, float]:
        sums = torch.zeros(2, dtype=torch.float64)  # nats, right guesses
        for rows, weight in evaluation_rows(len(self.validation_batch.ids), ranks, batch):
            ids, targets, positions = self.validation_batch.rows(rows).to(device)
            counted = self.counted[rows].to(device)
            logits, targets = model(ids, positions=positions).float()[counted], targets[counted]
            nats = F.cross_entropy(logits, targets, reduction="sum")
            right = (logits.argmax(dim=-1) == targets).sum()
            sums += torch.stack((nats, right)).cpu().double() * weight
        nats, right = ranks.sum(sums, device).tolist()
        masked = self.validation_targets.numel()
        return {"validation_loss": nats / masked, "masked_accuracy": right / masked}
