import json
import time
from pathlib import Path

import pyarrow.parquet as pq
import pytest
from hypothesis import given
from hypothesis import strategies as st
from urllib3 import HTTPHeaderDict

from scraping.crawling.answers.reservations import (
    PathRules,
    page_reservation,
    parse_content_signals,
    parse_tdm_rules,
)
from scraping.crawling.fetch import Response
from scraping.crawling.links import parse_page
from scraping.crawling.preview import Preview
from scraping.crawling.robots import parse_robots
from textmill.errors import UserError

URL = "http://a.org/news/1?x=y"


def reserved(head: str = "", robots: str = "", tdm: list | None = None, **headers: str) -> str | None:
    named = {name.replace("_", "-"): value for name, value in headers.items()}
    response = Response(URL, 200, HTTPHeaderDict({"Content-Type": "text/html", **named}), head.encode())
    rules = parse_tdm_rules(json.dumps(tdm or []).encode(), "http://a.org")
    page = parse_page(response, "textmill")
    return page_reservation(page, response, parse_robots(robots.encode(), "textmill"), rules)


@pytest.mark.parametrize(
    ("said", "reason"),
    [
        ({}, None),
        ({"head": '<meta name="robots" content="index, NoAI">'}, "noai"),
        ({"head": '<meta name="robots" content="index noai noimageai">'}, "noai"),
        ({"head": '<meta name="robots" content="noimageai">'}, "noimageai"),
        ({"head": '<meta name="textmill" content="noai">'}, "noai"),
        ({"head": '<meta name="otherbot" content="noai">'}, None),
        ({"X_Robots_Tag": "noai, noimageai"}, "noai"),
        ({"X_Robots_Tag": "otherbot: noai"}, None),
        ({"head": '<meta name="TDM-Reservation" content=" 1 ">'}, "TDM reservation"),
        ({"TDM_Reservation": "1"}, "TDM reservation"),
        ({"TDM_Reservation": "0"}, None),
        ({"TDM_Reservation": "yes"}, None),
        ({"tdm": [{"location": "/", "tdm-reservation": 1, "tdm-policy": "http://a.org/p"}]}, "TDM reservation"),
        ({"tdm": [{"location": "/news/*?x", "tdm-reservation": "1"}]}, "TDM reservation"),
        ({"tdm": [{"location": "/old/", "tdm-reservation": 1}]}, None),
        ({"tdm": [{"location": "/", "tdm-reservation": True}]}, "TDM reservation"),
        ({"tdm": [{"location": "https://A.org/news/", "tdm-reservation": 1}]}, "TDM reservation"),
        ({"tdm": [{"location": "http://a.org", "tdm-reservation": 1}]}, "TDM reservation"),
        ({"tdm": [{"location": "http://b.org/news/", "tdm-reservation": 1}]}, None),
        ({"tdm": [{"location": "*", "tdm-reservation": 1}, {"location": "/news/", "tdm-reservation": 0}]}, None),
        ({"tdm": [{"location": "/", "tdm-reservation": 1}], "TDM_Reservation": "0"}, None),
        ({"head": '<meta name="tdm-reservation" content="0">', "TDM_Reservation": "1"}, None),
        ({"head": '<meta name="tdm-reservation" content="1">', "TDM_Reservation": "0"}, "TDM reservation"),
        ({"Content_Signal": "search=yes, ai-train=no"}, "Content-Signal ai-train=no"),
        ({"Content_Signal": "ai-train=yes, search=no, ai-input=no"}, None),
        ({"robots": "User-agent: *\nContent-Signal: search=yes,ai-train=no\nAllow: /"}, "Content-Signal ai-train=no"),
        ({"robots": "User-agent: *\nContent-Signal: ai-train=no", "Content_Signal": "ai-train=yes"}, None),
    ],
)
def test_who_reserves_and_how(said, reason):
    assert reserved(**said) == (f"reserved: {reason}" if reason else None)


