"""What is known of each code point, as tables that kernels look it up in."""

from __future__ import annotations

import functools
import re
import sys

import numpy as np

_LETTERS = re.compile(r"[^\W\d_]+")


def every_character() -> str:
    """All code points in their order, with `?` for surrogates."""
    codes = np.arange(sys.maxunicode + 1, dtype="<u4")
    codes[0xD800:0xE000] = ord("?")
    return codes.tobytes().decode("utf-32-le")


@functools.cache
def letters():
    """Whether a code point is a letter, or a number that is not a digit, to `re`: bool[0x110000]."""
    table = np.zeros(sys.maxunicode + 1, np.bool_)
    for found in _LETTERS.finditer(every_character()):
        table[found.start() : found.end()] = True
    return table
