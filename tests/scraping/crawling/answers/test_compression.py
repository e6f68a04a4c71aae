import gzip
import zlib

import pytest
from hypothesis import given
from hypothesis import strategies as st

from scraping.crawling.answers.compression import CUT_OFF, Decompressed, decompress

TEXT = b"text " * 100


def raw_deflate(data: bytes) -> bytes:
    compressor = zlib.compressobj(wbits=-zlib.MAX_WBITS)
    return compressor.compress(data) + compressor.flush()


@given(st.binary(max_size=500), st.binary(max_size=500))
def test_whatever_was_compressed_comes_back(one, two):
    assert decompress(gzip.compress(one), "gzip", 10_000) == (one, None)
    assert decompress(gzip.compress(one) + gzip.compress(two), "x-gzip", 10_000) == (one + two, None)
    assert decompress(zlib.compress(one), "deflate", 10_000) == (one, None)
    assert decompress(raw_deflate(one), "deflate", 10_000) == (one, None)


@given(st.binary(max_size=200), st.sampled_from(["gzip", "deflate"]))
def test_any_bytes_are_read_or_refused(body, encoding):
    decompress(body, encoding, 1_000)


@pytest.mark.parametrize("rest", [bytes(100), b"<!-- served by x -->"])
def test_what_follows_the_end_is_passed_over(rest):
    assert decompress(gzip.compress(TEXT) + rest, "gzip", 10_000) == (TEXT, None)
    assert decompress(zlib.compress(TEXT) + rest, "deflate", 10_000) == (TEXT, None)


def test_what_is_cut_off_broken_or_too_large_is_said():
    data, problem = decompress(gzip.compress(TEXT)[:-9], "gzip", 10_000)
    assert TEXT.startswith(data)
    assert problem == CUT_OFF
    assert decompress(gzip.compress(TEXT) + b"\x1f\x8bbroken", "gzip", 10_000) == (TEXT, "cannot be decompressed")
    assert decompress(gzip.compress(bytes(10**8)), "gzip", 1_000) == (bytes(1_000), "larger than 1,000 bytes")
    assert decompress(gzip.compress(TEXT), "gzip", len(TEXT)) == (TEXT, None)
    assert decompress(b"", "gzip", 1_000) == Decompressed(b"")


def test_what_is_only_said_to_be_compressed_is_taken_as_it_is():
    page = b"<!DOCTYPE html><html><p>text</p></html>"
    assert decompress(page, "deflate", 10_000) == (page, None)
    assert decompress(page, "deflate", 10) == (page[:10], "larger than 10 bytes")
    assert decompress(zlib.compress(TEXT)[:2] + bytes([255]) * 50, "deflate", 10_000) == (b"", "cannot be decompressed")
