"""A page cut into blocks: runs of text between the elements that begin a line, with the elements around each.

Every extractor but `records` works on blocks: it chooses some, and `render` writes them as text or Markdown. The cut
walks the tree once, without recursion, so that neither depth nor size of a hostile page matters beyond its time.
"""

from __future__ import annotations

import re
from collections.abc import Container, Iterator
from itertools import islice
from typing import NamedTuple

from selectolax.lexbor import LexborHTMLParser, LexborNode

# Marks of inline markup in `Block.marked`; the cutter takes these control characters out of a page's own text.
CODE, STRONG, EMPHASIS = "\x01", "\x02", "\x03"
_LINE = "\x1e"
_MARKS = {
    "code": CODE, "kbd": CODE, "samp": CODE, "tt": CODE, "strong": STRONG, "b": STRONG, "em": EMPHASIS, "i": EMPHASIS,
}  # fmt: skip
UNMARKED = str.maketrans("", "", CODE + STRONG + EMPHASIS)
_TAKEN = re.compile(f"[{CODE}{STRONG}{EMPHASIS}{_LINE}]")  # a page may spell them as references, `&#2;`
_EMPTY_MARKS = re.compile(f"([{CODE}{STRONG}{EMPHASIS}])(\\s*)\\1")

BLOCK_TAGS = frozenset([
    "address", "article", "aside", "blockquote", "body", "button", "caption", "center", "dd", "details", "dialog",
    "dir", "div", "dl", "dt", "fieldset", "figcaption", "figure", "footer", "form", "h1", "h2", "h3", "h4", "h5",
    "h6", "header", "hgroup", "hr", "label", "legend", "li", "main", "menu", "nav", "noframes", "noscript", "ol",
    "optgroup", "option", "p", "pre", "search", "section", "summary", "table", "tbody", "td", "tfoot", "th", "thead",
    "tr", "ul",
    # of RSS and Atom, which servers call HTML
    "channel", "description", "entry", "feed", "guid", "item", "pubdate", "published", "rss", "subtitle", "title",
    "updated",
])  # fmt: skip
_LINE_TAGS = BLOCK_TAGS - {"table", "tbody", "thead", "tfoot", "td", "th"}  # that are lines of preformatted text
_SKIPPED = frozenset([
    "head", "script", "style", "template", "svg", "iframe", "select", "textarea", "object", "canvas", "audio",
    "video", "datalist", "input", "img",
])  # fmt: skip
_NAMES = ("class", "id", "role", "itemprop", "aria-label", "data-testid")
_HIDDEN = re.compile(r"display\s*:\s*none|visibility\s*:\s*hidden", re.I)
_WHITE_SPACE = re.compile(r"white-space\s*:\s*([a-z-]+)", re.I)
_KEEPS_LINES = ("pre", "pre-wrap", "pre-line", "break-spaces")
_KEEPS_SPACES = ("pre", "pre-wrap", "break-spaces")
_INDENTED = re.compile(r"^[^\S\n]{2}|^\t", re.M)

# What renders line numbers, and tables whose rows are the lines of a program
_LINE_NUMBERS = re.compile(
    r"\b(?:line-?no(?:s|number)?|line-?numbers?(?:-rows)?|ln(?:um)?|gutter|blob-num|rouge-gutter|hljs-ln-numbers?|gl)\b",
    re.I,
)
_CODE_TABLE = re.compile(
    r"\b(?:highlight(?:table)?|codehilite(?:table)?|rouge-table|rouge-line-table|syntaxhighlighter|blob-wrapper|blob|"
    r"js-file-line-container|hljs-ln|lntable|code-?table|source-?code)\b",
    re.I,
)
# Those of them that nothing else is called; of the others, the cells have to say it
_ONLY_CODE_TABLE = re.compile(
    r"\b(?:highlighttable|codehilite(?:table)?|rouge-(?:line-)?table|syntaxhighlighter|js-file-line-container|hljs-ln|"
    r"lntable)\b",
    re.I,
)
_CODE_CELL = re.compile(r"(?<![\w-])(?:(?:blob-|rouge-|hljs-ln-)?code|(?:code-?)?line)(?![\w-])", re.I)
_CODE_LINE = re.compile(r"\b(?:line|code-?line|cl|view-line|ec-line|token-line)\b", re.I)
_NUMBER = re.compile(r"[\s\d.:|]*\Z")
# What mathematics libraries draw beside the TeX that they were given
_DRAWN_MATH = re.compile(r"\b(?:katex-html|MathJax(?:_\w+)?|MJX_Assistive_MathML|mwe-math-fallback-image\S*)(?:\s|\Z)")


