"""The model that tells a page's own text: boosted trees over whole numbers.

A first forest scores each block by itself and its place, a second one also by how the first scored the blocks around
it. Thresholds are integers of 16 bits and leaves of 32, so that sums are exact and every machine gives the same answer.
Of a page, those blocks are kept that maximize the F1 to expect from their scores.

The numbers come from `python -m scraping.extraction.train` and lie in `model.npz`; `MODEL.md` tells of which pages.
"""

from __future__ import annotations

from functools import lru_cache
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from scraping.extraction.blocks.cut import Page
from scraping.extraction.blocks.features import (
    Description,
    Features,
    Head,
    Integers,
    Lexicon,
    describe,
    lexical,
    surroundings,
    words_of_page,
)
from scraping.extraction.config import MODEL

_ROWS = 1024  # blocks that go through the trees at once


class Forest(NamedTuple):
    """Trees as arrays. A node's children are at 2i and 2i + 1 of `children`; a leaf is its own child."""

    columns: NDArray[np.int32]  # [C]: the features that the trees look at, among all
    feature: NDArray[np.int16]  # [N]: index into `columns`
    threshold: NDArray[np.int16]  # [N]: the first child if the feature is at most this, else the second
    children: NDArray[np.int32]  # [2N]
    value: NDArray[np.int32]  # [N]: of a leaf: a part of the logarithm of odds; otherwise 0
    roots: NDArray[np.int32]  # [T]
    levels: NDArray[np.int32]  # [1000], ascending: the sum of leaves from which the score is at least 1, 2, …, 1000
    depth: int  # steps from a root to any leaf at most

    def score(self, features: Features) -> Integers:
        """Predictions [blocks] for features [blocks, F], in thousandths, from 0 to 1000."""
        total = np.empty(len(features), np.int64)
        for start in range(0, len(features), _ROWS):
            rows = np.ascontiguousarray(features[start : start + _ROWS][:, self.columns])
            total[start : start + _ROWS] = self._leaves(rows)
        return np.searchsorted(self.levels, total, side="right")

    def _leaves(self, rows: Features) -> Integers:
        """For each row the sum of its leaves."""
        flat = rows.ravel()
        offsets = np.repeat(np.arange(len(rows), dtype=np.int32) * rows.shape[1], len(self.roots))
        node = np.tile(self.roots, len(rows))
        for _ in range(self.depth):
            above = flat.take(offsets + self.feature.take(node)) > self.threshold.take(node)
            node = self.children.take(2 * node + above)
        return self.value.take(node).reshape(len(rows), -1).sum(axis=1, dtype=np.int64)


class Model(NamedTuple):
    """All that was learned."""

    lexicon: Lexicon
    first: Forest
    second: Forest

    def score(self, page: Page, head: Head) -> Integers:
        """For each block (at least one) of a page the share of its words, in thousandths, that belong to the text."""
        description = describe(page, head)
        features = np.hstack([description.features, lexical(words_of_page(page), description, self.lexicon)])
        return self.second.score(second_features(features, self.first.score(features), description))


def second_features(features: Features, scores: Integers, description: Description) -> Features:
    """What the second forest looks at: all that the first one does, and its scores of the blocks around."""
    return np.hstack([features, surroundings(scores, description)])


def choose(scores: Integers, sizes: Integers) -> int:
    """The score from which on blocks are kept: the one that maximizes the F1 to expect.

    Args:
        scores: share of right words expected of each block, in thousandths.
        sizes: words of each block.
    """
    order = np.argsort(-scores, kind="stable")
    right = np.cumsum((scores * sizes)[order])
    taken = 1000 * np.cumsum(sizes[order])
    expected = 2 * right / np.maximum(taken + right[-1], 1)
    return int(scores[order][int(np.argmax(expected))])


@lru_cache(1)
def load() -> Model:
    """The model that comes with Textmill."""
    with np.load(MODEL, allow_pickle=False) as arrays:
        return unpack(dict(arrays))


def pack(model: Model) -> dict[str, NDArray[np.generic]]:
    """The model as named arrays."""
    arrays: dict[str, NDArray[np.generic]] = {"text": model.lexicon.text, "names": model.lexicon.names}
    for name in ("first", "second"):
        forest = getattr(model, name)
        arrays |= {f"{name}.{field}": np.asarray(value) for field, value in forest._asdict().items()}
    return arrays


def unpack(arrays: dict[str, NDArray[np.generic]]) -> Model:
    """The inverse of `pack`."""

    def forest(name: str) -> Forest:
        fields = {field: arrays[f"{name}.{field}"] for field in Forest._fields}
        return Forest(**{**fields, "depth": int(fields["depth"])})  # type: ignore[arg-type]

    return Model(Lexicon(arrays["text"], arrays["names"]), forest("first"), forest("second"))  # type: ignore[arg-type]
