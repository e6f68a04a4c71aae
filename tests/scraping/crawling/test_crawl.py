import gzip
import json
import logging
import os
import signal
import threading
import time
from collections import Counter
from contextlib import nullcontext
from contextvars import ContextVar
from itertools import pairwise

import pyarrow.parquet as pq
import pytest

from scraping.crawling import connections, links
from scraping.crawling import crawl as crawl_module
from scraping.crawling.crawl import crawl
from scraping.crawling.frontier import Frontier
from scraping.crawling.politeness import HostGate
from textmill.errors import Unavailable, UserError


def stats(tmp_path, name="out") -> dict:
    return json.loads((tmp_path / name / "stats.json").read_text())


def urls(tmp_path, name="out") -> dict[str, dict]:
    return {row["url"]: row for row in pq.read_table(tmp_path / name / "urls.parquet").to_pylist()}


# --- what is fetched and kept -----------------------------------------------------------------------------------------


def test_pages_are_found_and_stored_once(site, page, make_source, run_crawl, tmp_path):
    site.routes["/"] = page("/a", "/b", "/a#x", "./b", "/missing")
    site.routes["/a"] = page("/", "/b", "/c?utm_source=x")
    site.routes["/b"] = page("/c", "http://elsewhere.example/", "/paper.pdf")
    site.routes["/c"] = page()
    pages = run_crawl(make_source())
    assert list(pages) == [site.url(p) for p in ("/", "/a", "/b", "/c")]
    asked = [path for path in site.paths() if path in ("/", "/a", "/b", "/c")]
    assert asked == ["/", "/a", "/b", "/c"], "breadth first"
    assert Counter(site.paths()) == {"/": 1, "/a": 1, "/b": 1, "/missing": 1, "/c": 1}
    row = pages[site.url("/a")]
    assert (row["source"], row["status"], row["content_type"]) == ("test", 200, "text/html; charset=utf-8")
    assert row["body"].decode() == site.routes["/a"]
    result = stats(tmp_path)
    assert result["pages"] == 4
    assert result["status"] == {"200": 4, "404": 1}
    assert result["failed"] == {"status 404": 1}
    assert result["skipped"] == {"file type": 1, "other host": 1}
    assert result["failed_urls"] == [{"url": site.url("/missing"), "reason": "status 404"}]
    assert result["bytes"] == sum(len(row["body"]) for row in pages.values())
    assert urls(tmp_path)[site.url("/c")]["found_on"] == site.url("/a")
    left = sorted(path.name for path in (tmp_path / "out").iterdir())
    assert left == ["fetches.parquet", "part-00000.parquet", "stats.json", "urls.parquet"]


def test_robots_txt_is_obeyed(site, page, answer, make_source, run_crawl, tmp_path):
    site.routes["/robots.txt"] = answer(
        "User-agent: *\nDisallow: /\n\nUser-agent: textmill\nDisallow: /private\n", content_type="text/plain"
    )
    site.routes["/"] = page("/private/x", "/open")
    site.routes["/open"] = page()
    site.routes["/private/x"] = page()
    assert set(run_crawl(make_source())) == {site.url("/"), site.url("/open")}
    assert "/private/x" not in site.paths()
    assert stats(tmp_path)["skipped"] == {"robots.txt": 1}
    assert site.log[0].path == "/robots.txt"


def test_robots_directives_of_pages_are_obeyed(site, page, answer, make_source, run_crawl, tmp_path):
    site.routes["/"] = page("/noindex", "/nofollow", "/header", "/other") + '<a rel="nofollow" href="/secret">'
    site.routes["/noindex"] = page("/from-noindex", head='<meta name="robots" content="noindex">')
    site.routes["/nofollow"] = page("/from-nofollow", head='<meta name="robots" content="nofollow">')
    site.routes["/header"] = answer(page("/from-header"), headers={"X-Robots-Tag": "textmill: noindex, nofollow"})
    site.routes["/other"] = answer(page("/from-other"), headers={"X-Robots-Tag": "otherbot: noindex, nofollow"})
    site.fallback = lambda path: page()
    stored = {url.removeprefix(site.url("")) for url in run_crawl(make_source())}
    assert stored == {"/", "/nofollow", "/other", "/from-noindex", "/from-other"}
    assert stats(tmp_path)["skipped"] == {"noindex": 2, "nofollow": 3}


def test_log_lines_of_a_host_know_whose_crawl_they_are_of(site, page, make_source, run_crawl):
    run: ContextVar[str | None] = ContextVar("run", default=None)
    said = []

    class Listener(logging.Handler):
        def emit(self, record: logging.LogRecord) -> None:
            said.append((record.getMessage(), run.get()))

    logger, listener = logging.getLogger("scraping.crawling.sitemap"), Listener()
    level = logger.level
    logger.setLevel(logging.INFO)
    logger.addHandler(listener)
    site.routes["/"] = page()
    run.set("mine")
    try:
        run_crawl(make_source(sitemaps=True))
    finally:
        logger.removeHandler(listener)
        logger.setLevel(level)
    assert (f"sitemap {site.url('/sitemap.xml')}: status 404", "mine") in said


def test_a_link_that_one_page_recommends_is_followed_although_another_does_not(site, page, make_source, run_crawl):
    site.routes["/"] = page("/a") + '<a rel="nofollow" href="/b">'
    site.routes["/a"] = page("/b")
    site.routes["/b"] = page()
    assert site.url("/b") in run_crawl(make_source())


