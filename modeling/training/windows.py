"""Which windows of the tokens a training reads, in which order: all of them, or those of a mixture of sources.

The order is a pure function of (seed, number of the window): a rank asks for its rows of the global batch, so that the
number of ranks changes nothing, and a run continues exactly from a step number.
"""

from __future__ import annotations

from typing import Literal, Protocol

import numpy as np
import torch
from torch import Tensor

from modeling.config.run import RunConfig
from modeling.mixture import SourceSeen, WindowPlan, allocate, epoch_windows, seen_of, stream_steps
from textmill.errors import UserError
from tokenization.arrays import TokenArrays, shuffled
from tokenization.sources import Sources, SourceTokens

__all__ = [
    "MixedWindows", "StreamWindows", "TrainWindows", "Windows", "sources_seen", "training_windows", "validation_starts",
    "validation_windows",
]  # fmt: skip

WINDOWS_AHEAD = 4096  # windows whose start positions are computed at once
BLOCK = 1024  # windows, about, within which the shares of a mixture are kept


class Windows(Protocol):
    """What an objective reads its windows from."""

    def read(self, first: int, batch_rows: range) -> np.ndarray:
        """Windows number first + row of the run, int64 [len(batch_rows), tokens]."""


def training_windows(tokens: TokenArrays, config: RunConfig, length: int, extra: int) -> TrainWindows | MixedWindows:
    """The windows of a run, by its mixture.

    Raises:
        UserError: too few tokens for a window; the tokens do not know their sources; or as `allocate` does.
    """
    if not config.mixture:
        return TrainWindows(tokens, length, extra, config.seed, config.window_start)
    return MixedWindows(tokens, config, length, extra)


