"""Find and remove a site's template: text that many of its pages share word for word.

Menus, breadcrumbs, cookie notices and footers that an extractor leaves behind are runs of words found on page after
page. A run of `WINDOW` words that occurs on a given share of a site's pages is template wherever it occurs; at the top
and at the bottom of a page, so is a whole line of any length. Working on runs of words instead of lines also cleans
texts whose line structure is lost, and leaves alone short headings that recur inside pages ("Parameters", "See also").

The template is learned from a sample of at most `SAMPLE` pages per site, those with the smallest ids: the memory needed
is bounded, and the result does not depend on the order of the pages.
"""

import heapq
from typing import Any, NamedTuple

import numpy as np

from scraping.corpus.hashing import Words, ngrams, words

WINDOW = 8
SAMPLE = 2_000

Template = np.ndarray  # uint64, sorted: hashes of the runs and lines that make up a site's template


class Sampler:
    """Keeps, of all the pages of a site, the `SAMPLE` ones with the smallest ids."""

    def __init__(self):
        self._heap: list[_Largest] = []

    def add(self, id: str, place: Any) -> None:
        """Offer a page; `place` is whatever the caller needs to find it again."""
        item = _Largest(id, place)
        if len(self._heap) < SAMPLE:
            heapq.heappush(self._heap, item)
        elif self._heap[0] < item:
            heapq.heapreplace(self._heap, item)

    def places(self) -> list[Any]:
        return [item.place for item in self._heap]


class _Largest(NamedTuple):
    """Puts the largest id first in a heap."""

    id: str
    place: Any

    def __lt__(self, other: "_Largest") -> bool:
        return self.id > other.id


class TemplateLearner:
    """Counts on how many of a site's pages each run of words and each line occurs."""

    def __init__(self):
        self._pages: list[np.ndarray] = []

    def add(self, text: str) -> None:
        split = words(text)
        self._pages.append(np.unique(np.concatenate([ngrams(split.hashes, WINDOW), _lines(split)[0]])))

    def template(self, share: float, min_pages: int) -> Template:
        """What is found on at least `share` of the pages, and on at least `min_pages` of them."""
        hashes, counts = np.unique(np.concatenate([np.empty(0, np.uint64), *self._pages]), return_counts=True)
        return hashes[counts >= max(min_pages, share * len(self._pages))]


def remove_template(text: str, template: Template) -> str:
    """`text` without the template; where something is cut out of a line, the line is broken."""
    if not len(template):
        return text
    split = words(text)
    count = len(split.hashes)
    hits = _member(ngrams(split.hashes, WINDOW), template)
    change = np.zeros(count + 1, np.int64)
    change[: len(hits)] += hits
    change[WINDOW : WINDOW + len(hits)] -= hits
    covered = np.cumsum(change[:count]) > 0
    _cover_edge_lines(covered, split, template)
    if not covered.any():
        return text
    return _kept(split, ~covered)


def _lines(split: Words) -> tuple[np.ndarray, np.ndarray]:
    """Hash of each line that has words, and the index of its first word."""
    newlines = np.flatnonzero(np.frombuffer(split.data, np.uint8) == 10)
    firsts = np.unique(np.searchsorted(split.starts, np.append(0, newlines)))
    firsts = firsts[firsts < len(split.hashes)]
    if not len(firsts):
        return np.empty(0, np.uint64), firsts
    lengths = np.diff(firsts, append=len(split.hashes))
    position = np.arange(len(split.hashes)) - np.repeat(firsts, lengths)
    # The factor tells a line from a run of the same words.
    return np.add.reduceat(split.hashes * (2 * position.astype(np.uint64) + np.uint64(3)), firsts), firsts


def _cover_edge_lines(covered: np.ndarray, split: Words, template: Template) -> None:
    """Extend what is covered by the template's whole lines, from the top down and from the bottom up."""
    hashes, firsts = _lines(split)
    ends = np.append(firsts[1:], len(split.hashes))
    known = _member(hashes, template)
    for order in (range(len(firsts)), range(len(firsts) - 1, -1, -1)):
        for line in order:
            part = slice(firsts[line], ends[line])
            if not known[line] and not covered[part].all():
                break
            covered[part] = True


def _member(hashes: np.ndarray, template: Template) -> np.ndarray:
    place = np.minimum(np.searchsorted(template, hashes), len(template) - 1)
    return template[place] == hashes


def _kept(split: Words, keep: np.ndarray) -> str:
    """The text of the words to keep, with the white space between neighbours that are both kept."""
    edges = np.flatnonzero(np.diff(keep, prepend=False, append=False))
    data = split.data
    pieces = [
        data[split.starts[first] : split.ends[last - 1]] for first, last in zip(edges[::2], edges[1::2], strict=True)
    ]
    return b"\n".join(pieces).decode("utf-8")
