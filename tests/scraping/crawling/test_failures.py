"""What a crawl makes of pages and hosts that do not answer, and how the next one goes on with what is missing."""

import json
import os
import signal
import socket
import threading
import time
from collections import Counter
from itertools import pairwise
from pathlib import Path

import pyarrow.parquet as pq
import pytest

from scraping.crawling import worker
from scraping.crawling.crawl import crawl
from scraping.crawling.snapshot import PreviousSnapshot
from textmill.errors import Unavailable
from textmill.progress import quiet

NAMES = [f"/{n}" for n in range(12)]


def stats(tmp_path, name="out") -> dict:
    return json.loads((tmp_path / name / "stats.json").read_text())


def pages_of(folder: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in folder.glob("part-*")}


@pytest.fixture
def twelve(site, page):
    """A start page and twelve others."""
    site.routes["/robots.txt"] = site.routes["/sitemap.xml"] = ""
    site.routes["/"] = page(*NAMES)
    site.routes.update({name: page(text=f"The page {name}.") for name in NAMES})
    return site


@pytest.fixture
def break_down(twelve):
    """Make the site answer nothing of use from its n-th page on; what is called undoes it."""

    def after(pages: int, failure):
        whole, asked = dict(twelve.routes), []

        def route(path):
            def answer_or_fail(handler):
                if path not in ("/robots.txt", "/sitemap.xml"):
                    asked.append(path)
                return whole[path] if len(asked) <= pages else failure(handler)

            return answer_or_fail

        twelve.routes.update({path: route(path) for path in whole})
        return lambda: twelve.routes.update(whole)

    return after


@pytest.fixture
def crawl_on(site, make_source, tmp_path):
    """Continue the crawl in the folder `previous`, in the folder `name`."""

    def crawl_on(name: str, previous: str, **settings) -> dict:
        (tmp_path / name).mkdir()
        site.log.clear()
        crawl(make_source(**settings), tmp_path / name, quiet, tmp_path / previous, continues=True)
        return stats(tmp_path, name)

    return crawl_on


def kill_after(crawler, site, requests: int) -> None:
    """Let a crawler make so many requests, and kill it; it cannot end before."""
    with site.answering(requests + 2):
        while len(site.paths()) < requests:
            assert crawler.poll() is None
            time.sleep(0.002)
        os.kill(crawler.pid, signal.SIGKILL)
        crawler.wait()


def short_body(handler):
    handler.send_response(200)
    handler.send_header("Content-Type", "text/html")
    handler.send_header("Content-Length", "1000")
    handler.end_headers()
    handler.wfile.write(b"<p>not a thousand bytes")


def many_headers(handler):
    handler.send_response(200)
    for n in range(150):
        handler.send_header(f"X-{n}", "x")
    handler.end_headers()


def hang_up(handler):
    return None


def silence(handler):
    time.sleep(2)


# --- pages that are broken --------------------------------------------------------------------------------------------


@pytest.mark.parametrize("failure", [408, 425, 500, 503, short_body, many_headers, hang_up, silence])
def test_broken_pages_cost_themselves_alone_and_are_asked_for_again_after_the_others(
    twelve, answer, make_source, run_crawl, tmp_path, failure
):
    broken = ["/2", "/3", "/4", "/5", "/6"]
    for path in broken:
        twelve.routes[path] = failure if callable(failure) else answer(status=failure)
    limits = {"seconds": 0.4} if failure is silence else {}
    assert len(run_crawl(make_source(limits=limits))) == 13 - len(broken)
    result = stats(tmp_path)
    assert (result["given_up"], result["unanswered"], result["waiting"]) == ({}, 5, 0)
    assert result["unfinished"] == 5 and not result["settled"]
    asked = Counter(twelve.paths())
    most = 6 if failure is hang_up else 3  # once more over a new connection, if a kept one breaks
    assert all(3 <= asked[path] <= most for path in broken)
    last = len(twelve.paths()) - 1 - twelve.paths()[::-1].index("/2")
    assert last > twelve.paths().index("/11"), "after all others"


