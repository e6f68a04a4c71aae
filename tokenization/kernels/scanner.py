"""Cut text into words: hand-written scanners, each exactly equal to its split regex.

Every scanner works on two levels. The fast one plays the regex on 64 bytes at once: it keeps a bit mask per character
class (letters, digits, blanks, …; bit i is byte i of a window that starts at a word), and where words start follows
from the masks by bit operations, for all words of the window together. It decides nothing that depends on what lies
beyond the window or on characters beyond ASCII; what it leaves goes to the general level, which steps through code
points with the class table. Both are tested against the `regex` module.
"""

from collections.abc import Iterator

import numpy as np
import regex

from tokenization.kernels.jit import bytes_between, inlined, kernel, load8, trailing_zeros
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
)
from tokenization.patterns import Kind, Pattern, split

GPT2, CL100K, CL100K_END, O200K = int(Kind.GPT2), int(Kind.CL100K), int(Kind.CL100K_END), int(Kind.O200K)
BLOCK_WORDS = 1 << 15
WINDOW = 64
PAUSE = 4  # bytes left to the general level where a window decides nothing
NONE, ONE, TWO = np.uint64(0), np.uint64(1), np.uint64(2)


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


# ---- fast level: the starts of words as a mask; a window starts at a word, so nothing before it matters


@inlined
def _upto(k):
    """The bits below bit k, for k < 64."""
    return (ONE << np.uint64(max(k, 0))) - ONE


@inlined
def _first(mask):
    """The first bit of every run."""
    return mask & ~(mask << ONE)


@inlined
def _contraction(at, k, letters, fold):
    """Length of the contraction whose apostrophe is bit k, a letter following it; 0 if it is none."""
    bit = 0x20 if fold else 0
    a = load8(at + k + 1) | bit
    if a == 115 or a == 100 or a == 109 or a == 116:
        return 2
    if (letters >> np.uint64(k)) >> TWO & ONE:
        b = load8(at + k + 2) | bit
        if (a == 108 and b == 108) or ((a == 118 or a == 114) and b == 101):
            return 3
    return 0


@inlined
def _letter_at(letters, k):
    """Bit k as a mask, if there is a letter; k may be beyond the window."""
    return letters & (ONE << np.uint64(k)) if k < WINDOW else NONE


@inlined
def _gpt2_starts(at, inside, space, letters, digits, blanks, others, apostrophes):
    after_space = space << ONE
    starts = (_first(letters) | _first(digits) | _first(others)) & ~after_space
    # a run of blanks is a word, but the last blank before something else is in the next word, or one of its own
    starts |= _first(blanks) | (blanks & ~(blanks >> ONE) & (inside >> ONE))
    contractions = _first(others) & apostrophes & ~after_space & (letters >> ONE)
    while contractions:
        k = trailing_zeros(contractions)
        contractions &= contractions - ONE
        size = _contraction(at, k, letters, False)
        if size:
            starts = (starts & ~(TWO << np.uint64(k))) | _letter_at(letters, k + size)
    return starts


@inlined
def _modern_starts(inside, ahead, undecided, space, letters, digits, blanks, newlines, others, kind):
    """Starts by the rules that cl100k and o200k share, without contractions; (starts, undecided, prefixes)."""
    plain = blanks & ~newlines
    # one character of punctuation, or a blank, is the prefix of the letters after it
    prefixes = _first(others) & ~(others >> ONE) & ~(space << ONE) & (letters >> ONE)
    starts = _first(letters) & ~((plain | prefixes) << ONE)
    starts |= _first(others) & ~(space << ONE)
    third = _first(digits)
    in_fours = digits & (digits << ONE) & (digits << TWO) & (digits << np.uint64(3))
    while third:
        starts |= third
        third = (third << np.uint64(3)) & in_fours
    # punctuation takes the newlines after it: adding their first to a run of them carries through the run
    own = blanks & ~(newlines & ~(newlines + (newlines & (others << ONE))))
    # the last blank before something else, as with gpt2
    starts |= _first(own) | (plain & ~(blanks >> ONE) & (inside >> ONE))
    # blanks are one word up to their last newline; those after it are another
    after_newline = plain & (newlines << ONE) & ~starts
    while after_newline:
        k = trailing_zeros(after_newline)
        after_newline &= after_newline - ONE
        end = k + trailing_zeros(~(plain >> np.uint64(k)))
        if end >= min(undecided, ahead):
            if undecided <= ahead:
                undecided = min(undecided, k + 2)
            elif kind != CL100K_END:
                starts |= ONE << np.uint64(k)
        elif not (newlines >> np.uint64(end)) & ONE:
            starts |= ONE << np.uint64(k)
    return starts, undecided, prefixes


