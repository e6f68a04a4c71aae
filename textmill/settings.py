"""Settings: YAML read into pydantic models, mistakes told with file, line and what was probably meant.

A field made by `execution_only` says how work is done (workers, log intervals, schedules) and cannot change what comes
out: it is in no fingerprint, and changing it rebuilds nothing. One made by `added` is in none at its default.
"""

from __future__ import annotations

import difflib
from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Annotated, Any, TypeVar, get_args, get_origin

import yaml
from pydantic import BaseModel, Field, ValidationError
from pydantic.fields import FieldInfo
from pydantic_core import ErrorDetails, PydanticUndefined

from textmill.errors import UserError

__all__ = [
    "added", "affects_output", "execution_only", "kind_names", "layered", "merged", "models_in", "output_settings",
    "read_settings", "read_yaml",
]  # fmt: skip

Model = TypeVar("Model", bound=BaseModel)

_EXECUTION_ONLY: dict[str, Any] = {"affects_output": False}


def execution_only(
    default: Any = PydanticUndefined,
    *,
    unless: str | None = None,
    json_schema_extra: dict[str, Any] | None = None,
    **arguments: Any,
) -> Any:
    """A pydantic `Field`, with the same arguments, whose value cannot change an output.

    Args:
        default: of the field.
        unless: a property of the model; where it is true, the value does change an output.
        json_schema_extra: as pydantic has it.
        **arguments: of the field.
    """
    extra = _EXECUTION_ONLY | ({"unless": unless} if unless else {})
    return Field(default, json_schema_extra=(json_schema_extra or {}) | extra, **arguments)


def added(default: Any, **arguments: Any) -> Any:
    """A pydantic `Field`, with the same arguments, whose default is what was done before there was the field: at its
    default it is in no fingerprint, so that what was built before is found again."""
    return Field(default, json_schema_extra={"silent_default": True}, **arguments)


def affects_output(field: FieldInfo) -> bool:
    """Whether a field's value can change an output: not if `execution_only` made it."""
    extra = field.json_schema_extra
    return not (isinstance(extra, dict) and extra.get("affects_output") is False)


def output_settings(model: BaseModel) -> dict[str, Any]:
    """The values, by name, of a model's own fields that can change an output; nested models stay models."""
    return {
        name: getattr(model, name)
        for name, field in type(model).model_fields.items()
        if (affects_output(field) or _affects_output_here(model, field))
        and not (_is_silent_at_default(field) and getattr(model, name) == field.default)
    }


def _is_silent_at_default(field: FieldInfo) -> bool:
    """Whether `added` made a field."""
    return isinstance(field.json_schema_extra, dict) and "silent_default" in field.json_schema_extra


def _affects_output_here(model: BaseModel, field: FieldInfo) -> bool:
    """Whether the value of a field that `execution_only` made changes an output of this model after all."""
    extra = field.json_schema_extra
    unless = extra.get("unless") if isinstance(extra, dict) else None
    return isinstance(unless, str) and bool(getattr(model, unless))


def merged(document: Mapping[str, Any], overrides: Mapping[str, Any]) -> dict[str, Any]:
    """`document` with `overrides` laid over it, key by key down to the leaves. An item of a list has its number, from
    0, as its key, which is a string; the only item needs none. A mapping without keys takes the place of what is there.

    Raises:
        UserError: an override is of a key, or a number, that a list does not have.

    Example:
        >>> merged({"a": [{"b": 1}, {"b": 2}]}, {"a": {"1": {"b": 3}}})
        {'a': [{'b': 1}, {'b': 3}]}
    """
    result = dict(document)
    for key, value in overrides.items():
        below = result.get(key)
        if isinstance(value, Mapping) and value and isinstance(below, list) and below:
            result[key] = _merged_items(key, below, value)
        elif isinstance(value, Mapping) and value:
            result[key] = merged(below if isinstance(below, dict) else {}, value)
        else:
            result[key] = value
    return result


def layered(earlier: Mapping[str, Any], later: Mapping[str, Any]) -> dict[str, Any]:
    """Overrides that do what `earlier` and then `later` do.

    Raises:
        UserError: `later` sets keys below a value, like {} or null, that `earlier` puts in place of what is there: one
            mapping cannot say both. Or as `merged` does.

    Example:
        >>> layered({"a": {"b": {}}}, {"a": {"c": 1}})
        {'a': {'b': {}, 'c': 1}}
    """
    _refuse_keys_below_values(earlier, later, ())
    return merged(earlier, later)


