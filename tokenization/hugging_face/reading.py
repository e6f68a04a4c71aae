"""A `tokenizer.json`, and what lies beside it, to a tokenizer."""

from __future__ import annotations

import itertools
import json
import logging
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import TypeVar

from pydantic import BaseModel, TypeAdapter, ValidationError

import tokenization.hugging_face.schema as schema
from textmill.errors import UserError
from tokenization.config import HIDDEN, bytes_of, check_special_names
from tokenization.hugging_face.schema import USAGE, characters_of, first_mistake
from tokenization.patterns import DIGITS, NAMED, Pattern, check_covers, in_passes, oniguruma_pattern
from tokenization.rules import ROLES, UNTOLD, Normalizer, TextRules, Usage, overlap
from tokenization.tokenizer import Tokenizer

__all__ = ["from_hugging_face", "tokens_around"]

logger = logging.getLogger(__name__)

VERSION_LINE = "#version: 0.2"  # of GPT-2's file of merges, which Hugging Face skips where it came along
ROLES_FILE = "special_tokens_map.json"
TEMPLATE_FILE = "chat_template.jinja"
TEMPLATES_FOLDER = "additional_chat_templates"
NO_TOKEN = 1 << 62  # above all ids
LONGEST = 1 << 40  # transformers writes 10^30 for a model that takes texts of any length

Content = TypeVar("Content", bound=BaseModel)


def from_hugging_face(path: Path) -> Tokenizer:
    """The tokenizer of a byte-level BPE `tokenizer.json`: `encode(text, allowed_special="all")` gives the ids that
    Hugging Face gives without the tokens that its post-processor puts around a text.

    Raises:
        UserError: it cannot be read, or Hugging Face does with it what this tokenizer does not (the message names the
            field).
    """
    content = _read(path, schema.TokenizerJson)
    try:
        found = _found_tokens(content.added_tokens, content.model.vocab)
        rules = _rules(content)
        tokens = _learned_tokens(content.model.vocab, found)
        _check_merges(content.model, tokens)
        _check_decoder(content.decoder, found)
        pattern = _split_pattern(content.pre_tokenizer)
        check_covers(pattern)
        special = {name: i for name, i in found.items() if name not in rules.added_tokens}
        tokenizer = Tokenizer(tokens, pattern.regex, special, rules, _usage(path, content))
    except UserError as error:
        raise UserError(f"{path}: {error}") from None
    return tokenizer


def _read(path: Path, kind: type[Content]) -> Content:
    try:
        return kind.model_validate_json(path.read_bytes())
    except OSError as error:
        raise UserError(f"{path} cannot be read: {error.strerror}; give a folder with tokenizer.json") from None
    except ValidationError as error:
        raise UserError(f"{path}{first_mistake(error)}") from None


# ---- special and added tokens


def _found_tokens(added: list[schema.AddedToken], vocab: Mapping[str, int]) -> dict[str, int]:
    """The special and added tokens with the ids that Hugging Face gives them."""
    found: dict[str, int] = {}
    free, dense = len(vocab), max(vocab.values(), default=-1) < len(vocab)
    for token in added:
        if token.content in found:
            raise UserError(f"added_tokens has {token.content!r} twice")
        given = vocab.get(token.content)
        if given is None:
            if not dense:
                raise UserError(f"added_tokens: {token.content!r} is not in model.vocab, whose ids have gaps")
            given, free = free, free + 1
        if token.id != given:
            raise UserError(f"added_tokens: {token.content!r} has the id {token.id}, but Hugging Face gives it {given}")
        found[token.content] = given
    check_special_names(found)
    return found


def _rules(content: schema.TokenizerJson) -> TextRules:
    added = content.added_tokens
    rules = TextRules(
        added_tokens={token.content: token.id for token in added if not token.special},
        normalizers=tuple(_normalizers(content.normalizer)),
        late=frozenset(token.content for token in added if token.normalized),
        lstrip=frozenset(token.content for token in added if token.lstrip),
        rstrip=frozenset(token.content for token in added if token.rstrip),
        prefix_space=any(isinstance(s, schema.ByteLevel) and s.add_prefix_space for s in _steps(content.pre_tokenizer)),
    )
    for name in rules.late:
        if rules.normalize(name) != name:
            raise UserError(f"added_tokens: {name!r} is normalized, and the normalizer changes it")
    early = [token.content for token in added if not token.normalized]
    blanks_too = rules.lstrip or rules.rstrip  # a token may take the blanks that another consists of
    if rules.normalizers or any(blanks_too or overlap(a, b) for a in early for b in rules.late):
        return rules
    return rules.model_copy(update={"late": frozenset()})  # it does not matter when they are looked for


