"""Pages rendered in a real Chromium, judged by what the servers saw."""

from __future__ import annotations

import itertools
import json
import os
import signal
import socket
import threading
import time
from collections import Counter
from contextlib import closing
from itertools import pairwise
from pathlib import Path

import pyarrow.parquet as pq
import pytest
from typer.testing import CliRunner
from warcio.archiveiterator import ArchiveIterator

from flows.cli.source import app
from scraping.collections.config import IngestConfig
from scraping.collections.ingest import ingest
from scraping.crawling import connections
from scraping.crawling.answers.reservations import PathRules
from scraping.crawling.fetch import Fetcher, Request
from scraping.crawling.rendering import browser as browser_module
from scraping.crawling.rendering import chromium as chromium_module
from scraping.crawling.rendering.browser import Browser
from scraping.crawling.robots import parse_robots
from scraping.crawling.source import Source
from scraping.shards import read_rows, shards
from scraping.warc import write_warc
from textmill.errors import UserError

AGENT = "textmill/0.1 (+me@example.org)"
SHELL = (
    "<!DOCTYPE html><html><head><title>App</title></head><body><noscript>You need JavaScript</noscript>"
    '<div id="root"></div>{}</body></html>'
)
WRITE = "const root = document.getElementById('root'); const write = text => root.append(text, ' ');"


def shell(script: str, body: str = "") -> str:
    return SHELL.format(f"{body}<script>{WRITE}{script}</script>")


def stats(tmp_path, name="out") -> dict:
    return json.loads((tmp_path / name / "stats.json").read_text())


def urls(tmp_path) -> dict[str, dict]:
    return {row["url"]: row for row in pq.read_table(tmp_path / "out" / "urls.parquet").to_pylist()}


# --- what is stored ---------------------------------------------------------------------------------------------------


@pytest.mark.long
def test_a_page_is_stored_as_its_scripts_leave_it(site, answer, page, make_source, run_crawl, tmp_path):
    site.routes["/"] = answer(
        SHELL.format(
            '<link rel="stylesheet" href="/s.css"><img src="/i.png"><iframe src="/frame"></iframe>'
            '<x-card>slotted</x-card><script src="/app.js"></script>'
        ),
        headers={"ETag": '"1"', "Last-Modified": "Sat, 09 May 2026 07:35:33 GMT"},
    )
    site.routes["/app.js"] = answer(
        WRITE
        + """
        setTimeout(async () => {
          const data = await (await fetch("/data.json", {headers: {"X-Version": "2"}})).json();
          root.innerHTML = `<p>${data.text}</p><a href="/two">two</a>`;
          setTimeout(() => write("late"), 3000);
          const code = `fetch("${location.origin}/worker.txt").then(r => r.text()).then(postMessage)`;
          new Worker(URL.createObjectURL(new Blob([code]))).onmessage = event => write(event.data);
        }, 1000);
        setInterval(() => { document.body.dataset.ticks = Number(document.body.dataset.ticks || 0) + 1 }, 1000);
        customElements.define("x-card", class extends HTMLElement {
          connectedCallback() { this.attachShadow({mode: "open"}).innerHTML = "<p>in the shadow: <slot></slot></p>" }
        });
        document.cookie = "made_by=script";
        Object.defineProperty(Element.prototype, "attributes", {get() { return [] }});
        """,
        content_type="text/javascript",
    )
    site.routes["/data.json"] = answer('{"text": "Caf\u00e9 & <b>more</b>"}', content_type="application/json")
    site.routes["/worker.txt"] = answer("from a worker", content_type="text/plain")
    site.routes["/two"] = page(text="Plain text.")
    site.routes["/frame"] = page()
    started = time.monotonic()
    pages = run_crawl(make_source())
    assert time.monotonic() - started < 60
    assert set(pages) == {site.url("/"), site.url("/two"), site.url("/frame")}
    row = pages[site.url("/")]
    html = row["body"].decode()
    assert '<p>Café &amp; <b>more</b></p><a href="/two">two</a>' in html
    assert "late" in html and "from a worker" in html
    assert "<p>in the shadow: <slot>slotted</slot></p>" in html
    assert "You need JavaScript" not in html
    assert (row["rendered"], row["content_type"], row["etag"], row["last_modified"]) == (
        True, "text/html; charset=utf-8", None, None,
    )  # fmt: skip
    assert Counter(site.paths()) == dict.fromkeys(("/", "/app.js", "/data.json", "/worker.txt", "/two", "/frame"), 1), (
        "no style sheet, no image, and the frame as the link that it is"
    )
    for hit in site.log:
        assert hit.headers["User-Agent"] == AGENT
        assert hit.headers.keys() <= {"Host", "User-Agent", "Accept", "Accept-Encoding", "X-Version"}, hit
    assert stats(tmp_path)["not_loaded"] == {}
    assert urls(tmp_path)[site.url("/two")]["found_on"] == site.url("/")