def test_redirects_give_one_document(site, page, answer, make_source, run_crawl, tmp_path):
    site.routes["/"] = page("/old", "/older", "/loop", "/out", "/self", "/nowhere")
    site.routes["/older"] = answer(status=301, headers={"Location": "/old"})
    site.routes["/old"] = answer(status=302, headers={"Location": "new"})
    site.routes["/new"] = page()
    site.routes["/loop"] = answer(status=301, headers={"Location": "/loop2"})
    site.routes["/loop2"] = answer(status=301, headers={"Location": "/loop"})
    site.routes["/out"] = answer(status=301, headers={"Location": "http://169.254.169.254/latest"})
    site.routes["/self"] = answer(status=301, headers={"Location": "/self"})
    site.routes["/nowhere"] = answer(status=301, headers={"Location": "mailto:x@y.z"})
    assert set(run_crawl(make_source())) == {site.url("/"), site.url("/new")}
    assert max(Counter(site.paths()).values()) == 1
    result = stats(tmp_path)
    assert result["redirected"] == 3
    assert result["failed"] == {"redirect to itself": 1, "redirect to nowhere": 1, "redirects in a circle": 2}
    assert result["skipped"] == {"other host": 1}


def test_odd_pages_are_read_as_browsers_read_them(site, page, answer, make_source, run_crawl):
    def hinted(handler):
        body = page("/after-hints").encode()
        head = f"HTTP/1.1 200 OK\r\nContent-Type: text/html\r\nContent-Length: {len(body)}\r\n\r\n".encode()
        handler.wfile.write(b"HTTP/1.1 103 Early Hints\r\nLink: </s.css>; rel=preload\r\n\r\n" + head + body)

    query = '<meta charset="windows-1251"><a href="/s?q=привет">x</a>'.encode("cp1251")
    site.routes["/"] = '<frameset cols="*,*"><frame src="/late-base"><frame src="/hints"></frameset>'
    site.routes["/late-base"] = '<a href="one">x</a><iframe src="/utf-8"></iframe><base href="/folder/">'
    site.routes["/hints"] = hinted
    site.routes["/utf-8"] = answer(page("/nul"), headers={"Content-Encoding": "UTF-8"})
    site.routes["/nul"] = answer(b'<!doctype html><title>a\0b</title><a href="/query">x</a>', content_type="text/html")
    site.routes["/query"] = answer(query, content_type="text/html")
    site.fallback = lambda path: page()
    expected = ["/", "/late-base", "/hints", "/utf-8", "/folder/one", "/after-hints", "/nul", "/query"]
    pages = run_crawl(make_source())
    assert set(pages) == {site.url(path) for path in (*expected, "/s?q=%EF%F0%E8%E2%E5%F2")}
    assert pages[site.url("/query")]["body"] == query


def test_sitemaps_that_cannot_be_read_are_reported(site, page, answer, make_source, run_crawl, tmp_path):
    named = "".join(f"Sitemap: /{name}\n" for name in ("cut.xml", "gone.xml", "good.txt"))
    site.routes["/robots.txt"] = answer(named, content_type="text/plain")
    site.routes["/cut.xml"] = f"<urlset><url><loc>{site.url('/one')}</loc></url><url><loc>http://a.or"
    site.routes["/good.txt"] = answer(f"{site.url('/two')}\n".encode("utf-16"), content_type="text/plain")
    site.routes["/"] = site.routes["/one"] = site.routes["/two"] = page()
    assert set(run_crawl(make_source())) == {site.url(path) for path in ("/", "/one", "/two")}
    unread = stats(tmp_path)["unread_sitemaps"]
    assert set(unread) == {site.url("/cut.xml"), site.url("/gone.xml")}
    assert "errors in its XML" in unread[site.url("/cut.xml")]
    assert unread[site.url("/gone.xml")] == "status 404"
    site.routes.pop("/robots.txt")
    run_crawl(make_source(), "unnamed")
    assert stats(tmp_path, "unnamed")["unread_sitemaps"] == {}, "where none is named, none need be there"


@pytest.mark.parametrize("way", ["itself", "a page that sets it", "a page that looks for it"])
def test_a_page_that_tries_its_visitors_for_a_cookie_is_a_page(site, page, answer, make_source, run_crawl, way):
    setting, check = {"Set-Cookie": "seen=1; Path=/"}, "/page" if way == "itself" else "/check"

    def tried(handler):
        if "seen=1" in handler.headers.get("Cookie", ""):
            return page()
        return answer(status=302, headers={"Location": check} | (setting if way != "a page that sets it" else {}))

    site.routes["/"], site.routes["/page"] = page("/page", "/other"), tried
    site.routes["/check"] = answer(status=302, headers={"Location": "/page", **setting})
    site.routes["/other"] = page()
    assert set(run_crawl(make_source())) == {site.url(path) for path in ("/", "/page", "/other")}


def test_circles_end_although_each_answer_sets_a_cookie(site, page, answer, make_source, run_crawl, tmp_path):
    def turn(handler):
        return answer(status=302, headers={"Location": "/turn", "Set-Cookie": f"c{time.time_ns()}=1"})

    site.routes["/"], site.routes["/turn"] = page("/turn"), turn
    assert set(run_crawl(make_source())) == {site.url()}
    assert stats(tmp_path)["failed"] == {"too many redirects": 1}
    assert site.paths().count("/turn") == 11


