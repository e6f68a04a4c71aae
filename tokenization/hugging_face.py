"""Hugging Face's `tokenizer.json`, written and read: the ids are the same on both sides, or the file is refused.

- The classes below are the allow-list of what is read: a field that is not there, or has another value, is an error
  that names it.
- Hugging Face ignores the `id` of an added token. It takes the one of the vocabulary, or else numbers on from the
  vocabulary's size. So special tokens are written into the vocabulary, where they may lie anywhere.
- A vocabulary has one id for a string. A learned token whose string is a special token too is written with `HIDDEN`
  before it. Text never makes that token, for the special token is taken out first; the decoder removes the mark.
"""

from __future__ import annotations

import itertools
import json
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Annotated, Any, Literal, NamedTuple

from pydantic import AfterValidator, BaseModel, Field, ValidationError

from textmill.errors import UserError
from textmill.files import atomic_write
from tokenization.config import END_OF_TEXT, HIDDEN, byte_characters, bytes_of, check_special_names
from tokenization.patterns import NAMED, Pattern, check_covers, check_portable, oniguruma_pattern
from tokenization.tokenizer import Tokenizer

__all__ = ["HUGGING_FACE", "check_hugging_face", "from_hugging_face", "write_hugging_face"]

HUGGING_FACE = "tokenizer.json"
ROLES = "tokenizer_config.json"
VERSION_LINE = "#version: 0.2"  # of GPT-2's file of merges, which Hugging Face skips where it came along


def _characters(token: bytes) -> str:
    table = byte_characters()
    return "".join(table[b] for b in token)


# ---- writing


def write_hugging_face(tokenizer: Tokenizer, path: Path) -> None:
    """Write `tokenizer.json` and `tokenizer_config.json` into a folder, for `AutoTokenizer.from_pretrained(folder)`.

    Raises:
        UserError: Hugging Face would give other ids.
    """
    check_hugging_face(tokenizer)
    path.mkdir(parents=True, exist_ok=True)
    for name, content in ((HUGGING_FACE, _tokenizer_json(tokenizer)), (ROLES, _roles(tokenizer))):
        atomic_write(path / name, json.dumps(content, indent=1, ensure_ascii=False) + "\n")


def check_hugging_face(tokenizer: Tokenizer) -> None:
    """Check that a `tokenizer.json` of this tokenizer would give the same ids.

    Raises:
        UserError: it would not: the split pattern means other words there, or a special token cannot be told from text.
    """
    check_portable(tokenizer.pattern)
    check_special_names(tokenizer.special_tokens)


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


def _tokenizer_json(tokenizer: Tokenizer) -> dict[str, Any]:
    """The content of a `tokenizer.json` that gives the same ids.

    Hugging Face merges listed pairs where tiktoken merges any two neighbors whose joined bytes are a token, so every
    way to cut a token in two is listed, in the order of the tokens' ranks.
    """
    tokens, special = tokenizer.tokens, tokenizer.special_tokens
    names = {token: _characters(token) for token in tokens}
    merges = [
        [names[token[:cut]], names[token[cut:]]]
        for token in tokens
        for cut in range(1, len(token))
        if token[:cut] in tokens and token[cut:] in tokens
    ]
    vocab = {HIDDEN + name if (name := names[token]) in special else name: rank for token, rank in tokens.items()}
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
            for name, token_id in special.items()
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
        "decoder": _decoder(special, hidden=any(names[token] in special for token in tokens)),
        "model": {
            "type": "BPE",
            "dropout": None,
            "unk_token": None,
            "continuing_subword_prefix": None,
            "end_of_word_suffix": None,
            "fuse_unk": False,
            "byte_fallback": False,
            "ignore_merges": True,
            "vocab": dict(sorted((vocab | special).items(), key=lambda item: item[1])),
            "merges": merges,
        },
    }


def _decoder(special: Mapping[str, int], *, hidden: bool) -> dict[str, Any]:
    """Bytes of characters, where a special token such as <|é|> would be taken for bytes, and hidden tokens are."""
    replaced = {HIDDEN: ""} if hidden else {}
    replaced |= {name: _characters(name.encode()) for name in special if bytes_of(name) not in (None, name.encode())}
    byte_level = {"type": "ByteLevel", "add_prefix_space": True, "trim_offsets": True, "use_regex": True}
    if not replaced:
        return byte_level
    replace = [{"type": "Replace", "pattern": {"String": old}, "content": new} for old, new in replaced.items()]
    return {"type": "Sequence", "decoders": [*replace, byte_level]}


# ---- what can be read


class _Exact(BaseModel, extra="forbid", strict=True):
    """A JSON object of which every field is known."""


def _must_be_off(value: bool) -> bool:
    if value:
        raise ValueError("only false can be read")
    return value


_Off = Annotated[bool, AfterValidator(_must_be_off)]


class _AddedToken(_Exact):
    id: int = Field(ge=0)
    content: str = Field(min_length=1)
    single_word: _Off
    lstrip: _Off
    rstrip: _Off
    normalized: bool
    special: bool


