"""Encodings, declared and not. The texts are from the Universal Declaration of Human Rights."""

import json
import time
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from scraping.extraction.charset import decode, encoding_of

TEXTS = json.loads(Path(__file__).with_name("declaration.json").read_text("utf-8"))  # by language
PAGE = (
    '<html><head><title>{0}</title><link href="/main.css"></head><body class="page"><p id="text">{0}</p></body></html>'
)


@pytest.mark.parametrize(
    ("language", "encoding"),
    [
        ("ja", "cp932"), ("ja", "euc-jp"), ("ja", "iso2022-jp"), ("zh", "gbk"), ("zh-tw", "big5"), ("ko", "euc-kr"),
        ("ru", "cp1251"), ("ru", "koi8-r"), ("ru", "iso8859-5"), ("uk", "cp1251"), ("uk", "koi8-u"), ("el", "cp1253"),
        ("el", "iso8859-7"), ("he", "cp1255"), ("ar", "cp1256"), ("th", "cp874"), ("pl", "cp1250"), ("pl", "iso8859-2"),
        ("cs", "cp1250"), ("hu", "cp1250"), ("hu", "iso8859-2"), ("tr", "cp1254"), ("lt", "cp1257"), ("fr", "cp1252"),
        ("de", "cp1252"), ("sv", "cp1252"), ("en", "cp1252"), ("ja", "utf-8"), ("ja", "utf-16"), ("ja", "utf-8-sig"),
        ("ja", "utf-16-le"), ("ja", "utf-16-be"),
    ],
)  # fmt: skip
def test_undeclared_encodings(language, encoding):
    page = PAGE.format(TEXTS[language])
    assert decode(page.encode(encoding), "text/html") == page


def test_what_is_not_enough_for_a_guess_is_windows_1252():
    for text in (
        "Voilà, le café.",
        "It’s £5 – or €6",
        "© 2020 Łódź".encode("cp1252", "replace").decode("cp1252"),
        "naïve",
    ):
        assert decode(f"<p>{text}</p>".encode("cp1252")) == f"<p>{text}</p>"


@pytest.mark.parametrize("language", ["fr", "ru", "ja", "en", "th"])
@pytest.mark.parametrize("bad", [b"\xff", b"\xe9", b"\x92", b"\xe6\x97"])
def test_a_bad_byte_costs_one_replacement_character(language, bad):
    before, after = (PAGE.format(TEXTS[language]) for _ in "12")
    assert decode(before.encode() + bad + after.encode()) == f"{before}\ufffd{after}"
    assert decode(before.encode() + bad) == f"{before}\ufffd"


def test_the_byte_order_mark_wins_then_the_header_then_the_page():
    page = '<meta charset="koi8-r"><p>да</p>'
    assert encoding_of(page.encode("utf-8-sig"), "text/html; charset=cp1251") == "utf-8"
    assert encoding_of(page.encode("utf-16"), "text/html; charset=cp1251") == "utf-16-le"
    assert encoding_of(page.encode("cp1251"), "text/html; charset=cp1251") == "cp1251"
    assert encoding_of(page.encode("koi8-r"), "text/html") == "koi8-r"
    assert encoding_of(page.encode("koi8-r"), "text/html; charset=hex") == "koi8-r", "a codec that is no character set"


@pytest.mark.parametrize(
    ("label", "text"),
    [
        ("x-sjis", "日本"), ("windows-31j", "①"), ("shift_jis", "①"), ("x-euc-jp", "日本"), ("ks_c_5601-1987", "똠"),
        ("windows-949", "똠"), ("euc-kr", "똠"), ("gb2312", "镕"), ("x-gbk", "镕"), ("big5", "中"), ("x-x-big5", "中"),
        ("x-cp1251", "да"), ("windows-1251", "да"), ("koi", "да"), ("koi8-ru", "їґ"), ("iso-8859-1", "“€”"),
        ("us-ascii", "“€”"), ("latin1", "“€”"), ("iso88592", "łś"), ("iso-8859-9", "ğş"), ("windows-874", "ไทย"),
        ("iso-8859-8-i", "שלום"), ("logical", "שלום"), ("x-mac-cyrillic", "да"), ("x-user-defined", "é"),
        ("unicode-1-1-utf-8", "日本"), ("unicode", "日本"), ("utf-16", "日本"), ("macintosh", "é"), ("dos-874", "ไทย"),
    ],
)  # fmt: skip
def test_labels_mean_what_they_mean_to_browsers(label, text):
    codec = encoding_of(b"", f"text/html; charset={label}")
    assert decode(text.encode(codec), f"text/html; charset={label}") == text


@given(st.binary(max_size=300), st.text(max_size=30))
def test_decoding_never_raises(body, content_type):
    decode(body, content_type)
    decode(b"<p>" + body, "text/html; charset=" + content_type)


def test_hostile_bytes_are_decoded_quickly():
    start = time.process_time()
    for piece in (b"\xff", b"<", b"\xe9<", b"\x1b$B!!", b"\xe3\x81", bytes(range(256))):
        decode(piece * (2_000_000 // len(piece)))
    assert time.process_time() - start < 20
