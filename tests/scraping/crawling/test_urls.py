from string import printable

import idna
import pytest
from hypothesis import given
from hypothesis import strategies as st

from scraping.crawling.urls import host_of, normalize, origin_of, resolve


@pytest.mark.parametrize(
    ("url", "expected"),
    [
        ("HTTP://Example.ORG", "http://example.org/"),
        ("http://example.org:80/a", "http://example.org/a"),
        ("https://example.org:443/a", "https://example.org/a"),
        ("http://example.org:443/a", "http://example.org:443/a"),
        ("http://example.org./a", "http://example.org/a"),
        ("http://example.org/a/./b/../c", "http://example.org/a/c"),
        ("http://example.org/../../a", "http://example.org/a"),
        ("http://example.org/a/..", "http://example.org/"),
        ("http://example.org/a/.", "http://example.org/a/"),
        ("http://example.org/a#part", "http://example.org/a"),
        ("http://example.org/a?", "http://example.org/a"),
        ("http://example.org/%7euser/%41", "http://example.org/~user/A"),
        ("http://example.org/%c3%a9", "http://example.org/%C3%A9"),
        ("http://example.org/é", "http://example.org/%C3%A9"),
        ("http://example.org/a%2Fb", "http://example.org/a%2Fb"),
        ("http://example.org/100%", "http://example.org/100%25"),
        ("http://example.org/a b", "http://example.org/a%20b"),
        ("http://example.org\\a\\b", "http://example.org/a/b"),
        ("  http://example.org/a\n", "http://example.org/a"),
        ("http://example.org/a\tb", "http://example.org/ab"),
        ("http://bücher.example/", "http://xn--bcher-kva.example/"),
        ("http://[::1]:8080/a", "http://[::1]:8080/a"),
        ("http://example.org/a;jsessionid=12AB?x=1", "http://example.org/a?x=1"),
        ("http://example.org/a?PHPSESSID=1&x=2", "http://example.org/a?x=2"),
        ("http://example.org/a?utm_source=n&b=2&a=1&fbclid=3", "http://example.org/a?b=2&a=1"),
        ("http://example.org/a?sid=0123456789abcdef0", "http://example.org/a"),
        ("http://example.org/a?sid=12", "http://example.org/a?sid=12"),
        ("http://example.org/a?x=1&&y", "http://example.org/a?x=1&y"),
        ("http://example.org//a//b", "http://example.org//a//b"),
        ("http://example.org/a?path=C:\\x", "http://example.org/a?path=C:%5Cx"),
        ("http://straße.test/", "http://xn--strae-oqa.test/"),
        ("http://faß.de/", "http://xn--fa-hia.de/"),
        ("http://FASS.de/", "http://fass.de/"),
        ("http://☃.net/", "http://xn--n3h.net/"),
        ("http://Bücher。example/", "http://xn--bcher-kva.example/"),
        ("http://ｅｘａｍｐｌｅ.org/", "http://example.org/"),
        ("http://b%C3%BCcher.example/", "http://xn--bcher-kva.example/"),
        ("http://نامه\u200cای.com/", "http://xn--mgba3gch31f060k.com/"),
        ("http://a\u00adb.org/", "http://ab.org/"),
        ("http://my_-.tumblr.com/", "http://my_-.tumblr.com/"),
        ("http://127.1/", "http://127.0.0.1/"),
        ("http://0x7F000001/", "http://127.0.0.1/"),
        ("http://010.8.1.300/", None),
        ("http://1st.2nd/", "http://1st.2nd/"),
        ("http://[0:0::0:1]/", "http://[::1]/"),
    ],
)
def test_normalize(url, expected):
    assert normalize(url) == expected


@pytest.mark.parametrize(
    "url",
    ["", "a", "/a", "mailto:a@b", "javascript:void(0)", "ftp://a/b", "http://", "http:///a", "http://a:b@c/", "http://a:99999/",
     "http://[::1", "http://exa mple/", "http://a_b%zz/", "data:text/html,x",
     "http://a\u200db.org/", "http://\u0301a.org/", "http://%FF.org/", "http://1.2.3.4.5/", "http://a.09/", "http://[::1%25x]/",
     "http://a..b.org/", f"http://{'a' * 64}.org/", f"http://{'a.' * 127}org/"],
)  # fmt: skip
def test_what_cannot_be_fetched(url):
    assert normalize(url) is None


