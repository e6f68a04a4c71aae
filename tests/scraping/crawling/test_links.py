import time

import pytest
from urllib3 import HTTPHeaderDict

from scraping.crawling.fetch import Response
from scraping.crawling.links import MAX_LINKS, RobotsDirectives, parse_page, skip_reason
from scraping.extraction.sniff import is_html

UTF_8 = "text/html; charset=utf-8"


def response(body: bytes | str, content_type: str = UTF_8, status: int = 200, **headers) -> Response:
    headers = HTTPHeaderDict({"Content-Type": content_type, **{k.replace("_", "-"): v for k, v in headers.items()}})
    return Response("http://a.org/x/y", status, headers, body.encode() if isinstance(body, str) else body)


def links(body, **options) -> list[str]:
    return parse_page(response(body, **options), "textmill").links


def test_links_are_resolved_in_order_and_once():
    body = """<a href="z">1</a><area href="/b"><a href="z#part">2</a><a name="x">3</a><a href="mailto:a@b">4</a>
              <A HREF=' //c.org/ '>5</A><a href="javascript:go()">6</a><link href="/style.css"><a href>7</a>"""
    assert links(body) == ["http://a.org/x/z", "http://a.org/b", "http://c.org/"]


def test_base_changes_where_links_lead():
    assert links('<base href="/other/"><a href="z">') == ["http://a.org/other/z"]
    assert links('<base href="http://b.org/p/q"><a href="z">') == ["http://b.org/p/z"]
    assert links('<base href="::"><a href="z">') == ["http://a.org/x/z"]
    assert links('<a href="z"><p><base target="_top"><base href="/late/"><base href="/later/">') == [
        "http://a.org/late/z"
    ]


def test_a_refresh_is_a_link():
    assert links('<meta http-equiv="Refresh" content="0; URL=/new">') == ["http://a.org/new"]
    assert links("<meta http-equiv=refresh content=\"5;url='z'\">") == ["http://a.org/x/z"]
    assert links('<meta http-equiv="refresh" content="30">') == []
    assert links('<meta http-equiv="refresh" content="0; /bare">') == ["http://a.org/bare"]
    assert links("", Refresh="0; url=/header") == ["http://a.org/header"]


def test_frames_are_links():
    body = '<frameset cols="20%,*"><frame src="menu.html"><frame src="/start.html#top"></frameset>'
    assert links(body) == ["http://a.org/x/menu.html", "http://a.org/start.html"]
    assert links('<iframe src="/inside"></iframe><iframe srcdoc="x"></iframe>') == ["http://a.org/inside"]


def test_nofollow_links_are_set_aside():
    body = '<a href="/1" rel="nofollow ugc"><a href="/2" rel="me NoFollow"><a href="/3" rel="next">'
    page = parse_page(response(body), "t")
    assert page.links == ["http://a.org/3"]
    assert page.nofollow_links == ["http://a.org/1", "http://a.org/2"]
    page = parse_page(response('<a href="/1" rel=nofollow><a href="/1">'), "t")
    assert (page.links, page.nofollow_links) == (["http://a.org/1"], [])


@pytest.mark.parametrize(
    ("head", "noindex", "nofollow"),
    [
        ('<meta name="robots" content="noindex">', True, False),
        ('<META NAME="ROBOTS" CONTENT="NOFOLLOW, NOARCHIVE">', False, True),
        ('<meta name="robots" content="none">', True, True),
        ('<meta name="robots" content="all">', False, False),
        ('<meta name="Textmill" content="noindex,nofollow">', True, True),
        ('<meta name="otherbot" content="noindex">', False, False),
        ('<meta name="robots"><meta content="noindex">', False, False),
        ('<meta name="robots" content="noindex"><meta name="robots" content="nofollow">', True, True),
    ],
)
def test_meta_robots(head, noindex, nofollow):
    directives = parse_page(response(head), "textmill").directives
    assert (directives.noindex, directives.nofollow) == (noindex, nofollow)


@pytest.mark.parametrize(
    ("values", "noindex", "nofollow"),
    [
        (["noindex"], True, False),
        (["noindex, nofollow"], True, True),
        (["none"], True, True),
        (["otherbot: noindex, nofollow"], False, False),
        (["textmill: noindex, nofollow"], True, True),
        (["TextMill: none"], True, True),
        (["otherbot: noindex", "nofollow"], False, True),
        (["nofollow, otherbot: noindex"], False, True),
        (["otherbot: noindex, textmill: nofollow"], False, True),
        (["unavailable_after: 25 Jun 2030 15:00:00 PST, noindex"], True, False),
        (["unavailable_after: Friday, 25-Jun-30 15:00:00 PST, noindex"], True, False),
        (["max-snippet:-1, nofollow"], False, True),
        ([""], False, False),
    ],
)
def test_x_robots_tag(values, noindex, nofollow):
    directives = RobotsDirectives.of_headers(values, "textmill")
    assert (directives.noindex, directives.nofollow) == (noindex, nofollow)


