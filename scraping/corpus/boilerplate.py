"""Find and remove a site's template: what many of its pages begin or end with, word for word.

Menus, cookie notices and footers that an extractor leaves behind lie at the edges of a page's text. Facts that recur
("Context: server config", a row of a table, a sentence about prerequisites) lie among the page's own words, and stay,
however many pages they are on. So nothing is removed but

- the lines that `MOST` pages begin with, or end with, from the edge inwards without a gap. A line that other pages
  continue differently behind the same first word ("Status Base", "Status Core") holds a fact: it ends them.
- blocks of `BLOCK` words or more that recur as a whole on a share of the pages, if they lie at an edge, or at most
  `GAP` words from one or from template there: a title or a breadcrumb may stand between. At the bottom `MOST` pages
  must have them, as signatures, legal sections and the like end pages, too. Words beside a block that are on fewer
  pages than the block are not part of it.

A line goes as a whole or stays. Only lines of more than `LONG_LINE` words are cut, in texts that lost their lines. Two
kinds of line stay at an edge: a field ("Status: Base") or row of a table that the page's own lines are next to, and a
line by itself that is as short as a heading.

The template is learned from a sample of at most `SAMPLE` pages per site, those with the smallest ids, and from
`EDGE_CHARACTERS` at each edge: the memory needed is bounded, and the result does not depend on the order of the pages.
A page that occurs twice counts once.

    >>> learner = TemplateLearner()
    >>> for number in range(20):
    ...     learner.add(f"Skip to main content Home About us Contact Search\\nPage number {number}")
    >>> template = learner.template(share=0.25, min_pages=10)
    >>> remove_template("Skip to main content Home About us Contact Search\\nOne more page", template)
    'One more page'
"""

from __future__ import annotations

import hashlib
import heapq
import re
from collections.abc import Iterator
from itertools import pairwise
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from scraping.corpus.hashing import Hashes, Offsets, WordHashes, hash_ngrams, hash_words
from scraping.corpus.kernels.edges import BLOCK, GAP, known_blocks, known_pages, line_hashes, line_starts

NGRAM = 8  # fewer words are not cut off a long line
HEADING = 2  # words at most
LONG_LINE = 64  # words
EDGE_LINES = 32
EDGE_CHARACTERS = 16_384
MOST = 0.75  # of the pages
SAMPLE = 1_000
_STEADY = 0.9  # what is on fewer than this share of the pages that a neighbor is on varies beside it

Mask = NDArray[np.bool_]
Template = NDArray[np.void]  # sorted; of each block and of each run of lines at an edge:
_ENTRY = np.dtype([("bottom", np.bool_), ("hash", np.uint64), ("pages", np.int64)])
NO_TEMPLATE: Template = np.empty(0, _ENTRY)
_FIELD = re.compile(r"\||\W*\w[^:：|]{0,40}(?::\s|：)\W*\w")  # a row of a table, or a name and a value
_POWERS = np.cumprod(np.full(EDGE_LINES, 0x9E3779B97F4A7C15, np.uint64))


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

    @property
    def limit(self) -> str | None:
        """From this id on no page is kept any more; None while all are."""
        return self._heap[0].id if len(self._heap) == SAMPLE else None

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
    """Counts on how many of a site's pages each block and each run of lines lies near an edge."""

    def __init__(self) -> None:
        self._pages: set[bytes] = set()
        self._sides = _Counts([], [], []), _Counts([], [], [])

    def add(self, text: str) -> None:
        """Count a page."""
        page = hashlib.blake2b(text.encode("utf-8", "replace"), digest_size=16).digest()
        if page in self._pages:
            return
        self._pages.add(page)
        for counts, bottom, window in zip(self._sides, (False, True), _windows(text), strict=True):
            side = _side(hash_words(window), bottom)
            lines = line_hashes(side.words, side.borders[: EDGE_LINES + 1])
            missing = (0, EDGE_LINES - len(lines))
            counts.blocks.append(np.unique(hash_ngrams(side.words, BLOCK)))
            counts.lines.append(np.pad(lines, missing))
            counts.keys.append(np.pad(side.keys[:EDGE_LINES], missing))

    def template(self, share: float, min_pages: int) -> Template:
        """What recurs at the edges of `share` of the pages, and of at least `min_pages` of them."""
        count = len(self._pages)
        if count < min_pages:
            return NO_TEMPLATE
        some = max(min_pages, share * count)
        most = max(some, MOST * count)
        parts = []
        for counts, bottom, fewest in zip(self._sides, (False, True), (some, most), strict=True):
            blocks, pages = np.unique(np.concatenate(counts.blocks), return_counts=True)
            lines = _shared_lines(np.array(counts.lines), np.array(counts.keys), most)
            parts += [_entries(bottom, blocks[pages >= fewest], pages[pages >= fewest]), _entries(bottom, *lines)]
        return np.sort(np.concatenate(parts))


