"""Ingesting from a URL: the same documents as from the file, however often the download breaks off."""

from __future__ import annotations

import json
import re
import signal
import subprocess
import sys
import time

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import requests

from scraping.collections import download as download_module
from scraping.collections.config import IngestConfig
from scraping.collections.download import download
from scraping.collections.files import ingest_files
from scraping.collections.ingest import ingest
from scraping.collections.remote import is_remote
from textmill.errors import Unavailable, UserError


class FileServer:
    """Serves `content` under one path, `budget` bytes of body a request, with or without ranges and versions."""

    def __init__(self, site, content: bytes, path: str, budget: int = 1 << 30):
        self.site, self.content, self.budget = site, content, budget
        self.version, self.ranges, self.pause = '"1"', True, 0.0
        self.failures: list[int] = []
        self.path, self.url = path, site.url(path)
        site.routes[path] = self.serve

    def asked(self) -> list[int]:
        """Where each request began."""
        headers = [hit.headers for hit in self.site.log if hit.path == self.path]
        return [int(re.search(r"\d+", header.get("Range", "bytes=0-"))[0]) for header in headers]

    def serve(self, handler):
        write = handler.wfile.write
        if self.failures:
            write(f"HTTP/1.1 {self.failures.pop(0)} No\r\nContent-Length: 0\r\nConnection: close\r\n\r\n".encode())
            return
        start = 0
        if self.ranges and handler.headers.get("If-Range") == self.version:
            start = int(re.match(r"bytes=(\d+)-$", handler.headers["Range"])[1])
        rest = self.content[start:]
        status = f"206 Partial\r\nContent-Range: bytes {start}-/{len(self.content)}" if start else "200 OK"
        version = f"ETag: {self.version}\r\n" if self.version else ""
        write(f"HTTP/1.1 {status}\r\n{version}Content-Length: {len(rest)}\r\n\r\n".encode())
        for at in range(0, min(len(rest), self.budget), 1 << 16):
            write(rest[at : min(at + (1 << 16), self.budget)])
            time.sleep(self.pause)


@pytest.fixture(autouse=True)
def no_pauses(monkeypatch):
    monkeypatch.setattr(download_module, "_PAUSE", 0.001)


@pytest.fixture
def collection(tmp_path):
    """A Parquet file of some 1.5 MB that compression cannot shrink much."""
    texts = [f"document {i} " + " ".join(str((i * 7919 + j * 104729) ** 3) for j in range(60)) for i in range(1_500)]
    path = tmp_path / "train-00000-of-00001.parquet"
    pq.write_table(pa.table({"text": texts}), path, row_group_size=300, compression="none")
    return path


def quiet(*_, **__):
    pass


def test_a_url_gives_the_same_bytes_as_the_file(site, collection, tmp_path):
    server = FileServer(site, collection.read_bytes(), f"/data/{collection.name}")
    config = IngestConfig(path=f"{server.url}?download=true", name="owt")
    assert is_remote(config.path)
    assert ingest_files(config) == []
    ingest(config, tmp_path / "remote", quiet)
    ingest(IngestConfig(path=str(collection), name="owt"), tmp_path / "local", quiet)
    assert sorted(p.name for p in (tmp_path / "remote").iterdir()) == ["part-00000.parquet", "stats.json"]
    for name in ("part-00000.parquet", "stats.json"):
        assert (tmp_path / "remote" / name).read_bytes() == (tmp_path / "local" / name).read_bytes()


def test_a_broken_download_goes_on_where_it_stopped(site, tmp_path):
    content = bytes(range(256)) * 4_000
    server = FileServer(site, content, "/a.parquet", budget=300_000)
    reported = []
    path = download(server.url, tmp_path, lambda done, total, **figures: reported.append((done, total)))
    assert path.read_bytes() == content
    assert server.asked() == [0, 299_999, 599_998, 899_997]
    assert reported[-1] == (len(content), len(content)) and reported == sorted(reported)
    assert [p.name for p in tmp_path.iterdir()] == ["a.parquet"]
    download(server.url, tmp_path, quiet)
    assert len(server.asked()) == 4, "what is there is not asked for"


@pytest.mark.parametrize("change", ["version", "no versions", "no ranges"])
def test_halves_of_different_files_are_never_joined(change, site, tmp_path):
    server = FileServer(site, b"old" * 100_000, "/a.txt", budget=200_000)
    server.failures = []
    if change == "no versions":
        server.version = ""
    with pytest.raises(KeyboardInterrupt):
        download(server.url, tmp_path, interrupt_after(50_000))
    server.content, server.budget = b"new" * 90_000, 1 << 30
    if change == "version":
        server.version = '"2"'
    server.ranges = change != "no ranges"
    assert download(server.url, tmp_path, quiet).read_bytes() == server.content


