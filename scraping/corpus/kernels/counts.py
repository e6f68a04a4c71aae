"""What the filters count in a text: runs without white space, words, lines, sentences, and what repeats among them.

A text is in normal form (`scraping.extraction.normalize`): white space in it is spaces, tabs and newlines. Each kernel
reads the text once and returns its numbers as a NamedTuple. Equal words, lines and runs are told by hashes of 62 bits
or more.

Plain Python: `reference.count_runs`, `reference.count_words`, and so on.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import NamedTuple

import numpy as np

from scraping.corpus.kernels.characters import (
    BEFORE_END,
    CAPITAL,
    CAPITAL_CYRILLIC,
    CAPITAL_DOTTED_I,
    CJK,
    CLOSING,
    CONTINUES,
    CONTINUES_1251,
    DIGIT,
    DOT_ABOVE,
    END,
    EXTENDER,
    FINAL_SIGMA,
    FULL_END,
    FUNCTION,
    HIGH,
    INNER,
    JOINT,
    LETTER,
    LETTER_OR_MARK,
    PHRASES,
    SIGMA,
    SMALL,
    SMALL_CYRILLIC,
    SWAPPED,
    UNSPACED_SCRIPT,
    decoded,
)
from scraping.corpus.kernels.words import M0, M1, M2, SPACE, mixed, word_hash
from textmill.kernels.jit import address, inlined, kernel

REPEATED_RUN = 10  # segments
LONG_MIXED = 5  # characters
_LONG_WORD = 4  # characters; the lowest bit of a word's key
_M2_TO_RUN = np.uint64(pow(int(M2), REPEATED_RUN, 1 << 64))
_NO_BITS = np.uint32(0)


class RunCounts(NamedTuple):
    """Runs are what white space parts. Segments are runs too, but each character of a script without spaces is one."""

    characters: int  # of all runs
    spaces: int
    segments: int
    unspaced: int  # characters of scripts without spaces
    addresses: int  # characters of runs with "://" or "www."
    hashtags: int  # runs of "#", a letter and anything
    repeated: int  # segments in runs of ten that occurred before


class WordCounts(NamedTuple):
    """Words are runs of letters, in small letters."""

    words: int
    single: int  # words of one letter
    letters: int  # characters of words, those that begin Chinese, Japanese or Korean left out
    top: int  # how often the most frequent word occurs
    long: int  # words of four letters or more
    top_long: int  # how often the most frequent of these occurs
    function: int  # words that hold sentences together, of the language that has most of them
    placeholder: int  # words of "lorem ipsum"
    notice: int  # words that notices have
    numbers: int  # runs of digits
    cjk: int  # characters, Chinese, Japanese and Korean
    function_characters: int  # of these, those that hold sentences together
    phrase_characters: int  # of scripts that part phrases, and not words


class LineCounts(NamedTuple):
    """Characters of lines, without the white space around them."""

    characters: int
    repeated: int  # characters of lines that occurred before
    trailing_off: int  # lines that end with an ellipsis
    trailing_off_characters: int


class AsciiCounts(NamedTuple):
    """Runs of Latin letters and digits."""

    words: int
    mixed: int  # with both
    long_mixed: int  # of these, those of five characters or more
    hexadecimal: int  # of pairs of hexadecimal digits


class PlainCounts(NamedTuple):
    """Runs that are words of letters, perhaps several with list marks between, of all but bare counts and years."""

    plain: int
    runs: int


class SingleCounts(NamedTuple):
    """Segments that begin with a letter, marks around them left out, but for scripts without spaces."""

    single: int  # of one character
    words: int


class Lists(NamedTuple):
    """The words of some lists: a hash table with linear probing, by `word_key`."""

    keys: np.ndarray  # uint64[power of two], 0 for none
    languages: np.ndarray  # uint64[], the languages that a word holds together, a bit each
    is_placeholder: np.ndarray  # bool[]
    is_notice: np.ndarray  # bool[]


def word_key(word: str) -> int:
    """The number of a word in small letters."""
    h = int(M1)
    for character in word:
        code = SIGMA if ord(character) == FINAL_SIGMA else ord(character)
        h = (h ^ code) * int(M0) & (1 << 64) - 1
        h ^= h >> 32
    h = (h ^ h >> 30) * int(M1) & (1 << 64) - 1
    return (h ^ h >> 31) & ~1 | 2 | (len(word) >= _LONG_WORD)


def word_lists(function: Mapping[str, tuple[str, ...]], placeholder: frozenset[str], notice: frozenset[str]) -> Lists:
    """`Lists` of words: those that hold sentences together with their languages, of "lorem ipsum", and of notices."""
    numbers = {
        name: place for place, name in enumerate(sorted({name for names in function.values() for name in names}))
    }
    words = sorted({*function, *placeholder, *notice})
    size = 1 << (4 * len(words)).bit_length()
    lists = Lists(
        np.zeros(size, np.uint64), np.zeros(size, np.uint64), np.zeros(size, np.bool_), np.zeros(size, np.bool_)
    )
    for word in words:
        key = word_key(word)
        slot = key >> 8 & size - 1
        while lists.keys[slot] not in (0, key):
            slot = slot + 1 & size - 1
        lists.keys[slot] = key
        lists.languages[slot] |= np.uint64(sum(1 << numbers[name] for name in function.get(word, ())))
        lists.is_placeholder[slot] |= word in placeholder
        lists.is_notice[slot] |= word in notice
    return lists


# --- runs -------------------------------------------------------------------------------------------------------------


@kernel
def count_runs(utf8, characters):
    """`RunCounts` of a text, uint8[:]."""
    flags = characters.flags
    size = len(utf8)
    first = address(utf8)
    segments = np.empty(size, np.uint64)
    count = visible = spaces = unspaced = addresses = hashtags = 0
    i = 0
    while i < size:
        if utf8[i] <= SPACE:
            spaces += utf8[i] == SPACE
            i += 1
            continue
        length = 0
        start = i
        is_address = False
        if utf8[i] == 35 and i + 1 < size:  # "#"
            hashtags += flags[decoded(utf8, i + 1)[0]] & LETTER != 0
        while i < size and utf8[i] > SPACE:
            byte = utf8[i]
            length += 1
            if byte < 128:
                if byte == 58:  # "://"
                    is_address |= i + 2 < size and utf8[i + 1] == 47 and utf8[i + 2] == 47
                elif byte == 119:  # "www."
                    is_address |= i + 3 < size and utf8[i + 1] == 119 and utf8[i + 2] == 119 and utf8[i + 3] == 46
                i += 1
                continue
            code, step = decoded(utf8, i)
            if flags[code] & UNSPACED_SCRIPT:
                if start < i:
                    segments[count] = word_hash(first, start, i, size)
                    count += 1
                segments[count] = word_hash(first, i, i + step, size)
                count += 1
                unspaced += 1
                start = i + step
            i += step
        if start < i:
            segments[count] = word_hash(first, start, i, size)
            count += 1
        visible += length
        if is_address:
            addresses += length
    return RunCounts(visible, spaces, count, unspaced, addresses, hashtags, _count_repeated(segments[:count]))


@inlined
def _bits(count):
    """Of a hash table for so many entries."""
    bits = 4
    while 1 << bits < 2 * count:
        bits += 1
    return bits


@kernel
def _count_repeated(segments):
    """How many segments lie in runs of `REPEATED_RUN` that occurred before."""
    runs = len(segments) - REPEATED_RUN + 1
    if runs < 2:
        return 0
    bits = _bits(runs)
    shift, mask = np.uint64(64 - bits), (1 << bits) - 1
    seen = np.zeros(1 << bits, np.uint64)
    repeated = end = 0
    combined = np.uint64(0)
    for place in range(len(segments)):
        combined = combined * M2 + segments[place]
        run = place - REPEATED_RUN + 1
        if run < 0:
            continue
        if run > 0:
            combined -= segments[run - 1] * _M2_TO_RUN
        key = combined * M0 | np.uint64(1)
        slot = np.int64(key >> shift)
        while seen[slot] != 0 and seen[slot] != key:
            slot = (slot + 1) & mask
        if seen[slot]:
            repeated += place + 1 - max(end, run)
            end = place + 1
        seen[slot] = key
    return repeated


# --- words ------------------------------------------------------------------------------------------------------------


@kernel
def _read_words(utf8, characters, keys):
    """The key of each word into `keys`, and all of `WordCounts` that needs no table."""
    flags, smalls = characters
    size = len(utf8)
    words = single = letters = numbers = cjk = function = phrases = length = 0
    h = M1
    is_cjk = in_number = False
    i = 0
    while i <= size:
        code, step = (np.int64(SPACE), 1) if i == size else decoded(utf8, i)
        known = flags[code]
        if known & LETTER or (length and known & EXTENDER):
            if not length:
                h = M1
                is_cjk = known & CJK != 0
            h = (h ^ np.uint64(smalls[code])) * M0
            h ^= h >> np.uint64(32)
            length += 1
            if code == CAPITAL_DOTTED_I:
                h = (h ^ np.uint64(DOT_ABOVE)) * M0
                h ^= h >> np.uint64(32)
                length += 1
        elif length:
            keys[words] = mixed(h) & ~np.uint64(1) | np.uint64(2) | np.uint64(length >= _LONG_WORD)
            words += 1
            single += length == 1
            letters += 0 if is_cjk else length
            length = 0
        numbers += known & DIGIT != 0 and not in_number
        in_number = known & DIGIT != 0
        if known & (CJK | PHRASES | FUNCTION):
            cjk += known & CJK != 0
            function += known & FUNCTION != 0
            phrases += known & PHRASES != 0
        i += step
    return words, single, letters, numbers, cjk, function, phrases


@kernel
def count_words(utf8, characters, lists):
    """`WordCounts` of a text, uint8[:]."""
    keys = np.empty(len(utf8) // 2 + 1, np.uint64)
    words, single, letters, numbers, cjk, function_characters, phrases = _read_words(utf8, characters, keys)
    seen, counts = _tally(keys[:words])
    listed, languages, is_placeholder, is_notice = lists
    mask = len(listed) - 1
    by_language = np.zeros(64, np.int64)
    top = long = top_long = placeholder = notice = 0
    for place in range(len(seen)):
        count = counts[place]
        if not count:
            continue
        key = seen[place]
        top = max(top, count)
        if key & np.uint64(1):
            long += count
            top_long = max(top_long, count)
        slot = np.int64(key >> np.uint64(8)) & mask
        while listed[slot] != 0 and listed[slot] != key:
            slot = (slot + 1) & mask
        if listed[slot]:
            placeholder += count * is_placeholder[slot]
            notice += count * is_notice[slot]
            for language in range(64):
                by_language[language] += count * np.int64(languages[slot] >> np.uint64(language) & np.uint64(1))
    function = by_language.max()
    return WordCounts(
        words, single, letters, top, long, top_long, function, placeholder, notice, numbers, cjk, function_characters,
        phrases,
    )  # fmt: skip


@kernel
def top_ngram(utf8, characters, n):
    """How often the most frequent run of `n` words occurs."""
    keys = np.empty(len(utf8) // 2 + 1, np.uint64)
    words = _read_words(utf8, characters, keys)[0]
    count = max(0, words - n + 1)
    ngrams = np.empty(count, np.uint64)
    for place in range(count):
        combined = keys[place]
        for j in range(1, n):
            combined = combined * M2 + keys[place + j]
        ngrams[place] = mixed(combined) | np.uint64(1)
    return max(np.int64(0), _tally(ngrams)[1].max())


@kernel
def _tally(keys):
    """A hash table of some keys, none of them 0, with linear probing, and how often each occurs: uint64[], int64[]."""
    bits = _bits(len(keys))
    shift, mask = np.uint64(64 - bits), (1 << bits) - 1
    seen, counts = np.zeros(1 << bits, np.uint64), np.zeros(1 << bits, np.int64)
    for place in range(len(keys)):
        key = keys[place]
        slot = np.int64(key >> shift)
        while seen[slot] != 0 and seen[slot] != key:
            slot = (slot + 1) & mask
        seen[slot] = key
        counts[slot] += 1
    return seen, counts


# --- lines ------------------------------------------------------------------------------------------------------------


@kernel
def count_lines(utf8):
    """`LineCounts` of a text, uint8[:]."""
    size = len(utf8)
    first = address(utf8)
    lines = 1
    for i in range(size):
        lines += utf8[i] == 10
    bits = _bits(lines)
    shift, mask = np.uint64(64 - bits), (1 << bits) - 1
    seen = np.zeros(1 << bits, np.uint64)
    characters = repeated = trailing = trailing_characters = 0
    start = 0
    while start < size:
        while start < size and utf8[start] <= SPACE:
            start += 1
        end = i = start
        while i < size and utf8[i] != 10:
            end = i + 1 if utf8[i] > SPACE else end
            i += 1
        if end == start:
            break
        length = 0
        for place in range(start, end):
            length += utf8[place] & 0xC0 != 0x80
        characters += length
        if _trails_off(utf8, start, end):
            trailing += 1
            trailing_characters += length
        key = word_hash(first, start, end, size) | np.uint64(1)
        slot = np.int64(key >> shift)
        while seen[slot] != 0 and seen[slot] != key:
            slot = (slot + 1) & mask
        if seen[slot]:
            repeated += length
        seen[slot] = key
        start = i
    return LineCounts(characters, repeated, trailing, trailing_characters)


@inlined
def _trails_off(utf8, start, end):
    """Whether a line ends with an ellipsis, perhaps in brackets."""
    is_bracketed = utf8[end - 1] == 93
    last = end - 1 if is_bracketed else end
    if last - start < 3:
        return False
    a, b, c = utf8[last - 3], utf8[last - 2], utf8[last - 1]
    is_ellipsis = (a == 46 and b == 46 and c == 46) or (a == 0xE2 and b == 0x80 and c == 0xA6)
    return is_ellipsis and (not is_bracketed or (last - start > 3 and utf8[last - 4] == 91))


# --- sentences --------------------------------------------------------------------------------------------------------


@kernel
def count_sentences(utf8, characters):
    """How many sentences end in a text, uint8[:]: with marks behind a letter, a number or a closing mark, before white
    space, closing marks between."""
    flags = characters.flags
    size = len(utf8)
    sentences = 0
    at_end = in_marks = False
    before = _NO_BITS
    i = 0
    while i < size:
        code, step = decoded(utf8, i)
        known = flags[code]
        i += step
        if known & END:
            in_marks = in_marks or before & BEFORE_END != 0
            at_end = in_marks
        else:
            in_marks = False
            if code <= SPACE:
                sentences += at_end
                at_end = False
            else:
                at_end = at_end and known & CLOSING != 0
                sentences += known & FULL_END != 0
        before = known
    return sentences + at_end


# --- marks of encodings -----------------------------------------------------------------------------------------------


@kernel
def count_ascii(utf8):
    """`AsciiCounts` of a text, uint8[:]."""
    size = len(utf8)
    words = mixed_words = long_mixed = hexadecimal = 0
    letters = digits = hexadecimal_digits = 0
    for i in range(size + 1):
        byte = utf8[i] if i < size else np.uint8(SPACE)
        lower = byte | 32
        if 97 <= lower <= 122:
            letters += 1
            hexadecimal_digits += lower <= 102
        elif 48 <= byte <= 57:
            digits += 1
            hexadecimal_digits += 1
        elif letters or digits:
            words += 1
            is_mixed = letters > 0 and digits > 0
            mixed_words += is_mixed
            long_mixed += is_mixed and letters + digits >= LONG_MIXED
            hexadecimal += hexadecimal_digits == letters + digits and hexadecimal_digits & 1 == 0
            letters = digits = hexadecimal_digits = 0
    return AsciiCounts(words, mixed_words, long_mixed, hexadecimal)


@kernel
def bound_misread(utf8, characters):
    """At least how many characters of a text, uint8[:], may be bytes that were read in another encoding: no fewer than
    the pattern for them finds, and 0 in nearly all texts."""
    flags = characters.flags
    size = len(utf8)
    bound = high = cyrillic = swapped = 0
    before, code_before = _NO_BITS, np.int64(0)
    is_question = False  # a small letter and "?" were before
    i = 0
    while i <= size:
        code, step = (np.int64(SPACE), 1) if i == size else decoded(utf8, i)
        known = flags[code]
        if code < 128 and code_before < 128 and not high and not swapped:
            bound += is_question and known & SMALL != 0
            is_question = code == 63 and before & SMALL != 0
            before, code_before = known, code
            i += 1
            continue
        bound += is_question and known & SMALL != 0
        is_question = code == 63 and before & SMALL != 0
        if known & CONTINUES and 0xC2 <= code_before <= 0xF0:
            bound += 2 + (code_before >= 0xE0) + (code_before >= 0xF0)
        if known & HIGH:
            high += 1
        else:
            bound += high if high >= 4 else 0
            high = 0
        if (code_before == 0x201A or code_before == 0x192) and 33 <= code <= 255:
            bound += 2
        if (code_before == 0x420 or code_before == 0x421) and known & CONTINUES_1251:
            bound += 2
        if known & CAPITAL_CYRILLIC and cyrillic:
            cyrillic += 1
        else:
            bound += cyrillic if cyrillic >= 3 else 0
            cyrillic = np.int64(known & SMALL_CYRILLIC != 0)
        if known & SWAPPED:
            swapped += 1
        else:
            bound += swapped if swapped >= 4 else 0
            swapped = 0
        if code == 0xFFFD:
            bound += 1
        elif code == 0x951F or (code == code_before and (code == 0x70EB or code == 0x5C6F)):
            bound += 3
        before, code_before = known, code
        i += step
    return bound


# --- runs in detail ---------------------------------------------------------------------------------------------------


@kernel
def count_plain(utf8, characters):
    """`PlainCounts` of a text, uint8[:]."""
    flags = characters.flags
    size = len(utf8)
    plain = runs = 0
    i = 0
    while i < size:
        if utf8[i] <= SPACE:
            i += 1
            continue
        start = i
        is_plain = True
        in_word = in_digits = is_camel = is_any = False
        outer = 0  # marks since the last inner character
        joint = _NO_BITS
        before = _NO_BITS
        while i < size and utf8[i] > SPACE:
            code, step = decoded(utf8, i)
            known = flags[code]
            i += step
            is_camel |= before & SMALL != 0 and known & CAPITAL != 0
            before = known
            if not known & INNER:
                outer += is_any
                joint = known & JOINT
                continue
            if outer:  # between two inner characters
                is_plain &= outer == 1 and joint != 0
                outer = 0
                in_word = in_digits = False
            is_any = True
            if known & LETTER_OR_MARK:
                is_plain &= not in_digits
                in_word = True
            elif known & DIGIT:
                is_plain &= in_word
                in_digits = True
            else:
                is_plain = False
        if is_any and not _is_bare_count(utf8, flags, start, i):
            runs += 1
            plain += is_plain and not is_camel
    return PlainCounts(plain, runs)


@kernel
def _is_bare_count(utf8, flags, start, end):
    """Whether a run is a number in parentheses, or a year: `(159)`, `2021`."""
    size = end - start
    if utf8[start] == 40:
        if size < 3 or utf8[end - 1] != 41:
            return False
        i = start + 1
        while i < end - 1:
            code, step = decoded(utf8, i)
            is_digit = flags[code] & DIGIT != 0
            if not is_digit and (i == start + 1 or (code != 44 and code != 46)):
                return False
            i += step
        return True
    if size < 4:
        return False
    is_century = (utf8[start] == 49 and utf8[start + 1] == 57) or (utf8[start] == 50 and utf8[start + 1] == 48)
    if not is_century:
        return False
    i = start + 2
    for _ in range(2):
        if i >= end:
            return False
        code, step = decoded(utf8, i)
        if not flags[code] & DIGIT:
            return False
        i += step
    return i == end


@kernel
def count_single(utf8, characters):
    """`SingleCounts` of a text, uint8[:]."""
    flags = characters.flags
    size = len(utf8)
    single = words = 0
    length = outer = 0  # inner characters of a segment with the marks between; marks since the last one
    first = _NO_BITS
    i = 0
    while i <= size:
        code, step = (np.int64(SPACE), 1) if i == size else decoded(utf8, i)
        known = flags[code]
        if code <= SPACE or known & UNSPACED_SCRIPT:
            words += first & LETTER != 0
            single += first & LETTER != 0 and length == 1
            length = outer = 0
            first = _NO_BITS
        elif known & INNER:
            first = first if length else known
            length += outer + 1
            outer = 0
        elif length:
            outer += 1
        i += step
    return SingleCounts(single, words)