@given(
    st.text(max_size=30)
    | st.builds(
        "http://{}/{}?{}".format, st.sampled_from(["a.org", "A.org:80", "[::1]", "ü.de"]), st.text(printable), st.text()
    )
)
def test_normalizing_twice_changes_nothing(url):
    once = normalize(url)
    if once is not None:
        assert normalize(once) == once
        assert once.isascii()
        assert "#" not in once
        assert origin_of(once).endswith(host_of(once))


@pytest.mark.parametrize(
    ("base", "href", "expected"),
    [
        ("http://a.org/x/y", "z", "http://a.org/x/z"),
        ("http://a.org/x/y?q=/1", "z", "http://a.org/x/z"),
        ("http://a.org/x/y", "/z", "http://a.org/z"),
        ("http://a.org/x/y", "../../../z", "http://a.org/z"),
        ("http://a.org/x/y", "?q=1", "http://a.org/x/y?q=1"),
        ("http://a.org/x/y?p=2", "?q=1", "http://a.org/x/y?q=1"),
        ("https://a.org/x", "//b.org/y", "https://b.org/y"),
        ("http://a.org/x/y", " z#f ", "http://a.org/x/z"),
        ("http://a.org/x/y", "#f", None),
        ("http://a.org/x/y", "", None),
        ("http://a.org/x/y", "mailto:x@y.org", None),
        ("http://a.org/x/y", "http://[broken", None),
        ("http://a.org/x/y?p=2", "?", "http://a.org/x/y"),
        ("http://a.org/x/y", "///b.org/z", "http://b.org/z"),
        ("http://a.org/x/y", "\\\\b.org\\z?a\\b", "http://b.org/z?a%5Cb"),
        ("http://a.org/x/y", "\u00a0z", "http://a.org/x/%C2%A0z"),
    ],
)
def test_resolve(base, href, expected):
    assert resolve(base, href) == expected


@given(st.text(max_size=40))
def test_resolving_never_raises(href):
    target = resolve("http://a.org/x/y?z", href)
    assert target is None or normalize(target) == target


@pytest.mark.parametrize(
    ("href", "encoding", "expected"),
    [
        ("/s?q=привет", "cp1251", "/s?q=%EF%F0%E8%E2%E5%F2"),
        ("/s?q=привет", "koi8-r", "/s?q=%D0%D2%C9%D7%C5%D4"),
        ("/s?q=привет", "utf-8", "/s?q=%D0%BF%D1%80%D0%B8%D0%B2%D0%B5%D1%82"),
        ("?q=表ア", "cp932", "/?q=%95%5C%83A"),  # second bytes that are letters or a backslash
        ("/s?q=中文&x=1", "gb18030", "/s?q=%D6%D0%CE%C4&x=1"),
        ("/s?q=€&r=日", "iso8859-5", "/s?q=%26%238364%3B&r=%26%2326085%3B"),  # what the encoding lacks
        ("/привет?q=%EF%F0", "cp1251", "/%D0%BF%D1%80%D0%B8%D0%B2%D0%B5%D1%82?q=%EF%F0"),  # a path is UTF-8 everywhere
    ],
)
def test_a_query_is_spelled_in_the_pages_encoding(href, encoding, expected):
    assert resolve("http://a.org/", href, encoding) == f"http://a.org{expected}"


@given(st.text(st.characters(categories=["L", "M", "N"], include_characters="-."), min_size=1, max_size=12))
def test_names_that_idna_encodes_strictly_are_spelled_as_it_does(name):
    try:
        expected = idna.encode(name, uts46=True, transitional=False).decode()
    except idna.IDNAError:
        return
    if not expected.endswith("."):  # then a label would be empty
        assert normalize(f"http://{name}.example/") == f"http://{expected}.example/"
