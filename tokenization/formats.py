"""A tokenizer as files: what a tokenizer artifact and a checkpoint hold, and what Hugging Face and tiktoken read.

- `ranks.tiktoken`: a line for each token, base64 of its bytes and its rank; `tiktoken.load.load_tiktoken_bpe` reads it.
- `tokenizer.yaml`: the split pattern and the special tokens, which the ranks file lacks, and what Hugging Face's
  tokenizers know besides (`rules.py`).
- `tokenizer.json`: the same for Hugging Face `tokenizers` and `transformers`, and `tokenizer_config.json`, which tells
  `transformers` what the special tokens are for.
"""

from __future__ import annotations

import logging
from binascii import a2b_base64, b2a_base64
from collections.abc import Mapping
from pathlib import Path
from typing import Annotated

import yaml
from pydantic import BaseModel, Field, ValidationError

from textmill.errors import UserError
from textmill.files import atomic_write
from textmill.kept import kept_work
from tokenization.hugging_face import HUGGING_FACE, USAGE, check_hugging_face, write_hugging_face
from tokenization.patterns import Kind, check_portable
from tokenization.rules import PLAIN, TextRules, Usage
from tokenization.tokenizer import Tokenizer

__all__ = [
    "CONFIG", "FILES", "RANKS", "check_plain", "load_tokenizer", "read_ranks", "save_tokenizer", "tokenizer_files",
    "write_all", "write_tiktoken",
]  # fmt: skip

logger = logging.getLogger(__name__)

RANKS = "ranks.tiktoken"
CONFIG = "tokenizer.yaml"
FILES = (RANKS, CONFIG, HUGGING_FACE, USAGE)
FORMAT = "textmill-tokenizer 1"
FORMAT_WITH_RULES = "textmill-tokenizer 2"  # also with rules and usage, which format 1 does not know


class TokenizerYaml(BaseModel, strict=True):
    """The part of a `tokenizer.yaml` that decides ids, without what Hugging Face's tokenizers know besides."""

    pattern: str
    special_tokens: dict[Annotated[str, Field(min_length=1)], Annotated[int, Field(ge=0)]]


def save_tokenizer(tokenizer: Tokenizer, path: Path) -> None:
    """Write all files into a folder, which is made if need be; their bytes depend on the tokenizer alone.

    An older tokenizer there stays whole until all files of the new one are on the disk. A kill while they change places
    leaves no `tokenizer.yaml`, so that nobody reads the ranks of one with the pattern of the other.

    The files for Hugging Face are left out, with a word in the log, where they would give other ids: an older tokenizer
    may have a split pattern or a special token that means something else there.

    Raises:
        UserError: `path` cannot be a folder, another run writes there, or the disk is full.

    Example:
        >>> save_tokenizer(tokenizer, Path("my-tokenizer"))  # doctest: +SKIP
        >>> load_tokenizer(Path("my-tokenizer")).encode("some text")  # doctest: +SKIP
    """
    with kept_work(path, "tokenizer", {}) as work:
        write_all(tokenizer, work.complete)
        work.publish([], last=CONFIG, replaces=FILES)


def write_all(tokenizer: Tokenizer, folder: Path) -> None:
    """Write the files of `save_tokenizer` into a folder that nobody reads yet."""
    _write_ours(tokenizer, folder)
    try:
        check_hugging_face(tokenizer)
    except UserError as error:
        logger.warning("The tokenizer gets no tokenizer.json for Hugging Face: %s", error)
    else:
        write_hugging_face(tokenizer, folder)


def write_tiktoken(tokenizer: Tokenizer, path: Path) -> None:
    """Write `ranks.tiktoken` and `tokenizer.yaml` into a folder, as `save_tokenizer` does.

    Raises:
        UserError: tiktoken would give other ids, or what `save_tokenizer` says.
    """
    check_plain(tokenizer, "tiktoken")
    with kept_work(path, "tokenizer", {}) as work:
        _write_ours(tokenizer, work.complete)
        work.publish([], last=CONFIG, replaces=[RANKS])


