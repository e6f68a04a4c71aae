"""Which character set a page is in, and its text.

The order is that of browsers (WHATWG Encoding and HTML standards): byte order mark, `Content-Type` header, `<meta>`; as
a last resort the bytes themselves. What is mostly valid UTF-8 is UTF-8: a bad byte costs one U+FFFD. Else uchardet (Li
and Momoi, A composite approach to language/encoding detection, 2001) compares the bytes with statistics of languages.
Its guess counts only where the text that it gives looks right, because a wrong guess is worse than none; without one,
the page is Windows-1252.

Measured on undeclared pages of 300 (2,000) characters in 35 languages and 20 encodings, at 0.3 ms a page: 97.3 (99.7) %
are read right, 0.8 (0.07) % by a wrong guess. charset-normalizer 3.5 reads 77 (73) % right, at 1.4 ms.
"""

from __future__ import annotations

import codecs
import re
import unicodedata

from w3lib.encoding import html_body_declared_encoding, http_content_type_encoding, read_bom

# Python knows codecs that are not character sets (hex, zlib, punycode, which takes hours): no page may choose those.
_CHARACTER_SET = re.compile(
    r"(?:utf-(?:8|16|32)|ascii|iso8859|iso2022|cp\d|koi8|mac|gb|big5|euc|shift_jis|hz|johab|tis)", re.I
)

# uchardet's names of what it may find -> the codec. Left out is what no site has used in this century, or what it takes
# English for.
_GUESSES = {
    "shift-jis": "cp932", "cp932": "cp932", "euc-jp": "euc-jp",
    "gb18030": "gb18030", "gb2312": "gb18030", "gbk": "gb18030", "big5": "big5hkscs",
    "euc-kr": "cp949", "cp949": "cp949", "cp1251": "cp1251", "koi8-r": "koi8-u", "koi8-u": "koi8-u",
    "cp866": "cp866", "cp1253": "cp1253", "cp1255": "cp1255", "cp1256": "cp1256",
    "tis-620": "cp874", "cp874": "cp874", "iso8859-11": "cp874", "cp1250": "cp1250", "cp1254": "cp1254",
    "iso8859-9": "cp1254", "cp1257": "cp1257", "iso8859-13": "cp1257", "cp1258": "cp1258",
    **{f"iso8859-{n}": f"iso8859-{n}" for n in (2, 5, 6, 7, 8)},
}  # fmt: skip
_WINDOWS = {"iso8859-2": "cp1250", "iso8859-6": "cp1256", "iso8859-7": "cp1253", "iso8859-8": "cp1255"}
_LATIN = {"cp1250", "cp1254", "cp1257", "cp1258", "iso8859-2"}
_C1 = re.compile(rb"[\x80-\x9f]")
_MARKUP = re.compile(r"<[^<>]*>")
_ISO_2022_JP = re.compile(rb"\x1b\$[@B](?:[!-~]{2})+\x1b\([BJ]")
_SAMPLE = 256 << 10  # bytes, of the beginning and of the end, that a guess looks at

_UTF_16 = re.compile(rb"<\0[!-~]\0|\0<\0[!-~]")  # how markup without a byte order mark begins

# Labels of the Encoding standard that Python does not know -> its codec; w3lib asks Python by these names.
_LABELS = {
    "unicode_1_1_utf_8": "utf-8", "unicode11utf8": "utf-8", "unicode20utf8": "utf-8", "x_unicode20utf8": "utf-8",
    "csunicode": "utf-16-le", "iso_10646_ucs_2": "utf-16-le", "ucs_2": "utf-16-le", "unicode": "utf-16-le",
    "unicodefeff": "utf-16-le", "unicodefffe": "utf-16-be",
    **{f"iso8859{n}": f"iso8859-{n}" for n in (2, 3, 4, 5, 6, 7, 8, 10, 13, 14, 15)},
    "iso88591": "cp1252", "iso88599": "cp1254", "iso885911": "cp874", "dos_874": "cp874",
    **{f"x_cp{n}": f"cp{n}" for n in range(1250, 1259)}, "x_user_defined": "cp1252",
    "csiso88596e": "iso8859-6", "csiso88596i": "iso8859-6", "iso_8859_6_e": "iso8859-6", "iso_8859_6_i": "iso8859-6",
    "sun_eu_greek": "iso8859-7", "csiso88598e": "iso8859-8", "csiso88598i": "iso8859-8", "iso_8859_8_e": "iso8859-8",
    "iso_8859_8_i": "iso8859-8", "visual": "iso8859-8", "logical": "iso8859-8", "csisolatin9": "iso8859-15",
    "koi": "koi8-r", "koi8": "koi8-r", "koi8_ru": "koi8-u",
    "csmacintosh": "mac-roman", "mac": "mac-roman", "x_mac_roman": "mac-roman",
    "x_mac_cyrillic": "mac-cyrillic", "x_mac_ukrainian": "mac-cyrillic",
    "csgb2312": "gb18030", "gb_2312": "gb18030", "x_gbk": "gb18030", "cn_big5": "big5hkscs", "x_x_big5": "big5hkscs",
    "cseucpkdfmtjapanese": "euc-jp", "x_euc_jp": "euc-jp",
    **dict.fromkeys(("cseuckr", "csksc56011987", "iso_ir_149", "ks_c_5601_1989", "ksc_5601", "windows_949"), "cp949"),
}  # fmt: skip
codecs.register(lambda label: codecs.lookup(_LABELS[label]) if label in _LABELS else None)


