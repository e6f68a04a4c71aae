from http.cookies import SimpleCookie

from hypothesis import given
from hypothesis import strategies as st

from scraping.crawling.answers.cookies import Cookies

URL = "http://a.org/x/y"


def sent(*set_cookie: str, url: str = URL) -> str | None:
    cookies = Cookies()
    cookies.keep("a.org", URL, set_cookie)
    return cookies.header("a.org", url)


def test_what_is_sent_back():
    assert sent("a=1", "b=2; Path=/") == "a=1; b=2"
    assert sent("a=1; Path=/other") is None
    assert sent("a=1; Secure") is None
    assert sent("a=1; Domain=b.org") is None
    assert sent("a=1; Domain=.a.org; Path=/") == "a=1"
    assert sent("a=1; Max-Age=0") is None
    assert sent("a=1", "a=2") == "a=2"
    assert sent("a=\x01") is None
    assert sent() is None


def test_another_host_is_told_nothing():
    cookies = Cookies()
    cookies.keep("a.org", URL, ["a=1; Path=/"])
    assert cookies.header("b.org", "http://b.org/") is None
    assert (cookies.count("a.org"), cookies.count("b.org")) == (1, 0)


def test_another_value_is_another_cookie():
    cookies = Cookies()
    for value in (1, 2, 3, 3):
        cookies.keep("a.org", URL, [f"n={value}; Path=/"])
    assert (cookies.count("a.org"), cookies.header("a.org", URL)) == (3, "n=3")


def test_jars_are_bounded():
    cookies = Cookies()
    cookies.keep("a.org", URL, [f"c{n}={n}" for n in range(500)] + ["long=" + "x" * 5000])
    header = cookies.header("a.org", URL)
    assert header.startswith("c450=450; ")
    assert header.count(";") == 49
    cookies.keep("a.org", URL, [f"big{n}=" + "x" * 3000 for n in range(20)])
    assert len(cookies.header("a.org", URL)) < 8_192
    for n in range(1_100):
        cookies.keep(f"{n}.org", f"http://{n}.org/", ["a=1"])
    assert cookies.header("0.org", "http://0.org/") is None
    assert cookies.header("1099.org", "http://1099.org/") == "a=1"


@given(st.dictionaries(st.from_regex(r"[A-Za-z]{1,8}", fullmatch=True), st.from_regex(r"[\w.-]{1,20}", fullmatch=True)))
def test_names_and_values_survive(values):
    values = {name: value for name, value in values.items() if value.isascii()}
    header = sent(*(f"{name}={value}; Path=/" for name, value in values.items()))
    assert {name: morsel.value for name, morsel in SimpleCookie(header or "").items()} == values


@given(st.lists(st.text(max_size=60), max_size=5))
def test_nothing_that_a_server_sets_raises(set_cookie):
    sent(*set_cookie)
