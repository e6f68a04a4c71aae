import gzip
import time

import pytest
from urllib3 import HTTPHeaderDict

from scraping.crawling import sitemap
from scraping.crawling.fetch import Fetcher, Response, TransientHostError
from scraping.crawling.sitemap import (
    LeftOut,
    SitemapEntry,
    SitemapOutcome,
    parse_sitemap,
    read_sitemaps,
    sitemap_request,
)

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


def read(text: str | bytes, base: str = "") -> tuple[list[str], list[str]]:
    """(URLs of the pages, what could not be read)."""
    problems: list[str] = []
    pages, _ = parse_sitemap(text if isinstance(text, bytes) else text.encode(), base, problems.append)
    return [page.url for page in pages], problems


ONE = "http://a.org/1"
TWO = "http://a.org/x?a=1&b=2"


@pytest.mark.parametrize(
    "body",
    [
        "\n\n  " + urlset(entry(ONE), entry(TWO.replace("&", "&amp;"))),
        urlset(entry(ONE), entry(TWO)),
        urlset(entry(ONE), entry(f"<![CDATA[{TWO}]]>")),
        urlset(entry(ONE), entry(TWO)).encode("utf-16"),
        urlset(entry(ONE), entry(TWO)).encode("utf-16-be"),
        "<br />\n<b>Warning</b>: date() in x.php\n" + urlset(entry(ONE), entry(TWO)),
        "Warning: date() in x.php\n" + urlset(entry(ONE), entry(TWO)),
        urlset(entry(ONE)) + "\n" + urlset(entry(TWO)),
        urlset(entry(ONE, "<image:image><image:loc>http://a.org/i.png</image:loc></image:image>"), entry(TWO)),
        urlset(entry(ONE), entry(TWO)).replace(NS, 'xmlns="http://example.org/another"'),
        urlset(entry(ONE), entry(TWO)).replace("</", "</s:").replace("<u", "<s:u").replace("<l", "<s:l")
        .replace("xmlns=", "xmlns:s="),
        urlset(entry(ONE), entry(TWO)).replace("http://a.org", "<!-- here -->http://a.org\x0b"),
        b"".join(gzip.compress(part) for part in (urlset(entry(ONE)).encode()[:90], urlset(entry(ONE)).encode()[90:],
                                                  urlset(entry(TWO)).encode())),
        gzip.compress(urlset(entry(ONE), entry(TWO)).encode()) + bytes(512),
        b"\xef\xbb\xbf" + f"{ONE}\r\n\r\n{TWO}\r\n".encode(),
        f"{ONE}\n{TWO}".encode("utf-16"),
        f'<rss version="2.0"><channel><link>http://a.org/</link><image><url>http://a.org/i.png</url></image><item><link>'
        f"{ONE}</link></item><item><title>x</title><link>{TWO}</link></item></channel></rss>",
        f'<rss version="2.0"><channel><item><link/><guid isPermaLink="true">{ONE}</guid></item>'
        f"<item><guid>{TWO}</guid></item>"
        '<item><guid isPermaLink="false">http://a.org/3</guid></item></channel></rss>',
        urlset(entry(ONE), entry(TWO.replace("&", "&amp;"))).replace("url", "URL").replace("loc", "LOC"),
        f"<RSS><Channel><image><url>http://a.org/i.png</url></image><ITEM><GUID>{ONE}</GUID></ITEM>"
        f'<Item><Guid IsPermaLink="TRUE">{TWO}</Guid></Item></Channel></RSS>',
        f'<feed xmlns="http://www.w3.org/2005/Atom"><link href="http://a.org/"/><entry><link rel="edit" href="/e"/>'
        f'<link href="{ONE}"/></entry><entry><link rel="alternate" href="{TWO}"/></entry></feed>',
        f'<rdf:RDF xmlns:rdf="http://www.w3.org/1999/02/22-rdf-syntax-ns#" xmlns="http://purl.org/rss/1.0/"><channel>'
        f"<link>http://a.org/</link></channel><item><link>{ONE}</link></item><item><link>{TWO}</link></item></rdf:RDF>",
    ],
    ids=["blank lines", "raw ampersand", "CDATA", "UTF-16", "UTF-16 without a mark", "warning", "warning in plain text",
         "two files", "undeclared prefix", "another namespace", "prefix", "comment and control character",
         "gzip members", "gzip with padding", "text with a mark", "text in UTF-16", "RSS",
         "RSS without links", "capitals", "RSS in capitals", "Atom", "RSS 1.0"],
)  # fmt: skip
def test_what_real_sites_serve_is_read_without_loss(body):
    assert read(body) == ([ONE, TWO], [])


