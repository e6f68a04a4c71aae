"""The allow-list of what is read: a field that is not there, or has another value, is an error that names it."""

from __future__ import annotations

import json
from typing import Annotated, Any, Literal

from pydantic import AfterValidator, BaseModel, Discriminator, Field, Tag, ValidationError, model_validator

from tokenization.config import byte_characters

__all__ = [
    "HUGGING_FACE", "TEXT", "USAGE", "AddedToken", "ByteLevel", "ByteLevelDecoder", "Decoders", "Digits", "Model",
    "Normalizer", "Normalizers", "PostProcessor", "PreTokenizers", "Replace", "Split", "TokenizerJson", "Usage",
    "around_text", "characters_of", "first_mistake",
]  # fmt: skip

HUGGING_FACE = "tokenizer.json"
USAGE = "tokenizer_config.json"
TEXT = "…"  # where it stands among the tokens that are put around it


def characters_of(token: bytes) -> str:
    """The characters that stand for the bytes of a token."""
    table = byte_characters()
    return "".join(table[b] for b in token)


class _Exact(BaseModel, extra="forbid", strict=True):
    """A JSON object of which every field is known."""


def _must_be_off(value: bool) -> bool:
    if value:
        raise ValueError("only false can be read")
    return value


Off = Annotated[bool, AfterValidator(_must_be_off)]


class AddedToken(_Exact):
    id: int = Field(ge=0)
    content: str = Field(min_length=1)
    single_word: Off
    lstrip: bool
    rstrip: bool
    normalized: bool
    special: bool


# ---- normalizers


class Regex(_Exact):
    Regex: str


class String(_Exact):
    String: str


class Replace(_Exact):
    type: Literal["Replace"]
    pattern: String
    content: str


class Nfc(_Exact):
    type: Literal["NFC"]


class Normalizers(_Exact):
    type: Literal["Sequence"]
    normalizers: list[Normalizer]


Normalizer = Annotated[Nfc | Replace | Normalizers, Field(discriminator="type")]


# ---- pre-tokenizers


class Split(_Exact):
    type: Literal["Split"]
    pattern: Regex
    behavior: Literal["Isolated", "Removed"]
    invert: bool


class Digits(_Exact):
    type: Literal["Digits"]
    individual_digits: bool


class ByteLevel(_Exact):
    type: Literal["ByteLevel"]
    add_prefix_space: bool
    trim_offsets: bool  # of the positions in the text, not of ids
    use_regex: bool = True


class PreTokenizers(_Exact):
    type: Literal["Sequence"]
    pretokenizers: list[PreTokenizer]


PreTokenizer = Annotated[Split | Digits | ByteLevel | PreTokenizers, Field(discriminator="type")]


# ---- post-processors: they put tokens around a text, which `Tokenizer.encode` leaves to others


class _SpecialToken(_Exact):
    id: str
    type_id: int = Field(ge=0)


class _Sequence(_Exact):
    id: Literal["A", "B"]
    type_id: int = Field(ge=0)


class _SpecialTokenPiece(_Exact):
    SpecialToken: _SpecialToken


class _SequencePiece(_Exact):
    Sequence: _Sequence


class _TemplateToken(_Exact):
    id: str
    ids: list[Annotated[int, Field(ge=0)]]
    tokens: list[str]


def _piece_kind(piece: Any) -> str:
    return "SpecialToken" if isinstance(piece, dict) and "SpecialToken" in piece else "Sequence"


TemplatePiece = Annotated[
    Annotated[_SpecialTokenPiece, Tag("SpecialToken")] | Annotated[_SequencePiece, Tag("Sequence")],
    Discriminator(_piece_kind),
]


class TemplateProcessing(_Exact):
    type: Literal["TemplateProcessing"]
    single: list[TemplatePiece]
    pair: list[TemplatePiece]
    special_tokens: dict[str, _TemplateToken]

    @model_validator(mode="after")
    def _complete(self) -> TemplateProcessing:
        put = {piece.SpecialToken.id for piece in (*self.single, *self.pair) if isinstance(piece, _SpecialTokenPiece)}
        if missing := sorted(put - self.special_tokens.keys()):
            raise ValueError(f"special_tokens lacks {missing[0]!r}")
        if not any(isinstance(piece, _SequencePiece) for piece in self.single):
            raise ValueError("single leaves the text out")
        return self


TokenAndId = tuple[str, Annotated[int, Field(ge=0)]]


class BertProcessing(_Exact):
    type: Literal["BertProcessing"]
    sep: TokenAndId
    cls: TokenAndId


class RobertaProcessing(_Exact):
    type: Literal["RobertaProcessing"]
    sep: TokenAndId
    cls: TokenAndId
    trim_offsets: bool
    add_prefix_space: bool


class ByteLevelProcessing(ByteLevel):
    """It changes no ids."""


