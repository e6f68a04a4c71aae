"""The normal form of a text, most of which are in it already: found out at a gigabyte a second, not by eight patterns.

`normalized` is `normalize`, which it calls where a text has anything that may change: one
of the characters that it replaces or drops, a pair of characters that may be misread UTF-8, spaces at the end of a
line, three newlines, or what may not be in normal form C (the quick check of Unicode Standard Annex 15, section 9,
which sends texts with characters that can be part of a composition the long way).
"""

from __future__ import annotations

import functools
import sys
import unicodedata

import numpy as np

from scraping.corpus.kernels.characters import every_character
from scraping.extraction.normalize import MISREAD_PAIRS, REPLACED, normalize
from textmill.kernels.jit import kernel

COMBINING, SUSPECT, LEAD, CONTINUATION = 0xFF, 0x100, 0x200, 0x400  # of a code point; the lowest byte is its class
_DECOMPOSITIONS_END = 0x30000  # beyond it no character has a decomposition or a combining class


def normalized(text: str) -> str:
    """`text` in normal form: `normalize(text)`."""
    utf8 = np.frombuffer(text.encode("utf-8", "surrogatepass"), np.uint8)
    return text if is_plain(utf8, _character_flags()) else normalize(text)


@kernel
def is_plain(utf8, flags):
    """Whether a text is certainly in normal form.

    utf8: uint8[:], well-formed. flags: uint16[0x110000], what is known of each code point.
    """
    size = len(utf8)
    if size and (utf8[0] == 10 or utf8[size - 1] <= 32):
        return False
    before = np.uint16(0)
    newlines = 0
    is_space = False
    i = 0
    while i < size:
        byte = np.int64(utf8[i])
        if byte < 128:
            if byte == 10:
                newlines += 1
                if is_space or newlines == 3:
                    return False
            elif byte < 127 and (byte >= 32 or byte == 9):
                newlines = 0
                is_space = byte == 32 or byte == 9
            else:
                return False
            before = np.uint16(0)
            i += 1
            continue
        length = 2 + (byte >= 0xE0) + (byte >= 0xF0)
        code = byte & (0x7F >> length)
        for j in range(1, length):
            code = code << 6 | np.int64(utf8[i + j]) & 0x3F
        known = flags[code]
        if known & SUSPECT or (known & CONTINUATION and before & LEAD):
            return False
        if known & COMBINING and before & COMBINING > known & COMBINING:
            return False
        before = known
        newlines = 0
        is_space = False
        i += length
    return True


@functools.cache
def _character_flags():
    """What `is_plain` wants to know of each code point."""
    flags = np.zeros(sys.maxunicode + 1, np.uint16)
    for code in range(_DECOMPOSITIONS_END):
        character = chr(code)
        flags[code] |= unicodedata.combining(character)
        parts = unicodedata.decomposition(character).split()
        if parts and not parts[0].startswith("<"):
            if not unicodedata.is_normalized("NFC", character):
                flags[code] |= SUSPECT
            if len(parts) == 2:
                flags[int(parts[1], 16)] |= SUSPECT  # it may be composed with the character before it
    flags[0x1161:0x1200] |= SUSPECT  # vowels and finals of Hangul, which are composed by rule
    characters = every_character()
    for patterns, flag in ((REPLACED, SUSPECT), (MISREAD_PAIRS[:1], LEAD), (MISREAD_PAIRS[1:], CONTINUATION)):
        for pattern in patterns:
            flags[[found.start() for found in pattern.finditer(characters)]] |= flag
    return flags