def decode(body: bytes, content_type: str | None = None) -> str:
    """Text of a page; bytes that its encoding cannot hold become U+FFFD. Never raises.

    Example:
        >>> decode(b"caf\\xe9", "text/html; charset=latin-1"), decode(b"caf\\xc3\\xa9")
        ('café', 'café')
    """
    return decode_as(body, encoding_of(body, content_type))


def decode_as(body: bytes, encoding: str) -> str:
    """`decode` for an encoding that `encoding_of` gave."""
    _, mark = read_bom(body)
    return body[len(mark or b"") :].decode(encoding, "replace")


def encoding_of(body: bytes, content_type: str | None) -> str:
    """Python's name of the encoding of a page: by its byte order mark, else as declared, else as its bytes look."""
    marked, _ = read_bom(body)
    if marked:
        return marked
    header = http_content_type_encoding(content_type)
    if header and _CHARACTER_SET.match(header):
        return "utf-16-le" if header == "utf-16" else header
    meta = html_body_declared_encoding(body)
    if meta and _CHARACTER_SET.match(meta) and not meta.startswith(("utf-16", "utf-32")):  # for `<meta>` was readable
        return meta
    if wide := _UTF_16.match(body):
        return "utf-16-le" if wide[0][:1] == b"<" else "utf-16-be"
    return _guess(body)


def _guess(body: bytes) -> str:
    """The encoding of bytes that nothing is said about."""
    if _ISO_2022_JP.search(body):
        return "iso2022-jp"  # its bytes are ASCII
    try:
        body.decode("utf-8")
        return "utf-8"
    except UnicodeDecodeError:
        pass
    text = body.decode("utf-8", "replace")
    bad = text.count("\ufffd") - body.count(b"\xef\xbf\xbd")
    good = _beyond_ascii(text) - bad
    if good >= (1 if bad == 1 else 2 * bad):
        return "utf-8"  # in no other encoding do so many bytes look like UTF-8
    from resiliparse.parse.encoding import detect_encoding

    found = detect_encoding(body, max_len=_SAMPLE, html5_compatible=False)
    guess = _GUESSES.get(found.replace("_", "-") if found else "", "cp1252")
    if guess in _WINDOWS and _C1.search(body):
        guess = _WINDOWS[guess]  # where ISO 8859 has control characters, which no page has
    return guess if guess == "cp1252" or _looks_right(body, guess) else "cp1252"


def _looks_right(body: bytes, encoding: str) -> bool:
    """Whether the text is one that the encoding was made for.

    English with a few quotation marks or names has no statistics to speak of. Central European, Baltic and Turkish text
    has letters beyond ASCII in every line; text in other scripts has little else beyond ASCII.
    """
    text = _MARKUP.sub(" ", body.decode(encoding, "replace"))
    letters = sum(map(str.isalpha, text))
    foreign = sum(1 for character in text if character > "\x7f" and unicodedata.category(character)[0] in "LM")
    if encoding in _LATIN:
        return foreign >= 3 and foreign >= 0.01 * letters
    beyond = _beyond_ascii(text)
    return foreign >= 0.5 * beyond and text.count("\ufffd") <= 0.05 * beyond


def _beyond_ascii(text: str) -> int:
    return len(text) - len(text.encode("ascii", "ignore"))