def test_the_content_type_decides_and_not_what_a_name_ends_in(site, page, answer, make_source, run_crawl, tmp_path):
    pages = ["/wiki/Node.js", "/wiki/File:Map.png", "/wiki/File%3AMap.svg", "/cmd.exe", "/blob/data.csv"]
    site.routes["/"] = page(*pages, "/app.js", "/photo.png")
    site.routes["/app.js"] = answer("let x = 1", content_type="text/javascript")
    site.fallback = lambda path: page()
    assert set(run_crawl(make_source())) == {site.url(path) for path in ("/", *pages)}
    assert stats(tmp_path)["skipped"] == {"content type text/javascript": 1, "file type": 1}


def test_a_redirect_spelled_in_raw_bytes(site, page, make_source, run_crawl):
    def moved(handler):
        handler.wfile.write("HTTP/1.1 301 Moved\r\nLocation: /café\r\nContent-Length: 0\r\n\r\n".encode())

    site.routes["/"] = moved
    site.routes["/caf%C3%A9"] = page()
    assert set(run_crawl(make_source())) == {site.url("/caf%C3%A9")}


def test_endless_redirects_end(site, page, answer, make_source, run_crawl, tmp_path):
    site.routes["/"] = page("/r/0")
    site.fallback = lambda path: answer(status=302, headers={"Location": f"/r/{int(path[3:]) + 1}"})
    site.routes["/sitemap.xml"] = answer(status=404)
    site.routes["/robots.txt"] = answer(status=404)
    run_crawl(make_source())
    assert stats(tmp_path)["failed"] == {"too many redirects": 1}
    assert len(site.paths()) == 12


def test_a_redirect_cannot_leave_the_rules(site, page, answer, make_source, run_crawl, tmp_path):
    site.routes["/robots.txt"] = answer("User-agent: *\nDisallow: /private")
    site.routes["/"] = page("/door")
    site.routes["/door"] = answer(status=301, headers={"Location": "/private"})
    site.routes["/private"] = page()
    run_crawl(make_source())
    assert "/private" not in site.paths()
    assert stats(tmp_path)["skipped"] == {"robots.txt": 1}


def test_a_redirect_to_what_another_host_is_just_refusing(
    site, other_site, page, answer, make_source, run_crawl, monkeypatch
):
    """The link was seen already, but what became of it is not yet written when the redirect is."""

    def slow_store(frontier, item, *rest, store=Frontier.store):
        if item.url == site.url():
            time.sleep(0.6)
        store(frontier, item, *rest)

    def late(handler):
        time.sleep(0.3)
        return answer(status=301, headers={"Location": site.url("/denied")})

    monkeypatch.setattr(Frontier, "store", slow_store)
    site.routes["/"] = page("/denied")
    site.routes["/denied"] = page()
    other_site.routes["/"] = late
    run_crawl(make_source(start=[site.url(), other_site.url()], deny=["/denied"]))
    assert other_site.paths() == ["/"]
    assert "/denied" not in site.paths()


def test_redirects_to_private_addresses_are_refused(site, page, answer, make_source, tmp_path, run_crawl, monkeypatch):
    port = int(site.host.split(":")[1])
    monkeypatch.setattr(
        "scraping.crawling.connections.system_resolver",
        lambda host, _: [("127.0.0.1", port)] if host != "inside.example" else [("10.0.0.7", 80)],
    )
    monkeypatch.setattr("scraping.crawling.connections.is_global", lambda address: address != "10.0.0.7")
    site.routes["/"] = page("/door")
    site.routes["/door"] = answer(status=302, headers={"Location": "http://inside.example/admin"})
    source = make_source(start=["http://outside.example/"], hosts=["*.example"], private_addresses=False)
    run_crawl(source)
    assert stats(tmp_path)["failed"] == {"host given up": 1}
    assert stats(tmp_path)["given_up"] == {
        "inside.example": "inside.example has the private address 10.0.0.7; private_addresses: true allows it"
    }


def test_canonical_links_give_one_document(site, page, make_source, run_crawl, tmp_path):
    def canonical(to):
        return f'<link rel="canonical" href="{to}">'

    site.routes["/"] = page("/print", "/gone", "/a", "/b", "/out", "/self")
    site.routes["/print"] = page(head=canonical("/article"))
    site.routes["/article"] = page()
    site.routes["/gone"] = page(head=canonical("/not-there"))
    site.routes["/a"] = page(head=canonical("/b"))
    site.routes["/b"] = page(head=canonical("/a"))
    site.routes["/out"] = page(head=canonical("http://elsewhere.example/"))
    site.routes["/self"] = page(head=canonical("/self#top"))
    stored = {url.removeprefix(site.url("")) for url in run_crawl(make_source())}
    assert stored == {"/", "/article", "/gone", "/a", "/out", "/self"}
    assert stats(tmp_path)["skipped"] == {"canonical elsewhere": 2}
    assert stats(tmp_path)["pages"] == 6


def test_a_canonical_link_to_a_redirect(site, page, answer, make_source, run_crawl):
    site.routes["/"] = page("/print")
    site.routes["/print"] = page(head='<link rel="canonical" href="/moved">')
    site.routes["/moved"] = answer(status=301, headers={"Location": "/article"})
    site.routes["/article"] = page()
    assert set(run_crawl(make_source())) == {site.url("/"), site.url("/article")}