class Block(NamedTuple):
    """A run of text that stands on lines of its own."""

    text: str  # white space collapsed, but in preformatted text
    marked: str  # the same with marks around inline code, strong and emphasized text
    element: int  # the innermost element around its beginning
    container: int  # the innermost element around it that begins a line
    link_chars: int  # characters inside links
    links: int
    preformatted: bool


class Elements:
    """The elements of a page in document order, one list entry each; an element comes after its parent."""

    def __init__(self) -> None:
        self.tags: list[str] = []
        self.parents: list[int] = []  # -1 above the first
        self.depths: list[int] = []
        self.names: list[str] = []  # class, id, role and the like, in small letters
        self.hidden: list[bool] = []  # by itself, not by an ancestor
        self.numbers: list[int] = []  # of a list item in a numbered list; otherwise 0
        self.first: list[int] = []  # its blocks are first:end
        self.end: list[int] = []
        self.nodes: list[int] = []  # `mem_id` of the node


class Page(NamedTuple):
    """A page as blocks."""

    blocks: list[Block]
    elements: Elements

    def ancestors(self, element: int) -> Iterator[int]:
        """The element and those around it, from the inside out."""
        while element >= 0:
            yield element
            element = self.elements.parents[element]


def cut(tree: LexborHTMLParser, without: Container[int] = (), lines: Container[int] = ()) -> Page:
    """The blocks of a page, in reading order.

    Args:
        tree: the page.
        without: `mem_id` of the elements to leave out.
        lines: `mem_id` of elements that stand on lines of their own, whatever their tags.
    """
    cutter = _Cutter(without, lines)
    if tree.body is not None:
        cutter.walk(tree.body)
    return Page(cutter.blocks, cutter.elements)


class _Open(NamedTuple):
    """An element whose end is still to come."""

    number: int
    is_block: bool
    mark: str
    white_space: str  # of CSS, its own or inherited, if a style says so


