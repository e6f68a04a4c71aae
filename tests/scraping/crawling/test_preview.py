from itertools import pairwise

import pytest
from typer.testing import CliRunner

from flows.cli.source import app
from scraping.crawling.preview import Preview
from textmill.errors import UserError


def test_a_preview_shows_what_a_crawl_would_do(sound_site, make_source, prose):
    site = sound_site
    with Preview(make_source(delay=0.05, extractor={"kind": "main", "selector": "main"})) as preview:
        conditions = preview.site()
        views = list(preview.pages(3))
    assert conditions.allowed
    assert conditions.robots == "rules found"
    assert conditions.sitemaps == [site.url("/map.xml")]
    assert [entry.url for entry in conditions.listed] == [site.url("/one")]
    assert len(views) == 3
    first = views[0]
    assert (first.url, first.outcome, first.status) == (site.url("/"), "stored", 200)
    assert first.documents[0].title == "Start"  # without the site's name
    assert ("All rights reserved", False, "inside footer") in first.judged
    assert first.documents[0].text.startswith("Start\n")
    assert "All rights reserved" in first.stripped
    assert not any(prose[:40] in piece for piece in first.stripped)
    assert first.follow == [site.url(p) for p in ("/one", "/two", "/search?q=x", "/three?print=1")]
    assert first.skipped == {
        "robots.txt": [site.url("/private")],
        "other host": ["http://elsewhere.example/"],
        "file type": [site.url("/paper.pdf")],
    }
    assert all(later.start - earlier.start >= 0.05 for earlier, later in pairwise(site.log))


def test_outcomes(site, page, answer, make_source):
    site.routes["/robots.txt"] = answer("User-agent: *\nDisallow: /private")
    site.routes["/noindex"] = page(head='<meta name="robots" content="noindex">')
    site.routes["/moved"] = answer(status=301, headers={"Location": "/noindex"})
    site.routes["/canonical"] = page(head='<link rel="canonical" href="/">')
    site.routes["/nofollow"] = page("/x", head='<meta name="robots" content="nofollow">')
    site.routes["/pdf"] = answer(b"%PDF", content_type="application/pdf")
    with Preview(make_source()) as preview:
        previews = {path: preview.page(site.url(path)) for path in (*site.routes, "/missing", "/private/x", "/a.zip")}
        assert preview.page("http://elsewhere.example/").outcome == "other host"
    assert previews["/noindex"].outcome == "noindex"
    assert previews["/moved"].outcome == f"redirected to {site.url('/noindex')}"
    assert previews["/canonical"].outcome == f"stored, unless its canonical page {site.url('/')} is"
    assert previews["/nofollow"].skipped == {"nofollow": [site.url("/x")]}
    assert previews["/pdf"].outcome == "content type application/pdf"
    assert previews["/missing"].outcome == "status 404"
    assert previews["/private/x"].outcome == "robots.txt"
    assert previews["/a.zip"].outcome == "file type"


def test_another_host_that_is_unreachable_is_an_outcome(site, page, answer, make_source, prose):
    site.routes["/robots.txt"] = answer("Sitemap: /map.xml\nSitemap: http://gone.invalid/map.xml")
    site.routes["/map.xml"] = answer(f"<urlset><url><loc>{site.url('/one')}</loc></url></urlset>")
    site.routes["/"] = page("http://gone.invalid/", text=prose)
    with Preview(make_source(hosts=[site.host, "gone.invalid"])) as preview:
        assert preview.site().listed[0].url == site.url("/one")
        outcomes = [page.outcome for page in preview.pages(2)]
    assert outcomes[0] == "stored"
    assert outcomes[1].startswith("robots.txt: cannot resolve gone.invalid")


# --- the command line -------------------------------------------------------------------------------------------------


def run(*arguments: str) -> str:
    result = CliRunner().invoke(app, list(arguments), catch_exceptions=False)
    assert result.exit_code == 0, result.output
    return result.output


@pytest.mark.long
def test_new_then_check(sound_site, tmp_path):
    path = tmp_path / "mine.yaml"
    options = ["--contact", "me@example.org", "--private"]
    assert f"textmill source check {path}" in run("new", sound_site.url(), "-o", str(path), *options)
    assert f"start:\n  - {sound_site.url()}\n" in path.read_text()
    with pytest.raises(UserError, match="exists already"):
        run("new", sound_site.url(), "-o", str(path), *options)
    path.write_text(path.read_text().replace("delay: 1 ", "delay: 0 "))
    output = run("check", str(path), "--pages", "2")
    for expected in (
        "textmill/0.1 (+me@example.org)", "the start URL is allowed", sound_site.url("/map.xml"), "stored (200)",
        "title     Start", "This sentence belongs", "stripped", "All rights reserved", "to follow",
        "1 not (robots.txt)", "1 not (other host)",
    ):  # fmt: skip
        assert expected in output


@pytest.mark.long
def test_check_of_a_url(sound_site, monkeypatch):
    monkeypatch.delenv("TEXTMILL_CONTACT", raising=False)
    with pytest.raises(UserError, match="TEXTMILL_CONTACT"):
        run("check", sound_site.url(), "--private")
    output = run("check", sound_site.url("/two"), "--private", "--pages", "1", "--contact", "me@example.org")
    assert "title     Two" in output
    assert "kept: " in output and "dropped: " in output


def test_list():
    output = run("list")
    assert "umb-courses" in output
    assert "extractor records" in output