@pytest.mark.slow
def test_the_next_crawl_asks_for_whole_pages_and_finds_the_same(site, answer, make_source, run_crawl, tmp_path):
    site.routes["/"] = answer(shell("fetch('/n').then(r => r.text()).then(write)"), headers={"ETag": '"1"'})
    site.routes["/n"] = answer("one", content_type="text/plain")
    first = run_crawl(make_source(), "first")
    assert (
        run_crawl(make_source(), "second", previous="first")[site.url("/")]["sha256"] == first[site.url("/")]["sha256"]
    )
    assert stats(tmp_path, "second")["changes"]["unchanged"] == 1
    site.routes["/n"] = answer("two", content_type="text/plain")
    assert b"two" in run_crawl(make_source(), "third", previous="second")[site.url("/")]["body"]
    assert not any("If-None-Match" in hit.headers for hit in site.log)
    # A crawl without the browser asks anew, too: it does not take over what a browser made.
    assert run_crawl(make_source(fetch="http"), "plain", previous="third")[site.url("/")]["rendered"] is False


@pytest.mark.slow
def test_a_rendered_page_is_a_resource_of_the_archive_and_can_be_ingested(
    site, answer, make_source, run_crawl, tmp_path
):
    text = "The page says something of its own that scripts have written. " * 10
    site.routes["/"] = shell(f"root.innerHTML = '<main><h1>Title</h1><p>{text}</p></main>'")
    site.routes["/moved"] = answer("", 301, {"Location": "/"})
    row = run_crawl(make_source(start=[site.url("/moved")]))[site.url("/")]
    [file] = write_warc(tmp_path / "out", tmp_path / "archive").files
    with file.open("rb") as stream:
        records = [(r, r.content_stream().read()) for r in ArchiveIterator(stream, check_digests="raise")]
    assert [record.rec_type for record, _ in records] == ["warcinfo", "resource", "response"]
    resource, body = records[1]
    assert body == row["body"]
    assert resource.rec_headers["WARC-Target-URI"] == site.url("/")
    assert resource.rec_headers["Content-Type"] == "text/html; charset=utf-8"
    assert resource.http_headers is None
    documents = tmp_path / "documents"
    documents.mkdir()
    ingest(IngestConfig(path=str(file)), documents)
    [document] = read_rows(shards(documents))
    assert document["url"] == site.url("/") and text.strip() in document["text"]


# --- the rules --------------------------------------------------------------------------------------------------------