def interrupt_after(size: int):
    def progress(done, *_, **__):
        if done >= size:
            raise KeyboardInterrupt

    return progress


def test_a_whole_file_that_was_not_yet_named_is_not_fetched_again(site, tmp_path):
    server = FileServer(site, b"x" * 3_000_000, "/a.txt")
    with pytest.raises(KeyboardInterrupt):
        download(server.url, tmp_path, interrupt_after(3_000_000))
    download(server.url, tmp_path, quiet)
    assert server.asked() == [0, 2_999_999]


def test_trouble_passes_or_ends(site, tmp_path):
    server = FileServer(site, b"text", "/a.txt")
    server.failures = [503, 429, 500]
    assert download(server.url, tmp_path, quiet).read_bytes() == b"text"
    server.failures = [503] * 20
    with pytest.raises(requests.ConnectionError, match="answered 503"):
        download(server.url, tmp_path / "other", quiet)
    assert len(server.failures) == 15
    with pytest.raises(Unavailable, match=r"cannot fetch .*a\.txt \(the server answered 503\): go online"):
        ingest(IngestConfig(path=server.url), tmp_path / "out", quiet)
    assert len(server.failures) == 14, "trouble at the start is told at once"


def test_what_cannot_be_had_is_one_line(site, tmp_path):
    for url, message in (
        (site.url("/missing.parquet"), r"\(the server answered 404\)"),
        ("http://no-such-host.invalid/a.parquet", r"cannot fetch http://no-such-host\.invalid/a\.parquet"),
        (site.url("/data/"), "not the URL of a Parquet"),
        ("https:///a.txt", "cannot fetch"),
    ):
        with pytest.raises(UserError, match=message) as error:
            ingest_files(IngestConfig(path=url))
        assert "\n" not in str(error.value)
        with pytest.raises(UserError, match=message):
            ingest(IngestConfig(path=url), tmp_path / "out", quiet)


def test_a_file_that_its_server_refuses_is_a_mistake_and_not_an_outage(site):
    with pytest.raises(UserError, match="answered 404") as error:
        ingest_files(IngestConfig(path=site.url("/missing.parquet")))
    assert not isinstance(error.value, Unavailable)


PROGRAM = """
import sys
from pathlib import Path
import scraping.collections.ingest as module
module.SHARD_BYTES = 300_000
module.ingest(module.IngestConfig(path=sys.argv[1], name="owt"), Path(sys.argv[2]), lambda *_, **__: None)
"""


def test_kill_9_while_downloading_and_ingesting(site, collection, tmp_path):
    server = FileServer(site, collection.read_bytes(), f"/{collection.name}")
    out = tmp_path / "out"
    part = out / ".downloads" / f".{collection.name}.part"

    def start():
        return subprocess.Popen([sys.executable, "-c", PROGRAM, server.url, str(out)])

    def kill_when(ready):
        child = start()
        while child.poll() is None and not ready():
            time.sleep(0.002)
        child.send_signal(signal.SIGKILL)
        child.wait()

    server.pause = 0.05
    kill_when(lambda: part.exists() and part.stat().st_size > 400_000)
    size = part.stat().st_size
    server.pause = 0.0
    kill_when(lambda: (out / "part-00000.parquet").exists())
    asked = server.asked()
    assert asked == [0, 0, 0, size - 1], "each start first looks whether the file can be had"
    site.close()
    assert start().wait(240) == 0, "what was downloaded needs no server"
    assert server.asked() == asked
    reference = tmp_path / "reference"
    assert subprocess.run([sys.executable, "-c", PROGRAM, str(collection), str(reference)]).returncode == 0
    assert json.loads((out / "stats.json").read_text())["documents"] == 1_500
    assert sorted(p.name for p in out.iterdir()) == sorted(p.name for p in reference.iterdir())
    for file in reference.iterdir():
        assert (out / file.name).read_bytes() == file.read_bytes()


def test_an_error_page_is_refused_and_fetched_anew_the_next_time(site, collection, tmp_path):
    server = FileServer(site, b"<!doctype html><title>Down for maintenance</title>", "/train.parquet")
    config = IngestConfig(path=server.url)
    with pytest.raises(UserError, match=r"train\.parquet is an HTML page"):
        ingest(config, tmp_path / "out", quiet)
    server.content, server.version = collection.read_bytes(), '"2"'
    ingest(config, tmp_path / "out", quiet)
    assert json.loads((tmp_path / "out/stats.json").read_text())["documents"] == 1_500