def test_a_page_with_more_links_than_are_read_is_told(site, page, make_source, run_crawl, tmp_path, monkeypatch):
    monkeypatch.setattr(links, "MAX_LINKS", 3)
    site.routes["/"] = page("/1", "/2", "/1", "/2", "/3", "/1", "/3")
    site.routes.update({path: page() for path in ("/1", "/2", "/3", "/4")})
    run_crawl(make_source(), "few")
    assert (stats(tmp_path, "few")["limits_met"], stats(tmp_path, "few")["long_pages"]) == ([], {})
    site.routes["/"] = page("/1", "/2", "/3", "/4", head='<meta name="robots" content="noarchive">')
    assert len(run_crawl(make_source())) == 4
    result = stats(tmp_path)
    assert (result["limits_met"], list(result["long_pages"])) == (["links"], [site.url()])


def test_what_is_no_page_is_not_stored(site, page, answer, make_source, run_crawl, tmp_path):
    site.routes["/"] = page("/pdf", "/fake", "/hidden", "/untyped", "/words")
    site.routes["/pdf"] = answer(b"%PDF-1.7", content_type="application/pdf")
    site.routes["/fake"] = answer(b"\x89PNG\r\n\x1a\n" + bytes(100), content_type="text/html")
    site.routes["/hidden"] = answer(page(), content_type="application/octet-stream")
    site.routes["/untyped"] = answer(page(), content_type=None)
    site.routes["/words"] = answer("plain words", content_type="text/plain")
    assert set(run_crawl(make_source())) == {site.url(p) for p in ("/", "/hidden", "/untyped")}
    assert stats(tmp_path)["skipped"] == {"content type application/pdf": 1, "not HTML": 2}


def test_sitemaps_seed_and_order(site, page, answer, make_source, run_crawl):
    entries = [("/low", 0.1), ("/top", 1.0), ("/mid", 0.5), ("/denied", 0.9)]
    site.routes["/robots.txt"] = answer(f"User-agent: *\nDisallow: /denied\nSitemap: {site.url('/map.xml')}")
    site.routes["/map.xml"] = answer(
        "<urlset>" + "".join(f"<url><loc>{site.url(p)}</loc><priority>{n}</priority></url>" for p, n in entries)
        + "</urlset>"
    )  # fmt: skip
    site.routes["/"] = page("/linked")
    site.fallback = lambda path: page()
    run_crawl(make_source())
    assert site.paths() == ["/map.xml", "/", "/top", "/mid", "/low", "/linked"]
    site.log.clear()
    run_crawl(make_source(sitemaps=False), "without")
    assert site.paths() == ["/", "/linked"]


def test_a_sitemap_on_another_host_of_the_source_is_read_if_that_host_agrees(
    site, other_site, page, answer, make_source, run_crawl, tmp_path
):
    listing = f"<urlset><url><loc>{site.url('/listed')}</loc></url></urlset>"
    site.routes["/robots.txt"] = answer(
        f"Sitemap: {other_site.url('/map.xml')}\nSitemap: {other_site.url('/denied.xml')}\nSitemap: /own.xml"
    )
    site.routes["/own.xml"] = answer(listing.replace("/listed", "/relative"))
    site.routes["/"] = site.routes["/listed"] = site.routes["/relative"] = page()
    other_site.routes["/robots.txt"] = answer("User-agent: *\nDisallow: /denied.xml")
    other_site.routes["/map.xml"] = answer(listing)
    source = make_source(hosts=[site.host, other_site.host])
    assert set(run_crawl(source)) == {site.url(path) for path in ("/", "/listed", "/relative")}
    assert [hit.path for hit in other_site.log] == ["/robots.txt", "/map.xml"]
    other_site.log.clear()
    run_crawl(make_source(), "alone")
    assert other_site.log == [], "a sitemap elsewhere is out of scope"
    other_site.routes["/robots.txt"] = answer(status=503)
    assert set(run_crawl(source, "refused")) == {site.url("/"), site.url("/relative")}
    assert other_site.paths() == []


# --- bounds -----------------------------------------------------------------------------------------------------------


def test_depth_and_page_limits(site, page, make_source, run_crawl, tmp_path):
    site.fallback = lambda path: page(*(f"{path.rstrip(chr(47))}/{name}{len(path)}" for name in "xy"))
    site.routes["/robots.txt"] = site.routes["/sitemap.xml"] = ""
    assert len(run_crawl(make_source(limits={"depth": 3}))) == 15
    assert stats(tmp_path)["skipped"] == {"too deep": 16}
    assert len(run_crawl(make_source(limits={"pages": 5}), "few")) == 5
    assert stats(tmp_path, "few")["skipped"] == {"page limit": 6}


def test_no_more_urls_are_remembered_than_allowed(site, page, make_source, run_crawl, tmp_path):
    site.fallback = lambda path: page(*(f"{path.rstrip('/')}/{name}" for name in "abcdefghij"))
    site.routes["/robots.txt"] = site.routes["/sitemap.xml"] = ""
    assert len(run_crawl(make_source(limits={"urls": 50}))) == 50
    assert (stats(tmp_path)["found"], stats(tmp_path)["found_all"]) == (50, False)
    run_crawl(make_source(limits={"pages": 3}), "all")
    assert stats(tmp_path, "all")["found_all"]


