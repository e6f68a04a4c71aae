"""Cut text into words: hand-written scanners, each exactly equal to its split regex.

Every scanner works on two levels. The fast one plays the regex on 64 bytes at once: it keeps a bit mask per character
class (letters, digits, blanks, …; bit i is byte i of a window that starts at a word), so that the end of a run is a
shift and a count of trailing zeros. It declines whatever it cannot decide inside the window: runs that leave it,
characters beyond ASCII, apostrophes. These go to the general level, which steps through code points with the class
table. Both are tested against the `regex` module.
"""

from collections.abc import Iterator

import numpy as np
import regex

from tokenization.errors import TokenizationError
from tokenization.jit import bytes_between, inlined, kernel, leading_zeros, load8, trailing_zeros
from tokenization.patterns import Kind, Pattern
from tokenization.unicode_classes import (
    LOWER,
    MARK,
    NEWLINE,
    NUMBER,
    OTHER,
    SPACE,
    UNCASED,
    UPPER,
    class_table,
)

GPT2, CL100K, CL100K_END, O200K = int(Kind.GPT2), int(Kind.CL100K), int(Kind.CL100K_END), int(Kind.O200K)
BLOCK_WORDS = 1 << 15
WINDOW = 64
REACH = 32  # a window is used while at least this much of it lies ahead
NONE, ONE = np.uint64(0), np.uint64(1)
UNDECIDED = -1


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


# ---- fast level: a word from the masks; k is its first bit in the window


@inlined
def _run(mask, k):
    """Length of the run of one bits from bit k on; a run that reaches the end of the window has length >= 64 - k."""
    return trailing_zeros(~(mask >> np.uint64(k)))


@inlined
def _bit(mask, k):
    return (mask >> np.uint64(k)) & ONE != 0


@inlined
def _blanks_fast(k, ahead, blanks, newlines, beyond, kind):
    run = _run(blanks, k)
    if k + run >= WINDOW or _bit(beyond, k + run):
        return UNDECIDED
    if run == ahead and kind in (CL100K_END, GPT2):
        return run
    inside = (newlines >> np.uint64(k)) & ((ONE << np.uint64(run)) - ONE)
    if kind != GPT2 and inside != 0:
        return WINDOW - leading_zeros(inside)
    return run - 1 if run > 1 and run < ahead else run


@inlined
def _others_fast(k, lead, others, tail, beyond):
    run = lead + _run(others, k + lead)
    if k + run >= WINDOW or _bit(beyond, k + run):
        return UNDECIDED
    run += _run(tail, k + run)
    return run if k + run < WINDOW else UNDECIDED


@inlined
def _numbers_fast(k, digits, beyond, limit):
    run = _run(digits, k)
    if run >= limit:
        return limit
    return UNDECIDED if k + run >= WINDOW or _bit(beyond, k + run) else run


@inlined
def _gpt2_fast(k, ahead, space, letters, digits, blanks, newlines, others, beyond, apostrophes):
    if _bit(letters, k + space) or _bit(digits, k + space):
        run = space + _run(letters if _bit(letters, k + space) else digits, k + space)
        return run if k + run < WINDOW and not _bit(beyond, k + run) else UNDECIDED
    if _bit(others & ~apostrophes, k) or (space and _bit(others, k + 1)):
        return _others_fast(k, space, others, NONE, beyond)
    if _bit(blanks, k):
        return _blanks_fast(k, ahead, blanks, newlines, beyond, GPT2)
    return UNDECIDED


@inlined
def _cl100k_fast(k, ahead, space, letters, digits, blanks, newlines, others, beyond, apostrophes, kind):
    if not _bit(digits | newlines | beyond | apostrophes, k):
        run = trailing_zeros(~((letters >> np.uint64(k)) | ONE))
        if run > 1 or _bit(letters, k):
            return run if k + run < WINDOW and not _bit(beyond, k + run) else UNDECIDED
        if _bit(others, k + space):
            return _others_fast(k, space, others, newlines, beyond)
    elif _bit(digits, k):
        return _numbers_fast(k, digits, beyond, 3)
    if _bit(blanks, k) and not _bit(beyond, k + 1):
        return _blanks_fast(k, ahead, blanks, newlines, beyond, kind)
    return UNDECIDED


@inlined
def _o200k_fast(k, ahead, space, letters, uppers, digits, blanks, newlines, slashes, others, beyond, apostrophes):
    if _bit(digits, k):
        return _numbers_fast(k, digits, beyond, 3)
    prefix = np.int64(not _bit(letters | newlines | beyond, k))
    if _bit(letters, k + prefix):
        run = prefix + _run(uppers, k + prefix)
        if k + run < WINDOW:
            run += _run(letters & ~uppers, k + run)
        # what follows may be a mark, a letter beyond ASCII or a contraction
        return run if k + run < WINDOW and not _bit(beyond | apostrophes, k + run) else UNDECIDED
    if _bit(beyond, k) or _bit(beyond, k + 1):
        return UNDECIDED
    if _bit(others, k + space):
        return _others_fast(k, space, others, newlines | slashes, beyond)
    return _blanks_fast(k, ahead, blanks, newlines, beyond, CL100K)