def remove_template(text: str, template: Template) -> str:
    """`text` without the template; where some was taken out between two parts, a line ends."""
    utf8, spans = _template_spans(text, template)
    if not spans:
        return text
    kept = b""
    for (_, start), (end, following) in pairwise([(0, 0), *spans, (len(utf8), len(utf8))]):
        if part := utf8[start:end].rstrip():
            kept += part + (b"\n\n" if b"\n\n" in utf8[end:following] else b"\n")
    return kept.rstrip().decode("utf-8")


def template_of(text: str, template: Template) -> list[str]:
    """What `remove_template` takes out of a text, each run by itself."""
    utf8, spans = _template_spans(text, template)
    return [utf8[start:end].strip().decode("utf-8") for start, end in spans]


def cropped(text: str) -> str:
    """The part of a text that a template is learned from: both edges."""
    head, tail = _windows(text)
    return text if head is text else f"{head}\n\n{tail}"


class _Counts(NamedTuple):
    """What lies at one edge of each page."""

    blocks: list[Hashes]  # near it
    lines: list[Hashes]  # [EDGE_LINES], from the edge inwards; 0 where there are no more
    keys: list[Hashes]  # [EDGE_LINES], the word that a line begins with


class _Side(NamedTuple):
    """A text from one of its edges inwards. Of a line that is too long to be looked at as a whole, each word counts as
    a line."""

    words: Hashes  # [words]
    borders: Offsets  # [lines + 1], the first word of each line, and the number of words
    is_word: Mask  # [lines], whether this is a word of a long line
    keys: Hashes  # [lines], the word that a reader meets first


def _windows(text: str) -> tuple[str, str]:
    """Top and bottom of a text, cut where a line or a word ends; both are the text itself if it is short."""
    if len(text) <= 2 * EDGE_CHARACTERS:
        return text, text
    head, tail = text[:EDGE_CHARACTERS], text[-EDGE_CHARACTERS:]
    end = max(head.rfind("\n"), 0) or max(head.rfind(" "), 0) or len(head)
    start = tail.find("\n") + 1 or tail.find(" ") + 1
    return head[:end], tail[start:]


def _template_spans(text: str, template: Template) -> tuple[bytes, list[tuple[int, int]]]:
    """A text in UTF-8, and the runs in it that are template, with the white space around them."""
    if not len(template):
        return b"", []
    head, tail = _windows(text)
    upper = hash_words(head)
    top = _at_edge(upper, template, bottom=False)
    if head is text:
        return upper.utf8, _spans(upper, sorted(top + _at_edge(upper, template, bottom=True)))
    lower = hash_words(tail)
    utf8 = text.encode("utf-8", "replace")
    offset = len(utf8) - len(lower.utf8)
    below = _spans(lower, _at_edge(lower, template, bottom=True))
    return utf8, _spans(upper, top) + [(offset + start, offset + end) for start, end in below]


def _spans(words: WordHashes, runs: list[tuple[int, int]]) -> list[tuple[int, int]]:
    """The bytes of runs of words, with the white space around them but for the indentation of what follows."""
    spans: list[tuple[int, int]] = []
    for first, last in runs:
        start = int(words.ends[first - 1]) if first else 0
        end = int(words.starts[last]) if last < len(words.starts) else len(words.utf8)
        line = words.utf8.rfind(b"\n", words.ends[last - 1], end)
        end = line + 1 if line >= 0 else end
        if spans and start <= spans[-1][1]:
            spans[-1] = spans[-1][0], max(end, spans[-1][1])
        else:
            spans.append((start, end))
    return spans


def _at_edge(words: WordHashes, template: Template, bottom: bool) -> list[tuple[int, int]]:
    """The runs of words that are template as seen from one edge, in the order of the text."""
    first = int(template["bottom"].searchsorted(True))
    known = template[first:] if bottom else template[:first]
    count = len(words.hashes)
    if not len(known) or not count:
        return []
    side = _side(words, bottom)
    end = _end_of_lines(side, known)
    runs = [(0, end)] if end else []
    for start, stop in _blocks(known_blocks(side.words, known, end)):
        if start > end + GAP:
            break
        runs.append((start, stop))
        end = max(end, stop)
    whole = [run for run in (_whole_lines(words, side, run, bottom) for run in runs) if run[0] < run[1]]
    return [(count - stop, count - start) for start, stop in reversed(whole)] if bottom else whole