def check_plain(tokenizer: Tokenizer, program: str) -> None:
    """Check that ranks, one split pattern and special tokens are all of a tokenizer: other programs know no more.

    Raises:
        UserError: it has rules or a pattern of several passes, or its pattern means other words there.
    """
    check_portable(tokenizer.pattern)
    more = [name.replace("_", " ") for name, value in tokenizer.rules if value != getattr(PLAIN, name)]
    if tokenizer.pattern.kind == Kind.PASSES:
        more.append("pattern of several passes")
    if more:
        raise UserError(f"this tokenizer has {more[0]}, which {program} lacks; export it for Hugging Face")


def _write_ours(tokenizer: Tokenizer, path: Path) -> None:
    _write_ranks(tokenizer.tokens, path / RANKS)
    more = {
        name: given
        for name, model in (("rules", tokenizer.rules), ("usage", tokenizer.usage))
        if (given := model.model_dump(mode="json", exclude_defaults=True))
    }
    config = {
        "format": FORMAT_WITH_RULES if more else FORMAT,
        "pattern": tokenizer.pattern.regex,
        "vocab_size": tokenizer.vocab_size,
        "special_tokens": dict(tokenizer.special_tokens),
        **more,
    }
    text = yaml.safe_dump(config, sort_keys=False, allow_unicode=True, width=1 << 20)
    atomic_write(path / CONFIG, text)


def load_tokenizer(path: Path) -> Tokenizer:
    """The tokenizer in a folder that holds `ranks.tiktoken` and `tokenizer.yaml`, such as an artifact or a checkpoint.

    Raises:
        UserError: a file is missing or damaged.
    """
    ranks, config = tokenizer_files(path)
    try:
        content = yaml.safe_load(config.read_text(encoding="utf-8"))
        told = TokenizerYaml.model_validate(content)
        rules = TextRules.model_validate(content.get("rules", {}))
        usage = Usage.model_validate(content.get("usage", {}))
    except (yaml.YAMLError, UnicodeDecodeError):
        raise UserError(f"{config} is damaged; it is not YAML") from None
    except ValidationError as error:
        first = error.errors(include_url=False)[0]
        place = ".".join(map(str, first["loc"]))
        raise UserError(f"{config} is damaged: {error.title}, {place}: {first['msg']}") from None
    if content.get("format", FORMAT) not in (FORMAT, FORMAT_WITH_RULES):
        raise UserError(f"{config} has the format {content['format']!r}, which this version of Textmill cannot read")
    return Tokenizer(read_ranks(ranks), told.pattern, told.special_tokens, rules, usage)


def tokenizer_files(path: Path) -> tuple[Path, Path]:
    """The two files in a folder that decide every id: the ranks, and the pattern with the special tokens.

    Raises:
        UserError: one of them is missing.
    """
    for name in (RANKS, CONFIG):
        if not (path / name).is_file():
            raise UserError(f"{path} holds no tokenizer ({name} is missing); give a folder of train_tokenizer")
    return path / RANKS, path / CONFIG


# ---- ranks of tiktoken


def _write_ranks(tokens: Mapping[bytes, int], path: Path) -> None:
    lines = (b2a_base64(token, newline=False) + b" %d\n" % rank for token, rank in tokens.items())
    atomic_write(path, b"".join(lines))


def read_ranks(path: Path) -> dict[bytes, int]:
    """The ranks of a `.tiktoken` file: bytes → rank.

    Raises:
        UserError: a line is not a token and its rank, or two tokens have the same rank.
    """
    ranks: dict[bytes, int] = {}
    for number, line in enumerate(path.read_bytes().splitlines(), 1):
        if not line:
            continue
        try:
            token, rank = line.split()
            ranks[a2b_base64(token, strict_mode=True)] = int(rank)
        except ValueError:
            raise UserError(f"{path}, line {number}: not a base64 token and its rank") from None
    if len(set(ranks.values())) != len(ranks):
        raise UserError(f"{path} gives one rank to two tokens; it is not a file of tiktoken ranks")
    return ranks