@pytest.mark.parametrize(
    ("lines", "reserves"),
    [
        ("content-signal: AI-TRAIN = NO", True),
        ("User-agent: otherbot\nContent-Signal: ai-train=no", None),
        ("User-agent: otherbot\nContent-Signal: ai-train=no\nUser-agent: *\nContent-Signal: ai-train=yes", False),
        ("User-agent: *\nContent-Signal: ai-train=no\n\nUser-agent: Textmill/1.0\nDisallow:", None),
        ("User-agent: *\nContent-Signal: ai-train=yes\n\nUser-agent: Textmill\nContent-Signal: ai-train=no", True),
        ("User-agent: x\nUser-agent: textmill\nContent-Signal: ai-train=no", True),
        ("User-agent: x\nAllow: /\nUser-agent: y\nContent-Signal: ai-train=no", None),
        ("User-agent: *\nContent-Signal: search=yes, ai-input=no", None),
        ("User-agent: *\nContent-Signal: /news/ ai-train=no", True),
        ("User-agent: *\nContent-Signal: /old/ ai-train=no", None),
        ("User-agent: *\nContent-Signal: ai-train=no\nContent-Signal: /news/ ai-train=yes", False),
        ("# Content-Signal: ai-train=no", None),
        ("User-agent: *\nContent-Signal: ai-train=nothing", None),
    ],
)
def test_content_signals_of_robots_txt(lines, reserves):
    assert parse_content_signals(lines.splitlines(), "textmill").reserve(URL) is reserves


@pytest.mark.parametrize(
    ("pattern", "matches"),
    [
        ("/", True), ("/news", True), ("/news/1$", False), ("/news/1?x=y$", True), ("/*=y$", True), ("*/1", True),
        ("/news/*/1", False), ("/n*s*x*$", True), ("/n*s*z", False), ("$", False), ("/news/1?x=yy", False),
    ],
)  # fmt: skip
def test_patterns(pattern, matches):
    assert PathRules(((pattern, True),)).reserve(URL) is (True if matches else None)


def test_a_pattern_takes_linear_time():
    start = time.process_time()
    PathRules((("/" + "a*" * 50_000 + "b$", True),) * 10).reserve("http://a.org/" + "a" * 2_000)
    assert time.process_time() - start < 5


@given(st.binary(max_size=100) | st.recursive(st.text() | st.integers() | st.none(), st.lists).map(json.dumps))
def test_any_file_is_read_or_refused(body):
    try:
        rules = parse_tdm_rules(body if isinstance(body, bytes) else body.encode(), "http://a.org")
    except ValueError:
        return
    assert rules == PathRules()


def test_a_file_that_is_nested_too_deep_is_refused():
    with pytest.raises(ValueError, match="nested too deep"):
        parse_tdm_rules(b"[" * 200_000, "http://a.org")


# --- a crawl ----------------------------------------------------------------------------------------------------------


@pytest.fixture
def reserving_site(site, page, answer):
    site.routes["/"] = page("/noai", "/image", "/tdm-meta", "/tdm-header", "/archive/1", "/signal", "/open")
    site.routes["/noai"] = page("/from-noai", head='<meta name="robots" content="noai">')
    site.routes["/image"] = answer(page(), headers={"X-Robots-Tag": "noimageai"})
    site.routes["/tdm-meta"] = page(head='<meta name="tdm-reservation" content="1">')
    site.routes["/tdm-header"] = answer(page(), headers={"tdm-reservation": "1", "ETag": '"1"'})
    site.routes["/archive/1"] = page()
    site.routes["/signal"] = answer(page(), headers={"Content-Signal": "search=yes, ai-train=no"})
    site.routes["/open"] = site.routes["/from-noai"] = page()
    rules = [{"location": "/archive/", "tdm-reservation": 1}]
    site.routes["/.well-known/tdmrep.json"] = answer(json.dumps(rules), content_type="application/json")
    return site


RESERVED = {
    "/noai": "reserved: noai", "/image": "reserved: noimageai", "/tdm-meta": "reserved: TDM reservation",
    "/tdm-header": "reserved: TDM reservation", "/archive/1": "reserved: TDM reservation",
    "/signal": "reserved: Content-Signal ai-train=no",
}  # fmt: skip


@pytest.mark.parametrize("reservations", ["obey", "report"])
def test_reserved_pages_are_left_out_or_only_reported(reserving_site, make_source, run_crawl, tmp_path, reservations):
    source = make_source() if reservations == "obey" else make_source(reservations="report")
    stored = {url.removeprefix(reserving_site.url("")) for url in run_crawl(source)}
    assert stored == {"/", "/open", "/from-noai"} | (set() if reservations == "obey" else set(RESERVED))
    rows = pq.read_table(tmp_path / "out" / "urls.parquet").to_pylist()
    reasons = {row["url"].removeprefix(reserving_site.url("")): row["reason"] for row in rows if row["reason"]}
    assert reasons == RESERVED
    stats = json.loads((tmp_path / "out" / "stats.json").read_text())
    assert sum(stats["reserved"].values()) == len(RESERVED)
    assert sum(stats["skipped"].values()) == (len(RESERVED) if reservations == "obey" else 0)
    # a 304 need not repeat the header, so the next crawl asks for the page itself
    run_crawl(source, "again", previous="out")
    assert json.loads((tmp_path / "again" / "stats.json").read_text())["reserved"] == stats["reserved"]