# ---- documents


@kernel
def scan(kind, text_array, offsets, document, position, classes, ends):
    """Fill `ends` with the ends of the next words: the byte after each word, in the order of the text.

    text_array: uint8[:], valid UTF-8. offsets: int64[documents + 1], document d is the bytes offsets[d]:offsets[d + 1].
    Begins in `document` at byte `position`; no word crosses the end of a document.
    Returns (number of words, document, position) to go on from; after the last document it is len(offsets) - 1.
    """
    text = np.int64(text_array.ctypes.data)
    readable = text_array.size
    documents = offsets.size - 1
    words = 0
    i = position
    letters = uppers = digits = blanks = newlines = slashes = others = beyond = apostrophes = NONE
    while document < documents:
        stop = offsets[document + 1]
        window = i - WINDOW  # first byte of the masks; none loaded yet
        while i < stop:
            if words == ends.size:
                return words, document, i
            k = i - window
            if k > REACH and i + WINDOW <= readable:
                window, k = i, 0
                at = text + i
                inside = ~NONE if stop - i >= WINDOW else (ONE << np.uint64(stop - i)) - ONE
                letters = bytes_between(at, 0x20, 97, 26) & inside
                digits = bytes_between(at, 0, 48, 10) & inside
                newlines = (bytes_between(at, 0, 10, 1) | bytes_between(at, 0, 13, 1)) & inside
                blanks = (bytes_between(at, 0, 32, 1) | bytes_between(at, 0, 9, 5)) & inside
                beyond = bytes_between(at, 0, 128, 128) & inside
                others = inside & ~(letters | digits | blanks | beyond)
                apostrophes = bytes_between(at, 0, 39, 1) & inside
                if kind == O200K:
                    uppers = bytes_between(at, 0, 65, 26) & inside
                    slashes = bytes_between(at, 0, 47, 1) & inside
            size = UNDECIDED
            if k <= REACH:
                ahead = stop - i
                space = np.int64(load8(text + i) == 32)
                if kind == GPT2:
                    size = _gpt2_fast(k, ahead, space, letters, digits, blanks, newlines, others, beyond, apostrophes)
                elif kind == O200K:
                    size = _o200k_fast(
                        k, ahead, space, letters, uppers, digits, blanks, newlines, slashes, others, beyond, apostrophes
                    )
                else:
                    size = _cl100k_fast(
                        k, ahead, space, letters, digits, blanks, newlines, others, beyond, apostrophes, kind
                    )
            if size > 0:
                i += size
            elif kind == GPT2:
                i = _gpt2_end(text, i, stop, classes)
            elif kind == O200K:
                i = _o200k_end(text, i, stop, classes)
            else:
                i = _cl100k_end(text, i, stop, classes, kind)
            ends[words] = i
            words += 1
        document += 1
    return words, document, i


class Scanner:
    """Splits documents by a pattern, block by block, so that memory does not grow with the text."""

    def __init__(self, pattern: Pattern):
        self.pattern = pattern
        self._regex = regex.compile(pattern.regex) if pattern.kind == Kind.REGEX else None

    def blocks(self, text: np.ndarray, offsets: np.ndarray) -> Iterator[np.ndarray]:
        """Ends of the words of all documents, as int64 arrays of at most `BLOCK_WORDS`.

        text: uint8[:], valid UTF-8; offsets: int64[documents + 1] into it. A block is valid until the next one is asked
        for. Raises `TokenizationError` if a regular expression leaves out a part of a document.
        """
        return self._by_regex(text, offsets) if self._regex else self._by_kernel(text, offsets)

    def _by_kernel(self, text, offsets):
        ends = np.empty(BLOCK_WORDS, np.int64)
        document, position = 0, int(offsets[0])
        while document < len(offsets) - 1:
            words, document, position = scan(
                int(self.pattern.kind), text, offsets, document, position, class_table(), ends
            )
            if words:
                yield ends[:words]

    def _by_regex(self, text, offsets):
        for start, stop in zip(offsets[:-1].tolist(), offsets[1:].tolist(), strict=True):
            document = text[start:stop].tobytes().decode()
            position, ends = start, []
            expected = 0
            for match in self._regex.finditer(document):
                first, last = match.span()
                if first == last:
                    continue
                if first != expected:
                    break
                expected = last
                position += len(match.group().encode())
                ends.append(position)
            if expected != len(document):
                excerpt = document[expected : expected + 20]
                raise TokenizationError(
                    f"the split pattern leaves out {excerpt!r}; end it with an alternative for the rest: |\\s+|."
                )
            for i in range(0, len(ends), BLOCK_WORDS):
                yield np.array(ends[i : i + BLOCK_WORDS], np.int64)
