"""Ingesting from the Hugging Face hub, against a small server that answers like it."""

from __future__ import annotations

import hashlib
import json
import os
import subprocess
import sys
import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from types import SimpleNamespace

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from scraping.collections.config import IngestConfig
from scraping.collections.ingest import ingest

COMMIT, LATER = "a" * 40, "b" * 40
REPOSITORY = "owner/openwebtext"

PROGRAM = """
import sys
from pathlib import Path
from textmill.errors import UserError
from scraping.collections.config import IngestConfig
from scraping.collections.files import ingest_files
from scraping.collections.ingest import ingest
config = IngestConfig(path=sys.argv[1])
try:
    assert ingest_files(config) == []
    ingest(config, Path(sys.argv[2]), lambda *_, **__: None)
except UserError as error:
    print(type(error).__name__)
    sys.exit(str(error))
"""


@pytest.fixture
def state():
    """What may change about the data set: its newest revision, and the file that is not to be had."""
    return SimpleNamespace(head=COMMIT, broken=None)


@pytest.fixture
def hub(tmp_path, state):
    """(URL, folder of the data set's files, log of requested paths)"""
    files, log = tmp_path / "repository", []
    (files / "plain_text").mkdir(parents=True)
    for number in range(2):
        texts = [f"document {number} {i}" for i in range(50)]
        pq.write_table(pa.table({"text": texts}), files / f"plain_text/train-{number:05d}-of-00002.parquet")
    (files / "README.md").write_text("about")
    (files / "subsets").mkdir()
    (files / "subsets/urlsf_subset00.tar").write_bytes(b"the same documents in another layout")

    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def do_GET(self):
            log.append((self.command, self.path))
            path = self.path.partition("?")[0]
            if path.startswith(f"/api/datasets/{REPOSITORY}"):
                names = sorted(str(file.relative_to(files)) for file in files.rglob("*") if file.is_file())
                siblings = [{"rfilename": name} for name in names]
                revision = path.partition("/revision/")[2] or state.head
                self.answer(json.dumps({"id": REPOSITORY, "sha": revision, "siblings": siblings}).encode())
            elif state.broken and path.endswith(state.broken):
                self.answer(b"{}", 404)
            elif (file := files / path.removeprefix(f"/datasets/{REPOSITORY}/resolve/{COMMIT}/")).is_file():
                self.answer(file.read_bytes())
            else:
                self.answer(b"{}", 404)

        do_HEAD = do_GET

        def answer(self, content: bytes, status: int = 200):
            self.send_response(status)
            self.send_header("Content-Length", str(len(content)))
            self.send_header("ETag", f'"{hashlib.sha1(content).hexdigest()}"')
            self.send_header("X-Repo-Commit", COMMIT)
            self.end_headers()
            if self.command == "GET":
                self.wfile.write(content)

        def log_message(self, *_):
            pass

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    yield f"http://127.0.0.1:{server.server_port}", files, log
    server.shutdown()
    server.server_close()


def run(tmp_path, url, path):
    environment = {**os.environ, "HF_ENDPOINT": url, "HF_HOME": str(tmp_path / "cache"), "HF_HUB_OFFLINE": "0"}
    environment |= {"HF_HUB_DISABLE_TELEMETRY": "1", "HF_HUB_DISABLE_PROGRESS_BARS": "1"}
    command = [sys.executable, "-c", PROGRAM, path, str(tmp_path / "out")]
    return subprocess.run(command, env=environment, capture_output=True, text=True, timeout=240)


def test_a_data_set_on_the_hub_is_ingested_like_its_files(hub, tmp_path):
    url, files, log = hub
    finished = run(tmp_path, url, f"hf://datasets/{REPOSITORY}")
    assert finished.returncode == 0, finished.stderr
    ingest(IngestConfig(path=str(files)), tmp_path / "local", lambda *_, **__: None)
    for name in ("part-00000.parquet", "skipped.jsonl", "stats.json"):
        assert (tmp_path / "out" / name).read_bytes() == (tmp_path / "local" / name).read_bytes()
    assert not any("subsets" in path for _, path in log if "resolve" in path)
    unread = [json.loads(line)["file"] for line in (tmp_path / "out/skipped.jsonl").read_text().splitlines()]
    assert unread == ["README.md", "subsets/urlsf_subset00.tar"]


def test_an_interrupted_job_goes_on_with_the_revision_it_began_with(hub, state, tmp_path):
    url, files, log = hub
    state.broken = "train-00001-of-00002.parquet"
    failed = run(tmp_path, url, f"hf://datasets/{REPOSITORY}")
    assert failed.returncode == 1
    assert failed.stderr.strip().startswith(f"cannot fetch hf://datasets/{REPOSITORY}")
    state.broken, state.head = None, LATER
    log.clear()
    finished = run(tmp_path, url, f"hf://datasets/{REPOSITORY}")
    assert finished.returncode == 0, finished.stderr
    ingest(IngestConfig(path=str(files)), tmp_path / "local", lambda *_, **__: None)
    for name in ("part-00000.parquet", "skipped.jsonl", "stats.json"):
        assert (tmp_path / "out" / name).read_bytes() == (tmp_path / "local" / name).read_bytes()
    assert not any(LATER in path for _, path in log)
    assert sorted(path.name for path in (tmp_path / "out").iterdir()) == sorted(
        path.name for path in (tmp_path / "local").iterdir()
    )


def test_what_is_missing_or_unreachable_is_one_line(hub, tmp_path):
    url, _, _ = hub
    for address, path, kind in (
        (url, "hf://datasets/owner/missing", "UserError"),
        ("http://127.0.0.1:9", f"hf://datasets/{REPOSITORY}", "Unavailable"),
    ):
        finished = run(tmp_path, address, path)
        assert finished.stdout.strip() == kind
        assert finished.returncode == 1
        assert finished.stderr.strip().startswith(f"cannot fetch {path}") and finished.stderr.count("\n") == 1
    finished = run(tmp_path, url, f"hf://datasets/{REPOSITORY}/nowhere")
    assert "holds none of the layouts" in finished.stderr
