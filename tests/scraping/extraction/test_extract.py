"""Extraction: the right text by each extractor, every encoding, and pages made to break parsers."""

from __future__ import annotations

import time

import pytest
from pydantic import TypeAdapter, ValidationError

from scraping.extraction.charset import decode
from scraping.extraction.config import ArticleExtractor, Extractor, MainExtractor, RecordsExtractor, load_reader
from scraping.extraction.extract import extract, extract_page
from textmill.errors import UserError

STORY = (
    "The ferry left the harbour at dawn, and by noon the islands had sunk below the horizon. Nobody spoke of it. " * 5
)
PAGE = f"""<!doctype html><html><head><title> A  voyage </title><style>p {{ color: red }}</style></head><body>
<header>Site name</header><nav><ul><li><a href="/">Home</a></li><li><a href="/b">Boats</a></li></ul></nav>
<main><h1>A voyage</h1><p>{STORY}</p><script>track("reader")</script>
<ul><li>one <b>bold</b> item</li><li><p>second item</p></li></ul>
<pre>def sail(boat):
    return boat.go()
</pre><table><tr><th>Port</th><td>Time</td></tr><tr><td>Skye</td><td>noon</td></tr></table>
<p>Line one<br>line two</p></main><aside>Advertisement</aside><footer>Imprint</footer></body></html>"""


def only(html, extractor, content_type="text/html", url="http://site/page"):
    body = html if isinstance(html, bytes) else html.encode()
    (document,) = extract(body, url, content_type, extractor)
    return document


def test_container_with_its_layout():
    document = only(PAGE, MainExtractor())
    assert document.title == "A voyage" and document.extractor == "main" and document.url == "http://site/page"
    assert document.text.startswith("A voyage\n\nThe ferry left")
    assert "\n\n- one bold item\n" in document.text and "- second item" in document.text
    assert "def sail(boat):\n    return boat.go()" in document.text
    assert "Port Time\nSkye noon" in document.text
    assert "Line one\nline two" in document.text
    for chrome in ("Site name", "Boats", "Advertisement", "Imprint", "track", "color"):
        assert chrome not in document.text


def test_article_by_its_looks():
    document = only(PAGE.replace("<main>", "<div>").replace("</main>", "</div>"), ArticleExtractor())
    assert document.extractor == "article" and "islands had sunk" in document.text
    assert "Boats" not in document.text and "track" not in document.text


def test_selectors():
    html = f"<body><div class=x><p>{STORY}</p><div class=ad>Buy boats</div></div><div class=x>More {STORY}</div></body>"
    document = only(html, MainExtractor(selector="div.x", remove=[".ad"]))
    assert document.text.count("The ferry") == 10 and "Buy" not in document.text
    nested = f"<div class=x><div class=x><p>{STORY}</p></div></div>"
    assert only(nested, MainExtractor(selector=".x")).text.count("The ferry") == 5


@pytest.mark.parametrize(
    ("html", "by"),
    [
        (f"<article><p>{STORY}</p></article><nav>Menu</nav>", "main"),
        (f"<body><div><p>{STORY}</p></div><nav>Menu</nav><header>Top</header></body>", "body"),
        (f"<div role=main>{STORY}</div>", "main"),
        (f"<main></main><div id=content>{STORY}</div>", "main"),
    ],
)
def test_fall_back_to_a_more_general_container(html, by):
    document = only(html, MainExtractor(selector="#missing"))
    assert document.extractor == by and "islands had sunk" in document.text
    assert "Menu" not in document.text and "Top" not in document.text


def test_article_falls_back_to_the_container():
    document = only("<main><ul>" + "<li><a href=x>Short link text</a>" * 10 + "</ul></main>", ArticleExtractor())
    assert document.text.count("Short link text") == 10


def test_pages_without_text():
    assert extract(b"", "u", "text/html", MainExtractor()) == []
    assert extract(b"", "u", "text/html", ArticleExtractor()) == []
    assert extract(b"<html><body><img src=x></body></html>", "u", None, ArticleExtractor()) == []
    assert extract(b"<script>only()</script>", "u", "text/html", MainExtractor()) == []


def test_a_page_is_a_page_whatever_its_header_says():
    html = f"<!doctype html><html><main><p>{STORY}</p></main></html>"
    for content_type in ("text/plain", "application/octet-stream", "text/xml", "application/xml; charset=utf-8"):
        assert "islands had sunk" in only(html, MainExtractor(), content_type).text
        assert "<" not in only(html, MainExtractor(), content_type).text


def test_other_content():
    assert only("just\ntext", MainExtractor(), "text/plain; charset=utf-8").text == "just\ntext"
    with pytest.raises(ValueError, match="application/pdf is not a text format"):
        extract(b"%PDF", "u", "application/pdf", MainExtractor())
    with pytest.raises(ValueError, match="binary"):
        extract(b"\x89PNG\r\n\0\0\0\rIHDR", "u", "text/html", MainExtractor())


# --- encodings --------------------------------------------------------------------------------------------------------

CAFÉ = "<p>Café „Übersee“ – 5 €"


