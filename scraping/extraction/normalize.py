"""Normal form of a text. Every document of a corpus is in it, whether it came from a page or from a collection."""

from __future__ import annotations

import re
import unicodedata

import ftfy
from ftfy.badness import is_bad

# How UTF-8 looks when read as Latin-1 or Windows-1252: a lead byte's character, then a continuation byte's. This finds
# candidates at a hundred times the speed of ftfy's own test, which then decides.
_LEADS = "[\u00c2-\u00f4]"
_CONTINUATIONS = "[\u0080-\u00bf\u0152\u0153\u0160\u0161\u0178\u017d\u017e\u0192\u02c6\u02dc\u2013-\u203a\u20ac\u2122]"
_MISREAD_UTF8 = re.compile(f"{_LEADS}{_CONTINUATIONS}|[\x80-\x84\x86-\x9f]")
_NEWLINES = re.compile("[\r\x85\u2028\u2029]")
# Controls, and marks without width that only break words apart. The joiners U+200C/D stay: Persian, emoji need them.
_INVISIBLE = re.compile(
    "[\x00-\x08\x0b-\x1f\x7f-\x9f\u00ad\u200b\u200e\u200f\u202a-\u202e\u2060-\u2064\ufeff\ufff9-\ufffb]"
)
_SPACES = re.compile("[\u00a0\u1680\u2000-\u200a\u202f\u205f\u3000]")
_SPACE_BEFORE_NEWLINE = re.compile("(?<![ \t])[ \t]++(?=\n)")  # in linear time: each run of spaces is looked at once
_BLANK_LINES = re.compile("\n{3,}")

# By these `scraping.corpus.kernels.plain` tells texts that are in normal form already.
REPLACED = (_NEWLINES, _INVISIBLE, _SPACES)
MISREAD_PAIRS = (re.compile(_LEADS), re.compile(_CONTINUATIONS))


def normalize(text: str) -> str:
    """`text` in Unicode normal form C, without control and invisible characters, with `\\n` as the only line break.

    Text that was decoded by the wrong encoding somewhere on its way (mojibake) is repaired by ftfy where its test
    detects it, and only there: repairs guess. Spaces of all widths become plain ones, trailing spaces go, and at most
    one blank line stays between paragraphs. Indentation stays.

    Example:
        >>> normalize("A caf\\u00c3\\u00a9\\u00a0\\r\\n\\n\\n\\nby the sea")
        'A café\\n\\nby the sea'
    """
    if not text.isascii() and _MISREAD_UTF8.search(text) and is_bad(text):
        text = ftfy.fix_encoding(text)
    text = _NEWLINES.sub("\n", text.replace("\r\n", "\n"))
    text = _INVISIBLE.sub("", text)
    if not text.isascii():
        text = unicodedata.normalize("NFC", _SPACES.sub(" ", text))
    if " \n" in text or "\t\n" in text:
        text = _SPACE_BEFORE_NEWLINE.sub("", text)
    if "\n\n\n" in text:
        text = _BLANK_LINES.sub("\n\n", text)
    return text.strip("\n").rstrip()
