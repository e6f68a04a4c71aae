"""Split patterns: the regular expressions that cut text into words before byte pairs are merged.

The four named patterns are recognized in every spelling in which they circulate, and scanned by hand-written kernels
(`tokenization/kernels/scanner.py`); any other pattern goes through the `regex` module.
"""

from __future__ import annotations

import enum
import itertools
from collections import deque
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import cache
from typing import NamedTuple

import regex

from textmill.errors import UserError
from tokenization.kernels import unicode_data

__all__ = [
    "CL100K_END", "DIGITS", "GPT2", "NAMED", "Kind", "Pattern", "check_covers", "check_portable", "find_pattern",
    "in_passes", "oniguruma_pattern", "passes_of", "portable_pattern", "split", "split_in_passes",
]  # fmt: skip


class Kind(enum.IntEnum):
    """How a pattern is scanned.

    CL100K_END is cl100k as tiktoken spells it today: blanks that end the text are one word, even across a newline.
    PASSES is Hugging Face's sequence of several: each cuts what the one before it left.
    """

    GPT2 = 0
    CL100K = 1
    CL100K_END = 2
    O200K = 3
    REGEX = 4
    PASSES = 5


@dataclass(frozen=True)
class Pattern:
    """A split pattern.

    Attributes:
        regex: the regular expression, as the `regex` module reads it; of several passes, all with `THEN` between them.
        kind: the scanner for it.
        name: its name, if it has one.
    """

    regex: str
    kind: Kind
    name: str | None = None


GPT2 = r"'(?:[sdmt]|ll|ve|re)| ?\p{L}+| ?\p{N}+| ?[^\s\p{L}\p{N}]+|\s+(?!\S)|\s+"
CL100K = (
    r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}{1,3}| ?[^\s\p{L}\p{N}]+[\r\n]*"
    r"|\s*[\r\n]+|\s+(?!\S)|\s+"
)
CL100K_END = CL100K.replace(r"|\s*[\r\n]+", r"|\s++$|\s*[\r\n]+")
SEED = r"'(?i:[sdmt]|ll|ve|re)|[^\r\n\p{L}\p{N}]?+\p{L}+|\p{N}{1,3}| ?[^\s\p{L}\p{N}]++[\r\n]*|\s*[\r\n]|\s+(?!\S)|\s+"
O200K = "|".join(
    [
        r"[^\r\n\p{L}\p{N}]?[\p{Lu}\p{Lt}\p{Lm}\p{Lo}\p{M}]*[\p{Ll}\p{Lm}\p{Lo}\p{M}]+(?i:'s|'t|'re|'ve|'m|'ll|'d)?",
        r"[^\r\n\p{L}\p{N}]?[\p{Lu}\p{Lt}\p{Lm}\p{Lo}\p{M}]+[\p{Ll}\p{Lm}\p{Lo}\p{M}]*(?i:'s|'t|'re|'ve|'m|'ll|'d)?",
        r"\p{N}{1,3}",
        r" ?[^\s\p{L}\p{N}]+[\r\n/]*",
        r"\s*[\r\n]+",
        r"\s+(?!\S)",
        r"\s+",
    ]
)

# The seed's pattern ends a run of newlines with `\s*[\r\n]`, which gives back to the last newline and so splits
# exactly as `\s*[\r\n]+` does: one scanner serves both.
NAMED = {
    "gpt2": Pattern(GPT2, Kind.GPT2, "gpt2"),
    "cl100k": Pattern(CL100K, Kind.CL100K, "cl100k"),
    "o200k": Pattern(O200K, Kind.O200K, "o200k"),
    "seed": Pattern(SEED, Kind.CL100K, "seed"),
}

