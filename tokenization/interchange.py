"""Tokenizers of others: tiktoken's named encodings, the seed's `bpetokenizer v1`, and whatever a name stands for."""

from __future__ import annotations

import logging
from collections.abc import Mapping
from pathlib import Path

import requests
import tiktoken

from textmill.errors import UserError
from textmill.files import atomic_write
from tokenization.formats import CONFIG, RANKS, check_plain, load_tokenizer, read_ranks
from tokenization.hugging_face import HUGGING_FACE, from_hugging_face
from tokenization.hugging_face.reading import last_parts
from tokenization.patterns import NAMED, check_covers, portable_pattern
from tokenization.tokenizer import Tokenizer

__all__ = ["from_legacy", "from_tiktoken", "load_any", "merges_of", "to_tiktoken", "write_legacy"]

logger = logging.getLogger(__name__)

LEGACY_HEADER = "bpetokenizer v1"
RESERVED = "<|reserved_"


def from_tiktoken(name: str) -> Tokenizer:
    """The tokenizer of a named tiktoken encoding, from tiktoken's cache folder (TIKTOKEN_CACHE_DIR) or the internet.

    Where two special tokens have one id, as <|endofprompt|> and <|reserved_200018|> of o200k_harmony, the reserved one
    is left out, with a word in the log.

    Raises:
        UserError: there is no such encoding, it is neither cached nor reachable, or its pattern means other words
            here.
    """
    try:
        encoding = tiktoken.get_encoding(name)
    except requests.RequestException as error:
        raise UserError(
            f"the tiktoken encoding {name} is not in tiktoken's cache and cannot be downloaded: go online once, or set "
            "TIKTOKEN_CACHE_DIR to a folder that has it"
        ) from error
    except ValueError as error:
        known = ", ".join(tiktoken.list_encoding_names())
        raise UserError(f"no usable tiktoken encoding {name!r} ({known}): {error}".split("\n")[0]) from error
    pattern = portable_pattern(encoding._pat_str).regex
    special = _one_for_each_id(encoding._special_tokens)
    if left_out := encoding._special_tokens.keys() - special.keys():
        logger.warning("%s: %s has the id of another special token and is left out", name, ", ".join(left_out))
    return Tokenizer(encoding._mergeable_ranks, pattern, special)


def _one_for_each_id(special: Mapping[str, int]) -> dict[str, int]:
    """The special tokens without the reserved names of ids that have another name."""
    taken = {i for name, i in special.items() if not name.startswith(RESERVED)}
    return {name: i for name, i in special.items() if not (name.startswith(RESERVED) and i in taken)}


def to_tiktoken(tokenizer: Tokenizer, name: str = "textmill") -> tiktoken.Encoding:
    """The same tokenizer as tiktoken's own object.

    Raises:
        UserError: tiktoken would give other ids.

    Example:
        >>> to_tiktoken(tokenizer).encode("some text") == tokenizer.encode("some text")  # doctest: +SKIP
        True
    """
    check_plain(tokenizer, "tiktoken")
    return tiktoken.Encoding(
        name,
        pat_str=tokenizer.pattern.regex,
        mergeable_ranks=dict(tokenizer.tokens),
        special_tokens=dict(tokenizer.special_tokens),
    )


def from_legacy(path: Path) -> Tokenizer:
    """The tokenizer of a `bpetokenizer v1` text file: a version line, the split pattern, the number of special tokens,
    a line for each (name and id), then a pair of ids for every merge; merge i makes id 256 + i.

    Raises:
        UserError: it is another kind of file, or a line does not fit (the message names it).
    """
    try:
        lines = path.read_text(encoding="utf-8").split("\n")
    except UnicodeDecodeError:
        lines = [""]
    if lines[0].strip() != LEGACY_HEADER:
        raise UserError(
            f"{path} is not a tokenizer: give a folder of train_tokenizer, a tokenizer.json, a .tiktoken file, or a "
            f"text file that begins with the line {LEGACY_HEADER!r}"
        )
    number = 2
    try:
        count = int(lines[2])
        special = {}
        for number in range(3, 3 + count):
            name, _, token_id = lines[number].rpartition(" ")
            special[name] = int(token_id)
        tokens = [bytes([b]) for b in range(256)]
        for number in range(3 + count, len(lines)):
            if lines[number].strip():
                left, right = map(int, lines[number].split())
                tokens.append(tokens[left] + tokens[right])
    except (ValueError, IndexError):
        raise UserError(f"{path}, line {number + 1}: not what {LEGACY_HEADER} has there") from None
    ranks = {token: i for i, token in reversed(list(enumerate(tokens)))}
    return Tokenizer(ranks, lines[1], special)


