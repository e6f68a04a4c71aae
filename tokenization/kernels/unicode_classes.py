"""The class of every code point, as the split patterns distinguish them."""

from __future__ import annotations

from functools import cache

import numpy as np
import regex

from tokenization.kernels import unicode_data

OTHER, MARK, UPPER, LOWER, UNCASED, NUMBER, SPACE, NEWLINE = range(8)
_UNASSIGNED = 8
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
        _mark(table, name, value)
    table[[10, 13]] = NEWLINE
    return table


def _mark(table: np.ndarray, name: str, value: int) -> None:
    """Set the entries of the code points of a class of `unicode_data`."""
    for word in getattr(unicode_data, name).split():
        first, _, last = word.partition("-")
        table[int(first, 16) : int(last or first, 16) + 1] = value


@cache
def older_characters() -> dict[int, int]:
    """Code point → one that `regex` treats as tiktoken's engine treats the first, with as many bytes of UTF-8.

    It has the code points that the newer Unicode of `regex` gives another class, and those that only this Unicode has.
    """
    every = "".join(chr(c) for c in range(0x110000) if not 0xD800 <= c < 0xE000)
    theirs = np.full(0x110000, OTHER, np.uint8)
    for expression, value in (
        (r"\p{M}+", MARK),
        (r"[\p{Lu}\p{Lt}]+", UPPER),
        (r"\p{Ll}+", LOWER),
        (r"[\p{Lm}\p{Lo}]+", UNCASED),
        (r"\p{N}+", NUMBER),
        (r"\p{Cn}+", _UNASSIGNED),
    ):
        for match in regex.finditer(expression, every):
            theirs[ord(match[0][0]) : ord(match[0][-1]) + 1] = value
    ours = class_table().copy()
    _mark(ours, "UNASSIGNED", _UNASSIGNED)
    ours[np.isin(ours, (SPACE, NEWLINE))] = OTHER
    ours[0xD800:0xE000] = theirs[0xD800:0xE000]
    same = ours == theirs
    widths = np.digitize(np.arange(0x110000), (0x80, 0x800, 0x10000))
    kinds = ours.astype(np.int64) * 4 + widths
    usable = same & (np.arange(0x110000) >= 0xC0)  # not for µ, which is a letter of no script
    first = {kind: int(np.argmax(usable & (kinds == kind))) for kind in np.unique(kinds[~same]).tolist()}
    return {code: first[kind] for code, kind in zip(np.flatnonzero(~same).tolist(), kinds[~same].tolist(), strict=True)}
