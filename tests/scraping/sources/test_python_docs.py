import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from scraping.crawling.crawl import crawl
from scraping.crawling.fetch import Fetcher, Request
from scraping.crawling.links import parse_page
from scraping.crawling.sitemap import parse_sitemap
from scraping.crawling.source import load_source
from scraping.extraction.extract import extract
from scraping.shards import read_rows, shards
from scraping.sources import python_docs

ORIGIN = f"http://{python_docs.HOST}"


@pytest.fixture(scope="module")
def get():
    with python_docs.serve() as resolver:
        fetcher = Fetcher("textmill/test", private_addresses=True, resolver=resolver)

        def get(path: str, **headers: str):
            headers = {name.replace("_", "-"): value for name, value in headers.items()}
            return fetcher.fetch(Request(ORIGIN + path, delay=0, timeout=20, max_bytes=10_000_000, headers=headers))

        yield get
        fetcher.close()


def test_it_is_a_site_like_others(get):
    robots = get("/robots.txt").body.decode()
    assert "Disallow: /internal/" in robots
    assert f"Sitemap: {ORIGIN}/sitemap.xml" in robots
    entries, _ = parse_sitemap(get("/sitemap.xml").body)
    assert len(entries) > 170
    page = get("/library/textwrap.html")
    links = parse_page(page, "textmill").links
    assert {f"{ORIGIN}/internal/status.html", f"{ORIGIN}/library/", f"{ORIGIN}/library/re.html"} <= set(links)
    assert get("/internal/status.html").status == 200
    assert get("/library/os.html").status == 404
    assert get("/library/textwrap").status == 404


def test_every_link_of_a_page_leads_somewhere(get):
    for path in ("/", "/topics/", "/topics/with.html", "/library/json.html"):
        for link in parse_page(get(path), "textmill").links:
            assert get(link.removeprefix(ORIGIN)).status == 200, link


def test_conditional_requests(get):
    page = get("/topics/with.html")
    assert get("/topics/with.html", If_None_Match=page.headers["ETag"]).status == 304
    assert get("/topics/with.html", If_None_Match='"other"').status == 200
    assert get("/topics/with.html", If_Modified_Since=page.headers["Last-Modified"]).status == 304
    assert get("/topics/with.html", If_Modified_Since="Mon, 01 Jan 1990 00:00:00 GMT").status == 200


def test_the_text_is_documentation(get):
    extractor = load_source("python-docs").extractor
    [module] = extract(get("/library/textwrap.html").body, ORIGIN, "text/html", extractor)
    assert module.title.startswith("textwrap")
    assert "Expand tabs in input text to spaces before further processing." in module.text
    assert "Server status" not in module.text
    [topic] = extract(get("/topics/with.html").body, ORIGIN, "text/html", extractor)
    assert 'The "with" statement is used to wrap the execution of a block with methods defined by' in topic.text


DIGEST = """
import hashlib
from scraping.sources import python_docs
paths = ["/", "/topics/", "/library/", "/topics/types.html"]
paths += [f"/library/{name}.html" for name in ("difflib", "doctest", "unittest", "logging.config", "wsgiref")]
pages = [python_docs.page(path) or b"" for path in paths]
print(hashlib.sha256(b"".join(pages)).hexdigest(), sum(b"SECRET" in page for page in pages))
"""


def test_pages_depend_on_the_python_version_alone():
    def digest(**environment: str) -> list[str]:
        return subprocess.run(
            [sys.executable, "-c", DIGEST], env={**os.environ, **environment}, cwd=Path(__file__).parents[3],
            capture_output=True, text=True, check=True,
        ).stdout.split()  # fmt: skip

    one = digest(PYTHONHASHSEED="1", HOME="/SECRET", COLUMNS="40", TZ="America/New_York", TOKEN="SECRET")
    other = digest(PYTHONHASHSEED="2", LC_ALL="C")
    assert one == other
    assert one[1] == "0"


@pytest.mark.long
def test_the_whole_site_is_crawled_and_a_recrawl_costs_304s(tmp_path):
    source = load_source("python-docs")
    first, second = tmp_path / "first", tmp_path / "second"
    figures = []
    for out, previous in ((first, None), (second, first)):
        out.mkdir()
        crawl(source, out, lambda done, total, **_: figures.append((done, total)), previous)
    one, two = (json.loads((out / "stats.json").read_text()) for out in (first, second))
    expected = len(python_docs.paths())
    assert one["pages"] == two["pages"] == expected > 170
    assert one["status"] == {"200": expected}
    assert two["status"] == {"304": expected}
    assert two["changes"]["unchanged"] == expected
    assert one["skipped"] == {"robots.txt": 1}
    assert figures[-1] == (expected, expected)
    bodies = [{row["url"]: row["body"] for row in read_rows(shards(out))} for out in (first, second)]
    assert bodies[0] == bodies[1]
