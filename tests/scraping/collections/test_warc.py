"""Web archives as collections: the texts of WET files and the pages of WARC files, each record by itself."""

from __future__ import annotations

import gzip
import io
import json
import re
import tarfile

import pytest
import zstandard
from warcio.statusandheaders import StatusAndHeaders
from warcio.warcwriter import WARCWriter

from flows.stages.ingest import ingest as stage
from flows.store.local import Store
from scraping.collections.config import IngestConfig
from scraping.collections.ingest import ingest
from scraping.shards import read_rows, shards
from textmill.errors import UserError

TEXTS = [f"Page {n} tells at length of the harbour, of its {n} ships and of the weather at sea. é" for n in range(12)]


def archive(records, compress=True):
    buffer = io.BytesIO()
    writer = WARCWriter(buffer, gzip=compress)
    writer.write_record(writer.create_warcinfo_record("a.warc.gz", {"software": "a crawler"}))
    for record in records:
        writer.write_record(record(writer))
    return buffer.getvalue()


def wet(number, text=None, **headers):
    headers = {"WARC-Identified-Content-Language": "eng,deu", **headers}
    content = (TEXTS[number] if text is None else text).encode()
    return lambda writer: writer.create_warc_record(
        f"http://site.example/{number}", "conversion", io.BytesIO(content),
        warc_content_type="text/plain", warc_headers_dict=headers,
    )  # fmt: skip


def page(number, status="200 OK", media="text/html; charset=utf-8", encode=None, body=None):
    paragraphs = "".join(f"<p>{TEXTS[number]} This is paragraph {n} of it.</p>" for n in range(4))
    body = (
        f"<html><head><title>Page {number}</title></head><body><main>{paragraphs}</main></body></html>".encode()
        if body is None
        else body
    )
    headers = [("Content-Type", media)]
    if encode == "gzip":
        body, headers = gzip.compress(body), [*headers, ("Content-Encoding", "gzip")]
    if encode == "chunked":
        body, headers = b"%x\r\n%b\r\n0\r\n\r\n" % (len(body), body), [*headers, ("Transfer-Encoding", "chunked")]
    answer = StatusAndHeaders(status, headers, protocol="HTTP/1.1")
    return lambda writer: writer.create_warc_record(
        f"http://site.example/{number}", "response", io.BytesIO(body), http_headers=answer
    )


def request(number):
    line = StatusAndHeaders(f"GET /{number} HTTP/1.1", [("Host", "site.example")], is_http_request=True)
    return lambda writer: writer.create_warc_record(f"http://site.example/{number}", "request", http_headers=line)


def run(path, out, **settings):
    ingest(IngestConfig(path=str(path), **settings), out)
    return list(read_rows(shards(out)))


def skipped(out):
    items = [json.loads(line) for line in (out / "skipped.jsonl").read_text().splitlines()]
    return [(item["reason"], item["detail"].partition(":http")[0]) for item in items]


def stats(out):
    return json.loads((out / "stats.json").read_text())


@pytest.mark.parametrize("suffix", ["", ".gz", ".zst"])
def test_the_texts_of_a_wet_file(suffix, tmp_path):
    content = archive(map(wet, range(12)), compress=suffix == ".gz")
    if suffix == ".zst":
        content = zstandard.compress(content)
    (tmp_path / f"a.warc.wet{suffix}").write_bytes(content)
    rows = run(tmp_path, tmp_path / "out")
    assert [row["text"] for row in rows] == TEXTS
    assert {(row["url"], row["lang"]) for row in rows} == {(f"http://site.example/{n}", "eng") for n in range(12)}
    assert not (tmp_path / "out/skipped.jsonl").exists()


def test_the_pages_of_a_warc_file_are_extracted(tmp_path):
    records = [
        page(0), request(1), page(1, encode="gzip"), page(2, encode="chunked"), page(3, status="404 Not Found"),
        page(4, media="image/png"), page(5, media="text/plain"), page(6, body=b"\x89PNG\r\n\x1a\n" + bytes(99)),
        page(7, body=b"<title>Nothing</title>"),
    ]  # fmt: skip
    (tmp_path / "a.warc.gz").write_bytes(archive(records))
    rows = run(tmp_path, tmp_path / "out")
    assert [row["url"].rpartition("/")[2] for row in rows] == ["0", "1", "2", "5"]
    for row, number in zip(rows[:3], range(3), strict=True):
        assert row["title"] == f"Page {number}"
        assert row["text"].count(TEXTS[number]) == 4 and "<" not in row["text"]
    assert stage.headline(stats(tmp_path / "out")) == (
        "4 documents, 1 without text, not read: HTTP 404 1, image/png 1, no text page 1"
    )


@pytest.mark.parametrize("compress", [True, False])
def test_a_damaged_record_costs_itself(compress, tmp_path):
    content = bytearray(archive(map(wet, range(12)), compress))
    starts = [found.start() for found in re.finditer(rb"\x1f\x8b\x08|WARC/1\.", content)]
    assert len(starts) == 13
    content[starts[6] : starts[6] + 4] = b"\0" * 4
    (tmp_path / "a.warc").write_bytes(content)
    assert [row["text"] for row in run(tmp_path / "a.warc", tmp_path / "out")] == TEXTS[:5] + TEXTS[6:]
    assert [reason for reason, _ in skipped(tmp_path / "out")] == ["part of a damaged file"]


def test_a_record_that_does_not_match_its_digest_is_damaged(tmp_path):
    content = archive(map(wet, range(12)), compress=False)
    (tmp_path / "a.warc").write_bytes(content.replace(b"Page 7 tells", b"Page 7 tolls"))
    assert [row["text"] for row in run(tmp_path / "a.warc", tmp_path / "out")] == TEXTS[:7] + TEXTS[8:]
    assert skipped(tmp_path / "out") == [("damaged", "http://site.example/7: not what its digest says")]


