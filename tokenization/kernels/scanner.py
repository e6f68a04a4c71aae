"""Cut text into words: hand-written scanners, each exactly equal to its split regex.

Plain Python: `patterns.split`, which asks the `regex` module; the tests compare both levels with it.

Every scanner works on two levels. The fast one plays the regex on 64 bytes at once (`windows.py`). What it leaves goes
to the general level, which steps through code points with the class table.

    `naïve approaches`      the first window knows nothing about `ï`, so it decides nothing about the word around it
    general level           n, a, ï, v, e are letters, the blank is not: the first word ends there
    fast level, from there  ` approaches`, and the words after it
"""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
import regex

from textmill.kernels.jit import address, inlined, kernel, load8, trailing_zeros
from tokenization.kernels.unicode_classes import (
    LOWER,
    MARK,
    NEWLINE,
    NUMBER,
    OTHER,
    SPACE,
    UNCASED,
    UPPER,
    class_table,
    older_characters,
)
from tokenization.kernels.windows import CL100K, CL100K_END, GPT2, O200K, ONE, WINDOW, word_starts
from tokenization.patterns import Kind, Pattern, split, split_in_passes

# The scanner of each pattern. Numba copies the constants of a kernel into its machine code, which outlives a change of
# any file outside this folder; so a kernel is handed the number, and takes none from `patterns.py`.
SCANNERS = {Kind.GPT2: GPT2, Kind.CL100K: CL100K, Kind.CL100K_END: CL100K_END, Kind.O200K: O200K}
BLOCK_WORDS = 1 << 15
PAUSE = 4  # bytes left to the general level where a window decides nothing
KIND, DOCUMENT, POSITION = range(3)  # entries of the cursor: where a scan goes on


# ---- one code point


@inlined
def _class_at(text, i, classes):
    """Class and byte length of the character at byte i; the text is valid UTF-8."""
    first = load8(text + i)
    if first < 0x80:
        return np.int64(classes[first]), 1
    if first < 0xE0:
        return np.int64(classes[(first & 0x1F) << 6 | (load8(text + i + 1) & 0x3F)]), 2
    if first < 0xF0:
        code = (first & 0x0F) << 12 | (load8(text + i + 1) & 0x3F) << 6 | (load8(text + i + 2) & 0x3F)
        return np.int64(classes[code]), 3
    code = (first & 0x07) << 18 | (load8(text + i + 1) & 0x3F) << 12
    code |= (load8(text + i + 2) & 0x3F) << 6 | (load8(text + i + 3) & 0x3F)
    return np.int64(classes[code]), 4


@inlined
def _is_letter(c):
    return c in (UPPER, LOWER, UNCASED)


@inlined
def _is_other(c):
    return c in (OTHER, MARK)


# ---- general level: runs


@kernel
def _letters_end(text, i, stop, classes):
    while i < stop:
        c, width = _class_at(text, i, classes)
        if not _is_letter(c):
            break
        i += width
    return i


@kernel
def _others_end(text, i, stop, classes):
    while i < stop:
        c, width = _class_at(text, i, classes)
        if not _is_other(c):
            break
        i += width
    return i


@kernel
def _numbers_end(text, i, stop, classes, limit):
    while i < stop and limit > 0:
        c, width = _class_at(text, i, classes)
        if c != NUMBER:
            break
        i += width
        limit -= 1
    return i


@kernel
def _newlines_end(text, i, stop, slash):
    """End of `[\\r\\n]*`, or of `[\\r\\n/]*` with `slash`."""
    while i < stop:
        b = load8(text + i)
        if b != 10 and b != 13 and not (slash and b == 47):
            break
        i += 1
    return i


@kernel
def _blanks_end(text, i, stop, classes, kind):
    """End of the word that starts with a blank which belongs to nothing after it.

    gpt2: `\\s+(?!\\S)|\\s+`; the others first try `\\s*[\\r\\n]+`, and CL100K_END before that `\\s++$`.
    """
    end, last, after_newline, count = i, i, -1, 0
    while end < stop:
        c, width = _class_at(text, end, classes)
        if c != SPACE and c != NEWLINE:
            break
        last = end
        end += width
        count += 1
        if c == NEWLINE:
            after_newline = end
    if end == stop and kind in (CL100K_END, GPT2):
        return end
    if after_newline >= 0 and kind != GPT2:
        return after_newline
    return last if end < stop and count > 1 else end


