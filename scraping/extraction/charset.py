"""Which character set a page is in, and its text.

The order is that of browsers (WHATWG Encoding and HTML standards): byte order mark, `Content-Type` header, `<meta>`. A
page that declares none is UTF-8 if its bytes are valid UTF-8, else Windows-1252.
"""

from __future__ import annotations

import re

from w3lib.encoding import html_body_declared_encoding, http_content_type_encoding, read_bom, to_unicode

# Python knows codecs that are not character sets (hex, zlib, punycode, which takes hours): no page may choose those.
_CHARACTER_SET = re.compile(
    r"(?:utf-(?:8|16|32)|ascii|iso8859|iso2022|cp\d|koi8|mac|gb|big5|euc|shift_jis|hz|johab|tis)", re.I
)


def decode(body: bytes, content_type: str | None = None) -> str:
    """Text of a page; bytes that its encoding cannot hold become U+FFFD. Never raises.

    Example:
        >>> decode(b"caf\\xe9", "text/html; charset=latin-1"), decode(b"caf\\xc3\\xa9")
        ('café', 'café')
    """
    encoding, mark = read_bom(body)
    return to_unicode(body[len(mark or b"") :], encoding or declared_encoding(body, content_type))


def declared_encoding(body: bytes, content_type: str | None) -> str:
    """Name of the encoding of a page without a byte order mark."""
    header = http_content_type_encoding(content_type)
    if header and _CHARACTER_SET.match(header):
        return header
    meta = html_body_declared_encoding(body)
    if meta and _CHARACTER_SET.match(meta) and not meta.startswith(("utf-16", "utf-32")):  # for `<meta>` was readable
        return meta
    try:
        body.decode("utf-8")
    except UnicodeDecodeError:
        return "cp1252"
    return "utf-8"
