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

import re
from collections.abc import Iterable
from typing import Any, NamedTuple

from pydantic import TypeAdapter
from selectolax.lexbor import LexborHTMLParser

from scraping.extraction.blocks.cut import Page, cut
from scraping.extraction.blocks.features import Head, read_head
from scraping.extraction.blocks.select import Judged, Selection, by_container, by_model, by_trafilatura, judge
from scraping.extraction.blocks.title import title_of
from scraping.extraction.charset import decode
from scraping.extraction.config import (
    ArticleExtractor,
    AutoExtractor,
    Extractor,
    MainExtractor,
    PageExtractor,
    RecordReader,
    RecordsExtractor,
    load_reader,
)
from scraping.extraction.normalize import normalize
from scraping.extraction.sniff import is_binary, is_html, mime_type


class Extracted(NamedTuple):
    """One document of a page, its text not yet in normal form."""

    url: str  # the page's; for records with `#id` after it
    title: str
    text: str
    extractor: str  # which one gave the text: auto, article, main, body, plain, records
    record: dict[str, Any] | None = None


_EXTRACTOR: TypeAdapter[Extractor] = TypeAdapter(Extractor)
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


def _records(html: str, url: str, reader: RecordReader) -> Iterable[Extracted]:
    for record in reader.records(html, url):
        yield Extracted(f"{url}#{record['id']}", reader.title(record), reader.text(record), "records", record)
