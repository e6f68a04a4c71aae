"""A small site that is in good order, for previews and declarations; a crawl in a process of its own."""

import os
import subprocess
import sys
import tempfile
from pathlib import Path

import pytest

CRAWLER = """
import sys
from pathlib import Path
from scraping.crawling.crawl import crawl
from scraping.crawling.source import load_source
from textmill.progress import quiet
source, out, *previous = sys.argv[1:]
crawl(load_source(source), Path(out), quiet, *map(Path, previous), continues=bool(previous))
"""


@pytest.fixture
def start_crawler(tmp_path):
    """Crawl `source` into the folder `name` in another process; go on with the snapshot `previous` if there is one."""

    def start(source, name: str, previous: str | None = None) -> subprocess.Popen:
        (tmp_path / name).mkdir(exist_ok=True)
        declaration = tmp_path / "source.yaml"
        declaration.write_text(source.model_dump_json())
        folders = [str(tmp_path / folder) for folder in (name, previous) if folder]
        return subprocess.Popen(
            [sys.executable, "-c", CRAWLER, str(declaration), *folders],
            env={**os.environ, "TMPDIR": temporary}, cwd=Path(__file__).parents[3],
        )  # fmt: skip

    with tempfile.TemporaryDirectory(ignore_cleanup_errors=True) as temporary:  # its name is short enough for Chromium
        yield start


@pytest.fixture
def prose() -> str:
    """Text that is a page's own."""
    return "This sentence belongs to the page itself and says something that no other page says. " * 5


@pytest.fixture
def sound_site(site, answer, prose):
    def document(name: str, *links: str) -> str:
        anchors = "".join(f'<li><a href="{link}">{link}</a></li>' for link in links)
        return (
            f"<!DOCTYPE html><html><head><title>{name} - Example</title></head><body><nav><ul>{anchors}</ul></nav>"
            f"<main><h1>{name}</h1><p>{name}: {prose}</p></main><footer>All rights reserved</footer></body></html>"
        )

    site.routes["/robots.txt"] = answer(f"User-agent: *\nDisallow: /private\nSitemap: {site.url('/map.xml')}")
    site.routes["/map.xml"] = answer(f"<urlset><url><loc>{site.url('/one')}</loc></url></urlset>")
    site.routes["/"] = document(
        "Start", "/one", "/two", "/private", "http://elsewhere.example/", "/search?q=x", "/paper.pdf", "/three?print=1"
    )
    site.routes["/one"] = document("One", "/")
    site.routes["/two"] = document("Two", "/three")
    site.routes["/three"] = document("Three")
    site.routes["/search"] = document("Search")
    return site