class _Cutter:
    """Collects text until an element ends the line."""

    def __init__(self, without: Container[int], lines: Container[int]) -> None:
        self.blocks: list[Block] = []
        self.elements = Elements()
        self._without, self._lines = without, lines
        self._pieces: list[str] = []
        self._begun = False  # whether a piece is more than white space
        self._element = self._container = 0
        self._link_chars = self._links = 0
        self._counters: dict[int, int] = {}  # numbered list -> number of its latest item

    def walk(self, body: LexborNode) -> None:
        """Visit the tree below `body` in document order."""
        elements = self.elements
        above: list[_Open] = []
        node: LexborNode | None = body
        container, in_link = 0, 0
        while node is not None:
            below = None
            tag = node.tag or ""
            if tag == "-text":
                text = node.text_content or ""
                if text:
                    text = _TAKEN.sub("", text)
                    if above[-1].white_space in _KEEPS_LINES:
                        text = text.replace("\n", _LINE)
                    self._add(text, above[-1].number, container, bool(in_link))
            elif tag in ("br", "wbr"):
                self._pieces.append(_LINE if tag == "br" else "")
            elif tag not in _SKIPPED and not tag.startswith("-") and node.mem_id not in self._without:
                given = node.attributes
                names = " ".join(filter(None, map(given.get, _NAMES))) if given else ""
                if tag == "math" or (names and _DRAWN_MATH.search(names)):
                    if tag == "math" and (tex := _tex(node)):
                        self._add(tex, above[-1].number, container, False)
                else:
                    is_block = tag in BLOCK_TAGS or node.mem_id in self._lines
                    if is_block:
                        self._flush()
                    number = self._open(node, tag, names, above[-1].number if above else -1)
                    inherited = above[-1].white_space if above else ""
                    white_space = _white_space(given.get("style"), inherited)
                    if (
                        tag == "pre"
                        or (tag == "table" and _is_code_table(node, names))
                        or ((is_block or white_space != inherited) and self._is_laid_out(node, white_space))
                    ):
                        self._add_preformatted(node, number)
                        elements.end[number] = len(self.blocks)
                    else:
                        below = node.child
                        mark = _MARKS.get(tag, "")
                        if mark:
                            self._pieces.append(mark)
                        if is_block:
                            container = number
                        if tag == "a":
                            in_link += 1
                            self._links += 1
                        if below is None:
                            self._close(number, is_block, mark)
                            if tag == "a":
                                in_link -= 1
                            if is_block:
                                container = self._block_above(above)
                        else:
                            above.append(_Open(number, is_block, mark, white_space))
            elif tag == "script" and (node.attributes.get("type") or "").startswith("math/tex"):
                self._add(
                    _delimited(node.text(), "mode=display" in (node.attributes["type"] or "")),
                    above[-1].number,
                    container,
                    False,
                )
            if below is None:
                while above and (below := node.next) is None:
                    number, is_block, mark, _ = above.pop()
                    self._close(number, is_block, mark)
                    if elements.tags[number] == "a":
                        in_link -= 1
                    if is_block:
                        container = self._block_above(above)
                    node = node.parent
                    if node is None:
                        break
                if not above:
                    break
            node = below
        self._flush()

    @staticmethod
    def _block_above(above: list[_Open]) -> int:
        return next((element.number for element in reversed(above) if element.is_block), 0)

    def _open(self, node: LexborNode, tag: str, names: str, parent: int) -> int:
        elements, given = self.elements, node.attributes
        number = len(elements.tags)
        elements.tags.append(tag)
        elements.parents.append(parent)
        elements.depths.append(elements.depths[parent] + 1 if parent >= 0 else 0)
        elements.names.append(names.lower())
        elements.hidden.append(
            "hidden" in given or given.get("aria-hidden") == "true" or bool(_HIDDEN.search(given.get("style") or ""))
        )
        elements.numbers.append(self._list_number(tag, given, number, parent))
        elements.first.append(len(self.blocks))
        elements.end.append(0)
        elements.nodes.append(node.mem_id)
        return number

    def _list_number(self, tag: str, given: dict[str, str | None], number: int, parent: int) -> int:
        if tag == "ol":
            self._counters[number] = (_integer(given.get("start")) or 1) - 1
        elif tag == "li" and parent in self._counters:
            value = _integer(given.get("value"))
            self._counters[parent] = self._counters[parent] + 1 if value is None else value
            return self._counters[parent]
        return 0

    def _close(self, number: int, is_block: bool, mark: str) -> None:
        if mark:
            self._pieces.append(mark)
        if is_block:
            self._flush()
        # An inline element's text is in the block that is still open.
        self.elements.end[number] = len(self.blocks) + (not is_block and self._begun)

    def _add(self, text: str, element: int, container: int, in_link: bool) -> None:
        self._pieces.append(text)
        stripped = text.strip()
        if not stripped:
            return
        if not self._begun:
            self._begun, self._element, self._container = True, element, container
        if in_link:
            self._link_chars += len(stripped)

    def _flush(self) -> None:
        """End the line: what was collected is a block, or several where line breaks leave an empty line between."""
        if self._begun:
            marked = "".join(self._pieces)
            lines = (
                [" ".join(line.split()) for line in marked.split(_LINE)]
                if _LINE in marked
                else [" ".join(marked.split())]
            )
            parts = _paragraphs(lines) if len(lines) > 1 else lines
            total = sum(map(len, parts))
            for part in parts:
                text = part.translate(UNMARKED)
                if text != part:  # white space on both sides of a mark
                    text = "\n".join(" ".join(line.split()) for line in text.split("\n"))
                share = self._link_chars if len(parts) == 1 else self._link_chars * len(part) // total
                marked = _EMPTY_MARKS.sub(r"\2", part) if text != part else text
                links = self._links if len(parts) == 1 else 0
                self.blocks.append(
                    Block(text, marked, self._element, self._container, min(share, len(text)), links, False)
                )
        self._pieces.clear()
        self._begun = False
        self._link_chars = self._links = 0

    def _is_laid_out(self, node: LexborNode, white_space: str) -> bool:
        """Whether an element with this style is one preformatted text of several lines, some of which may be `div`s in
        it; around anything else that begins lines it is not. Where lines may be wrapped, it is prose unless some are
        indented."""
        if white_space not in _KEEPS_SPACES:
            return False
        inner_blocks = (inner for inner in islice(node.traverse(), 1, None) if inner.tag in BLOCK_TAGS)
        if any(
            inner.tag != "div" or not (above := inner.parent) or above.mem_id != node.mem_id for inner in inner_blocks
        ):
            return False
        text = preformatted_text(node, self._without)
        return "\n" in text and (white_space == "pre" or bool(_INDENTED.search(text)))

    def _add_preformatted(self, node: LexborNode, number: int) -> None:
        self._flush()
        text = preformatted_text(node, self._without)
        if text:
            link_chars = sum(len(link.text()) for link in node.css("a")) if "<a" in (node.html or "") else 0
            self.blocks.append(Block(text, text, number, number, min(link_chars, len(text)), 0, True))