@pytest.mark.parametrize(
    ("trap", "limits", "reason"),
    [
        (
            lambda path: [f"/cal/{int(path.split('/')[-1] or 0) + n}" for n in (1, 2)],
            {"similar": 10},
            "too many similar",
        ),
        (lambda path: [f"/list?page={len(path)}{n}" for n in range(9)], {"variants": 10}, "too many query strings"),
        (lambda path: [path.rstrip("/") + "/deeper"], {"path_segments": 9}, "repeating path"),
        (lambda path: [f"{path.rstrip('/')}/{len(path)}"], {"path_segments": 9}, "path too deep"),
        (lambda path: [path.partition("?")[0] + "?q=" + "x" * len(path)], {"url_length": 80}, "URL too long"),
        (lambda path: [f"/a;jsessionid={time.time()}", f"/a?PHPSESSID={time.time()}"], {}, None),
    ],
    ids=["calendar", "queries", "same segment", "segments", "growing query", "sessions"],
)
def test_traps_end(site, page, make_source, run_crawl, tmp_path, trap, limits, reason):
    site.fallback = lambda path: page(*trap(path))
    site.routes["/robots.txt"] = site.routes["/sitemap.xml"] = ""
    run_crawl(make_source(limits={"pages": 200, **limits}))
    assert len(site.paths()) <= 40
    skipped = stats(tmp_path)["skipped"]
    assert any(key.startswith(reason) for key in skipped) if reason else skipped == {}


@pytest.mark.long
def test_hostile_answers_cost_a_page_not_the_crawl(site, page, answer, make_source, run_crawl, tmp_path):
    def drip(handler):
        handler.wfile.write(b"HTTP/1.1 200 OK\r\nContent-Type: text/html\r\n\r\n")
        for _ in range(100):
            handler.wfile.write(b"x")
            time.sleep(0.05)

    names = ("bomb", "drip", "deep", "many", "latin", "nul", "broken", "codec", "number", "end")
    site.routes["/"] = page(*(f"/{name}" for name in names))
    site.routes["/codec"] = answer(page(), content_type="text/html; charset=hex")
    site.routes["/number"] = answer(page(), 404, headers={"Content-Length": "²", "Retry-After": "²"})
    site.routes["/bomb"] = answer(gzip.compress(bytes(100_000_000)), headers={"Content-Encoding": "gzip"})
    site.routes["/drip"] = drip
    site.routes["/deep"] = page() + "<div><b><i>" * 300 + '<a href="/from-deep">'
    site.routes["/many"] = "".join(f"<a href='/p{n}?{n}'>x</a>" for n in range(200_000))
    site.routes["/latin"] = answer('<a href="/café">'.encode("latin-1"), content_type="text/html; charset=iso-8859-1")
    site.routes["/nul"] = answer(b"<html>\0\0\0", content_type="text/html")
    site.routes["/broken"] = answer(b"\x1f\x8bno gzip", headers={"Content-Encoding": "gzip"})
    site.routes["/end"] = site.routes["/from-deep"] = site.routes["/caf%C3%A9"] = page()
    limits = {"pages": 14, "bytes": 8_000_000, "seconds": 2}
    pages = run_crawl(make_source(limits=limits))
    assert {"/deep", "/many", "/end", "/from-deep"} <= {url.removeprefix(site.url("")) for url in pages}
    result = stats(tmp_path)
    assert result["failed"].items() >= {
        "larger than 8,000,000 bytes": 1, "took too long": 1, "cannot be decompressed": 1,
    }.items()  # fmt: skip
    assert result["skipped"]["not HTML"] == 1
    assert result["found"] < 10_100


# --- politeness, by the server's log ----------------------------------------------------------------------------------


def assert_polite(log, delay: float) -> None:
    """Requests began at least `delay` seconds apart. (When an answer ended, only the client knows for sure.)"""
    starts = sorted(hit.start for hit in log)
    assert len(starts) > 1
    assert all(later - earlier >= delay for earlier, later in pairwise(starts))


def test_delay_between_all_requests(site, page, answer, make_source, run_crawl):
    site.routes["/"] = page("/a", "/b", "/r")
    site.routes["/a"] = page()
    site.routes["/r"] = answer(status=301, headers={"Location": "/a"})
    run_crawl(make_source(delay=0.1))
    assert len(site.log) == 7
    assert_polite(site.log, 0.1)
    assert len({hit.connection for hit in site.log}) == 1


def test_two_processes_share_a_host(site, page, make_source, start_crawler):
    def slow(handler):
        time.sleep(0.03)
        return page()

    site.routes["/"] = page(*(f"/{n}" for n in range(6)))
    site.routes["/robots.txt"] = site.routes["/sitemap.xml"] = ""
    site.routes.update({f"/{n}": slow for n in range(6)})
    crawlers = [start_crawler(make_source(delay=0.05), name) for name in ("one", "two")]
    assert [crawler.wait(240) for crawler in crawlers] == [0, 0]
    assert len(site.paths()) == 14
    assert_polite(site.log, 0.05)
    assert_polite([hit for hit in site.log if hit.path.strip("/").isdigit()], 0.08)  # never two at a time
    assert len({hit.connection for hit in site.log}) > 2, "no process keeps a connection while the other asks"


def test_crawl_delay_is_obeyed_up_to_the_cap(site, page, answer, make_source, run_crawl, caplog):
    site.routes["/robots.txt"] = answer("User-agent: *\nCrawl-delay: 0.1")
    site.routes["/"] = page("/a")
    site.routes["/a"] = page()
    run_crawl(make_source())
    assert_polite(site.log, 0.1)  # from the first request after robots.txt on
    site.log.clear()
    site.routes["/robots.txt"] = answer("User-agent: *\nCrawl-delay: 500")
    start = time.time()
    run_crawl(make_source(crawl_delay_cap=0.05), "capped")
    assert time.time() - start < 200
    assert_polite(site.log, 0.05)
    assert "asks for a Crawl-delay of 500 s; obeying 0.05 s" in caplog.text


