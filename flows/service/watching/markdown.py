"""Markdown in which whatever comes from outside stays text.

Titles, labels, reasons and samples come from web pages, models and people. Here they cannot end a table's cell or a
fence, and no HTML, link or picture of theirs is drawn.
"""

from __future__ import annotations

import base64
import re
from collections.abc import Iterable, Iterator, Sequence

_SPECIAL = re.compile(r"[\\`*\[\]<>|~&]|(?<![^\W_])_|_(?![^\W_])")
_AT_THE_START = re.compile(r"^(\d*)([-+=#]|(?<=\d)[.)](?=\s|$))")  # a list, a heading
_LINKED_AS_IT_STANDS = re.compile(r"(?i)://|\bwww\.|@|\b(?:mailto|xmpp|tel):")


def plain(text: str) -> str:
    """Text as it is, in one line: what Markdown or HTML would read as theirs is escaped, and what would become a link
    by itself (an address) is written as code. A backslash, as the UI shows character references as they are."""
    words = [
        code(word) if _LINKED_AS_IT_STANDS.search(word) else _SPECIAL.sub(r"\\\g<0>", word) for word in text.split()
    ]
    return _AT_THE_START.sub(r"\1\\\2", " ".join(words))


def code(text: str) -> str:
    """A name or a path in the typeface of code, in one line, for a cell of a table too."""
    line = " ".join(text.split()).replace("|", "\\|")
    longest = max(map(len, re.findall("`+", line)), default=0)
    fence, pad = "`" * (longest + 1), " " if "`" in line else ""
    return f"{fence}{pad}{line}{pad}{fence}"


def fenced(text: str) -> str:
    """A block of text as it is. The fence is longer than any in the text, so the text cannot end it."""
    longest = max(map(len, re.findall("~+", text)), default=0)
    fence = "~" * max(4, longest + 1)
    return f"\n{fence}text\n{text}\n{fence}\n"


def table(head: Sequence[str], rows: Iterable[Sequence[str]]) -> Iterator[str]:
    """Lines of a table; the cells are Markdown."""
    yield f"\n| {' | '.join(head)} |\n|{'---|' * len(head)}"
    for row in rows:
        yield f"| {' | '.join(row)} |"
    yield ""


def link(text: str, address: str) -> str:
    """A link to a page of the same server; the text is plain."""
    return f"[{plain(text)}]({address})"


def picture(title: str, svg: str) -> str:
    """An SVG element as a picture in the page itself: nothing has to be served or fetched."""
    return f"![{plain(title)}](data:image/svg+xml;base64,{base64.b64encode(svg.encode()).decode()})\n"
