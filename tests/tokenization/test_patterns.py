"""Custom split patterns mean the same here, in tiktoken and in Hugging Face's tokenizers, or are refused."""

import itertools

import numpy as np
import pytest
import tiktoken
import tokenizers

from textmill.errors import UserError
from tokenization.kernels.scanner import Scanner
from tokenization.patterns import NAMED, portable_pattern

EVERY = "".join(chr(c) for c in range(0x110000) if not 0xD800 <= c < 0xE000)
CLASSES = [r"\p{L}", r"\w", r"[^\s\p{L}\p{N}]"]
MORE_CLASSES = [
    r"\p{N}", r"\p{M}", r"\p{P}", r"\p{S}", r"\p{Z}", r"\p{Lu}", r"\p{Ll}", r"\p{Lo}", r"\p{Han}", r"\p{Cyrillic}",
    r"\s", r"\d", r"\W", r"[\w'-]", r"\p{Alphabetic}", r"\D", r"[^\S\n]",
]  # fmt: skip


@pytest.mark.parametrize("members", [*CLASSES, *(pytest.param(more, marks=pytest.mark.slow) for more in MORE_CLASSES)])
def test_a_class_has_the_same_code_points_everywhere(members):
    pattern = portable_pattern(rf"(?:{members})+|(?:(?!{members})[\s\S])+")
    text = np.frombuffer(EVERY.encode(), np.uint8)
    blocks = Scanner(pattern).blocks(text, np.array([0, len(text)]))
    ends = [end for block in blocks for end in block.tolist()]
    words = [text[start:end].tobytes().decode() for start, end in itertools.pairwise([0, *ends])]
    split = tokenizers.pre_tokenizers.Split(tokenizers.Regex(pattern.regex), "isolated")
    assert words == [word for word, _ in split.pre_tokenize_str(EVERY)]
    found = tiktoken.Encoding(
        "class",
        pat_str=portable_pattern(f"(?:{members})+").regex,
        mergeable_ranks={bytes([b]): b for b in range(256)},
        special_tokens={},
    ).encode_ordinary(EVERY)
    assert bytes(found).decode() in ("".join(words[::2]), "".join(words[1::2]))


@pytest.mark.parametrize(
    "part",
    [
        r"[\p{L}&&[^\p{Han}]]", r"[a--b]", r"[a~~b]", "[[:alpha:]]", "[a[b]]", r"\b", r"\h", r"\X", r"^a", r"a$",
        r"\p{N}{1,3}+", r"(?s:.)", r"(?x: a)", r"(?i)a", r"(?<name>a)", r"(a)\1", r"[^\W]", r"\p{Script=Latin}",
        r"\p{^L}", r"\xe9", r"\A",
    ],
)  # fmt: skip
def test_a_part_that_is_read_differently_is_refused(part):
    with pytest.raises(
        UserError, match=r"read differently; spell it otherwise|not a valid regular expression"
    ) as error:
        portable_pattern(rf"{part}|\s+|.")
    assert "\n" not in str(error.value)


@pytest.mark.parametrize("name", NAMED)
def test_a_named_pattern_spelled_otherwise_is_the_same_in_every_engine(name):
    """With a group around it, it is a custom pattern."""
    pattern = portable_pattern(f"(?:{NAMED[name].regex})")
    assert portable_pattern(pattern.regex) == pattern
    text = EVERY[:0x3000:7] + " it's IT'S 12345\r\n\n  \u0558\u88f0 a\u0295B\n "
    encoded = np.frombuffer(text.encode(), np.uint8)
    ends = [[e for b in Scanner(p).blocks(encoded, np.array([0, len(encoded)])) for e in b.tolist()]
            for p in (pattern, NAMED[name])]  # fmt: skip
    assert ends[0] == ends[1]