class _Regex(_Exact):
    Regex: str


class _String(_Exact):
    String: str


class _Split(_Exact):
    type: Literal["Split"]
    pattern: _Regex
    behavior: Literal["Isolated", "Removed"]
    invert: bool


class _ByteLevel(_Exact):
    type: Literal["ByteLevel"]
    add_prefix_space: _Off
    trim_offsets: bool  # of the positions in the text, not of ids
    use_regex: bool = True


class _ByteLevelDecoder(_ByteLevel):
    add_prefix_space: bool  # it means nothing to a decoder or post-processor


class _PreTokenizers(_Exact):
    type: Literal["Sequence"]
    pretokenizers: list[Annotated[_Split | _ByteLevel, Field(discriminator="type")]]


class _Replace(_Exact):
    type: Literal["Replace"]
    pattern: _String
    content: str


class _Decoders(_Exact):
    type: Literal["Sequence"]
    decoders: list[Annotated[_Replace | _ByteLevelDecoder, Field(discriminator="type")]]


class _PostProcessors(_Exact):
    type: Literal["Sequence"]
    processors: list[_ByteLevelDecoder]


class _Normalizers(_Exact):
    type: Literal["Sequence"]
    normalizers: list[Any] = Field(max_length=0)


class _Model(_Exact):
    type: Literal["BPE"] = "BPE"
    dropout: Annotated[float, Field(ge=0, le=0)] | None = None
    unk_token: str | None = None  # of characters that are not in the vocabulary: here all are
    continuing_subword_prefix: Literal[""] | None = None
    end_of_word_suffix: Literal[""] | None = None
    fuse_unk: bool = False  # the same
    byte_fallback: bool = False  # the same
    ignore_merges: bool | None = None
    vocab: dict[str, Annotated[int, Field(ge=0)]]
    merges: list[str] | list[Annotated[list[str], Field(min_length=2, max_length=2)]]


class _TokenizerJson(_Exact):
    version: Literal["1.0"] = "1.0"
    truncation: None = None
    padding: None = None
    added_tokens: list[_AddedToken] = []
    normalizer: _Normalizers | None = None
    pre_tokenizer: Annotated[_PreTokenizers | _ByteLevel, Field(discriminator="type")]
    post_processor: Annotated[_PostProcessors | _ByteLevelDecoder, Field(discriminator="type")] | None = None
    decoder: Annotated[_Decoders | _ByteLevelDecoder, Field(discriminator="type")] | None = None
    model: _Model


# ---- reading


def from_hugging_face(path: Path) -> Tokenizer:
    """The tokenizer of a byte-level BPE `tokenizer.json`: `encode(text, allowed_special="all")` gives the ids that
    Hugging Face gives.

    Raises:
        UserError: it cannot be read, or Hugging Face does with it what this tokenizer does not (the message names the
            field).
    """
    try:
        content = _TokenizerJson.model_validate_json(path.read_bytes())
    except OSError as error:
        raise UserError(f"{path} cannot be read: {error.strerror}; give a folder with {HUGGING_FACE}") from None
    except ValidationError as error:
        raise UserError(f"{path}{_first_mistake(error)}; only byte-level BPE without additions can be read") from None
    try:
        vocabulary = _vocabulary(content)
        _check_merges(content.model, vocabulary.tokens)
        _check_decoder(content.decoder, vocabulary.special)
        pattern = _split_pattern(content.pre_tokenizer)
        check_covers(pattern)
        tokenizer = Tokenizer(vocabulary.tokens, pattern.regex, vocabulary.special)
    except UserError as error:
        raise UserError(f"{path}: {error}") from None
    return tokenizer


def _first_mistake(error: ValidationError) -> str:
    first = error.errors(include_url=False)[0]
    if first["type"] == "json_invalid":
        return f" is not JSON ({first['msg']})"
    field = ".".join(map(str, first["loc"])) or "the content"
    if first["type"] in ("missing", "extra_forbidden"):
        return f": the field {field} is {'missing' if first['type'] == 'missing' else 'unknown'}"
    message = first["msg"].removeprefix("Value error, ")
    return f": {field} is {_shortened(first['input'])}: {message[:1].lower()}{message[1:]}"


def _shortened(value: Any) -> str:
    text = json.dumps(value, ensure_ascii=False, default=str)
    return text if len(text) <= 60 else f"{text[:57]}..."


class _Vocabulary(NamedTuple):
    tokens: dict[bytes, int]
    special: dict[str, int]


def _vocabulary(content: _TokenizerJson) -> _Vocabulary:
    vocab = content.model.vocab
    special = _special_tokens(content.added_tokens, vocab)
    tokens: dict[bytes, int] = {}
    for name, token_id in vocab.items():
        if name in special:
            continue
        hidden = name[:1] == HIDDEN and name[1:] in special
        token = bytes_of(name[1:] if hidden else name)
        if not token:
            raise UserError(f"model.vocab has {name!r}, which does not stand for bytes; it is not byte-level BPE")
        tokens[token] = token_id
    return _Vocabulary(tokens, special)


