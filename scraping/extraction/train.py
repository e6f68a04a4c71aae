"""Train the model of the extractor `auto` on pages whose right text is known.

    python -m scraping.extraction.train PAGES.parquet [--out FILE] [--cross-validate]

The Parquet file has WCXB's columns: `html` (bytes), `url`, `page_type`, `main_content` (the right text). LightGBM grows
the trees (`pip install 'textmill[train-extractor]'`); their thresholds and leaves become whole numbers. The first
forest's scores that the second one learns from, and the lexicon that either looks at, never come from pages of the same
host. `--cross-validate` trains on four fifths of the hosts five times and says the F1 on the other fifth.
"""

from __future__ import annotations

import argparse
import importlib.util
import math
import sys
import zlib
from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from statistics import mean
from typing import Any, NamedTuple
from urllib.parse import urlsplit

import numpy as np
import pyarrow.parquet as pq
from numpy.typing import NDArray

from scraping.extraction.blocks.features import (
    BUCKETS,
    Description,
    Features,
    Integers,
    Lexicon,
    Words,
    describe,
    lexical,
    words_of_page,
)
from scraping.extraction.blocks.labels import f1, label, words_of
from scraping.extraction.blocks.model import Forest, Model, choose, pack, second_features
from scraping.extraction.extract import read_blocks
from textmill.files import atomic_path

FOLDS = 5
_SEED = 1
_TREES = 150
_COLUMNS = (240, 260)  # features that the forests may look at
_PAGE_BLOCKS = 350  # blocks of a page that are learned from; of larger pages a sample
_UNIT = 1 << 12  # of a leaf: one in the logarithm of odds
_PARAMETERS = {
    "objective": "cross_entropy", "learning_rate": 0.1, "num_leaves": 31, "max_depth": 9, "max_bin": 63,
    "min_data_in_leaf": 40, "feature_fraction": 0.4, "bagging_fraction": 0.7, "bagging_freq": 1, "lambda_l2": 5.0,
    "seed": _SEED, "deterministic": True, "force_col_wise": True, "verbose": -1, "num_threads": 1,
}  # fmt: skip
# How many pages' worth of blocks without any word weigh against one that has it, and on how many pages it must occur
_TEXT_PRIOR, _NAMES_PRIOR, _MIN_PAGES = 0.15, 1.0, 3


@dataclass
class LabeledPage:
    """A page with all that the training needs of it."""

    kind: str
    fold: int
    right: Counter[str]
    bags: list[list[str]]  # words of each block
    description: Description | None  # of a page with blocks
    words: Words | None
    shares: NDArray[np.float64]  # of each block's words that are right
    weights: NDArray[np.float64]


class _Learned(NamedTuple):
    model: Model
    first: dict[int, Integers]  # page -> scores by the first forest, for the pages that were asked for
    second: dict[int, Integers]


def read_pages(path: Path, step: int = 1) -> list[LabeledPage]:
    """Every `step`-th page of a file, described and labeled."""
    rows = pq.read_table(path, columns=["html", "url", "page_type", "main_content"])
    return [_labeled(row) for row in rows.to_pylist()[::step]]


def _labeled(row: dict[str, Any]) -> LabeledPage:
    page, head = read_blocks(row["html"], row["url"], "text/html")
    host = urlsplit(row["url"]).netloc
    found = label(page.blocks, row["main_content"])
    sizes = np.array(found.sizes, np.float64)
    total = sizes.sum()
    description = describe(page, head) if page.blocks else None
    return LabeledPage(
        kind=row["page_type"],
        fold=zlib.crc32(host.encode()) % FOLDS,
        right=Counter(words_of(row["main_content"])),
        bags=[words_of(block.text) for block in page.blocks],
        description=description,
        words=words_of_page(page) if page.blocks else None,
        shares=np.array(found.right) / np.maximum(sizes, 1),
        weights=(sizes + 0.3) / math.sqrt(total + 50),
    )


# --- the lexicon ------------------------------------------------------------------------------------------------------

_Counts = NDArray[np.float64]  # [2, 3, BUCKETS]: of the text and of names: weight, right weight, pages


