import json

import pyarrow.parquet as pq
import pytest

from scraping.corpus.config import PrepareConfig
from scraping.corpus.prepare import CorpusInputs, prepare
from scraping.crawling.crawl import crawl
from scraping.crawling.source import load_source
from scraping.extraction.extract import extract
from scraping.shards import read_rows, shards
from scraping.sources.umb_courses import CourseReader
from textmill.progress import quiet

URL = "https://courses.umb.edu/course_catalog/course_info/ugrd_CS_all_110"


def session(section: str, number: str, extra: str = "") -> str:
    return f"""
      <tr class="class-info-rows"><td data-label="Section">{section}</td><td data-label="Class Number">{number}</td>
        <td data-label="Schedule/Time">MoWe\n\t<br>10:00 - 10:50 am</td>
        <td data-label="Instructor"> Ada&nbsp;Byron </td>
        <td data-label="Location">M01-0207</td></tr>
      {extra}"""


EXTRA = """
      <tr class="extra-info"><td colspan="5">
        <div><span class="class-div-header">Session:</span> <span class="class-div-info">Regular</span></div>
        <div><span class="class-div-header">Capacity:</span> <span class="class-div-info">40</span></div>
        <div><span class="class-div-header">Credits:</span> <span class="class-div-info">4/4</span></div>
        <div><span class="class-div-header">Class Notes:</span> <span class="class-div-info"></span></div>
      </td></tr>"""

# The paragraph is left open, as such pages do; the table comes inside it or after it, by the parser's mood.
PAGE = f"""<!DOCTYPE html><html><head><title>CS 110 | UMass Boston</title></head><body>
<nav><strong>Menu:</strong> Home</nav>
<div id="body-content"><div class="unit-70 content" id="content">
  <h2 class="page-title">Introduction &amp;
     Computing</h2>
  <h3>Course #: CS 110</h3>
  <p><strong>Description:</strong><br> An introduction to <em>computer</em> science.
     Not open to students who <a href="/x">passed</a> CS 115.<br>
     <strong>Pre Requisites:</strong><br> MATH 130<br>
     <strong>Empty:</strong> <br>
  <h2>Offered in:</h2>
  <h3>2026 Fall</h3>
  <table><thead><tr><th>Section</th></tr></thead><tbody>{session("01", "1234", EXTRA)}
   {session("02", "1235")}</tbody></table>
  <h3>Spring 2027</h3>
  <table><tbody>{session("01", "2001")}</tbody></table>
</div></div><footer><strong>Contact:</strong> us</footer></body></html>"""


def test_a_label_that_stands_there_twice_keeps_both_texts():
    again = "<strong>Note:</strong> First.<br><strong>Note:</strong> Second.<br><strong>Note:</strong> First.<br>"
    [record] = CourseReader().records(PAGE.replace("<strong>Empty", f"{again}<strong>Empty"), URL)
    assert [row["text"] for row in record["descriptors"] if row["label"] == "Note"] == ["First.", "Second."]


def test_a_course_page_is_one_record():
    [record] = CourseReader().records(PAGE, URL)
    assert record["id"] == "CS-110"
    assert record["course"] == "CS 110"
    assert record["level"] == "undergraduate"
    assert record["title"] == "Introduction & Computing"
    assert record["descriptors"] == [
        {
            "label": "Description",
            "text": "An introduction to computer science. Not open to students who passed CS 115.",
        },
        {"label": "Pre Requisites", "text": "MATH 130"},
    ]
    common = {"schedule_time": "MoWe 10:00 - 10:50 am", "instructor": "Ada Byron", "location": "M01-0207"}
    assert record["sessions"] == [
        {"term": "2026 Fall", "section": "01", "class_number": "1234", **common, "session": "Regular", "capacity": "40",
         "credits": "4/4"},
        {"term": "2026 Fall", "section": "02", "class_number": "1235", **common},
        {"term": "Spring 2027", "section": "01", "class_number": "2001", **common},
    ]  # fmt: skip
    assert json.loads(json.dumps(record)) == record


def test_the_text_for_the_corpus():
    reader = CourseReader()
    [record] = reader.records(PAGE, URL)
    assert reader.title(record) == "CS 110: Introduction & Computing"
    where = "schedule time MoWe 10:00 - 10:50 am; instructor Ada Byron; location M01-0207"
    assert reader.text(record) == (
        "CS 110: Introduction & Computing\n\n"
        "An introduction to computer science. Not open to students who passed CS 115.\n\n"
        "Pre Requisites: MATH 130\n\n"
        "Sessions in 2026 Fall:\n"
        f"- section 01; class number 1234; {where}; session Regular; capacity 40; credits 4/4\n"
        f"- section 02; class number 1235; {where}\n\n"
        "Sessions in Spring 2027:\n"
        f"- section 01; class number 2001; {where}"
    )


