"""Bodies and files that come compressed: gzip, of one member or several, and deflate, with or without zlib's frame."""

from __future__ import annotations

import zlib
from typing import NamedTuple

__all__ = ["COMPRESSED", "CUT_OFF", "Decompressed", "decompress"]

COMPRESSED = ("gzip", "x-gzip", "deflate")  # names of content encodings: RFC 9110 (2022) section 8.4.1
CUT_OFF = "cut off"
_GZIP_MAGIC = b"\x1f\x8b"


class Decompressed(NamedTuple):
    """What a compressed body holds, as far as it can be read, and what is wrong with it."""

    data: bytes
    problem: str | None = None


def decompress(body: bytes, encoding: str, max_bytes: int) -> Decompressed:
    """Undo one of the encodings `COMPRESSED`; never more than `max_bytes` are held.

    What stands behind the end of a compressed body is passed over, as browsers do. A body that does not begin as gzip,
    or as zlib and is no deflate, is taken as it is: some servers set the header on pages that they send uncompressed.
    """
    if encoding != "deflate" and not body.startswith(_GZIP_MAGIC):
        return _as_it_is(body, max_bytes)
    parts: list[bytes] = []
    size = 0
    while body and (not parts or (encoding != "deflate" and body.startswith(_GZIP_MAGIC))):
        window_bits = _window_bits(body, encoding)
        decompressor = zlib.decompressobj(window_bits)
        try:
            parts.append(decompressor.decompress(body, max_bytes - size + 1))
        except zlib.error:
            if not parts and window_bits < 0:
                return _as_it_is(body, max_bytes)
            return Decompressed(b"".join(parts), "cannot be decompressed")
        size += len(parts[-1])
        if size > max_bytes:
            return Decompressed(b"".join(parts)[:max_bytes], f"larger than {max_bytes:,} bytes")
        if not decompressor.eof:
            return Decompressed(b"".join(parts), CUT_OFF)
        body = decompressor.unused_data
    return Decompressed(b"".join(parts))


def _as_it_is(body: bytes, max_bytes: int) -> Decompressed:
    return Decompressed(body[:max_bytes], f"larger than {max_bytes:,} bytes" if len(body) > max_bytes else None)


def _window_bits(body: bytes, encoding: str) -> int:
    if encoding != "deflate":
        return 16 + zlib.MAX_WBITS
    # Some servers leave zlib's frame off: its first two bytes, a multiple of 31, say which it is (RFC 1950).
    has_frame = body[0] & 0x0F == 8 and int.from_bytes(body[:2], "big") % 31 == 0
    return zlib.MAX_WBITS if has_frame else -zlib.MAX_WBITS