def test_a_page_that_recovers_is_stored_as_if_nothing_had_been(twelve, answer, make_source, run_crawl, tmp_path):
    quiet_pages = run_crawl(make_source(), "quiet")
    for path in ("/2", "/3", "/9"):
        failures = iter([answer(status=500), answer(status=502)])
        whole = twelve.routes[path]
        twelve.routes[path] = lambda handler, failures=failures, whole=whole: next(failures, whole)
    assert list(run_crawl(make_source())) == list(quiet_pages)
    assert pages_of(tmp_path / "out") == pages_of(tmp_path / "quiet")
    assert stats(tmp_path)["unfinished"] == 0


def test_the_start_page_may_be_broken_for_a_while(twelve, answer, make_source, run_crawl, page):
    failures = iter([answer(status=503), answer(status=500)])
    twelve.routes["/"] = lambda handler: next(failures, page(*NAMES))
    assert len(run_crawl(make_source())) == 13


def test_a_host_in_maintenance_is_asked_again_when_it_said(site, page, answer, make_source, run_crawl, tmp_path):
    until = []

    def busy_or_page(handler):
        until.append(time.time() + 1)
        return page() if time.time() >= until[0] else answer(status=503, headers={"Retry-After": "1"})

    listed = "".join(f"<url><loc>{site.url(name)}</loc></url>" for name in NAMES)
    site.routes = dict.fromkeys(["/", *NAMES], busy_or_page)
    site.routes |= {"/robots.txt": "", "/sitemap.xml": f"<urlset>{listed}</urlset>"}
    assert len(run_crawl(make_source())) == 13
    assert len(until) == 14, "nothing else is asked for meanwhile"
    assert stats(tmp_path)["given_up"] == {}


def test_a_page_waits_twice_as_long_before_each_attempt(site, page, answer, make_source, run_crawl):
    site.routes["/"] = page("/a")
    site.routes["/a"] = answer(status=500)
    run_crawl(make_source(backoff=0.1, limits={"attempts": 4}))
    waits = [b.start - a.end for a, b in pairwise(hit for hit in site.log if hit.path == "/a")]
    assert len(waits) == 3
    assert all(wait >= pause for wait, pause in zip(waits, (0.1, 0.2, 0.4), strict=True))


def test_pages_that_gave_no_answer_are_kept_from_the_last_snapshot(twelve, answer, make_source, run_crawl, tmp_path):
    first = run_crawl(make_source(), "first")
    twelve.routes["/1"] = answer(status=500)
    twelve.routes["/2"] = answer(status=503)
    second = run_crawl(make_source(), "second", previous="first")
    assert {url: row["body"] for url, row in second.items()} == {url: row["body"] for url, row in first.items()}
    result = stats(tmp_path, "second")
    assert result["changes"] == {"new": 0, "changed": 0, "unchanged": 11, "kept": 2, "vanished": 0}
    assert (result["given_up"], result["unfinished"]) == ({}, 2)


# --- sitemaps ---------------------------------------------------------------------------------------------------------


@pytest.fixture
def mapped(site, page, answer):
    """A site with a page that only its sitemap lists."""
    site.routes["/robots.txt"] = answer("Sitemap: /map.xml\n", content_type="text/plain")
    site.routes["/map.xml"] = f"<urlset><url><loc>{site.url('/listed')}</loc></url></urlset>"
    site.routes["/"] = site.routes["/listed"] = page()
    return site


@pytest.mark.parametrize("failure", [429, 500, 503, hang_up, short_body])
def test_a_sitemap_that_fails_is_asked_for_again(mapped, answer, make_source, run_crawl, tmp_path, failure):
    whole = mapped.routes["/map.xml"]
    failures = iter([failure if callable(failure) else lambda handler: answer(status=failure)] * 2)
    mapped.routes["/map.xml"] = lambda handler: next(failures, lambda _: whole)(handler)
    assert set(run_crawl(make_source(limits={"attempts": 4}))) == {mapped.url(), mapped.url("/listed")}
    result = stats(tmp_path)
    assert (result["unread_sitemaps"], result["unfinished"]) == ({}, 0)


