"""The corpus: what goes in comes out or is dropped with a reason, the same bytes every time, kill -9 or not."""

from __future__ import annotations

import json
import random
import signal
import subprocess
import sys
import time
from pathlib import Path

import pyarrow.parquet as pq
import pytest

from scraping.collections.config import IngestConfig
from scraping.collections.ingest import ingest
from scraping.corpus.config import PrepareConfig
from scraping.corpus.extract_pages import page_id
from scraping.corpus.prepare import CorpusInputs, prepare
from scraping.corpus.writer import EXCERPT
from scraping.extraction.config import ArticleExtractor, MainExtractor, RecordsExtractor
from scraping.shards import DOCUMENTS, DROPPED, PAGES, ShardWriter, count_rows, read_rows, shards, write_shard
from textmill.errors import UserError

pytestmark = pytest.mark.long

WORDS = """river stone window letter garden morning winter captain market signal paper kitchen yellow engine silver
travel music number forest island harbour library teacher question answer history village mountain""".split()  # noqa: SIM905
NAVIGATION = "<p>Skip to main content. Home. About the archive. Collections. Visiting hours. Search. Contact us.</p>"


def prose(seed, sentences=12):
    word = random.Random(seed)
    return " ".join(
        ("the " + " ".join(word.choice(WORDS) for _ in range(word.randrange(6, 14)))).capitalize() + "."
        for _ in range(sentences)
    )


def page(number, text, source="site", status=200, content_type="text/html; charset=utf-8", url=None, body=None):
    url = url or f"http://site.example/{number}"
    main = f"<main>{NAVIGATION}<h1>{number}</h1><p>{text}</p></main>"
    html = f"<html><head><title>Page {number}</title></head><body>{main}</body></html>"
    return {
        "url": url, "final_url": url, "source": source, "status": status, "content_type": content_type,
        "body": html.encode() if body is None else body,
    }  # fmt: skip


def site_pages():
    pages = [page(i, prose(i)) for i in range(60)]
    pages += [
        page(100, prose(3)),  # a near-duplicate but for its heading
        page(101, "", status=404),
        page(102, "Short."),
        page(103, "", content_type="application/pdf", body=b"%PDF-1.7"),
        page(104, "", body=b""),
        page(105, "buy now " * 200),
    ]
    return pages


def crawl(folder, pages, shard_rows=25):
    with ShardWriter(folder, "part", PAGES) as writer:
        for number, row in enumerate(pages):
            writer.write(row)
            if number % shard_rows == shard_rows - 1:
                writer.cut()
    return folder


def test_files_of_code_keep_the_lines_that_they_share(tmp_path):
    """A license and imports on most files of a collection are no template; a menu on most of its pages is."""
    shared = "# Licensed under the terms of the example license, version 2.\nimport os\nimport sys\n\n"
    body = "def method_{0}(self, value_{0}):\n    self.rows_{0}[value_{0}] = os.path.join(sys.prefix, str({0} + 1))\n\n"
    code = [shared + "".join(body.format(chr(97 + i) * (j + 1)) for j in range(8)) for i in range(26)]
    menu = "Home About us Research People Contact\nSearch the site Jobs Press Library\n\n"
    pages = [menu + prose(3_000 + i) for i in range(26)]
    for name, texts in (("code", code), ("pages", pages)):
        (tmp_path / name).mkdir()
        write_shard(tmp_path / name / "train.parquet", ({"text": text} for text in texts), DOCUMENTS)
        ingest(IngestConfig(path=str(tmp_path / name), name=name), tmp_path / f"{name}-in", lambda *_, **__: None)
        build(tmp_path / f"{name}-out", [], [tmp_path / f"{name}-in"], dedup={"near": False}, filters=OFF)
    assert all(row["text"].startswith(shared.rstrip()) for row in corpus(tmp_path / "code-out"))
    assert not any("About us" in row["text"] for row in corpus(tmp_path / "pages-out"))


OFF = {name: {"enabled": False} for name in ("length", "symbols", "prose", "repetition")}


def build(out, pages, documents=(), extractors=None, progress=lambda *_, **__: None, **settings):
    settings.setdefault("workers", 2)
    extractors = extractors or {"site": MainExtractor()}
    prepare(CorpusInputs(list(pages), list(documents), extractors), PrepareConfig(**settings), out, progress)
    return out