@inlined
def _cl100k_contractions(at, starts, letters, prefixes, apostrophes):
    """A contraction is a word, and letters that go on after it are another."""
    contractions = prefixes & apostrophes
    while contractions:
        k = trailing_zeros(contractions)
        contractions &= contractions - ONE
        size = _contraction(at, k, letters, True)
        if size:
            starts |= _letter_at(letters, k + size)
    return starts


@inlined
def _o200k_contractions(at, starts, letters, apostrophes):
    """One contraction belongs to the letters before it."""
    contractions = apostrophes & (letters << ONE) & (letters >> ONE)
    taken = -1  # where the last one ended: a second one right there is a word
    while contractions:
        k = trailing_zeros(contractions)
        contractions &= contractions - ONE
        size = _contraction(at, k, letters, True)
        if size and k != taken:
            taken = k + size
            starts = (starts & ~(_upto(size) << np.uint64(k))) | _letter_at(letters, taken)
    return starts


@inlined
def _starts(at, ahead, kind):
    """Where words start or end in the 64 bytes at an address: a mask without bit 0, empty if nothing is certain.

    ahead: how much of the document is left; its end is marked if it lies in the window.
    """
    inside = ~NONE if ahead >= WINDOW else _upto(ahead)
    letters = bytes_between(at, 0x20, 97, 26) & inside
    digits = bytes_between(at, 0, 48, 10) & inside
    space = bytes_between(at, 0, 32, 1) & inside
    blanks = space | (bytes_between(at, 0, 9, 5) & inside)
    beyond = bytes_between(at, 0, 128, 128) & inside
    others = inside & ~(letters | digits | blanks | beyond)
    apostrophes = bytes_between(at, 0, 39, 1) & inside
    undecided = trailing_zeros(beyond)
    if kind == GPT2:
        starts = _gpt2_starts(at, inside, space, letters, digits, blanks, others, apostrophes)
    else:
        newlines = (bytes_between(at, 0, 10, 1) | bytes_between(at, 0, 13, 1)) & inside
        starts, undecided, prefixes = _modern_starts(
            inside, ahead, undecided, space, letters, digits, blanks, newlines, others, kind
        )
        if kind == O200K:
            uppers = bytes_between(at, 0, 65, 26) & inside
            starts |= uppers & ((letters & ~uppers) << ONE)
            starts = _o200k_contractions(at, starts, letters, apostrophes)
            # newlines after punctuation may be followed by slashes that belong to it
            slashes = bytes_between(at, 0, 47, 1) & (newlines << ONE) & inside
            undecided = min(undecided, trailing_zeros(slashes) + 2)
        else:
            starts = _cl100k_contractions(at, starts, letters, prefixes, apostrophes)
    if undecided >= WINDOW and ahead < WINDOW:
        starts |= ONE << np.uint64(ahead)
    else:
        # what starts at a byte is decided by the two bytes after it, and by all before it
        starts &= _upto(min(undecided, WINDOW) - 2)
    return starts & ~ONE


# ---- documents


@kernel
def scan(kind, text_array, offsets, document, position, classes, ends):
    """Fill `ends` with the ends of the next words: the byte after each word, in the order of the text.

    text_array: uint8[:], valid UTF-8. offsets: int64[documents + 1], document d is the bytes offsets[d]:offsets[d + 1].
    Begins in `document` at byte `position`; no word crosses the end of a document. ends: int64[at least WINDOW].
    Returns (number of words, document, position) to go on from; after the last document it is len(offsets) - 1.
    """
    text = np.int64(text_array.ctypes.data)
    readable = text_array.size
    documents = offsets.size - 1
    words = 0
    i = position
    while document < documents:
        stop = offsets[document + 1]
        resume = i  # where to try the fast level again
        while i < stop:
            if words + WINDOW > ends.size:
                return words, document, i
            if i >= resume and i + WINDOW <= readable:
                starts = _starts(text + i, stop - i, kind)
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
    return words, document, i


class Scanner:
    """Splits documents by a pattern, block by block, so that memory does not grow with the text."""

    def __init__(self, pattern: Pattern):
        self.pattern = pattern
        self._regex = regex.compile(pattern.regex) if pattern.kind == Kind.REGEX else None

    def blocks(self, text: np.ndarray, offsets: np.ndarray) -> Iterator[np.ndarray]:
        """Ends of the words of all documents, as int64 arrays of at most `BLOCK_WORDS`.

        text: uint8[:], valid UTF-8; offsets: int64[documents + 1] into it. A block is valid until the next one is asked
        for. Raises `UserError` if a regular expression leaves out a part of a document.
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
            for word in split(self._regex, document):
                position += len(word.encode())
                ends.append(position)
            for i in range(0, len(ends), BLOCK_WORDS):
                yield np.array(ends[i : i + BLOCK_WORDS], np.int64)