def test_a_sitemap_that_fails_to_the_end_is_all_that_the_next_crawl_asks_for(
    mapped, answer, make_source, run_crawl, tmp_path
):
    def crawl_on(name: str, previous: str) -> dict:
        (tmp_path / name).mkdir()
        mapped.log.clear()
        crawl(make_source(), tmp_path / name, quiet, tmp_path / previous, continues=True)
        return stats(tmp_path, name)

    whole = mapped.routes["/map.xml"]
    mapped.routes["/map.xml"] = answer(status=503)
    assert set(run_crawl(make_source(), "first")) == {mapped.url()}
    result = stats(tmp_path, "first")
    assert result["unread_sitemaps"] == {mapped.url("/map.xml"): "status 503"}
    assert (result["unfinished"], result["settled"]) == (1, False)

    result = crawl_on("second", "first")
    assert mapped.paths() == ["/map.xml"] * 3
    assert (result["pages"], result["unfinished"], result["settled"]) == (1, 1, True)
    assert result["unread_sitemaps"] == {mapped.url("/map.xml"): "status 503"}

    mapped.routes["/map.xml"] = whole
    result = crawl_on("third", "second")
    assert mapped.paths() == ["/map.xml", "/listed"]
    assert (result["pages"], result["unfinished"], result["unread_sitemaps"]) == (2, 0, {})
    run_crawl(make_source(), "quiet")
    assert pages_of(tmp_path / "third") == pages_of(tmp_path / "quiet")


def test_a_crawl_that_owes_sitemaps_alone_ends_when_their_host_is_down(
    mapped, answer, make_source, run_crawl, tmp_path
):
    mapped.routes["/map.xml"] = answer(status=503)
    run_crawl(make_source(), "first")
    mapped.routes["/robots.txt"] = answer(status=503)
    (tmp_path / "second").mkdir()
    crawl(make_source(), tmp_path / "second", quiet, tmp_path / "first", continues=True)
    result = stats(tmp_path, "second")
    assert (result["pages"], result["unfinished"], list(result["given_up"])) == (1, 1, [mapped.host])
    assert result["unread_sitemaps"] == {mapped.url("/map.xml"): "status 503"}


def test_what_is_known_of_other_files_stays_known_when_a_crawl_is_continued(
    mapped, answer, page, make_source, run_crawl, tmp_path
):
    mapped.routes["/robots.txt"] = answer("Sitemap: /gone.xml\nSitemap: http://elsewhere.example/map.xml\n")
    mapped.routes["/.well-known/tdmrep.json"] = answer("[", content_type="application/json")
    with socket.socket() as nobody:
        nobody.bind(("127.0.0.1", 0))
        closed = f"127.0.0.1:{nobody.getsockname()[1]}"
    mapped.routes["/"] = page(f"http://{closed}/")
    source = make_source(hosts=[mapped.host, closed])
    run_crawl(source, "first")
    result = stats(tmp_path, "first")
    assert result["unread_sitemaps"] == {mapped.url("/gone.xml"): "status 404"}
    assert result["left_out_sitemaps"] == {"http://elsewhere.example/map.xml": "other host"}
    assert list(result["unread_tdm_files"]) == [mapped.url("/.well-known/tdmrep.json")]
    assert (result["unfinished"], result["sitemaps_owed"]) == (1, [])
    (tmp_path / "second").mkdir()
    mapped.log.clear()
    crawl(source, tmp_path / "second", quiet, tmp_path / "first", continues=True)
    assert mapped.log == []
    after = stats(tmp_path, "second")
    for name in ("unread_sitemaps", "left_out_sitemaps", "unread_tdm_files"):
        assert after[name] == result[name]