def _normalizers(normalizer: schema.Normalizer | None) -> Iterator[Normalizer]:
    if isinstance(normalizer, schema.Normalizers):
        for step in normalizer.normalizers:
            yield from _normalizers(step)
    elif isinstance(normalizer, schema.Replace):
        if not normalizer.pattern.String:
            raise UserError("normalizer: Replace has an empty pattern")
        yield normalizer.pattern.String, normalizer.content
    elif normalizer:
        yield "NFC"


# ---- learned tokens


def _learned_tokens(vocab: Mapping[str, int], found: Mapping[str, int]) -> dict[bytes, int]:
    tokens: dict[bytes, int] = {}
    for name, token_id in vocab.items():
        if name in found:
            continue
        hidden = name[:1] == HIDDEN and name[1:] in found
        token = bytes_of(name[1:] if hidden else name)
        if not token:
            raise UserError(f"model.vocab has {name!r}, which does not stand for bytes; it is not byte-level BPE")
        tokens[token] = token_id
    return tokens


def _check_merges(model: schema.Model, tokens: Mapping[bytes, int]) -> None:
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
            parts = tuple(last_parts(token, tokens))
            unreachable = len(parts) > 2
            if parts not in listed and not (unreachable and model.ignore_merges):
                raise UserError(f"model.vocab has {characters_of(token)!r}, which model.merges does not make")


def _merged(merge: str | list[str]) -> tuple[bytes, ...]:
    parts = merge.split(" ") if isinstance(merge, str) else merge
    return tuple(bytes_of(part) or b"" for part in parts)


def last_parts(token: bytes, tokens: Mapping[bytes, int], limit: int = NO_TOKEN) -> list[bytes]:
    """The parts that merging the bytes of a token arrives at before they are the token: two if they can make it.

    Args:
        token: of two bytes or more.
        tokens: token → id.
        limit: only tokens with ids below it are merged.
    """
    parts = [token[i : i + 1] for i in range(len(token))]
    while len(parts) > 2:
        joined = [tokens.get(a + b, limit) for a, b in itertools.pairwise(parts)]
        lowest = min(joined)
        if lowest >= limit:
            break
        at = joined.index(lowest)
        parts[at : at + 2] = [parts[at] + parts[at + 1]]
    return parts


def _check_decoder(decoder: schema.Decoders | schema.ByteLevelDecoder | None, special: Mapping[str, int]) -> None:
    """Check that a sequence of decoders is one that `_decoder` makes."""
    if isinstance(decoder, schema.Decoders):
        *replaced, last = decoder.decoders
        for step in replaced:
            if isinstance(step, schema.Replace):
                expected = {HIDDEN: ""} | {name: characters_of(name.encode()) for name in special}
                if expected.get(step.pattern.String) == step.content:
                    continue
            raise UserError("decoder changes the text of tokens")
        if not isinstance(last, schema.ByteLevelDecoder):
            raise UserError("decoder does not end with ByteLevel")


# ---- the split pattern


def _split_pattern(pre_tokenizer: schema.PreTokenizer) -> Pattern:
    steps = list(_steps(pre_tokenizer))
    if any(isinstance(step, schema.Split) and step.behavior == "Removed" and not step.invert for step in steps):
        raise UserError("pre_tokenizer: a Split of behavior Removed takes text away")
    match steps:
        case [schema.ByteLevel(use_regex=True)]:
            return NAMED["gpt2"]
        case [*_, schema.ByteLevel(add_prefix_space=True)]:
            raise UserError("pre_tokenizer: ByteLevel has add_prefix_space after a step that cuts words")
        case [schema.Split() as split, schema.ByteLevel(use_regex=False)]:
            return oniguruma_pattern(split.pattern.Regex)
        case [*cuts, schema.ByteLevel() as last] if cuts and not any(isinstance(s, schema.ByteLevel) for s in cuts):
            return in_passes([_pass(step) for step in (*cuts, *([last] if last.use_regex else []))])
    raise UserError("pre_tokenizer is not a number of Split and Digits and then ByteLevel, or ByteLevel alone")


def _steps(pre_tokenizer: schema.PreTokenizer) -> Iterator[schema.Split | schema.Digits | schema.ByteLevel]:
    if isinstance(pre_tokenizer, schema.PreTokenizers):
        for step in pre_tokenizer.pretokenizers:
            yield from _steps(step)
    else:
        yield pre_tokenizer