def _paragraphs(lines: list[str]) -> list[str]:
    """Join lines, and begin another paragraph after an empty one."""
    paragraphs: list[list[str]] = [[]]
    for line in lines:
        if line.translate(UNMARKED):
            paragraphs[-1].append(line)
        elif paragraphs[-1]:
            paragraphs.append([])
    return ["\n".join(paragraph) for paragraph in paragraphs if paragraph]


def _integer(text: str | None) -> int | None:
    return int(text) if text and re.fullmatch(r"\s*-?\d{1,6}\s*", text) else None


# --- preformatted text ------------------------------------------------------------------------------------------------


def _white_space(style: str | None, inherited: str) -> str:
    found = _WHITE_SPACE.search(style) if style else None
    return found[1].lower() if found and found[1].lower() != "inherit" else inherited


def preformatted_text(node: LexborNode, without: Container[int] = ()) -> str:
    """The lines of preformatted text: as they stand, broken where `<br>` and block elements break them, without line
    numbers beside them and without the elements whose `mem_id` is in `without`."""
    pieces: list[str] = []
    _collect_lines(node, without, pieces)
    text = _TAKEN.sub("", "".join(pieces)).replace("\r\n", "\n").replace("\r", "\n").expandtabs(4)
    lines = [line.rstrip() for line in text.split("\n")]
    while lines and not lines[0]:
        lines.pop(0)
    while lines and not lines[-1]:
        lines.pop()
    return "\n".join(lines)


def _collect_lines(top: LexborNode, without: Container[int], pieces: list[str]) -> None:
    """Append the text below `top`; at the edges of what is a line of its own, a line ends unless it has ended."""
    open_lines = [False]
    node = top.child
    while node is not None:
        below = None
        tag = node.tag or ""
        if tag == "-text":
            pieces.append(node.text_content or "")
        elif tag == "br":
            pieces.append("\n")
        elif tag not in _SKIPPED and not tag.startswith("-") and node.mem_id not in without:
            given = node.attributes
            names = " ".join(filter(None, (given.get("class"), given.get("id"))))
            numbers = ("data-line-number" in given and not node.text().strip()) or (
                names and _LINE_NUMBERS.search(names) and _NUMBER.match(node.text())
            )
            if not numbers:
                is_line = tag in _LINE_TAGS
                if is_line or (tag in ("span", "code") and names and _CODE_LINE.search(names)):
                    _end_line(pieces)
                elif tag in ("td", "th") and pieces and not pieces[-1][-1:].isspace():
                    pieces.append(" ")
                below = node.child
                if below is not None:
                    open_lines.append(is_line)
                elif is_line:
                    pieces.append("\n")
        if below is None:
            while (below := node.next) is None:
                if open_lines.pop():
                    _end_line(pieces)
                parent = node.parent
                if parent is None or not open_lines:
                    return
                node = parent
        node = below


def _end_line(pieces: list[str]) -> None:
    if pieces and not pieces[-1].endswith("\n"):
        pieces.append("\n")


def _is_code_table(table: LexborNode, names: str) -> bool:
    """Whether the rows of a table are numbered lines of a program, or hold such lines whole."""
    if not _CODE_TABLE.search(names) or table.css_first("table table, p, ul, h1, h2, h3") is not None:
        return False
    rows = [cells for row in table.css("tr")[:50] if (cells := row.css("td"))]
    lines = 0
    for *numbers, code in rows:
        is_code = _ONLY_CODE_TABLE.search(names) or _is_code_cell(code)
        lines += bool(numbers and is_code and all(_NUMBER.match(cell.text()) for cell in numbers))
    return bool(rows) and lines >= 0.8 * len(rows)


def _is_code_cell(cell: LexborNode) -> bool:
    named = _CODE_CELL.search(cell.attributes.get("class") or "")
    return named is not None or cell.css_first("pre, code") is not None


# --- mathematics ------------------------------------------------------------------------------------------------------


def _tex(math: LexborNode) -> str:
    """The TeX that a MathML element was made from, else its text."""
    for annotation in math.css("annotation"):
        if "tex" in (annotation.attributes.get("encoding") or "").lower():
            return _delimited(annotation.text(), math.attributes.get("display") == "block")
    if alternative := math.attributes.get("alttext"):
        return _delimited(alternative, math.attributes.get("display") == "block")
    return " ".join(_TAKEN.sub("", math.text(separator=" ")).split())


def _delimited(tex: str, display: bool) -> str:
    tex = " ".join(_TAKEN.sub("", tex).split())
    if tex.startswith(r"{\displaystyle") and tex.endswith("}"):
        tex = tex[len(r"{\displaystyle") : -1].strip()
    return (f"$${tex}$$" if display else f"${tex}$") if tex else ""