def test_sitemaps_that_fail_hide_no_other(mapped, answer, make_source, run_crawl, tmp_path, crawl_on):
    failing = [f"/fails{n}.xml" for n in range(5)]
    names = "".join(f"Sitemap: {name}\n" for name in [*failing, "/map.xml"])
    mapped.routes["/robots.txt"] = answer(names, content_type="text/plain")
    mapped.routes |= dict.fromkeys(failing, answer(status=500))
    assert set(run_crawl(make_source(), "first")) == {mapped.url(), mapped.url("/listed")}
    assert stats(tmp_path, "first")["unread_sitemaps"] == {mapped.url(name): "status 500" for name in failing}
    asked = Counter(mapped.paths())
    assert [asked[name] for name in failing] == [3, 3, 3, 1, 1], "little time is lost"
    crawl_on("second", "first")
    assert mapped.paths()[0] == "/map.xml", "what failed last time comes last"


def test_sitemaps_out_of_scope_do_not_count_as_read(mapped, answer, make_source, run_crawl, tmp_path):
    names = "".join(f"Sitemap: http://h{n}.example/map.xml\n" for n in range(205))
    mapped.routes["/robots.txt"] = answer(f"{names}Sitemap: /map.xml", content_type="text/plain")
    assert set(run_crawl(make_source())) == {mapped.url(), mapped.url("/listed")}
    result = stats(tmp_path)
    assert result["unread_sitemaps"] == {}
    assert len(result["left_out_sitemaps"]) == 200, "few notes, however many there are"
    assert "other host, as are 5 more" in result["left_out_sitemaps"].values()


def test_an_entry_of_a_sitemap_is_relative_to_where_it_was_found(
    mapped, other_site, answer, make_source, run_crawl, page
):
    mapped.routes["/map.xml"] = answer(status=302, headers={"Location": other_site.url("/map.xml")})
    other_site.routes = {"/map.xml": "<urlset><url><loc>/there</loc></url></urlset>", "/there": page()}
    pages = run_crawl(make_source(hosts=[mapped.host, other_site.host]))
    assert set(pages) == {mapped.url(), other_site.url("/there")}


def test_a_sitemap_that_is_no_longer_named_is_no_longer_told_of(
    mapped, answer, make_source, run_crawl, tmp_path, crawl_on
):
    mapped.routes["/robots.txt"] = answer("Sitemap: /old.xml\nSitemap: http://elsewhere.example/old.xml")
    mapped.routes["/old.xml"] = answer(status=500)
    run_crawl(make_source(), "first")
    assert set(stats(tmp_path, "first")["unread_sitemaps"]) == {mapped.url("/old.xml")}
    mapped.routes["/robots.txt"] = answer("Sitemap: /map.xml")
    result = crawl_on("second", "first")
    assert (result["pages"], result["unread_sitemaps"], result["left_out_sitemaps"]) == (2, {}, {})


def test_sitemaps_that_are_owed_are_left_alone_if_the_source_wants_none(
    mapped, answer, make_source, run_crawl, crawl_on
):
    mapped.routes["/map.xml"] = answer(status=500)
    run_crawl(make_source(), "first")
    crawl_on("second", "first", sitemaps=False)
    assert mapped.paths() == []


def test_a_sitemap_with_far_more_urls_than_pages_are_wanted_is_told(mapped, make_source, run_crawl, tmp_path):
    entries = "".join(f"<url><loc>http://elsewhere.example/{n}</loc></url>" for n in range(30))
    mapped.routes["/map.xml"] = f"<urlset>{entries}<url><loc>{mapped.url('/listed')}</loc></url></urlset>"
    assert set(run_crawl(make_source(limits={"pages": 3}))) == {mapped.url()}
    assert stats(tmp_path)["unread_sitemaps"] == {mapped.url("/map.xml"): "only 30 URLs were taken, for limits.pages"}


# --- origins that are not there ---------------------------------------------------------------------------------------


