"""A site crawled again, on a real HTTP server: only what a page says rebuilds what was made from it."""

from __future__ import annotations

import hashlib
import random
import threading
from collections.abc import Iterator
from datetime import UTC, datetime
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pyarrow.parquet as pq
import pytest

from flows.engine.assess import assess
from flows.engine.materialize import materialize
from flows.engine.page import Table, Text
from flows.engine.stage import Context, Options, Outcome
from flows.pipeline.inventory import inventory
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
        self.breaks_after: int | None = None  # answers with 200, before all are 503
        self.failing: set[str] = set()  # paths whose answers are 503


class Handler(BaseHTTPRequestHandler):
    server: Site

    def do_GET(self) -> None:
        body = self.server.pages.get(self.path, "").encode()
        tag = f'"{self.server.tag}-{hashlib.sha256(body).hexdigest()}"'
        unchanged = self.headers.get("If-None-Match") == tag
        status = 304 if unchanged else 200 if body else 404
        breaks_after = self.server.breaks_after
        if breaks_after is not None and self.server.statuses.count(200) >= breaks_after:
            status, unchanged = 503, True
        if self.path in self.server.failing:
            status, unchanged = 503, True
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


def site_source(site: Site, **settings) -> Source:
    return Source(
        name="small-site", start=[f"http://127.0.0.1:{site.server_port}/"], contact="me@example.org", delay=0,
        private_addresses=True, backoff=0.01, **settings,
    )  # fmt: skip


@pytest.fixture
def run(site: Site, tmp_path: Path):
    """Crawl again and prepare, the pages read by an extractor; what became of both."""
    store = Store(tmp_path / "store")

    def again(**extractor: str) -> tuple[Outcome, Outcome]:
        source = site_source(site, extractor=extractor or {"kind": "main"})
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


def test_an_incomplete_snapshot_says_so_everywhere_and_the_next_run_goes_on_with_it(site, tmp_path):
    store = Store(tmp_path / "store")
    source = site_source(site)
    site.breaks_after = 4
    first = materialize(scrape, source, {}, Context(store))
    told = f"4 of at least 10 pages: 127.0.0.1:{site.server_port} given up (status 503)"
    assert first.headline == told
    assert first.artifact.manifest.incomplete == told
    page = list(scrape.page(first.artifact))
    assert page[0] == Text(f"The snapshot is incomplete: {told}. The next run asks for what failed again.")
    [item] = inventory(store)
    assert (item.state, item.detail) == ("incomplete", told)
    assert told in assess(scrape, source, {}, Context(store)).reason
    assert assess(scrape, source, {}, Context(store, options=Options(accept_expired=True))).artifact

    site.breaks_after = None
    site.statuses.clear()
    second = materialize(scrape, source, {}, Context(store))
    assert site.statuses == [200] * 6, "only what was missing"
    assert second.headline == "10 pages"
    assert second.artifact.manifest.incomplete == ""
    assert materialize(scrape, source, {}, Context(store)).reused
    whole = materialize(scrape, source, {}, Context(store, options=Options(force=True)))
    assert whole.artifact.digest == second.artifact.digest


def test_the_age_of_a_continued_snapshot_counts_from_its_beginning(site, tmp_path):
    store = Store(tmp_path / "store")
    site.breaks_after = 4
    materialize(scrape, site_source(site), {}, Context(store))
    site.breaks_after = None
    source = site_source(site, max_age="1h")
    continued = materialize(scrape, source, {}, Context(store)).artifact
    assert scrape.expired(source, continued) is None
    moment = datetime.fromisoformat(continued.stats["as_of"])
    assert moment < continued.manifest.started
    seconds = (datetime.now(UTC) - moment).total_seconds()
    assert scrape.expired(site_source(site, max_age=f"{seconds * 0.9}s"), continued)


