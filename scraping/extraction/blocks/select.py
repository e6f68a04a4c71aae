"""Which blocks of a page an extractor keeps, and why the others go.

- `by_model`: those that the model expects to be the page's own text;
- `by_container`: those inside an element that a selector finds;
- `by_trafilatura`: those whose words trafilatura's text holds.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import lxml.html
import numpy as np
from numpy.typing import NDArray
from selectolax.lexbor import LexborHTMLParser, LexborNode

from scraping.extraction.blocks.cut import Page, cut
from scraping.extraction.blocks.features import Head
from scraping.extraction.blocks.labels import label, words_of
from scraping.extraction.blocks.model import choose, load
from scraping.extraction.blocks.render import render
from scraping.extraction.config import Format

# Less than this many characters is a heading or a caption, not a page's text: try the next container.
ENOUGH = 50

# The model was trained on pages; what has less text than a page, or more than any, is read by rules.
_MIN_CHARACTERS = 300
_MAX_BLOCKS = 30_000
_MAX_DEPTH = 400
_TABLE_WORDS = 200  # of a table that stays as a whole

_ALWAYS_REMOVED = [
    "nav", "footer", "dialog", "button", "select", "input", "textarea", "[hidden]", "[aria-hidden=true]",
    "[role=navigation]", "[role=search]", ".headerlink",  # the ¶ that Sphinx puts behind every heading
]  # fmt: skip
_AROUND_THE_TEXT = ["header", "aside", "form", "[role=banner]", "[role=contentinfo]", "[role=complementary]"]
_USUAL_CONTAINERS = ["main", "[role=main]", "article", "#content", "#main"]
_TELLING = ("nav", "footer", "header", "aside", "form", "dialog", "button", "figcaption", "noscript")


class Selection(NamedTuple):
    """Blocks of a page, those to keep among them, and by which extractor."""

    page: Page
    kept: list[int]  # ascending
    extractor: str
    scores: Sequence[int] | None = None  # of the model, in thousandths
    cutoff: int = 0

    def text(self, form: Format) -> str:
        """What is kept, laid out."""
        return render(self.page, self.kept, form)

    def is_enough(self) -> bool:
        """Whether what is kept has the length of a page's text."""
        return sum(len(self.page.blocks[number].text) for number in self.kept) >= ENOUGH


class Judged(NamedTuple):
    """What became of a piece of a page's text."""

    text: str
    kept: bool
    why: str


# --- the model --------------------------------------------------------------------------------------------------------


def by_model(page: Page, head: Head) -> Selection | None:
    """The blocks that the model keeps; None of a page that it should not judge."""
    blocks, depths = page.blocks, page.elements.depths
    characters = sum(len(block.text) for block in blocks)
    if characters < _MIN_CHARACTERS or len(blocks) > _MAX_BLOCKS or max(depths) > _MAX_DEPTH:
        return None
    scores = load().score(page, head)
    sizes = np.array([len(words_of(block.text)) for block in blocks], np.int64)
    cutoff = choose(scores, sizes)
    kept = _with_whole_tables(page, scores >= cutoff, sizes)
    return Selection(page, np.flatnonzero(kept).tolist(), "auto", scores.tolist(), cutoff)


def _with_whole_tables(page: Page, kept: NDArray[np.bool_], sizes: NDArray[np.int64]) -> NDArray[np.bool_]:
    """What is kept, and the other blocks of small tables of which half the words are: a row is a fact as its neighbors
    are. Tables around tables are layout."""
    elements = page.elements
    tables = [number for number, tag in enumerate(elements.tags) if tag == "table"]
    around = {above for table in tables for above in page.ancestors(elements.parents[table])}
    whole = kept.copy()
    for table in tables:
        part = slice(elements.first[table], elements.end[table])
        words = sizes[part].sum()
        if table not in around and words <= _TABLE_WORDS and 2 * sizes[part][kept[part]].sum() >= words:
            whole[part] = True
    return whole


# --- containers -------------------------------------------------------------------------------------------------------


