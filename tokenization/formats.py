"""A tokenizer as files: what a tokenizer artifact and a checkpoint hold, and what Hugging Face and tiktoken read.

- `ranks.tiktoken`: a line for each token, base64 of its bytes and its rank; `tiktoken.load.load_tiktoken_bpe` reads it.
- `tokenizer.yaml`: the split pattern and the special tokens, which the ranks file lacks.
- `tokenizer.json`: the same for Hugging Face `tokenizers` and `transformers`, and `tokenizer_config.json`, which tells
  `transformers` what the special tokens are for.
"""

from __future__ import annotations

import json
from binascii import a2b_base64, b2a_base64
from collections.abc import Mapping
from functools import cache
from pathlib import Path
from typing import Any

import yaml

from textmill.errors import UserError
from textmill.files import atomic_write
from tokenization.config import END_OF_TEXT
from tokenization.tokenizer import Tokenizer

__all__ = [
    "HUGGING_FACE", "RANKS", "byte_characters", "load_tokenizer", "read_ranks", "save_tokenizer", "tokenizer_files",
    "write_hugging_face", "write_tiktoken",
]  # fmt: skip

RANKS = "ranks.tiktoken"
CONFIG = "tokenizer.yaml"
HUGGING_FACE = "tokenizer.json"
ROLES = "tokenizer_config.json"
FORMAT = "textmill-tokenizer 1"


def save_tokenizer(tokenizer: Tokenizer, path: Path) -> None:
    """Write all files into a folder, which is made if need be; their bytes depend on the tokenizer alone.

    Example:
        >>> save_tokenizer(tokenizer, Path("my-tokenizer"))  # doctest: +SKIP
        >>> load_tokenizer(Path("my-tokenizer")).encode("some text")  # doctest: +SKIP
    """
    write_tiktoken(tokenizer, path)
    write_hugging_face(tokenizer, path)


def write_tiktoken(tokenizer: Tokenizer, path: Path) -> None:
    """Write `ranks.tiktoken` and `tokenizer.yaml` into a folder."""
    path.mkdir(parents=True, exist_ok=True)
    _write_ranks(tokenizer.tokens, path / RANKS)
    config = {
        "format": FORMAT,
        "pattern": tokenizer.pattern.regex,
        "vocab_size": tokenizer.vocab_size,
        "special_tokens": dict(tokenizer.special_tokens),
    }
    text = yaml.safe_dump(config, sort_keys=False, allow_unicode=True, width=1 << 20)
    atomic_write(path / CONFIG, text)


def write_hugging_face(tokenizer: Tokenizer, path: Path) -> None:
    """Write `tokenizer.json` and `tokenizer_config.json` into a folder, for `AutoTokenizer.from_pretrained(folder)`."""
    path.mkdir(parents=True, exist_ok=True)
    for name, content in ((HUGGING_FACE, _hugging_face_json(tokenizer)), (ROLES, _roles(tokenizer))):
        atomic_write(path / name, json.dumps(content, indent=1, ensure_ascii=False) + "\n")


def _roles(tokenizer: Tokenizer) -> dict[str, Any]:
    roles = {
        "bos_token": END_OF_TEXT,
        "eos_token": END_OF_TEXT,
        "mask_token": "[MASK]",
        "sep_token": "[SEP]",
        "cls_token": "[CLS]",
        "pad_token": "[PAD]",
    }
    present = {role: name for role, name in roles.items() if name in tokenizer.special_tokens}
    return {"tokenizer_class": "PreTrainedTokenizerFast", "clean_up_tokenization_spaces": False, **present}


def load_tokenizer(path: Path) -> Tokenizer:
    """The tokenizer in a folder that holds `ranks.tiktoken` and `tokenizer.yaml`, such as an artifact or a checkpoint.

    Raises:
        UserError: a file is missing or damaged.
    """
    ranks, config = tokenizer_files(path)
    try:
        content = yaml.safe_load(config.read_text(encoding="utf-8"))
        pattern, special_tokens = content["pattern"], content["special_tokens"]
    except (yaml.YAMLError, KeyError, TypeError, UnicodeDecodeError):
        raise UserError(f"{config} is damaged; it needs the keys pattern and special_tokens") from None
    return Tokenizer(read_ranks(ranks), pattern, special_tokens)


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


# ---- tokenizer.json of Hugging Face


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


def _characters(token: bytes) -> str:
    table = byte_characters()
    return "".join(table[b] for b in token)


def _hugging_face_json(tokenizer: Tokenizer) -> dict[str, Any]:
    """The content of a `tokenizer.json` that gives the same ids.

    Hugging Face merges listed pairs where tiktoken merges any two neighbors whose joined bytes are a token, so every
    way to cut a token in two is listed, in the order of the tokens' ranks.
    """
    tokens = tokenizer.tokens
    names = {token: _characters(token) for token in tokens}
    merges = [
        [names[token[:cut]], names[token[cut:]]]
        for token in tokens
        for cut in range(1, len(token))
        if token[:cut] in tokens and token[cut:] in tokens
    ]
    return {
        "version": "1.0",
        "truncation": None,
        "padding": None,
        "added_tokens": [
            {
                "id": token_id,
                "content": name,
                "single_word": False,
                "lstrip": False,
                "rstrip": False,
                "normalized": False,
                "special": True,
            }
            for name, token_id in tokenizer.special_tokens.items()
        ],
        "normalizer": None,
        "pre_tokenizer": {
            "type": "Sequence",
            "pretokenizers": [
                {
                    "type": "Split",
                    "pattern": {"Regex": tokenizer.pattern.regex},
                    "behavior": "Isolated",
                    "invert": False,
                },
                {"type": "ByteLevel", "add_prefix_space": False, "trim_offsets": True, "use_regex": False},
            ],
        },
        "post_processor": None,
        "decoder": {"type": "ByteLevel", "add_prefix_space": True, "trim_offsets": True, "use_regex": True},
        "model": {
            "type": "BPE",
            "dropout": None,
            "unk_token": None,
            "continuing_subword_prefix": None,
            "end_of_word_suffix": None,
            "fuse_unk": False,
            "byte_fallback": False,
            "ignore_merges": True,
            "vocab": {names[token]: rank for token, rank in tokens.items()},
            "merges": merges,
        },
    }