def stats(out):
    return json.loads((out / "stats.json").read_text())


def corpus(out):
    return [row for split in ("train", "validation") for row in read_rows(shards(out, split))]


def files(out):
    return {str(path.relative_to(out)): path.read_bytes() for path in sorted(out.rglob("*")) if path.is_file()}


@pytest.fixture(scope="module")
def collection(tmp_path_factory):
    """Ingested documents, one of which is also on the site."""
    base = tmp_path_factory.mktemp("collection")
    texts = [prose(1_000 + i) for i in range(40)] + ["30\n\n" + prose(30)]
    (base / "in").mkdir()
    write_shard(base / "in/train.parquet", ({"text": text} for text in texts), DOCUMENTS)
    ingest(IngestConfig(path=str(base / "in"), name="owt"), base / "out", lambda *_, **__: None)
    return base / "out"


@pytest.fixture(scope="module")
def built(tmp_path_factory, collection):
    base = tmp_path_factory.mktemp("built")
    return build(base / "out", [crawl(base / "pages", site_pages())], [collection])


def test_the_corpus_is_sorted_split_and_of_one_schema(built):
    assert sorted(path.name for path in built.iterdir()) == [
        "dropped", "stats.json", "train-00000.parquet", "validation-00000.parquet",
    ]  # fmt: skip
    for split in ("train", "validation"):
        (path,) = shards(built, split)
        assert pq.read_schema(path).names == DOCUMENTS.names
        ids = [row["id"] for row in read_rows([path])]
        assert ids and ids == sorted(ids)
    assert pq.read_schema(built / "dropped/part-00000.parquet").names == DROPPED.names
    rows = corpus(built)
    assert len({row["id"] for row in rows}) == len(rows)
    assert all(row["n_chars"] == len(row["text"]) and row["lang"] == "en" for row in rows)
    by_url = {row["url"]: row for row in rows}
    assert by_url["http://site.example/7"]["title"] == "Page 7"
    assert by_url["http://site.example/7"]["id"] == page_id("site", "http://site.example/7")


def test_templates_are_gone_and_page_text_is_whole(built):
    rows = {row["url"]: row["text"] for row in corpus(built) if row["source"] == "site"}
    assert not any("Skip to main content" in text for text in rows.values())
    [removed] = [site for site in stats(built)["templates"] if site["site"] == "site.example"]
    assert removed["changed"] > 50 and "Skip to main content" in removed["parts"][0]["text"]
    assert all(prose(number) in rows[f"http://site.example/{number}"] for number in range(60) if number not in (3, 30))


def test_templates_stay_where_they_are_wanted(tmp_path):
    pages = crawl(tmp_path / "pages", [page(i, prose(i)) for i in range(30)])
    out = build(tmp_path / "out", [pages], template={"enabled": False})
    assert all("Skip to main content" in row["text"] for row in corpus(out)) and len(corpus(out)) == 30
    figures = stats(out)
    assert figures["characters_before_template_removal"] == figures["characters_after_template_removal"] > 0


def test_a_site_may_be_called_file(tmp_path):
    pages = crawl(tmp_path / "pages", [page(i, prose(i), url=f"http://file/{i}") for i in range(30)])
    rows = corpus(build(tmp_path / "out", [pages]))
    assert len(rows) == 30 and not any("Skip to main content" in row["text"] for row in rows)


def test_everything_dropped_has_its_reason_and_the_counts_add_up(built):
    dropped = {row["url"] or row["source"]: row for row in read_rows([built / "dropped/part-00000.parquet"])}
    assert dropped["http://site.example/101"]["reason"] == "HTTP status"
    assert dropped["http://site.example/101"]["detail"] == "HTTP 404"
    assert dropped["http://site.example/102"]["reason"] == "too short"
    assert dropped["http://site.example/103"]["reason"] == "not text"
    assert dropped["http://site.example/104"]["reason"] == "no text"
    assert dropped["http://site.example/105"]["reason"] == "duplicate runs"
    spam = dropped["http://site.example/105"]["excerpt"]
    assert spam.startswith("105") and 1_000 < len(spam) <= EXCERPT  # enough to judge the rule by
    near = [row for row in dropped.values() if row["reason"] == "near-duplicate"]
    assert len(near) == 1 and "similarity 0.9" in near[0]["detail"]
    assert [row["reason"] for row in dropped.values()].count("duplicate") == 1
    figures = stats(built)
    assert figures["pages"] == 66 and figures["ingested"] == 41
    assert figures["candidates"] == 66 + 41 == figures["documents"] + sum(figures["dropped"].values())
    assert figures["documents"] == len(corpus(built)) and sum(figures["dropped"].values()) == 7
    assert figures["characters"] == sum(row["n_chars"] for row in corpus(built))
    for key in ("candidates", "documents", "characters"):
        assert figures[key] == sum(source[key] for source in figures["sources"].values())
    for split, counts in figures["splits"].items():
        assert counts["documents"] == count_rows(shards(built, split))