def by_container(tree: LexborHTMLParser, selector: str, remove: list[str]) -> Selection:
    """The blocks of the chosen container, else of a usual one, else of the whole body."""
    selectors = [selector, *_USUAL_CONTAINERS]
    lines = {node.mem_id for node in tree.css(", ".join(selectors))}
    for kept_out in (["noscript"], []):  # where all text is meant for browsers without scripts
        without = _ids(tree, [*_ALWAYS_REMOVED, *kept_out, *remove])
        page = cut(tree, without, lines)
        places = {node: number for number, node in enumerate(page.elements.nodes)}
        for container in selectors:
            inside = _inside(page, [places[node] for node in _places(tree.css(container), places)])
            selection = Selection(page, inside, "main")
            if selection.is_enough():
                return selection
        page = cut(tree, without | _ids(tree, _AROUND_THE_TEXT), lines)
        selection = Selection(page, list(range(len(page.blocks))), "body")
        if selection.is_enough():
            break
    return selection


def _ids(tree: LexborHTMLParser, selectors: list[str]) -> set[int]:
    return {node.mem_id for node in tree.css(", ".join(selectors))} if selectors else set()


def _places(nodes: list[LexborNode], places: dict[int, int]) -> list[int]:
    """The nodes, or, where one lies inside preformatted text or holds the whole page, the nearest that has blocks."""
    found = []
    for node in nodes:
        at: LexborNode | None = node
        if node.tag == "html":
            at = node.css_first("body")
        while at is not None and at.mem_id not in places and at.parent is not None and at.parent.tag == "pre":
            at = at.parent
        if at is not None and at.mem_id in places:
            found.append(at.mem_id)
    return found


def _inside(page: Page, containers: list[int]) -> list[int]:
    elements = page.elements
    inside = {number for one in containers for number in range(elements.first[one], elements.end[one])}
    return sorted(inside)


# --- trafilatura ------------------------------------------------------------------------------------------------------


def by_trafilatura(html: str, page: Page) -> Selection:
    """The blocks of which trafilatura's text holds the greater part."""
    from trafilatura import extract as trafilatura_extract

    text = ""
    # With its usual limits lxml silently drops everything nested deeper than 256 elements.
    parser = lxml.html.HTMLParser(encoding="utf-8", huge_tree=True)
    try:
        tree = lxml.html.document_fromstring(html.encode(), parser=parser)
        text = trafilatura_extract(tree, fast=True, include_comments=False) or ""
    except lxml.etree.ParserError:  # an empty document
        pass
    sizes, right = label(page.blocks, text)
    kept = [number for number, (size, found) in enumerate(zip(sizes, right, strict=True)) if 2 * found > size]
    return Selection(page, kept, "article")


# --- reasons ----------------------------------------------------------------------------------------------------------


def judge(selection: Selection, whole: Page, tree: LexborHTMLParser, remove: list[str]) -> list[Judged]:
    """What became of every block of the whole page, and why.

    Args:
        selection: what the extractor kept.
        whole: all blocks of the page.
        tree: the page.
        remove: CSS selectors that the extractor's settings leave out.
    """
    if selection.scores is not None:
        keeps = set(selection.kept)
        return [
            Judged(block.text, number in keeps, _score_reason(selection, number, number in keeps))
            for number, block in enumerate(selection.page.blocks)
        ]
    kept = {selection.page.elements.nodes[selection.page.blocks[number].element] for number in selection.kept}
    reasons: dict[int, str] = {}
    for selector in [*_ALWAYS_REMOVED, "noscript", *_AROUND_THE_TEXT, *remove]:
        for node in tree.css(selector):
            reasons.setdefault(node.mem_id, f"inside {selector}")
    outside = {"article": "not in trafilatura's text", "main": "outside the container"}.get(
        selection.extractor, "left out"
    )
    judged = []
    for block in whole.blocks:
        is_kept = whole.elements.nodes[block.element] in kept
        nodes = (whole.elements.nodes[element] for element in whole.ancestors(block.element))
        why = next((reasons[node] for node in nodes if node in reasons), outside)
        judged.append(Judged(block.text, is_kept, f"by {selection.extractor}" if is_kept else why))
    return judged


def _score_reason(selection: Selection, number: int, kept: bool) -> str:
    assert selection.scores is not None
    page, block = selection.page, selection.page.blocks[number]
    signs = [tag for element in page.ancestors(block.element) if (tag := page.elements.tags[element]) in _TELLING][:1]
    if block.link_chars * 2 > len(block.text):
        signs.append("links")
    place = f" ({', '.join(signs)})" if signs else ""
    if kept and selection.scores[number] < selection.cutoff:
        return f"with its table{place}"
    return f"score {selection.scores[number] // 100 / 10:.1f}…, kept from {selection.cutoff / 1000:.2f}{place}"