@pytest.mark.slow
def test_what_a_page_loads_obeys_scope_robots_and_delays(site, other_site, answer, make_source, run_crawl, tmp_path):
    third = "never.invalid"
    site.routes["/robots.txt"] = answer("User-agent: *\nDisallow: /private")
    other_site.routes["/robots.txt"] = answer("User-agent: *\nDisallow: /secret\nCrawl-delay: 0.4")
    names = ["/a.json", "/b.json", "/private/c.json", "/denied/d.json", "/leads-to-secret", "/leads-to-b"]
    addresses = [*map(site.url, names), *map(other_site.url, ["/e.json", "/f.json", "/secret/g.json"])]
    script = (
        f"for (const url of {json.dumps([*addresses, f'http://{third}/h.json'])})"
        " fetch(url).then(r => r.text()).then(write);"
    )
    site.routes["/"] = shell(script, f'<script src="http://{third}/x.js"></script>')
    for place in (site, other_site):
        place.fallback = lambda path: answer(f"content of {path}", content_type="application/json")
    site.routes["/leads-to-secret"] = answer("", 302, {"Location": other_site.url("/secret/j.json")})
    site.routes["/leads-to-b"] = answer("", 302, {"Location": "/b.json"})
    site.routes["/sitemap.xml"] = answer("", 404)
    source = make_source(delay=0.15, resource_hosts=[other_site.host], deny=["/denied/"], allow=["/$"])
    html = run_crawl(source)[site.url("/")]["body"].decode()
    for path in ("/a.json", "/b.json", "/e.json", "/f.json"):
        assert f"content of {path}" in html
    assert html.count("content of /b.json") == 2, "the redirect leads there"
    assert Counter(site.paths()) == Counter(["/", "/a.json", "/b.json", "/leads-to-secret", "/leads-to-b"])
    assert other_site.log[0].path == "/robots.txt"
    assert sorted(other_site.paths()) == ["/e.json", "/f.json"]
    for place, delay in ((site, 0.15), (other_site, 0.4)):
        gaps = [later.start - earlier.end for earlier, later in pairwise(place.log)]
        assert all(gap >= delay - 0.01 for gap in gaps), gaps
    assert stats(tmp_path)["not_loaded"] == {"robots.txt": 3, "denied path": 1, f"other host {third}": 2}


@pytest.mark.slow
def test_what_a_page_loads_is_bounded_and_tried_again(site, answer, make_source, run_crawl, tmp_path):
    names = ["/large", "/broken", "/shaky", *(f"/{n}.json" for n in range(8))]
    site.routes["/"] = shell(
        f"(async () => {{ for (const url of {json.dumps(names)})"
        " await fetch(url).then(r => r.text()).then(write, e => 0);"
        " fetch('/post', {method: 'POST', body: 'x'}).catch(e => write('refused')) })()"
    )
    site.fallback = lambda path: answer(f"content of {path}", content_type="application/json")
    site.routes["/large"] = answer("x" * 30_000, content_type="text/plain")
    site.routes["/broken"] = answer("", 503)
    tries = iter([answer("", 500)])
    site.routes["/shaky"] = lambda _: next(tries, answer("content of /shaky", content_type="text/plain"))
    source = make_source(limits={"bytes": 20_000, "requests": 6, "attempts": 2})
    html = run_crawl(source)[site.url("/")]["body"].decode()
    assert "content of /shaky" in html and "content of /2.json" in html
    assert "content of /3.json" not in html and "refused" in html
    counts = Counter(site.paths())
    assert (counts["/broken"], counts["/shaky"], counts["/large"]) == (2, 2, 1)
    assert stats(tmp_path)["not_loaded"] == {
        "larger than 20,000 bytes": 1, "status 503": 1, "limits.requests reached": 6,
    }  # fmt: skip


@pytest.mark.slow
def test_a_site_is_asked_for_its_scripts_once_unless_it_wants_otherwise(site, answer, make_source, run_crawl):
    links = "<a href=/a>a</a><a href=/b>b</a>"
    body = SHELL.format(f'{links}<script src="/app.js"></script><script src="/fresh.js"></script>')
    site.routes.update({"/": body, "/a": body, "/b": body})
    site.routes["/app.js"] = answer("document.body.append('written')", content_type="text/javascript")
    site.routes["/fresh.js"] = answer("0", headers={"Cache-Control": "no-store"}, content_type="text/javascript")
    pages = run_crawl(make_source())
    assert all(b"written" in row["body"] for row in pages.values()) and len(pages) == 3
    assert Counter(site.paths()) == {"/": 1, "/a": 1, "/b": 1, "/app.js": 1, "/fresh.js": 3}


