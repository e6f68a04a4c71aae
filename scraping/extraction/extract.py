"""From a page's bytes to the text that a reader came for.

`extract` decodes a page once, cuts it into blocks of text, and keeps those that the source's extractor chooses:

- `auto` asks a model that was trained on pages of seven kinds (articles, forums, products, documentation …): the best
  choice for pages of unknown make;
- `article` asks trafilatura (Barbaresi, ACL 2021), made for news and blogs;
- `main` takes one container (a CSS selector): exact on sites whose template is known;
- `records` calls a Python class that reads structured records off the page, a course catalog for example.

All but `records` fall back to a more general container when they find nothing, and write the same layout, as text or
Markdown (`scraping.extraction.blocks`). Everything here is pure and may be slow or die on hostile input;
`scraping.extraction.sandbox` runs it in children with limits.
"""

from __future__ import annotations

import hashlib
import importlib
import inspect
import json
import re
from collections.abc import Iterable
from pathlib import Path
from typing import Annotated, Any, Literal, NamedTuple, Protocol

from pydantic import BaseModel, Field, TypeAdapter, field_validator
from selectolax.lexbor import LexborHTMLParser, SelectolaxError

from scraping.extraction.blocks.cut import Page, cut
from scraping.extraction.blocks.features import Head, read_head
from scraping.extraction.blocks.model import FILE as MODEL
from scraping.extraction.blocks.render import Format
from scraping.extraction.blocks.select import Judged, Selection, by_container, by_model, by_trafilatura, judge
from scraping.extraction.blocks.title import title_of
from scraping.extraction.charset import decode
from scraping.extraction.imports import own_files
from scraping.extraction.normalize import normalize
from scraping.extraction.sniff import is_binary, is_html, mime_type
from textmill.errors import UserError
from textmill.files import sha256


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
Extractor = Annotated[AutoExtractor | ArticleExtractor | MainExtractor | RecordsExtractor, Field(discriminator="kind")]
_EXTRACTOR: TypeAdapter[Extractor] = TypeAdapter(Extractor)


class RecordReader(Protocol):
    """What the class behind a `records` extractor offers."""

    def records(self, html: str, url: str) -> Iterable[dict[str, Any]]:
        """The records of one page: values that JSON can hold, and a key `id` that is unique within the source."""

    def title(self, record: dict[str, Any]) -> str:
        """One line that names the record."""

    def text(self, record: dict[str, Any]) -> str:
        """The record as prose for the corpus."""


class Extracted(NamedTuple):
    """One document of a page, its text not yet in normal form."""

    url: str  # the page's; for records with `#id` after it
    title: str
    text: str
    extractor: str  # which one gave the text: auto, article, main, body, plain, records
    record: dict[str, Any] | None = None


_CONTROL = re.compile(r"[\x00-\x08\x0b\x0e-\x1f\x7f]")


# --- extractors -------------------------------------------------------------------------------------------------------


def extract_page(body: bytes, url: str, content_type: str | None, extractor: dict[str, Any]) -> list[list[Any]]:
    """`extract` for the sandbox: everything but the body is JSON, and the texts come back in normal form."""
    documents = extract(body, url, content_type, _EXTRACTOR.validate_python(extractor))
    return [
        list(document._replace(title=normalize(document.title), text=normalize(document.text)))
        for document in documents
    ]


def extract(body: bytes, url: str, content_type: str | None, extractor: Extractor) -> list[Extracted]:
    """The documents of one page: one, none if the page has no text, or one per record.

    Args:
        body: the page as the server sent it, content encoding removed.
        url: where it was found.
        content_type: the server's header, if it sent one.
        extractor: how to read it.

    Raises:
        ValueError: the content is not text; the message is the reason.

    Example:
        >>> extract(b"<title>Hi</title><main>Hello, world.</main>", "http://a.example/", "text/html", MainExtractor())
        [Extracted(url='http://a.example/', title='Hi', text='Hello, world.', extractor='body', record=None)]
    """
    mime = mime_type(content_type)
    if is_binary(body):
        raise ValueError("binary content")
    if mime and not is_html(body, content_type):
        if mime == "text/plain":
            return [Extracted(url, "", decode(body, content_type), "plain")]
        raise ValueError(f"{mime} is not a text format")
    html = _html(body, content_type)
    if isinstance(extractor, RecordsExtractor):
        return list(_records(html, url, load_reader(extractor)))
    tree = LexborHTMLParser(html)
    selection = _select(html, tree, url, extractor)
    text = selection.text(extractor.format)
    return [Extracted(url, title_of(tree, url), text, selection.extractor)] if text else []


def explain(body: bytes, url: str, content_type: str | None, extractor: PageExtractor) -> list[Judged]:
    """Every piece of a page's text, whether the extractor keeps it, and why."""
    html = _html(body, content_type)
    tree = LexborHTMLParser(html)
    remove = extractor.remove if isinstance(extractor, MainExtractor) else []
    return judge(_select(html, tree, url, extractor), cut(tree), tree, remove)


def read_blocks(body: bytes, url: str, content_type: str | None) -> tuple[Page, Head]:
    """The blocks of a page, and what its head says, as the model is given them."""
    tree = LexborHTMLParser(_html(body, content_type))
    return cut(tree), read_head(tree, url)


def _html(body: bytes, content_type: str | None) -> str:
    return _CONTROL.sub("", decode(body, content_type))


def _select(html: str, tree: LexborHTMLParser, url: str, extractor: PageExtractor) -> Selection:
    """The blocks that an extractor keeps; where those are next to nothing, the blocks of a container."""
    selection = None
    match extractor:
        case AutoExtractor():
            page = cut(tree)
            selection = by_model(page, read_head(tree, url)) if page.blocks else None
        case ArticleExtractor():
            selection = by_trafilatura(html, cut(tree))
    if selection is not None and selection.is_enough():
        return selection
    container = extractor if isinstance(extractor, MainExtractor) else MainExtractor()
    return by_container(tree, container.selector, container.remove)


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


def _records(html: str, url: str, reader: RecordReader) -> Iterable[Extracted]:
    for record in reader.records(html, url):
        yield Extracted(f"{url}#{record['id']}", reader.title(record), reader.text(record), "records", record)
