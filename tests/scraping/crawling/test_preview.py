from itertools import pairwise

import pytest
import yaml
from typer.testing import CliRunner

from flows.cli.source import app
from scraping.crawling.preview import Survey, declare
from scraping.crawling.source import load_source
from textmill.errors import UserError

PROSE = "This sentence belongs to the page itself and says something that no other page says. " * 5


@pytest.fixture
def sound_site(site, answer):
    def document(name: str, *links: str, text: str = PROSE) -> str:
        anchors = "".join(f'<li><a href="{link}">{link}</a></li>' for link in links)
        return (
            f"<!DOCTYPE html><html><head><title>{name} - Example</title></head><body><nav><ul>{anchors}</ul></nav>"
            f"<main><h1>{name}</h1><p>{name}: {text}</p></main><footer>All rights reserved</footer></body></html>"
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


def test_a_survey_shows_what_a_crawl_would_do(sound_site, make_source):
    site = sound_site
    with Survey(make_source(delay=0.05, extractor={"kind": "main", "selector": "main"})) as survey:
        conditions = survey.site()
        views = list(survey.pages(3))
    assert conditions.allowed
    assert conditions.robots == "rules found"
    assert conditions.sitemaps == [site.url("/map.xml")]
    assert [entry.url for entry in conditions.listed] == [site.url("/one")]
    assert len(views) == 3
    first = views[0]
    assert (first.url, first.verdict, first.status) == (site.url("/"), "stored", 200)
    assert first.documents[0].title == "Start - Example"
    assert first.documents[0].text.startswith("Start\n")
    assert "All rights reserved" in first.stripped
    assert not any(PROSE[:40] in piece for piece in first.stripped)
    assert first.follow == [site.url(p) for p in ("/one", "/two", "/search?q=x", "/three?print=1")]
    assert first.refused == {
        "robots.txt": [site.url("/private")],
        "other host": ["http://elsewhere.example/"],
        "file type": [site.url("/paper.pdf")],
    }
    assert all(later.start - earlier.start >= 0.05 for earlier, later in pairwise(site.log))


def test_verdicts(site, page, answer, make_source):
    site.routes["/robots.txt"] = answer("User-agent: *\nDisallow: /private")
    site.routes["/noindex"] = page(head='<meta name="robots" content="noindex">')
    site.routes["/moved"] = answer(status=301, headers={"Location": "/noindex"})
    site.routes["/canonical"] = page(head='<link rel="canonical" href="/">')
    site.routes["/nofollow"] = page("/x", head='<meta name="robots" content="nofollow">')
    site.routes["/pdf"] = answer(b"%PDF", content_type="application/pdf")
    with Survey(make_source()) as survey:
        verdicts = {path: survey.page(site.url(path)) for path in (*site.routes, "/missing", "/private/x", "/a.zip")}
        assert survey.page("http://elsewhere.example/").verdict == "other host"
    assert verdicts["/noindex"].verdict == "noindex"
    assert verdicts["/moved"].verdict == f"redirected to {site.url('/noindex')}"
    assert verdicts["/canonical"].verdict == f"stored, unless its canonical page {site.url('/')} is"
    assert verdicts["/nofollow"].refused == {"nofollow": [site.url("/x")]}
    assert verdicts["/pdf"].verdict == "content type application/pdf"
    assert verdicts["/missing"].verdict == "status 404"
    assert verdicts["/private/x"].verdict == "robots.txt"
    assert verdicts["/a.zip"].verdict == "file type"


def test_another_host_in_trouble_is_a_verdict(site, page, answer, make_source):
    site.routes["/robots.txt"] = answer("Sitemap: /map.xml\nSitemap: http://gone.invalid/map.xml")
    site.routes["/map.xml"] = answer(f"<urlset><url><loc>{site.url('/one')}</loc></url></urlset>")
    site.routes["/"] = page("http://gone.invalid/", text=PROSE)
    with Survey(make_source(hosts=[site.host, "gone.invalid"])) as survey:
        assert survey.site().listed[0].url == site.url("/one")
        verdicts = [view.verdict for view in survey.pages(2)]
    assert verdicts[0] == "stored"
    assert verdicts[1].startswith("robots.txt: cannot resolve gone.invalid")


def test_a_declaration_is_written_from_a_look_at_the_site(sound_site, tmp_path):
    site = sound_site
    path = tmp_path / "mine.yaml"
    path.write_text(declare(site.url(), "me@example.org", str(path), private_addresses=True, delay=0))
    source = load_source(path)
    assert source.start == [site.url()]
    assert source.hosts == [site.host]
    assert source.contact == "me@example.org"
    assert source.deny == ["/search", "/*?*print="]
    assert source.private_addresses
    text = path.read_text()
    assert "robots.txt: rules found" in text
    assert "is allowed for textmill" in text
    assert "(1 URLs in the first of them)" in text
    assert "description: Start - Example" in text


def test_the_extractor_is_suggested_by_what_is_found(site, tmp_path):
    reference = "".join(f"<tr><td><code>option_{n}</code></td><td>{n}</td></tr>" for n in range(200))
    body = f"<title>R</title><body><div id='content'><table>{reference}</table></div><a href='/a'></a></body>"
    site.routes["/"] = site.routes["/a"] = body
    path = tmp_path / "mine.yaml"
    path.write_text(declare(site.url(), "me@example.org", str(path), private_addresses=True, delay=0))
    data = yaml.safe_load(path.read_text())
    assert data["extractor"] in ({"kind": "main", "selector": "#content"}, {"kind": "article"})
    assert "#content" in path.read_text()


def test_a_front_page_of_links_does_not_hide_the_container(site, page, tmp_path):
    site.routes["/"] = "<title>Start</title><div id='content'><a href='/a'>One</a> <a href='/b'>Two</a></div>"
    site.routes["/a"] = site.routes["/b"] = f"<title>One</title><div id='content'><p>{PROSE}</p></div>"
    text = declare(site.url(), "me@example.org", "mine.yaml", private_addresses=True, delay=0)
    assert 'selector: "#content"' in text


def test_a_declaration_follows_the_site_to_its_proper_address(site, answer, page, tmp_path):
    site.routes["/"] = answer(status=301, headers={"Location": "/docs/index.html"})
    site.routes["/docs/index.html"] = page("more.html", text=PROSE)
    site.routes["/docs/more.html"] = page(text=PROSE)
    path = tmp_path / "mine.yaml"
    path.write_text(declare(site.url(), "me@example.org", str(path), private_addresses=True, delay=0))
    source = load_source(path)
    assert source.start == [site.url("/docs/index.html")]
    assert source.allow == ["/docs/"]


@pytest.mark.parametrize("title", ["404", "Yes", "a: b", "★", "- x", "null", "2026-13-45"])
def test_a_declaration_can_be_read_back(title, site, page, tmp_path):
    site.routes["/a,b/~c/"] = page(title=title, text=PROSE)
    path = tmp_path / "mine.yaml"
    path.write_text(declare(site.url("/a,b/~c/"), "me@example.org", str(path), private_addresses=True, delay=0))
    assert load_source(path).allow == ["/a,b/~c/"]
    assert load_source(path).hosts == [site.host]


def test_what_cannot_be_looked_at(site, answer):
    with pytest.raises(UserError, match=r"^'me' is neither an e-mail address nor a URL nor a \$VARIABLE\.$"):
        declare(site.url(), "me", "x.yaml")
    with pytest.raises(UserError, match="is not the URL of a web site"):
        declare("mailto://x", "me@example.org", "x.yaml")
    with pytest.raises(UserError, match=r"cannot be asked \(robots.txt: cannot resolve"):
        declare("http://no-such-host.invalid", "me@example.org", "x.yaml")
    with pytest.raises(UserError, match=r"127\.0\.0\.1 has the private address .*, --private\)\.$"):
        declare(site.url(), "me@example.org", "x.yaml")
    site.routes["/robots.txt"] = answer(status=503)
    with pytest.raises(UserError, match="answered 503"):
        declare(site.url(), "me@example.org", "x.yaml", private_addresses=True)


# --- the command line -------------------------------------------------------------------------------------------------


def run(*arguments: str) -> str:
    result = CliRunner().invoke(app, list(arguments), catch_exceptions=False)
    assert result.exit_code == 0, result.output
    return result.output


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
        "Start - Example", "This sentence belongs", "stripped", "All rights reserved", "to follow",
        "1 not (robots.txt)", "1 not (other host)",
    ):  # fmt: skip
        assert expected in output


def test_check_of_a_url(sound_site, monkeypatch):
    monkeypatch.delenv("TEXTMILL_CONTACT", raising=False)
    with pytest.raises(UserError, match="TEXTMILL_CONTACT"):
        run("check", sound_site.url(), "--private")
    output = run("check", sound_site.url("/two"), "--private", "--pages", "1", "--contact", "me@example.org")
    assert "Two - Example" in output


def test_list():
    output = run("list")
    assert "umb-courses" in output
    assert "extractor records" in output
