"""What pages may load, asked for without a browser and judged by what the servers saw."""

from __future__ import annotations

import asyncio
import json
from collections import Counter
from contextlib import closing, contextmanager, nullcontext
from dataclasses import replace
from types import SimpleNamespace

import pytest

from scraping.crawling import crawl as crawl_module
from scraping.crawling.answers.reservations import TDM_FILE
from scraping.crawling.connections import HostBusy
from scraping.crawling.fetch import Fetcher, FetchError
from scraping.crawling.rendering import browser as browser_module
from scraping.crawling.rendering.browser import Browser, NotRendered, _Tab
from scraping.crawling.rendering.resources import Asked, Resources
from scraping.crawling.source import Source


@pytest.fixture
def make_source(site):
    def make(**settings) -> Source:
        defaults = {
            "name": "test", "start": [site.url()], "contact": "me@example.org", "delay": 0, "backoff": 0.01,
            "private_addresses": True, "fetch": "browser",
        }  # fmt: skip
        return Source(**{**defaults, **settings})

    return make


@contextmanager
def opened(source: Source):
    with closing(Fetcher("textmill/0.1", private_addresses=True)) as fetcher:
        with closing(Resources(source, fetcher)) as resources:
            yield resources
        fetcher.interrupt()


def load(source: Source, *urls: str) -> list[str]:
    """What comes of requests for data, one after the other: the text, or the reason against it."""

    async def each(resources: Resources) -> list[str]:
        found = []
        for url in urls:
            try:
                found.append((await resources.load(Asked("GET", url, "fetch", {}))).body.decode())
            except FetchError as error:
                found.append(str(error))
        return found

    with opened(source) as resources:
        return asyncio.run(each(resources))


def test_a_failure_that_is_kept_grows_with_no_page(site, answer, make_source):
    async def fail(resources: Resources) -> list[FetchError]:
        errors = []
        for _ in range(3):
            with pytest.raises(FetchError, match="status 500") as caught:
                await resources.load(Asked("GET", site.url("/x"), "fetch", {}))
            errors.append(caught.value)
        return errors

    site.routes["/x"] = answer("", 500)
    with opened(make_source(limits={"attempts": 1})) as resources:
        errors = asyncio.run(fail(resources))
    assert site.paths() == ["/x"]
    assert len(set(map(id, errors))) == 3, "each page's error has a traceback of its own"


def test_a_server_is_not_asked_again_before_it_says(site, answer, make_source):
    tries = iter([answer("", 503, {"Retry-After": "1"})])
    site.routes["/soon"] = lambda _: next(tries, answer("there"))
    assert load(make_source(), site.url("/soon")) == ["there"]
    first, second = [hit.start for hit in site.log if hit.path == "/soon"]
    assert second - first >= 1.0


@pytest.mark.parametrize("status, others", [(503, "there"), (429, "status 429")])
def test_one_that_asks_for_too_long_a_pause_is_passed_over(status, others, site, answer, make_source):
    site.routes["/closed"] = answer("", status, {"Retry-After": "86400"})
    site.routes["/open"] = answer("there")
    assert load(make_source(), site.url("/closed"), site.url("/open")) == [f"status {status}", others]
    assert Counter(site.paths())["/closed"] == 1
    assert "/open" not in site.paths() or status == 503, "429 concerns the host"


def test_a_denied_path_is_denied_however_it_is_spelled(site, answer, make_source):
    site.fallback = lambda path: answer("private")
    site.routes["/robots.txt"] = answer("User-agent: *\nDisallow: /secret/")
    names = ["/private/x", "/%70rivate/x", "/a/%2e%2e/private/x", "/secret/x", "/%73ecret/x"]
    assert load(make_source(deny=["/private/"]), *map(site.url, names)) == ["denied path"] * 3 + ["robots.txt"] * 2
    assert site.paths() == []


@pytest.mark.parametrize("reservations", ["obey", "report"])
def test_data_is_reserved_by_the_tdm_file_of_its_origin(reservations, site, other_site, answer, make_source):
    rules = [{"location": "/news/", "tdm-reservation": 1}]
    tries = iter([answer("", 503)])
    other_site.routes[TDM_FILE] = lambda _: next(tries, answer(json.dumps(rules), content_type="application/json"))
    site.routes[TDM_FILE] = answer("[1", content_type="application/json")
    for place in (site, other_site):
        place.fallback = lambda path: answer("there")
    urls = [*map(other_site.url, ["/news/a", "/%6eews/b", "/old"]), site.url("/news/a")]
    found = load(make_source(resource_hosts=[other_site.host], reservations=reservations), *urls)
    reserved = "reserved: TDM reservation" if reservations == "obey" else "there"
    assert found == [reserved, reserved, "there", "there"]
    asked = [hit.path for hit in other_site.log].count(TDM_FILE)
    assert asked == (2 if reservations == "obey" else 0), "once more after a passing failure, and then no more"


