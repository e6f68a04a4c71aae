"""The configs of tokenizers, token arrays and pairs of sentences, and what the name of a special token may be.

They lie apart from the code that needs a compiler: a run that only checks whether something is built starts without it.
"""

from __future__ import annotations

import os
import re
from codecs import getincrementaldecoder
from collections.abc import Iterable
from functools import cache
from typing import Literal

from pydantic import BaseModel, Field, field_validator, model_validator

from textmill.errors import UserError
from textmill.settings import added, execution_only
from tokenization.patterns import NAMED, check_covers, portable_pattern

__all__ = [
    "ENCODING_SIZES", "END_OF_TEXT", "HIDDEN", "SPECIAL_TOKENS", "PretokenizeConfig", "SentencePairsConfig",
    "TextPairsConfig", "TokenizerConfig", "byte_characters", "bytes_of", "check_special_names", "sentinel_names",
]  # fmt: skip

END_OF_TEXT = "<|endoftext|>"
SPECIAL_TOKENS = (END_OF_TEXT, "[MASK]", "[SEP]", "[CLS]", "[PAD]")
MOST_IDS = 1 << 20  # that the encoder tells apart
MOST_RESERVED = 1 << 16  # a mistake, where more ids are asked for than any model's matrices need
HIDDEN = "\ue000"  # for private use (The Unicode Standard), and none of `byte_characters`

# Number of ids of tiktoken's encodings, special tokens included; one of these, the end of text, is also ours
ENCODING_SIZES = {"gpt2": 50_257, "cl100k_base": 100_277, "o200k_base": 200_019, "o200k_harmony": 201_088}


# ---- names of special tokens


def sentinel_names(count: int) -> list[str]:
    """The special tokens that stand for hidden spans of a text, called as those of T5 (Raffel et al. 2020).

    Example:
        >>> sentinel_names(2)
        ['<extra_id_0>', '<extra_id_1>']
    """
    return [f"<extra_id_{number}>" for number in range(count)]


@cache
def byte_characters() -> tuple[str, ...]:
    """The printable character that stands for each byte in GPT-2's files and Hugging Face's byte-level tokenizers.

    Example:
        >>> "".join(byte_characters()[byte] for byte in "a naïve\\n".encode())
        'aĠnaÃ¯veĊ'
    """
    printable = [*range(0x21, 0x7F), *range(0xA1, 0xAD), *range(0xAE, 0x100)]
    others = (b for b in range(256) if b not in printable)
    table = {b: chr(b) for b in printable} | {b: chr(256 + i) for i, b in enumerate(others)}
    return tuple(table[b] for b in range(256))


@cache
def _byte_of() -> dict[str, int]:
    return {character: b for b, character in enumerate(byte_characters())}


def bytes_of(characters: str) -> bytes | None:
    """The bytes that `byte_characters` stand for; None if one of them stands for none."""
    try:
        return bytes(map(_byte_of().__getitem__, characters))
    except KeyError:
        return None


def check_special_names(names: Iterable[str]) -> None:
    """Check that Hugging Face can tell special tokens from text.

    Raises:
        UserError: it would take a text for one of them, because the name spells the bytes of the text.
    """
    for name in names:
        text = bytes_of(name)
        if HIDDEN in name or (text and text != name.encode() and _occurs_in_text(text)):
            raise UserError(
                f"Hugging Face would take ordinary text for the special token {name!r}; give it another name"
            )


def _occurs_in_text(found: bytes) -> bool:
    """Whether a text has these bytes in its UTF-8, be it in the middle of a character."""
    rest = found.lstrip(bytes(range(0x80, 0xC0)))
    try:
        getincrementaldecoder("utf-8")().decode(rest)
    except UnicodeDecodeError:
        return False
    return len(found) - len(rest) <= 3  # of four bytes, the longest character


def _is_unicode(text: str) -> bool:
    """Whether UTF-8 can spell a string; it cannot where there is half a surrogate pair."""
    try:
        text.encode()
    except UnicodeEncodeError:
        return False
    return True


# ---- configs


