"""A site crawled again, on a real HTTP server: only what a page says rebuilds what was made from it."""

from __future__ import annotations

import hashlib
import random
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pyarrow.parquet as pq
import pytest

from flows.engine.materialize import materialize
from flows.engine.stage import Context, Options, Outcome
from flows.stages.prepare import PrepareSettings, prepare
from flows.stages.scrape import scrape
from flows.store.local import Store
from scraping.crawling.source import Source

pytestmark = pytest.mark.long


WORDS = "the river and stone of a window in her letter to our garden this morning with captain market signal".split()  # noqa: SIM905


def prose(seed: int) -> str:
    """Sentences that no other page says."""
    word = random.Random(seed)
    return " ".join(" ".join(word.choices(WORDS, k=12)).capitalize() + "." for _ in range(12))


class Site(ThreadingHTTPServer):
    """Pages with validators; `tag` is part of each, so that another tag makes the server send all of them again."""

    def __init__(self) -> None:
        super().__init__(("127.0.0.1", 0), Handler)
        self.pages = {f"/{n}": f"<main><h1>{n}</h1><p>{prose(n)}</p></main>" for n in range(9)}
        self.pages["/"] = "<main>" + "".join(f'<a href="{path}">{path}</a> ' for path in list(self.pages)) + "</main>"
        self.tag = "a"
        self.statuses: list[int] = []


class Handler(BaseHTTPRequestHandler):
    server: Site

    def do_GET(self) -> None:
        body = self.server.pages.get(self.path, "").encode()
        tag = f'"{self.server.tag}-{hashlib.sha256(body).hexdigest()}"'
        unchanged = self.headers.get("If-None-Match") == tag
        status = 304 if unchanged else 200 if body else 404
        if self.path in self.server.pages:
            self.server.statuses.append(status)
        self.send_response(status)
        self.send_header("ETag", tag)
        self.send_header("Content-Type", "text/html; charset=utf-8")
        self.send_header("Content-Length", str(0 if unchanged else len(body)))
        self.end_headers()
        if not unchanged:
            self.wfile.write(body)

    def log_message(self, *_: object) -> None:
        """Say nothing."""


@pytest.fixture
def site() -> Iterator[Site]:
    with Site() as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        yield server
        server.shutdown()


@pytest.fixture
def run(site: Site, tmp_path: Path):
    """Crawl again and prepare, the pages read by an extractor; what became of both."""
    store = Store(tmp_path / "store")

    def again(**extractor: str) -> tuple[Outcome, Outcome]:
        source = Source(
            name="small-site", start=[f"http://127.0.0.1:{site.server_port}/"], contact="me@example.org", delay=0,
            private_addresses=True, extractor=extractor or {"kind": "main"},
        )  # fmt: skip
        settings = PrepareSettings.model_validate(
            {"corpus": {"validation_fraction": 0}, "extractors": {source.name: source.extractor.model_dump()}}
        )
        pages = materialize(scrape, source, {}, Context(store, options=Options(force=True)))
        corpus = materialize(prepare, settings, {"pages": [pages.artifact], "documents": None}, Context(store))
        return pages, corpus

    return again


def test_a_recrawl_rebuilds_what_follows_only_if_a_page_says_something_else(site, run):
    first, corpus = run()
    assert (first.artifact.stats["pages"], corpus.reused) == (10, False)

    site.statuses.clear()
    second, again = run()
    assert site.statuses == [304] * 10
    assert not second.reused and again.reused
    assert second.artifact.digest == first.artifact.digest
    assert second.artifact.stats["changes"]["unchanged"] == 10  # what the crawl met is told all the same
    assert first.artifact.manifest.files["fetches.parquet"] != second.artifact.manifest.files["fetches.parquet"]

    site.statuses.clear()
    site.tag = "b"
    third, again = run()
    assert site.statuses == [200] * 10  # the same bytes under other validators
    assert again.reused and third.artifact.digest == first.artifact.digest

    site.pages["/3"] = site.pages["/3"].replace("river", "mountain")
    fourth, again = run()
    assert fourth.artifact.stats["changes"]["changed"] == 1
    assert fourth.artifact.digest != first.artifact.digest
    assert not again.reused and again.artifact.digest != corpus.artifact.digest


READER = """
from project_words.prefix import say

class Reader:
    def records(self, html, url):
        yield {"id": "page", "text": html}

    def title(self, record):
        return "A record"

    def text(self, record):
        return say(record["text"])
"""
PREFIX = """
def say(text):
    import project_word
    return project_word.WORD + " " + text
"""


def test_a_reader_works_with_the_user_s_modules_it_imports_and_another_of_them_reads_again(run, tmp_path, monkeypatch):
    project = tmp_path / "project"
    (project / "project_words").mkdir(parents=True)
    (project / "project_reader.py").write_text(READER)
    (project / "project_words/prefix.py").write_text(PREFIX)
    (project / "project_word.py").write_text("WORD = 'Before'")
    monkeypatch.syspath_prepend(project)
    reader = {"kind": "records", "reader": "project_reader:Reader"}

    def first_words(corpus: Outcome) -> set[str]:
        shards = corpus.artifact.path.glob("train-*.parquet")
        return {text.split()[0] for shard in shards for text in pq.read_table(shard)["text"].to_pylist()}

    _, corpus = run(**reader)
    assert first_words(corpus) == {"Before"}

    (project / "unrelated.py").write_text("")
    _, corpus = run(**reader)
    assert corpus.reused

    (project / "project_word.py").write_text("WORD = 'After'")
    _, corpus = run(**reader)
    assert not corpus.reused
    assert first_words(corpus) == {"After"}