@pytest.mark.parametrize(
    ("body", "pages", "problem"),
    [
        (urlset(entry(ONE))[:-9] + "<url><loc>http://a.org/bro", [ONE], "errors in its XML"),
        (
            urlset(entry(ONE), entry("www.a.org/2")),
            [ONE],
            "1 entries without the URL of a page, the first of them 'www",
        ),
        (urlset(entry(ONE), entry("http://a.org/<3")), None, "errors in its XML"),
        (
            urlset(entry(ONE), entry("http://a.org/\udcff")).encode("utf-8", "surrogateescape"),
            [ONE],
            "1 entries without",
        ),
        (gzip.compress(urlset(entry(ONE), *map(entry, map(str, range(5000)))).encode())[:2000], None, "cut off"),
        (gzip.compress(urlset(entry(ONE)).encode()) + b"\x1f\x8bbroken", [ONE], "cannot be decompressed"),
        ("<!DOCTYPE html><html><body>Not found</body></html>", [], "neither a sitemap nor a feed"),
        ("Not found", [], "neither a sitemap nor a feed"),
        ('{"a": 1}', [], "neither a sitemap nor a feed"),
        (f"{ONE}\nTwo", [ONE], "1 entries without the URL of a page, the first of them 'Two'"),
        (urlset(entry(ONE), "<url><lastmod>2026-01-02</lastmod></url>"), [ONE], "1 entries without the URL of a page"),
        (urlset(entry(ONE), entry(f"{ONE}&#xD83D;&#xDE00;"), entry(f"{ONE}&#1114112;")), [ONE], "2 entries without"),
        (urlset(entry(ONE, "<!-- a -- b -->"), entry(TWO.replace("&", "&amp;"))), [ONE, TWO], "1 errors in its XML"),
        ("<rss><channel><item><title>x</title></item></channel></rss>", [], "none of its entries could be read"),
        ("", [], "no entries"),
        (urlset(), [], "no entries"),
        ("<rss><channel><link>http://a.org/</link></channel></rss>", [], "no entries"),
    ],
)
def test_what_cannot_be_read_is_reported(body, pages, problem):
    found, problems = read(body)
    assert pages is None or found == pages
    assert problem in "; ".join(problems)


@pytest.mark.parametrize("reference", ["&LT;", "&AMP;", "&Quot;", "&undefined;", "&#xD83D;", "&#0;", "&#12;", "&#X41;"])
def test_references_that_xml_does_not_know_end_nothing_and_change_no_url(reference):
    comment = f"<!-- <![CDATA[ --> {reference} <!-- ]]> -->"
    for stray in (reference, f"<![CDATA[{reference}]]>", comment):
        assert read(urlset(f"<url><loc>{ONE}</loc>{stray}</url>", entry(TWO)))[0] == [ONE, TWO], stray
    assert read(urlset(entry(f"<![CDATA[{TWO}]]>"), entry("http://a.org/?a=&#34;&eacute;")))[0] == [
        TWO,
        "http://a.org/?a=%22%C3%A9",
    ]


def test_too_many_stray_ampersands_are_reported(monkeypatch):
    monkeypatch.setattr(sitemap, "_MAX_REFERENCES", 10)
    assert read(urlset(entry(ONE), "&" * 10)) == ([], ["10 references in its XML, or more"])


def test_entries_and_feeds_have_dates_and_may_be_relative():
    feed = "<rss><item><link>/1</link><pubDate>Mon, 06 Sep 2021 00:01:00 +0000</pubDate></item></rss>"
    assert parse_sitemap(feed.encode(), "http://a.org/feed.xml")[0] == [
        SitemapEntry(ONE, lastmod="2021-09-06T00:01:00+00:00")
    ]
    assert read(urlset(entry("/1"), entry("//b.org/2")), "http://a.org/s.xml") == ([ONE, "http://b.org/2"], [])