class TokenizerConfig(BaseModel, extra="forbid"):
    """How the tokenizer is made."""

    vocab_size: int = Field(
        32_768,
        gt=0,
        le=MOST_IDS,
        description="Number of ids: 256 bytes, the merges, the special tokens and the reserved ids",
    )
    pattern: str = Field("cl100k", description=f"Split pattern: {', '.join(NAMED)}, or a regular expression (slower)")
    special_tokens: list[str] = Field(
        [], description=f"Special tokens besides {' '.join(SPECIAL_TOKENS)}, which are always there"
    )
    reserved: int = Field(
        0, ge=0, le=MOST_RESERVED, description="Ids kept free for special tokens to come, as <|reserved_0|>, …"
    )
    sentinels: int | None = added(
        None,
        ge=0,
        le=MOST_RESERVED,
        description="Special tokens <extra_id_0>, … that stand for hidden spans; default: as many as pretrain needs, "
        "none but for an encoder-decoder",
    )
    multiple_of: int = Field(
        1,
        gt=0,
        le=MOST_RESERVED,
        description="Reserve further ids until their number is a multiple of this, for the model's matrices",
    )
    encoding: str | None = Field(
        None,
        description=f"Take the vocabulary and pattern of this tiktoken encoding ({', '.join(ENCODING_SIZES)}) instead "
        "of training",
    )
    threads: int = execution_only(
        default_factory=lambda: os.cpu_count() or 1, gt=0, description="Threads that count words"
    )

    @field_validator("pattern")
    @classmethod
    def _known_pattern(cls, value: str) -> str:
        try:
            check_covers(portable_pattern(value))
        except UserError as error:
            raise ValueError(str(error)) from error
        return value

    @field_validator("special_tokens")
    @classmethod
    def _distinct(cls, value: list[str]) -> list[str]:
        if any(not name for name in value):
            raise ValueError("a special token needs a name")
        if broken := [name for name in value if not _is_unicode(name)]:
            raise ValueError(f"{broken[0]!r} is not UTF-8 text; give the special token another name")
        if len({*value, *SPECIAL_TOKENS}) != len(value) + len(SPECIAL_TOKENS):
            raise ValueError(f"give each special token once, and leave out {' '.join(SPECIAL_TOKENS)}")
        if reserved := [name for name in value if re.fullmatch(r"<\|reserved_\d+\|>", name)]:
            raise ValueError(f"{reserved[0]} is a name of reserved ids; choose another, or set reserved")
        try:
            check_special_names(value)
        except UserError as error:
            raise ValueError(str(error)) from error
        return value

    @model_validator(mode="after")
    def _room_for_the_bytes(self) -> TokenizerConfig:
        if twice := sorted(set(self.special_tokens) & set(sentinel_names(self.sentinels or 0))):
            raise ValueError(f"sentinels add {twice[0]} to the special tokens; leave it out of special_tokens")
        smallest = 256 + len(self.special_names())
        if self.encoding is None and self.vocab_size < smallest:
            raise ValueError(
                f"vocab_size {self.vocab_size} is too small: 256 bytes and {smallest - 256} special and reserved "
                f"tokens need at least {smallest}"
            )
        planned = self.planned_size()
        if planned is not None and planned > MOST_IDS:
            raise ValueError(f"{planned:,} ids are more than the {MOST_IDS:,} that a tokenizer can have; ask for fewer")
        return self

    def planned_size(self) -> int | None:
        """How many ids the tokenizer is going to have; None for an encoding that is not in `ENCODING_SIZES`.

        Example:
            >>> TokenizerConfig(vocab_size=50_000, multiple_of=128).planned_size()
            50048
        """
        if self.encoding is None:
            size = self.vocab_size
        elif self.encoding in ENCODING_SIZES:
            size = ENCODING_SIZES[self.encoding] + len(self.special_names()) - 1
        else:
            return None
        return -(-size // self.multiple_of) * self.multiple_of

    def special_names(self) -> list[str]:
        """Special and reserved tokens, in the order of their ids.

        Example:
            >>> TokenizerConfig(special_tokens=["<|user|>"], reserved=1).special_names()
            ['<|endoftext|>', '[MASK]', '[SEP]', '[CLS]', '[PAD]', '<|user|>', '<|reserved_0|>']
        """
        sentinels = sentinel_names(self.sentinels or 0)
        reserved = [f"<|reserved_{i}|>" for i in range(self.reserved)]
        return [*SPECIAL_TOKENS, *self.special_tokens, *sentinels, *reserved]


class PretokenizeConfig(BaseModel, extra="forbid"):
    """How a corpus becomes token arrays."""

    threads: int = execution_only(default_factory=lambda: os.cpu_count() or 1, gt=0, description="Threads that encode")


class SentencePairsConfig(BaseModel, extra="forbid"):
    """How sentences are paired."""

    seed: int = Field(0, ge=0, description="Seed of the choice of negatives")
    task: Literal["next-sentence", "sentence-order"] = added(
        "next-sentence", description="What a negative pair is: a sentence from elsewhere, or the two in the wrong order"
    )
    negatives: float = Field(0.5, ge=0, le=1, description="Share of pairs that are negative")
    min_characters: int = Field(10, ge=1, description="Shorter sentences are left out")


class TextPairsConfig(BaseModel, extra="forbid"):
    """Files of sources and their targets: translations, questions and answers."""

    paths: list[str] = execution_only(
        min_length=1, description="Files of pairs, or one: Parquet, JSON lines (.jsonl), CSV or TSV with a header"
    )
    validation: list[str] = execution_only([], description="Files that are held out; none: a share of the pairs is")
    source: str = Field("source", description="Column of the sources")
    target: str = Field("target", description="Column of the targets")
    validation_fraction: float = Field(0.1, gt=0, lt=1, description="Share of the pairs that is held out, by source")
    use: Literal["finetune", "pretrain"] = execution_only(
        "finetune", description="Which training is on them; pretrain: from scratch, and on no running text"
    )

    @field_validator("paths", "validation", mode="before")
    @classmethod
    def _one_or_several(cls, given: object) -> object:
        return [given] if isinstance(given, str) else given

    @model_validator(mode="after")
    def _two_columns(self) -> TextPairsConfig:
        if self.source == self.target:
            raise ValueError(f"source and target are both column {self.source!r}; name another for one of them")
        return self