@pytest.mark.parametrize(
    ("url", "id", "term"),
    [
        (URL.replace("_all_", "_2026%20Spring_"), "CS-110-2026-Spring", "2026 Spring"),
        (URL.replace("ugrd_CS_all_110", "grd_AF_all_601L"), "AF-601L", "2026 Fall"),
        (URL.replace("ugrd_CS_all_110", "ugrd_HIST_A_all_1"), "HIST_A-1", "2026 Fall"),
    ],
)
def test_addresses(url, id, term):
    [record] = CourseReader().records(PAGE, url)
    assert record["id"] == id
    assert record["sessions"][0]["term"] == term


def test_pages_without_a_course():
    reader = CourseReader()
    listing = (
        '<div id="content"><ul><li><a href="/course_catalog/courses/ugrd_CS_all">CS | Computer Science</a></li></ul>'
    )
    assert list(reader.records(listing, "https://courses.umb.edu/course_catalog/listing/ugrd")) == []
    assert list(reader.records(PAGE, "https://courses.umb.edu/course_catalog/courses/ugrd_CS_all")) == []
    assert list(reader.records("", URL)) == []
    assert list(reader.records("<h2>Not found</h2>", URL)) == []
    [bare] = reader.records('<h2 class="page-title">Thesis</h2>', URL)
    assert (bare["descriptors"], bare["sessions"]) == ([], [])
    assert reader.text(bare) == "CS 110: Thesis"


def test_from_the_site_to_parquet_records(site, make_source, tmp_path):
    """The catalog's own shape (departments, their courses, a page each), from crawl to records and text."""
    base = "/course_catalog"
    site.routes[f"{base}/listing/ugrd"] = (
        f'<div id="content"><li><a href="{base}/courses/ugrd_CS_all">CS</a></li></div>'
    )
    courses = "".join(
        f'<li><h4>CS {n} +</h4><a href="{base}/course_info/ugrd_CS_all_{n}">All</a></li>' for n in (110, 210)
    )
    site.routes[f"{base}/courses/ugrd_CS_all"] = f'<ul class="showHideList">{courses}</ul><a href="/login">Log in</a>'
    site.routes[f"{base}/course_info/ugrd_CS_all_110"] = PAGE
    other = PAGE.replace("Introduction &amp;", "Data Structures &amp;").replace("computer", "abstract data types and")
    site.routes[f"{base}/course_info/ugrd_CS_all_210"] = other
    declared = load_source("umb-courses")
    source = make_source(start=[site.url(f"{base}/listing/ugrd")], allow=declared.allow, extractor=declared.extractor)
    pages, corpus = tmp_path / "pages", tmp_path / "corpus"
    for folder in (pages, corpus):
        folder.mkdir()
    crawl(source, pages, quiet)
    assert "/login" not in site.paths()
    config = PrepareConfig(validation_fraction=0, dedup={"near": False}, workers=1)
    prepare(CorpusInputs([pages], extractors={source.name: source.extractor}), config, corpus)
    records = pq.read_table(corpus / "records" / "test.parquet").to_pylist()
    assert sorted(record["id"] for record in records) == ["CS-110", "CS-210"]
    assert records[0]["descriptors"][0]["label"] == "Description"
    assert len(records[0]["sessions"]) == 3
    assert (corpus / "stats.json").exists()
    texts = [row["text"] for row in read_rows(shards(corpus, "train"))]
    assert any(text.startswith("CS 210: Data Structures & Computing") for text in texts)


def test_through_the_source_and_its_extractor():
    source = load_source("umb-courses")
    scope = source.scope()
    assert scope.skip_reason(URL) is None
    assert scope.skip_reason("https://courses.umb.edu/course_catalog/courses/ugrd_CS_all") is None
    assert scope.skip_reason("https://courses.umb.edu/login") == "outside the allowed paths"
    [document] = extract(PAGE.encode(), URL, "text/html; charset=utf-8", source.extractor)
    assert document.url == f"{URL}#CS-110"
    assert document.title == "CS 110: Introduction & Computing"
    assert document.extractor == "records"
    assert document.record["sessions"][0]["capacity"] == "40"
