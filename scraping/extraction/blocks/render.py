"""Chosen blocks as text or Markdown: what stood on lines of its own does so again, and structure survives.

Paragraphs are parted by an empty line, items of a list begin with `-` or their number, the cells of a table's row share
a line, a definition follows its term, and preformatted text keeps every space. Markdown adds headings, fences, quotes,
tables and marks of inline code and stress; what a line means is then told apart from how it looks.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence
from typing import NamedTuple

from scraping.extraction.blocks.cut import BLOCK_TAGS, CODE, EMPHASIS, STRONG, UNMARKED, Block, Page
from scraping.extraction.config import Format

_PARAGRAPHS = frozenset([
    "p", "h1", "h2", "h3", "h4", "h5", "h6", "ul", "ol", "menu", "dir", "dl", "table", "blockquote", "figure",
    "section", "article", "hr", "form", "fieldset", "pre", "noscript",
])  # fmt: skip
_CELLS = ("td", "th")
_MAX_CELL_BLOCKS = 3
_MANY = [
    "h1",
    "h2",
    "h3",
    "h4",
    "h5",
    "h6",
    "ul",
    "ol",
    "pre",
    "table",
    "form",
]  # a cell with one of these is a piece of layout
_LANGUAGE = re.compile(r"\b(?:language|lang|highlight|brush:?|source)[-_ ]([a-z][a-z0-9+#]{0,15})\b")
_NO_LANGUAGE = ("text", "none", "plaintext", "default", "source", "code", "block", "wrapper", "js")
_STRESS = [
    (re.compile(f"{mark}(\\s*)([^{mark}]*?)(\\s*){mark}"), rf"\g<1>{symbol}\g<2>{symbol}\g<3>")
    for mark, symbol in ((CODE, "`"), (STRONG, "**"), (EMPHASIS, "*"))
]
_SPACES = re.compile(" {2,}")


class _Unit(NamedTuple):
    """What is written in one piece: a block, or the kept cells of a table's row."""

    text: str
    path: list[int]  # the block elements around it, from the inside out
    row: int = -1  # the `tr`, or -1


def render(page: Page, kept: Sequence[int], form: Format = "text") -> str:
    """The blocks with the numbers `kept` (ascending), laid out as the page lays them out.

    Example:
        >>> from scraping.extraction.blocks.cut import cut
        >>> page = cut(LexborHTMLParser("<h2>Ports</h2><ol><li>Skye<li>Mull</ol>"))  # doctest: +SKIP
        >>> print(render(page, [0, 1, 2], "markdown"))  # doctest: +SKIP
        ## Ports
        <BLANKLINE>
        1. Skye
        2. Mull
    """
    return _Renderer(page, form == "markdown").text(kept)


