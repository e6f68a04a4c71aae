import pytest
import yaml

from scraping.crawling.declare import declare
from scraping.crawling.source import load_source
from textmill.errors import UserError


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
    assert data["extractor"] in ({"kind": "main", "selector": "#content"}, {"kind": "auto"})
    assert "#content" in path.read_text()


def test_a_front_page_of_links_does_not_hide_the_container(site, page, tmp_path, prose):
    site.routes["/"] = "<title>Start</title><div id='content'><a href='/a'>One</a> <a href='/b'>Two</a></div>"
    site.routes["/a"] = site.routes["/b"] = f"<title>One</title><div id='content'><p>{prose}</p></div>"
    text = declare(site.url(), "me@example.org", "mine.yaml", private_addresses=True, delay=0)
    assert 'selector: "#content"' in text


def test_a_declaration_follows_the_site_to_its_proper_address(site, answer, page, tmp_path, prose):
    site.routes["/"] = answer(status=301, headers={"Location": "/docs/index.html"})
    site.routes["/docs/index.html"] = page("more.html", text=prose)
    site.routes["/docs/more.html"] = page(text=prose)
    path = tmp_path / "mine.yaml"
    path.write_text(declare(site.url(), "me@example.org", str(path), private_addresses=True, delay=0))
    source = load_source(path)
    assert source.start == [site.url("/docs/index.html")]
    assert source.allow == ["/docs/"]


@pytest.mark.parametrize("title", ["404", "Yes", "a: b", "★", "- x", "null", "2026-13-45"])
def test_a_declaration_can_be_read_back(title, site, page, tmp_path, prose):
    site.routes["/a,b/~c/"] = page(title=title, text=prose)
    path = tmp_path / "mine.yaml"
    path.write_text(declare(site.url("/a,b/~c/"), "me@example.org", str(path), private_addresses=True, delay=0))
    assert load_source(path).allow == ["/a,b/~c/"]
    assert load_source(path).hosts == [site.host]


@pytest.mark.long
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


def test_a_browser_is_suggested_where_pages_look_empty_without_one(site, tmp_path, prose):
    path = tmp_path / "app.yaml"
    for text, fetch in ((prose, "http"), ("", "browser")):
        site.routes["/"] = f'<html><body><div id="root">{text}</div><script src="/app.js"></script></body></html>'
        path.write_text(declare(site.url(), "me@example.org", str(path), private_addresses=True, delay=0))
        assert load_source(path).fetch == fetch
    assert "# 1 of 1 pages look empty without JavaScript (text of 0 characters, 1 script)" in path.read_text()
