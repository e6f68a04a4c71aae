from datetime import timedelta

import pytest

from scraping.crawling.source import Source, load_source, shipped_sources
from textmill.errors import UserError


@pytest.mark.parametrize("name", shipped_sources())
def test_every_shipped_source_is_sound(name, monkeypatch):
    monkeypatch.setenv("TEXTMILL_CONTACT", "me@example.org")
    source = load_source(name)
    assert source.name == name
    assert source.description
    assert "(+" in source.user_agent_header()
    scope = source.scope()
    assert all(scope.skip_reason(url) is None for url in source.start)


def test_the_shipped_ones():
    assert {"python-docs", "umb", "umb-courses"} <= set(shipped_sources())


@pytest.fixture
def write(tmp_path):
    def write(text: str):
        path = tmp_path / "mine.yaml"
        path.write_text(text)
        return path

    return write


GOOD = "start: [http://Example.org]\ncontact: me@example.org\n"


def test_defaults(write):
    source = load_source(write(GOOD + "max_age: 12h\nschedule: {cron: '0 3 * * 0', timezone: America/New_York}\n"))
    assert source.name == "mine"
    assert source.start == ["http://example.org/"]
    assert source.hosts == ["example.org"]
    assert source.delay == 1
    assert source.extractor.kind == "auto"
    assert source.max_age == timedelta(hours=12)
    assert source.user_agent_header() == "textmill/0.1 (+me@example.org)"


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("start: [http://a.org]\n", r"mine\.yaml:1: contact: missing: Address or URL where"),
        (GOOD + "dealy: 2\n", r"mine\.yaml:3: dealy: unknown key; did you mean delay\?"),
        (GOOD + "limits:\n  pages: 10\n  deepth: 3\n", r"mine\.yaml:5: limits\.deepth: .*did you mean limits\.depth\?"),
        (GOOD + "limits:\n  pages: none\n", r"mine\.yaml:4: limits\.pages: .*integer"),
        (GOOD + "delay: -1\n", r"mine\.yaml:3: delay: .*greater"),
        (GOOD + "extractor: {kind: magic}\n", r"mine\.yaml:3: extractor: .*'article', 'main', 'records'"),
        (GOOD + "extractor:\n  kind: main\n  selektor: x\n", r"mine\.yaml:5: extractor\.selektor: .*selector"),
        (GOOD + "extractor:\n  kind: main\n  selector: '>>'\n", r"mine\.yaml:5: extractor\.selector: .*CSS selector"),
        (GOOD + "max_age: soon\n", r"mine\.yaml:3: max_age: 'soon' is not a duration: write one such as 30min"),
        (GOOD + "schedule: {cron: daily}\n", r"mine\.yaml:3: schedule\.cron: .*five fields"),
        (GOOD + "schedule: {cron: '* * * * *', timezone: Mars/Base}\n", r"mine\.yaml:3: .*not a time zone"),
        (GOOD + "allow: [news]\n", r"mine\.yaml:3: allow: 'news' does not begin with / or \*"),
        (GOOD + "hosts: ['http://a.org']\n", r"mine\.yaml:3: hosts: .*not a host name"),
        (GOOD + "hosts: [a.org]\n", r"mine\.yaml:1: the start URL http://example\.org/ is not fetched \(other host\)"),
        (GOOD + "deny: [/]\n", r"mine\.yaml:1: the start URL .* \(denied path\): correct start, hosts, allow or deny"),
        ("start: [a.org]\ncontact: me@example.org\n", r"mine\.yaml:1: start: 'a\.org' is not an http or https URL"),
        ("start: [http://a.org]\ncontact: me\n", r"mine\.yaml:2: contact: 'me' is neither"),
        ("start: [http://a.org\ncontact: x@y.z\n", r"mine\.yaml:2: not valid YAML"),
        ("- a\n- b\n", r"mine\.yaml: a mapping of `key: value` lines is wanted"),
    ],
)
def test_mistakes_name_their_place_and_remedy(write, text, message):
    with pytest.raises(UserError, match=message) as error:
        load_source(write(text))
    assert "\n" not in str(error.value)


def test_a_file_names_its_source(tmp_path):
    (tmp_path / "My Site_2.yaml").write_text(GOOD)
    assert load_source(tmp_path / "My Site_2.yaml").name == "my-site-2"
    (tmp_path / "x.yaml").write_text(GOOD + "name: other\n")
    assert load_source(tmp_path / "x.yaml").name == "other"