class PostProcessors(_Exact):
    type: Literal["Sequence"]
    processors: list[PostProcessor]


PostProcessor = Annotated[
    PostProcessors | TemplateProcessing | BertProcessing | RobertaProcessing | ByteLevelProcessing,
    Field(discriminator="type"),
]


def around_text(processor: PostProcessor) -> str:
    """What a post-processor makes of one text, which is TEXT.

    Example:
        >>> around_text(BertProcessing(type="BertProcessing", sep=("</s>", 2), cls=("<s>", 1)))
        '<s> … </s>'
    """
    match processor:
        case TemplateProcessing():
            put = {name: " ".join(token.tokens) for name, token in processor.special_tokens.items()}
            return " ".join(
                put[piece.SpecialToken.id] if isinstance(piece, _SpecialTokenPiece) else TEXT
                for piece in processor.single
            )
        case BertProcessing() | RobertaProcessing():
            return f"{processor.cls[0]} {TEXT} {processor.sep[0]}"
        case PostProcessors():
            made = TEXT
            for step in processor.processors:
                made = around_text(step).replace(TEXT, made)
            return made
    return TEXT


# ---- decoders


class ByteLevelDecoder(ByteLevel):
    """Its `add_prefix_space` means nothing."""


class Decoders(_Exact):
    type: Literal["Sequence"]
    decoders: list[Annotated[Replace | ByteLevelDecoder, Field(discriminator="type")]]


# ---- the whole


class Model(_Exact):
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


class TokenizerJson(_Exact):
    """A `tokenizer.json`."""

    version: Literal["1.0"] = "1.0"
    truncation: None = None
    padding: None = None
    added_tokens: list[AddedToken] = []
    normalizer: Normalizer | None = None
    pre_tokenizer: PreTokenizer
    post_processor: PostProcessor | None = None
    decoder: Annotated[Decoders | ByteLevelDecoder, Field(discriminator="type")] | None = None
    model: Model


# ---- the files beside it


class _Role(BaseModel, strict=True):
    content: str


class _NamedTemplate(BaseModel, strict=True):
    name: str
    template: str


class _Flags(BaseModel, strict=True):
    content: str
    single_word: bool = False
    lstrip: bool = False
    rstrip: bool = False
    special: bool = False
    normalized: bool = Field(default_factory=lambda before: not before.get("special"))  # as in `AddedToken`


class Usage(BaseModel, strict=True, extra="allow"):
    """What is read of a `tokenizer_config.json` or `special_tokens_map.json`; they have much else, which is for
    `transformers` alone."""

    bos_token: str | _Role | None = None
    eos_token: str | _Role | None = None
    unk_token: str | _Role | None = None
    sep_token: str | _Role | None = None
    pad_token: str | _Role | None = None
    cls_token: str | _Role | None = None
    mask_token: str | _Role | None = None
    add_prefix_space: bool | None = None
    added_tokens_decoder: dict[str, _Flags] = {}
    chat_template: str | list[_NamedTemplate] | None = None
    model_max_length: int | float | None = None
    additional_special_tokens: list[str | _Role] | None = None
    extra_special_tokens: list[str | _Role] | dict[str, str | _Role] | None = None
    padding_side: str | None = "right"
    truncation_side: str | None = "right"
    clean_up_tokenization_spaces: bool | None = False
    split_special_tokens: bool | None = False

    def more_tokens(self) -> list[tuple[str, str]]:
        """The tokens without a role that `transformers` adds if need be, each with the field that names it."""
        fields: dict[str, list[str | _Role]] = {
            name: [token]
            for name, token in (self.model_extra or {}).items()
            if name.endswith("_token") and isinstance(token, str)
        }
        fields["additional_special_tokens"] = self.additional_special_tokens or []
        extra = self.extra_special_tokens or []
        fields["extra_special_tokens"] = list(extra.values()) if isinstance(extra, dict) else extra
        return [
            (field, token.content if isinstance(token, _Role) else token)
            for field, tokens in fields.items()
            for token in tokens
        ]

    def left_behind(self) -> list[str]:
        """The fields with a value that is not the usual one and has no place in a tokenizer of ours."""
        names = ("additional_special_tokens", "extra_special_tokens", "padding_side", "truncation_side",
                 "clean_up_tokenization_spaces", "split_special_tokens")  # fmt: skip
        return [name for name in names if (value := getattr(self, name)) and value != "right"]

    def role(self, name: str) -> str | None:
        """The token that has a role."""
        token = getattr(self, name)
        return token.content if isinstance(token, _Role) else token

    def templates(self) -> str | dict[str, str] | None:
        """The template of conversations, or several by name."""
        if isinstance(self.chat_template, list):
            return {named.name: named.template for named in self.chat_template}
        return self.chat_template


def first_mistake(error: ValidationError) -> str:
    """The first mistake that a check of JSON found, as what follows the name of the file."""
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