def test_many_hosts_at_one_address_are_one_server(site, page, make_source, run_crawl, monkeypatch):
    port = int(site.host.split(":")[1])
    monkeypatch.setattr(connections, "system_resolver", lambda host, _: [("127.0.0.1", port)])
    hosts = [f"{n}.example.org" for n in range(12)]
    site.routes["/robots.txt"] = site.routes["/sitemap.xml"] = ""
    site.routes["/"] = page()
    source = make_source(start=[f"http://{host}/" for host in hosts], hosts=[], delay=0.03, sitemaps=False)
    assert len(run_crawl(source)) == 12
    assert len(site.log) == 36, "robots.txt, the page, and its TDM rules"
    assert_polite(site.log, 0.03)


def test_robots_txt_has_the_time_that_a_page_has(site, make_source, run_crawl):
    site.routes["/robots.txt"] = lambda handler: time.sleep(60)
    start = time.time()
    with pytest.raises(Unavailable, match="no answer in time"):
        run_crawl(make_source(limits={"seconds": 0.3}))
    assert time.time() - start < 50
    assert len(site.log) == 3


@pytest.mark.long
def test_hosts_are_crawled_side_by_side(site, other_site, page, answer, make_source, run_crawl, tmp_path):
    for one in (site, other_site):
        one.routes["/robots.txt"] = answer(status=404)
        one.routes["/"] = page(*(f"/{n}" for n in range(8)), other_site.url("/"))
        one.fallback = lambda path: page()
    pages = run_crawl(make_source(hosts=[site.host, other_site.host], delay=0.1))
    assert len(pages) == 18
    for one in (site, other_site):
        assert_polite(one.log, 0.1)
    first, last = other_site.log[0].start, site.log[-1].start
    assert first < last, "neither waits for the other to end"
    assert stats(tmp_path)["hosts"] == {site.host: 9, other_site.host: 9}


@pytest.mark.long
@pytest.mark.parametrize("status", [429, 503])
def test_retry_after_pauses_the_host_if_it_is_the_host_that_is_busy(site, page, answer, make_source, run_crawl, status):
    refusals = iter([answer(status=status, headers={"Retry-After": "1"})])
    site.routes["/"] = page("/busy", "/next")
    site.routes["/busy"] = lambda handler: next(refusals, page())
    site.routes["/next"] = page()
    assert len(run_crawl(make_source())) == 3
    assert site.paths() == ["/", "/busy", "/next", "/busy"]
    busy, after, again = site.log[-3:]
    assert (after.start - busy.end >= 1) == (status == 429)
    assert again.start - busy.end >= 1


@pytest.mark.parametrize(("status", "pages"), [(429, 1), (503, 12)])
def test_a_pause_of_a_day_is_given_up_for_the_page_or_for_the_host(
    site, page, answer, make_source, run_crawl, tmp_path, status, pages
):
    paths = [f"/{n}" for n in range(15)]
    site.routes = {path: page() for path in paths} | {"/": page(*paths)}
    for busy in ("/0", "/1", "/2", "/9"):
        site.routes[busy] = answer(status=status, headers={"Retry-After": "86400"})
    start = time.time()
    assert len(run_crawl(make_source())) == pages
    assert (time.time() - start < 60) and len(site.paths()) == len(set(site.paths())) + (status == 503)
    result = stats(tmp_path)
    told = {site.host: "status 429; it asks to come back in 86400 s"} if status == 429 else {}
    assert (result["given_up"], result["unfinished"]) == (told, 16 - pages)
    if status == 503:
        assert result["failed"] == {"status 503": 4}
        assert HostGate(site.host, threading.Event()).seconds_left() < 10, "the next crawl need not wait"


@pytest.mark.long
@pytest.mark.parametrize("failure", [500, 503, 429, "reset", "silence"])
def test_unreachable_robots_txt_allows_nothing_until_it_answers(site, page, answer, make_source, run_crawl, failure):
    def fail(handler):
        if failure == "silence":
            time.sleep(1)
        return answer(status=failure) if isinstance(failure, int) else None

    failures = iter([fail, fail])
    site.routes["/robots.txt"] = lambda handler: next(failures, lambda _: answer("User-agent: *\nDisallow: /x"))(
        handler
    )
    site.routes["/"] = page("/x", "/y")
    site.fallback = lambda path: page()
    assert set(run_crawl(make_source())) == {site.url("/"), site.url("/y")}
    first_page = next(n for n, hit in enumerate(site.log) if hit.path == "/")
    assert [hit.path for hit in site.log[:first_page] if hit.path == "/robots.txt"] == ["/robots.txt"] * 3
    assert {hit.path for hit in site.log[:first_page]} <= {"/robots.txt", "/sitemap.xml"}


def test_robots_txt_that_never_answers(site, page, answer, make_source, run_crawl):
    site.routes["/robots.txt"] = answer(status=503)
    site.routes["/"] = page()
    with pytest.raises(Unavailable, match=r"127.* could not be crawled \(robots.txt: answered 503\)"):
        run_crawl(make_source())
    assert site.paths() == []
    site.routes["/robots.txt"] = ""
    assert len(run_crawl(make_source())) == 1, "a later run asks again"


# --- again ------------------------------------------------------------------------------------------------------------