@pytest.mark.long
def test_bombs(tmp_path):
    lol = '<!DOCTYPE x [<!ENTITY a "aaaaaaaaaa"><!ENTITY b "&a;&a;&a;&a;">]>' + urlset(entry("http://a.org/&b;"))
    assert parse_sitemap(lol.replace('<?xml version="1.0" encoding="UTF-8"?>', "").encode()) == ([], [])
    (tmp_path / "secret").write_text("http://a.org/secret")
    outside = f'<!DOCTYPE x [<!ENTITY f SYSTEM "file://{tmp_path}/secret">]>' + urlset(entry("&f;"))
    assert read(outside) == ([], ["it declares entities"])
    assert parse_sitemap(gzip.compress(bytes(200_000_000)))[0] == []
    assert parse_sitemap(b"\x1f\x8bbroken") == ([], [])
    many = urlset(*(entry(f"http://a.org/{n}") for n in range(sitemap.MAX_ENTRIES + 10)))
    found, problems = read(many)
    assert (len(found), problems) == (sitemap.MAX_ENTRIES, ["more than 50,000 entries, which are not read"])
    start = time.process_time()
    for piece in ("<", "&", "</x>", "<url>", "<![CDATA[", "<!DOCTYPE ", "<?xml ", "<url>&</url>", "<url><x:y/></url>"):
        read("<urlset>" + piece * (400_000 // len(piece)))
    assert time.process_time() - start < 30


@pytest.fixture
def ask():
    """Ask for a sitemap, but not in the folder /no/."""
    fetcher = Fetcher("textmill/test", private_addresses=True)

    def ask(url: str, patient: bool):
        if "/no/" in url:
            raise LeftOut("robots.txt")
        response = fetcher.fetch(sitemap_request(url, 0))
        if response.is_no_use:
            raise TransientHostError(f"status {response.status}")
        return response

    yield ask
    fetcher.close()


def test_an_index_leads_to_its_sitemaps_once(site, answer, ask):
    index = f"<sitemapindex {NS}>" + "".join(
        f"<sitemap><loc>{site.url(path)}</loc></sitemap>" for path in ("/1.xml.gz", "/2.xml", "/index.xml", "/no/3.xml")
    )
    site.routes["/index.xml"] = answer(index + "</sitemapindex>", content_type="application/xml")
    site.routes["/1.xml.gz"] = answer(
        gzip.compress(urlset(entry(site.url("/a"))).encode()), content_type="application/x-gzip"
    )
    site.routes["/2.xml"] = answer(urlset(entry(site.url("/b"))), content_type="text/xml")
    outcomes: list[SitemapOutcome] = []
    found = list(read_sitemaps([site.url("/index.xml")], ask, report=outcomes.append))
    assert [entry.url for entry in found] == [site.url("/a"), site.url("/b")]
    assert [(outcome.url, outcome.reason) for outcome in outcomes if outcome.kind == "left out"] == [
        (site.url("/no/3.xml"), "robots.txt")
    ]
    assert [hit.path for hit in site.log] == ["/index.xml", "/1.xml.gz", "/2.xml"]


def test_a_sitemap_may_have_moved_within_the_scope(site, answer, ask, caplog):
    site.routes["/old.xml"] = answer(status=301, headers={"Location": "/new.xml"})
    site.routes["/new.xml"] = answer(urlset(entry(site.url("/a"))), content_type="text/xml")
    site.routes["/away.xml"] = answer(status=302, headers={"Location": "/no/3.xml"})
    site.routes["/round.xml"] = answer(status=302, headers={"Location": "/round.xml"})
    site.routes["/broken.xml"] = answer(status=500)
    site.routes["/nowhere.xml"] = answer(status=302, headers={"Location": "mailto:x@y.z"})
    starts = [site.url(f"/{name}.xml") for name in ("old", "away", "round", "broken", "nowhere", "gone")]
    outcomes: list[SitemapOutcome] = []
    found = list(read_sitemaps(starts, ask, report=outcomes.append))
    assert [entry.url for entry in found] == [site.url("/a")]
    assert [outcome._replace(url=outcome.url.rpartition("/")[2]) for outcome in outcomes] == [
        ("old.xml", "read", ""),
        ("away.xml", "left out", "robots.txt"),
        ("round.xml", "damaged", "redirects in a circle"),
        ("broken.xml", "unanswered", "status 500"),
        ("nowhere.xml", "damaged", "redirect to nowhere"),
        ("gone.xml", "missing", "status 404"),
    ]
    asked = ["/old.xml", "/new.xml", "/away.xml", "/round.xml", "/broken.xml", "/nowhere.xml", "/gone.xml"]
    assert [hit.path for hit in site.log] == asked
    assert "/broken.xml: status 500" in caplog.text


def test_where_no_sitemap_answers_the_others_are_asked_for_without_patience():
    patience: dict[str, bool] = {}

    def ask(url: str, patient: bool):
        patience[url[-1]] = patient
        if url.endswith("/5"):
            return Response(url, 200, HTTPHeaderDict(), b"http://a.org/1")
        raise TransientHostError("status 503")

    outcomes: list[SitemapOutcome] = []
    starts = [f"http://a.org/{n}" for n in range(5)] + ["http://b.org/a", "http://a.org/5", "http://a.org/6"]
    assert [entry.url for entry in read_sitemaps(starts, ask, report=outcomes.append)] == ["http://a.org/1"]
    assert [outcome.kind for outcome in outcomes] == ["unanswered"] * 6 + ["read", "unanswered"]
    assert [path for path, patient in patience.items() if not patient] == ["3", "4", "5"]


def test_an_endless_index_ends(site, answer, ask):
    site.fallback = lambda path: answer(
        f"<sitemapindex {NS}><sitemap><loc>{site.url(path + '1')}</loc></sitemap></sitemapindex>"
    )
    assert list(read_sitemaps([site.url("/")], ask, max_files=5)) == []
    assert len(site.log) == 5
