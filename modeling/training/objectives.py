"""What a model is trained to do, and how well it does it: causal and masked language modelling, and both at once.

An objective makes the windows of any step as a pure function of (seed, step): a rank asks for its rows of the global
batch, so that the number of ranks changes nothing, and a run continues exactly from a step number.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Iterator
from functools import lru_cache, partial
from typing import Any, Literal, NamedTuple, Protocol

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from modeling.config.finetune import FinetuneConfig
from modeling.config.objective import SourceTarget
from modeling.config.pretrain import PretrainConfig
from modeling.masking import Masking, MaskRates, own_targets
from modeling.networks.functional import documents_in
from modeling.training.distributed import Ranks
from modeling.training.windows import (
    MixedWindows,
    StreamWindows,
    TrainWindows,
    training_windows,
    validation_starts,
    validation_windows,
)
from textmill.errors import UserError
from tokenization.arrays import TokenArrays, shuffled
from tokenization.tokenizer import Tokenizer

__all__ = [
    "Batch", "CausalLM", "MaskedLM", "MixedBatch", "MixedLM", "Objective", "StreamLM", "epoch_order", "evaluation_rows",
    "generator_at", "to_device",
]  # fmt: skip


class Batch(NamedTuple):
    """Windows, and what is to be predicted in them.

    Attributes:
        ids: int64 [B, T].
        targets: int64 [B, K].
        positions: int64 [B, K], the ones that predict the targets; None for all of them, in order (K = T).
        documents: int64 [B, T], the number of the document of each id; None where a position sees the whole window.
    """

    ids: Tensor
    targets: Tensor
    positions: Tensor | None = None
    documents: Tensor | None = None

    def to(self, device: torch.device) -> Batch:
        return Batch(*to_device(self, device))

    def rows(self, chosen: slice | Tensor) -> Batch:
        return Batch(*(None if tensor is None else tensor[chosen] for tensor in self))  # type: ignore[arg-type]


def to_device(tensors: Iterable[Tensor | None], device: torch.device) -> Iterator[Any]:
    """The tensors of a batch on the device that computes with it; a GPU fetches them while it does other work."""
    for tensor in tensors:
        if tensor is None or device.type != "cuda":
            yield tensor if tensor is None else tensor.to(device)
        else:
            yield tensor.pin_memory().to(device, non_blocking=True)


class Objective(Protocol):
    """What a `Trainer` asks of an objective."""

    @property
    def length(self) -> int | SourceTarget:
        """Tokens of a window, or of a source and its target."""

    def train_batch(self, step: int, batch: int, batch_rows: range) -> Any:
        """Rows `batch_rows` of the `batch` windows of a step: a named tuple of the tensors that the model takes, by
        their names, with `to`."""

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


def epoch_order(numbers: np.ndarray, count: int, seed: int) -> np.ndarray:
    """Which of `count` examples come at these places of a run, int64 like the numbers: each epoch shows all of them, in
    an order of its own."""
    epochs, places = np.divmod(numbers, count)
    examples = np.empty_like(numbers)
    for epoch in np.unique(epochs):
        chosen = epochs == epoch
        examples[chosen] = shuffled(places[chosen], count, seed, int(epoch))
    return examples


class CausalLM:
    """Predict every next token."""

    def __init__(
        self, train: TrainWindows | MixedWindows, validation: TokenArrays, context: int, evaluate_tokens: int,
        attend: Literal["window", "document"] = "window",
    ):  # fmt: skip
        """`train` has windows of `context` tokens, and one more; `attend` is what a position sees."""
        self.length, self.attend = context, attend
        self.train = train
        self.eot_id = validation.eot_id
        self.validation = validation_windows(validation, context, 1, evaluate_tokens)
        self.token_bytes = torch.from_numpy(validation.token_bytes.astype(np.int64))

    def train_batch(self, step: int, batch: int, batch_rows: range) -> Batch:
        return self.batch_of(torch.from_numpy(self.train.read(step * batch, batch_rows)))

    def batch_of(self, windows: Tensor) -> Batch:
        """Windows [B, T + 1] with their targets. The first token of a document is predicted from the end of text before
        it, which sees itself alone."""
        ids = windows[:, :-1]
        documents = documents_in(ids, self.eot_id) if self.attend == "document" else None
        return Batch(ids, windows[:, 1:], documents=documents)

    def validation_batch(self, rows: Tensor) -> Batch:
        """These of the validation windows."""
        return self.batch_of(self.validation[rows])

    def evaluate(
        self, model: Callable[..., Tensor], ranks: Ranks, device: torch.device, batch: int
    ) -> dict[str, float]:
        nats = torch.zeros((), dtype=torch.float64)
        for rows, weight in evaluation_rows(len(self.validation), ranks, batch):
            data = self.validation_batch(rows).to(device)
            nats += model(**data._asdict()).cpu().double() * data.targets.numel() * weight
        total = ranks.sum(nats, device).item()
        targets = self.validation[:, 1:]
        return {
            "validation_loss": total / targets.numel(),
            "bits_per_byte": total / math.log(2) / max(1, int(self.token_bytes[targets].sum())),
        }

    def evaluate_positions(
        self, model: Callable[..., Tensor], ranks: Ranks, device: torch.device, batch: int
    ) -> dict[str, float]:
        """What the context within a window is worth (Kaplan et al. 2020, figure 7): losses of early and of late tokens
        of the validation windows. Every network, a recurrent one too, is given nothing before them. Arguments as in
        `evaluate`.

        Returns:
            In nats `early_loss` of the second eighth of a window, `late_loss` of its last quarter, and
            `late_minus_early`, below 0 where context helps; nothing of windows of fewer than 8 tokens.
        """
        if self.length < 8:
            return {}
        eighths = [self.length * number // 8 for number in range(9)]
        parts = {"early_loss": range(eighths[1], eighths[2]), "late_loss": range(eighths[6], eighths[8])}
        nats = torch.zeros(len(parts), dtype=torch.float64)
        for rows, weight in evaluation_rows(len(self.validation), ranks, batch):
            for number, part in enumerate(parts.values()):
                read = self.batch_of(self.validation[rows, : part.stop + 1])
                positions = torch.arange(part.start, part.stop).expand(len(rows), -1)
                data = read._replace(targets=read.targets[:, part.start :], positions=positions).to(device)
                nats[number] += model(**data._asdict()).cpu().double() * positions.numel() * weight
        sums = ranks.sum(nats, device).tolist()
        counts = [len(self.validation) * len(part) for part in parts.values()]
        losses = {name: total / count for name, total, count in zip(parts, sums, counts, strict=True)}
        return {**losses, "late_minus_early": losses["late_loss"] - losses["early_loss"]}


class StreamLM(CausalLM):
    """Predict every next token by a network that carries its state from a row's window to the next.

    It is judged on the same windows as any causal model, so that losses compare, and reads the window before each.
    """

    train: StreamWindows

    def __init__(self, train: StreamWindows, validation: TokenArrays, context: int, evaluate_tokens: int):
        super().__init__(train, validation, context, evaluate_tokens)
        starts = validation_starts(validation, context, 1, evaluate_tokens)
        before = validation.windows(np.maximum(starts - context, 0), context)
        before[starts == 0] = validation.eot_id  # nothing is before the first
        self.before = torch.from_numpy(before)

    def validation_batch(self, rows: Tensor) -> Batch:
        batch = super().validation_batch(rows)
        positions = torch.arange(self.length, 2 * self.length).expand(len(rows), -1)
        return Batch(torch.cat((self.before[rows], batch.ids), dim=1), batch.targets, positions)


def generator_at(seed: int, step: int) -> torch.Generator:
    """Chance as a function of (seed, step)."""
    state = np.random.SeedSequence([seed, step]).generate_state(1, np.uint64)[0]
    return torch.Generator().manual_seed(int(state >> np.uint64(1)))


class MaskedLM:
    """Predict tokens hidden from a window that the model sees whole (Devlin et al. 2019, BERT)."""

    def __init__(
        self, train: TokenArrays, validation: TokenArrays, context: int, config: FinetuneConfig | PretrainConfig,
        tokenizer: Tokenizer,
    ):  # fmt: skip
        """
        Raises:
            UserError: the window is of one token, or there are too few tokens for a window.
        """
        if context < 2:
            raise UserError("a blank needs something beside it but the window holds 1 token; raise model.context")
        self.config, self.length, self.eot_id = config, context, tokenizer.eot_id
        self.masking = Masking(tokenizer, config.masking.shift)
        self.train = training_windows(train, config, context, 0)
        windows = validation_windows(validation, context, 0, config.evaluate_tokens)
        fixed = torch.Generator().manual_seed(0)
        self.validation_batch, counts = self.masked(windows, MaskRates(config.masking.evaluate_mask_rate), fixed)
        self.counted = own_targets(self.validation_batch.targets, counts)
        self.validation_targets = self.validation_batch.targets[self.counted]

    def train_batch(self, step: int, batch: int, batch_rows: range) -> Batch:
        return self.global_batch(step, batch).rows(slice(batch_rows.start, batch_rows.stop))

    @lru_cache(maxsize=1)  # noqa: B019 - an objective lives as long as its run
    def global_batch(self, step: int, batch: int) -> Batch:
        """The batch of all ranks, for which masks are drawn: a rank's rows do not depend on the number of ranks."""
        return self.masked_at(step, torch.from_numpy(self.train.read(step * batch, range(batch))))

    def masked_at(self, step: int, windows: Tensor) -> Batch:
        """The windows [B, T] with the masks of this step."""
        rates = MaskRates.of_training(self.config.masking)
        return self.masked(windows, rates, generator_at(self.config.seed, step))[0]

    def masked(self, windows: Tensor, rates: MaskRates, generator: torch.Generator) -> tuple[Batch, Tensor]:
        """The windows [B, T] as a batch, and how many tokens are hidden in each, int64 [B]."""
        ordinary = self.masking.ordinary(windows).sum(dim=1)
        counts = torch.minimum(torch.tensor(round(rates.hidden * self.length)), ordinary).clamp(min=1)
        ids, targets, positions, counts = self.masking.hide(windows, counts, rates, generator)
        documents = documents_in(windows, self.eot_id) if self.config.attend == "document" else None
        return Batch(ids, targets, positions, documents), counts

    def evaluate(
        self, model: Callable[..., Tensor], ranks: Ranks, device: torch.device, batch: int
    ) -> dict[str, float]:
        sums = torch.zeros(2, dtype=torch.float64)  # nats, right guesses
        for rows, weight in evaluation_rows(len(self.validation_batch.ids), ranks, batch):
            ids, targets, positions, documents = self.validation_batch.rows(rows).to(device)
            counted = self.counted[rows].to(device)
            logits = model(ids, positions=positions, documents=documents).float()[counted]
            targets = targets[counted]
            nats = F.cross_entropy(logits, targets, reduction="sum")
            right = (logits.argmax(dim=-1) == targets).sum()
            sums += torch.stack((nats, right)).cpu().double() * weight
        nats, right = ranks.sum(sums, device).tolist()
        masked = self.validation_targets.numel()
        return {"validation_loss": nats / masked, "masked_accuracy": right / masked}