_SPELLINGS = {pattern.regex: pattern for pattern in NAMED.values()} | {
    CL100K_END: Pattern(CL100K_END, Kind.CL100K_END),
    # GPT-2 as released, as Hugging Face spells it, and as tiktoken does
    r"'s|'t|'re|'ve|'m|'ll|'d| ?[\p{L}]+| ?[\p{N}]+| ?[^\s\p{L}\p{N}]+|\s+(?!\S)|\s+": NAMED["gpt2"],
    r"'s|'t|'re|'ve|'m|'ll|'d| ?\p{L}+| ?\p{N}+| ?[^\s\p{L}\p{N}]+|\s+(?!\S)|\s+": NAMED["gpt2"],
    r"'(?:[sdmt]|ll|ve|re)| ?\p{L}++| ?\p{N}++| ?[^\s\p{L}\p{N}]++|\s++$|\s+(?!\S)|\s": NAMED["gpt2"],
    # cl100k with its contractions drawn together, and as tiktoken spells it today
    r"'(?i:[sdmt]|ll|ve|re)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}{1,3}| ?[^\s\p{L}\p{N}]+[\r\n]*"
    r"|\s*[\r\n]+|\s+(?!\S)|\s+": NAMED["cl100k"],
    r"'(?i:[sdmt]|ll|ve|re)|[^\r\n\p{L}\p{N}]?+\p{L}++|\p{N}{1,3}+| ?[^\s\p{L}\p{N}]++[\r\n]*+"
    r"|\s++$|\s*[\r\n]|\s+(?!\S)|\s": Pattern(CL100K_END, Kind.CL100K_END),
}

# Between the expressions of several passes, and the pass that cuts at digits: no engine takes them for an expression
THEN = "(?then)"
DIGITS = "(?digits)"

MOST_NESTED = 50  # groups in each other; an expression is parsed recursively
SAMPLE = "Yes, 12 of them.\nGo on!\n"  # letters, digits, punctuation, blanks and newlines


def find_pattern(name_or_regex: str) -> Pattern:
    """The pattern with that name, or for that regular expression, as a saved tokenizer was trained with it.

    Raises:
        UserError: it is neither a name nor a valid expression.

    Example:
        >>> find_pattern("gpt2").kind.name, find_pattern(r"\\w+|\\W+").kind.name
        ('GPT2', 'REGEX')
    """
    return _known(name_or_regex) or Pattern(_valid(name_or_regex), Kind.REGEX)


def _known(name_or_regex: str) -> Pattern | None:
    """The pattern with that name, in that spelling, or of those passes."""
    if name_or_regex in NAMED:
        return NAMED[name_or_regex]
    if name_or_regex in _SPELLINGS:
        return _SPELLINGS[name_or_regex]
    if THEN in name_or_regex or name_or_regex.startswith(DIGITS):
        return in_passes(name_or_regex.split(THEN))
    if name_or_regex.isidentifier():
        raise UserError(f"unknown split pattern {name_or_regex!r}: use {', '.join(NAMED)} or a regular expression")
    return None


def _valid(expression: str) -> str:
    if _nested(expression) > MOST_NESTED:
        raise UserError(
            f"the split pattern has groups that are nested more than {MOST_NESTED} deep; spell it otherwise"
        )
    try:
        regex.compile(expression)
    except regex.error as error:
        raise UserError(f"the split pattern is not a valid regular expression: {error}") from error
    return expression


def _nested(expression: str) -> int:
    """How deep the groups of an expression are nested."""
    steps = (bool(part["group"]) - (part["other"] == ")") for part in _PARTS.finditer(expression))
    return max(itertools.accumulate(steps, initial=0))


def in_passes(expressions: Sequence[str]) -> Pattern:
    """The pattern that cuts text by one expression, the pieces by the next, and so on.

    A pass cuts out its matches; what is between them stays together until a later pass cuts it. An expression may be
    `DIGITS`, or that with a plus for runs of them.

    Raises:
        UserError: an expression is not valid.

    Example:
        >>> pattern = in_passes([r"\\p{N}", r"\\S+"])
        >>> list(split_in_passes(pattern, "a1b c", "a1b c"))
        ['a', '1', 'b', ' ', 'c']
    """
    for expression in expressions:
        if expression.removesuffix("+") != DIGITS:
            _valid(expression)
    return Pattern(THEN.join(expressions), Kind.PASSES)


def passes_of(pattern: Pattern) -> list[str]:
    """The expressions of a pattern, one for each pass."""
    return pattern.regex.split(THEN) if pattern.kind == Kind.PASSES else [pattern.regex]


def portable_pattern(name_or_regex: str) -> Pattern:
    """The pattern for a new tokenizer: `regex`, tiktoken and Hugging Face's `tokenizers` read its expression alike.

    Raises:
        UserError: it is neither a name nor a valid expression, or has a part that they read differently.

    Example:
        >>> portable_pattern(r"\\S+|\\s+").regex
        '\\\\S+|\\\\s+'
    """
    pattern = _known(name_or_regex) or Pattern(_valid(_portable(name_or_regex)), Kind.REGEX)
    if pattern.kind == Kind.PASSES:
        raise UserError("the split pattern has several passes, which tiktoken does not know; use one expression")
    return pattern


