"""What the model knows about a block: whole numbers of 16 bits, so that every machine predicts alike.

- `describe`: the block's own text and tags, the elements around it, how often its like repeats, its neighbors,
  its page;
- `lexical`: what the words of the block, and those in the classes around it, usually mean (`Lexicon`);
- `surroundings`: how a first pass scored the blocks around.

Ratios are in thousandths. Every value comes from whole numbers by sums and one division, which all machines do alike.
"""

from __future__ import annotations

import re
import zlib
from collections import Counter
from functools import lru_cache
from itertools import pairwise
from typing import NamedTuple
from urllib.parse import urlsplit

import numpy as np
from numpy.typing import NDArray
from selectolax.lexbor import LexborHTMLParser

from scraping.extraction.blocks.cut import Block, Page

Integers = NDArray[np.int64]
Features = NDArray[np.int16]

_FAR = 30  # levels: a mark this far above, or none
_LARGEST = 32_000

_WORD = re.compile(r"\w+")
_DIGITS = re.compile(r"\d+")
_NAME_PART = re.compile(r"[a-z]{2,}")

_TAGS = [
    "p", "div", "li", "td", "th", "h1", "h2", "h3", "h4", "pre", "blockquote", "dt", "dd", "a", "span", "button",
    "label", "figcaption", "nav", "header", "footer", "aside", "main", "article", "section", "form", "table", "ul",
    "ol", "figure", "dl", "noscript", "strong", "em", "time", "summary", "details", "dialog",
]  # fmt: skip
_COUNTED_TAGS = (
    "p", "li", "h1", "h2", "h3", "table", "article", "main", "form", "nav", "section", "button", "time", "code", "dl",
    "noscript",
)  # fmt: skip
_KEYWORDS = [re.compile(pattern) for pattern in (
    r"nav|menu|breadcrumb|crumbs|toc\b|table-of-contents", r"foot",
    r"head(?!line|ing)|banner|masthead|topbar|toolbar", r"side|widget|rail\b",
    r"relat|recommend|popular|trending|also|similar|more-|recent|up-?next|suggest", r"comment|repl(?:y|ies)|discuss",
    r"thread|post-?(?:body|content|text)|message|topic|question|answer", r"share|social|follow",
    r"subscribe|newsletter|sign-?up|optin|mailing", r"cookie|consent|gdpr|privacy|onetrust",
    r"modal|popup|overlay|drawer|dropdown|tooltip|offcanvas",
    r"content|entry|story|body|text|prose|markdown|rte|wysiwyg", r"article", r"main", r"title|headline|heading",
    r"byline|author|avatar|user", r"date|time|publish|meta", r"tag|categor|label|badge|topic", r"product|pdp",
    r"price|cart|buy|sku|shipping|stock|qty", r"descri|summary|excerpt|intro|lead",
    r"spec|feature|detail|attribut|benefit", r"review|rating|testimonial", r"card|item|tile|entry",
    r"grid|list|results?\b|row|collection", r"\bad-|ads\b|advert|promo|sponsor|affiliate|banner-ad",
    r"search|filter|sort|facet|login|account", r"hidden|sr-only|visually|screen-reader|offscreen",
    r"caption|credit|figure|image|gallery|slider|carousel|swiper", r"faq|accordion|tab(?:s|-|panel)|collaps",
    r"hero|cta|callout|jumbotron", r"copyright|legal|disclaimer|terms", r"pagin|pager|next|prev",
    r"skip|print|edit|toggle|expand", r"articlebody", r"code|highlight|example|api|doc",
)]  # fmt: skip
_BOILER = re.compile(
    r"cookie|subscribe|sign (?:up|in)|log ?in|share|newsletter|read more|all rights|add to (?:cart|bag|wish)|privacy|©|"
    r"copyright|follow us|learn more|view all|see (?:all|more)|load more|skip to|terms of|related|you (?:may|might)|"
    r"recommended|back to|reply|report|edit|javascript|e-?mail|advertis"
)
_DATE = re.compile(
    r"\b(?:19|20)\d\d\b|\b(?:jan|feb|mar|apr|may|jun|jul|aug|sep|oct|nov|dec)[a-z]*\.? \d|\bago\b|\d:\d\d", re.I
)
_PRICE = re.compile(r"[$€£¥₹]\s?\d|\d\s?[€£¥₹]|\b(?:usd|eur|gbp)\b", re.I)
_ENDS = {
    character: code
    for code, characters in enumerate((",;", ":", "…", '.!?"”’)', "0123456789"), 1)
    for character in characters
}
_ASIAN_ENDS = dict.fromkeys("。！？।॥؟」』", 4)
_TYPES = (
    "article", "product", "website", "profile", "video", "book", "newsarticle", "blogposting", "faqpage",
    "discussionforumposting", "qapage", "collectionpage", "itemlist", "organization", "localbusiness", "event",
    "recipe", "techarticle", "service", "breadcrumblist", "person", "offer", "review", "question", "webpage",
)  # fmt: skip
_URL_WORDS = re.compile(
    r"(product|/p/|/dp/|item|shop)|(blog|news|article|story|\d{4}/\d\d)|(forum|thread|topic|/t/|question|discuss|community|viewtopic)|"
    r"(docs?\b|documentation|api|reference|guide|manual|learn|wiki)|(collection|categor|/c/|browse|department)|"
    r"(service|solution|pricing|about|feature|platform)|(list|directory|search|top|best|rank|index)"
)


