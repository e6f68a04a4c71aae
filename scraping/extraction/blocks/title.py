"""The title of a page, without the name of its site."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from urllib.parse import urlsplit

from selectolax.lexbor import LexborHTMLParser, LexborNode

_SEPARATOR = re.compile(r"\s+[|\-–—·•»«›‹:/~⋆]+\s+|\s*[|»›·•—]\s*|:\s+|\s+::\s+")
_SITE_NAMES = "meta[property='og:site_name'], meta[name='application-name'], meta[name='apple-mobile-web-app-title']"
_NOT_LETTERS = re.compile(r"[\W_]+")
_SECOND_LEVELS = frozenset(["co", "com", "org", "net", "gov", "edu", "ac", "www", "m"])


def title_of(tree: LexborHTMLParser, url: str) -> str:
    """The page's title in one line: `<title>` without the site's name before or after it, else the first heading.

    A part of the title is the site's name if the page says so (`og:site_name`), if it is the host's, or if what is left
    is the page's main heading.

    Example:
        >>> title_of(LexborHTMLParser("<title>Knots | Harbour News</title><h1>Knots</h1>"), "http://a.example/knots")
        'Knots'
    """
    headings = list(filter(None, (_line(node.text()) for node in tree.css("h1"))))
    title = next(filter(None, (_line(node.text()) for node in tree.css("title") if not _in_svg(node))), "")
    if not title:
        return headings[0] if headings else ""
    places = [(match.start(), match.end()) for match in _SEPARATOR.finditer(title)]
    if not places:
        return title
    wanted = {_squeezed(heading) for heading in headings}
    for start, end in [*places, *places[::-1]]:  # the shortest first part, then the shortest last part
        for part in (title[:start], title[end:]):
            if part.strip() and _squeezed(part) in wanted:
                return part.strip()
    names = {_squeezed(name) for name in _site_names(tree, url)} - {""}
    for (start, end), kept in ((places[-1], slice(None, places[-1][0])), (places[0], slice(places[0][1], None))):
        part = title[end:] if kept.start is None else title[:start]
        if _squeezed(part) in names and title[kept].strip():
            return title[kept].strip()
    return title


def _in_svg(node: LexborNode) -> bool:
    return node.parent is not None and node.parent.tag == "svg"


def _line(text: str) -> str:
    return " ".join(text.split())


def _squeezed(text: str) -> str:
    return _NOT_LETTERS.sub("", text).casefold()


def _site_names(tree: LexborHTMLParser, url: str) -> Iterator[str]:
    """What the site is called: by the page, and by its host."""
    for node in tree.css(_SITE_NAMES):
        yield node.attributes.get("content") or ""
    for node in tree.css("script[type='application/ld+json']")[:8]:
        yield from _named_sites(node.text())
    labels = (urlsplit(url).hostname or "").split(".")
    if len(labels) > 1 and not labels[-1].isdigit():
        own = [label for label in labels[:-1] if label not in _SECOND_LEVELS] or labels[:1]
        yield from (".".join(labels), ".".join(labels).removeprefix("www."), own[-1], "".join(own))


def _named_sites(text: str) -> Iterator[str]:
    """Names of the web sites and publishers in a page's JSON-LD."""
    try:
        waiting = [json.loads(text)]
    except (ValueError, RecursionError):
        return
    while waiting:
        value = waiting.pop()
        if isinstance(value, list):
            waiting += value
        elif isinstance(value, dict):
            kinds = value.get("@type")
            if {"WebSite", "Organization", "NewsMediaOrganization"} & set(
                kinds if isinstance(kinds, list) else [str(kinds)]
            ):
                yield str(value.get("name") or "")
            waiting += [inner for inner in value.values() if isinstance(inner, dict | list)]
