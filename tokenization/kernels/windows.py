"""The fast level of the scanners: where words start in 64 bytes at once, by bit operations.

Every mask has a bit for each byte of a window, which starts at a word, so that nothing before it matters; bit i is byte
i. From the masks of the character classes follow the starts of all words of the window together, as in simdjson
(Langdale and Lemire, "Parsing Gigabytes of JSON per Second", VLDB Journal 2019).

    text       T h e _ y e a r _ 2 0 2 6 _ d o e s n ' t      with gpt2; _ is a blank
    letters    1 1 1 . 1 1 1 1 . . . . . . 1 1 1 1 1 . 1
    space      . . . 1 . . . . 1 . . . . 1 . . . . . . .
    digits     . . . . . . . . . 1 1 1 1 . . . . . . . .
    starts     . . . 1 . . . . 1 . . . . 1 . . . . . 1 .      a blank begins the word after it; `'t` is a contraction

A window decides nothing that depends on what lies beyond it or on characters beyond ASCII: the starts end before those.
Quotation marks, dashes and the other punctuation of U+2010 to U+2027 and U+2030 to U+203F (three bytes, the first two
E2 80) are the exception: English text is full of them, and every pattern treats them as it does `#`.
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np

from textmill.kernels.jit import bytes_between, inlined, load8, trailing_zeros

GPT2, CL100K, CL100K_END, O200K = range(4)  # the patterns that have a scanner; `patterns.Kind` tells what they are
WINDOW = 64
NONE, ONE, TWO, THREE = np.uint64(0), np.uint64(1), np.uint64(2), np.uint64(3)


class Masks(NamedTuple):
    """The bytes of a window by character class (uint64 each)."""

    inside: int
    """of this document"""
    space: int
    """` `"""
    blanks: int
    """`\\s`, of ASCII"""
    newlines: int
    """`[\\r\\n]`; nothing with gpt2, which does not ask"""
    letters: int
    digits: int
    others: int
    """ASCII that is none of the classes above, and all bytes of wide punctuation"""
    wide: int
    """the first bytes of punctuation of three bytes"""
    apostrophes: int


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
    """Length of the contraction whose apostrophe is bit k, a letter following it; 0 if it is not one."""
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
def _gpt2_starts(at, masks):
    inside, space, blanks, _, letters, digits, others, _, apostrophes = masks
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
def _modern_starts(masks, ahead, undecided, kind):
    """Starts by the rules that cl100k and o200k share, without contractions; (starts, undecided, prefixes)."""
    inside, space, blanks, newlines, letters, digits, others, wide, _ = masks
    plain = blanks & ~newlines
    # one character of punctuation, or a blank, is the prefix of the letters after it
    may_be_prefix = _first(others) & ~(space << ONE)
    prefixes = may_be_prefix & ~(others >> ONE) & (letters >> ONE)
    wide_prefixes = may_be_prefix & wide & ~(others >> THREE) & (letters >> THREE)
    starts = _first(letters) & ~((plain | prefixes | wide_prefixes << TWO) << ONE)
    starts |= _first(others) & ~(space << ONE)
    third = _first(digits)
    in_fours = digits & (digits << ONE) & (digits << TWO) & (digits << THREE)
    while third:
        starts |= third
        third = (third << THREE) & in_fours
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
def _cl100k_contractions(at, starts, letters, contractions):
    """A contraction is a word, and letters that go on after it are another. contractions: their apostrophes."""
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
def _wide_punctuation(at):
    """The first bytes of punctuation of three bytes, where all three lie in the window."""
    third = bytes_between(at, 0, 0x90, 0x18) | bytes_between(at, 0, 0xB0, 0x10)
    return bytes_between(at, 0, 0xE2, 1) & (bytes_between(at, 0, 0x80, 1) >> ONE) & (third >> TWO)


@inlined
def word_starts(at, ahead, kind):
    """Where words start or end in the 64 bytes at an address: a mask without bit 0, empty if nothing is certain.

    ahead: how much of the document is left; its end is marked if it lies in the window.
    """
    inside = ~NONE if ahead >= WINDOW else _upto(ahead)
    letters = bytes_between(at, 0x20, 97, 26) & inside
    digits = bytes_between(at, 0, 48, 10) & inside
    space = bytes_between(at, 0, 32, 1) & inside
    blanks = space | (bytes_between(at, 0, 9, 5) & inside)
    wide = _wide_punctuation(at) & inside
    beyond = bytes_between(at, 0, 128, 128) & inside & ~(wide | wide << ONE | wide << TWO)
    others = inside & ~(letters | digits | blanks | beyond)
    apostrophes = bytes_between(at, 0, 39, 1) & inside
    undecided = trailing_zeros(beyond)
    if kind == GPT2:
        starts = _gpt2_starts(at, Masks(inside, space, blanks, NONE, letters, digits, others, wide, apostrophes))
    else:
        newlines = (bytes_between(at, 0, 10, 1) | bytes_between(at, 0, 13, 1)) & inside
        masks = Masks(inside, space, blanks, newlines, letters, digits, others, wide, apostrophes)
        starts, undecided, prefixes = _modern_starts(masks, ahead, undecided, kind)
        if kind == O200K:
            uppers = bytes_between(at, 0, 65, 26) & inside
            starts |= uppers & ((letters & ~uppers) << ONE)
            starts = _o200k_contractions(at, starts, letters, apostrophes)
            # newlines after punctuation may be followed by slashes that belong to it
            slashes = bytes_between(at, 0, 47, 1) & (newlines << ONE) & inside
            if slashes:  # below WINDOW, so that the end of a document there does not decide them either
                undecided = min(undecided, trailing_zeros(slashes) + 2, WINDOW - 1)
        else:
            starts = _cl100k_contractions(at, starts, letters, prefixes & apostrophes)
    if undecided >= WINDOW and ahead < WINDOW:
        starts |= ONE << np.uint64(ahead)
    else:
        # what starts at a byte is decided by the two bytes after it, and by all before it
        starts &= _upto(min(undecided, WINDOW) - 2)
    return starts & ~ONE