# --- the page's head --------------------------------------------------------------------------------------------------


class Head(NamedTuple):
    """What a page says of itself outside its text."""

    title: str
    description: str
    types: tuple[int, ...]  # 1 for each of `_TYPES` that it calls itself
    url: tuple[int, ...]


def read_head(tree: LexborHTMLParser, url: str) -> Head:
    """Title, description and declared types of a page."""
    title = description = ""
    declared = ""
    for node in tree.css("title")[:1]:
        title = node.text()
    for node in tree.css("meta[property='og:title'], meta[property='og:type'], meta[name=description]"):
        given = node.attributes
        content = given.get("content") or ""
        if given.get("property") == "og:type":
            declared += f'"@type":"{content}"'
        elif given.get("property") == "og:title":
            title += f" {content}"
        else:
            description = content
    for node in tree.css("script[type='application/ld+json']")[:8]:
        declared += node.text()[:200_000]
    found = {match.lower() for match in re.findall(r'"@type"\s*:\s*\[?\s*"(\w{1,40})"', declared)}
    parts = urlsplit(url)
    path = f"{parts.path}?{parts.query}".lower()
    kinds = {match.lastindex for match in _URL_WORDS.finditer(f"{parts.netloc}{path}".lower())}
    address = (path.count("/"), len(path), sum(map(str.isdigit, path)), path.count("-"), int(len(parts.path) <= 1))
    return Head(
        title,
        description,
        tuple(int(name in found) for name in _TYPES),
        address + tuple(int(k in kinds) for k in range(1, 8)),
    )


# --- the tree as arrays -----------------------------------------------------------------------------------------------


class Layout:
    """The elements of a page as arrays, and sums over the blocks below each."""

    def __init__(self, page: Page) -> None:
        elements, blocks = page.elements, page.blocks
        self.page = page
        self.parents = np.array(elements.parents, np.int64)
        self.first = np.array(elements.first, np.int64)
        self.end = np.array(elements.end, np.int64)
        self.depths = np.array(elements.depths, np.int64)
        order = np.argsort(self.depths, kind="stable")
        edges = np.searchsorted(self.depths[order], np.arange(1, int(self.depths.max()) + 2))
        self.levels = [order[a:b] for a, b in pairwise(edges)]  # below the top
        self.element = np.array([block.element for block in blocks], np.int64)
        self.container = np.array([block.container for block in blocks], np.int64)
        # The nearest element around that holds more blocks.
        larger = self.parents.copy()
        larger[0] = 0
        same = (self.first[larger] == self.first) & (self.end[larger] == self.end)
        for level in self.levels:
            above = larger[level]
            larger[level] = np.where(same[level], larger[above], above)
        self.larger = larger

    def climb(self, own: Integers, step: int, limit: int = _LARGEST) -> Integers:
        """Hand values down: where an element has none of its own (a negative number), its parent's plus `step`."""
        values = np.where(own < 0, limit, own)
        for level in self.levels:
            values[level] = np.minimum(values[level], values[self.parents[level]] + step)
        return values


def _sums(values: Integers) -> Integers:
    return np.concatenate([np.zeros(1, np.int64), np.cumsum(values)])


def _share(part: int, whole: int) -> int:
    return 1000 * part // max(1, whole)