@pytest.mark.slow
def test_only_the_crawl_s_own_cookies_are_sent(site, answer, make_source, run_crawl):
    site.routes["/"] = answer(
        shell("document.cookie = 'mine=1'; localStorage.x = 1; fetch('/data').then(r => r.text()).then(write)"),
        headers={"Set-Cookie": "theirs=1"},
    )
    site.routes["/data"] = lambda handler: answer(f"cookie: {handler.headers['Cookie']}", content_type="text/plain")
    assert b"cookie: theirs=1 " in run_crawl(make_source())[site.url("/")]["body"]


@pytest.mark.slow
def test_what_owners_reserve_is_judged_on_the_answer_and_on_the_rendered_page(
    site, answer, make_source, run_crawl, tmp_path
):
    load = "fetch('/data' + location.pathname).then(r => r.text()).then(write);"
    wipe = "document.head.replaceChildren();"
    site.routes["/"] = shell(
        load, "".join(f'<a href="{path}">x</a>' for path in ("/noai", "/noindex", "/late", "/tdm"))
    )
    for name in ("noai", "noindex"):
        site.routes[f"/{name}"] = f'<html><head><meta name="robots" content="{name}"></head>' + shell(wipe + load)
    site.routes["/late"] = shell("document.head.innerHTML = '<meta name=robots content=noai>';" + load)
    site.routes["/tdm"] = answer(shell(load), headers={"TDM-Reservation": "1"})
    site.fallback = lambda path: answer("reserved words", headers={"X-Robots-Tag": "noai"}, content_type="text/plain")
    site.routes["/sitemap.xml"] = answer("", 404)
    pages = run_crawl(make_source())
    assert list(pages) == [site.url("/")] and b"reserved words" not in pages[site.url("/")]["body"]
    skipped = {"noindex": 1, "reserved: noai": 2, "reserved: TDM reservation": 1}
    assert stats(tmp_path)["skipped"] == skipped
    assert sorted(site.paths()) == ["/", "/data/", "/data/late", "/late", "/noai", "/noindex", "/tdm"]
    pages = run_crawl(make_source(reservations="report"), "reported")
    assert set(pages) == {site.url(path) for path in ("/", "/noai", "/late", "/tdm")}
    assert all(b"reserved words" in row["body"] for row in pages.values())
    assert stats(tmp_path, "reported")["reserved"] == {"reserved: noai": 2, "reserved: TDM reservation": 1}


# --- nothing leaves the browser ---------------------------------------------------------------------------------------


@pytest.fixture
def listener():
    """A port of loopback, TCP and UDP, that notes who comes."""
    came: list[str] = []
    with socket.create_server(("127.0.0.1", 0)) as tcp, socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as udp:
        port = tcp.getsockname()[1]
        udp.bind(("127.0.0.1", port))
        for name, receive in (("tcp", tcp.accept), ("udp", lambda: udp.recv(2048))):

            def wait(name=name, receive=receive):
                try:
                    while True:
                        receive()
                        came.append(name)
                except OSError:
                    pass

            threading.Thread(target=wait, daemon=True).start()
        yield port, came
        tcp.shutdown(socket.SHUT_RDWR)