def oniguruma_pattern(expression: str) -> Pattern:
    """The pattern that cuts text as this expression does in Oniguruma, the engine of Hugging Face's `tokenizers`.

    Raises:
        UserError: it is not a valid expression, or has a part that `regex` reads differently.

    Example:
        >>> oniguruma_pattern(CL100K).name
        'cl100k'
    """
    if count := next((part.group() for part in _PARTS.finditer(expression) if part["count"]), None):
        raise _unportable(count)  # even in a spelling that is known: tiktoken's cl100k means other words there
    return _SPELLINGS.get(expression) or Pattern(_valid(_portable(expression, _WORD_OF_ONIGURUMA)), Kind.REGEX)


def check_portable(pattern: Pattern) -> None:
    """Check that tiktoken and Hugging Face's `tokenizers` read the expressions of this pattern as it is read here.

    Raises:
        UserError: they do not.
    """
    custom = passes_of(pattern) if pattern.kind in (Kind.REGEX, Kind.PASSES) else []
    for expression in custom:
        if expression.removesuffix("+") != DIGITS and _portable(expression) != expression:
            raise _unportable(r"\w or \W")


_ESCAPE = r"\\[pP]\{[^}]*\}|\\u.{4}|\\x.{2}|\\."
# A part of an expression: a set, an escape, a group in any case or the head of another, a count that engines read in
# different ways ({2}+ and {2}? have a count and then a plus or a question mark in Oniguruma, {,} is text), or a
# character.
_PARTS = regex.compile(
    r"(?P<set>\[\^?\]?(?:\\.|[^\]\\])*\])|(?P<escape>" + _ESCAPE + ")"
    r"|(?P<any_case>\(\?i:[^()]*\))"
    r"|(?P<group>\((?:\?(?:<[=!]|[=!>:]|[a-zA-Z-]*:|.))?)|(?P<count>\{[\d,]*\}\+|\{\d+\}\?|\{,\})|(?P<other>.)",
    regex.DOTALL,
)
# The properties that all know and whose members are the same: general categories, a few more, and scripts
_PROPERTIES = (
    "L Lu Ll Lt Lm Lo M Mn Mc Me N Nd Nl No P Pc Pd Ps Pe Pi Pf Po S Sm Sc Sk So Z Zs Zl Zp C Cc Cf "
    "Alphabetic Uppercase Lowercase White_Space Latin Greek Cyrillic Armenian Hebrew Arabic Devanagari Bengali "
    "Gurmukhi Gujarati Oriya Tamil Telugu Kannada Malayalam Sinhala Thai Lao Tibetan Myanmar Georgian Hangul Ethiopic "
    "Cherokee Khmer Mongolian Hiragana Katakana Bopomofo Han Syriac Thaana Common Inherited"
)
_ESCAPES = regex.compile(
    r"\\(?:[pP]\{(?:" + _PROPERTIES.replace(" ", "|") + r")\}|[sSdDwWtnrfv]|u[0-9a-fA-F]{4}|x[0-7][0-9a-fA-F]"
    r"|[^0-9A-Za-z])"
)
# What may stand in a group in any case: letters and apostrophes. An i has other forms for `regex` than for the others,
# and Oniguruma finds one character for ss, st, ff, fi or fl.
_ANY_CASE = regex.compile(r"\(\?i:(?:(?!(?i:ss|st|f[fl]))['|a-hj-zA-HJ-Z]|\[['a-hj-zA-HJ-Z]+\])+\)")
_GROUPS = {"(", "(?:", "(?=", "(?!", "(?<=", "(?<!", "(?>"}


class _Word(NamedTuple):
    r"""The members of \w in an engine, alone and within a set; `regex` has others."""

    alone: str
    in_set: str


_LETTERS = r"\p{Alphabetic}\p{M}\p{Nd}\p{Pc}"
_WORD = _Word(_LETTERS + "\u200c\u200d", _LETTERS + "\u200c\u200d")  # of tiktoken's engine (Unicode UTS 18)
_WORD_OF_ONIGURUMA = _Word(_LETTERS + "²³¹¼½¾", _LETTERS)


def _portable(expression: str, word: _Word = _WORD) -> str:
    r"""The expression in a spelling that `regex`, tiktoken's engine and Hugging Face's read alike, where \w has
    these members.

    Raises:
        UserError: it has a part that they read differently.
    """
    return "".join(_portable_part(part, word) for part in _PARTS.finditer(expression))