def test_an_unreachable_origin_costs_its_own_urls_alone(site, other_site, page, make_source, run_crawl, tmp_path):
    with socket.socket() as nobody:
        nobody.bind(("127.0.0.1", 0))
        closed = f"127.0.0.1:{nobody.getsockname()[1]}"
    https = f"https://{site.host}"
    site.routes["/"] = page(f"{https}/a", f"http://{closed}/b", "http://no-such-host.invalid/c", "/d", other_site.url())
    site.routes["/d"] = other_site.routes["/"] = page()
    hosts = [site.host, other_site.host, closed, "*.invalid"]
    pages = run_crawl(make_source(hosts=hosts))
    assert set(pages) == {site.url(), site.url("/d"), other_site.url()}
    result = stats(tmp_path)
    assert set(result["given_up"]) == {https, closed, "no-such-host.invalid"}
    assert "connection refused" in result["given_up"][closed]
    assert "TLS failed" in result["given_up"][https]
    assert result["failed"] == {"host given up": 3}
    assert (result["unanswered"], result["waiting"], result["unfinished"]) == (3, 0, 3)


def test_nothing_is_missing_without_an_unreachable_canonical_address(site, page, make_source, run_crawl, tmp_path):
    site.routes["/"] = page("/a", head=f'<link rel="canonical" href="https://{site.host}/">')
    site.routes["/a"] = page("/", head=f'<link rel="canonical" href="https://{site.host}/a">')
    assert set(run_crawl(make_source())) == {site.url(), site.url("/a")}
    result = stats(tmp_path)
    assert (result["unanswered"], result["waiting"], result["unfinished"]) == (0, 0, 0)


def test_nothing_is_missing_without_a_canonical_address_that_is_broken(
    site, page, answer, make_source, run_crawl, tmp_path
):
    for path in ("/", "/a"):
        site.routes[path] = page("/", "/a", "/linked", head=f'<link rel="canonical" href="/amp{path}">')
        site.routes[f"/amp{path}"] = answer(status=503)
    site.routes["/linked"] = answer(status=503)
    assert set(run_crawl(make_source())) == {site.url("/"), site.url("/a")}
    result = stats(tmp_path)
    assert (result["unanswered"], result["unfinished"], result["failed"]) == (1, 1, {"status 503": 1})
    assert result["skipped"] == {"canonical URL of a stored page": 2}


def test_a_page_that_fails_is_missing_if_another_links_to_it_however_it_was_found(
    site, page, answer, make_source, run_crawl, tmp_path, crawl_on
):
    site.routes["/"] = page("/x", "/only", head='<link rel="canonical" href="/real">')
    site.routes["/only"] = page("/", head='<link rel="canonical" href="/late">')
    site.routes["/x"] = page("/real")
    site.routes["/real"] = site.routes["/late"] = site.routes["/beyond"] = answer(status=500)
    run_crawl(make_source(), "first")
    result = stats(tmp_path, "first")
    assert (result["failed"], result["unfinished"]) == ({"status 500": 1}, 1)
    assert result["skipped"] == {"canonical URL of a stored page": 1}
    site.routes["/real"] = page("/late", "/d1")
    site.routes["/late"] = site.routes["/d1"] = page()
    result = crawl_on("second", "first")
    assert sorted(site.paths()) == ["/d1", "/late", "/real"], "what a page links to now is asked for"
    run_crawl(make_source(), "quiet")
    assert pages_of(tmp_path / "second") == pages_of(tmp_path / "quiet")
    assert (result["unfinished"], result["failed"]) == (0, {})


