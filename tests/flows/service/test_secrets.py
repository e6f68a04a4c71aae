"""Passwords, tokens and signatures: runs with one in every place where there can be one, then a search through all that
they wrote."""

from __future__ import annotations

import base64
import socket
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import yaml
from prefect import flow
from prefect.client.orchestration import get_client
from prefect.client.schemas.filters import LogFilter, LogFilterFlowRunId
from prefect.logging.handlers import APILogWorker
from prefect.settings import PREFECT_API_DATABASE_CONNECTION_URL
from pydantic import BaseModel

from flows.engine.stage import Stage
from flows.pipeline.request import RunRequest
from flows.pipeline.selection import Selection
from flows.service.building import Builder
from flows.service.flows import pipeline, stage_flow, start_run
from flows.service.form import run_form
from flows.service.watching.live import Watch
from flows.service.watching.pages import RunPage
from flows.store.open import open_store
from textmill.errors import UserError

USER, PASSWORD, SIGNATURE = "reader-5d1f", "Pw-8c2e71b0", "f00dfeed0123cafe"
SECRETS = {
    "user": USER,
    "password": PASSWORD,
    "both, as a header says them": base64.b64encode(f"{USER}:{PASSWORD}".encode()).decode(),
    "signature": SIGNATURE,
    "fresh signature": SIGNATURE[::-1],
    "variable": "Kx-77a1-token",
    "access key": "AKIA0TEXTMILLTEST00",
    "secret key": "wJalr/XUtnFEMI+K7MDENG",
}
ENVIRONMENT = {
    "DATA_USER": USER,
    "DATA_PASSWORD": PASSWORD,
    "HF_TOKEN": SECRETS["variable"],
    "AWS_ACCESS_KEY_ID": SECRETS["access key"],
    "AWS_SECRET_ACCESS_KEY": SECRETS["secret key"],
    "AWS_DEFAULT_REGION": "us-east-1",
    "PREFECT_LOGGING_EXTRA_LOGGERS": "flows,scraping,urllib3,requests,fsspec,s3fs,botocore,huggingface_hub",
}


class Handler(BaseHTTPRequestHandler):
    """Gives its file to who knows password and signature."""

    def do_GET(self):
        good = self.headers.get("Authorization", "").endswith(SECRETS["both, as a header says them"])
        body = self.server.content if good and "X-Amz-Signature=" in self.path else b""
        self.send_response(200 if body else 403)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, *_):
        pass


@pytest.fixture(scope="module")
def host(tmp_path_factory) -> Iterator[str]:
    path = tmp_path_factory.mktemp("data") / "a.parquet"
    pq.write_table(pa.table({"text": [f"document {number}, and more words" for number in range(20)]}), path)
    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    server.content = path.read_bytes()
    threading.Thread(target=server.serve_forever, args=(0.05,), daemon=True).start()
    yield f"127.0.0.1:{server.server_port}"
    server.shutdown()
    server.server_close()


def signed(host: str, userinfo: str, signature: str = SIGNATURE) -> str:
    return f"http://{userinfo}@{host}/data/a.parquet?X-Amz-Date=20260101T000000Z&X-Amz-Signature={signature}"


@pytest.fixture(autouse=True)
def environment(monkeypatch, tmp_path):
    for name, value in ENVIRONMENT.items():
        monkeypatch.setenv(name, value)
    monkeypatch.setenv("PREFECT_HOME", str(tmp_path / "prefect"))


@pytest.fixture
def config(tmp_path) -> Path:
    path = tmp_path / "small.yaml"
    document = {"name": "small", "store": str(tmp_path / "store"), "ingest": {"path": "none"}}
    path.write_text(yaml.safe_dump(document))
    return path


@pytest.fixture
def run(textmill, tmp_path):
    """Run the command line to its end; what it wrote on the terminal is kept in a file, to be searched as well."""

    def run(*arguments: str | Path) -> tuple[int, str]:
        process = textmill(*arguments)
        output = "".join(process.communicate(timeout=240))
        with (tmp_path / "terminal.log").open("a") as log:
            log.write(output)
        return process.returncode, output

    return run


def files_with_secrets(*folders: Path) -> dict[str, list[str]]:
    """Which secrets are in which files below these folders."""
    found = {}
    for folder in folders:
        files = [path for path in folder.rglob("*") if path.is_file()]
        assert files
        for path in files:
            content = path.read_bytes()
            if told := [name for name, secret in SECRETS.items() if secret.encode() in content]:
                found[str(path)] = told
    return found


def database() -> Path:
    """The folder of the server's database, with all that SQLite keeps beside it."""
    return Path(PREFECT_API_DATABASE_CONNECTION_URL.value().partition("///")[2]).parent


@pytest.fixture
def bucket(monkeypatch, tmp_path) -> Iterator[str]:
    """The URL of a store on an S3 server; what it holds in the end is left in a folder, to be searched as well."""
    s3fs = pytest.importorskip("s3fs", reason="s3fs is not installed: pip install -e '.[dev]'")
    moto = pytest.importorskip("moto.server", reason="moto is not installed: pip install -e '.[dev]'")
    server = moto.ThreadedMotoServer("127.0.0.1", port=0, verbose=False)
    server.start()
    monkeypatch.setenv("AWS_ENDPOINT_URL", "http://{}:{}".format(*server.get_host_and_port()))
    monkeypatch.setenv("TEXTMILL_CACHE", str(tmp_path / "cache"))
    s3fs.S3FileSystem.clear_instance_cache()
    s3fs.S3FileSystem().mkdir("textmill-secrets")
    yield "s3://textmill-secrets/store"
    server.stop()


