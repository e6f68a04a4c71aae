"""Whether a body is a page, by its `Content-Type` and its first bytes: headers are often vague, wrong or missing."""

from __future__ import annotations

import re

HTML_TYPES = ("text/html", "application/xhtml+xml")
UNKNOWN_TYPES = ("", "*/*", "unknown/unknown", "application/unknown", "content/unknown")
VAGUE_TYPES = (*UNKNOWN_TYPES, "text/plain", "application/octet-stream", "application/xml", "text/xml")

_HEAD = 1024  # bytes that are looked at
_MAX_NULS = 0.1  # of them; pages have NULs where a program wrote too much, which browsers pass over
# The group is atomic (`?>`): comments in a row could otherwise be told apart in 2^n ways.
_BEFORE = rb"(?:\xef\xbb\xbf)?\s*(?>(?:<!--.*?-->\s*|<\?xml[^>]*>\s*)*)"
_LOOKS_LIKE_HTML = re.compile(_BEFORE + rb"<(?:!doctype\s+html|html|head|body)\b", re.I | re.S)
# Without a type, browsers also take what begins with one of these elements for a page (MIME Sniffing standard, 7.1).
_BEGINS_WITH_ELEMENT = re.compile(
    _BEFORE + rb"<(?:script|iframe|h1|div|font|table|a|style|title|b|br|p|meta|frameset)[\s>]", re.I | re.S
)
_BINARY = re.compile(
    rb"%PDF-|\x89PNG|GIF8|\xff\xd8\xff|PK\x03\x04|\x1f\x8b|BZh|7z\xbc\xaf|Rar!|\x7fELF|\xd0\xcf\x11\xe0|OggS|ID3|RIFF"
)
_WIDE = re.compile(rb"\xff\xfe|\xfe\xff|\x00\x00\xfe\xff|<\x00[!-~]\x00|\x00<\x00[!-~]")  # UTF-16, UTF-32


def mime_type(content_type: str | None) -> str:
    """The type without its parameters, in small letters; empty if there is none that can be read.

    Example:
        >>> mime_type("Text/HTML; charset=utf-8")
        'text/html'
    """
    mime = (content_type or "").partition(";")[0].partition(",")[0].strip().lower()
    return mime.split(None, 1)[0] if "/" in mime else ""


def is_binary(body: bytes) -> bool:
    """Whether a body is not text in any encoding."""
    head = body[:_HEAD]
    return bool(_BINARY.match(head)) or (head.count(0) > _MAX_NULS * len(head) and not _WIDE.match(head))


def is_html(body: bytes, content_type: str | None) -> bool:
    """Whether a body is an HTML page: a vague header does not decide, and a wrong one does not make a page of an
    image."""
    mime, head = mime_type(content_type), body[:_HEAD]
    if is_binary(body):
        return False
    if mime in HTML_TYPES or (mime in VAGUE_TYPES and _LOOKS_LIKE_HTML.match(head)):
        return True
    return mime in UNKNOWN_TYPES and bool(_BEGINS_WITH_ELEMENT.match(head))
