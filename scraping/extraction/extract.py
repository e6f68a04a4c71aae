"""From a page's bytes to the text that a reader came for.

`extract` decodes a page once and hands it to the extractor that its source names:

- `article` runs trafilatura (Barbaresi, ACL 2021): the best choice for news, blogs and pages of unknown make;
- `main` takes the text of one container (a CSS selector): exact on documentation and on sites whose template is known,
  where article extractors lose lists, tables and code;
- `records` calls a Python class that reads structured records off the page, a course catalog for example.

`article` and `main` fall back to a more general container when they find nothing. Everything here is pure and may be
slow or die on hostile input; `scraping.extraction.sandbox` runs it in children with limits.
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

import lxml.html
from pydantic import BaseModel, Field, TypeAdapter, field_validator
from selectolax.lexbor import LexborHTMLParser, LexborNode, SelectolaxError

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


class ArticleExtractor(BaseModel, extra="forbid"):
    """Find the main text by its looks (trafilatura, fast mode)."""

    kind: Literal["article"] = "article"


class MainExtractor(BaseModel, extra="forbid"):
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


Extractor = Annotated[ArticleExtractor | MainExtractor | RecordsExtractor, Field(discriminator="kind")]
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
    extractor: str  # which one gave the text: article, main, body, plain, records
    record: dict[str, Any] | None = None


# --- text of an element -----------------------------------------------------------------------------------------------

_ALWAYS_REMOVED = [
    "head", "script", "style", "noscript", "template", "iframe", "object", "canvas", "svg",
    "nav", "footer", "dialog", "button", "select", "input", "textarea",
    "[hidden]", "[aria-hidden=true]", "[role=navigation]", "[role=search]",
    ".headerlink",  # the ¶ that Sphinx puts behind every heading
]  # fmt: skip
_AROUND_THE_TEXT = ["header", "aside", "form", "[role=banner]", "[role=contentinfo]", "[role=complementary]"]
_USUAL_CONTAINERS = ["main", "[role=main]", "article", "#content", "#main"]

_PARAGRAPHS = "p, h1, h2, h3, h4, h5, h6, ul, ol, dl, table, blockquote, figure, section, article, hr, form, fieldset"
_LINES = "address, aside, caption, dd, details, div, dt, figcaption, footer, header, legend, li, main, nav, summary, tr"

# Marks that stand for layout while runs of white space are collapsed; control characters do not occur in HTML text.
_LINE, _PARAGRAPH, _BULLET, _PRE_NEWLINE, _PRE_SPACE = "\x1e", "\x1d", "\x1b", "\x1c", "\x1f"
_CONTROL = re.compile(r"[\x00-\x08\x0b\x0e-\x1f\x7f]")
_WHITE_SPACE = re.compile(r"[ \t\n\r\f]+")
_BREAKS = re.compile(f" ?[{_LINE}{_PARAGRAPH}][{_LINE}{_PARAGRAPH} ]*")
_BULLETS = re.compile(f"{_BULLET}[{_LINE}{_PARAGRAPH} ]*")
_PREFORMATTED = str.maketrans({"\n": _PRE_NEWLINE, " ": _PRE_SPACE, "\t": _PRE_SPACE * 4, "\r": None})
_RESTORED = str.maketrans({_PRE_NEWLINE: "\n", _PRE_SPACE: " "})


def _mark_layout(tree: LexborHTMLParser) -> None:
    """Put marks where blocks begin and end, so that the text of any element can be read off in one call."""
    for node in tree.css("pre"):
        preformatted = tree.create_node("p")
        preformatted.insert_child(node.text().strip("\n").translate(_PREFORMATTED))
        node.replace_with(preformatted)
    for selector, mark in ((_PARAGRAPHS, _PARAGRAPH), (_LINES, _LINE)):
        for node in tree.css(selector):
            node.insert_before(mark)
            node.insert_after(mark)
    for node in tree.css("li"):
        node.insert_before(_BULLET)
    for node in tree.css("br"):
        node.insert_before(_LINE)
    for node in tree.css("td, th"):
        node.insert_after(" ")


def _text_of(node: LexborNode) -> str:
    """The text of an element whose layout is marked."""
    text = _WHITE_SPACE.sub(" ", node.text())
    text = _BULLETS.sub(f"{_LINE}- ", text)
    text = _BREAKS.sub(lambda match: "\n\n" if _PARAGRAPH in match[0] else "\n", text)
    return text.translate(_RESTORED).strip()


def _title_of(tree: LexborHTMLParser) -> str:
    """The page's title in one line: `<title>`, else the first heading."""
    for selector in ("title", "h1"):
        for node in tree.css(selector):
            if title := " ".join(node.text().split()):
                return title
    return ""


# --- extractors -------------------------------------------------------------------------------------------------------

# Less than this many characters is a heading or a caption, not a page's text: try the next container.
_ENOUGH = 50


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
    html = _CONTROL.sub("", decode(body, content_type))
    match extractor:
        case RecordsExtractor():
            return list(_records(html, url, load_reader(extractor)))
        case ArticleExtractor():
            text, name = _article(html)
            extractor = MainExtractor()
        case MainExtractor():
            text, name = "", "main"
    tree = LexborHTMLParser(html)
    title = _title_of(tree)
    if len(text) < _ENOUGH:
        text, name = _container(tree, extractor)
    return [Extracted(url, title, text, name)] if text else []


def _article(html: str) -> tuple[str, str]:
    """The main text by trafilatura, and the extractor's name."""
    from trafilatura import extract as trafilatura_extract

    # With its usual limits lxml silently drops everything nested deeper than 256 elements.
    try:
        tree = lxml.html.document_fromstring(
            html.encode(), parser=lxml.html.HTMLParser(encoding="utf-8", huge_tree=True)
        )
    except lxml.etree.ParserError:  # an empty document
        return "", "article"
    return trafilatura_extract(tree, fast=True, include_comments=False) or "", "article"


def _container(tree: LexborHTMLParser, extractor: MainExtractor) -> tuple[str, str]:
    """The text of the chosen container, else of a usual one, else of the whole body, and the extractor's name."""
    tree.strip_tags(["script", "style", "template", "noscript"], recursive=True)
    _mark_layout(tree)
    _remove(tree, _ALWAYS_REMOVED + extractor.remove)
    for selector in (extractor.selector, *_USUAL_CONTAINERS):
        text = "\n\n".join(filter(None, map(_text_of, _outermost(tree.css(selector)))))
        if len(text) >= _ENOUGH:
            return text, "main"
    _remove(tree, _AROUND_THE_TEXT)
    return (_text_of(tree.body), "body") if tree.body else ("", "body")


def _remove(tree: LexborHTMLParser, selectors: list[str]) -> None:
    # From the inside out: what is inside a removed element is freed with it.
    for node in reversed(tree.css(", ".join(selectors))):
        node.decompose()


def _outermost(nodes: list[LexborNode]) -> list[LexborNode]:
    """Leave out the nodes that lie inside another one of the (document-ordered) list."""
    chosen: list[LexborNode] = []
    ids: set[int] = set()
    for node in nodes:
        above = node.parent
        while above is not None and above.mem_id not in ids:
            above = above.parent
        if above is None:
            chosen.append(node)
            ids.add(node.mem_id)
    return chosen


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