def _pass(step: schema.Split | schema.Digits | schema.ByteLevel) -> str:
    if isinstance(step, schema.ByteLevel):
        return NAMED["gpt2"].regex
    if isinstance(step, schema.Digits):
        return DIGITS if step.individual_digits else f"{DIGITS}+"
    if step.behavior == "Removed":
        raise UserError("pre_tokenizer: a Split of behavior Removed among other steps")
    return oniguruma_pattern(step.pattern.Regex).regex


# ---- what the tokens are for


def _usage(path: Path, content: schema.TokenizerJson) -> Usage:
    """What `tokenizer_config.json` and the other files beside the tokenizer tell."""
    post_processor = None
    if _adds_tokens(content.post_processor):
        post_processor = json.loads(path.read_bytes())["post_processor"]
    config, roles = path.parent / USAGE, path.parent / ROLES_FILE
    templates = _template_files(path.parent)
    if not config.is_file() and not roles.is_file():
        return Usage(post_processor=post_processor, chat_template=templates)
    told, mapped = (_read(file, schema.Usage) if file.is_file() else schema.Usage() for file in (config, roles))
    _check_config(told, content, config)
    named = {role: name for role in ROLES if (name := told.role(role) or mapped.role(role))}
    known = {token.content for token in content.added_tokens}
    for role, name in named.items():
        if name not in known:
            raise UserError(f"{role} in {config.name} is {name!r}, which is not among added_tokens")
    for file, kept in ((config, told), (roles, mapped)):
        for field, name in kept.more_tokens():
            if name not in known:
                raise UserError(f"{field} in {file.name} has {name!r}, which is not among added_tokens")
        if lost := kept.left_behind():
            logger.warning("%s: %s are not carried over", file, ", ".join(lost))
    longest = told.model_max_length or 0
    special = {token.content: token.id for token in content.added_tokens if token.special}
    return Usage(
        roles=None if named == UNTOLD.roles_of(special) else named,
        post_processor=post_processor,
        chat_template=templates or told.templates(),
        max_length=int(longest) if 1 <= longest < LONGEST else None,
    )


def tokens_around(usage: Usage) -> str | None:
    """What Hugging Face puts around one text, as "<s> … </s>", and `Tokenizer.encode` does not; None: nothing.

    Raises:
        UserError: the post-processor, of a `tokenizer.yaml`, is damaged.
    """
    if usage.post_processor is None:
        return None
    try:
        processor = TypeAdapter[schema.PostProcessor](schema.PostProcessor).validate_json(
            json.dumps(usage.post_processor)
        )
    except ValidationError as error:
        raise UserError(f"the tokenizer's post_processor is damaged{schema.first_mistake(error)}") from None
    around = schema.around_text(processor)
    return None if around == schema.TEXT else around


def _template_files(folder: Path) -> str | dict[str, str] | None:
    """The templates that lie beside a tokenizer as files, which go before those in its config."""
    files = {path.stem: path for path in sorted(folder.glob(f"{TEMPLATES_FOLDER}/*.jinja"))}
    if (folder / TEMPLATE_FILE).is_file():
        files = {"default": folder / TEMPLATE_FILE} | files
    templates = {}
    for name, path in files.items():
        try:
            templates[name] = path.read_text("utf-8")
        except (OSError, UnicodeDecodeError):
            raise UserError(f"{path} is not a text in UTF-8") from None
    return templates.get("default") if templates.keys() <= {"default"} else templates


def _adds_tokens(processor: schema.PostProcessor | None) -> bool:
    if isinstance(processor, schema.PostProcessors):
        return any(_adds_tokens(step) for step in processor.processors)
    return processor is not None and not isinstance(processor, schema.ByteLevelProcessing)


def _check_config(told: schema.Usage, content: schema.TokenizerJson, config: Path) -> None:
    """Check that `transformers` would not change what `tokenizer.json` says about tokens and text.

    Raises:
        UserError: it would.
    """
    pre_tokenizer = content.pre_tokenizer
    if isinstance(pre_tokenizer, schema.ByteLevel) and told.add_prefix_space == (not pre_tokenizer.add_prefix_space):
        raise UserError(f"pre_tokenizer.add_prefix_space is another than add_prefix_space in {config.name}")
    added = {token.content: token for token in content.added_tokens}
    flags = ("single_word", "lstrip", "rstrip", "special", "normalized")
    for number, token in told.added_tokens_decoder.items():
        place = f"added_tokens_decoder.{number} in {config.name}"
        if token.content not in added or str(added[token.content].id) != number:
            raise UserError(f"{place} is {token.content!r}, which is not among added_tokens with that id")
        for flag in flags:
            if getattr(token, flag) != getattr(added[token.content], flag):
                raise UserError(f"{place} has another {flag} than added_tokens has for {token.content!r}")