class ShakyBrowser:
    """Fails for a page a number of times before it renders it; what pages load may be refused."""

    def __init__(self, failures: dict[str, int], refused: FetchError | None = None):
        self.failures, self.refused = failures, refused

    def refusal(self, origin):
        return self.refused

    def render(self, response, *_):
        self.failures[response.url] = left = self.failures.get(response.url, 0) - 1
        if left >= 0:
            raise NotRendered("cannot be rendered (its renderer crashed)")
        return replace(response, not_loaded={})


def test_a_page_that_cannot_be_rendered_is_asked_for_again_and_kept(
    site, page, make_source, run_crawl, tmp_path, monkeypatch
):
    def crawl_with(name: str, previous: str | None = None, **failures: int) -> dict:
        browser = ShakyBrowser({site.url(f"/{path}"): number for path, number in failures.items()})
        monkeypatch.setattr(crawl_module, "open_browser", lambda *_: nullcontext(browser))
        return run_crawl(make_source(limits={"attempts": 2}), name, **({"previous": previous} if previous else {}))

    site.routes["/"] = page("/a", "/b")
    site.routes |= {"/a": page(text="one"), "/b": page(text="two")}
    assert len(crawl_with("first", a=1, b=1)) == 3
    pages = crawl_with("second", "first", a=1, b=9)
    assert len(pages) == 3 and b"two" in pages[site.url("/b")]["body"]
    result = json.loads((tmp_path / "second" / "stats.json").read_text())
    assert (result["changes"]["kept"], result["given_up"]) == (1, {})
    assert len(crawl_with("third", b=9)) == 2
    result = json.loads((tmp_path / "third" / "stats.json").read_text())
    assert result["failed"] == {"cannot be rendered (its renderer crashed)": 1} and result["unfinished"] == 1


@pytest.mark.parametrize("seconds, pages", [(86_400.0, 1), (60.0, 2)])
def test_a_host_that_asks_for_a_day_of_peace_for_its_data_is_given_up(
    seconds, pages, site, page, make_source, run_crawl, tmp_path, monkeypatch
):
    browser = ShakyBrowser({}, HostBusy("status 429", seconds))
    monkeypatch.setattr(crawl_module, "open_browser", lambda *_: nullcontext(browser))
    site.routes |= {"/": page("/a"), "/a": page()}
    assert len(run_crawl(make_source())) == pages
    given_up = json.loads((tmp_path / "out" / "stats.json").read_text())["given_up"]
    assert given_up == ({site.host: "status 429; it asks to come back in 86400 s"} if pages == 1 else {})


def test_what_is_refused_to_a_page_is_counted(site, answer, make_source):
    class Route:
        def __init__(self, path: str, kind: str):
            self.request = SimpleNamespace(
                is_navigation_request=lambda: False, resource_type=kind, method="GET", url=site.url(path),
                all_headers=self.all_headers,
            )  # fmt: skip
            self.given: int | str | None = None

        async def all_headers(self):
            return {}

        async def fulfill(self, *, status, **_):
            self.given = status

        async def abort(self, reason):
            self.given = reason

    async def ask(resources: Resources) -> dict[str, int]:
        tab = _Tab(None, None, resources, source)
        for route in routes:
            tab._on_request(route)
        await asyncio.gather(*tab._tasks)
        return dict(tab.not_loaded)

    site.routes["/closed"] = answer("", 403)
    site.routes["/open"] = answer("there")
    source = make_source()
    routes = [Route("/closed", "fetch"), Route("/open", "fetch"), Route("/stream", "eventsource")]
    with opened(source) as resources:
        assert asyncio.run(ask(resources)) == {"status 403": 1, "EventSource": 1}
    assert [route.given for route in routes] == [403, 200, "blockedbyclient"]


def test_playwright_is_ended_although_chromium_does_not_end(make_source, monkeypatch):
    async def close():
        raise RuntimeError("gone")

    async def stop():
        ended.append("playwright")

    ended: list[str] = []
    monkeypatch.setattr(browser_module, "find_chromium", lambda: "chromium")
    with closing(Fetcher("textmill/0.1")) as fetcher:
        browser = Browser(make_source(), fetcher)
        browser._chromium, browser._playwright = SimpleNamespace(close=close), SimpleNamespace(stop=stop)
        browser.close()
    assert ended == ["playwright"]