@pytest.mark.slow
def test_nothing_that_runs_write_holds_a_secret(run, config, host, bucket, tmp_path, monkeypatch):
    import s3fs

    ingest = ["run", config, "--only", "ingest", "--set", f"store={bucket}", "--set"]
    status, output = run(*ingest, f"ingest.path={signed(host, f'{USER}:{PASSWORD}')}")
    assert (status, "20 documents" in output) == (0, True), output
    # a fresh signature, and a password by its variable: the same data set
    again = signed(host, "${DATA_USER}:${DATA_PASSWORD}", SIGNATURE[::-1])
    status, output = run(*ingest, f"ingest.path={again}")
    assert (status, "reused" in output) == (0, True), output
    # an answer that is no file, from a server and from a hub whose addresses hold secrets
    refused = signed(host, f"{USER}:{PASSWORD}x").replace("a.parquet", "b.parquet")
    status, output = run(*ingest, f"ingest.path={refused}")
    assert status == 2 and f"cannot fetch http://***@{host}/data/b.parquet?*** (the server answered 403)" in output
    monkeypatch.setenv("HF_ENDPOINT", f"http://{USER}:{PASSWORD}@{host}")
    status, output = run(*ingest, "ingest.path=hf://datasets/owner/name")
    assert status == 2 and "cannot fetch hf://datasets/owner/name (" in output, output
    # a store that does not answer, at an endpoint with secrets, and keys where S3 takes none
    with monkeypatch.context() as elsewhere, socket.socket() as closed:
        closed.bind(("127.0.0.1", 0))
        elsewhere.setenv("AWS_ENDPOINT_URL", f"http://{USER}:{PASSWORD}@127.0.0.1:{closed.getsockname()[1]}")
        status, output = run("status", "--store", bucket)
        assert status == 2 and f"the store {bucket} cannot be reached" in output, output
    keys = f"{SECRETS['access key']}:{SECRETS['secret key']}"
    status, output = run("status", "--store", f"s3://{keys}@textmill-secrets/store")
    assert status == 2 and "s3://***@textmill-secrets/store cannot be opened: S3 takes no keys" in output, output

    [ingested] = open_store(bucket).artifacts("ingest")
    assert ingested.manifest.label == "openwebtext"
    assert ingested.manifest.identity["settings"]["address"] == f"http://{host}/data/a.parquet"
    assert ingested.manifest.settings["path"] == f"http://***@{host}/data/a.parquet?***"
    # the settings can be had again, but for the secret, and it is said which
    status, output = run("reproduce", ingested.location)
    assert status == 0 and "ingest.0.path: " in output and "where a secret was" in output, output

    s3fs.S3FileSystem().get(bucket, str(tmp_path / "bucket"), recursive=True)
    assert not files_with_secrets(tmp_path, database())


def test_a_run_from_the_ui_that_holds_a_secret_is_refused(prefect_server, config, host):
    path = signed(host, "u:p", "another-signature")
    for deployment, typed in ((stage_flow("ingest"), {"path": path}), (pipeline, {"overrides": {"store": path}})):
        with pytest.raises(UserError, match="the settings hold a password, a token or a signature"):
            deployment(config=str(config), **typed)


def test_a_form_says_no_secret_of_its_configuration(tmp_path, host):
    config = tmp_path / "secret.yaml"
    config.write_text(yaml.safe_dump({"ingest": {"path": signed(host, f"{USER}:{PASSWORD}")}}))
    shown = run_form("ingest", config)["properties"]["path"]["description"]
    assert f"http://***@{host}/data/a.parquet?***" in shown


def test_parameters_of_a_run_from_the_terminal_are_masked(prefect_server, config, host):
    overrides = {"ingest": {"path": signed(host, f"{USER}:{PASSWORD}")}}
    start_run(RunRequest.load(config, overrides, Selection(only="ingest")))
    with get_client(sync_client=True) as client:
        [newest] = client.read_flow_runs(sort="START_TIME_DESC", limit=1)
    assert newest.parameters["path"] == f"http://***@{host}/data/a.parquet?***"


class NoConfig(BaseModel):
    pass


class Failing(Stage[NoConfig]):
    """Logs and fails as a library does that knows no better."""

    name = "failing"
    version = 1

    def build(self, job):
        job.context.log(f"asking s3://{SECRETS['access key']}:{SECRETS['secret key']}@bucket again")
        try:
            raise OSError(f"no answer from ftp://{USER}:{PASSWORD}@host/a")
        except OSError as error:
            raise ConnectionError(f"Max retries exceeded with url: /a?X-Amz-Signature={SIGNATURE}") from error

    def headline(self, stats):
        return ""


def test_neither_log_nor_traceback_of_a_failure_holds_a_secret(prefect_server, config, tmp_path):
    @flow
    def fail():
        with Builder(RunRequest.load(config), Watch(), RunPage([])) as builder:
            builder(Failing(), NoConfig())

    state = fail(return_state=True)
    APILogWorker.drain_all(timeout=30)
    assert "ConnectionError: Max retries exceeded with url: /a?***" in state.message
    with get_client(sync_client=True) as client:
        wanted = LogFilter(flow_run_id=LogFilterFlowRunId(any_=[state.state_details.flow_run_id]))
        lines = "\n".join(line.message for line in client.read_logs(wanted))
    assert "asking s3://***@bucket again" in lines and "RuntimeError: ConnectionError" in lines
    assert not files_with_secrets(tmp_path / "store", database())
