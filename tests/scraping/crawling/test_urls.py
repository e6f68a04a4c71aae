from string import printable

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
    ],
)
def test_normalize(url, expected):
    assert normalize(url) == expected


@pytest.mark.parametrize(
    "url",
    ["", "a", "/a", "mailto:a@b", "javascript:void(0)", "ftp://a/b", "http://", "http:///a", "http://a:b@c/", "http://a:99999/",
     "http://[::1", "http://exa mple/", "http://a_b%zz/", "data:text/html,x",
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
    ],
)
def test_resolve(base, href, expected):
    assert resolve(base, href) == expected


@given(st.text(max_size=40))
def test_resolving_never_raises(href):
    target = resolve("http://a.org/x/y?z", href)
    assert target is None or normalize(target) == target