def test_a_site_that_reserves_everything_in_robots_txt_is_not_even_read(site, page, answer, make_source, run_crawl):
    site.routes["/robots.txt"] = answer("User-agent: *\nContent-Signal: search=yes, ai-train=no\nAllow: /")
    site.routes["/"] = page("/more")
    with pytest.raises(UserError, match=r"no page could be stored \(1 × reserved: Content-Signal ai-train=no\)"):
        run_crawl(make_source())
    assert site.paths() == []
    assert set(run_crawl(make_source(reservations="report"), "report")) == {site.url()}


def test_a_preview_says_what_is_reserved(reserving_site, make_source):
    with Preview(make_source()) as preview:
        assert {path: preview.page(reserving_site.url(path)).outcome for path in RESERVED} == RESERVED
        assert preview.page(reserving_site.url("/open")).outcome == "stored"
    with Preview(make_source(reservations="report")) as preview:
        assert preview.page(reserving_site.url("/noai")).outcome == "stored, although reserved: noai"


def test_a_broken_file_reserves_nothing_and_is_told(site, page, answer, make_source, run_crawl, caplog, tmp_path):
    site.routes["/"] = page()
    site.routes["/.well-known/tdmrep.json"] = answer("<html>not here", content_type="text/html")
    assert len(run_crawl(make_source())) == 1
    assert "tdmrep.json" not in caplog.text, "a page that says that there is none"
    site.routes["/.well-known/tdmrep.json"] = answer("{", content_type="application/json")
    assert len(run_crawl(make_source(), "broken")) == 1
    assert "tdmrep.json: Expecting property name" in caplog.text
    assert list(unread_tdm_files(tmp_path / "broken")) == [site.url("/.well-known/tdmrep.json")]


def unread_tdm_files(snapshot: Path) -> dict[str, str]:
    return json.loads((snapshot / "stats.json").read_text())["unread_tdm_files"]


def test_a_file_that_is_not_answered_is_asked_for_again(site, page, answer, make_source, run_crawl, tmp_path):
    rules = json.dumps([{"location": site.url("/a"), "tdm-reservation": True}])
    site.routes["/"], site.routes["/a"] = page("/a"), page()
    answers = iter([answer(status=503), answer(rules, content_type="text/html")])
    site.routes["/.well-known/tdmrep.json"] = lambda handler: next(answers)
    assert set(run_crawl(make_source())) == {site.url()}
    assert unread_tdm_files(tmp_path / "out") == {}
    site.routes["/.well-known/tdmrep.json"] = answer(status=503)
    assert len(run_crawl(make_source(), "never")) == 2
    assert unread_tdm_files(tmp_path / "never") == {site.url("/.well-known/tdmrep.json"): "status 503"}


@pytest.mark.parametrize(
    ("answered", "problem"),
    [
        ('[{"location": "/", "tdm-reservation": "yes"}]', "none of its rules can be read"),
        ('[{"path": "/", "tdm-reservation": 1}]', "none of its rules can be read"),
        (302, "too many redirects"),
        ('{"error": "no such file"}', None),
        ("[]", None),
    ],
)
def test_a_file_whose_rules_are_not_understood_is_told(
    site, page, answer, make_source, run_crawl, tmp_path, answered, problem
):
    site.routes["/"] = page()
    site.routes["/.well-known/tdmrep.json"] = (
        answer(status=302, headers={"Location": "/.well-known/tdmrep.json"})
        if answered == 302
        else answer(answered, content_type="application/json")
    )
    assert len(run_crawl(make_source())) == 1
    unread = unread_tdm_files(tmp_path / "out")
    assert (problem in unread[site.url("/.well-known/tdmrep.json")]) if problem else unread == {}


def test_a_redirect_of_the_file_is_followed_within_its_origin(site, page, answer, make_source, run_crawl):
    site.routes["/"] = page()
    away = site.url("/private").replace("127.0.0.1", "localhost")
    site.routes["/.well-known/tdmrep.json"] = answer(status=302, headers={"Location": away})
    assert len(run_crawl(make_source())) == 1
    site.routes["/.well-known/tdmrep.json"] = answer(status=302, headers={"Location": "/tdm"})
    site.routes["/tdm"] = answer('{"location": "/", "tdm-reservation": 1}')
    with pytest.raises(UserError, match="TDM reservation"):
        run_crawl(make_source(), "within")
    assert "/private" not in site.paths()
