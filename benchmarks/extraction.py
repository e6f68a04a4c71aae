"""Text of documentation pages: how much of it is found, how fast, and how well a second process helps.

The pages are those of Debian's `postgresql-doc-15` and `python3.11-doc`, taken from the system or from its package
archive. The generator's own markup says what belongs to a page, read with BeautifulSoup and not with the code under
test: the words of Sphinx's `div.body` and of DocBook's titled division, without navigation. Precision and recall
are of the bag of words, averaged over pages. The peer is trafilatura as it comes.

With `--wcxb` the pages are those of WCXB's development split (Murrough Foley, CC-BY-4.0), of seven kinds, and the score
is its mean F1 of words: of `auto`, trained anew without the hosts that it is measured on, of trafilatura with all its
fallbacks, and of resiliparse. The training takes some minutes; `--quick` takes an eighth of the pages, and scores all
extractors on the first fold of them.
"""

from __future__ import annotations

import argparse
import importlib.util
import multiprocessing
import os
import re
import tempfile
import time
import warnings
from collections import Counter
from collections.abc import Callable, Iterator
from itertools import compress
from pathlib import Path
from statistics import mean, median

import pyarrow.parquet as pq

from benchmarks.support.report import Row, compare
from benchmarks.support.sites import site_folder
from scraping.extraction.blocks.labels import f1, words_of
from scraping.extraction.charset import decode
from scraping.extraction.config import ArticleExtractor, AutoExtractor, Extractor, MainExtractor
from scraping.extraction.extract import extract
from scraping.extraction.sandbox import Call, Sandbox
from scraping.extraction.train import FOLDS, cross_validate, read_pages

# How each site is declared, and the element that holds what its authors wrote
_EXTRACTORS = {
    "postgresql-doc-15": MainExtractor(selector="body", remove=["div.navheader", "div.navfooter"]),
    "python3.11-doc": MainExtractor(selector="div.body"),
}
_OWN_TEXT = {"postgresql-doc-15": "body", "python3.11-doc": "div.body"}
_WCXB = Path("../shared/data/wcxb_dev.parquet")
Words = Counter[str]
_WORD = re.compile(r"\w+")
_NOT_OWN = ["script", "style", "div.navheader", "div.navfooter", "a.headerlink"]


def options(parser: argparse.ArgumentParser) -> None:
    """Which pages."""
    parser.add_argument("--wcxb", nargs="?", type=Path, const=_WCXB, metavar="FILE", help=f"WCXB's pages (at {_WCXB})")


def run(quick: bool, wcxb: Path | None = None) -> list[Row]:
    """Quality and seconds on a spread of the pages of each site; medians of the repetitions."""
    if wcxb:
        return _wcxb(wcxb, quick)
    repetitions, pages = (2, 40) if quick else (5, 200)
    rows = []
    for package, extractor in _EXTRACTORS.items():
        with tempfile.TemporaryDirectory() as temporary:
            folder = site_folder(package, Path(temporary))
            bodies = _spread([path.read_bytes() for path in sorted(folder.rglob("*.html"))], pages)
        own = [_own_words(body, package) for body in bodies]
        ours, article = _texts(bodies, extractor), _texts(bodies, ArticleExtractor())
        rows += _scores(package, own, ours, article)
        seconds: dict[str, list[float]] = {"main": [], "article": []}
        for _ in range(repetitions):
            seconds["main"].append(_seconds(bodies, extractor))
            seconds["article"].append(_seconds(bodies, ArticleExtractor()))
        per_page = {name: 1000 * median(values) / len(bodies) for name, values in seconds.items()}
        name = f"{package}: time a page"
        rows.append(compare(name, "ms", per_page["main"], per_page["article"], "trafilatura", lower_is_better=True))
    return rows + _scaling(bodies, repetitions)