@kernel
def _contraction_end(text, i, stop, fold):
    """End of `'(?:[sdmt]|ll|ve|re)` at byte i, or i. With `fold` letters of either case match, and `ſ` for s."""
    if i + 1 >= stop or load8(text + i) != 39:
        return i
    bit = 0x20 if fold else 0
    a = load8(text + i + 1) | bit
    if a == 115 or a == 100 or a == 109 or a == 116:
        return i + 2
    if i + 2 < stop:
        b = load8(text + i + 2)
        if fold and load8(text + i + 1) == 0xC5 and b == 0xBF:
            return i + 3
        b |= bit
        if (a == 108 and b == 108) or ((a == 118 or a == 114) and b == 101):
            return i + 3
    return i


# ---- general level: words


@kernel
def _gpt2_end(text, i, stop, classes):
    end = _contraction_end(text, i, stop, False)
    if end > i:
        return end
    j = i + 1 if load8(text + i) == 32 and i + 1 < stop else i
    c, width = _class_at(text, j, classes)
    if _is_letter(c):
        return _letters_end(text, j + width, stop, classes)
    if c == NUMBER:
        return _numbers_end(text, j + width, stop, classes, stop)
    if _is_other(c):
        return _others_end(text, j + width, stop, classes)
    return _blanks_end(text, i, stop, classes, GPT2)


@kernel
def _cl100k_end(text, i, stop, classes, kind):
    end = _contraction_end(text, i, stop, True)
    if end > i:
        return end
    c, width = _class_at(text, i, classes)
    if _is_letter(c):
        return _letters_end(text, i + width, stop, classes)
    if c == NUMBER:
        return _numbers_end(text, i + width, stop, classes, 2)
    following, following_width = OTHER, 0
    if i + width < stop:
        following, following_width = _class_at(text, i + width, classes)
        if c != NEWLINE and _is_letter(following):
            return _letters_end(text, i + width + following_width, stop, classes)
    if _is_other(c):
        return _newlines_end(text, _others_end(text, i + width, stop, classes), stop, False)
    if load8(text + i) == 32 and following_width > 0 and _is_other(following):
        return _newlines_end(text, _others_end(text, i + 1 + following_width, stop, classes), stop, False)
    return _blanks_end(text, i, stop, classes, kind)


@kernel
def _o200k_word_end(text, i, stop, classes, require_lower):
    """End of `U*L+` at byte i (with `require_lower`) or of `U+L*`, where U is [Lu Lt Lm Lo M] and L is [Ll Lm Lo M].

    Returns i if there is no match. Characters in both sets make the greedy U* give back: the match then ends after the
    last of them in the run of U.
    """
    end, after_both = i, i
    while end < stop:
        c, width = _class_at(text, end, classes)
        if c != UPPER and c != UNCASED and c != MARK:
            break
        end += width
        if c != UPPER:
            after_both = end
    uppers_end = end
    while end < stop:
        c, width = _class_at(text, end, classes)
        if c != LOWER and c != UNCASED and c != MARK:
            break
        end += width
    if require_lower:
        return end if end > uppers_end else after_both
    return end if uppers_end > i else i


@kernel
def _o200k_end(text, i, stop, classes):
    c, width = _class_at(text, i, classes)
    if c == NUMBER:
        return _numbers_end(text, i + width, stop, classes, 2)
    after_prefix = i + width if _is_other(c) or c == SPACE else i
    for require_lower in (True, False):
        end = _o200k_word_end(text, after_prefix, stop, classes, require_lower)
        if end > after_prefix:
            return _contraction_end(text, end, stop, True)
        if c == MARK:  # the optional prefix gives the mark back, which may begin the word itself
            end = _o200k_word_end(text, i, stop, classes, require_lower)
            if end > i:
                return _contraction_end(text, end, stop, True)
    if _is_other(c):
        return _newlines_end(text, _others_end(text, i + width, stop, classes), stop, True)
    if load8(text + i) == 32 and i + 1 < stop:
        following, following_width = _class_at(text, i + 1, classes)
        if _is_other(following):
            return _newlines_end(text, _others_end(text, i + 1 + following_width, stop, classes), stop, True)
    return _blanks_end(text, i, stop, classes, CL100K)