def test_duplicates_are_found_across_sources(built):
    texts = [row["text"] for row in corpus(built)]
    assert sum(prose(30) in text for text in texts) == 1
    assert sum(prose(3) in text for text in texts) == 1


def test_a_recrawl_of_an_unchanged_site_gives_the_same_bytes(built, collection, tmp_path):
    pages = site_pages()
    random.Random(1).shuffle(pages)
    again = build(tmp_path / "out", [crawl(tmp_path / "pages", pages, shard_rows=11)], [collection], workers=1)
    assert files(again) == files(built)


def test_the_split_stays_when_the_corpus_grows(built, collection, tmp_path):
    pages = site_pages() + [page(i, prose(i)) for i in range(200, 230)]
    grown = build(tmp_path / "out", [crawl(tmp_path / "pages", pages)], [collection])
    for split in ("train", "validation"):
        before, after = ({row["id"] for row in read_rows(shards(out, split), ["id"])} for out in (built, grown))
        assert before <= after


def test_validation_is_never_empty_unless_wanted(tmp_path):
    pages = [crawl(tmp_path / "pages", [page(i, prose(i)) for i in range(4)])]
    assert stats(build(tmp_path / "a", pages, validation_fraction=0.001))["splits"]["validation"]["documents"] == 1
    none = build(tmp_path / "b", pages, validation_fraction=0)
    assert shards(none, "validation") == [] and len(corpus(none)) == 4


PROGRAM = """
import json, sys
from pathlib import Path
from scraping.extraction.config import MainExtractor
from scraping.corpus.config import PrepareConfig
from scraping.corpus.prepare import CorpusInputs, prepare
from scraping.corpus.writer import EXCERPT
pages, documents, out = map(Path, sys.argv[1:])
prepare(CorpusInputs([pages], [documents], {"site": MainExtractor()}), PrepareConfig(workers=2), out)
"""


def test_kill_9_and_again_gives_the_same_bytes(built, collection, tmp_path):
    pages, out = crawl(tmp_path / "pages", site_pages(), shard_rows=10), tmp_path / "out"
    finished_before = -1
    for pattern in ("extracted/dropped-00001.parquet", "refined/counts-*.json"):
        command = [sys.executable, "-c", PROGRAM, *map(str, (pages, collection, out))]
        child = subprocess.Popen(command)
        while child.poll() is None and not list((out / ".work").glob(pattern)):
            time.sleep(0.002)
        child.send_signal(signal.SIGKILL)
        child.wait()
        finished = len(list((out / ".work/extracted").glob("dropped-*.parquet")))
        assert finished > finished_before
        finished_before = finished
    stamps = {path: path.stat().st_mtime_ns for path in (out / ".work/extracted").glob("dropped-*.parquet")}
    again = set()

    def progress(*_, **__):
        again.update(path for path, at in stamps.items() if path.exists() and path.stat().st_mtime_ns != at)

    build(out, [pages], [collection], progress=progress)
    assert not again  # what was finished was not extracted once more
    assert files(out) == files(built)


def test_a_kill_while_tidying_up_loses_nothing(built, collection, tmp_path):
    pages, out = crawl(tmp_path / "pages", site_pages()), tmp_path / "out"
    build(out, [pages], [collection])
    (out / ".work/extracted").mkdir(parents=True)
    (out / ".work/extracted/dropped-00000.parquet").write_bytes(b"what it belongs to is gone")
    build(out, [pages], [collection])
    assert files(out) == files(built)