class _Renderer:
    def __init__(self, page: Page, markdown: bool) -> None:
        self._page, self._markdown = page, markdown
        self._tags, self._parents = page.elements.tags, page.elements.parents
        self._data_tables: dict[int, bool] = {}

    def text(self, kept: Sequence[int]) -> str:
        """All units with the white space between them."""
        written: list[str] = []
        previous: _Unit | None = None
        begun: set[int] = set()  # items of lists
        many: set[int] = set()  # items with more than one unit
        in_table = -1
        for unit in self._units(kept):
            items = [element for element in unit.path if self._tags[element] == "li"]
            new = [item for item in items if item not in begun]
            many.update(item for item in items if item in begun)
            begun.update(new)
            gap = self._gap(previous, unit, new, many) if previous else ""
            lines = self._decorated(unit, items, bool(new and new[0] == items[0]))
            if self._markdown and unit.row >= 0:
                table = self._above(unit.row, "table")
                if table != in_table:
                    columns = unit.text.count(" | ") + 1
                    lines += "\n" + " | ".join(["---"] * columns).join(("| ", " |"))
                    gap = "\n\n" if gap else ""
                in_table = table
            else:
                in_table = -1
            written += [gap, lines]
            previous = unit
        return "".join(written)

    # --- units

    def _units(self, kept: Sequence[int]) -> Iterable[_Unit]:
        blocks = self._page.blocks
        row = -1
        cells: list[Block] = []
        for number in kept:
            block = blocks[number]
            path = [element for element in self._page.ancestors(block.container) if self._tags[element] in BLOCK_TAGS]
            own_row = self._row(path)
            if own_row != row and row >= 0:
                yield self._row_unit(row, cells)
                cells = []
            row = own_row
            if row >= 0:
                cells.append(block)
            else:
                yield _Unit(self._text_of(block, path), path)
        if row >= 0:
            yield self._row_unit(row, cells)

    def _row(self, path: list[int]) -> int:
        """The row of a table of data that a block is in, or -1."""
        for inner, element in zip([None, *path], path, strict=False):
            if self._tags[element] == "tr" and inner is not None and self._tags[inner] in _CELLS:
                return element if self._is_data(self._above(element, "table")) else -1
        return -1

    def _row_unit(self, row: int, kept: list[Block]) -> _Unit:
        texts: dict[int, list[str]] = {cell: [] for cell in self._cells(row)}
        for block in kept:
            inner = block.container
            while self._parents[inner] != row:
                inner = self._parents[inner]
            text = self._stressed(block.marked).replace("|", "\\|") if self._markdown else block.text
            texts.setdefault(inner, []).append(" ".join(text.split()))
        cells = [" ".join(parts) for parts in texts.values()]
        text = "| " + " | ".join(cells) + " |" if self._markdown else " ".join(filter(None, cells))
        return _Unit(text, [element for element in self._page.ancestors(row) if self._tags[element] in BLOCK_TAGS], row)

    def _cells(self, row: int) -> Iterable[int]:
        depths = self._page.elements.depths
        element = row + 1
        while element < len(depths) and depths[element] > depths[row]:
            if self._parents[element] == row and self._tags[element] in _CELLS:
                yield element
            element += 1

    def _is_data(self, table: int) -> bool:
        """Whether a table's cells are short: others lay out a page."""
        if table < 0:
            return False
        if table not in self._data_tables:
            elements = self._page.elements
            element = table + 1
            is_data = True
            while is_data and element < len(elements.tags) and elements.depths[element] > elements.depths[table]:
                tag = elements.tags[element]
                holds_many = tag in _CELLS and elements.end[element] - elements.first[element] > _MAX_CELL_BLOCKS
                is_data = not holds_many and tag not in _MANY
                element += 1
            self._data_tables[table] = is_data
        return self._data_tables[table]

    def _above(self, element: int, tag: str) -> int:
        return next((above for above in self._page.ancestors(element) if self._tags[above] == tag), -1)

    # --- what stands between and before them

    def _gap(self, previous: _Unit, unit: _Unit, new: list[int], many: set[int]) -> str:
        """The white space between two units."""
        before, after = set(previous.path), set(unit.path)
        left = [element for element in previous.path if element not in after]
        entered = [element for element in unit.path if element not in before]
        if not left and not entered:
            return "\n\n"  # two paragraphs of one element
        tags = [self._tags[element] for element in left + entered]
        if new and new[-1] in entered:  # an item begins: only what is around it matters
            around = entered[entered.index(new[-1]) + 1 :]
            item = next((element for element in reversed(left) if self._tags[element] == "li"), -1)
            outside = left[left.index(item) + 1 :] if item >= 0 else left
            nested = any(self._tags[element] == "li" for element in unit.path if element in before)
            if item in many or (not nested and any(self._tags[e] in _PARAGRAPHS for e in around + outside)):
                return "\n\n"
            return "\n"
        if "dt" in tags and self._tags[entered[0] if entered else 0] == "dt" and "dd" in tags:
            return "\n\n"
        if entered and "dd" in tags and any(self._tags[element] == "dt" for element in left):
            return "\n"
        return "\n\n" if any(tag in _PARAGRAPHS for tag in tags) else "\n"

    def _decorated(self, unit: _Unit, items: list[int], begins: bool) -> str:
        """The unit's text with the marker of its list item, and in Markdown behind quotes and indentation."""
        text = unit.text
        if self._markdown and any(self._tags[element] == "dd" for element in unit.path[:2]):
            text = f": {text}"
        if items:
            number = self._page.elements.numbers[items[0]]
            marker = f"{number}. " if number else "- "
            indent = "  " * (len(items) - 1) if not self._markdown else "   " * (len(items) - 1)
            if begins:
                text = (
                    indent
                    + marker
                    + (text.replace("\n", "\n" + indent + " " * len(marker)) if self._markdown else text)
                )
            elif self._markdown:
                text = _indented(text, indent + " " * len(marker))
        if self._markdown:
            for element in unit.path:
                if self._tags[element] == "blockquote":
                    text = "\n".join(f"> {line}".rstrip() for line in text.split("\n"))
        return text

    def _text_of(self, block: Block, path: list[int]) -> str:
        if not self._markdown:
            return block.text
        if block.preformatted:
            fence = "```"
            while fence in block.text:
                fence += "`"
            return f"{fence}{self._language(path)}\n{block.text}\n{fence}"
        for element in path:
            if (tag := self._tags[element])[0] == "h" and tag[1:].isdigit():
                return f"{'#' * int(tag[1:])} {' '.join(self._stressed(block.marked.replace(STRONG, '')).split())}"
        return self._stressed(block.marked)

    def _language(self, path: list[int]) -> str:
        for element in path[:3]:
            for match in _LANGUAGE.finditer(self._page.elements.names[element]):
                if match[1] not in _NO_LANGUAGE:
                    return match[1]
        return ""

    @staticmethod
    def _stressed(marked: str) -> str:
        """Markdown's signs for the marks of inline markup."""
        if marked.isprintable():
            return marked
        for pattern, sign in _STRESS:
            marked = pattern.sub(sign, marked)
        return _SPACES.sub(" ", marked.translate(UNMARKED)).strip()


def _indented(text: str, by: str) -> str:
    return "\n".join(by + line if line else line for line in text.split("\n"))