@pytest.mark.parametrize(
    ("body", "content_type"),
    [
        (CAFÉ.encode(), "text/html; charset=utf-8"),
        (CAFÉ.encode(), "text/html"),
        (CAFÉ.encode(), None),
        (CAFÉ.encode("cp1252"), "text/html"),
        (CAFÉ.encode("cp1252"), "text/html; charset=iso-8859-1"),
        (b'<meta charset="windows-1252">' + CAFÉ.encode("cp1252"), None),
        (b"\xef\xbb\xbf" + CAFÉ.encode(), "text/html; charset=iso-8859-1"),
        (CAFÉ.encode("utf-16"), "text/html"),
        (b'<meta http-equiv="Content-Type" content="text/html; charset=utf-8">' + CAFÉ.encode(), "text/html"),
        (b'<meta charset="utf-16">' + CAFÉ.encode(), "text/html"),
        (b'<meta charset="utf-8">' + CAFÉ.encode(), "text/html; charset=hex"),
        (b'<meta charset="zlib">' + CAFÉ.encode(), "text/html; charset=unicode_escape"),
    ],
)
def test_encodings(body, content_type):
    assert CAFÉ in decode(body, content_type).lstrip("\ufeff")
    assert "Café „Übersee“ – 5 €" in only(body + b"", MainExtractor(), content_type).text


def test_broken_bytes_are_marked_not_fatal():
    assert only(b"<p>caf\xe9 \xff\xfe \xc3", MainExtractor(), "text/html; charset=utf-8").text.startswith("caf\ufffd")
    assert only(CAFÉ, MainExtractor(), "text/html; charset=no-such-code").text == "Café „Übersee“ – 5 €"


@pytest.mark.parametrize("codec", ["hex", "zlib", "rot13", "idna", "punycode", "undefined", "base64", "\0", "x" * 999])
def test_codecs_that_are_no_character_sets_are_not_chosen(codec):
    body = f'<meta charset="{codec}">'.encode() + b"<p>" + b"a page " * 100_000
    start = time.process_time()
    assert decode(body, f"text/html; charset={codec}") == decode(body, None) == body.decode()
    assert time.process_time() - start < 1


# --- hostile pages ----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("extractor", [ArticleExtractor(), MainExtractor()])
def test_text_below_300_unclosed_tags(extractor):
    html = "<html><body><p>Top.</p>" + "<div>" * 300 + f"<p>{STORY}</p>"
    assert only(html, extractor).text.count("islands had sunk") == 5


def test_200_000_links():
    html = "<html><body><main><p>" + STORY + "</p>" + "".join(f'<a href="/{i}">link {i}</a> ' for i in range(200_000))
    start = time.process_time()
    document = only(html, MainExtractor())
    assert "link 199999" in document.text and time.process_time() - start < 10


@pytest.mark.parametrize(
    "html",
    [
        "<main>" * 2_000 + STORY,
        "<table><tr><td>" * 500 + STORY,
        "<b><i><u>" * 1_000 + STORY + "</p></div></main>" * 1_000,
        f"<main>{STORY}<!-- " + "-" * 100_000,
        f"<main title='{'x' * 100_000}'>{STORY}" + "&#x1e;&#0;&#xd800;&bogus;" * 100,
        f"<main><p>{STORY}<svg><foreignObject><p>inside</svg></main>",
        f"<frameset><frame src=x></frameset><noframes>{STORY}</noframes>",
        f"<template><main>{STORY}</main></template><main>{STORY}</main>",
    ],
)
@pytest.mark.parametrize("extractor", [ArticleExtractor(), MainExtractor()])
def test_malformed_pages_do_not_raise(html, extractor):
    documents = extract(html.encode(), "http://site/", "text/html", extractor)
    assert all(isinstance(document.text, str) for document in documents)


# --- settings ---------------------------------------------------------------------------------------------------------


def test_settings_are_a_tagged_union():
    parse = TypeAdapter(Extractor).validate_python
    assert parse({"kind": "article"}) == ArticleExtractor()
    assert parse({"kind": "main", "selector": "div.content"}).selector == "div.content"
    for wrong in ({"kind": "main", "selector": "..["}, {"kind": "mian"}, {"kind": "article", "selector": "x"}, {}):
        with pytest.raises(ValidationError):
            parse(wrong)
    with pytest.raises(ValidationError, match="not a CSS selector"):
        MainExtractor(remove=["p", "]"])


class Reader:
    """A record reader as a source may bring it."""

    def records(self, html, url):
        for line in html.splitlines():
            if line:
                yield {"id": line.split()[0], "name": line}

    def title(self, record):
        return record["name"].title()

    def text(self, record):
        return f"The record {record['name']}."


def test_records(monkeypatch):
    import sys

    monkeypatch.setitem(sys.modules, "records_of_this_test", sys.modules[__name__])
    extractor = RecordsExtractor(reader="records_of_this_test:Reader")
    first, second = extract(b"cs1 intro\n\ncs2 logic\n", "http://site/list", "text/html", extractor)
    assert first == (
        "http://site/list#cs1", "Cs1 Intro", "The record cs1 intro.", "records", {"id": "cs1", "name": "cs1 intro"},
    )  # fmt: skip
    assert second.url == "http://site/list#cs2"
    assert extract_page(b"cs1 a\r\nx", "u", "text/html", extractor.model_dump())[0][2] == "The record cs1 a."
    for reader in ("records_of_this_test:Missing", "no.such.module:Reader"):
        with pytest.raises(UserError, match="no record reader"):
            load_reader(RecordsExtractor(reader=reader))
    with pytest.raises(UserError, match="looks in installed packages and in the folders of PYTHONPATH"):
        load_reader(RecordsExtractor(reader="no.such.module:Reader"))


def test_a_reader_that_does_not_come_up_is_an_error_of_the_source(tmp_path, monkeypatch):
    monkeypatch.syspath_prepend(tmp_path)
    (tmp_path / "half_written_reader.py").write_text("class Reader:\n    def records(self, html, url):\n")
    (tmp_path / "demanding_reader.py").write_text("class Reader:\n    def __init__(self, key): ...\n")
    for module in ("half_written_reader", "demanding_reader"):
        with pytest.raises(UserError, match=r"no record reader .*: correct `reader` in the source, or the class"):
            load_reader(RecordsExtractor(reader=f"{module}:Reader"))
