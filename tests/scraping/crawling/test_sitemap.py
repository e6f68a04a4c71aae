import gzip

import pytest

from scraping.crawling import sitemap
from scraping.crawling.fetch import Fetcher
from scraping.crawling.sitemap import SitemapEntry, parse_sitemap, read_sitemaps

NS = 'xmlns="http://www.sitemaps.org/schemas/sitemap/0.9"'


def urlset(*entries: str) -> str:
    return f'<?xml version="1.0" encoding="UTF-8"?><urlset {NS}>{"".join(entries)}</urlset>'


def entry(url: str, extra: str = "") -> str:
    return f"<url><loc>{url}</loc>{extra}</url>"


def test_fields_and_other_vocabularies():
    body = urlset(
        entry("http://a.org/1?a=1&amp;b=2", "<lastmod>2026-01-02</lastmod><priority>0.8</priority>"),
        '<url><image:image xmlns:image="http://www.google.com/schemas/sitemap-image/1.1">'
        "<image:loc>http://a.org/i.png</image:loc></image:image><loc> http://a.org/2 </loc></url>",
        "<url><loc>not a url</loc></url>",
        entry("http://a.org/3", "<priority>high</priority>"),
    )
    assert parse_sitemap(body.encode()) == (
        [
            SitemapEntry("http://a.org/1?a=1&b=2", 0.8, "2026-01-02"),
            SitemapEntry("http://a.org/2"),
            SitemapEntry("http://a.org/3"),
        ],
        [],
    )


@pytest.mark.parametrize(
    "body",
    [
        urlset(entry("http://a.org/1")).encode(),
        b"\xef\xbb\xbf" + urlset(entry("http://a.org/1")).encode(),
        gzip.compress(urlset(entry("http://a.org/1")).encode()),
        urlset(entry("http://a.org/1")).replace(NS, "").encode(),
        b"http://a.org/1\nnot a url\n",
        urlset(entry("http://a.org/1")).encode()[:-9] + b"<url><loc>http://a.org/bro",
        urlset(entry("http://a.org/1")).replace("</urlset>", "&undefined;").encode(),
    ],
    ids=["plain", "byte order mark", "gzip", "no namespace", "text", "truncated", "broken"],
)
def test_forms(body):
    assert [entry.url for entry in parse_sitemap(body)[0]] == ["http://a.org/1"]


@pytest.mark.long
def test_bombs():
    lol = '<!DOCTYPE x [<!ENTITY a "aaaaaaaaaa"><!ENTITY b "&a;&a;&a;&a;">]>' + urlset(entry("http://a.org/&b;"))
    assert parse_sitemap(lol.replace('<?xml version="1.0" encoding="UTF-8"?>', "").encode()) == ([], [])
    assert parse_sitemap(gzip.compress(bytes(200_000_000)))[0] == []
    assert parse_sitemap(b"\x1f\x8bbroken") == ([], [])
    many = urlset(*(entry(f"http://a.org/{n}") for n in range(sitemap.MAX_ENTRIES + 10)))
    assert len(parse_sitemap(many.encode())[0]) == sitemap.MAX_ENTRIES


def test_an_index_leads_to_its_sitemaps_once(site, answer):
    index = f"<sitemapindex {NS}>" + "".join(
        f"<sitemap><loc>{site.url(path)}</loc></sitemap>" for path in ("/1.xml.gz", "/2.xml", "/index.xml", "/no/3.xml")
    )
    site.routes["/index.xml"] = answer(index + "</sitemapindex>", content_type="application/xml")
    site.routes["/1.xml.gz"] = answer(
        gzip.compress(urlset(entry(site.url("/a"))).encode()), content_type="application/x-gzip"
    )
    site.routes["/2.xml"] = answer(urlset(entry(site.url("/b"))), content_type="text/xml")
    fetcher = Fetcher("textmill/test", private_addresses=True)
    found = list(read_sitemaps([site.url("/index.xml")], fetcher, lambda url: None if "/no/" in url else 0))
    fetcher.close()
    assert [entry.url for entry in found] == [site.url("/a"), site.url("/b")]
    assert [hit.path for hit in site.log] == ["/index.xml", "/1.xml.gz", "/2.xml"]


def test_a_sitemap_may_have_moved_within_the_scope(site, answer, caplog):
    site.routes["/old.xml"] = answer(status=301, headers={"Location": "/new.xml"})
    site.routes["/new.xml"] = answer(urlset(entry(site.url("/a"))), content_type="text/xml")
    site.routes["/away.xml"] = answer(status=302, headers={"Location": "/no/3.xml"})
    site.routes["/round.xml"] = answer(status=302, headers={"Location": "/round.xml"})
    site.routes["/broken.xml"] = answer(status=500)
    starts = [site.url(path) for path in ("/old.xml", "/away.xml", "/round.xml", "/broken.xml")]
    fetcher = Fetcher("textmill/test", private_addresses=True)
    found = list(read_sitemaps(starts, fetcher, lambda url: None if "/no/" in url else 0))
    fetcher.close()
    assert [entry.url for entry in found] == [site.url("/a")]
    assert [hit.path for hit in site.log] == ["/old.xml", "/new.xml", "/away.xml", "/round.xml", "/broken.xml"]
    assert "/broken.xml: status 500" in caplog.text


def test_an_endless_index_ends(site, answer):
    site.fallback = lambda path: answer(
        f"<sitemapindex {NS}><sitemap><loc>{site.url(path + '1')}</loc></sitemap></sitemapindex>"
    )
    fetcher = Fetcher("textmill/test", private_addresses=True)
    assert list(read_sitemaps([site.url("/")], fetcher, lambda url: 0, max_files=5)) == []
    fetcher.close()
    assert len(site.log) == 5