@pytest.mark.parametrize("compress", [True, False])
def test_an_archive_that_breaks_off_says_so(compress, tmp_path):
    content = archive(map(wet, range(12)), compress)
    (tmp_path / "a.warc.gz").write_bytes(content[:-40])
    assert [row["text"] for row in run(tmp_path / "a.warc.gz", tmp_path / "out")] == TEXTS[:11]
    assert [reason for reason, _ in skipped(tmp_path / "out")] == ["rest of a damaged file"]


def test_an_error_page_is_no_archive(tmp_path):
    (tmp_path / "a.warc.gz").write_bytes(b"AccessDenied")
    with pytest.raises(UserError, match=r"a\.warc\.gz is plain text"):
        run(tmp_path, tmp_path / "out")


# --- lists of paths, as Common Crawl has them -------------------------------------------------------------------------


@pytest.fixture
def crawl(site):
    """Two WET files and lists of them, served on loopback."""
    for number in range(2):
        content = archive(wet(n) for n in range(6 * number, 6 * number + 6))
        site.routes[f"/crawl-data/segments/{number}/wet/a.warc.wet.gz"] = raw(content)
    paths = "".join(f"crawl-data/segments/{number}/wet/a.warc.wet.gz\n" for number in range(2))
    site.routes["/crawl-data/wet.paths.gz"] = raw(gzip.compress(paths.encode()))
    site.routes["/crawl-data/wrong.paths.gz"] = raw(b"<html>Not found</html>")
    return site


def raw(content):
    def serve(handler):
        handler.wfile.write(b"HTTP/1.1 200 OK\r\nContent-Length: %d\r\n\r\n%b" % (len(content), content))

    return serve


def test_a_list_of_paths_is_read_like_its_files(crawl, tmp_path):
    rows = run(crawl.url("/crawl-data/wet.paths.gz"), tmp_path / "out")
    assert [row["text"] for row in rows] == TEXTS
    assert sorted(path.name for path in (tmp_path / "out").iterdir()) == ["part-00000.parquet", "stats.json"]
    (tmp_path / "wet.paths").write_text(
        "\n".join(crawl.url(f"/crawl-data/segments/{n}/wet/a.warc.wet.gz") for n in (1, 0))
    )
    assert [row["text"] for row in run(tmp_path / "wet.paths", tmp_path / "local")] == TEXTS[6:] + TEXTS[:6]


def test_of_a_list_no_more_is_fetched_than_a_limit_needs(crawl, tmp_path):
    assert len(run(crawl.url("/crawl-data/wet.paths.gz"), tmp_path / "out", limit=3, workers=1)) == 3
    assert not [hit for hit in crawl.log if "/segments/1/" in hit.path]


def test_what_is_no_list_of_paths_is_refused(crawl, tmp_path):
    with pytest.raises(UserError, match=r"wrong\.paths\.gz lists <html>Not"):
        run(crawl.url("/crawl-data/wrong.paths.gz"), tmp_path / "out")


def test_a_web_archive_is_read_anew_by_another_model(tmp_path, monkeypatch):
    content = archive([page(0)])
    (tmp_path / "a.warc.gz").write_bytes(content)
    (tmp_path / "pages.txt").write_bytes(content)
    with tarfile.open(tmp_path / "a.tar", "w") as tar:
        tar.add(tmp_path / "a.warc.gz", "a.warc.gz")
    (tmp_path / "a.jsonl").write_text('{"text": "WARC/1.0"}')
    (tmp_path / "a.txt").write_text(TEXTS[0])
    store = Store(tmp_path / "store")
    with_pages = [
        *(tmp_path / name for name in ("a.warc.gz", "pages.txt", "a.tar")), "http://127.0.0.1:9/wet.paths.gz?x=1",
        "http://127.0.0.1:9/a.tar.xz", "hf://datasets/owner/name",
    ]  # fmt: skip
    others = [tmp_path / "a.txt", tmp_path / "a.jsonl", "http://127.0.0.1:9/a.parquet"]
    paths = [*with_pages, *others]
    for path in with_pages[:3]:  # they are read alike
        assert len(run(path, tmp_path / f"out-{path.name}")) == 1

    def identities():
        return [stage.identity(IngestConfig(path=str(path)), store) for path in paths]

    before = identities()
    monkeypatch.setattr("flows.stages.ingest.model_digest", lambda: "another")
    assert [one == other for one, other in zip(before, identities(), strict=True)] == [path in others for path in paths]


def test_a_web_archive_of_another_name_is_refused(tmp_path):
    (tmp_path / "a.jsonl.gz").write_bytes(archive([page(0)]))
    with pytest.raises(UserError, match=r"a\.jsonl\.gz is a web archive, .*give it a name that ends in \.warc"):
        run(tmp_path, tmp_path / "out")


@pytest.mark.parametrize("whole", [True, False])
def test_a_broken_answer_costs_itself(whole, tmp_path):
    def broken(writer):
        answer = StatusAndHeaders(
            "200 OK", [("Content-Type", "text/html"), ("Transfer-Encoding", "chunked")], protocol="HTTP/1.1"
        )
        body = io.BytesIO(b"zz\r\n<p>No chunk.</p>")
        return writer.create_warc_record("http://site.example/broken", "response", body, http_headers=answer)

    records = [wet(0), broken, wet(1), wet(2)]
    content = gzip.compress(archive(records, compress=False)) if whole else archive(records)
    (tmp_path / "a.warc.gz").write_bytes(content)
    assert [row["text"] for row in run(tmp_path, tmp_path / "out")] == TEXTS[:3]
    assert stats(tmp_path / "out")["skipped"] == {"damaged": 1}
