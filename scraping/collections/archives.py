"""Compressed streams and tar archives, read with suspicion.

Compression (xz, gzip, bzip2, zstd) and tar are recognized by content. Nothing is unpacked to disk by the names in an
archive, memory is bounded whatever the input, and what is damaged raises one of `DECODER_ERRORS`.
"""

from __future__ import annotations

import bz2
import gzip
import io
import lzma
import tarfile
import zlib
from collections.abc import Iterator
from pathlib import PurePosixPath
from typing import IO, Any

import pyarrow as pa
import zstandard

from scraping.collections.skipped import Skipped, part_of, unread
from textmill.errors import Unavailable, first_line

XZ, GZIP, BZIP2, ZSTD = b"\xfd7zXZ\0", b"\x1f\x8b", b"BZh", b"\x28\xb5\x2f\xfd"
_ZSTD_WINDOW = 2 << 30  # the largest that `zstd --long=31` makes; as much memory is taken as the content fills
_ZSTD_INPUT = 2 << 10  # a few bytes may stand for 128 KiB of zeros
_MEMBER_BYTES = 16 << 30
_HEADER_BYTES = 1 << 20  # longest name or attribute list of a tar member

# What decoders raise when their input is not what it should be.
DECODER_ERRORS = (
    EOFError, OSError, UnicodeDecodeError, lzma.LZMAError, pa.ArrowException, tarfile.TarError, zlib.error,
    zstandard.ZstdError,
)  # fmt: skip


def complaint(error: BaseException) -> str:
    """What a decoder says of its input, in one line of bounded length."""
    return first_line(error)[:200]


def reraise_failure(name: str, error: BaseException) -> None:
    """Where the disk or the network failed, and not the bytes of `name`, say so: nothing is damaged then.

    Raises:
        Unavailable: the operating system refused to read or write.
    """
    if isinstance(error, OSError) and error.errno:
        reason = error.strerror or complaint(error)
        raise Unavailable(f"cannot go on with {name} ({reason}): mend that and run again.") from error


def is_compressed(start: bytes) -> bool:
    """Whether a file with these first bytes is compressed in a way that is read here."""
    return start.startswith((XZ, GZIP, BZIP2, ZSTD)) or _is_skippable(start)


def decompressed(file: IO[bytes]) -> io.BufferedReader[Any]:
    """The content of a stream, decompressed if it is compressed."""
    stream: io.BufferedReader[Any] = file if isinstance(file, io.BufferedReader) else io.BufferedReader(file)
    start = stream.peek(6)[:6]
    if start.startswith(XZ):
        return io.BufferedReader(_Stepwise(lzma.LZMAFile(stream)))
    if start.startswith(GZIP):
        return io.BufferedReader(_Stepwise(gzip.GzipFile(fileobj=stream)))
    if start.startswith(BZIP2):
        return io.BufferedReader(_Stepwise(bz2.BZ2File(stream)))
    if start.startswith(ZSTD) or _is_skippable(start):
        return io.BufferedReader(_ZstdStream(stream))
    return stream


def _is_skippable(start: bytes) -> bool:
    """Whether a zstd frame begins here that holds no data (RFC 8878, section 3.1.2)."""
    return len(start) >= 4 and 0x50 <= start[0] <= 0x5F and start[1:4] == b"\x2a\x4d\x18"


class _Stepwise(io.RawIOBase):
    """A decompressed file that hands out what there is: asked for more, it would lose that where damage follows."""

    def __init__(self, file: lzma.LZMAFile | gzip.GzipFile | bz2.BZ2File) -> None:
        self._file = file

    def readable(self) -> bool:
        return True

    def readinto(self, buffer: Any) -> int:
        data = self._file.read1(len(buffer))
        buffer[: len(data)] = data
        return len(data)


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
                self._frame = zstandard.ZstdDecompressor(max_window_size=_ZSTD_WINDOW).decompressobj()
            self._ready = self._frame.decompress(data)
        count = min(len(buffer), len(self._ready))
        buffer[:count], self._ready = self._ready[:count], self._ready[count:]
        return count


def is_tar(head: bytes) -> bool:
    """Whether content that begins with `head` is a tar archive: of any kind, so also without `ustar` in its header."""
    if head[257:262] == b"ustar":
        return True
    try:
        tarfile.TarInfo.frombuf(head[:512], "utf-8", "surrogateescape")  # compares the header's checksum
    except tarfile.TarError:
        return False
    return True


class _Member(tarfile.TarInfo):
    """A tar member: tarfile would take a broken header for the end of the archive, and read headers of any size."""

    @classmethod
    def fromtarfile(cls, archive: tarfile.TarFile) -> _Member:
        assert isinstance(archive, _Archive)
        try:
            member = super().fromtarfile(archive)
        except tarfile.EOFHeaderError:  # type: ignore[attr-defined]  # the block of zeros that ends every archive
            archive.ended = True
            raise
        except (tarfile.EmptyHeaderError, tarfile.TruncatedHeaderError) as error:  # type: ignore[attr-defined]
            if archive.ended:
                raise tarfile.EmptyHeaderError("end") from error  # type: ignore[attr-defined]
            raise tarfile.ReadError(f"broken off: {error}") from error
        except tarfile.HeaderError as error:  # the archive goes on at the next block that is a header
            archive.lost = archive.lost or not archive.ended
            raise tarfile.InvalidHeaderError(str(error)) from error  # type: ignore[attr-defined]
        archive.ended = False
        return member

    def _proc_member(self, archive: tarfile.TarFile) -> Any:
        extra = (tarfile.XHDTYPE, tarfile.XGLTYPE, tarfile.GNUTYPE_LONGNAME, tarfile.GNUTYPE_LONGLINK)
        if self.type in extra and self.size > _HEADER_BYTES:
            raise tarfile.ReadError(f"member header of {self.size} bytes")
        return super()._proc_member(archive)  # type: ignore[misc]


class _Archive(tarfile.TarFile):
    """A tar archive read once, from its start; one that is appended to another is read too.

    Attributes:
        ended: whether the end mark was the last thing read.
        lost: whether something was read, since that was last asked, that is neither a member nor an end mark.
    """

    tarinfo = _Member
    ignore_zeros = True
    ended = False
    lost = False


def members_of(name: str, stream: IO[bytes]) -> Iterator[tuple[tarfile.TarInfo, IO[bytes]] | Skipped]:
    """The regular files of a tar stream, each with its content, to be read before the next is asked for.

    What does not belong in an archive of texts (links, devices, paths outside) is skipped.
    """
    last = "the start"
    with _Archive.open(fileobj=stream, mode="r|", tarinfo=_Member, ignore_zeros=True) as archive:
        for member in archive:
            archive.members = []  # type: ignore[attr-defined]  # tarfile remembers every header
            if archive.lost:
                archive.lost = False
                yield part_of(name, f"after {last}", "broken headers")
            last = member.name
            path = PurePosixPath(member.name)
            if member.size > _MEMBER_BYTES:  # not to be skipped: tarfile would read on for hours past the end
                raise tarfile.ReadError(f"{member.name} claims {member.size} bytes")
            if member.isdir():
                continue
            if not member.isreg() or member.issparse():
                yield unread(name, member.name, "not a regular file")
            elif path.is_absolute() or ".." in path.parts:
                yield unread(name, member.name, "a path outside the archive")
            elif content := archive.extractfile(member):
                yield member, content
        if archive.lost:
            yield part_of(name, f"after {last}", "broken headers")
