"""Custom split patterns mean the same here, in tiktoken and in Hugging Face's tokenizers, or are refused."""

import itertools

import numpy as np
import pytest
import tiktoken
import tokenizers
from pydantic import ValidationError

from textmill.errors import UserError
from tokenization.config import TokenizerConfig
from tokenization.kernels.scanner import Scanner
from tokenization.patterns import NAMED, Pattern, check_covers, find_pattern, oniguruma_pattern, portable_pattern

EVERY = "".join(chr(c) for c in range(0x110000) if not 0xD800 <= c < 0xE000)
ANY_CASE = "abcdefghjklmnopqrstuvwxyz'"
CLASSES = [r"\p{L}", r"\w", r"[^\s\p{L}\p{N}]"]
MORE_CLASSES = [
    r"\p{N}", r"\p{M}", r"\p{P}", r"\p{S}", r"\p{Z}", r"\p{Lu}", r"\p{Ll}", r"\p{Lo}", r"\p{Han}", r"\p{Cyrillic}",
    r"\s", r"\d", r"\W", r"[\w'-]", r"\p{Alphabetic}", r"\D", r"[^\S\n]",
    r"\p{Latin}", r"\p{Common}", r"\p{Uppercase}", f"(?i:[{ANY_CASE}])",
]  # fmt: skip


def words_of(pattern: Pattern, text: str) -> list[str]:
    encoded = np.frombuffer(text.encode(), np.uint8)
    ends = [end for block in Scanner(pattern).blocks(encoded, np.array([0, len(encoded)])) for end in block.tolist()]
    return [encoded[start:end].tobytes().decode() for start, end in itertools.pairwise([0, *ends])]


def words_of_hugging_face(expression: str, text: str) -> list[str]:
    split = tokenizers.pre_tokenizers.Split(tokenizers.Regex(expression), "isolated")
    return [word for word, _ in split.pre_tokenize_str(text)]


@pytest.mark.parametrize("members", [*CLASSES, *(pytest.param(more, marks=pytest.mark.slow) for more in MORE_CLASSES)])
def test_a_class_has_the_same_code_points_everywhere(members):
    pattern = portable_pattern(rf"(?:{members})+|(?:(?!{members})[\s\S])+")
    words = words_of(pattern, EVERY)
    assert words == words_of_hugging_face(pattern.regex, EVERY)
    found = tiktoken.Encoding(
        "class",
        pat_str=portable_pattern(f"(?:{members})+").regex,
        mergeable_ranks={bytes([b]): b for b in range(256)},
        special_tokens={},
    ).encode_ordinary(EVERY)
    assert bytes(found).decode() in ("".join(words[::2]), "".join(words[1::2]))


@pytest.mark.parametrize(
    "members", [r"\w", r"[\w'-]", *(pytest.param(m, marks=pytest.mark.slow) for m in (r"\W", r"[^\w\s]"))]
)
def test_an_expression_of_hugging_faces_means_what_it_means_there(members):
    """Persian has U+200C within words; it is a member of tiktoken's own class of word characters, not of theirs."""
    expression = rf"(?:{members})+|(?:(?!{members})[\s\S])+"
    text = EVERY + "\u0645\u06cc\u200c\u062e\u0648\u0627\u0647\u0645"
    assert words_of(oniguruma_pattern(expression), text) == words_of_hugging_face(expression, text)


@pytest.mark.parametrize(
    "expression",
    [
        r"\p{L}+(?=:)|[\s\S]", r"\p{L}+(?!:)|[\s\S]", r"(?<=:)\S+|[\s\S]", r"(?<!:)\S+|[\s\S]", r"(?>\S+:?)|[\s\S]",
        r"(\S+:)|[\s\S]", r"(?!:)\S|[\s\S]", r"\p{N}{1,3}(?=(?:\p{N}{3})*(?!\p{N}))|[\s\S]", r"\S{,3}\s?|[\s\S]",
    ],
)  # fmt: skip
def test_a_group_is_read_whatever_follows_it(expression):
    text = "a: bcd:de 12:1234567 ::e\n"
    words = words_of(portable_pattern(expression), text)
    assert words == words_of_hugging_face(expression, text)
    ranks = {bytes([b]): b for b in range(256)} | {word.encode(): 256 + i for i, word in enumerate(dict.fromkeys(words))
                                                   if len(word) > 1}  # fmt: skip
    theirs = tiktoken.Encoding("group", pat_str=expression, mergeable_ranks=ranks, special_tokens={})
    assert [theirs.decode([i]) for i in theirs.encode_ordinary(text)] == words