@pytest.mark.slow
def test_a_page_reaches_nothing_but_through_the_crawl(site, answer, make_source, run_crawl, tmp_path, listener):
    port, came = listener
    elsewhere = f"127.0.0.1:{port}"
    head = "".join(
        f'<link rel="{rel}" href="http://{elsewhere}/{rel}">'
        for rel in ("preconnect", "dns-prefetch", "prefetch", "prerender", "icon", "manifest", "modulepreload")
    )
    script = f"""
      const own = location.host, other = "{elsewhere}";
      for (const host of [own, other]) {{
        const attempt = work => {{ try {{ Promise.resolve(work()).catch(e => 0) }} catch (e) {{}} }};
        attempt(() => new WebSocket(`ws://${{host}}/socket`));
        attempt(() => new EventSource(`http://${{host}}/events`));
        attempt(() => navigator.sendBeacon(`http://${{host}}/beacon`, "x"));
        attempt(() => fetch(`http://${{host}}/post`, {{method: "POST", mode: "no-cors", body: "x"}}));
        attempt(() => fetch(`http://${{host}}/delete`, {{method: "DELETE"}}));
        attempt(() => fetch(`http://${{host}}/head`, {{method: "HEAD", mode: "no-cors"}}));
        attempt(() => fetch(`http://${{host}}/kept`, {{keepalive: true, mode: "no-cors", method: "PUT"}}));
        attempt(() => navigator.serviceWorker.register("/service-worker.js"));
        attempt(() => window.open(`http://${{host}}/popup`));
        attempt(() => {{ new Image().src = `http://${{host}}/image` }});
        attempt(() => new Audio(`http://${{host}}/sound`).play());
        attempt(() => new FontFace("f", `url(http://${{host}}/font)`).load());
        attempt(() => new WebTransport(`https://${{host}}/transport`));
        attempt(() => {{
          const a = document.createElement("a");
          a.href = `http://${{host}}/download`; a.download = "x"; a.ping = `http://${{host}}/ping`;
          document.body.append(a); a.click();
        }});
        attempt(() => {{
          const form = document.createElement("form");
          form.action = `http://${{host}}/form`; form.method = "post"; form.target = "_blank";
          document.body.append(form); form.submit();
        }});
        attempt(async () => {{
          const peer = new RTCPeerConnection({{iceServers: [{{urls: `stun:${{host}}`}}]}});
          peer.createDataChannel("x"); await peer.setLocalDescription(await peer.createOffer());
        }});
      }}
      const rules = document.createElement("script");
      rules.type = "speculationrules";
      const targets = [`http://${{other}}/spec`, "/spec"];
      rules.textContent = JSON.stringify({{prefetch: [{{urls: targets, eagerness: "immediate"}}]}});
      document.head.append(rules);
      write("done");
    """
    site.routes["/"] = f"<html><head>{head}</head>" + shell(script, f'<iframe src="http://{elsewhere}/frame"></iframe>')
    site.routes["/service-worker.js"] = answer("fetch('/from-service-worker')", content_type="text/javascript")
    site.fallback = lambda path: answer("no")
    requests: list[str] = []
    fetch = Fetcher.fetch

    def noted(self, request: Request):
        requests.append(request.url)
        return fetch(self, request)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(Fetcher, "fetch", noted)
        html = run_crawl(make_source(limits={"depth": 0}))[site.url("/")]["body"]
    assert b"done" in html
    assert came == []
    assert [site.url(hit.path) for hit in site.log] == requests, "no request that the crawl did not make"
    assert set(site.paths()) <= {"/", "/service-worker.js"}
    refused = stats(tmp_path)["not_loaded"]
    assert refused["method POST"] >= 2 and refused["method DELETE"] >= 1, refused