def test_unknown_sources(write):
    near = str(write(GOOD)).replace("mine", "mien")
    with pytest.raises(UserError, match=r"no source \S*mien\.yaml: did you mean \S*mine\.yaml\?"):
        load_source(near)
    with pytest.raises(UserError, match="no source umb-course: did you mean umb-courses"):
        load_source("umb-course")
    with pytest.raises(UserError, match="give the path of a YAML file, or one of: python-docs"):
        load_source("/no/such/file.yaml")


def test_a_contact_from_the_environment_must_be_set(monkeypatch):
    source = Source(name="x", start=["http://a.org/"], contact="$TEXTMILL_CONTACT")
    monkeypatch.delenv("TEXTMILL_CONTACT", raising=False)
    with pytest.raises(UserError, match="source x: set TEXTMILL_CONTACT to an e-mail address or URL"):
        source.user_agent_header()
    monkeypatch.setenv("TEXTMILL_CONTACT", "https://example.org/crawler")
    assert source.user_agent_header() == "textmill/0.1 (+https://example.org/crawler)"


def make(**settings) -> Source:
    return Source(**{"name": "x", "start": ["http://a.org/"], "contact": "me@example.org", **settings})


@pytest.mark.parametrize(
    ("url", "reason"),
    [
        ("http://a.org/news/1", None),
        ("https://a.org/news/1", None),
        ("http://a.org:8080/news/1", None),
        ("http://sub.b.org/news/", None),
        ("http://b.org/news/", "other host"),
        ("http://notb.org/news/", "other host"),
        ("http://a.org/news/print/1", "denied path"),
        ("http://a.org/news/1?print=1", "denied path"),
        ("http://a.org/old/1", "outside the allowed paths"),
        ("http://a.org/x.html", None),
        ("http://a.org/x.html?y", "outside the allowed paths"),
        ("http://a.org/news/a.PDF", "file type"),
        ("http://a.org/news/a.pdf?x", "file type"),
        ("http://a.org/news/Node.js", None),
        ("http://a.org/news/File:a.pdf", None),
        ("http://a.org/news/" + "x" * 100, "URL too long"),
        ("http://a.org/news/1/2/3/4/5/6", "path too deep"),
        ("http://a.org/news/a/b/a/b/a", "repeating path"),
        ("http://a.org/news/?a=1&a=1&a=1", "repeating query"),
    ],
)
def test_scope(url, reason):
    source = make(
        hosts=["a.org", "*.b.org"], allow=["/news/", "/*.html$"], deny=["/news/print/", "/*?print="],
        limits={"url_length": 100, "path_segments": 6}, start=["http://a.org/news/"],
    )  # fmt: skip
    assert source.scope().skip_reason(url) == reason


def test_a_host_with_a_port_means_that_port():
    scope = make(start=["http://a.org:8080/"], hosts=["a.org:8080"]).scope()
    assert scope.skip_reason("http://a.org:8080/") is None
    assert scope.skip_reason("http://a.org/") == "other host"


@pytest.mark.parametrize(
    ("host", "url"),
    [
        ("müller.de", "http://müller.de/"),
        ("MÜLLER.de", "https://xn--mller-kva.de/"),
        ("*.müller.de", "https://www.müller.de/"),
        ("A.org.", "http://a.org/"),
        ("*.a.org.", "http://b.a.org/"),
        ("a.org:443", "https://a.org/"),
        ("a.org:80", "http://a.org:80/"),
        ("[::1]:443", "https://[::1]/"),
    ],
)
def test_any_spelling_of_a_host_means_it(host, url):
    source = make(start=[url], hosts=[host])
    assert source.scope().skip_reason(source.start[0]) is None


def test_how_often_a_url_may_repeat_itself_can_be_set():
    assert make().scope().skip_reason("http://a.org/b/b/b/") == "repeating path"
    scope = make(limits={"repeats": 3}).scope()
    assert [scope.skip_reason(f"http://a.org/b/b/b/{rest}") for rest in ("", "b/")] == [None, "repeating path"]


@pytest.mark.parametrize("path", ["2026/01/01/01/a.html", "01/01/01/a.html", "a/1/1/1/b"])
def test_dates_and_numbers_may_repeat(path):
    assert make().scope().skip_reason(f"http://a.org/{path}") is None


def test_families_have_limits():
    families = make(limits={"similar": 3, "variants": 2}).family_limits()
    calendar = [families.count(f"http://a.org/cal/2026/{month}") for month in range(1, 6)]
    assert calendar == [None, None, None, "too many similar URLs", "too many similar URLs"]
    queries = [families.count(f"http://a.org/list?page={page}") for page in "abcd"]
    assert queries == [None, None, "too many query strings", "too many query strings"]
    assert [families.count(f"http://a.org/{word}") for word in ("about", "contact", "people", "news")] == [None] * 4
