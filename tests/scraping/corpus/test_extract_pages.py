"""Pages that are too much for their extractor are read once more."""

from __future__ import annotations

from pathlib import Path

from scraping.corpus.config import ExtractionLimits
from scraping.corpus.extract_pages import _Extraction
from scraping.extraction.config import AutoExtractor, RecordsExtractor
from scraping.extraction.extract import extract_page
from scraping.extraction.sandbox import Sandbox
from scraping.shards import PAGES, shards, write_shard

PROSE = "The harbour master keeps a log of every ship that enters, with its flag, its cargo and the state of the tide."


def extract_without_model(body, url, content_type, extractor):
    """As `extract_page`, where the model fails on each page."""
    if extractor["kind"] == "auto":
        raise RuntimeError("too much")
    return extract_page(body, url, content_type, extractor)


class Reader:
    def records(self, html, url):
        yield {"id": "1"}

    def title(self, record):
        return "A course"

    def text(self, record):
        return PROSE


def test_a_page_is_read_once_more_in_the_format_of_its_source(tmp_path, monkeypatch):
    monkeypatch.syspath_prepend(str(Path(__file__).parent))
    extractors = {
        "manual": AutoExtractor(format="markdown"),
        "site": AutoExtractor(),
        "courses": RecordsExtractor(reader="test_extract_pages:Reader"),
    }
    page = {"url": "http://site.example/1", "status": 200, "content_type": "text/html"}
    body = f"<main><h2>Ports</h2><p>{PROSE}</p></main>".encode()
    write_shard(tmp_path / "part-00000.parquet", ({**page, "source": name, "body": body} for name in extractors), PAGES)
    (shard,) = shards(tmp_path)
    with Sandbox("test_extract_pages:extract_without_model", 1) as sandbox:
        extraction = _Extraction(shard, ExtractionLimits(), sandbox)
        rows = list(extraction.documents(extractors, lambda _: None))
    assert not extraction.dropped and len(rows) == len(extractors)  # nor is the records' page of that URL read again
    texts = {row["source"]: (row["extractor"], row["text"]) for row in rows}
    assert texts["manual"] == ("main", f"## Ports\n\n{PROSE}")
    assert texts["site"] == ("main", f"Ports\n\n{PROSE}")
    assert texts["courses"] == ("records", PROSE)
