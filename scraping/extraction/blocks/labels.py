"""Which words of a page's blocks stand in its right text: what the model learns to predict.

Words are runs of `\\w`, in small letters. A word of the page counts as right if one of the runs of three words that it
belongs to (across the edges of blocks) stands in the right text, as often as it stands there; where a page repeats a
run, the longest stretch of matching words is served first. A short block without such a run is right if it is a line
of the right text.
"""

from __future__ import annotations

import re
from collections import Counter
from typing import NamedTuple

from scraping.extraction.blocks.cut import Block

WORD = re.compile(r"\w+")
_RUN = 3
_SHORT = 6  # words


def words_of(text: str) -> list[str]:
    """The words of a text, in order."""
    return WORD.findall(text.lower())


class Labels(NamedTuple):
    """For each block the number of its words, and how many of them are right."""

    sizes: list[int]
    right: list[int]


def label(blocks: list[Block], right: str) -> Labels:
    """Which words of the blocks stand in the text `right`."""
    per_block = [words_of(block.text) for block in blocks]
    page = [word for words in per_block for word in words]
    wanted = words_of(right)
    is_right = _matching(page, wanted)
    left = Counter(wanted)
    left.subtract(word for word, yes in zip(page, is_right, strict=True) if yes)
    lines = {tuple(words_of(line)) for line in right.split("\n")}
    sizes, rights, place = [], [], 0
    for words in per_block:
        found = sum(is_right[place : place + len(words)])
        if not found and 0 < len(words) <= _SHORT and tuple(words) in lines and not Counter(words) - left:
            left.subtract(words)
            found = len(words)
        sizes.append(len(words))
        rights.append(found)
        place += len(words)
    return Labels(sizes, rights)


def _matching(page: list[str], wanted: list[str]) -> list[bool]:
    is_right = [False] * len(page)
    size = min(_RUN, len(wanted), len(page))
    if not size:
        return is_right
    left = Counter(tuple(wanted[i : i + size]) for i in range(len(wanted) - size + 1))
    runs = [tuple(page[i : i + size]) for i in range(len(page) - size + 1)]
    stretches, start = [], None
    for place, run in enumerate([*runs, None]):
        if run in left:
            start = place if start is None else start
        elif start is not None:
            stretches.append((start - place, start, place))
            start = None
    for _, start, end in sorted(stretches):
        for place in range(start, end):
            if left[runs[place]] > 0:
                left[runs[place]] -= 1
                is_right[place : place + size] = [True] * size
    return is_right


def f1(got: Counter[str], wanted: Counter[str]) -> float:
    """Harmonic mean of precision and recall of words, counted as often as they occur (WCXB's score)."""
    total = got.total() + wanted.total()
    return 2 * (got & wanted).total() / total if total else 1.0