def _refuse_keys_below_values(earlier: Mapping[str, Any], later: Mapping[str, Any], place: tuple[str, ...]) -> None:
    for key, value in later.items():
        if key not in earlier or not (isinstance(value, Mapping) and value):
            continue
        given, here = earlier[key], (*place, str(key))
        if isinstance(given, Mapping) and given:
            _refuse_keys_below_values(given, value, here)
        elif not (isinstance(given, list) and given):
            name, below = ".".join(here), ".".join((*here, str(next(iter(value)))))
            shown = "null" if given is None else given
            raise UserError(
                f"{below}: another setting makes {name} {shown}, and the two cannot be given together; leave out one, "
                f"or write {name} into the file"
            )


def _merged_items(name: str, items: list[Any], overrides: Mapping[str, Any]) -> list[Any]:
    numbered = {str(number): item for number, item in enumerate(items)}
    overrides = {str(key): value for key, value in overrides.items()}  # YAML reads a number
    keys = {key: value for key, value in overrides.items() if not key.isdigit()}
    given = {key: value for key, value in overrides.items() if key.isdigit()}
    if keys and len(items) > 1:
        raise UserError(
            f"{name}.{min(keys)}: {name} is a list of {len(items)}, whose first item is {name}.0: write for example "
            f"{name}.0.{min(keys)}, or give the whole list"
        )
    if unknown := given.keys() - numbered.keys():
        last = f" to {name}.{len(items) - 1}" if len(items) > 1 else ""
        raise UserError(
            f"{name}.{min(unknown)}: there is no such item: {name} is a list of {len(items)}, {name}.0{last}; give the "
            "whole list to make it longer"
        )
    if keys:
        given = merged(given, {"0": keys})
    return [*merged(numbered, given).values()]


def read_settings(
    path: Path,
    model: type[Model],
    overrides: Mapping[str, Any] | None = None,
    context: Any = None,
    without: Iterable[str] = (),
    **defaults: Any,
) -> Model:
    """The model that a YAML file fills in.

    Args:
        path: the file.
        model: what its keys are.
        overrides: nested like the file, in place of what the file says.
        context: what the model's validators are to know, as `ValidationInfo.context`.
        without: dotted names of keys whose values in the file are left out.
        **defaults: top-level keys where neither says anything.

    Raises:
        UserError: a name of `without` is no key; the file cannot be read, or has mistakes: a line for each, with its
            place and the nearest valid key.
    """
    document, tree = read_yaml(path)
    overrides = overrides or {}
    for name in without:
        keys = name.split(".")
        if keys[-1] not in _fields(model, keys[:-1]):
            raise UserError(f"{name}: unknown key{_suggestion(model, keys, keys)}")
        document = _without(document, keys)
    settled = merged(defaults | document, overrides)
    try:
        return model.model_validate(settled, context=context)
    except ValidationError as error:
        lines = []
        for mistake in error.errors(include_url=False):
            place = place_of(mistake, settled)
            where = "setting" if overrides and _reaches(overrides, place) else f"{path}:{line_of(tree, place)}:"
            lines.append(f"{where} {explain(mistake, model, place)}")
        raise UserError("\n".join(lines)) from error


def _without(document: Mapping[str, Any], keys: Sequence[str]) -> dict[str, Any]:
    """A document that lacks the key that `keys` lead to.

    Raises:
        UserError: they lead into a list.
    """
    first, *below = keys
    if not below:
        return {key: value for key, value in document.items() if key != first}
    inner = document.get(first)
    if isinstance(inner, list):
        raise UserError(f"{first}.{'.'.join(below)}: {first} is a list, which can only be left out whole")
    return {**document, first: _without(inner, below)} if isinstance(inner, Mapping) else dict(document)


def _reaches(overrides: Mapping[str, Any], place: Sequence[str | int]) -> bool:
    """Whether the overrides reach as deep as `place`, or give the whole value that it lies in."""
    found: Any = overrides
    for key in place:
        if not isinstance(found, Mapping):
            return True
        if key == 0 and not any(str(name).isdigit() for name in found):
            continue  # the only item of a list, whose number an override may leave out
        if str(key) not in found:
            return False
        found = found[str(key)]
    return True


def read_yaml(path: Path) -> tuple[dict[str, Any], yaml.Node | None]:
    """The mapping that a file holds, and its nodes, which know their lines. An empty file is an empty mapping.

    Raises:
        UserError: the file cannot be read, is not YAML, or holds anything but `key: value` lines.
    """
    try:
        text = path.read_text("utf-8")
        document, tree = yaml.safe_load(text), yaml.compose(text, Loader=yaml.SafeLoader)
    except OSError as error:
        raise UserError(f"{path}: {error.strerror}; give the path of a YAML file") from error
    except UnicodeDecodeError as error:
        raise UserError(f"{path}: not a text file in UTF-8") from error
    except yaml.YAMLError as error:
        mark = getattr(error, "problem_mark", None)
        line = mark.line + 1 if mark else 1
        raise UserError(f"{path}:{line}: not valid YAML ({getattr(error, 'problem', error)})") from error
    if not isinstance(document, dict | None):
        raise UserError(f"{path}: a mapping of `key: value` lines is wanted, not a {type(document).__name__}")
    return document or {}, tree