def _wcxb(path: Path, quick: bool) -> list[Row]:
    """F1 by kind of page against both peers, of the same pages, and milliseconds a page."""
    step, folds = (8, 1) if quick else (1, FOLDS)
    labeled = read_pages(path, step)
    ours = cross_validate(labeled, folds)
    is_scored = [page.fold < folds for page in labeled]
    del labeled  # some gigabytes
    pages = list(compress(pq.read_table(path).to_pylist()[::step], is_scored))
    peers = {"trafilatura": _trafilatura}
    if importlib.util.find_spec("resiliparse"):
        peers["resiliparse"] = _resiliparse
    rows = []
    for peer, function in peers.items():
        scores: dict[str, list[float]] = {}
        for page in pages:
            score = f1(Counter(words_of(function(page["html"]))), Counter(words_of(page["main_content"])))
            scores.setdefault(page["page_type"], []).append(score)
            scores.setdefault("all", []).append(score)
        for kind, value in ours.items():
            goal = "≥ .85" if kind == "all" else ""
            rows.append(compare(f"wcxb, {kind}: F1", "fraction", value, mean(scores[kind]), peer, goal=goal))
    timed = [page["html"] for page in pages[:: max(1, len(pages) // 100)]]
    texts = {"auto": lambda html: extract(html, "http://site/", "text/html", AutoExtractor()), **peers}
    seconds = {name: _cpu_seconds(function, timed) / len(timed) for name, function in texts.items()}
    for peer in peers:
        milliseconds = 1000 * seconds["auto"], 1000 * seconds[peer]
        rows.append(compare("wcxb: time a page", "ms", *milliseconds, peer, lower_is_better=True, goal="≤ 60"))
    return rows


def _trafilatura(html: bytes) -> str:
    import trafilatura

    return trafilatura.extract(decode(html, "text/html")) or ""


def _resiliparse(html: bytes) -> str:
    from resiliparse.extract.html2text import extract_plain_text

    return extract_plain_text(decode(html, "text/html"), main_content=True)


def _cpu_seconds(function: Callable[[bytes], object], bodies: list[bytes]) -> float:
    function(bodies[0])
    start = time.process_time()
    for body in bodies:
        function(body)
    return time.process_time() - start


def _spread(items: list[bytes], count: int) -> list[bytes]:
    return items[:: max(1, len(items) // count)][:count]


def _own_words(body: bytes, package: str) -> Words:
    from bs4 import BeautifulSoup, XMLParsedAsHTMLWarning

    warnings.simplefilter("ignore", XMLParsedAsHTMLWarning)
    soup = BeautifulSoup(body, "lxml")
    for selector in _NOT_OWN:
        for element in soup.select(selector):
            element.decompose()
    [text] = soup.select(_OWN_TEXT[package])[:1] or [soup]
    return Counter(_WORD.findall(text.get_text(" ")))


def _texts(bodies: list[bytes], extractor: Extractor) -> list[Words]:
    texts = (extract(body, "http://site/", "text/html", extractor) for body in bodies)
    return [Counter(_WORD.findall(" ".join(document.text for document in documents))) for documents in texts]


def _recall(own: Words, found: Words) -> float:
    return (own & found).total() / max(1, own.total())


def _precision(own: Words, found: Words) -> float:
    return (own & found).total() / max(1, found.total())


def _scores(package: str, own: list[Words], ours: list[Words], peer: list[Words]) -> Iterator[Row]:
    """Recall and precision of both, means over the pages."""
    for name, measure, goal in (("recall", _recall, "≥ .95"), ("precision", _precision, "")):
        mine, theirs = (mean(map(measure, own, texts)) for texts in (ours, peer))
        yield compare(f"{package}: {name}", "fraction", mine, theirs, "trafilatura", goal=goal)


def _seconds(bodies: list[bytes], extractor: Extractor) -> float:
    start = time.process_time()
    for body in bodies:
        extract(body, "http://site/", "text/html", extractor)
    return time.process_time() - start


def _scaling(bodies: list[bytes], repetitions: int) -> list[Row]:
    """Pages a second through the sandbox with two children against one, and what two cores give at best: twice the
    pages in two processes that have nothing to do with each other."""
    if (os.cpu_count() or 1) < 2:
        return [Row("two processes against one", "×", float("nan"), goal="≥ 1.8 (needs two cores)")]
    seconds: dict[str, list[float]] = {}
    for _ in range(repetitions):
        for workers in (1, 2):
            seconds.setdefault(f"sandbox {workers}", []).append(_sandboxed(bodies, workers))
            seconds.setdefault(f"apart {workers}", []).append(_apart(bodies, workers))
    one, two, apart, apart_two = (median(seconds[name]) for name in ("sandbox 1", "sandbox 2", "apart 1", "apart 2"))
    count = len(bodies)
    return [
        compare("two processes against one", "pages/s", count / two, count / one, "one process", goal="≥ 1.8"),
        compare("two unrelated processes against one", "pages/s", 2 * count / apart_two, count / apart, "one process"),
    ]


def _sandboxed(bodies: list[bytes], workers: int) -> float:
    arguments = {"url": "http://site/", "content_type": "text/html", "extractor": {"kind": "article"}}
    calls = [Call(arguments, body) for body in bodies]
    with Sandbox("scraping.extraction.extract:extract_page", workers, cpu_seconds=60) as sandbox:
        list(sandbox.run(calls[: 2 * workers]))  # start-up is not counted
        start = time.perf_counter()
        list(sandbox.run(calls))
        return time.perf_counter() - start


def _apart(bodies: list[bytes], processes: int) -> float:
    context = multiprocessing.get_context("fork")
    running = [context.Process(target=_seconds, args=(bodies, ArticleExtractor())) for _ in range(processes)]
    start = time.perf_counter()
    for process in running:
        process.start()
    for process in running:
        process.join()
    return time.perf_counter() - start
