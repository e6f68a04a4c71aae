"""A tokenizer to `tokenizer.json` and `tokenizer_config.json`."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import regex

from textmill.errors import UserError
from textmill.files import atomic_write
from tokenization.config import HIDDEN, bytes_of, check_special_names
from tokenization.hugging_face.schema import HUGGING_FACE, USAGE, characters_of
from tokenization.patterns import DIGITS, Kind, check_portable, passes_of
from tokenization.rules import TextRules
from tokenization.tokenizer import Tokenizer

__all__ = ["check_hugging_face", "write_hugging_face"]


def write_hugging_face(tokenizer: Tokenizer, path: Path) -> None:
    """Write `tokenizer.json` and `tokenizer_config.json` into a folder, for `AutoTokenizer.from_pretrained(folder)`.

    Raises:
        UserError: Hugging Face would give other ids.
    """
    check_hugging_face(tokenizer)
    path.mkdir(parents=True, exist_ok=True)
    for name, content in ((HUGGING_FACE, _tokenizer_json(tokenizer)), (USAGE, _tokenizer_config(tokenizer))):
        atomic_write(path / name, json.dumps(content, indent=1, ensure_ascii=False) + "\n")


def check_hugging_face(tokenizer: Tokenizer) -> None:
    """Check that a `tokenizer.json` of this tokenizer would give the same ids.

    Raises:
        UserError: it would not: the split pattern means other words there, or a special token cannot be told from text.
    """
    check_portable(tokenizer.pattern)
    if tokenizer.rules.prefix_space and tokenizer.pattern.kind != Kind.GPT2:
        raise UserError("Hugging Face puts a space before a text only where the split pattern is gpt2")
    check_special_names(tokenizer.found_tokens)
    for name in tokenizer.found_tokens.keys() - tokenizer.rules.late:
        if name.isascii() and tokenizer.rules.makes(name) and _is_one_token(name, tokenizer):
            raise UserError(
                f"Hugging Face would take text for the special token {name!r} where normalizing makes it of other text"
            )


def _is_one_token(name: str, tokenizer: Tokenizer) -> bool:
    """Whether Hugging Face makes one token of a text that is the name of a token, once that was not found in it."""
    if name.encode() in tokenizer.tokens or tokenizer.pattern.kind == Kind.PASSES:
        return True
    return bool(regex.fullmatch(tokenizer.pattern.regex, name))


def _tokenizer_config(tokenizer: Tokenizer) -> dict[str, Any]:
    usage = tokenizer.usage
    roles = usage.roles_of(tokenizer.special_tokens)
    config: dict[str, Any] = {
        "tokenizer_class": "PreTrainedTokenizerFast", "clean_up_tokenization_spaces": False, **roles,
    }  # fmt: skip
    if usage.max_length is not None:
        config["model_max_length"] = usage.max_length
    if usage.chat_template is not None:
        config["chat_template"] = (
            usage.chat_template
            if isinstance(usage.chat_template, str)
            else [{"name": name, "template": template} for name, template in usage.chat_template.items()]
        )
    if tokenizer.rules.prefix_space:
        config["add_prefix_space"] = True
    return config


def _tokenizer_json(tokenizer: Tokenizer) -> dict[str, Any]:
    """The content of a `tokenizer.json` that gives the same ids.

    Hugging Face merges listed pairs where tiktoken merges any two neighbors whose joined bytes are a token, so every
    way to cut a token in two is listed, in the order of the tokens' ranks.
    """
    tokens, found = tokenizer.tokens, tokenizer.found_tokens
    names = {token: characters_of(token) for token in tokens}
    merges = [
        [names[token[:cut]], names[token[cut:]]]
        for token in tokens
        for cut in range(1, len(token))
        if token[:cut] in tokens and token[cut:] in tokens
    ]
    vocab = {HIDDEN + name if (name := names[token]) in found else name: rank for token, rank in tokens.items()}
    return {
        "version": "1.0",
        "truncation": None,
        "padding": None,
        "added_tokens": [_added_token(name, tokenizer) for name in found],
        "normalizer": _normalizer(tokenizer.rules),
        "pre_tokenizer": _pre_tokenizer(tokenizer),
        "post_processor": tokenizer.usage.post_processor,
        "decoder": _decoder(found, hidden=any(names[token] in found for token in tokens)),
        "model": {
            "type": "BPE",
            "dropout": None,
            "unk_token": None,
            "continuing_subword_prefix": None,
            "end_of_word_suffix": None,
            "fuse_unk": False,
            "byte_fallback": False,
            "ignore_merges": True,
            "vocab": dict(sorted((vocab | found).items(), key=lambda item: item[1])),
            "merges": merges,
        },
    }


def _added_token(name: str, tokenizer: Tokenizer) -> dict[str, Any]:
    rules = tokenizer.rules
    return {
        "id": tokenizer.found_tokens[name],
        "content": name,
        "single_word": False,
        "lstrip": name in rules.lstrip,
        "rstrip": name in rules.rstrip,
        "normalized": name in rules.late,
        "special": name in tokenizer.special_tokens,
    }


def _normalizer(rules: TextRules) -> dict[str, Any] | None:
    steps = [
        {"type": "NFC"} if step == "NFC" else {"type": "Replace", "pattern": {"String": step[0]}, "content": step[1]}
        for step in rules.normalizers
    ]
    return {"type": "Sequence", "normalizers": steps} if len(steps) > 1 else next(iter(steps), None)


def _pre_tokenizer(tokenizer: Tokenizer) -> dict[str, Any]:
    """Words by the split pattern, then their bytes as characters.

    A space before a text is put by ByteLevel only, and before it cuts words by its own pattern, which is GPT-2's.
    """
    byte_level = {"type": "ByteLevel", "add_prefix_space": False, "trim_offsets": True, "use_regex": False}
    if tokenizer.rules.prefix_space:
        return byte_level | {"add_prefix_space": True, "use_regex": True}
    cuts = [_cut(expression) for expression in passes_of(tokenizer.pattern)]
    return {"type": "Sequence", "pretokenizers": [*cuts, byte_level]}


def _cut(expression: str) -> dict[str, Any]:
    if expression in (DIGITS, f"{DIGITS}+"):
        return {"type": "Digits", "individual_digits": expression == DIGITS}
    return {"type": "Split", "pattern": {"Regex": expression}, "behavior": "Isolated", "invert": False}


def _decoder(found: Mapping[str, int], *, hidden: bool) -> dict[str, Any]:
    """Bytes of characters, where a special token such as <|é|> would be taken for bytes, and hidden tokens are."""
    replaced = {HIDDEN: ""} if hidden else {}
    replaced |= {name: characters_of(name.encode()) for name in found if bytes_of(name) not in (None, name.encode())}
    byte_level = {"type": "ByteLevel", "add_prefix_space": True, "trim_offsets": True, "use_regex": True}
    if not replaced:
        return byte_level
    replace = [{"type": "Replace", "pattern": {"String": old}, "content": new} for old, new in replaced.items()]
    return {"type": "Sequence", "decoders": [*replace, byte_level]}