def with_validators(answer, body, tag):
    def route(handler):
        if handler.headers.get("If-None-Match") == tag:
            return answer(status=304, headers={"ETag": tag}, content_type=None)
        return answer(body, headers={"ETag": tag})

    return route


def test_recrawls_are_conditional_and_report_changes(site, page, answer, make_source, run_crawl, tmp_path):
    site.routes["/"] = with_validators(answer, page("/same", "/changed", "/gone", "/dated"), '"1"')
    site.routes["/same"] = with_validators(answer, page("/deep"), '"2"')
    site.routes["/deep"] = page(text="deep")
    site.routes["/changed"] = with_validators(answer, page(text="old"), '"3"')
    site.routes["/gone"] = page()

    def dated(handler):
        stamp = "Mon, 01 Jun 2026 00:00:00 GMT"
        if handler.headers.get("If-Modified-Since") == stamp:
            return answer(status=304, content_type=None)
        return answer(page(text="dated"), headers={"Last-Modified": stamp})

    site.routes["/dated"] = dated
    first = run_crawl(make_source(), "first")
    assert stats(tmp_path, "first")["changes"] == {"new": 6, "changed": 0, "unchanged": 0, "kept": 0, "vanished": 0}
    site.routes["/changed"] = with_validators(answer, page("/new", text="new"), '"4"')
    site.routes["/new"] = page()
    del site.routes["/gone"]
    second = run_crawl(make_source(), "second", previous="first")
    result = stats(tmp_path, "second")
    assert result["changes"] == {"new": 1, "changed": 1, "unchanged": 4, "kept": 0, "vanished": 1}
    assert result["status"] == {"200": 3, "304": 3, "404": 1}
    changes = {url.removeprefix(site.url("")): row["change"] for url, row in urls(tmp_path, "second").items()}
    assert changes == {
        "/": "unchanged", "/same": "unchanged", "/deep": "unchanged", "/dated": "unchanged",
        "/changed": "changed", "/new": "new", "/gone": "vanished",
    }  # fmt: skip
    for path in ("/", "/same", "/deep", "/dated"):
        for column in ("body", "sha256", "etag", "last_modified", "content_type", "status"):
            assert second[site.url(path)][column] == first[site.url(path)][column]
    assert b"new" in second[site.url("/changed")]["body"]
    third = run_crawl(make_source(), "third", previous="second")
    assert stats(tmp_path, "third")["changes"]["unchanged"] == len(third) == 6


@pytest.mark.parametrize("shard_bytes", [crawl_module.SHARD_BYTES, 1_000], ids=["one shard", "many shards"])
def test_the_pages_of_an_unchanged_site_are_the_same_bytes_whenever_and_in_whatever_order_they_come(
    site, page, answer, make_source, run_crawl, monkeypatch, tmp_path, shard_bytes
):
    monkeypatch.setattr(crawl_module, "SHARD_BYTES", shard_bytes)
    names = [f"/{n}" for n in range(30)]
    site.routes["/"] = page("/a", *names)
    site.fallback = lambda path: page(text=path * 20)
    first = run_crawl(make_source(), "first")
    # Found the other way round, by a sitemap, and every answer with another validator
    listed = "".join(f"<url><loc>{site.url(name)}</loc></url>" for name in reversed(names))
    site.routes["/sitemap.xml"] = answer(f"<urlset>{listed}</urlset>", content_type="application/xml")
    site.fallback = lambda path: answer(page(text=path * 20), headers={"ETag": f'"{time.time_ns()}"'})
    second = run_crawl(make_source(), "second", previous="first")
    assert stats(tmp_path, "second")["changes"]["unchanged"] == len(second) == len(first) == 32
    assert first[site.url("/7")]["fetched_at"] < second[site.url("/7")]["fetched_at"]
    assert first[site.url("/7")]["etag"] != second[site.url("/7")]["etag"]
    pages = [
        {path.name: path.read_bytes() for path in (tmp_path / name).glob("part-*")} for name in ("first", "second")
    ]
    assert pages[0] == pages[1]
    assert (len(pages[0]) > 1) == (shard_bytes == 1_000)


def test_a_304_does_not_hide_a_directive_that_only_a_header_holds(site, page, answer, make_source, run_crawl):
    def route(handler):
        if handler.headers.get("If-None-Match") == '"1"':
            return answer(status=304, content_type=None)
        return answer(page("/no"), headers={"ETag": '"1"', "X-Robots-Tag": "nofollow"})

    site.routes["/"] = route
    site.routes["/no"] = page()
    assert set(run_crawl(make_source(), "first")) == set(run_crawl(make_source(), "second", "first")) == {site.url()}
    assert "/no" not in site.paths()


def test_an_unreachable_site_and_a_site_without_pages(site, page, answer, make_source, run_crawl):
    source = make_source(start=["http://no-such-host.invalid/"], hosts=[])
    with pytest.raises(UserError, match=r"no-such-host\.invalid could not be crawled .*cannot resolve") as error:
        run_crawl(source)
    assert "\n" not in str(error.value)
    site.routes["/robots.txt"] = answer("User-agent: *\nDisallow: /")
    with pytest.raises(UserError, match=r"no page could be stored \(1 × robots.txt\)"):
        run_crawl(make_source(), "refused")
    site.routes["/robots.txt"], site.routes["/"] = "", page()
    assert len(run_crawl(make_source(), "refused")) == 1


