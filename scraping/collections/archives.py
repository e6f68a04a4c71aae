"""Compressed streams and tar archives, read with suspicion.

Compression (xz, gzip, bzip2, zstd) and tar are recognized by content. Nothing is unpacked to disk by the names in an
archive, memory is bounded whatever the input, and what ends early says so: `Damaged` names it.
"""

from __future__ import annotations

import bz2
import gzip
import io
import logging
import lzma
import tarfile
import zlib
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import PurePosixPath
from typing import IO, Any

import pyarrow as pa
import zstandard

logger = logging.getLogger(__name__)

_ZSTD_INPUT = 2 << 10  # a few bytes may stand for 128 KiB of zeros
_MEMBER_BYTES = 16 << 30
_HEADER_BYTES = 1 << 20  # longest name or attribute list of a tar member

# What decoders raise when their input is not what it should be.
DECODER_ERRORS = (
    EOFError, OSError, lzma.LZMAError, pa.ArrowException, tarfile.TarError, zlib.error, zstandard.ZstdError,
)  # fmt: skip


class Damaged(Exception):
    """`name` ends early or is not what it claims to be; everything before the damage was handed out."""

    def __init__(self, name: str, detail: str) -> None:
        super().__init__(name, detail)
        self.name, self.detail = name, detail

    def __str__(self) -> str:
        return f"{self.name} is damaged ({self.detail})"


@contextmanager
def naming_damage(name: str) -> Iterator[None]:
    """Turn what a decoder raises in the block into `Damaged`, which names the file."""
    try:
        yield
    except DECODER_ERRORS as error:
        raise Damaged(name, (str(error).splitlines() or [type(error).__name__])[0]) from error


def decompressed(file: IO[bytes]) -> io.BufferedReader[Any]:
    """The content of a stream, decompressed if it is compressed."""
    stream: io.BufferedReader[Any] = file if isinstance(file, io.BufferedReader) else io.BufferedReader(file)
    start = stream.peek(6)[:6]
    if start.startswith(b"\xfd7zXZ\0"):
        return io.BufferedReader(lzma.LZMAFile(stream))
    if start.startswith(b"\x1f\x8b"):
        return io.BufferedReader(gzip.GzipFile(fileobj=stream))
    if start.startswith(b"BZh"):
        return io.BufferedReader(bz2.BZ2File(stream))
    if start.startswith(b"\x28\xb5\x2f\xfd"):
        return io.BufferedReader(_ZstdStream(stream))
    return stream


class _ZstdStream(io.RawIOBase):
    """zstd frames as a stream that says when the last frame is cut off."""

    def __init__(self, stream: IO[bytes]) -> None:
        self._stream = stream
        self._frame: Any = None
        self._ready = b""

    def readable(self) -> bool:
        return True

    def readinto(self, buffer: Any) -> int:
        while not self._ready:
            within = self._frame is not None and not self._frame.eof
            data = b"" if within or self._frame is None else self._frame.unused_data
            data = data or self._stream.read(_ZSTD_INPUT)
            if not data and within:
                raise EOFError("zstd frame ended before its end marker")
            if not data:
                return 0
            if not within:
                self._frame = zstandard.ZstdDecompressor().decompressobj()
            self._ready = self._frame.decompress(data)
        count = min(len(buffer), len(self._ready))
        buffer[:count], self._ready = self._ready[:count], self._ready[count:]
        return count


def is_tar(stream: io.BufferedReader[Any]) -> bool:
    """Whether a stream, at its start, is a tar archive."""
    return stream.peek(512)[257:262] == b"ustar"


class _Member(tarfile.TarInfo):
    """A tar member: tarfile would take a broken header for the end of the archive, and read headers of any size."""

    @classmethod
    def fromtarfile(cls, archive: tarfile.TarFile) -> _Member:
        try:
            return super().fromtarfile(archive)
        except tarfile.EOFHeaderError:  # type: ignore[attr-defined]  # the block of zeros that ends every archive
            raise
        except tarfile.HeaderError as error:
            raise tarfile.ReadError(f"broken off: {error}") from error

    def _proc_member(self, archive: tarfile.TarFile) -> Any:
        extra = (tarfile.XHDTYPE, tarfile.XGLTYPE, tarfile.GNUTYPE_LONGNAME, tarfile.GNUTYPE_LONGLINK)
        if self.type in extra and self.size > _HEADER_BYTES:
            raise tarfile.ReadError(f"member header of {self.size} bytes")
        return super()._proc_member(archive)  # type: ignore[misc]


def safe_members(name: str, stream: IO[bytes]) -> Iterator[tuple[tarfile.TarInfo, IO[bytes]]]:
    """The regular files of a tar stream, each with its content, to be read before the next is asked for.

    What does not belong in an archive of texts (links, devices, paths outside) is refused and logged.
    """
    with tarfile.open(fileobj=stream, mode="r|", tarinfo=_Member) as archive:
        for member in archive:
            archive.members = []  # type: ignore[attr-defined]  # tarfile remembers every header
            path = PurePosixPath(member.name)
            if member.size > _MEMBER_BYTES:  # not to be skipped: tarfile would read on for hours past the end
                raise tarfile.ReadError(f"{member.name} claims {member.size} bytes")
            if member.isdir():
                continue
            if not member.isreg() or member.issparse():
                logger.warning("%s: refused %s, which is not a regular file", name, member.name)
            elif path.is_absolute() or ".." in path.parts:
                logger.warning("%s: refused %s, a path outside the archive", name, member.name)
            elif content := archive.extractfile(member):
                yield member, content