def _special_tokens(added: list[_AddedToken], vocab: Mapping[str, int]) -> dict[str, int]:
    """The added tokens with the ids that Hugging Face gives them."""
    special: dict[str, int] = {}
    free, dense = len(vocab), max(vocab.values(), default=-1) < len(vocab)
    for token in added:
        if token.content in special:
            raise UserError(f"added_tokens has {token.content!r} twice")
        given = vocab.get(token.content)
        if given is None:
            if not dense:
                raise UserError(f"added_tokens: {token.content!r} is not in model.vocab, whose ids have gaps")
            given, free = free, free + 1
        if token.id != given:
            raise UserError(f"added_tokens: {token.content!r} has the id {token.id}, but Hugging Face gives it {given}")
        special[token.content] = given
    check_special_names(special)
    early = [token.content for token in added if not token.normalized]
    late = [token.content for token in added if token.normalized]
    for first, second in itertools.product(early, late):  # Hugging Face looks for these one after the other
        if _overlap(first, second):
            raise UserError(f"added_tokens: {first!r} and {second!r} overlap and differ in normalized")
    return special


def _overlap(a: str, b: str) -> bool:
    """Whether a text can have a place that belongs to both."""
    ends = range(1, min(len(a), len(b)))
    return a in b or b in a or any(a[-n:] == b[:n] or b[-n:] == a[:n] for n in ends)


def _check_merges(model: _Model, tokens: Mapping[bytes, int]) -> None:
    """Check that the listed merges are those that the ids alone decide.

    Merging by rank makes a token always of the same two: the last that merging its own bytes arrives at
    (`kernels/vocabulary.py`). If these are listed, in the order of the ids, both ways merge the same.
    """
    listed = set()
    last = -1
    headed = model.merges[:1] == [VERSION_LINE]
    for merge in model.merges[headed:]:
        pair = _merged(merge)
        made = tokens.get(b"".join(pair), -1)
        if len(pair) != 2 or made < 0 or any(part not in tokens for part in pair):
            raise UserError(f"model.merges has {merge!r}, which is not two tokens of model.vocab that make a third")
        if made < last:
            raise UserError(f"model.merges at {merge!r} has another order than the ids, so they do not decide the rank")
        last = made
        listed.add(pair)
    for token in tokens:
        if len(token) > 1:
            parts = _last_parts(token, tokens)
            unreachable = len(parts) > 2
            if parts not in listed and not (unreachable and model.ignore_merges):
                raise UserError(f"model.vocab has {_characters(token)!r}, which model.merges does not make")


def _merged(merge: str | list[str]) -> tuple[bytes, ...]:
    parts = merge.split(" ") if isinstance(merge, str) else merge
    return tuple(bytes_of(part) or b"" for part in parts)


def _last_parts(token: bytes, tokens: Mapping[bytes, int]) -> tuple[bytes, ...]:
    """The parts that merging the bytes of a token arrives at before they are the token: two if they can make it."""
    parts = [token[i : i + 1] for i in range(len(token))]
    none = len(tokens) + max(tokens.values())
    while len(parts) > 2:
        joined = [tokens.get(a + b, none) for a, b in itertools.pairwise(parts)]
        lowest = min(joined)
        if lowest == none:
            break
        at = joined.index(lowest)
        parts[at : at + 2] = [parts[at] + parts[at + 1]]
    return tuple(parts)


def _check_decoder(decoder: _Decoders | _ByteLevelDecoder | None, special: Mapping[str, int]) -> None:
    """Check that a sequence of decoders is one that `_decoder` makes."""
    if isinstance(decoder, _Decoders):
        *replaced, last = decoder.decoders
        for step in replaced:
            if isinstance(step, _Replace):
                expected = {HIDDEN: ""} | {name: _characters(name.encode()) for name in special}
                if expected.get(step.pattern.String) == step.content:
                    continue
            raise UserError("decoder changes the text of tokens")
        if not isinstance(last, _ByteLevelDecoder):
            raise UserError("decoder does not end with ByteLevel")


def _split_pattern(pre_tokenizer: _PreTokenizers | _ByteLevel) -> Pattern:
    match list(_steps(pre_tokenizer)):
        case [_ByteLevel(use_regex=True)]:
            return NAMED["gpt2"]
        case [_Split(behavior="Removed", invert=False), _ByteLevel()]:
            raise UserError("pre_tokenizer: a Split of behavior Removed takes text away")
        case [_Split() as split, _ByteLevel(use_regex=False)]:
            return oniguruma_pattern(split.pattern.Regex)
    raise UserError(
        "pre_tokenizer splits text otherwise than by one pattern: a Split and ByteLevel, or ByteLevel alone"
    )


def _steps(pre_tokenizer: _PreTokenizers | _ByteLevel) -> Iterator[_Split | _ByteLevel]:
    if isinstance(pre_tokenizer, _PreTokenizers):
        yield from pre_tokenizer.pretokenizers
    else:
        yield pre_tokenizer
