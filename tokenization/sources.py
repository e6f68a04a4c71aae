"""The tokens of one source, or of a share of the documents, as if they were token arrays of their own.

Documents of all sources lie among each other in token arrays. Neighbors of one source are a run; a source is its runs,
one after the other, and a window may go from one to the next. A share of the documents is runs in the same way.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np

from textmill.errors import UserError
from tokenization.arrays import TokenArrays, shuffled

__all__ = ["SampledTokens", "SourceTokens", "Sources"]


class SourceTokens:
    """What `TokenArrays` does, of the documents of one source.

    Args:
        arrays: those of all sources.
        starts: int64 [runs], where each run begins in them, ascending.
        ends: int64 [runs], where each ends.
    """

    def __init__(self, arrays: TokenArrays, starts: np.ndarray, ends: np.ndarray) -> None:
        self.split, self.vocab_size = arrays.split, arrays.vocab_size
        self._arrays, self._starts, self._ends = arrays, starts, ends
        self._offsets = np.concatenate([[0], np.cumsum(ends - starts)])  # where each run begins in the source

    def __len__(self) -> int:
        return int(self._offsets[-1])

    def windows(self, starts: np.ndarray, length: int) -> np.ndarray:
        """A batch: int64 [len(starts), length], row i the tokens of the source from starts[i] on.

        Raises:
            IndexError: a part of one lies outside the source.
        """
        starts = np.ascontiguousarray(starts, np.int64)
        if len(starts) and (starts.min() < 0 or starts.max() + length > len(self)):
            raise IndexError(f"a window of {length} lies outside the {len(self)} tokens of the source")
        batch = np.empty((len(starts), length), np.int64)
        runs = np.searchsorted(self._offsets, starts, side="right") - 1
        fits = starts + length <= self._offsets[runs + 1]
        inside = np.flatnonzero(fits)
        places = self._starts[runs[inside]] + starts[inside] - self._offsets[runs[inside]]
        batch[inside] = self._arrays.windows(places, length)
        for row in np.flatnonzero(~fits):
            self._fill(batch[row], int(starts[row]), int(runs[row]))
        return batch

    def document_ends(self) -> np.ndarray:
        """int64 [documents]: the position in the source just after each of its documents' last token."""
        ends = self._arrays.document_ends()
        runs = np.searchsorted(self._starts, ends, side="left") - 1  # the last that begins before it
        inside = (runs >= 0) & (ends <= self._ends[runs])
        ends, runs = ends[inside], runs[inside]
        return self._offsets[runs] + ends - self._starts[runs]

    def _fill(self, window: np.ndarray, start: int, run: int) -> None:
        filled = 0
        while filled < len(window):
            place = start + filled - int(self._offsets[run])
            size = min(int(self._offsets[run + 1] - self._offsets[run]) - place, len(window) - filled)
            window[filled : filled + size] = self._arrays.window(int(self._starts[run]) + place, size)
            filled, run = filled + size, run + 1


class Sources:
    """Which tokens of token arrays are of which source.

    Attributes:
        names: of the sources, sorted.

    Raises:
        UserError: the arrays do not know their documents' sources.
    """

    def __init__(self, arrays: TokenArrays) -> None:
        self.names, numbers = arrays.document_sources()
        ends = arrays.document_ends()
        last = np.append(numbers[1:] != numbers[:-1], True)[: len(numbers)]  # documents that end a run
        self._arrays = arrays
        self._ends, self._sources = ends[last], numbers[last]
        self._starts = np.concatenate([[0], self._ends[:-1]]).astype(np.int64)[: len(self._ends)]

    def tokens(self, name: str) -> SourceTokens:
        """The tokens of a source."""
        chosen = self._sources == self.names.index(name)
        return SourceTokens(self._arrays, self._starts[chosen], self._ends[chosen])

    def count(self, starts: np.ndarray, stops: np.ndarray) -> dict[str, int]:
        """How many tokens of each source lie in the spans [starts, stops), together.

        Args:
            starts: int64 [spans].
            stops: int64 [spans], none outside the arrays.
        """
        first, last = (np.searchsorted(self._ends, places, side="right") for places in (starts, stops))
        counts = {}
        for number, name in enumerate(self.names):
            is_its = np.append(self._sources == number, False)
            sizes = np.where(is_its[:-1], self._ends - self._starts, 0)
            before = np.concatenate([[0], np.cumsum(sizes)])  # of each run, and of the end
            begins = np.append(self._starts, 0)
            up_to = [
                before[runs] + np.where(is_its[runs], places - begins[runs], 0)
                for runs, places in ((first, starts), (last, stops))
            ]
            counts[name] = int((up_to[1] - up_to[0]).sum())
        return counts


class SampledTokens(TokenArrays):
    """A share of the tokens of a split, in whole documents, as token arrays.

    Documents are taken in an order that is always the same, until the next would be too much: a smaller share is of the
    first documents of a larger one.

    Args:
        path: the folder.
        split: "train" or "validation".
        share: of the tokens, in (0, 1].

    Raises:
        UserError: as `TokenArrays` does, or the share is of no document.
    """

    def __init__(self, path: Path, split: str, share: float) -> None:
        super().__init__(path, split)
        self.share, self._whole = share, TokenArrays(path, split)
        ends = self._whole.document_ends()
        sizes = np.diff(ends, prepend=0)
        order = np.argsort(shuffled(np.arange(len(ends)), len(ends), seed=0)) if len(ends) else ends
        taken = np.cumsum(sizes[order]) <= share * len(self._whole)
        self._chosen = np.sort(order[taken])
        if not len(self._chosen):
            raise UserError(f"{share:g} of the {split} split of {path} is not a whole document; take a larger share")
        self.documents = len(self._chosen)
        del self.bytes  # of the split: those of a share are not known
        self._sizes = sizes[self._chosen]
        chosen_ends = ends[self._chosen]
        self._runs = SourceTokens(self._whole, chosen_ends - self._sizes, chosen_ends)

    def __reduce__(self) -> tuple[Any, ...]:
        return SampledTokens, (self.path, self.split, self.share)

    def __len__(self) -> int:
        return len(self._runs)

    def window(self, start: int, length: int) -> np.ndarray:
        return self._runs.windows(np.array([start]), length)[0].astype(self.dtype)

    def windows(self, starts: np.ndarray, length: int) -> np.ndarray:
        return self._runs.windows(starts, length)

    def document(self, index: int) -> np.ndarray:
        if not 0 <= index < self.documents:
            raise IndexError(f"document {index} lies outside the {self.documents} documents of this share")
        return self._whole.document(int(self._chosen[index]))

    def document_ends(self) -> np.ndarray:
        return np.cumsum(self._sizes)

    def document_sources(self) -> tuple[list[str], np.ndarray]:
        names, numbers = self._whole.document_sources()
        return names, numbers[self._chosen]

    def source_tokens(self) -> dict[str, int]:
        names, numbers = self.document_sources()
        counts = np.bincount(numbers, self._sizes, minlength=len(names)).astype(np.int64)
        return dict(zip(names, counts.tolist(), strict=True))