class TrainWindows:
    """Windows tile the corpus from an offset that changes each epoch, in an order shuffled each epoch.

    Where they begin with documents, each is moved back to where its first document begins, or by whole windows less if
    that is further than a window: the end of a document is seen less often than its beginning.

    Args:
        tokens: the training split, or what it has of a source.
        length: tokens from one window to the next.
        extra: tokens that a window has beyond `length`: the last target of a causal model.
        seed: decides offsets and orders.
        start: where windows begin, `RunConfig.window_start`.
    """

    def __init__(
        self, tokens: TokenArrays | SourceTokens, length: int, extra: int, seed: int,
        start: Literal["anywhere", "document"] = "anywhere",
    ):  # fmt: skip
        self.tokens, self.length, self.extra, self.seed = tokens, length, extra, seed
        if len(tokens) < length + extra:
            raise too_few_tokens(tokens, length + extra)
        self.count = epoch_windows(len(tokens), WindowPlan(length, extra, 0))
        self._documents = document_beginnings(tokens) if start == "document" else None
        self._numbers, self._starts = range(0), np.empty(0, np.int64)  # an order worked out ahead: cheaper by the lot

    def read(self, first: int, batch_rows: range) -> np.ndarray:
        """Windows number first + row, int64 [len(batch_rows), length + extra]."""
        start, stop = first + batch_rows.start, first + batch_rows.stop
        if not self._numbers.start <= start <= stop <= self._numbers.stop:
            end_of_epoch = (start // self.count + 1) * self.count
            self._numbers = range(start, max(stop, min(start + WINDOWS_AHEAD, end_of_epoch)))
            self._starts = self.starts(np.arange(self._numbers.start, self._numbers.stop, dtype=np.int64))
        begin = self._numbers.start
        return self.tokens.windows(self._starts[start - begin : stop - begin], self.length + self.extra)

    def starts(self, numbers: np.ndarray) -> np.ndarray:
        """Where the windows of these numbers begin, int64 like them: a pure function of number and seed."""
        epochs, places = np.divmod(numbers, self.count)
        starts = np.empty_like(numbers)
        for epoch in np.unique(epochs).tolist():
            chosen = epochs == epoch
            places_of = shuffled(places[chosen], self.count, self.seed, epoch)
            starts[chosen] = places_of * self.length + self._offset(epoch)
        if self._documents is None:
            return starts
        beginnings = self._documents[np.searchsorted(self._documents, starts, side="right") - 1]
        return starts - (starts - beginnings) % self.length

    def _offset(self, epoch: int) -> int:
        """Where the tiling of an epoch begins."""
        room = min(self.length - 1, len(self.tokens) - self.extra - self.count * self.length)
        return int(np.random.SeedSequence([self.seed, epoch]).generate_state(1)[0]) % (room + 1)

    def spans(self, count: int) -> tuple[np.ndarray, np.ndarray]:
        """Where the tokens begin and end that the first `count` windows count for, int64 [spans] each."""
        if self._documents is not None:
            begun = self.starts(np.arange(count, dtype=np.int64)) + self.extra
            return begun, begun + self.length
        epochs = count // self.count
        whole = np.array([self._offset(epoch) for epoch in range(epochs)], np.int64) + self.extra
        begun = self.starts(np.arange(epochs * self.count, count, dtype=np.int64)) + self.extra
        ends = np.concatenate([whole + self.count * self.length, begun + self.length])
        return np.concatenate([whole, begun]), ends


class StreamWindows(TrainWindows):
    """Windows of a row follow each other: the corpus is cut into as many contiguous parts as a batch has rows, and each
    row reads one from its beginning. An epoch ends when every row has read its part, and the next begins elsewhere. One
    of the parts may hold the end of the corpus and, after it, the beginning.

    Args:
        rows: of a batch.
        tokens, length, extra, seed: as for `TrainWindows`.

    Raises:
        UserError: as `stream_steps` does.
    """

    def __init__(self, rows: int, tokens: TokenArrays, length: int, extra: int, seed: int):
        super().__init__(tokens, length, extra, seed)
        self.rows = rows
        self.steps = stream_steps(len(tokens), WindowPlan(length, extra, 0), rows)  # of an epoch

    def starts(self, numbers: np.ndarray) -> np.ndarray:
        """Where the windows of these numbers begin, int64 like them: a pure function of number and seed."""
        starts = self._places(numbers) * self.length
        epochs = numbers // (self.rows * self.steps)
        for epoch in np.unique(epochs).tolist():
            starts[epochs == epoch] += self._offset(epoch)
        return starts

    def _places(self, numbers: np.ndarray) -> np.ndarray:
        """Which windows of the corpus, from 0 in its order, the windows of these numbers are, int64 like them."""
        steps, rows = np.divmod(numbers, self.rows)
        epochs, read = np.divmod(steps, self.steps)
        places = rows * self.count // self.rows + read
        for epoch in np.unique(epochs).tolist():
            places[epochs == epoch] += int(np.random.SeedSequence([self.seed, epoch]).generate_state(2)[1]) % self.count
        return places % self.count

    def spans(self, count: int) -> tuple[np.ndarray, np.ndarray]:
        begun = self.starts(np.arange(count, dtype=np.int64)) + self.extra
        return begun, begun + self.length

    def begins(self, step: int, batch_rows: range) -> np.ndarray:
        """Whether the window of this step does not follow that of the step before, bool [len(batch_rows)]: at the
        beginning of an epoch, and of the corpus."""
        if step % self.steps == 0:
            return np.ones(len(batch_rows), bool)
        first = step * self.rows
        return self._places(np.arange(first + batch_rows.start, first + batch_rows.stop, dtype=np.int64)) == 0


class MixedWindows:
    """Windows of several sources, so many of each as `allocate` says, evenly over the run.

    The run is cut into blocks. Each takes from a source the windows that are due by then, so that after every block
    each source is within a window of its share; within a block the order is shuffled. The windows of a source follow
    each other as if it were trained on alone (`TrainWindows`): an epoch of it ends before the next begins.

    Attributes:
        allocated: windows of each source in the run.
    """

    def __init__(self, tokens: TokenArrays, config: RunConfig, length: int, extra: int):
        plan = WindowPlan(length, extra, config.steps * config.batch)
        self.allocated = allocate(tokens.source_tokens(), config.mixture, plan)
        sources = Sources(tokens)
        self._windows = [
            TrainWindows(sources.tokens(name), length, extra, config.seed, config.window_start)
            for name, count in self.allocated.items()
            if count
        ]
        self.length, self._width, self._seed = length, length + extra, config.seed
        counts = np.array([count for count in self.allocated.values() if count], np.int64)
        self._blocks = -(-plan.windows // BLOCK)
        before = np.arange(self._blocks + 1, dtype=np.int64)[:, None] * counts // self._blocks
        self._before = before  # [blocks + 1, sources]: windows of each source before a block
        self._starts = before.sum(axis=1)  # [blocks + 1]: number of each block's first window

    def read(self, first: int, batch_rows: range) -> np.ndarray:
        """Windows number first + row, int64 [len(batch_rows), length + extra]."""
        sources, numbers = self.places(np.arange(first + batch_rows.start, first + batch_rows.stop, dtype=np.int64))
        windows = np.empty((len(numbers), self._width), np.int64)
        for source in np.unique(sources):
            rows = np.flatnonzero(sources == source)
            known = self._windows[source]
            windows[rows] = known.tokens.windows(known.starts(numbers[rows]), self._width)
        return windows

    def places(self, numbers: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Of windows of the run, the source of each, as a place among those that are allocated any, and its number in
        the source: int64 like `numbers`, a pure function of number and seed."""
        sources, inside = np.empty_like(numbers), np.empty_like(numbers)
        blocks = np.searchsorted(self._starts, numbers, side="right") - 1
        for block in np.unique(blocks):
            chosen = blocks == block
            sizes = self._before[block + 1] - self._before[block]
            places = shuffled(numbers[chosen] - self._starts[block], int(sizes.sum()), self._seed, int(block))
            ends = np.cumsum(sizes)
            of = np.searchsorted(ends, places, side="right")
            sources[chosen] = of
            inside[chosen] = self._before[block][of] + places - (ends - sizes)[of]
        return sources, inside


def document_beginnings(tokens: TokenArrays | SourceTokens) -> np.ndarray:
    """Where documents begin, int64 [documents], ascending: at the end of text before them, as prompts do."""
    return np.concatenate([[0], tokens.document_ends()[:-1] - 1]).clip(min=0)


def sources_seen(tokens: TokenArrays, windows: TrainWindows | MixedWindows, config: RunConfig) -> dict[str, SourceSeen]:
    """What a run sees of each source; empty where the tokens do not know their sources."""
    if not tokens.knows_sources:
        return {}
    sizes = tokens.source_tokens()
    if isinstance(windows, MixedWindows):
        seen = {name: count * windows.length for name, count in windows.allocated.items()}
    else:
        seen = Sources(tokens).count(*windows.spans(config.steps * config.batch))
    return seen_of(sizes, seen, config.mixture)


def validation_windows(tokens: TokenArrays, length: int, extra: int, budget: int) -> Tensor:
    """Fixed windows, int64 [windows, length + extra], of about `budget` tokens together.

    They are spread evenly over the validation split and never overlap in what they predict.

    Raises:
        UserError: the split has not enough tokens for one.
    """
    return torch.from_numpy(tokens.windows(validation_starts(tokens, length, extra, budget), length + extra))


def validation_starts(tokens: TokenArrays, length: int, extra: int, budget: int) -> np.ndarray:
    """Where the `validation_windows` begin, int64 [windows].

    Raises:
        UserError: the split has not enough tokens for one.
    """
    available = (len(tokens) - extra) // length
    if available < 1:
        raise too_few_tokens(tokens, length + extra)
    count = max(1, min(available, budget // length))
    return np.arange(count, dtype=np.int64) * available // count * length


def too_few_tokens(tokens: TokenArrays | SourceTokens, needed: int) -> UserError:
    return UserError(
        f"a window needs {needed} tokens but the {tokens.split} split has {len(tokens)}; lower model.context or give "
        "more text"
    )
