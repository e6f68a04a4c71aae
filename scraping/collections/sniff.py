"""What a file holds, found out from its bytes: its layout, or what else it seems to be.

Names are believed only where bytes cannot tell: which text is CSV, and that a name which promises an archive is not one
of plain text. Error pages and pointers to files that were never fetched are text too; without this each would become a
document.
"""

from __future__ import annotations

import io
import json
import re
from pathlib import Path
from typing import Any, Literal

from scraping.collections.archives import DECODER_ERRORS, decompressed, is_compressed, is_tar
from scraping.collections.names import named_layout, says_compressed

Layout = Literal["parquet", "tar", "warc", "json", "csv", "text", "empty"]

_HEAD_BYTES = 256 << 10
_TEXT_HEAD_BYTES = 4 << 10
_SAMPLED_LINES = 200
_CONVINCING = 3  # lines that have to be JSON objects where the name does not promise it

# The first bytes of formats that hold no text as it is read here. Sources: the formats' specifications, file(1).
_SIGNATURES = {
    b"version https://git-lfs.github.com/spec/": "a Git LFS pointer", b"/annex/objects/": "a git-annex pointer",
    b"%PDF-": "a PDF file", b"%!PS-": "a PostScript file", b"{\\rtf": "an RTF file", b"!<arch>\n": "an ar archive",
    b"\x80\x02": "a pickle", b"\x80\x03": "a pickle", b"\x80\x04": "a pickle", b"\x80\x05": "a pickle",
    b"(lp0\n": "a pickle", b"(dp0\n": "a pickle", b"ccopy_reg\n": "a pickle",
    b"PK\x03\x04": "a ZIP archive", b"PK\x05\x06": "a ZIP archive", b"7z\xbc\xaf\x27\x1c": "a 7z archive",
    b"Rar!\x1a\x07": "a RAR archive", b"\x04\x22\x4d\x18": "an LZ4 file", b"\xff\x06\x00\x00sNaPpY": "a Snappy file",
    b"\x1f\x9d": "a file of compress(1)", b"\x5d\x00\x00": "an LZMA file", b"\xff\xff\xff\xff": "an Arrow stream",
    b"Obj\x01": "an Avro file", b"\x89HDF": "an HDF5 file", b"\x93NUMPY": "a NumPy array",
    b"\xd0\xcf\x11\xe0": "a file of Microsoft Office", b"\x7fELF": "a program",
    b"\x89PNG": "a PNG image", b"\xff\xd8\xff": "a JPEG image",
    b"\xff\xfe": "UTF-16 text", b"\xfe\xff": "UTF-16 text",
}  # fmt: skip
# Those with which a text may begin too: they count where zero bytes follow.
_WORDS = {
    b"ARROW1": "an Arrow file", b"FEA1": "a Feather file", b"PARE": "an encrypted Parquet file", b"ORC": "an ORC file",
    b"SQLite format 3": "an SQLite database", b"LZIP": "an lzip archive", b"07070": "a cpio archive",
    b"GIF8": "a GIF image", b"RIFF": "a RIFF media file", b"II*": "a TIFF image", b"MM": "a TIFF image",
    b"ID3": "an MP3 file", b"OggS": "an Ogg file", b"fLaC": "a FLAC file", b"MZ": "a program",
}  # fmt: skip
_KNOWN = re.compile(b"|".join(map(re.escape, _SIGNATURES)))
_HTML = re.compile(rb"\s*(<!--.*?-->\s*)*<(!doctype\s+html|html|head|body)\b", re.IGNORECASE | re.DOTALL)
_XML = re.compile(rb"\s*<(\?xml|!doctype)\b", re.IGNORECASE)

_ADVICE = {
    "a Git LFS pointer": "fetch the file itself with git lfs pull",
    "a git-annex pointer": "fetch the file itself with git annex get",
    "an HTML page": "fetch the file again from an address that gives the file itself",
    "an XML document": "fetch the file again from an address that gives the file itself",
    "UTF-16 text": "convert it with iconv -f UTF-16 -t UTF-8",
    "a JSON array": "write one object a line (jq -c '.[]' does)",
    "JSON over several lines": "write one object a line (jq -c . does)",
    "a ZIP archive": "unzip it and set the path to the folder",
    "a compressed Parquet file": "decompress it",
    "a web archive": "give it a name that ends in .warc or .warc.gz",
}
_OTHERWISE = "set the path to Parquet, JSON lines, CSV, WARC, tar archives of texts, or plain text in UTF-8"


class NotCollection(Exception):
    """A file does not hold what its name promises: `seems` says what instead."""

    def __init__(self, seems: str) -> None:
        super().__init__(seems)
        self.seems = seems

    @property
    def advice(self) -> str:
        return _ADVICE.get(self.seems, _OTHERWISE)


