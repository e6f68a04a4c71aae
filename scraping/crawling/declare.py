"""A first source file for a site, written after a look at some of its pages: `textmill source new URL`.

The file names what every source must have, suggests what the pages seem to need (which extractor, which paths to leave
out), and says why in comments. It is a beginning that is meant to be read and edited.
"""

from __future__ import annotations

import re
from collections import Counter
from statistics import median
from urllib.parse import urlsplit

import yaml
from selectolax.lexbor import LexborHTMLParser

from scraping.crawling.fetch import MAX_REDIRECTS, Response
from scraping.crawling.preview import PagePreview, Preview, SitePreview
from scraping.crawling.source import Source, source_of_url
from scraping.crawling.urls import host_of, normalize
from scraping.extraction.config import AutoExtractor, Extractor, MainExtractor
from scraping.extraction.extract import decode, extract
from textmill.errors import UserError

__all__ = ["declare"]

_PAGES = 4  # that are looked at

# Elements that sites put a page's own text into, the best sign of it first
_CONTAINERS = ["main", "[role=main]", "article", "#content", "#main-content", "#main", "div.document", "div.body"]
_MIN_CHARACTERS = 200  # in a container; a front page may have nothing but links, and gives nothing to compare
_MIN_AUTO_RATIO = 0.8  # of a container's text; below it, `auto` loses too much

_DECLARATION = """\
# {title}
#
# robots.txt: {robots}; {start} is {allowed} for {agent}{crawl_delay}.
# Sitemaps: {sitemaps}.
# Try it out with `textmill source check {file}`, crawl it with `textmill run CONFIG` where CONFIG names it:
#   scrape: {{sources: [NAME]}}    # NAME of sources/NAME.yaml, or the path of this file
description: {description}
start:
  - {start}
hosts: [{hosts}]               # other hosts' pages are not fetched; *.example.org means all subdomains
{paths}
# Who answers for the crawl: an address or URL, sent with every request. $NAME is taken from the environment.
contact: {contact}
delay: {delay}                       # seconds between requests to a host

# Pages that their owners reserve from training (noai, TDM reservation, Content-Signal: ai-train=no) are left out.
# reservations: report         # keep them, and only report which they are

limits:
  pages: 10000                 # stop after so many pages
  depth: 20                    # links between a start URL and a page
  # variants: 500              # query strings of one path; raise it where /topic.php?id=1, ?id=2, … are the pages
  # bytes: 10000000            # of one page; more: urls, seconds, url_length, path_segments, repeats, similar

{fetch}
# How to read a page. {why}
extractor:
{extractor}
# When to crawl again by itself (cron, with a time zone): a file in the folder sources/ of a project, or one that a file
# of its configs/ names, is scheduled by `textmill deploy`, and by `textmill up` when it starts. And how long a crawl
# counts as fresh for runs that do not ask for a new one.
# schedule: {{cron: "0 3 * * 0", timezone: UTC}}
max_age: 7d
"""

# What to deny -> how links to it look: endless or unwanted pages of many sites
_TRAPS = {
    "/search": r"/search\b", "/calendar/": r"/calendar/", "/login": r"/log-?in\b", "/cart": r"/cart\b",
    "/*?*print=": r"[?&]print=", "/*?*replytocom=": r"[?&]replytocom=", "/*?*share=": r"[?&]share=",
    "/wp-admin/": r"/wp-admin/", "/wp-json/": r"/wp-json/", "/*?*sort=": r"[?&]sort=",
}  # fmt: skip


def declare(url: str, contact: str, file: str, *, private_addresses: bool = False, delay: float = 1.0) -> str:
    """The text of a commented source file for the site at `url`, after a look at some of its pages.

    Args:
        url: where the site begins; `https://` may be left out.
        contact: an e-mail address, a URL, or the `$VARIABLE` that holds one.
        file: the file's name, for its comments.
        private_addresses: also connect to addresses that are not public.
        delay: seconds between requests.

    Raises:
        UserError: `url` is not the URL of a web site, the site cannot be asked, or it only redirects.
    """
    start = normalize(url if "://" in url else f"https://{url}")
    if start is None:
        raise UserError(f"{url!r} is not the URL of a web site: write one such as https://www.example.org/")
    source, site, pages = _look(source_of_url(start, contact, private_addresses=private_addresses, delay=delay))
    start = source.start[0]
    read = [(page, page.response) for page in pages if page.response]
    hosts = list(dict.fromkeys(host_of(page.url) for page, _ in read)) or [host_of(start)]
    links = [link for page in pages for link in [*page.follow, *page.skipped.get("outside the allowed paths", ())]]
    extractor, why = _suggest_extractor([response for _, response in read])
    title = next(filter(None, map(_title, (response for _, response in read))), host_of(start))
    description = " ".join(re.sub(r"[^\w\s.,;()&'-]", " ", title).split())
    text = _DECLARATION.format(
        title=f"{host_of(start)}: {description}", description=_quote(description), start=start,
        hosts=", ".join(map(_quote, hosts)), robots=site.robots, agent=source.user_agent, file=file,
        allowed="allowed" if site.allowed else "NOT ALLOWED",
        crawl_delay=f"; it asks for {site.crawl_delay:g} s between requests" if site.crawl_delay else "",
        sitemaps=_describe_sitemaps(site), paths=_suggest_paths(start, links), contact=contact, delay=f"{site.delay:g}",
        extractor=extractor, why=why, fetch=_suggest_fetch(pages),
    )  # fmt: skip
    if private_addresses:
        text += "private_addresses: true        # also connect to addresses that are not public\n"
    return text


