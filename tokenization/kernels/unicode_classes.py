"""The class of every code point, as the split patterns distinguish them."""

from __future__ import annotations

from functools import cache

import numpy as np

from tokenization.kernels import unicode_data

OTHER, MARK, UPPER, LOWER, UNCASED, NUMBER, SPACE, NEWLINE = range(8)
# \p{L} is UPPER (Lu, Lt), LOWER (Ll) or UNCASED (Lm, Lo); \s is SPACE or NEWLINE (CR and LF); MARK is \p{M}


@cache
def class_table() -> np.ndarray:
    """uint8[0x110000]: the class of every code point, in the Unicode version of tiktoken's regex engine.

    Python's `regex` module follows a newer Unicode than the Rust engine inside tiktoken; the table takes the side of
    tiktoken, whose ids the encoder must reproduce.
    """
    table = np.full(0x110000, OTHER, np.uint8)
    for name, value in (
        ("MARK", MARK),
        ("UPPER", UPPER),
        ("LOWER", LOWER),
        ("UNCASED", UNCASED),
        ("NUMBER", NUMBER),
        ("SPACE", SPACE),
    ):
        for word in getattr(unicode_data, name).split():
            first, _, last = word.partition("-")
            table[int(first, 16) : int(last or first, 16) + 1] = value
    table[[10, 13]] = NEWLINE
    return table