def _permille(part: Integers, whole: Integers) -> Integers:
    return part * 1000 // np.maximum(whole, 1)


# --- features of the page itself --------------------------------------------------------------------------------------


@lru_cache(200_000)
def _keywords(names: str) -> tuple[bool, ...]:
    return tuple(bool(pattern.search(names)) for pattern in _KEYWORDS)


def _text_columns(blocks: list[Block], head: Head) -> dict[str, Integers]:
    title = set(_WORD.findall(head.title.lower()))
    description = set(_WORD.findall(head.description.lower()))
    seen: Counter[str] = Counter()
    rows = []
    for block in blocks:
        text = block.text
        small = text.lower()
        words = text.split()
        distinct = set(_WORD.findall(small))
        count = max(1, len(words))
        rows.append((
            len(text), len(words), text.count("\n"), block.links, seen[text],
            _share(block.link_chars, len(text)),
            _ENDS.get(text[-1:]) or _ASIAN_ENDS.get(text[-1:], 0),
            _share(sum(map(text.count, ",.、。，")), count),
            _share(sum(word[:1].isupper() for word in words), count),
            _share(sum(map(len, _DIGITS.findall(text))), len(text)),
            _share(len(distinct & title), len(distinct)), _share(len(distinct & title), len(title)),
            _share(len(distinct & description), len(distinct)), _share(len(distinct & description), len(description)),
            len(_BOILER.findall(small)), bool(_DATE.search(text)), bool(_PRICE.search(text)), text.isupper(),
            len(text) // count, block.preformatted, text[:1].islower(), any(sign in text for sign in "|›»•"),
            "?" in text, _share(len(distinct), count), text.count("{") + text.count("}"),
        ))  # fmt: skip
        seen[text] += 1
    names = [
        "chars", "words", "lines", "links", "copies_before", "link_share", "end", "punctuation", "capitals",
        "digits", "title_share", "title_cover", "description_share", "description_cover", "boiler", "date", "price",
        "upper", "word_length", "preformatted", "lower", "separators", "question", "distinct", "braces",
    ]  # fmt: skip
    columns = dict(zip(names, np.array(rows, np.int64).T.copy(), strict=True))
    columns["copies"] = np.array([seen[block.text] for block in blocks], np.int64)
    return columns