def count_words(page: LabeledPage) -> _Counts:
    """How often the words of a page stand in blocks, and in right ones; each page weighs the same."""
    assert page.words is not None and page.description is not None
    weights = page.weights / page.weights.sum()
    layout = page.description.layout
    below = [np.concatenate([[0.0], np.cumsum(values)]) for values in (weights, weights * page.shares)]
    named = [sums[layout.end] - sums[layout.first] for sums in below]
    counts = np.zeros((2, 3, BUCKETS))
    for number, (buckets, starts, pair) in enumerate((
        (page.words.text, page.words.text_starts, (weights, weights * page.shares)),
        (page.words.names, page.words.names_starts, named),
    )):  # fmt: skip
        for row, values in enumerate(pair):
            counts[number, row] = np.bincount(buckets, np.repeat(values, np.diff(starts)), BUCKETS)
        counts[number, 2] = np.bincount(buckets, minlength=BUCKETS) > 0
    return counts


def make_lexicon(counts: _Counts) -> Lexicon:
    """The logarithm of a word's odds over those of all words."""
    return Lexicon(_odds(counts[0], _TEXT_PRIOR), _odds(counts[1], _NAMES_PRIOR))


def _odds(counts: NDArray[np.float64], prior: float) -> NDArray[np.int8]:
    weight, right, pages = counts
    share = right.sum() / weight.sum()
    odds = (right + prior * share) / (np.maximum(weight - right, 0) + prior * (1 - share))
    scores = np.where(pages >= _MIN_PAGES, np.log(odds * (1 - share) / share), 0.0)
    return np.clip(np.rint(16 * scores), -127, 127).astype(np.int8)


# --- the forests ------------------------------------------------------------------------------------------------------