def test_only_what_may_pass_is_unavailable(make_source, run_crawl):
    with pytest.raises(Unavailable, match="could not be crawled"):
        run_crawl(make_source(start=["http://no-such-host.invalid/"]), "unreachable")
    with pytest.raises(UserError, match="could not be crawled") as private:
        run_crawl(make_source(private_addresses=False), "private")
    with pytest.raises(UserError, match="no page could be stored") as missing:
        run_crawl(make_source(), "missing")
    assert not isinstance(private.value, Unavailable) and not isinstance(missing.value, Unavailable)


def test_an_error_in_progress_stops_the_crawl_soon_and_a_second_call_continues(
    site, page, make_source, run_crawl, tmp_path
):
    site.routes["/"] = page(*(f"/{n}" for n in range(20)))
    site.fallback = lambda path: page()
    out = tmp_path / "out"
    out.mkdir()

    def interrupt(done, *_, **__):
        if done > 3:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        crawl(make_source(delay=0.05), out, interrupt)
    asked = len(site.paths())
    assert asked < 21
    assert not [thread for thread in threading.enumerate() if thread.name.startswith("host")]  # the crawl's workers
    assert len(run_crawl(make_source())) == 21
    assert Counter(site.paths()).most_common(1)[0][1] == 1


@pytest.mark.long
@pytest.mark.parametrize(
    ("max_age", "hours", "continues"), [("7d", 20, True), ("7d", 30, False), ("6h", 7, False), ("1s", 0.5, True)]
)
@pytest.mark.parametrize("finished", [False, True], ids=["in the middle", "before sealing"])
def test_a_crawl_that_was_interrupted_long_ago_begins_anew(
    site, page, make_source, run_crawl, monkeypatch, tmp_path, max_age, hours, continues, finished
):
    monkeypatch.setattr(crawl_module, "SHARD_BYTES", 100)
    site.routes["/"] = page(*(f"/{n}" for n in range(20)))
    site.fallback = lambda path: page(text="before")
    out = tmp_path / "out"
    out.mkdir()

    def interrupt(done, *_, **__):
        if done > 3 and not finished:
            raise KeyboardInterrupt

    with nullcontext() if finished else pytest.raises(KeyboardInterrupt):
        crawl(make_source(delay=0.05), out, interrupt)
    for file in out.iterdir():
        os.utime(file, times=(time.time() - hours * 3600,) * 2)
    asked = len(site.paths())
    site.fallback = lambda path: page(text="after")
    pages = run_crawl(make_source(max_age=max_age))
    assert len(pages) == 21
    assert len(site.paths()) - asked == (21 - asked if continues else 21)
    assert any(b"before" in row["body"] for row in pages.values()) == continues


@pytest.mark.parametrize("shard_bytes", [crawl_module.SHARD_BYTES, 1_000], ids=["one shard", "many shards"])
def test_small_shards_lose_nothing(site, page, make_source, run_crawl, monkeypatch, tmp_path, shard_bytes):
    monkeypatch.setattr(crawl_module, "SHARD_BYTES", shard_bytes)
    site.routes["/"] = page(*(f"/{n}" for n in range(50)))
    site.fallback = lambda path: page(text=path * 20)
    site.routes["/robots.txt"] = site.routes["/sitemap.xml"] = ""
    assert len(run_crawl(make_source())) == 51
    assert (len(list((tmp_path / "out").glob("part-*"))) > 5) == (shard_bytes == 1_000)


def test_kill_9_at_any_moment(site, page, make_source, run_crawl, tmp_path, start_crawler):
    """Three kills: no finished page is asked for again, none is lost, and the pages are those of a quiet crawl."""
    site.routes["/"] = page(*(f"/{n}" for n in range(40)))
    site.fallback = lambda path: page(f"{path}/more", text=path) if path.count("/") < 2 else page(text=path)
    site.routes["/robots.txt"] = site.routes["/sitemap.xml"] = ""
    source = make_source(delay=0.01)
    for kill in range(3):
        crawler = start_crawler(source, "killed")
        enough = len(site.paths()) + 15
        with site.answering(enough + 2):  # it cannot end before
            while len(site.paths()) < enough:
                assert crawler.poll() is None
                time.sleep(0.002 * kill)
            os.kill(crawler.pid, signal.SIGKILL)
            crawler.wait()
    assert start_crawler(source, "killed").wait(240) == 0
    counts = Counter(site.paths())
    assert sum(counts.values()) <= 81 + 3, "only a page that was under way may be asked for twice"
    pages = {row["url"]: row["body"] for row in pq.read_table(tmp_path / "killed" / "part-00000.parquet").to_pylist()}
    quiet = run_crawl(make_source(), "quiet")
    assert list(pages.items()) == [(url, row["body"]) for url, row in quiet.items()]
    first, second = (pq.read_table(tmp_path / name / "urls.parquet") for name in ("killed", "quiet"))
    assert first.equals(second)
    assert (tmp_path / "killed/stats.json").read_bytes() == (tmp_path / "quiet/stats.json").read_bytes()


def test_killed_between_the_last_steps(site, page, make_source, run_crawl, tmp_path):
    site.routes["/"] = page()
    run_crawl(make_source())
    (tmp_path / "out" / "frontier.sqlite-wal").write_bytes(b"")
    (tmp_path / "out" / "frontier.sqlite").write_bytes(b"")
    asked = len(site.log)
    run_crawl(make_source())
    assert len(site.log) == asked
    assert not list((tmp_path / "out").glob("frontier*"))
