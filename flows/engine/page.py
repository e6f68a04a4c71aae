"""What a stage shows of its result: blocks that the Prefect UI draws as Markdown and the report as HTML."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass


@dataclass(frozen=True)
class Table:
    """Rows below a head; numbers are formatted by what draws them."""

    head: Sequence[str]
    rows: Sequence[Sequence[object]]


@dataclass(frozen=True)
class Bars:
    """Amounts by name, the greatest first, each with a bar that shows its share; nothing where all are 0."""

    title: str
    counts: Mapping[str, float]
    unit: str = ""


@dataclass(frozen=True)
class Text:
    """A paragraph."""

    text: str


@dataclass(frozen=True)
class Sample:
    """Text from a corpus or a model, shown as it is; `url` is where a document comes from."""

    title: str
    text: str
    url: str = ""


@dataclass(frozen=True)
class Tokens:
    """A text cut into tokens, each with its id."""

    title: str
    tokens: Sequence[tuple[str, int]]


@dataclass(frozen=True)
class Picture:
    """A figure as an SVG element."""

    title: str
    svg: str


Block = Table | Bars | Text | Sample | Tokens | Picture