class Trainer:
    """Trains models on parts of the pages."""

    def __init__(self, pages: list[LabeledPage]) -> None:
        self._pages = pages
        self._counts = np.zeros((FOLDS, 2, 3, BUCKETS))
        generator = np.random.default_rng(_SEED)
        self._sample: dict[int, Integers] = {}
        for number, page in enumerate(pages):
            if page.description is None:
                continue
            self._counts[page.fold] += count_words(page)
            count = len(page.shares)
            chosen = generator.choice(count, _PAGE_BLOCKS, replace=False) if count > _PAGE_BLOCKS else np.arange(count)
            self._sample[number] = np.sort(chosen)

    def train(self, folds: Sequence[int], asked: Iterable[int] = ()) -> _Learned:
        """Learn from the pages of some folds; score the pages `asked` besides, which are of other folds."""
        lexicon = make_lexicon(self._counts[list(folds)].sum(axis=0))
        inside = [number for number in self._sample if self._pages[number].fold in folds]
        outside = [number for number in asked if number in self._sample]
        features: dict[int, Features] = {}
        for fold in folds:
            others = make_lexicon(self._counts[[other for other in folds if other != fold]].sum(axis=0))
            features |= self._features([number for number in inside if self._pages[number].fold == fold], others)
        features |= self._features(outside, lexicon)

        columns = self._columns(inside, features, _COLUMNS[0])
        first = self._forest(inside, features, columns)
        scores = {number: first.score(features[number]) for number in outside}
        first_scores = dict(scores)
        for fold in folds:
            apart = [number for number in inside if self._pages[number].fold == fold]
            rest = self._forest([number for number in inside if self._pages[number].fold != fold], features, columns)
            scores |= {number: rest.score(features[number]) for number in apart}
        for number in (*inside, *outside):
            description = self._pages[number].description
            assert description is not None
            features[number] = second_features(features[number], scores[number], description)
        second = self._forest(inside, features, self._columns(inside, features, _COLUMNS[1]))
        return _Learned(
            Model(lexicon, first, second), first_scores, {number: second.score(features[number]) for number in outside}
        )

    def _features(self, numbers: Iterable[int], lexicon: Lexicon) -> dict[int, Features]:
        found = {}
        for number in numbers:
            page = self._pages[number]
            assert page.words is not None and page.description is not None
            found[number] = np.hstack([page.description.features, lexical(page.words, page.description, lexicon)])
        return found

    def _grow(self, numbers: list[int], features: dict[int, Features], columns: NDArray[Any] | None, trees: int) -> Any:
        import lightgbm

        rows, shares, weights = [], [], []
        for number in numbers:
            page, sample = self._pages[number], self._sample[number]
            rows.append(features[number][sample] if columns is None else features[number][sample][:, columns])
            shares.append(page.shares[sample])
            weights.append(page.weights[sample] * len(page.shares) / len(sample))
        data = lightgbm.Dataset(np.concatenate(rows), np.concatenate(shares), weight=np.concatenate(weights))
        return lightgbm.train(_PARAMETERS, data, trees)

    def _columns(self, numbers: list[int], features: dict[int, Features], count: int) -> NDArray[np.int32]:
        """The features that matter most to a smaller forest of half of the pages."""
        gain = self._grow(numbers[::2], features, None, _TREES // 2).feature_importance("gain")
        return np.sort(np.argsort(-gain, kind="stable")[:count]).astype(np.int32)

    def _forest(self, numbers: list[int], features: dict[int, Features], columns: NDArray[np.int32]) -> Forest:
        return to_forest(self._grow(numbers, features, columns, _TREES).dump_model(), columns)


def to_forest(dump: dict[str, Any], columns: NDArray[np.int32]) -> Forest:
    """LightGBM's trees with whole thresholds and leaves."""
    feature: list[int] = []
    threshold: list[int] = []
    children: list[int] = []
    value: list[int] = []
    roots: list[int] = []
    deepest = 0

    def add(node: dict[str, Any], depth: int) -> int:
        nonlocal deepest
        number = len(feature)
        deepest = max(deepest, depth)
        feature.append(node.get("split_feature", 0))
        # features are whole numbers, and the first child takes those up to the threshold
        threshold.append(min(math.floor(node["threshold"]), 32767) if "threshold" in node else 32767)
        value.append(round(node["leaf_value"] * _UNIT) if "leaf_value" in node else 0)
        children.extend((number, number))
        if "left_child" in node:
            children[2 * number] = add(node["left_child"], depth + 1)
            children[2 * number + 1] = add(node["right_child"], depth + 1)
        return number

    for tree in dump["tree_info"]:
        roots.append(add(tree["tree_structure"], 0))
    levels = [math.ceil(_UNIT * math.log((k - 0.5) / (1000.5 - k))) for k in range(1, 1001)]
    return Forest(
        columns, np.array(feature, np.int16), np.array(threshold, np.int16), np.array(children, np.int32),
        np.array(value, np.int32), np.array(roots, np.int32), np.array(levels, np.int32), deepest,
    )  # fmt: skip


# --- quality ----------------------------------------------------------------------------------------------------------


def page_f1(page: LabeledPage, scores: Integers | None) -> float:
    """F1 of the words that are kept with these scores."""
    if scores is None:
        return f1(Counter(), page.right)
    cutoff = choose(scores, np.array(list(map(len, page.bags)), np.int64))
    kept = Counter(word for words, score in zip(page.bags, scores, strict=True) if score >= cutoff for word in words)
    return f1(kept, page.right)


def cross_validate(pages: list[LabeledPage], folds: int = FOLDS) -> dict[str, float]:
    """Mean F1 by kind of page and of all pages, each scored by a model that has seen no page of its host's fold; fewer
    `folds` than all leave pages out."""
    trainer = Trainer(pages)
    results: dict[str, list[float]] = {}
    for fold in range(folds):
        asked = [number for number, page in enumerate(pages) if page.fold == fold]
        learned = trainer.train([other for other in range(FOLDS) if other != fold], asked)
        for number in asked:
            results.setdefault(pages[number].kind, []).append(page_f1(pages[number], learned.second.get(number)))
        so_far = [value for values in results.values() for value in values]
        print(f"fold {fold + 1} of {folds}: F1 {mean(so_far):.4f} so far", file=sys.stderr, flush=True)
    by_kind = {kind: mean(values) for kind, values in sorted(results.items())}
    return {"all": mean(value for values in results.values() for value in values), **by_kind}


def main() -> None:
    parser = argparse.ArgumentParser(description="Train the model of the extractor `auto`.")
    parser.add_argument("pages", type=Path, help="Parquet file with the columns html, url, page_type, main_content")
    parser.add_argument("--out", type=Path, default=Path(__file__).parent / "blocks" / "model.npz")
    parser.add_argument(
        "--cross-validate", action="store_true", help="say the F1 over hosts instead of writing a model"
    )
    arguments = parser.parse_args()
    if importlib.util.find_spec("lightgbm") is None:
        parser.error("LightGBM is missing: pip install 'textmill[train-extractor]'")
    if not arguments.pages.is_file():
        parser.error(f"there is no file {arguments.pages}: give a Parquet file of WCXB")
    pages = read_pages(arguments.pages)
    if arguments.cross_validate:
        for kind, value in cross_validate(pages).items():
            print(f"{kind:15s} {value:.4f}")
        return
    model = Trainer(pages).train(range(FOLDS)).model
    with atomic_path(arguments.out) as temporary, temporary.open("wb") as file:
        np.savez_compressed(file, **pack(model))  # type: ignore[arg-type]
    print(f"{arguments.out}: {arguments.out.stat().st_size:,} bytes")


if __name__ == "__main__":
    main()