@pytest.mark.parametrize("target", ["/2", "/round", "mailto:me@example.org", "/far/0"])
def test_a_page_that_redirects_to_no_end_is_kept_and_asked_for_again(
    twelve, answer, page, make_source, run_crawl, tmp_path, crawl_on, target
):
    first = run_crawl(make_source(), "first")
    whole = twelve.routes["/2"]
    twelve.routes["/round"] = answer(status=302, headers={"Location": "/2"})
    twelve.fallback = lambda path: answer(status=302, headers={"Location": f"/far/{int(path[5:]) + 1}"})
    twelve.routes["/.well-known/tdmrep.json"] = answer(status=404)
    twelve.routes["/2"] = answer(status=302, headers={"Location": target})
    second = run_crawl(make_source(), "second", previous="first")
    result = stats(tmp_path, "second")
    if target == "/far/0":  # it did move, if to nowhere
        assert (set(first) - set(second), result["failed"]) == ({twelve.url("/2")}, {"too many redirects": 1})
    else:
        assert set(second) == set(first)
        assert result["changes"]["kept"] == 1
    assert result["unfinished"] >= 1
    twelve.routes["/2"] = whole
    result = crawl_on("third", "second")
    if target == "/far/0":
        assert twelve.paths() and all(path.startswith("/far/") for path in twelve.paths())
    else:
        assert twelve.paths()[0] == "/2"
        assert (result["pages"], result["unfinished"]) == (13, 0)


@pytest.mark.parametrize("length", [2, 3, 15])
def test_redirects_in_a_circle_are_failures(twelve, page, answer, make_source, run_crawl, tmp_path, length):
    circle = [f"/round{n}" for n in range(length)]
    for one, after in zip(circle, [*circle[1:], circle[0]], strict=True):
        twelve.routes[one] = answer(status=302, headers={"Location": after})
    twelve.routes["/leads-there"] = answer(status=301, headers={"Location": circle[0]})
    twelve.routes["/moved"] = answer(status=301, headers={"Location": "/moved-again"})
    twelve.routes["/moved-again"] = answer(status=301, headers={"Location": "/1"})
    twelve.routes["/"] = page(*NAMES, *circle, "/leads-there", "/moved")
    assert len(run_crawl(make_source(), "first")) == 13
    result = stats(tmp_path, "first")
    assert result["failed"] == {"redirects in a circle": length + 1}
    assert (result["unanswered"], result["unfinished"], result["redirected"]) == (length + 1, length + 1, 2)

    twelve.routes[circle[1]] = page()
    twelve.log.clear()
    (tmp_path / "second").mkdir()
    crawl(make_source(), tmp_path / "second", quiet, tmp_path / "first", continues=True)
    assert set(twelve.paths()) == {*circle, "/leads-there"}
    result = stats(tmp_path, "second")
    assert (result["pages"], result["unfinished"], result["redirected"]) == (14, 0, length + 2)


def test_a_site_that_sends_everybody_in_a_circle_does_not_take_the_last_snapshots_place(
    twelve, answer, make_source, run_crawl
):
    run_crawl(make_source(), "first")
    twelve.routes.update({path: answer(status=302, headers={"Location": "/closed"}) for path in ("/", *NAMES)})
    twelve.routes["/closed"] = answer(status=302, headers={"Location": "/"})
    with pytest.raises(Unavailable, match="none of the 13 pages"):
        run_crawl(make_source(), "second", previous="first")


# --- hosts that are down ----------------------------------------------------------------------------------------------


@pytest.mark.parametrize("file", ["/map.xml", "/.well-known/tdmrep.json"])
def test_a_host_that_asks_for_a_day_of_peace_is_given_up_whatever_it_was_asked_for(
    mapped, other_site, page, answer, make_source, run_crawl, tmp_path, file
):
    mapped.routes[file] = answer(status=429, headers={"Retry-After": "86400"})
    other_site.routes["/"] = page()
    start = time.time()
    source = make_source(start=[mapped.url(), other_site.url()], hosts=[mapped.host, other_site.host])
    assert set(run_crawl(source)) == {other_site.url()}
    assert time.time() - start < 30
    result = stats(tmp_path)
    assert result["given_up"] == {mapped.host: "status 429; it asks to come back in 86400 s"}
    assert [hit.path for hit in mapped.log][-1] == file and result["unfinished"] >= 1