def _around(layout: Layout, text: dict[str, Integers]) -> dict[str, Integers]:
    """The elements around a block: distances to tags and to words in their classes, and what they hold."""
    elements = layout.page.elements
    tag_codes = {tag: code for code, tag in enumerate(_TAGS)}
    marks = np.full((len(elements.tags), len(_TAGS) + len(_KEYWORDS) + 1), _FAR, np.int64)
    codes = np.array([tag_codes.get(tag, -1) for tag in elements.tags])
    known = np.flatnonzero(codes >= 0)
    marks[known, codes[known]] = 0
    named = [number for number, names in enumerate(elements.names) if names]
    if named:
        hits = np.array([_keywords(elements.names[number]) for number in named])
        marks[named, len(_TAGS) : -1] = np.where(hits, 0, _FAR)
    marks[np.array(elements.hidden, bool), -1] = 0
    for level in layout.levels:
        marks[level] = np.minimum(marks[level], marks[layout.parents[level]] + 1)
    near = np.minimum(marks[layout.element], _FAR)
    names = [f"to_{tag}" for tag in _TAGS] + [f"near_{number}" for number in range(len(_KEYWORDS))] + ["to_hidden"]
    columns = dict(zip(names, near.T, strict=True))
    columns["depth"] = layout.depths[layout.element]

    chars, links = _sums(text["chars"]), _sums(text["chars"] * text["link_share"] // 1000)
    is_prose = (text["chars"] >= 60) & (text["link_share"] < 300)
    prose, is_heading = (
        _sums(text["chars"] * is_prose),
        np.minimum.reduce([near[:, _TAGS.index(h)] for h in ("h1", "h2", "h3", "h4")]) < 3,
    )
    headings = _sums(is_heading.astype(np.int64))
    total = chars[-1]
    first, end = layout.first, layout.end
    around = layout.element
    single = end[around] - first[around] <= 1
    around = np.where(single, layout.larger[around], around)
    for number in range(6):
        a, b = first[around], end[around]
        size, count = chars[b] - chars[a], b - a
        columns |= {
            f"around{number}_share": _permille(size, np.full_like(size, total)),
            f"around{number}_blocks": count,
            f"around{number}_links": _permille(links[b] - links[a], size),
            f"around{number}_prose": _permille(prose[b] - prose[a], size),
            f"around{number}_mean": size // np.maximum(count, 1),
            f"around{number}_headings": headings[b] - headings[a],
        }
        around = layout.larger[around]
    # The innermost element that holds a given share of the page's prose.
    weight = prose if prose[-1] else chars
    inside, size = weight[end] - weight[first], end - first
    index = np.arange(len(text["chars"]))
    for percent in (90, 70, 50, 30):
        enough = np.flatnonzero(100 * inside >= percent * weight[-1])
        core = enough[np.lexsort((-layout.depths[enough], size[enough]))[0]]
        a, b = first[core], end[core]
        columns |= {
            f"core{percent}": ((index >= a) & (index < b)).astype(np.int64),
            f"core{percent}_from": np.clip(index - a, -300, 300),
            f"core{percent}_to": np.clip(b - 1 - index, -300, 300),
            f"core{percent}_share": np.full(len(index), 1000 * (chars[b] - chars[a]) // max(1, total)),
            f"core{percent}_depth": np.full(len(index), layout.depths[core]),
        }
    return columns


def _repetition(layout: Layout, text: dict[str, Integers]) -> tuple[dict[str, Integers], Integers, Integers]:
    """How often the like of a block repeats; also the group of its make, and the repeated element around."""
    elements = layout.page.elements
    signatures: dict[tuple[object, ...], int] = {}
    makes = np.empty(len(elements.tags), np.int64)  # number of the make: own tag and classes
    like = np.empty(len(elements.tags), np.int64)  # number of (parent, make)
    for number, (tag, names, parent) in enumerate(zip(elements.tags, elements.names, elements.parents, strict=True)):
        makes[number] = signatures.setdefault((tag, _DIGITS.sub("", names)), len(signatures))
        like[number] = signatures.setdefault((parent, int(makes[number])), len(signatures))
    paths = makes.copy()  # number of the make of an element and of the two around it
    parents = np.maximum(layout.parents, 0)
    for number, triple in enumerate(
        zip(makes.tolist(), makes[parents].tolist(), makes[parents[parents]].tolist(), strict=True)
    ):
        paths[number] = signatures.setdefault(("path", *triple), len(signatures))
    siblings = np.bincount(like, minlength=len(signatures))[like]
    holds = layout.end > layout.first
    repeated = np.where((siblings >= 3) & holds, np.arange(len(siblings)), -1)
    distance = np.where(repeated >= 0, 0, _FAR)
    for level in layout.levels:
        above = layout.parents[level]
        distance[level] = np.where(repeated[level] >= 0, 0, np.minimum(distance[above] + 1, _FAR))
        repeated[level] = np.where(repeated[level] >= 0, repeated[level], repeated[above])
    chars = _sums(text["chars"])
    links = _sums(text["chars"] * text["link_share"] // 1000)
    columns: dict[str, Integers] = {}
    inner = repeated[layout.element]
    item = inner
    for name in ("item", "outer_item"):
        known, at = item >= 0, np.maximum(item, 0)
        a, b = layout.first[at], layout.end[at]
        columns |= {
            f"{name}_siblings": np.where(known, siblings[at], 0),
            f"{name}_distance": np.where(
                known,
                distance[layout.element] if name == "item" else layout.depths[layout.element] - layout.depths[at],
                -1,
            ),
            f"{name}_blocks": np.where(known, b - a, 0),
            f"{name}_chars": np.where(known, chars[b] - chars[a], 0),
            f"{name}_links": np.where(known, _permille(links[b] - links[a], chars[b] - chars[a]), 0),
            f"{name}_place": np.where(known, np.arange(len(item)) - a, 0),
        }
        above = np.maximum(layout.parents[at], 0)
        item = np.where(known & (layout.parents[at] >= 0), repeated[above], -1)
    _, make = np.unique(paths[layout.element], return_inverse=True)
    columns |= {f"make_{name}": value for name, value in _means(make, text, ("chars", "link_share", "end")).items()}
    columns["make_place"] = _place_in_group(make)
    return columns, make, inner


def _means(group: Integers, text: dict[str, Integers], names: tuple[str, ...]) -> dict[str, Integers]:
    counts = np.bincount(group)
    found = {"count": counts[group]}
    for name in names:
        sums = np.zeros(len(counts), np.int64)
        np.add.at(sums, group, text[name])
        found[name] = (sums // counts)[group]
    return found


def _place_in_group(group: Integers) -> Integers:
    order = np.argsort(group, kind="stable")
    starts = np.searchsorted(group[order], group[order])
    place = np.empty_like(group)
    place[order] = np.arange(len(group)) - starts
    return place


def _shift(values: Integers, by: int) -> Integers:
    shifted = np.full_like(values, -1)
    if by > 0:
        shifted[by:] = values[:-by] if by < len(values) else values[:0]
    elif -by < len(values):
        shifted[:by] = values[-by:]
    return shifted


def _window(values: Integers, weights: Integers, reach: int) -> Integers:
    """Weighted means over the blocks within `reach`."""
    index = np.arange(len(values))
    a, b = np.maximum(index - reach, 0), np.minimum(index + reach + 1, len(values))
    total, weight = _sums(values * weights), _sums(weights)
    return (total[b] - total[a]) // np.maximum(weight[b] - weight[a], 1)


def _neighbors(text: dict[str, Integers], around: dict[str, Integers]) -> dict[str, Integers]:
    columns: dict[str, Integers] = {}
    count = len(text["chars"])
    index = np.arange(count)
    level = np.full(count, 9)
    for number in (4, 3, 2, 1):
        level = np.where(around[f"to_h{number}"] < 4, number, level)
    for by in (1, 2, 3, -1, -2, -3):
        for name in ("chars", "link_share", "end", "boiler"):
            columns[f"{name}{by:+d}"] = _shift(text[name], by)
        columns[f"level{by:+d}"] = _shift(level, by)
        columns[f"depth{by:+d}"] = _shift(around["depth"], by)
    ones = np.ones(count, np.int64)
    for reach in (4, 12):
        columns[f"chars_within{reach}"] = _window(np.minimum(text["chars"], 2000), ones, reach)
        columns[f"links_within{reach}"] = _window(text["link_share"], text["chars"], reach)
        columns[f"ends_within{reach}"] = _window((text["end"] == 4) * 1000, ones, reach)
    # Headings above: how far, of what level, and the first one of the page.
    is_heading = level < 9
    last = np.maximum.accumulate(np.where(is_heading, index, -1))
    columns["since_heading"] = np.where(last >= 0, index - last, -1)
    columns["heading_level"] = np.where(last >= 0, level[np.maximum(last, 0)], 10)
    columns["heading_boiler"] = np.where(last >= 0, text["boiler"][np.maximum(last, 0)], 0)
    columns["level"] = level
    tops = np.flatnonzero(level == 1)
    columns["from_h1"] = np.clip(index - tops[0], -300, 300) if len(tops) else np.full(count, -301)
    following = np.full(count, count)
    places = np.flatnonzero(is_heading)
    at = np.searchsorted(places, index, side="right")
    following[at < len(places)] = places[at[at < len(places)]]
    columns["to_heading"] = np.minimum(following - index, 300)
    chars = _sums(text["chars"])
    columns["section_chars"] = chars[following] - chars[np.maximum(last, 0)]
    columns["before"] = 1000 * chars[:-1] // max(1, chars[-1])
    columns["place"] = 1000 * index // count
    columns["index"], columns["from_end"] = np.minimum(index, 2000), np.minimum(count - index, 2000)
    is_prose = (text["chars"] >= 80) & (text["link_share"] < 250)
    prose = _sums(is_prose.astype(np.int64))
    columns["prose_before"], columns["prose_after"] = prose[:-1], prose[-1] - prose[1:]
    last_prose = np.maximum.accumulate(np.where(is_prose, index, -1))
    columns["since_prose"] = np.where(last_prose >= 0, np.minimum(index - last_prose, 300), 301)
    places = np.append(np.flatnonzero(is_prose), 10**6)
    columns["to_prose"] = np.minimum(places[np.searchsorted(places, index)] - index, 301)
    return columns


def _page_columns(
    layout: Layout, text: dict[str, Integers], around: dict[str, Integers], head: Head
) -> dict[str, Integers]:
    tags = Counter(layout.page.elements.tags)
    chars, links = text["chars"], text["chars"] * text["link_share"] // 1000
    total, count = int(chars.sum()), len(chars)
    is_prose = (chars >= 80) & (text["link_share"] < 250)
    values = {
        "page_blocks": count, "page_chars": total // 10, "page_mean": total // count,
        "page_links": _share(int(links.sum()), total), "page_prose": _share(int(chars[is_prose].sum()), total),
        "page_prose_blocks": int(is_prose.sum()), "page_prices": int(text["price"].sum()),
        "page_dates": int(text["date"].sum()), "page_pre": int(text["preformatted"].sum()),
        "page_longest": int(chars.max()), "page_questions": int(text["question"].sum()),
        "page_copies": _share(int((text["copies"] > 1).sum()), count),
    }  # fmt: skip
    for tag in _COUNTED_TAGS:
        values[f"page_{tag}"] = tags[tag]
    for name, distances in (("main", around["to_main"]), ("article", around["to_article"])):
        values[f"page_in_{name}"] = 1000 * int(chars[distances < _FAR].sum()) // max(1, total)
    values |= {f"type_{name}": flag for name, flag in zip(_TYPES, head.types, strict=True)}
    values |= {f"url_{number}": value for number, value in enumerate(head.url)}
    return {name: np.full(count, value, np.int64) for name, value in values.items()}


class Description(NamedTuple):
    """The features of a page's blocks before any prediction, and what the later features need."""

    features: Features  # [blocks, features]
    names: list[str]
    layout: Layout
    chars: Integers
    make: Integers  # group of the blocks in elements of the same make
    item: Integers  # repeated element around each block, or -1


def describe(page: Page, head: Head) -> Description:
    """The features of the blocks (at least one) of a page."""
    layout = Layout(page)
    text = _text_columns(page.blocks, head)
    around = _around(layout, text)
    repetition, make, item = _repetition(layout, text)
    columns = text | around | repetition | _neighbors(text, around) | _page_columns(layout, text, around, head)
    return Description(_as_features(list(columns.values())), list(columns), layout, text["chars"], make, item)


def _as_features(columns: list[Integers]) -> Features:
    return np.clip(np.column_stack(columns), -_LARGEST, _LARGEST).astype(np.int16)


# --- the meaning of words ---------------------------------------------------------------------------------------------

BUCKETS = 1 << 14


class Lexicon(NamedTuple):
    """How much a word speaks for a block: 16 times the logarithm of odds, by hash of the word."""

    text: NDArray[np.int8]  # [BUCKETS]
    names: NDArray[np.int8]  # [BUCKETS]


class Words(NamedTuple):
    """The words of a page as buckets of the lexicon, ragged: the words of row i are at starts[i]:starts[i + 1]."""

    text: Integers
    text_starts: Integers  # of blocks
    names: Integers
    names_starts: Integers  # of elements


def _bucket(word: str) -> int:
    return zlib.crc32(word.encode("utf-8", "replace")) % BUCKETS


@lru_cache(200_000)
def _name_buckets(tag: str, names: str) -> tuple[int, ...]:
    parts = dict.fromkeys(_NAME_PART.findall(names)[:12])
    return (_bucket(f"<{tag}>"), *(_bucket(part) for part in parts), *(_bucket(f"{tag}.{part}") for part in parts))


def _text_buckets(text: str) -> list[int]:
    words = _DIGITS.sub("0", text[:400].lower()).split()
    found = dict.fromkeys(words[:24])
    if len(words) <= 6:
        found[f"={' '.join(words)}"] = None
    found |= dict.fromkeys(f"{one} {two}" for one, two in pairwise(words[:7]))
    found[f"^{words[0]}" if words else ""] = None
    return [_bucket(word) for word in found]


def words_of_page(page: Page) -> Words:
    """The buckets of a page's words."""
    text = [_text_buckets(block.text) for block in page.blocks]
    names = [_name_buckets(*pair) for pair in zip(page.elements.tags, page.elements.names, strict=True)]
    return Words(
        np.array([bucket for row in text for bucket in row], np.int64), _sums(np.array(list(map(len, text)))),
        np.array([bucket for row in names for bucket in row], np.int64), _sums(np.array(list(map(len, names)))),
    )  # fmt: skip


def lexical(words: Words, description: Description, lexicon: Lexicon) -> Features:
    """Scores of a block's own words, of its neighbors' and its heading's, and of the names of the elements around."""
    layout = description.layout
    scores = lexicon.text[words.text].astype(np.int64)
    total = _sums(scores)
    text = total[words.text_starts[1:]] - total[words.text_starts[:-1]]
    counts = np.maximum(np.diff(words.text_starts), 1)
    mean = text * 8 // counts
    lowest = np.minimum.reduceat(scores, words.text_starts[:-1])
    highest = np.maximum.reduceat(scores, words.text_starts[:-1])

    named = _sums(lexicon.names[words.names].astype(np.int64))
    own = (
        (named[words.names_starts[1:]] - named[words.names_starts[:-1]])
        * 8
        // np.maximum(np.diff(words.names_starts), 1)
    )
    path, low, high = own.copy(), own.copy(), own.copy()
    for level in layout.levels:
        above = layout.parents[level]
        path[level] += path[above]
        low[level] = np.minimum(low[level], low[above])
        high[level] = np.maximum(high[level], high[above])
    at = layout.element
    up = np.maximum(layout.parents, 0)
    columns = [
        text, mean, lowest, highest, path[at], path[at] // (layout.depths[at] + 1), low[at], high[at], own[at],
        own[up[at]], own[up[up[at]]], own[up[up[up[at]]]], _window(mean, description.chars, 3),
        _window(path[at], description.chars, 6),
        *(_shift(mean, by) for by in (1, 2, -1, -2)), *(_shift(path[at], by) for by in (1, -1)),
    ]  # fmt: skip
    columns.append(_means(description.make, {"mean": mean}, ("mean",))["mean"])
    since = description.features[:, description.names.index("since_heading")].astype(np.int64)
    heading = np.arange(len(mean)) - np.maximum(since, 0)
    columns.append(np.where(since >= 0, mean[heading], 0))
    columns.append(np.where(since >= 0, text[heading], 0))
    return _as_features(columns)


def surroundings(scores: Integers, description: Description) -> Features:
    """How a first pass scored (0 to 1000) the blocks around each block."""
    layout, chars = description.layout, description.chars + 1
    ones = np.ones_like(scores)
    columns = [scores]
    columns += [_shift(scores, by) for by in (1, 2, 3, 4, -1, -2, -3, -4)]
    columns += [_window(scores, chars, reach) for reach in (2, 5, 12, 40)]
    columns += [_window(scores, ones, reach) for reach in (2, 5, 12)]
    total, weight = _sums(scores * chars), _sums(chars)
    around = layout.larger[layout.element]
    for _ in range(5):
        a, b = layout.first[around], layout.end[around]
        columns.append((total[b] - total[a]) // np.maximum(weight[b] - weight[a], 1))
        around = layout.larger[around]
    item = np.maximum(description.item, 0)
    a, b = layout.first[item], layout.end[item]
    columns.append((total[b] - total[a]) // np.maximum(weight[b] - weight[a], 1))
    above = np.maximum(layout.parents[item], 0)
    a, b = layout.first[above], layout.end[above]
    columns.append((total[b] - total[a]) // np.maximum(weight[b] - weight[a], 1))
    columns.append(_means(description.make, {"scores": scores}, ("scores",))["scores"])
    weighted, weights = (
        np.zeros(int(description.make.max()) + 1, np.int64),
        np.zeros(int(description.make.max()) + 1, np.int64),
    )
    np.add.at(weighted, description.make, scores * chars)
    np.add.at(weights, description.make, chars)
    columns.append((weighted // weights)[description.make])
    columns.append(np.full_like(scores, total[-1] // weight[-1]))
    columns.append(np.full_like(scores, 1000 * np.count_nonzero(scores >= 400) // len(scores)))
    columns.append(np.full_like(scores, scores.max()))
    index = np.arange(len(scores))
    good = scores >= 500
    before = np.maximum.accumulate(np.where(good, index, -1))
    columns.append(np.where(before >= 0, np.minimum(index - before, 300), 301))
    places = np.append(np.flatnonzero(good), 10**6)
    columns.append(np.minimum(places[np.searchsorted(places, index)] - index, 301))
    columns.append(1000 * total[:-1] // max(1, int(total[-1])))
    heading = description.features[:, description.names.index("since_heading")].astype(np.int64)
    columns.append(np.where(heading >= 0, scores[index - np.maximum(heading, 0)], -1))
    return _as_features(columns)
