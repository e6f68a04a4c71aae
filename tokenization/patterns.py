"""Split patterns: the regular expressions that cut text into words before byte pairs are merged.

The four named patterns are recognized in every spelling in which they circulate, and scanned by hand-written kernels
(`tokenization/kernels/scanner.py`); any other pattern goes through the `regex` module.
"""

from __future__ import annotations

import enum
from collections import deque
from collections.abc import Iterator
from dataclasses import dataclass

import regex

from textmill.errors import UserError

__all__ = ["CL100K_END", "GPT2", "NAMED", "Kind", "Pattern", "check_covers", "find_pattern", "split"]


class Kind(enum.IntEnum):
    """How a pattern is scanned.

    CL100K_END is cl100k as tiktoken spells it today: blanks that end the text are one word, even across a newline.
    """

    GPT2 = 0
    CL100K = 1
    CL100K_END = 2
    O200K = 3
    REGEX = 4


@dataclass(frozen=True)
class Pattern:
    """A split pattern.

    Attributes:
        regex: the regular expression, spelled so that the `regex` module, tiktoken and Hugging Face `tokenizers` all
            read it alike.
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

SAMPLE = "Yes, 12 of them.\nGo on!\n"  # letters, digits, punctuation, blanks and newlines


def find_pattern(name_or_regex: str) -> Pattern:
    """The pattern with that name, or for that regular expression.

    Raises:
        UserError: it is neither a name nor a valid expression.

    Example:
        >>> find_pattern("gpt2").kind.name, find_pattern(r"\\w+|\\W+").kind.name
        ('GPT2', 'REGEX')
    """
    if name_or_regex in NAMED:
        return NAMED[name_or_regex]
    if name_or_regex in _SPELLINGS:
        return _SPELLINGS[name_or_regex]
    if name_or_regex.isidentifier():
        raise UserError(f"unknown split pattern {name_or_regex!r}: use {', '.join(NAMED)} or a regular expression")
    try:
        regex.compile(name_or_regex)
    except regex.error as error:
        raise UserError(f"the split pattern is not a valid regular expression: {error}") from error
    return Pattern(name_or_regex, Kind.REGEX)


def split(expression: regex.Pattern[str], text: str) -> Iterator[str]:
    """The words of a text, in order.

    Raises:
        UserError: the expression leaves out a part of the text.

    Example:
        >>> list(split(regex.compile(GPT2), "it's 2026, isn't it?"))
        ['it', "'s", ' 2026', ',', ' isn', "'t", ' it', '?']
    """
    end = 0
    for match in expression.finditer(text):
        first, last = match.span()
        if first == last:
            continue
        if first != end:
            break
        end = last
        yield match.group()
    if end != len(text):
        raise UserError(
            f"the split pattern leaves out {text[end : end + 20]!r}; end it with an alternative for the rest: |\\s+|."
        )


def check_covers(pattern: Pattern) -> None:
    """Check that a pattern leaves out no part of ordinary text: better now than after a crawl.

    Raises:
        UserError: it does.
    """
    if pattern.kind == Kind.REGEX:
        deque(split(regex.compile(pattern.regex), SAMPLE), maxlen=0)
