"""Crawling a documentation site on loopback, against Scrapy.

The sites are Debian's `postgresql-doc-15` (pages of 14 kB) and `python3.11-doc` (96 kB), taken from the system or from
its package archive. One server process serves them; each crawl runs in a process of its own, one after the other,
at delay 0 and with robots.txt obeyed. CPU seconds are the crawling process's own, less imports, which are shown apart.

Ours stores every page in Parquet; Scrapy is only asked to follow the links, which favors it.
"""

from __future__ import annotations

import importlib.util
import json
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import partial
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from statistics import median
from typing import Any

from benchmarks.support.report import Row, compare
from benchmarks.support.sites import SITES, site_folder
from benchmarks.support.timing import child, peak_megabytes

GOAL = "≥ 3"

Crawl = dict[str, Any]  # of a run: "urls" found, "imports" and "cpu" in CPU seconds, wall "seconds", "memory" in MB
Metric = Callable[[Crawl], float]


def run(quick: bool) -> list[Row]:
    """Crawl each site in turn with both; medians of the repetitions."""
    repetitions = 2 if quick else 5
    has_scrapy = importlib.util.find_spec("scrapy") is not None
    rows = []
    for package in SITES[: 1 if quick else None]:
        with tempfile.TemporaryDirectory() as temporary, _served(site_folder(package, Path(temporary))) as start:
            ours, peer = [], []
            for _ in range(repetitions):
                ours.append(_crawl("ours", start))
                if has_scrapy:
                    peer.append(_crawl("scrapy", start))
        rows += _rows(package, ours, peer)
    return rows


def _rows(package: str, ours: list[Crawl], peer: list[Crawl]) -> list[Row]:
    def mid(runs: list[Crawl], metric: Metric) -> float | None:
        return median(map(metric, runs)) if runs else None

    if peer and set(ours[0]["urls"]) != set(peer[0]["urls"]):
        differing = sorted(set(ours[0]["urls"]) ^ set(peer[0]["urls"]))
        raise SystemExit(f"{package}: the crawls found different pages: {len(differing)}, {differing[:5]}")

    def row(name: str, unit: str, metric: Metric, **options: Any) -> Row:
        return compare(f"{package}: {name}", unit, mid(ours, metric), mid(peer, metric), "Scrapy", **options)

    return [
        row("pages", "pages", lambda r: len(r["urls"])),
        row("pages per CPU second", "pages/s", lambda r: len(r["urls"]) / r["cpu"], goal=GOAL),
        row("pages per second", "pages/s", lambda r: len(r["urls"]) / r["seconds"]),
        row("peak memory", "MB", lambda r: r["memory"], lower_is_better=True),
        row("CPU seconds of imports", "s", lambda r: r["imports"], lower_is_better=True),
    ]


@contextmanager
def _served(folder: Path) -> Iterator[str]:
    """A server for the files of a folder; the URL of its first page."""
    server = subprocess.Popen(
        [sys.executable, "-m", "benchmarks.scraping", "serve", str(folder)], stdout=subprocess.PIPE, text=True
    )
    try:
        yield f"http://127.0.0.1:{server.stdout.readline().strip()}/index.html"
    finally:
        server.kill()
        server.wait()


def _crawl(crawler: str, start: str) -> Crawl:
    return child("benchmarks.scraping", crawler, start)


# --- run by the child processes ---------------------------------------------------------------------------------------


def serve(folder: str) -> None:
    """Serve the files of a folder, and print the port."""

    class Handler(SimpleHTTPRequestHandler):
        protocol_version = "HTTP/1.1"
        disable_nagle_algorithm = True

        def log_message(self, *_: object) -> None:
            pass

    server = ThreadingHTTPServer(("127.0.0.1", 0), partial(Handler, directory=folder))
    print(server.server_port, flush=True)
    server.serve_forever()


def ours(start: str) -> Crawl:
    """Crawl as the stage does."""
    from scraping.crawling.crawl import crawl
    from scraping.crawling.source import Source
    from scraping.shards import read_rows, shards
    from textmill.progress import quiet

    source = Source(
        name="site", start=[start], contact="bench@localhost", delay=0, private_addresses=True, sitemaps=False
    )
    out = Path(tempfile.mkdtemp())
    with _measured() as measured:
        crawl(source, out, quiet)
    measured["urls"] = [row["url"] for row in read_rows(shards(out), ["url"])]
    shutil.rmtree(out)
    return measured


def scrapy(start: str) -> Crawl:
    """Crawl with Scrapy."""
    from scrapy.crawler import CrawlerProcess
    from scrapy.linkextractors import LinkExtractor
    from scrapy.spiders import CrawlSpider, Rule

    urls = []

    class Spider(CrawlSpider):
        name = "site"
        start_urls = (start,)
        allowed_domains = ("127.0.0.1",)
        rules = (Rule(LinkExtractor(), callback="page", follow=True),)

        def page(self, response: Any) -> None:
            urls.append(response.url)

        parse_start_url = page

    process = CrawlerProcess(
        {
            "ROBOTSTXT_OBEY": True, "LOG_LEVEL": "ERROR", "TELNETCONSOLE_ENABLED": False, "DOWNLOAD_DELAY": 0,
            "CONCURRENT_REQUESTS": 16, "CONCURRENT_REQUESTS_PER_DOMAIN": 16,
        }
    )  # fmt: skip
    process.crawl(Spider)
    with _measured() as measured:
        process.start()
    measured["urls"] = sorted(set(urls))
    return measured


@contextmanager
def _measured() -> Iterator[Crawl]:
    """CPU and wall seconds of the block, CPU seconds before it, and the process's peak memory in MB."""
    measured = {"imports": time.process_time()}
    start = time.perf_counter()
    yield measured
    measured["seconds"] = time.perf_counter() - start
    measured["cpu"] = time.process_time() - measured["imports"]
    measured["memory"] = peak_megabytes()


if __name__ == "__main__":
    role, argument = sys.argv[1:]
    if role == "serve":
        serve(argument)
    else:
        print(json.dumps({"ours": ours, "scrapy": scrapy}[role](argument)))
