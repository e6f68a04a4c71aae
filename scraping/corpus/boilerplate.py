"""Find and remove a site's template: text that many of its pages share word for word.

Menus, breadcrumbs, cookie notices and footers that an extractor leaves behind are n-grams of words found on page after
page. An n-gram of `NGRAM` words that occurs on a given share of a site's pages is template wherever it occurs; at the
top and at the bottom of a page, so is a whole line of any length. Working on n-grams instead of lines also cleans texts
whose line structure is lost, and leaves alone short headings that recur inside pages ("Parameters", "See also").

The template is learned from a sample of at most `SAMPLE` pages per site, those with the smallest ids: the memory needed
is bounded, and the result does not depend on the order of the pages.

    >>> learner = TemplateLearner()
    >>> for number in range(20):
    ...     learner.add(f"Skip to main content Home About us Contact Search\\nPage number {number}")
    >>> template = learner.template(share=0.5, min_pages=10)
    >>> remove_template("Skip to main content Home About us Contact Search\\nOne more page", template)
    'One more page'
"""

from __future__ import annotations

import heapq
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from scraping.corpus.hashing import Hashes, Offsets, WordHashes, hash_ngrams, hash_words

NGRAM = 8
SAMPLE = 2_000

Template = Hashes  # sorted: the n-grams and the lines that make up a site's template


class Sampler:
    """Keeps, of all the pages of a site, the `SAMPLE` ones with the smallest ids."""

    def __init__(self) -> None:
        self._heap: list[_Largest] = []

    def add(self, id: str, place: Any) -> None:
        """Offer a page; `place` is what the caller needs to find it again."""
        item = _Largest(id, place)
        if len(self._heap) < SAMPLE:
            heapq.heappush(self._heap, item)
        elif self._heap[0] < item:
            heapq.heapreplace(self._heap, item)

    def places(self) -> list[Any]:
        """The places of the pages that were kept, in no order."""
        return [item.place for item in self._heap]


class _Largest(NamedTuple):
    """Puts the largest id first in a heap."""

    id: str
    place: Any

    def __lt__(self, other: tuple[Any, ...]) -> bool:
        return self.id > other[0]


class TemplateLearner:
    """Counts on how many of a site's pages each n-gram and each line occurs."""

    def __init__(self) -> None:
        self._pages: list[Hashes] = []

    def add(self, text: str) -> None:
        """Count a page."""
        words = hash_words(text)
        self._pages.append(np.unique(np.concatenate([hash_ngrams(words.hashes, NGRAM), _hash_lines(words)[0]])))

    def template(self, share: float, min_pages: int) -> Template:
        """What is found on at least `share` of the pages, and on at least `min_pages` of them."""
        hashes, counts = np.unique(np.concatenate([np.empty(0, np.uint64), *self._pages]), return_counts=True)
        return hashes[counts >= max(min_pages, share * len(self._pages))]


def remove_template(text: str, template: Template) -> str:
    """`text` without the template; where something is cut out of a line, the line is broken."""
    if not len(template):
        return text
    words = hash_words(text)
    count = len(words.hashes)
    hits = _is_member(hash_ngrams(words.hashes, NGRAM), template)
    change = np.zeros(count + 1, np.int64)
    change[: len(hits)] += hits
    change[NGRAM : NGRAM + len(hits)] -= hits
    covered = np.cumsum(change[:count]) > 0
    _cover_edge_lines(covered, words, template)
    if not covered.any():
        return text
    return _text_of_words(words, ~covered)


def _hash_lines(words: WordHashes) -> tuple[Hashes, Offsets]:
    """Hash of each line that has words, and the index of its first word."""
    newlines = np.flatnonzero(np.frombuffer(words.utf8, np.uint8) == 10)
    firsts = np.unique(np.searchsorted(words.starts, np.append(0, newlines)))
    firsts = firsts[firsts < len(words.hashes)]
    if not len(firsts):
        return np.empty(0, np.uint64), firsts
    lengths = np.diff(firsts, append=len(words.hashes))
    position = np.arange(len(words.hashes)) - np.repeat(firsts, lengths)
    # The factor tells a line from an n-gram of the same words.
    return np.add.reduceat(words.hashes * (2 * position.astype(np.uint64) + np.uint64(3)), firsts), firsts


def _cover_edge_lines(covered: NDArray[np.bool_], words: WordHashes, template: Template) -> None:
    """Extend what is covered by the template's whole lines, from the top down and from the bottom up."""
    hashes, firsts = _hash_lines(words)
    ends = np.append(firsts[1:], len(words.hashes))
    known = _is_member(hashes, template)
    for order in (range(len(firsts)), range(len(firsts) - 1, -1, -1)):
        for line in order:
            part = slice(firsts[line], ends[line])
            if not known[line] and not covered[part].all():
                break
            covered[part] = True


def _is_member(hashes: Hashes, template: Template) -> NDArray[np.bool_]:
    place = np.minimum(np.searchsorted(template, hashes), len(template) - 1)
    return template[place] == hashes


def _text_of_words(words: WordHashes, keep: NDArray[np.bool_]) -> str:
    """The text of the words to keep, with the white space between neighbors that are both kept."""
    edges = np.flatnonzero(np.diff(keep, prepend=False, append=False))
    kept = zip(edges[::2], edges[1::2], strict=True)
    return b"\n".join(words.utf8[words.starts[first] : words.ends[last - 1]] for first, last in kept).decode("utf-8")