def _title(response: Response) -> str:
    """The title of a page, the site's name included."""
    node = LexborHTMLParser(decode(response.body, response.content_type)).css_first("title")
    return " ".join(node.text().split()) if node else ""


def _look(source: Source) -> tuple[Source, SitePreview, list[PagePreview]]:
    """Look at the start URL, or at where it is redirected to (often another host: with www, or the new name).

    Returns:
        the source that begins there, its site, and some pages.
    """
    for _ in range(MAX_REDIRECTS):
        with Preview(source) as preview:
            site, pages = preview.site(), list(preview.pages(_PAGES))
        first = pages[0]
        is_redirect = first.outcome.startswith("redirected")
        targets = [*first.follow, *first.skipped.get("other host", ())] if is_redirect else []
        if not targets:
            return source, site, pages
        source = source.model_copy(update={"start": targets, "hosts": [host_of(targets[0])]})
    raise UserError(f"{source.start[0]} only leads from redirect to redirect: give the URL that a browser ends up at.")


def _describe_sitemaps(site: SitePreview) -> str:
    if not site.listed:
        return "none found, so pages are found by links alone"
    where = ", ".join(site.sitemaps[:3]) or f"{site.origin}/sitemap.xml"
    return f"{where} ({len(site.listed)} URLs in the first of them); a crawl begins with what they list"


def _suggest_paths(start: str, links: list[str]) -> str:
    """The lines of `allow` and `deny`: the start URL's folder, and the traps among the links."""
    folder = urlsplit(start).path.rpartition("/")[0] + "/"
    lines = ["# Paths as in robots.txt: a prefix, * for anything, $ for the end. Everything is allowed by default."]
    lines.append(f"allow: [{_quote(folder)}]" if folder != "/" else "# allow: [/news/, /*.html$]")
    traps = [pattern for pattern, sign in _TRAPS.items() if any(re.search(sign, link) for link in links)]
    lines.append(f"deny: [{', '.join(map(_quote, traps))}]" if traps else '# deny: [/search, "/*?*print="]')
    return "\n".join(lines)


def _suggest_fetch(pages: list[PagePreview]) -> str:
    """The lines of `fetch`; a browser is suggested if most pages look empty without one."""
    empty = [page.emptiness for page in pages if page.emptiness]
    read = sum(page.response is not None for page in pages)
    if 2 * len(empty) <= read:
        return "# fetch: browser             # for pages that need JavaScript: pip install 'textmill[browser]'\n"
    return (
        f"# {len(empty)} of {read} pages look empty without JavaScript ({empty[0]}): pip install 'textmill[browser]'\n"
        "fetch: browser\n# resource_hosts: []          # other hosts whose scripts and data they may load\n"
    )


def _suggest_extractor(responses: list[Response]) -> tuple[str, str]:
    """The lines of `extractor`, and why this one.

    `main` is suggested if all pages have a container of which `auto` would lose much; else `auto`.
    """
    auto = "  kind: auto                   # finds the page's own text by a model\n"
    having: Counter[str] = Counter()  # how many pages have the container
    ratios: dict[str, list[float]] = {}  # container -> on each page, characters that `auto` finds to those in it
    for response in responses:
        tree = LexborHTMLParser(decode(response.body, response.content_type))
        by_looks = _text_length(response, AutoExtractor())
        for selector in _CONTAINERS:
            if tree.css_first(selector) is None:
                continue
            having[selector] += 1
            length = _text_length(response, MainExtractor(selector=selector))
            if length >= _MIN_CHARACTERS:
                ratios.setdefault(selector, []).append(by_looks / length)
    common = [selector for selector in _CONTAINERS if having[selector] == len(responses) and selector in ratios]
    if not common:
        return auto + "  # kind: main\n  # selector: main\n", "No container is common to the pages looked at."
    selector, ratio = common[0], median(ratios[common[0]])
    main = f"  kind: main\n  selector: {_quote(selector)}\n"
    if ratio < _MIN_AUTO_RATIO:
        why = f"All pages looked at have {selector}; `auto` would find only {ratio:.0%} of its text."
        return main + "  # kind: auto\n", why
    why = f"`auto` finds {ratio:.0%} of what the pages' {selector} holds; `main` takes all of it."
    return auto + "".join(f"  # {line.strip()}\n" for line in main.splitlines()), why


def _text_length(response: Response, extractor: Extractor) -> int:
    """Characters that an extractor finds on a page."""
    documents = extract(response.body, response.url, response.content_type, extractor)
    return sum(len(document.text) for document in documents)


def _quote(text: str) -> str:
    """A text as YAML reads it back, also inside a list; without quotes, numbers and `yes` would not stay texts."""
    is_plain = re.fullmatch(r"[\w/.-](?:[\w /.-]|:(?=\S))*", text)
    if is_plain and yaml.compose(text, yaml.SafeLoader).tag == "tag:yaml.org,2002:str":
        return text
    return f'"{text}"'