def test_a_limit_that_the_user_set_is_told_and_asks_for_nothing_more(site, tmp_path):
    store = Store(tmp_path / "store")
    source = site_source(site, limits={"pages": 3})
    outcome = materialize(scrape, source, {}, Context(store))
    assert outcome.headline == outcome.artifact.manifest.incomplete == "3 of at least 10 pages: limit reached"
    assert materialize(scrape, source, {}, Context(store)).reused


def test_files_beside_the_pages_that_cannot_be_read_are_told_everywhere(site, tmp_path):
    store = Store(tmp_path / "store")
    source = site_source(site)
    site.pages["/robots.txt"] = "Sitemap: /map.xml\nSitemap: http://elsewhere.example/map.xml"
    site.failing = {"/map.xml", "/.well-known/tdmrep.json"}
    first = materialize(scrape, source, {}, Context(store))
    told = "10 pages: 1 sitemap not read in full (status 503); 1 TDM file not read (status 503)"
    assert first.headline == first.artifact.manifest.incomplete == told
    tables = [block for block in scrape.page(first.artifact) if isinstance(block, Table)]
    assert [[row[0].rpartition("/")[2] for row in table.rows] for table in tables] == [
        ["map.xml"], ["map.xml"], ["tdmrep.json"],
    ]  # fmt: skip
    site.failing.clear()
    site.pages["/map.xml"] = f"{source.start[0]}listed"
    site.pages["/listed"] = f"<main><p>{prose(99)}</p></main>"
    second = materialize(scrape, source, {}, Context(store))
    assert (second.reused, second.artifact.stats["pages"]) == (False, 11)
    assert (second.headline, second.artifact.manifest.incomplete) == ("11 pages", "")
    assert materialize(scrape, source, {}, Context(store)).reused


def test_a_snapshot_with_a_damaged_sitemap_is_incomplete_and_stays(site, tmp_path):
    store = Store(tmp_path / "store")
    source = site_source(site)
    site.pages["/robots.txt"] = "Sitemap: /map.xml"
    site.pages["/map.xml"] = f"{source.start[0]}\nnot a URL"
    first = materialize(scrape, source, {}, Context(store))
    assert first.headline.startswith("10 pages: 1 sitemap not read in full (1 entries without the URL of a page")
    assert first.artifact.manifest.incomplete == first.headline
    assert materialize(scrape, source, {}, Context(store)).reused


def test_pages_that_are_kept_from_the_last_crawl_are_told(site, tmp_path):
    store = Store(tmp_path / "store")
    source = site_source(site)
    materialize(scrape, source, {}, Context(store))
    site.failing = {"/3", "/4"}
    outcome = materialize(scrape, source, {}, Context(store, options=Options(force=True)))
    assert outcome.headline == outcome.artifact.manifest.incomplete == "10 pages, 2 kept from the last crawl"
    assert outcome.headline in assess(scrape, source, {}, Context(store)).reason


def test_pages_that_vanished_are_told(site, tmp_path):
    store = Store(tmp_path / "store")
    source = site_source(site)
    materialize(scrape, source, {}, Context(store))
    del site.pages["/3"], site.pages["/4"]
    outcome = materialize(scrape, source, {}, Context(store, options=Options(force=True)))
    assert outcome.headline == "8 pages, 2 vanished since the last crawl"
    assert outcome.artifact.manifest.incomplete == ""


def test_pages_that_fail_are_asked_for_once_more_by_the_next_run_and_rebuild_nothing(site, tmp_path):
    store = Store(tmp_path / "store")
    source = site_source(site)
    site.pages["/"] += '<a href="http://127.0.0.1:9/">nobody listens</a>'
    source.hosts.append("127.0.0.1:9")
    outcomes = [materialize(scrape, source, {}, Context(store)) for _ in range(3)]
    assert [outcome.reused for outcome in outcomes] == [False, False, True]
    assert {outcome.headline for outcome in outcomes} == {
        "10 pages, 1 failed: 127.0.0.1:9 given up (robots.txt: connection refused)"
    }
    assert len({outcome.artifact.digest for outcome in outcomes}) == 1
