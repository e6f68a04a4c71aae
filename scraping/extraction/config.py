"""What a source says about how its pages are read. Without the libraries that read them, so that it is read at once."""

from __future__ import annotations

import hashlib
import importlib
import inspect
import json
from collections.abc import Iterable
from pathlib import Path
from typing import Annotated, Any, Literal, Protocol

from pydantic import BaseModel, Field, field_validator
from selectolax.lexbor import LexborHTMLParser, SelectolaxError

from textmill.errors import UserError
from textmill.files import sha256
from textmill.imports import own_files

MODEL = Path(__file__).parent / "blocks" / "model.npz"  # what `auto` asks

Format = Literal["text", "markdown"]


def _checked_selector(selector: str) -> str:
    try:
        LexborHTMLParser("<p>").css(selector)
    except SelectolaxError as error:
        raise ValueError(f"{selector!r} is not a CSS selector: write one such as 'main' or 'div.content'") from error
    return selector


class _PageExtractor(BaseModel, extra="forbid"):
    format: Format = Field("text", description="How the text is written: text, or markdown with headings, tables, code")


class AutoExtractor(_PageExtractor):
    """Find the page's own text by a model of seven kinds of pages."""

    kind: Literal["auto"] = "auto"


class ArticleExtractor(_PageExtractor):
    """Find the main text by its looks (trafilatura, fast mode)."""

    kind: Literal["article"] = "article"


class MainExtractor(_PageExtractor):
    """Take the text of the container that a CSS selector finds."""

    kind: Literal["main"] = "main"
    selector: str = Field("main", description="CSS selector of the element or elements that hold the page's own text")
    remove: list[str] = Field([], description="CSS selectors of what to leave out inside the container")

    @field_validator("selector")
    @classmethod
    def _selector(cls, selector: str) -> str:
        return _checked_selector(selector)

    @field_validator("remove")
    @classmethod
    def _remove(cls, selectors: list[str]) -> list[str]:
        return [_checked_selector(selector) for selector in selectors]


class RecordsExtractor(BaseModel, extra="forbid"):
    """Read structured records with a Python class that offers what `RecordReader` describes."""

    kind: Literal["records"] = "records"
    reader: str = Field(
        description="Python path of the class, as in scraping.sources.umb_courses:CourseReader",
        pattern=r"^[A-Za-z_][\w.]*:[A-Za-z_]\w*$",
    )


PageExtractor = AutoExtractor | ArticleExtractor | MainExtractor
AnyPageExtractor = Annotated[AutoExtractor | ArticleExtractor | MainExtractor, Field(discriminator="kind")]
Extractor = Annotated[AutoExtractor | ArticleExtractor | MainExtractor | RecordsExtractor, Field(discriminator="kind")]


class RecordReader(Protocol):
    """What the class behind a `records` extractor offers."""

    def records(self, html: str, url: str) -> Iterable[dict[str, Any]]:
        """The records of one page: values that JSON can hold, and a key `id` that is unique within the source."""

    def title(self, record: dict[str, Any]) -> str:
        """One line that names the record."""

    def text(self, record: dict[str, Any]) -> str:
        """The record as prose for the corpus."""


def load_reader(extractor: RecordsExtractor) -> RecordReader:
    """The record reader that the source's declaration names.

    Raises:
        UserError: there is none by that name, or it cannot be imported or made.
    """
    module, _, name = extractor.reader.partition(":")
    try:
        return getattr(importlib.import_module(module), name)()
    except Exception as error:  # whatever a user's own code may raise
        place = " Python looks in installed packages and in the folders of PYTHONPATH."
        raise UserError(
            f"no record reader {extractor.reader} ({type(error).__name__}: {error}): correct `reader` in the source, or"
            f" the class.{place if isinstance(error, ModuleNotFoundError) else ''}"
        ) from error


def model_digest() -> str:
    """SHA-256 of the model that `auto` asks: another model reads pages anew."""
    return hashlib.sha256(MODEL.read_bytes()).hexdigest()


def reader_digest(extractor: RecordsExtractor) -> str:
    """SHA-256 of the code that reads: of the file that the reader's class is in, or, where that imports other files of
    the user's, of the names and contents of all of them (`own_files` says which)."""
    reader = type(load_reader(extractor))
    files = own_files(extractor.reader.partition(":")[0], reader.__module__)
    files[reader.__module__] = Path(inspect.getfile(reader))
    digests = {name: sha256(file) for name, file in files.items()}
    if len(digests) == 1:
        return digests[reader.__module__]
    return hashlib.sha256(json.dumps(digests, sort_keys=True).encode()).hexdigest()