def _portable_part(part: regex.Match[str], word: _Word) -> str:
    text = part.group()
    if part["set"]:
        inner = text[1:-1]
        if "\\W" not in inner and not regex.search(r"&&|--|~~|(?<!\\)(?:\\\\)*\[", inner):
            return f"[{regex.sub(_ESCAPE, lambda escape: _portable_escape(escape.group(), word.in_set), inner)}]"
    elif part["escape"]:
        if text in ("\\w", "\\W"):
            return f"[^{word.alone}]" if text == "\\W" else f"[{word.alone}]"
        return _portable_escape(text)
    elif (
        (part["any_case"] and _ANY_CASE.fullmatch(text))
        or (part["group"] and text in _GROUPS)
        or (part["other"] and text not in ("^", "$"))
    ):
        return text
    raise _unportable(text)


def _portable_escape(text: str, word: str = "") -> str:
    if not _ESCAPES.fullmatch(text):
        raise _unportable(text)
    return word if text == "\\w" else text


def _unportable(text: str) -> UserError:
    return UserError(
        f"the split pattern has {text!r}, which tiktoken, Hugging Face and this program read differently; spell it "
        "otherwise"
    )


def split(expression: regex.Pattern[str], text: str) -> Iterator[str]:
    """The words of a text, in order.

    Raises:
        UserError: the expression leaves out a part of the text, or matches the empty text within it, which engines
            treat in different ways.

    Example:
        >>> list(split(regex.compile(GPT2), "it's 2026, isn't it?"))
        ['it', "'s", ' 2026', ',', ' isn', "'t", ' it', '?']
    """
    end = 0
    for match in expression.finditer(text):
        first, last = match.span()
        if first == last < len(text):  # at the end it makes no word in any engine
            raise _empty_match(expression, text[first:])
        if first != end:
            break
        end = last
        if first < last:
            yield match.group()
    if end != len(text):
        raise UserError(
            f"the split pattern leaves out {text[end : end + 20]!r}; end it with an alternative for the rest: |\\s+|."
        )


def _empty_match(search: regex.Pattern[str], rest: str) -> UserError:
    return UserError(
        f"the split pattern {search.pattern} matches nothing at {rest[:20]!r}; let every match have a character"
    )


def split_in_passes(pattern: Pattern, text: str, older: str) -> Iterator[str]:
    """The words that the passes of a pattern make of a text, in order.

    Args:
        pattern: of the kind `PASSES`.
        text: any.
        older: the text, where characters that Hugging Face's engine does not know are replaced by others.

    Raises:
        UserError: a pass matches the empty text, which engines treat in different ways.
    """
    spans = [(0, len(text))]
    for expression in passes_of(pattern):
        search, source = _pass(expression), text if expression.startswith(DIGITS) else older
        spans = [span for start, end in spans for span in _cut(search, source[start:end], start)]
    return (text[start:end] for start, end in spans)


def _cut(search: regex.Pattern[str], piece: str, start: int) -> Iterator[tuple[int, int]]:
    """Where the matches in a piece are, and what lies between them; the piece begins at `start`."""
    end = 0
    for match in search.finditer(piece):
        first, last = match.span()
        if first == last:
            raise _empty_match(search, piece[first:])
        if end < first:
            yield start + end, start + first
        yield start + first, start + last
        end = last
    if end < len(piece):
        yield start + end, start + len(piece)


# The digits of Hugging Face's step for digits, which follows Unicode 17; its regular expressions follow Unicode 16
_NUMBERS = f"{unicode_data.NUMBER} 11DE0-11DE9 16FF4-16FF6"


@cache
def _pass(expression: str) -> regex.Pattern[str]:
    ranges = [word.partition("-") for word in _NUMBERS.split()]
    members = "".join(rf"\U{first:0>8}-\U{last or first:0>8}" for first, _, last in ranges)
    return regex.compile(expression.replace(DIGITS, f"[{members}]"))


def check_covers(pattern: Pattern) -> None:
    """Check that a pattern leaves out no part of ordinary text and has no empty match: better now than after a crawl.

    Raises:
        UserError: it does.
    """
    if pattern.kind == Kind.REGEX:
        deque(split(regex.compile(pattern.regex), SAMPLE), maxlen=0)
