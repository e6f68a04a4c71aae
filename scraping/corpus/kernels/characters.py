"""What is known of each code point, as tables that kernels look it up in."""

from __future__ import annotations

import functools
import re
import sys
from typing import NamedTuple

import numpy as np
import regex

from textmill.kernels.jit import inlined

_LETTERS = re.compile(r"[^\W\d_]+")

# Scripts whose words are not parted by spaces.
UNSPACED = r"\p{Thai}\p{Lao}\p{Tibetan}\p{Myanmar}\p{Khmer}\p{Han}\p{Hiragana}\p{Katakana}ー"

# Characters of Windows-1252 that stand for bytes from 80 to BF, and where Windows-1251 has letters and marks for them.
CONTINUATION = "\x80-\xbfŒœŠšŽžŸƒˆ˜–—‘’‚“”„†‡•…‰‹›€™"
CONTINUATION_1251 = "ЂЃ‚ѓ„…†‡€‰Љ‹ЊЌЋЏђ‘’“”•–—™љ›њќћџЎўЈ¤Ґ¦§Ё©Є«¬®Ї°±Ііґµ¶·ё№є»јЅѕї"
HIGH_LATIN = "¡-ÿŒœŠšŽžŸƒˆ‚„†‡‰‹"
SWAPPED_LETTERS = "".join(chr(byte << 8) for byte in b"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz")

# What a character can be, each a bit of its flags.
_CLASSES = {
    "letter": r"\p{L}",
    "extender": r"\p{M}\u200c\u200d",  # goes on with a word
    "letter or mark": r"\p{L}\p{M}",
    "inner": r"\p{L}\p{M}\p{N}_",  # not stripped off a word
    "small": r"\p{Ll}",
    "capital": r"\p{Lu}",
    "digit": r"\d",
    "joint": "'’\u200c\u200d,;:|>»·•・、，；－-",  # of words without spaces between, as in lists
    "unspaced": UNSPACED,
    "cjk": r"\p{Han}\p{Hiragana}\p{Katakana}\p{Hangul}",
    "phrases": r"\p{Thai}\p{Lao}\p{Tibetan}\p{Myanmar}\p{Khmer}",  # spaces part phrases, and not words
    "end": ".!?…؟۔։।",  # of a sentence, where white space follows
    "full end": "。！？",
    "before end": r"\p{L}\p{M}\p{N})\]\"'”’»」』",
    "closing": r")\]\"'”’»",
    "continuation": CONTINUATION,
    "high latin": HIGH_LATIN,
    "continuation 1251": CONTINUATION_1251,
    "small cyrillic": "а-яё",
    "capital cyrillic": "А-ЯЁ",
    "swapped letter": SWAPPED_LETTERS,
}
_BITS = {name: 1 << place for place, name in enumerate([*_CLASSES, "function character"])}
LETTER, EXTENDER, LETTER_OR_MARK, INNER = (
    np.uint32(_BITS[name]) for name in ("letter", "extender", "letter or mark", "inner")
)
SMALL, CAPITAL, DIGIT, JOINT = (np.uint32(_BITS[name]) for name in ("small", "capital", "digit", "joint"))
UNSPACED_SCRIPT, CJK, PHRASES = (np.uint32(_BITS[name]) for name in ("unspaced", "cjk", "phrases"))
END, FULL_END, BEFORE_END, CLOSING = (np.uint32(_BITS[name]) for name in ("end", "full end", "before end", "closing"))
CONTINUES, HIGH, CONTINUES_1251 = (
    np.uint32(_BITS[name]) for name in ("continuation", "high latin", "continuation 1251")
)
SMALL_CYRILLIC, CAPITAL_CYRILLIC = (np.uint32(_BITS[name]) for name in ("small cyrillic", "capital cyrillic"))
SWAPPED, FUNCTION = (np.uint32(_BITS[name]) for name in ("swapped letter", "function character"))

# All characters of these classes are in the first planes, but for variation selectors, which are marks.
PLANES_END, SELECTORS, SELECTORS_END = 0x40000, 0xE0100, 0xE01F0
CAPITAL_DOTTED_I, DOT_ABOVE, FINAL_SIGMA, SIGMA = 0x130, 0x307, 0x3C2, 0x3C3


class Characters(NamedTuple):
    """What is known of each code point."""

    flags: np.ndarray  # uint32[0x110000]
    small: np.ndarray  # int32[0x110000], its small letter, if it has one; of final sigma the usual one


@inlined
def decoded(utf8, at):
    """The code point at a place of a well-formed text, and its length in bytes."""
    byte = np.int64(utf8[at])
    if byte < 128:
        return byte, 1
    if byte < 0xE0:
        return (byte & 0x1F) << 6 | np.int64(utf8[at + 1]) & 0x3F, 2
    if byte < 0xF0:
        return (byte & 0xF) << 12 | (np.int64(utf8[at + 1]) & 0x3F) << 6 | np.int64(utf8[at + 2]) & 0x3F, 3
    code = (byte & 7) << 18 | (np.int64(utf8[at + 1]) & 0x3F) << 12
    return code | (np.int64(utf8[at + 2]) & 0x3F) << 6 | np.int64(utf8[at + 3]) & 0x3F, 4


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


def character_table(function_characters: frozenset[str]) -> Characters:
    """`Characters`, of which some hold sentences together."""
    everything = every_character()
    characters = everything[:PLANES_END]
    flags = np.zeros(sys.maxunicode + 1, np.uint32)
    for name, members in _CLASSES.items():
        for found in regex.finditer(f"[{members}]+", characters):
            flags[found.start() : found.end()] |= np.uint32(_BITS[name])
    flags[SELECTORS:SELECTORS_END] = EXTENDER | LETTER_OR_MARK | INNER | BEFORE_END
    flags[list(map(ord, function_characters))] |= FUNCTION
    small = np.arange(sys.maxunicode + 1, dtype=np.int32)
    lower = characters.replace(chr(CAPITAL_DOTTED_I), "i").lower()
    small[:PLANES_END] = np.frombuffer(lower.encode("utf-32-le"), np.int32)
    small[0xD800:0xE000] = np.arange(0xD800, 0xE000)
    small[[FINAL_SIGMA, 0x3A3]] = SIGMA
    return Characters(flags, small)