@pytest.mark.slow
def test_names_are_resolved_by_the_crawl_and_addresses_vetted(site, answer, make_source, monkeypatch, listener):
    """Also where a name is another address later: the browser never asks."""
    port, came = listener
    asked: list[str] = []

    def resolver(host: str, _: int) -> list[tuple[str, int]]:
        asked.append(host)
        return [("127.0.0.1", int(site.host.rpartition(":")[2]))] if host == "site.example" else [("10.0.0.1", port)]

    monkeypatch.setattr(connections, "is_global", lambda address: address == "127.0.0.1")
    targets = [
        "http://site.example/own",
        "http://inside.site.example/x",
        f"http://127.0.0.2:{port}/",
        f"http://[::1]:{port}/",
    ]
    site.routes["/"] = shell(f"for (const url of {json.dumps(targets)}) fetch(url).then(r => r.text()).then(write)")
    site.routes["/own"] = answer("own data", content_type="text/plain")
    source = Source(
        name="test", start=["http://site.example/"], contact="me@example.org", delay=0, backoff=0.01, fetch="browser",
        resource_hosts=["*.site.example", f"127.0.0.2:{port}", f"[::1]:{port}"],
    )  # fmt: skip
    with closing(Fetcher(AGENT, resolver=resolver)) as fetcher, closing(Browser(source, fetcher)) as browser:
        response = fetcher.fetch(Request("http://site.example/", 0, 30, 10**6))
        rendered = browser.render(response, parse_robots(b"", "textmill"), PathRules())
        fetcher.interrupt()
    assert b"own data" in rendered.body
    private = [reason for reason in rendered.not_loaded if "has the private address 10.0.0.1" in reason]
    assert len(private) == 3 and sum(rendered.not_loaded.values()) == 3, rendered.not_loaded
    assert set(asked) == {"site.example", "inside.site.example", "127.0.0.2", "::1"}
    assert came == []


# --- pages that misbehave ---------------------------------------------------------------------------------------------


@pytest.mark.slow
def test_pages_that_misbehave_cost_themselves_alone(site, answer, make_source, run_crawl, tmp_path):
    pages = {
        "/loop": shell("for (;;) {}"),
        "/huge": shell("root.append('x'.repeat(1e6), 'y'.repeat(1e6))"),
        "/alerts": shell("for (let i = 0; i < 3; i++) { alert(i); confirm(i); prompt(i) } print(); write('alerted')"),
        "/leaving": shell("onbeforeunload = e => e.preventDefault(); write('left'); location.replace('/target')"),
        "/popups": shell("for (let i = 0; i < 5; i++) open('/popup' + i); write('opened')"),
        "/polls": shell("setInterval(() => fetch('/poll').then(r => r.text()).then(write), 1000)"),
        "/frames": shell("(function draw() { requestAnimationFrame(draw) })(); write('drawn')"),
        "/throws": shell("write('before'); throw new Error('x')"),
        "/moves": shell("history.pushState(0, '', '/deep/down'); root.innerHTML = '<a href=relative>x</a>'"),
        "/deep": shell(
            "let at = root; for (let i = 0; i < 2000; i++) at = at.appendChild(document.createElement('b'))"
        ),
        "/closes": shell("window.close(); write('open')"),
    }
    site.routes.update(pages)
    site.routes["/"] = "".join(f'<a href="{path}">x</a>' for path in pages)
    site.routes["/poll"] = answer("polled", headers={"Cache-Control": "no-store"}, content_type="text/plain")
    site.routes["/target"] = shell("write('arrived')")
    site.routes["/deep/relative"] = shell("write('relative')")
    limits = {"seconds": 3, "bytes": 1_000_000}
    stored = {url.removeprefix(site.url("")): row["body"].decode() for url, row in
              run_crawl(make_source(limits=limits)).items()}  # fmt: skip
    failed = {url.removeprefix(site.url("")): row["reason"] for url, row in urls(tmp_path).items()
              if row["outcome"] == "failed"}  # fmt: skip
    too_long = "cannot be rendered (its scripts ran for more than 3 s)"
    assert failed == {"/loop": too_long, "/huge": "rendered, it is larger than 1,000,000 bytes"}
    texts = {
        "/alerts": "alerted", "/leaving": "left", "/popups": "opened", "/polls": "polled", "/frames": "drawn",
        "/throws": "before", "/target": "arrived", "/deep/relative": "relative", "/closes": "open",
    }  # fmt: skip
    assert stored.keys() == {"/", *pages, "/target", "/deep/relative"} - failed.keys()
    for path, text in texts.items():
        assert text in stored[path], path
    assert stored["/deep"].count("<b>") == 2_000
    counts = Counter(site.paths())
    assert not any(path.startswith("/popup") and path != "/popups" for path in counts)
    assert 2 <= counts["/poll"] <= 6, "five seconds of the page's own time"
    assert set(counts) - {"/poll"} == {"/", *pages, "/target", "/deep/relative"}