def test_another_host_that_asks_for_a_day_of_peace_is_given_up_too(
    mapped, other_site, page, answer, make_source, run_crawl, tmp_path
):
    mapped.routes["/robots.txt"] = answer(f"Sitemap: {other_site.url('/map.xml')}", content_type="text/plain")
    mapped.routes["/"] = page(other_site.url("/there"))
    other_site.routes = {"/map.xml": answer(status=429, headers={"Retry-After": "86400"}), "/there": page()}
    assert set(run_crawl(make_source(hosts=[mapped.host, other_site.host]))) == {mapped.url()}
    assert other_site.paths() == ["/map.xml"]
    result = stats(tmp_path)
    assert (list(result["given_up"]), result["failed"]) == ([other_site.host], {"host given up": 1})


@pytest.mark.parametrize("failure", [503, 429, hang_up])
def test_a_host_that_breaks_down_is_given_up_and_the_next_crawl_asks_for_the_rest_alone(
    twelve, break_down, answer, make_source, run_crawl, tmp_path, failure
):
    run_crawl(make_source(), "quiet")
    twelve.log.clear()
    mend = break_down(6, failure if callable(failure) else lambda handler: answer(status=failure))
    start = time.time()
    first = run_crawl(make_source(), "first")
    assert time.time() - start < 30
    assert len(first) == 6
    result = stats(tmp_path, "first")
    assert list(result["given_up"]) == [twelve.host]
    assert (result["waiting"], result["unanswered"], result["unfinished"]) == (7, 0, 7)
    assert len(twelve.paths()) <= 6 + 3 + 8 + 3, "few pages were burnt"

    source, out = make_source(), tmp_path / "second"
    out.mkdir()
    crawl(source, out, quiet, tmp_path / "first", continues=True)  # it is still down
    result = stats(tmp_path, "second")
    assert (result["pages"], result["unfinished"], result["settled"]) == (6, 7, False)
    assert pages_of(out) == pages_of(tmp_path / "first")

    mend()
    twelve.log.clear()
    third = tmp_path / "third"
    third.mkdir()
    crawl(source, third, quiet, out, continues=True)
    assert sorted(twelve.paths()) == sorted(NAMES[5:]), "what is there is not asked for again"
    assert pages_of(third) == pages_of(tmp_path / "quiet")
    result = stats(tmp_path, "third")
    assert result["changes"] == {"new": 7, "changed": 0, "unchanged": 6, "kept": 0, "vanished": 0}
    assert (result["given_up"], result["unfinished"], result["waiting"]) == ({}, 0, 0)
    assert result["as_of"] == stats(tmp_path, "second")["as_of"], "its age counts from the first"
    found = [pq.read_table(tmp_path / name / "urls.parquet")["url"].to_pylist() for name in ("third", "quiet")]
    assert found[0] == found[1]


@pytest.mark.parametrize("nap", [60.0, 0.0], ids=["its worker waits", "its worker gives its thread away"])
def test_a_host_that_is_down_for_a_while_loses_nothing(twelve, make_source, run_crawl, tmp_path, monkeypatch, nap):
    monkeypatch.setattr(worker, "_NAP", nap)
    answering = twelve.routes["/6"]

    def restart(handler):
        """The server stops to listen, and comes back."""
        twelve.routes["/6"] = answering
        port = twelve._server.server_port
        twelve._server.shutdown()
        twelve._server.socket.close()

        def come_back():
            time.sleep(0.6)
            twelve._server.socket = socket.create_server(("127.0.0.1", port))
            threading.Thread(target=twelve._server.serve_forever, args=(0.02,), daemon=True).start()

        threading.Thread(target=come_back, daemon=True).start()

    twelve.routes["/6"] = lambda handler: restart(handler)
    assert len(run_crawl(make_source(backoff=0.02))) == 13
    assert stats(tmp_path)["unfinished"] == 0


def test_what_failed_twice_is_settled(twelve, answer, make_source, run_crawl, tmp_path):
    twelve.routes["/2"] = answer(status=500)
    run_crawl(make_source(), "first")
    for name, previous, settled in (("second", "first", True), ("third", "second", True)):
        (tmp_path / name).mkdir()
        crawl(make_source(), tmp_path / name, quiet, tmp_path / previous, continues=True)
        assert (stats(tmp_path, name)["settled"], stats(tmp_path, name)["unfinished"]) == (settled, 1)
    assert not stats(tmp_path, "first")["settled"]