# ---- documents


@kernel
def scan(text_array, offsets, ends, classes, cursor):
    """Fill `ends` with the ends of the next words: the byte after each word, in the order of the text.

    text_array: uint8[:], valid UTF-8. offsets: int64[documents + 1], document d is the bytes offsets[d]:offsets[d + 1];
    no word crosses the end of a document. ends: int64[at least WINDOW]. classes: `class_table()`.
    cursor: int64[3], the KIND of scanner, the DOCUMENT and the POSITION (byte) in it from which to go on; after the
    last document, the document is len(offsets) - 1.
    Returns the number of words.
    """
    kind, document, i = cursor[KIND], cursor[DOCUMENT], cursor[POSITION]
    text, readable = address(text_array), text_array.size
    documents = offsets.size - 1
    words = 0
    while document < documents:
        stop = offsets[document + 1]
        resume = i  # where to try the fast level again
        while i < stop:
            if words + WINDOW > ends.size:
                cursor[DOCUMENT], cursor[POSITION] = document, i
                return words
            if i >= resume and i + WINDOW <= readable:
                starts = word_starts(text + i, stop - i, kind)
                if starts:
                    while starts:
                        ends[words] = i + trailing_zeros(starts)
                        words += 1
                        starts &= starts - ONE
                    i = ends[words - 1]
                    continue
                resume = i + PAUSE
            if kind == GPT2:
                i = _gpt2_end(text, i, stop, classes)
            elif kind == O200K:
                i = _o200k_end(text, i, stop, classes)
            else:
                i = _cl100k_end(text, i, stop, classes, kind)
            ends[words] = i
            words += 1
        document += 1
    cursor[DOCUMENT], cursor[POSITION] = document, i
    return words


class Scanner:
    """Splits documents by a pattern, block by block, so that memory does not grow with the text."""

    def __init__(self, pattern: Pattern) -> None:
        self.pattern = pattern
        self._regex = regex.compile(pattern.regex) if pattern.kind == Kind.REGEX else None

    def blocks(self, text: np.ndarray, offsets: np.ndarray) -> Iterator[np.ndarray]:
        """Ends of the words of all documents, as int64 arrays of at most `BLOCK_WORDS`.

        A block is valid until the next one is asked for.

        Args:
            text: uint8[:], valid UTF-8.
            offsets: int64[documents + 1] into it.

        Raises:
            UserError: a regular expression leaves out a part of a document.
        """
        return self._by_kernel(text, offsets) if self.pattern.kind in SCANNERS else self._by_regex(text, offsets)

    def _by_kernel(self, text: np.ndarray, offsets: np.ndarray) -> Iterator[np.ndarray]:
        ends = np.empty(BLOCK_WORDS, np.int64)
        cursor = np.array([SCANNERS[self.pattern.kind], 0, offsets[0]])
        classes, documents = class_table(), len(offsets) - 1
        while cursor[DOCUMENT] < documents:
            words = scan(text, offsets, ends, classes, cursor)
            if words:
                yield ends[:words]

    def _by_regex(self, text: np.ndarray, offsets: np.ndarray) -> Iterator[np.ndarray]:
        older = older_characters()
        for start, stop in zip(offsets[:-1].tolist(), offsets[1:].tolist(), strict=True):
            document = text[start:stop].tobytes().decode()
            as_older = document if document.isascii() else document.translate(older)  # words as long as before
            position, ends = start, []
            for word in (
                split(self._regex, as_older) if self._regex else split_in_passes(self.pattern, document, as_older)
            ):
                position += len(word.encode())
                ends.append(position)
            for i in range(0, len(ends), BLOCK_WORDS):
                yield np.array(ends[i : i + BLOCK_WORDS], np.int64)