def layout_of(path: Path, name: str) -> Layout:
    """The layout of a file, decompressed if it is compressed.

    Args:
        path: where it lies.
        name: its own name, which `path` need not end in.

    Raises:
        NotCollection: it holds something else than its name promises.
        DECODER_ERRORS: not even its beginning is whole.
    """
    with path.open("rb") as file:
        compressed = is_compressed(file.read(_TEXT_HEAD_BYTES))
        file.seek(0)
        stream = decompressed(file)
        head = _read_on(stream, b"", _TEXT_HEAD_BYTES)
        promised = named_layout(name)
        if layout := _layout_of_bytes(head, compressed):
            if layout == "warc" and promised in ("parquet", "json", "csv"):
                raise NotCollection("a web archive")
            return layout
        head = _read_on(stream, head, _HEAD_BYTES)
    if not head.strip():
        return "empty"
    if promised == "tar" and not head.strip(b"\0"):
        if len(head) < _HEAD_BYTES:
            return "empty"  # an archive without a member
        raise NotCollection("nothing but zero bytes")
    if seems := not_text(head):
        raise NotCollection(seems)
    return _layout_of_text(head, promised, says_compressed(name) and not compressed)


def layout_of_head(path: Path) -> Layout | None:
    """The layout that a file's first bytes show by themselves, decompressed; None if they may be text.

    Raises:
        NotCollection: they are of something else.
        DECODER_ERRORS: they are damaged.
    """
    with path.open("rb") as file:
        compressed = is_compressed(file.read(_TEXT_HEAD_BYTES))
        file.seek(0)
        return _layout_of_bytes(_read_on(decompressed(file), b"", _TEXT_HEAD_BYTES), compressed)


def _layout_of_bytes(head: bytes, compressed: bool) -> Layout | None:
    """The layout that the first bytes show by themselves; None if they may be text."""
    if head.startswith(b"PAR1"):
        if compressed:
            raise NotCollection("a compressed Parquet file")
        return "parquet"
    if is_tar(head):
        return "tar"
    if head.startswith(b"WARC/"):
        return "warc"
    if is_compressed(head):
        raise NotCollection("a file that was compressed twice")
    return None


def _read_on(stream: io.BufferedReader[Any], head: bytes, size: int) -> bytes:
    """The beginning of a stream, of which `head` has been read: about so many bytes, as far as they are whole."""
    try:
        while len(head) < size and (more := stream.read1(_TEXT_HEAD_BYTES)):
            head += more
    except DECODER_ERRORS as error:
        if not head or (isinstance(error, OSError) and error.errno):
            raise
    return head


def not_text(head: bytes) -> str | None:
    """What the beginning of something that is not plain text seems to be; None if it is text.

    Example:
        >>> not_text(b"%PDF-1.7"), not_text(b"<!doctype html>"), not_text(b"A text.")
        ('a PDF file', 'an HTML page', None)
    """
    start = head[:_TEXT_HEAD_BYTES].removeprefix(b"\xef\xbb\xbf")
    if known := _KNOWN.match(start):
        return _SIGNATURES[known[0]]
    if b"\0" in start:
        return next((seems for word, seems in _WORDS.items() if start.startswith(word)), "binary data")
    if start[:1] == b"<" or start[:1].isspace():
        if _HTML.match(start):
            return "an HTML page"
        if _XML.match(start):
            return "an XML document"
    return None


def json_object(line: bytes) -> dict[str, Any] | None:
    """The object on a line; None if there is none."""
    try:
        record = json.loads(line.decode("utf-8-sig", "replace"))
    except (ValueError, RecursionError):
        return None
    return record if isinstance(record, dict) else None


def _layout_of_text(head: bytes, promised: str | None, should_be_compressed: bool) -> Layout:
    lines = [line for line in head.split(b"\n") if line.strip()][:_SAMPLED_LINES]
    if len(head) == _HEAD_BYTES and len(lines) > 1:
        lines.pop()  # may go on
    objects = [json_object(line) is not None for line in lines]
    other = _other_json(head) if not objects[0] else None
    if promised == "json":
        is_whole = len(head) < _HEAD_BYTES or len(lines) > 1
        if is_whole and (not any(objects) or (other and sum(objects) < len(objects) / 2)):
            raise NotCollection(other or "text that is not JSON lines")
        return "json"
    if promised == "csv":
        return "csv"
    is_json = all(objects[:_CONVINCING])
    if promised in ("parquet", "tar", "warc"):
        raise NotCollection("JSON" if is_json or other else "plain text")
    if is_json:
        return "json"
    if other and len(head) < _HEAD_BYTES and _is_json(head):
        raise NotCollection(other)
    if should_be_compressed:
        raise NotCollection("plain text that is not compressed")
    return "text"


def _other_json(head: bytes) -> str | None:
    """What JSON that begins so is, where its first line is not an object; None if it is no JSON."""
    start = head.removeprefix(b"\xef\xbb\xbf").lstrip()
    return {b"[": "a JSON array", b"{": "JSON over several lines"}.get(start[:1])


def _is_json(content: bytes) -> bool:
    try:
        json.loads(content.decode("utf-8-sig", "replace"))
    except (ValueError, RecursionError):
        return False
    return True