@pytest.mark.slow
@pytest.mark.parametrize("place", ["page", "worker"])
def test_a_page_that_asks_on_after_its_last_request_is_taken_as_it_is(
    place, site, answer, make_source, run_crawl, tmp_path
):
    most = 10 * 5_000
    again = f"const again = async () => {{ for (let n = 0; n < 5000; n++) try {{ await fetch('{site.url('/gone')}') }}"
    again += " catch {} }; for (let i = 0; i < 10; i++) again();"
    if place == "worker":
        again = f"new Worker(URL.createObjectURL(new Blob([{json.dumps(again)}])));"
    site.routes["/"] = shell(f"write('written'); {again}")
    stored = run_crawl(make_source(limits={"requests": 20}))
    assert b"written" in stored[site.url("/")]["body"]
    assert 0 < stats(tmp_path)["not_loaded"]["limits.requests reached"] < most / 2


@pytest.mark.slow
def test_a_crash_of_chromium_costs_a_second_try_and_one_of_its_pages_an_attempt(
    site, answer, page, make_source, run_crawl, tmp_path, kill_chromium
):
    kinds = {
        "/renderer": iter(["--type=renderer"]),
        "/always": itertools.repeat("--type=renderer"),
        "/whole": iter(["--headless"]),
    }

    def data(handler):
        if kind := next(kinds[handler.path.removesuffix(".json")], None):
            assert kill_chromium(kind)
        return answer("data", headers={"Cache-Control": "no-store"}, content_type="text/plain")

    site.routes["/"] = page(*kinds, "/fine")
    for path in kinds:
        site.routes[path] = shell(f"fetch('{path}.json').then(r => r.text()).then(write)")
        site.routes[f"{path}.json"] = data
    site.routes["/fine"] = shell("write('fine')")
    stored = run_crawl(make_source(limits={"attempts": 2}))
    assert set(stored) == {site.url(path) for path in ("/", "/renderer", "/whole", "/fine")}
    assert b"fine" in stored[site.url("/fine")]["body"]
    for path in ("/renderer", "/whole"):
        assert b"data" in stored[site.url(path)]["body"]
    result = stats(tmp_path)
    assert result["failed"] == {"cannot be rendered (its renderer crashed)": 1}
    assert result["unfinished"] == 1, "the next run asks for it again"


@pytest.mark.slow
@pytest.mark.parametrize("sign", [signal.SIGKILL, signal.SIGINT])
def test_chromium_dies_with_the_crawl_which_goes_on_later(
    sign, site, answer, make_source, run_crawl, start_crawler, below
):
    gate = threading.Event()

    def data(_):
        gate.wait(240)
        return answer("data", content_type="text/plain")

    site.routes["/"] = shell("root.innerHTML = '<a href=/two>two</a>'")
    site.routes["/two"] = shell("fetch('/data').then(r => r.text()).then(write)")
    site.routes["/data"] = data
    source = make_source()
    process = start_crawler(source, "out")
    deadline = time.monotonic() + 240
    while "/data" not in site.paths() and time.monotonic() < deadline:
        time.sleep(0.05)
    family = below(process.pid)
    assert any("--type=renderer" in command for command in family.values())
    process.send_signal(sign)
    process.wait(120)  # the server keeps it waiting for longer, and a Chromium that does not end is left after 30
    while any(map(is_alive, family)) and time.monotonic() < deadline:
        time.sleep(0.1)
    assert not any(map(is_alive, family)), "no browser stays behind"
    gate.set()
    pages = run_crawl(source)
    assert site.paths().count("/") == 1, "what was done is not done again"
    assert b"data" in pages[site.url("/two")]["body"]