@pytest.mark.parametrize(
    "expression",
    [
        r"(?i:n't|'s|'em)|[\s\S]", r"(?i:s){2}|[\s\S]", r"(?i:s)(?i:t)|[\s\S]", r"(?i:f)(?i:l)|[\s\S]",
        r"(?i:[sk]|[ft]l)+|[\s\S]",
    ],
)  # fmt: skip
def test_letters_in_any_case_are_read_alike(expression):
    text = (
        "ss SS \u017fS \xdf st ST \ufb06 \ufb05 fl \ufb02 ff \ufb00 n't N'T \u0149t 's 'EM k K \u212a i I \u0130 \u0131"
    )
    words = words_of(portable_pattern(expression), text)
    assert words == words_of_hugging_face(expression, text)
    ranks = {bytes([b]): b for b in range(256)}
    for word in (word.encode() for word in words):
        for end in range(2, len(word) + 1):
            ranks.setdefault(word[:end], len(ranks))
    theirs = tiktoken.Encoding("any case", pat_str=expression, mergeable_ranks=ranks, special_tokens={})
    assert [theirs.decode([i]) for i in theirs.encode_ordinary(text)] == words


@pytest.mark.parametrize(
    "part",
    [
        r"[\p{L}&&[^\p{Han}]]", r"[a--b]", r"[a~~b]", "[[:alpha:]]", "[a[b]]", r"\b", r"\h", r"\X", r"^a", r"a$",
        r"\p{N}{1,3}+", r"\p{N}{2}?", r"a{,}", r"[^(\s|[.,])]+",
        r"(?s:.)", r"(?x: a)", r"(?i)a", r"(?<name>a)", r"(a)\1", r"[^\W]", r"\p{Script=Latin}",
        r"\p{^L}", r"\xe9", r"\A", r"\p{Arrows}", r"\p{XDigit}", r"\p{Word}", r"[\p{Arrows}]", r"\pL", r"(?i:i)",
        r"(?i:I)", r"(?i:[a-z])", r"(?i:[^k])", r"(?i:\p{Lu})", r"(?i:ss)", r"(?i:sT)", r"(?i:off)", r"(?i:fl)",
        r"(?i:s{2})", r"(?i:(?:s)t)",
    ],
)  # fmt: skip
def test_a_part_that_is_read_differently_is_refused(part):
    with pytest.raises(
        UserError, match=r"read differently; spell it otherwise|not a valid regular expression"
    ) as error:
        portable_pattern(rf"{part}|\s+|.")
    assert "\n" not in str(error.value)


@pytest.mark.parametrize("expression", [r"\s*|\S+", r"x*|\S+|\s+", r"\S*|\s+", r"(?=Y)|\S+|\s+"])
def test_an_expression_that_matches_nothing_is_refused(expression):
    with pytest.raises(UserError, match="matches nothing at") as error:
        check_covers(oniguruma_pattern(expression))
    assert "\n" not in str(error.value)
    with pytest.raises(ValidationError, match="matches nothing at"):
        TokenizerConfig(pattern=expression)


def test_an_empty_match_in_a_text_is_an_error():
    """The sample of text that a new pattern is tried on does not show it."""
    pattern = portable_pattern(r"(?=漢)|\S+|\s+")
    check_covers(pattern)
    with pytest.raises(UserError, match="matches nothing at '漢字'"):
        words_of(pattern, "ab 漢字")


@pytest.mark.parametrize("read", [portable_pattern, oniguruma_pattern, find_pattern])
def test_groups_are_nested_as_deep_as_they_can_be_parsed(read):
    read("(" * 50 + "a" + ")" * 50 + r"|[\s\S]")
    with pytest.raises(UserError, match="groups that are nested more than 50 deep"):
        read("(" * 300 + "a" + ")" * 300 + r"|[\s\S]")


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