class MixedBatch(NamedTuple):
    """Windows to continue and windows with hidden tokens, as `MixedModel` takes them.

    Attributes:
        ids: int64 [B, T]; like the next two None where there are no windows of this kind.
        targets: int64 [B, T].
        documents: int64 [B, T]; None where a position sees its window, as far as it may.
        masked_ids: int64 [M, T]; like what follows None where there are no windows of this kind.
        masked_targets: int64 [M, K].
        masked_positions: int64 [M, K].
        masked_documents: int64 [M, T].
    """

    ids: Tensor | None
    targets: Tensor | None
    documents: Tensor | None
    masked_ids: Tensor | None
    masked_targets: Tensor | None
    masked_positions: Tensor | None
    masked_documents: Tensor | None

    def to(self, device: torch.device) -> MixedBatch:
        return MixedBatch(*to_device(self, device))


class MixedLM(MaskedLM):
    """Predict every next token in most windows, and hidden tokens in the others (Charpentier & Samuel 2024, GPT-BERT).

    Every window weighs the same. Those with hidden tokens are spread evenly over the run, and over each batch, and a
    window's number decides, so that ranks and micro-batches change nothing.
    """

    def __init__(
        self, train: TokenArrays, validation: TokenArrays, context: int, config: PretrainConfig, tokenizer: Tokenizer
    ):
        """
        Raises:
            UserError: as `MaskedLM` does.
        """
        super().__init__(train, validation, context, config, tokenizer)
        self.share = config.masked_share
        self.train = training_windows(train, config, context, 1)
        self.causal = CausalLM(self.train, validation, context, config.evaluate_tokens, config.attend)

    def train_batch(self, step: int, batch: int, batch_rows: range) -> MixedBatch:  # type: ignore[override]
        windows, is_masked, masked = self.global_parts(step, batch)
        rows = slice(batch_rows.start, batch_rows.stop)
        continued = windows[rows][~is_masked[rows]]
        before, end = (int(is_masked[:row].sum()) for row in (rows.start, rows.stop))
        ids, targets, _, documents = self.causal.batch_of(continued) if len(continued) else (None,) * 4
        hidden = masked.rows(slice(before, end)) if masked is not None and before < end else (None,) * 4
        return MixedBatch(ids, targets, documents, *hidden)

    @lru_cache(maxsize=1)  # noqa: B019 - an objective lives as long as its run
    def global_parts(self, step: int, batch: int) -> tuple[Tensor, Tensor, Batch | None]:
        """Of the batch of all ranks the windows [B, T + 1], which of them are masked, bool [B], and those with their
        masks; None if there are none."""
        windows = torch.from_numpy(self.train.read(step * batch, range(batch)))
        numbers = torch.arange(step * batch, (step + 1) * batch, dtype=torch.float64)
        is_masked = ((numbers + 1) * self.share).floor() > (numbers * self.share).floor()
        return windows, is_masked, self.masked_at(step, windows[is_masked, :-1]) if is_masked.any() else None

    def evaluate(
        self, model: Callable[..., Tensor], ranks: Ranks, device: torch.device, batch: int
    ) -> dict[str, float]:
        masked = super().evaluate(partial(model, whole=True), ranks, device, batch)
        return self.causal.evaluate(model, ranks, device, batch) | {
            "masked_loss": masked["validation_loss"],
            "masked_accuracy": masked["masked_accuracy"],
        }
