"""Which character set a page is in, and its text.

The order is that of browsers (WHATWG Encoding and HTML standards): byte order mark, `Content-Type` header, `<meta>`. A
page that declares none is UTF-8 if its bytes are valid UTF-8, else Windows-1252.
"""

from __future__ import annotations

import codecs
import re

from w3lib.encoding import html_body_declared_encoding, http_content_type_encoding, read_bom

# Python knows codecs that are not character sets (hex, zlib, punycode, which takes hours): no page may choose those.
_CHARACTER_SET = re.compile(
    r"(?:utf-(?:8|16|32)|ascii|iso8859|iso2022|cp\d|koi8|mac|gb|big5|euc|shift_jis|hz|johab|tis)", re.I
)

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
    try:
        body.decode("utf-8")
    except UnicodeDecodeError:
        return "cp1252"
    return "utf-8"