def test_pages_that_are_too_much_cost_only_themselves(tmp_path):
    pages = [page(i, prose(i)) for i in range(3)]
    pages.append(page(10, "", body=b"<main>" + b"<a href=/x>words of a link</a> " * 200_000))
    pages.append(page(11, "", body=b"x" * 3_000_000))
    limits = {"cpu_seconds": 3, "page_bytes": 7_000_000}  # page 10 takes its extractor longer, its container not
    out = build(
        tmp_path / "a", [crawl(tmp_path / "pages", pages)], extractors={"site": ArticleExtractor()}, limits=limits
    )
    assert {row["url"][-2:] for row in corpus(out)} >= {"/0", "/1", "/2"}
    dropped = {row["url"][-2:]: row["reason"] for row in read_rows([out / "dropped/part-00000.parquet"])}
    assert dropped["10"] == "too long"  # read by its container, then judged
    out = build(tmp_path / "b", [tmp_path / "pages"], limits={"page_bytes": 1_000_000})
    dropped = {row["url"][-2:]: row["reason"] for row in read_rows([out / "dropped/part-00000.parquet"])}
    assert dropped == {"10": "page too large", "11": "page too large"}


class Reader:
    def records(self, html, url):
        for number in range(int(html)):
            optional = {"credits": 3} if number == 2 else {}
            yield {"id": f"c{number}", "name": f"Course {number}", "sessions": [{"day": "Mon"}], **optional}

    def title(self, record):
        return record["name"]

    def text(self, record):
        return f"{record['name']}. {prose(record['id'])}"


def test_records_are_documents_and_a_table(tmp_path, monkeypatch):
    monkeypatch.syspath_prepend(str(Path(__file__).parent))
    pages = [page(1, "", source="courses", body=b"3", url="http://courses.example/list"), page(2, prose(2))]
    extractors = {"courses": RecordsExtractor(reader="test_prepare:Reader"), "site": MainExtractor()}
    out = build(tmp_path / "out", [crawl(tmp_path / "pages", pages)], extractors=extractors)
    assert stats(out)["extractors"] == {"records": 3, "main": 1}
    other = build(tmp_path / "other", [tmp_path / "pages"], extractors=extractors, extractor=ArticleExtractor())
    assert stats(other)["extractors"] == {"records": 3, "article": 1}
    urls = {row["url"] for row in corpus(out) if row["source"] == "courses"}
    assert urls == {f"http://courses.example/list#c{number}" for number in range(3)}
    table = pq.read_table(out / "records/courses.parquet").to_pylist()
    assert sorted(row["name"] for row in table) == ["Course 0", "Course 1", "Course 2"]
    assert table[0]["sessions"] == [{"day": "Mon"}]
    assert stats(out)["candidates"] == 4


def test_a_field_that_only_some_records_have_is_a_column(tmp_path, monkeypatch):
    monkeypatch.syspath_prepend(str(Path(__file__).parent))
    pages = crawl(tmp_path / "pages", [page(1, "", source="courses", body=b"4")])
    out = build(tmp_path / "out", [pages], extractors={"courses": RecordsExtractor(reader="test_prepare:Reader")})
    table = pq.read_table(out / "records/courses.parquet").to_pylist()
    assert {row["name"]: row["credits"] for row in table} == {
        "Course 0": None, "Course 1": None, "Course 2": 3, "Course 3": None,
    }  # fmt: skip


def test_user_mistakes(tmp_path):
    pages = crawl(tmp_path / "pages", [page(1, "Short."), page(2, "", status=500)])
    with pytest.raises(UserError, match=r"no document is left \(.*too short 1.*\)"):
        build(tmp_path / "a", [pages])
    with pytest.raises(UserError, match="nothing to make a corpus of"):
        build(tmp_path / "b", [])
    with pytest.raises(UserError, match="no extractor for the pages of source 'site' \\(known: other\\)"):
        build(tmp_path / "c", [pages], extractors={"other": MainExtractor()})
    with pytest.raises(UserError, match="no record reader"):
        build(tmp_path / "d", [pages], extractors={"site": RecordsExtractor(reader="nowhere:Reader")})


def test_progress_reports_phases(tmp_path):
    calls = []
    pages = [crawl(tmp_path / "pages", [page(i, prose(i)) for i in range(30)])]
    build(tmp_path / "out", pages, progress=lambda done, total, **figures: calls.append((done, total, figures)))
    assert {figures["phase"] for _, _, figures in calls} == {
        "extracting", "learning templates", "filtering", "removing duplicates", "writing",
    }  # fmt: skip
    assert all(total is None or done <= total for done, total, _ in calls)
