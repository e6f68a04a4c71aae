"""A data set on a Hugging Face hub: a small one on loopback that speaks the hub's protocol, read by the real client."""

import hashlib
import http.server
import json
import os
import subprocess
import sys
import threading

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

INGEST = """
import sys
from pathlib import Path
from scraping.ingest import IngestConfig, ingest
ingest(IngestConfig(path=sys.argv[1], workers=1), Path(sys.argv[2]), lambda *_, **__: None)
"""
OLD, NEW = "a" * 40, "b" * 40


class Hub(http.server.ThreadingHTTPServer):
    """Two revisions of one data set; `head` is the newest, and `broken` are names that are not to be had."""

    def __init__(self, revisions: dict[str, dict[str, bytes]]):
        super().__init__(("127.0.0.1", 0), Answer)
        self.revisions, self.head = revisions, OLD
        self.broken: set[str] = set()
        self.asked: list[str] = []


class Answer(http.server.BaseHTTPRequestHandler):
    server: Hub

    def do_GET(self):
        self.server.asked.append(self.path)
        match self.path.split("?")[0].strip("/").split("/"):
            case ["api", "datasets", "owner", "texts", *rest]:
                revision = rest[1] if rest else self.server.head
                names = self.server.revisions[revision]
                about = {"id": "owner/texts", "sha": revision, "siblings": [{"rfilename": name} for name in names]}
                self._send(json.dumps(about).encode(), "application/json", revision)
            case ["datasets", "owner", "texts", "resolve", revision, name] if name not in self.server.broken:
                self._send(self.server.revisions[revision][name], "application/octet-stream", revision)
            case _:
                self.send_error(404)

    do_HEAD = do_GET

    def _send(self, content: bytes, kind: str, revision: str):
        self.send_response(200)
        self.send_header("Content-Type", kind)
        self.send_header("Content-Length", str(len(content)))
        self.send_header("ETag", f'"{hashlib.sha256(content).hexdigest()}"')
        self.send_header("X-Repo-Commit", revision)
        self.end_headers()
        if self.command == "GET":
            self.wfile.write(content)

    def log_message(self, *arguments):
        pass


def parquet(*texts: str) -> bytes:
    sink = pa.BufferOutputStream()
    pq.write_table(pa.table({"text": list(texts)}), sink)
    return sink.getvalue().to_pybytes()


@pytest.fixture
def hub():
    old = {
        "README.md": b"# texts",
        "train-0.parquet": parquet("one text", "another"),
        "train-1.parquet": parquet("a third text"),
    }
    new = {"train-0.parquet": parquet("something else"), "train-1.parquet": parquet("one text", "a newer text")}
    server = Hub({OLD: old, NEW: new})
    threading.Thread(target=server.serve_forever, daemon=True).start()
    yield server
    server.shutdown()
    server.server_close()


@pytest.fixture
def ingest(hub, tmp_path):
    """Ingest from the hub in a process of its own, as the client reads its settings when it is imported."""

    def run() -> subprocess.CompletedProcess:
        settings = {"HF_ENDPOINT": f"http://127.0.0.1:{hub.server_port}", "HF_HOME": str(tmp_path / "home")}
        return subprocess.run(
            [sys.executable, "-c", INGEST, "hf://datasets/owner/texts", str(tmp_path / "out")],
            env={**os.environ, **settings, "HF_HUB_OFFLINE": "0"}, capture_output=True, text=True,
        )  # fmt: skip

    return run


def texts(folder) -> list[str]:
    return [text for file in sorted(folder.glob("part-*.parquet")) for text in pq.read_table(file)["text"].to_pylist()]


def test_a_data_set_is_fetched_file_by_file(hub, ingest, tmp_path):
    done = ingest()
    assert done.returncode == 0, done.stderr
    assert texts(tmp_path / "out") == ["one text", "another", "a third text"]
    assert json.loads((tmp_path / "out" / "stats.json").read_text())["documents"] == 3
    assert sorted(path.name for path in (tmp_path / "out").iterdir()) == ["part-00000.parquet", "stats.json"]
    assert not any("README" in path for path in hub.asked)


def test_an_interrupted_job_goes_on_with_the_revision_it_began_with(hub, ingest, tmp_path):
    hub.broken = {"train-1.parquet"}
    failed = ingest()
    assert failed.returncode != 0
    assert "cannot fetch hf://datasets/owner/texts" in failed.stderr
    hub.broken, hub.head = set(), NEW
    hub.asked.clear()
    done = ingest()
    assert done.returncode == 0, done.stderr
    assert texts(tmp_path / "out") == ["one text", "another", "a third text"]
    assert not any(NEW in path for path in hub.asked)
