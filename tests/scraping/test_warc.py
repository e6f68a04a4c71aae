"""A crawl as web archives: what `warcio` reads of them is what the server sent."""

from __future__ import annotations

import json

import pytest
from warcio.archiveiterator import ArchiveIterator

from scraping import warc
from scraping.collections.config import IngestConfig
from scraping.collections.ingest import ingest
from scraping.shards import read_rows, shards
from scraping.warc import write_warc
from textmill.errors import UserError


def read(path):
    """The records of a file, each with its body; a wrong digest is an error."""
    with path.open("rb") as file:
        for record in ArchiveIterator(file, check_digests="raise"):
            yield record, record.content_stream().read()


@pytest.fixture
def snapshot(site, answer, page, make_source, run_crawl, tmp_path):
    """A crawl of pages, one of which is not UTF-8 and one behind a redirect, and its pages by URL."""
    site.routes["/"] = page("/old", "/latin?a=1&b=2", "/gone")
    site.routes["/old"] = answer("", 301, {"Location": "/new"})
    site.routes["/new"] = answer(page(), headers={"ETag": '"1"', "Last-Modified": "Sat, 09 May 2026 07:35:33 GMT"})
    latin = "<html><body><p>Café à la carte</p></body></html>".encode("latin-1")
    site.routes["/latin?a=1&b=2"] = answer(latin, content_type='text/html; charset="iso-8859-1"')
    pages = run_crawl(make_source())
    assert len(pages) == 3
    return tmp_path / "out", pages


def test_every_page_is_a_response_with_its_request_and_the_bytes_that_the_server_sent(snapshot, site, tmp_path):
    folder, pages = snapshot
    written = write_warc(folder, tmp_path / "archive")
    assert (written.pages, written.redirects, len(written.files)) == (3, 1, 1)
    records = list(read(written.files[0]))
    first, about = records[0]
    assert first.rec_type == "warcinfo" and b"software: textmill" in about
    responses = {
        record.rec_headers["WARC-Target-URI"]: (record, body)
        for record, body in records
        if record.rec_type == "response"
    }
    requests = {record.rec_headers["WARC-Target-URI"]: record for record, _ in records if record.rec_type == "request"}
    assert requests.keys() == pages.keys()
    for url, row in pages.items():
        response, body = responses.pop(url)
        assert body == row["body"]
        assert response.http_headers.get_statuscode() == "200"
        assert response.http_headers["Content-Type"] == row["content_type"]
        assert response.rec_headers["WARC-Date"] == f"{row['fetched_at']:%Y-%m-%dT%H:%M:%SZ}"
        request = requests[url]
        assert request.rec_headers["WARC-Concurrent-To"] == response.rec_headers["WARC-Record-ID"]
        assert request.rec_headers["Content-Type"] == "application/http; msgtype=request"
        assert request.http_headers["Host"] == site.host
    assert requests[site.url("/latin?a=1&b=2")].http_headers.statusline == "/latin?a=1&b=2 HTTP/1.1"
    [(redirect, nothing)] = responses.values()
    assert redirect.rec_headers["WARC-Target-URI"] == site.url("/old") and nothing == b""
    assert redirect.http_headers.get_statuscode() == "301" and redirect.http_headers["Location"] == site.url("/new")


def test_validators_are_kept_and_ids_are_different(snapshot, site, tmp_path):
    folder, _ = snapshot
    records = [record for record, _ in read(write_warc(folder, tmp_path / "archive").files[0])]
    assert len({record.rec_headers["WARC-Record-ID"] for record in records}) == len(records)
    [new] = [
        record
        for record in records
        if record.rec_type == "response" and record.rec_headers["WARC-Target-URI"] == site.url("/new")
    ]
    assert new.http_headers["ETag"] == '"1"'
    assert new.http_headers["Last-Modified"] == "Sat, 09 May 2026 07:35:33 GMT"


def test_the_same_snapshot_gives_the_same_bytes_and_a_full_file_is_followed_by_another(snapshot, tmp_path, monkeypatch):
    folder, pages = snapshot
    one, two = (write_warc(folder, tmp_path / name).files[0].read_bytes() for name in ("one", "two"))
    assert one == two
    monkeypatch.setattr(warc, "FILE_BYTES", 500)
    files = write_warc(folder, tmp_path / "many").files
    assert [file.name for file in files] == [f"test-{number:05d}.warc.gz" for number in range(len(files))]
    assert len(files) > 1
    records = [list(read(file)) for file in files]
    assert all(of_file[0][0].rec_type == "warcinfo" and len(of_file) > 1 for of_file in records)
    urls = [record.rec_headers["WARC-Target-URI"] for of_file in records for record, _ in of_file[1:]]
    assert set(urls) > pages.keys() and len(urls) == 2 * len(pages) + 1


@pytest.mark.long
def test_what_was_exported_is_a_collection_to_ingest(site, page, make_source, run_crawl, tmp_path):
    text = "A page of some length about rivers, stones and the letters that a captain wrote home in winter. " * 5
    site.routes["/"] = page("/other", text=text)
    site.routes["/other"] = page(text=text.replace("rivers", "harbours"))
    pages = run_crawl(make_source())
    write_warc(tmp_path / "out", tmp_path / "archive")
    ingest(IngestConfig(path=str(tmp_path / "archive"), name="archive"), tmp_path / "ingested")
    documents = {row["url"]: row["text"] for row in read_rows(shards(tmp_path / "ingested"))}
    assert documents.keys() == pages.keys()
    assert "harbours" in documents[site.url("/other")]


def test_what_is_no_snapshot_and_a_folder_in_use_are_refused(snapshot, tmp_path):
    folder, _ = snapshot
    (tmp_path / "used").mkdir()
    (tmp_path / "used" / "file").write_text(json.dumps({}))
    with pytest.raises(UserError, match="is not empty"):
        write_warc(folder, tmp_path / "used")
    with pytest.raises(UserError, match="is not a snapshot of a crawl"):
        write_warc(tmp_path / "used", tmp_path / "new")
    assert not (tmp_path / "new").exists()
    with pytest.raises(UserError, match="file is a file; export to a new folder"):
        write_warc(folder, tmp_path / "used" / "file")
    assert (tmp_path / "used" / "file").read_text() == "{}"
