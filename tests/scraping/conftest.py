"""A loopback web server that behaves as a test tells it, well or badly, and keeps a log."""

import math
import tempfile
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import pytest

from scraping.crawling.crawl import crawl
from scraping.crawling.source import Source
from scraping.shards import read_rows, shards
from textmill.progress import quiet


@dataclass
class Answer:
    body: bytes | str = b""
    status: int = 200
    headers: dict[str, str] = field(default_factory=dict)
    content_type: str | None = "text/html; charset=utf-8"


@dataclass
class Hit:
    path: str
    start: float
    end: float
    headers: dict[str, str]
    connection: tuple


class Site:
    """`routes` maps a path (with or without query) to HTML, an Answer, or a function of the handler that gives one.

    A function may also write to the socket itself and return anything else. `fallback` answers for other paths.
    """

    def __init__(self):
        self.routes: dict[str, str | Answer | Callable] = {}
        self.fallback: Callable[[str], str | Answer] = lambda path: Answer("not here", 404)
        self.log: list[Hit] = []
        self._most = math.inf  # requests that are answered for now
        self._server = ThreadingHTTPServer(("127.0.0.1", 0), self._handler())
        self._server.daemon_threads = True
        self._server.block_on_close = False
        self._server.handle_error = lambda *_: None  # a client that hangs up is what some tests are about
        self._thread = threading.Thread(target=self._server.serve_forever, args=(0.02,), daemon=True)
        self._thread.start()
        self.host = f"127.0.0.1:{self._server.server_port}"

    def url(self, path: str = "/") -> str:
        return f"http://{self.host}{path}"

    def paths(self) -> list[str]:
        """What was asked for, in order, but for what a crawl asks every site for."""
        asked_always = ("/robots.txt", "/sitemap.xml", "/.well-known/tdmrep.json")
        return [hit.path for hit in self.log if hit.path not in asked_always]

    @contextmanager
    def answering(self, requests: int) -> Iterator[None]:
        """Leave whoever asks for more pages than so many without an answer, while the block lasts."""
        self._most = requests
        try:
            yield
        finally:
            self._most = math.inf

    def close(self) -> None:
        self._server.shutdown()
        self._server.server_close()
        self._thread.join()

    def _handler(self):
        site = self

        class Handler(BaseHTTPRequestHandler):
            protocol_version = "HTTP/1.1"
            disable_nagle_algorithm = True

            def do_GET(self):
                hit = Hit(self.path, time.time(), 0.0, dict(self.headers), self.client_address)
                site.log.append(hit)
                while len(site.paths()) > site._most:
                    time.sleep(0.01)
                try:
                    self.answer(site.routes.get(self.path, site.routes.get(self.path.partition("?")[0])))
                except (BrokenPipeError, ConnectionResetError):
                    self.close_connection = True
                hit.end = time.time()

            def answer(self, route):
                if route is None:
                    route = site.fallback(self.path)
                if callable(route):
                    route = route(self)
                    if not isinstance(route, str | Answer):
                        self.close_connection = True
                        return
                answer = Answer(route) if isinstance(route, str) else route
                body = answer.body.encode() if isinstance(answer.body, str) else answer.body
                self.send_response(answer.status)
                if answer.content_type:
                    self.send_header("Content-Type", answer.content_type)
                for name, value in answer.headers.items():
                    self.send_header(name, value)
                if answer.status != 304 and "Content-Length" not in answer.headers:
                    self.send_header("Content-Length", str(len(body)))
                self.end_headers()
                self.wfile.write(body)

            def log_message(self, *_):
                pass

        return Handler


def html(*links: str, title: str = "A page", text: str = "Some text.", head: str = "") -> str:
    anchors = "".join(f'<a href="{link}">link</a> ' for link in links)
    return f"<!DOCTYPE html><html><head><title>{title}</title>{head}</head><body><p>{text}</p>{anchors}</body></html>"


@pytest.fixture(autouse=True)
def own_gates(tmp_path_factory, monkeypatch):
    """Host gates of this test only: another test's server may have had the same port."""
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path_factory.mktemp("gates")))


@pytest.fixture
def site():
    site = Site()
    yield site
    site.close()


@pytest.fixture
def other_site():
    site = Site()
    yield site
    site.close()


@pytest.fixture
def make_source(site):
    """A source that begins at the site's root, without delay."""

    def make(**settings) -> Source:
        defaults = {
            "name": "test", "start": [site.url()], "contact": "me@example.org", "delay": 0, "backoff": 0.01,
            "private_addresses": True,
        }  # fmt: skip
        return Source(**{**defaults, **settings})

    return make


@pytest.fixture
def run_crawl(tmp_path):
    """Crawl and return the pages by URL; the folder is `tmp_path / name`."""

    def run(source: Source, name: str = "out", previous: str | None = None) -> dict[str, dict]:
        out = tmp_path / name
        out.mkdir(exist_ok=True)
        crawl(source, out, quiet, tmp_path / previous if previous else None)
        rows = list(read_rows(shards(out)))
        fetches = read_rows([out / "fetches.parquet"])
        pages = {row["url"]: {**row, **fetch} for row, fetch in zip(rows, fetches, strict=True)}
        assert len(pages) == len(rows), "a page was stored twice"
        assert list(pages) == sorted(pages)
        return pages

    return run


@pytest.fixture
def answer():
    return Answer


@pytest.fixture
def page():
    return html