def is_alive(pid: int) -> bool:
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"


# --- what is told -----------------------------------------------------------------------------------------------------


@pytest.mark.slow
def test_source_check_says_what_a_browser_would_change_and_what_it_could_not_load(site, answer, make_source, tmp_path):
    site.routes["/"] = SHELL.format('<script src="/app.js"></script><script src="http://cdn.invalid/x.js"></script>')
    text = "The page says something of its own that scripts have written. " * 10
    site.routes["/app.js"] = answer(f"{WRITE} root.innerHTML = '<p>{text}</p>'", content_type="text/javascript")
    outputs = []
    for fetch in ("http", "browser"):
        path = tmp_path / f"{fetch}.yaml"
        path.write_text(make_source(fetch=fetch).model_dump_json())
        result = CliRunner().invoke(app, ["check", str(path), "--pages", "1"], catch_exceptions=False)
        assert result.exit_code == 0, result.output
        outputs.append(result.output)
    plain, rendered = outputs
    assert "text of 0 characters, 2 scripts; try `fetch: browser`" in plain
    assert "something of its own" not in plain
    assert "something of its own" in rendered and "try `fetch: browser`" not in rendered
    assert "1 not loaded: other host cdn.invalid; if the page needs them, name it in resource_hosts" in rendered


def test_a_temporary_folder_that_is_too_deep_for_chromium_is_said_before_any_request(site, monkeypatch):
    source = Source(name="mine", start=[site.url()], contact="me@example.org", private_addresses=True, fetch="browser")
    monkeypatch.setattr(chromium_module.tempfile, "gettempdir", lambda: "/tmp/" + "a" * 58)
    with pytest.raises(UserError, match=r"source mine: Chromium cannot open its socket in .* of at most 62 bytes"):
        chromium_module.check_browser(source)


def test_what_is_missing_is_said_before_any_request(site, monkeypatch, tmp_path):
    from flows.stages.scrape import scrape

    source = Source(name="mine", start=[site.url()], contact="me@example.org", private_addresses=True, fetch="browser")
    monkeypatch.setattr(chromium_module.shutil, "which", lambda _: None)
    monkeypatch.setattr(chromium_module, "_own_chromium", lambda: str(tmp_path / "none"))
    no_chromium = (
        "source mine: `fetch: browser` finds no Chromium: apt-get install chromium, or playwright install chromium"
    )
    with pytest.raises(UserError) as caught:
        scrape.check_available(source)
    assert str(caught.value) == no_chromium
    find_spec = chromium_module.importlib.util.find_spec
    monkeypatch.setattr(
        chromium_module.importlib.util, "find_spec", lambda name: None if name == "playwright" else find_spec(name)
    )
    no_package = "source mine: `fetch: browser` needs a package that is missing: pip install 'textmill[browser]'"
    path = tmp_path / "mine.yaml"
    path.write_text(source.model_dump_json())
    with pytest.raises(UserError) as caught:
        CliRunner().invoke(app, ["check", str(path)], catch_exceptions=False)
    assert str(caught.value) == no_package
    with pytest.raises(UserError) as caught:
        scrape.check_available(source)
    assert str(caught.value) == no_package
    assert site.log == []


def test_hosts_of_resources_are_for_rendered_pages():
    settings = {"name": "mine", "start": ["https://example.org/"], "contact": "me@example.org"}
    with pytest.raises(ValueError, match="resource_hosts is for pages that are rendered: add fetch: browser"):
        Source(**settings, resource_hosts=["cdn.example.net"])
    source = Source(**settings, fetch="browser", resource_hosts=["CDN.example.net:443"])
    assert source.resource_hosts == ["cdn.example.net"]
    assert source.scope().skip_reason("https://cdn.example.net/x") == "other host", "its pages are not crawled"


def test_the_clock_of_a_page_is_the_one_that_the_tests_count_on():
    assert browser_module.PAGE_SECONDS == 5.0