def _side(words: WordHashes, bottom: bool) -> _Side:
    hashes = words.hashes
    starts, is_word = line_starts(np.frombuffer(words.utf8, np.uint8), words.starts, words.ends, LONG_LINE)
    borders = np.append(starts, len(hashes))
    if not bottom:
        return _Side(hashes, borders, is_word, hashes[starts])
    reversed_borders = np.ascontiguousarray(len(hashes) - borders[::-1])
    return _Side(np.ascontiguousarray(hashes[::-1]), reversed_borders, is_word[::-1], hashes[starts][::-1])


def _whole_lines(words: WordHashes, side: _Side, run: tuple[int, int], bottom: bool) -> tuple[int, int]:
    """The lines that lie in a run of words as a whole, but for fields at the end that the page's own text is at."""
    first = int(side.borders.searchsorted(run[0]))
    last = int(side.borders.searchsorted(run[1], "right")) - 1
    while first < last and not side.is_word[last - 1]:
        start, stop = side.borders[last - 1], side.borders[last]
        if bottom:
            start, stop = len(side.words) - stop, len(side.words) - start
        if not _FIELD.match(words.utf8[words.starts[start] : words.ends[stop - 1]].decode("utf-8")):
            break
        last -= 1
    return int(side.borders[first]), int(side.borders[max(first, last)])


def _end_of_lines(side: _Side, known: Template) -> int:
    """How many words lie in lines that the template's pages have at this edge."""
    is_known = known_pages(_chained(line_hashes(side.words, side.borders[: EDGE_LINES + 1])), known) > 0
    count = len(is_known) if is_known.all() else int(is_known.argmin())
    of_long_line = 0
    while of_long_line < count and side.is_word[count - 1 - of_long_line]:
        of_long_line += 1
    if of_long_line < NGRAM:
        count -= of_long_line
    words = int(side.borders[count])
    return words if count > 1 or words > HEADING else 0


def _chained(lines: Hashes) -> Hashes:
    """A hash of each run of lines that begins at the edge."""
    return np.cumsum(lines * _POWERS[: len(lines)], dtype=np.uint64)


def _shared_lines(lines: Hashes, keys: Hashes, most: float) -> tuple[Hashes, Offsets]:
    """The lines that pages share from the edge inwards, as `_chained` hashes, and how many pages each is on.

    Args:
        lines: [pages, EDGE_LINES].
        keys: [pages, EDGE_LINES].
        most: on how many pages they must be: more than half, so that there is only one such run.
    """
    shared: list[np.uint64] = []
    pages: list[int] = []
    for place in range(EDGE_LINES):
        values, counts = np.unique(lines[:, place], return_counts=True)
        line = values[counts.argmax()]
        is_same = lines[:, place] == line
        same_key = (keys[:, place] == keys[is_same, place][0]).sum()
        if not line or is_same.sum() < max(most, _STEADY * same_key):
            break
        shared.append(line)
        pages.append(int(is_same.sum()))
        lines, keys = lines[is_same], keys[is_same]
    return _chained(np.array(shared, np.uint64)), np.array(pages, np.int64)


def _entries(bottom: bool, hashes: Hashes, pages: Offsets) -> Template:
    entries = np.empty(len(hashes), _ENTRY)
    entries["bottom"], entries["hash"], entries["pages"] = bottom, hashes, pages
    return entries


def _blocks(pages: Offsets) -> Iterator[tuple[int, int]]:
    """The runs of words that blocks make up, from the edge inwards.

    The last words of a run, fewer than `GAP`, are left out if they are on fewer pages than all before them: what varies
    there are facts beside a block.

    Args:
        pages: [words - BLOCK + 1], on how many pages the block is that begins with a word; 0 if it is not template.
    """
    borders = np.flatnonzero((pages[1:] > 0) != (pages[:-1] > 0)) + 1
    for start, end in pairwise([0, *borders.tolist(), len(pages)]):
        counts = pages[start:end]
        if not len(counts) or not counts[0]:
            continue
        steps = [0]
        for place in (np.flatnonzero(counts[1:] != counts[:-1]) + 1).tolist():
            if not _STEADY <= counts[place] / counts[steps[-1]] <= 1 / _STEADY:
                steps.append(place)
        last = len(counts)
        while len(steps) > 1 and last - steps[-1] < GAP and counts[steps[-1]] < _STEADY * counts[steps[:-1]].min():
            last = steps.pop()
        yield start, start + last - 1 + BLOCK
