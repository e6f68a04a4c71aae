"""A YAML file read into a pydantic model, and its mistakes told with file, line and what was probably meant."""

import difflib
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, get_args

import yaml
from pydantic import BaseModel
from pydantic_core import ErrorDetails

from scraping.errors import ScrapingError


def read_yaml(path: Path) -> tuple[dict[str, Any], yaml.Node | None]:
    """The mapping that a file holds, and its nodes, which know their lines. An empty file is an empty mapping.

    Raises:
        ScrapingError: the file cannot be read, is no YAML, or holds something else than `key: value` lines.
    """
    try:
        text = path.read_text("utf-8")
        document, tree = yaml.safe_load(text), yaml.compose(text, Loader=yaml.SafeLoader)
    except OSError as error:
        raise ScrapingError(f"{path}: {error.strerror}; give the path of a YAML file") from error
    except UnicodeDecodeError as error:
        raise ScrapingError(f"{path}: not a text file in UTF-8") from error
    except yaml.YAMLError as error:
        mark = getattr(error, "problem_mark", None)
        line = mark.line + 1 if mark else 1
        raise ScrapingError(f"{path}:{line}: not valid YAML ({getattr(error, 'problem', error)})") from error
    if not isinstance(document, dict | None):
        raise ScrapingError(f"{path}: a mapping of `key: value` lines is wanted, not a {type(document).__name__}")
    return document or {}, tree


def place_of(mistake: ErrorDetails, document: Mapping[str, Any]) -> tuple[str | int, ...]:
    """The keys that lead to a mistake as the file spells them: pydantic also names the variant of a union."""
    place: list[str | int] = []
    found: Any = document
    for part in mistake["loc"][:-1]:
        if (isinstance(found, Mapping) and part in found) or (isinstance(found, Sequence) and isinstance(part, int)):
            place.append(part)
            found = found[part]
    return (*place, *mistake["loc"][-1:])


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
        return f"{name}: unknown key{_suggestion(model, place)}"
    if mistake["type"] == "missing":
        described = model.model_fields[place[0]].description if len(place) == 1 else None
        return f"{name}: missing" + (f": {described}" if described else "")
    message = mistake["msg"].removeprefix("Value error, ")
    given = "" if isinstance(mistake["input"], dict | list) else f" (got {mistake['input']!r})"
    told = f"{message[0].lower() + message[1:]}{given}"
    return f"{name}: {told}" if name else told  # what several keys are to blame for has no name


def _suggestion(model: type[BaseModel], place: Sequence[str | int]) -> str:
    """The nearest valid key beside a wrong one, or else in another section of the model."""
    wrong, above = str(place[-1]), place[:-1]
    beside = list(_fields(model, above))
    if near := difflib.get_close_matches(wrong, beside, n=1):
        return f"; did you mean {'.'.join(map(str, (*above, near[0])))}?"
    elsewhere = {key: f"{section}.{key}" for section in model.model_fields for key in _fields(model, [section])}
    if near := difflib.get_close_matches(wrong, elsewhere, n=1):
        return f"; did you mean {elsewhere[near[0]]}?"
    return f"; known: {', '.join(beside)}"


def _fields(model: type[BaseModel], place: Sequence[str | int]) -> Iterator[str]:
    """Names of the fields of the model, or models, that `place` leads to."""
    if not place:
        yield from model.model_fields
    elif field := model.model_fields.get(str(place[0])):
        for candidate in (field.annotation, *get_args(field.annotation)):
            if isinstance(candidate, type) and issubclass(candidate, BaseModel):
                yield from _fields(candidate, place[1:])