@pytest.mark.parametrize(
    ("body", "headers", "canonical"),
    [
        ('<link rel="canonical" href="/z">', {}, "http://a.org/z"),
        ('<link rel="alternate Canonical" href="z">', {}, "http://a.org/x/z"),
        ("", {"Link": '<http://a.org/c>; rel="canonical"'}, "http://a.org/c"),
        ("", {"Link": "</next>; rel=next, </c>; type=a; rel=canonical"}, "http://a.org/c"),
        ("", {"Link": "<x>; rel=next"}, None),
        ('<link rel="stylesheet" href="z">', {}, None),
        ("", {}, None),
    ],
)
def test_canonical(body, headers, canonical):
    assert parse_page(response(body, **headers), "textmill").canonical == canonical


def test_hrefs_in_the_pages_encoding():
    expected = ["http://a.org/caf%C3%A9"]
    assert links('<a href="/café">'.encode("latin-1"), content_type="text/html; charset=iso-8859-1") == expected
    assert links('<meta charset="cp1252"><a href="/café">'.encode("cp1252"), content_type="text/html") == expected
    assert links('<a href="/café">'.encode("utf-16"), content_type="text/html") == expected
    assert links("<a href='/café'>".encode(), content_type="text/html") == expected


def test_queries_in_the_pages_encoding():
    html = '<meta charset="windows-1251"><a href="/s?q=привет">'
    assert links(html.encode("cp1251"), content_type="text/html") == ["http://a.org/s?q=%EF%F0%E8%E2%E5%F2"]
    html = '<base href="/b/"><a href="?q=検索">'
    expected = ["http://a.org/b/?q=%8C%9F%8D%F5"]
    assert links(html.encode("cp932"), content_type="text/html; charset=x-sjis") == expected
    for encoding in ("utf-8-sig", "utf-16"):  # a browser spells the queries of both in UTF-8
        expected = ["http://a.org/b/?q=%E6%A4%9C%E7%B4%A2"]
        assert links(html.encode(encoding), content_type="text/html; charset=x-sjis") == expected


def test_a_stray_nul_is_passed_over():
    assert links(b'<!doctype html><title>a\0b</title><a href="/\0z">') == ["http://a.org/z"]


@pytest.mark.long
def test_hostile_pages_are_read_quickly():
    start = time.process_time()
    assert not is_html(b"<!---->" * 140 + b"x", "text/plain")
    for value in ("<" * 60_000, "<x>;a=" + "rel=" * 15_000, "<x>" + ";a=b" * 15_000):
        assert parse_page(response("", Link=value), "t").canonical is None
    many = "".join(f'<a href="/{n}">{n}</a>' for n in range(200_000))
    assert len(links(many)) == MAX_LINKS
    assert links("<div>" * 100_000 + '<a href="/deep">') == ["http://a.org/deep"]
    assert links("<div>" * 300_000 + '<a href="/deep">' + "</div>" * 300_000) == ["http://a.org/deep"]
    deep = "<div>" * 1_000_000 + "<A rel=nofollow HREF='/x?a=1&amp;b=2'><a class=b href=/deep>"
    page = parse_page(response(deep), "t")
    assert (page.links, page.nofollow_links) == (["http://a.org/deep"], ["http://a.org/x?a=1&b=2"])
    assert links("<a " * 500_000 + "<" * 500_000) == []
    assert links("<p>" * 300 + '<b><i><a href="/unclosed">') == ["http://a.org/unclosed"]
    assert links(bytes(range(256)) * 1000) == []
    assert links(b"") == []
    assert time.process_time() - start < 10


@pytest.mark.parametrize(
    ("status", "content_type", "reason"),
    [
        (200, "text/html", None), (200, "TEXT/HTML; charset=x", None), (200, "application/xhtml+xml", None),
        (200, "", None), (200, "text/plain", None), (200, "html", None), (200, "text/html,text/html", None),
        (200, "application/octet-stream", None),
        (200, "application/pdf", "content type application/pdf"), (200, "image/png", "content type image/png"),
        (404, "text/html", "status 404"), (304, "", "status 304"),
    ],
)  # fmt: skip
def test_answers_that_are_skipped_by_their_headers(status, content_type, reason):
    assert skip_reason(response("", content_type, status)) == reason


@pytest.mark.parametrize(
    ("body", "content_type", "html"),
    [
        (b"<!DOCTYPE html><p>x", "text/plain", True),
        (b"\xef\xbb\xbf  <!-- c --><html>", "application/octet-stream", True),
        (b"<?xml version='1.0'?><html xmlns='x'>", "text/xml", True),
        (b"<?xml version='1.0'?><rss>", "text/xml", False),
        (b"plain words", "text/plain", False),
        (b"plain words", "", False),
        (b"<title>A page</title><p>words", "", True),
        (b"<!-- c --><p>words", "*/*", True),
        (b"<title>A page</title><p>words", "text/plain", False),
        (b"<abstract>words", "", False),
        (b"plain words", "text/html", True),
        (b"%PDF-1.7 ...", "text/html", False),
        (b"\x89PNG\r\n\x1a\n", "text/html", False),
        (b"PK\x03\x04abc", "text/html", False),
        (b"<html>\0\0\0", "text/html", False),
        (b"<!doctype html><title>a\0b</title><p>text", "text/html", True),
        ("<html>é".encode("utf-16-le"), "text/html; charset=utf-16le", True),
        ("<html>é".encode("utf-16"), "text/html", True),
    ],
)
def test_sniffing(body, content_type, html):
    assert is_html(body, content_type) is html