def write_legacy(tokenizer: Tokenizer, path: Path) -> None:
    """Write a `bpetokenizer v1` file.

    Raises:
        UserError: the tokenizer has more than such a file holds, or the ids do not begin with the bytes in order, or
            do not go on with one merge each.
    """
    check_plain(tokenizer, "such a file")
    tokens = list(tokenizer.tokens)
    if list(tokenizer.tokens.values()) != list(range(len(tokens))) or tokens[:256] != [bytes([b]) for b in range(256)]:
        raise UserError("only a vocabulary that begins with the 256 bytes in order can be written that way")
    lines = [LEGACY_HEADER, tokenizer.pattern.regex, str(len(tokenizer.special_tokens))]
    lines += [f"{name} {token_id}" for name, token_id in tokenizer.special_tokens.items()]
    lines += [f"{left} {right}" for left, right in merges_of(tokenizer)]
    atomic_write(path, "\n".join(lines) + "\n")


def merges_of(tokenizer: Tokenizer) -> list[tuple[int, int]]:
    """The pair of ids that makes each token after the bytes: what is left of it when only earlier tokens may be used.

    Raises:
        UserError: a token cannot be made from two earlier ones.

    Example:
        >>> merges_of(Tokenizer({bytes([b]): b for b in range(256)} | {b"th": 256, b"the": 257}, "gpt2", {}))
        [(116, 104), (256, 101)]
    """
    ranks = tokenizer.tokens
    pairs = []
    for token, rank in ranks.items():
        if len(token) == 1:
            continue
        parts = last_parts(token, ranks, rank)
        if len(parts) != 2:
            raise UserError(f"token {rank} ({token!r}) is not a merge of two earlier tokens")
        pairs.append((ranks[parts[0]], ranks[parts[1]]))
    return pairs


def load_any(source: str, pattern: str | None = None) -> Tokenizer:
    """The tokenizer that `source` names: a folder of ours, a file of any format above, or a tiktoken encoding.

    Args:
        source: a path or a name.
        pattern: name or regular expression of the split pattern of a plain `.tiktoken` file, which has none itself and
            knows no special tokens. Where a `tokenizer.yaml` lies beside `ranks.tiktoken`, that tells both.

    Raises:
        UserError: it is none of these, it cannot be read, or a pattern is given for what has its own.
    """
    path = Path(source)
    ours = path.name == RANKS and (path.parent / CONFIG).is_file()
    if path.suffix == ".tiktoken" and path.is_file() and not ours:
        return _from_ranks(path, pattern)
    if pattern is not None:
        raise UserError(f"--pattern is for a .tiktoken file without a pattern of its own; {source} is not one")
    if path.is_dir():
        if not (path / RANKS).exists() and (path / HUGGING_FACE).exists():
            return from_hugging_face(path / HUGGING_FACE)
        return load_tokenizer(path)
    if ours:
        return load_tokenizer(path.parent)
    if path.suffix == ".json" and path.is_file():
        return from_hugging_face(path)
    if path.is_file():
        return from_legacy(path)
    if source in tiktoken.list_encoding_names():
        return from_tiktoken(source)
    known = ", ".join(tiktoken.list_encoding_names())
    raise UserError(f"{source} is neither a tokenizer's folder or file nor a tiktoken encoding ({known})")


def _from_ranks(path: Path, pattern: str | None) -> Tokenizer:
    """The tokenizer of a plain file of ranks, without special tokens."""
    if pattern is None:
        raise UserError(
            f"{path} holds ranks and no split pattern; say --pattern {', '.join(NAMED)}, or a regular expression"
        )
    found = portable_pattern(pattern)
    check_covers(found)
    return Tokenizer(read_ranks(path), found.regex, {})