def place_of(mistake: ErrorDetails, document: Mapping[str, Any]) -> tuple[str | int, ...]:
    """The keys that lead to a mistake as the file spells them: pydantic also names the variant of a union."""
    place: list[str | int] = []
    found: Any = document
    *above, last = mistake["loc"] or (None,)
    for part in above:
        is_key = isinstance(found, Mapping) and part in found
        if is_key or (isinstance(found, Sequence) and isinstance(part, int)):
            place.append(part)
            found = found[part]
    is_variant = (
        isinstance(found, Mapping) and last not in found and mistake["type"] not in ("missing", "extra_forbidden")
    )
    return (*place,) if last is None or is_variant else (*place, last)


def line_of(tree: yaml.Node | None, place: Sequence[str | int]) -> int:
    """Line (from 1) of the deepest node on the way to `place`."""
    line = tree.start_mark.line + 1 if tree else 1
    node = tree
    for part in place:
        if isinstance(node, yaml.MappingNode):
            pair = next(((key, value) for key, value in node.value if key.value == str(part)), None)
            if pair is None:
                break
            line, node = pair[0].start_mark.line + 1, pair[1]
        elif isinstance(node, yaml.SequenceNode) and isinstance(part, int) and part < len(node.value):
            node = node.value[part]
            line = node.start_mark.line + 1
        else:
            break
    return line


def explain(mistake: ErrorDetails, model: type[BaseModel], place: Sequence[str | int]) -> str:
    """`key: what is wrong`, with the nearest valid key for an unknown one."""
    name = ".".join(map(str, place))
    if mistake["type"] == "extra_forbidden":
        return f"{name}: unknown key{_suggestion(model, place, mistake['loc'])}"
    if mistake["type"] == "missing":
        described = model.model_fields[str(place[0])].description if len(place) == 1 else None
        return f"{name}: missing" + (f": {described}" if described else "")
    message = mistake["msg"].removeprefix("Value error, ")
    given = "" if isinstance(mistake["input"], dict | list) else f" (got {mistake['input']!r})"
    told = f"{message[0].lower() + message[1:]}{given}"
    return f"{name}: {told}" if name else told  # an error of the whole model has no key


def _suggestion(model: type[BaseModel], place: Sequence[str | int], loc: Sequence[str | int]) -> str:
    """The nearest valid key beside a wrong one, or else in another section of the model.

    Args:
        model: what was to be filled in.
        place: the keys that lead to the wrong one, as the file spells them.
        loc: the same as pydantic tells it, which also names the variant of a union.
    """
    wrong, above = str(place[-1]), place[:-1]
    beside = list(_fields(model, loc[:-1]))
    if wrong in _fields(model, above):
        return f" of this kind, though another has it; known: {', '.join(beside)}"
    if near := difflib.get_close_matches(wrong, beside, n=1):
        return f"; did you mean {'.'.join(map(str, (*above, near[0])))}?"
    elsewhere = {key: f"{section}.{key}" for section in model.model_fields for key in _fields(model, [section])}
    if near := difflib.get_close_matches(wrong, elsewhere, n=1):
        return f"; did you mean {elsewhere[near[0]]}?"
    return f"; known: {', '.join(beside)}"


def _fields(model: type[BaseModel], place: Sequence[str | int]) -> Iterator[str]:
    """Names of the fields of the model that `place` leads to; of all variants of a union where it names none."""
    keys = [part for part in place if isinstance(part, str)]  # an item of a list has the fields of the others
    if not keys:
        yield from model.model_fields
    elif field := model.model_fields.get(keys[0]):
        models = models_in(field.annotation)
        chosen = [candidate for candidate in models if keys[1:] and keys[1] in kind_names(candidate)]
        for candidate in chosen or models:
            yield from _fields(candidate, keys[2:] if chosen else keys[1:])


def kind_names(model: type[BaseModel]) -> tuple[Any, ...]:
    """What a variant of a union is called: the values of its `kind`."""
    kind = model.model_fields.get("kind")
    return get_args(kind.annotation) if kind else ()


def models_in(annotation: Any) -> list[type[BaseModel]]:
    """The models that an annotation names: `Model`, `Model | None`, or a choice of models."""
    parts = (annotation, *get_args(annotation))
    candidates = [get_args(part)[0] if get_origin(part) is Annotated else part for part in parts]
    return [candidate for candidate in candidates if isinstance(candidate, type) and issubclass(candidate, BaseModel)]