def test_a_continued_crawl_decides_about_canonical_pages_as_one_crawl_would(
    site, page, answer, make_source, run_crawl, tmp_path
):
    site.routes["/"] = page("/a", "/b", "/c")
    site.routes["/a"] = page(head='<link rel="canonical" href="/b">')
    site.routes["/c"] = page(head='<link rel="canonical" href="/gone">')
    site.routes["/b"] = answer(status=500)
    assert set(run_crawl(make_source(), "first")) == {site.url(path) for path in ("/", "/a", "/c")}
    site.routes["/b"] = page()
    (tmp_path / "second").mkdir()
    crawl(make_source(), tmp_path / "second", quiet, tmp_path / "first", continues=True)
    run_crawl(make_source(), "quiet")
    assert pages_of(tmp_path / "second") == pages_of(tmp_path / "quiet")


def test_a_crawl_that_got_nothing_of_the_last_one_does_not_take_its_place(
    twelve, answer, page, make_source, run_crawl, tmp_path
):
    run_crawl(make_source(), "first")
    source = make_source(start=[twelve.url("/new")])
    twelve.routes = {"/new": page("/other"), "/other": page()}
    with pytest.raises(Unavailable, match="none of the 13 pages of the last snapshot could be had"):
        run_crawl(source, "second", previous="first")
    twelve.routes["/new"] = page("/0")
    twelve.routes["/0"] = answer(status=301, headers={"Location": "/other"})
    assert len(run_crawl(source, "second", previous="first")) == 2, "pages that moved are not lost"


def test_a_site_whose_pages_all_fail_may_answer_later(site, answer, make_source, run_crawl):
    site.routes["/"] = answer(status=500)
    with pytest.raises(Unavailable):
        run_crawl(make_source())


# --- limits, and kills ------------------------------------------------------------------------------------------------


def test_a_page_limit_is_told_with_what_waits(twelve, make_source, run_crawl, tmp_path):
    assert len(run_crawl(make_source(limits={"pages": 5}))) == 5
    result = stats(tmp_path)
    assert (result["waiting"], result["limits_met"], result["unfinished"]) == (8, ["pages"], 0)


@pytest.mark.parametrize("limit", [100, 8])
def test_kill_9_between_failures_gives_what_a_quiet_crawl_gives(
    twelve, answer, make_source, run_crawl, tmp_path, start_crawler, limit
):
    for path in ("/1", "/2", "/3", "/4"):
        twelve.routes[path] = answer(status=503)
    source = make_source(delay=0.02, limits={"pages": limit})
    for _ in range(2):
        seen = len(twelve.paths())
        kill_after(start_crawler(source, "killed"), twelve, seen + 5)
    assert start_crawler(source, "killed").wait(240) == 0
    run_crawl(source, "quiet")
    assert pages_of(tmp_path / "killed") == pages_of(tmp_path / "quiet")
    assert (tmp_path / "killed/stats.json").read_bytes() == (tmp_path / "quiet/stats.json").read_bytes()


def test_a_killed_continuation_goes_on(twelve, break_down, make_source, run_crawl, tmp_path, start_crawler):
    run_crawl(make_source(), "quiet")
    mend = break_down(6, hang_up)
    run_crawl(make_source(), "first")
    mend()
    source = make_source(delay=0.05)
    seen = len(twelve.paths())
    kill_after(start_crawler(source, "second", "first"), twelve, seen + 3)
    assert start_crawler(source, "second", "first").wait(240) == 0
    assert len(twelve.paths()) - seen <= 7 + 1
    assert pages_of(tmp_path / "second") == pages_of(tmp_path / "quiet")
    snapshot = PreviousSnapshot(tmp_path / "second")
    assert len(snapshot.urls()) == 13
    snapshot.close()
