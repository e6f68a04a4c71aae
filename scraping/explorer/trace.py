"""Why a URL is in the corpus, or is not: what the crawl, the filters and the search for duplicates did with it."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

from scraping.crawling.scope import Scope
from scraping.crawling.urls import host_of, normalize
from scraping.explorer.corpus import DROPPED, Corpus, Document, Dropped, parquet
from scraping.explorer.left_out import CRAWLED, CrawledUrl
from scraping.explorer.passage import REDIRECTED, STORED

_REDIRECTS = 10
_ID = re.compile("[0-9a-f]{32}")


@dataclass(frozen=True)
class Trace:
    """What became of a URL.

    Attributes:
        url: as it was asked for, or the id of a document.
        conclusion: the answer in one line.
        crawled: what the crawls know of it, and of what it was redirected to.
        documents: of it in the corpus.
        dropped: what was dropped of it.
        kept_instead: the documents that those are duplicates of.
    """

    url: str
    conclusion: str
    crawled: list[CrawledUrl] = field(default_factory=list)
    documents: list[Document] = field(default_factory=list)
    dropped: list[Dropped] = field(default_factory=list)
    kept_instead: list[Document] = field(default_factory=list)


def trace(
    corpus: Corpus,
    url: str,
    crawls: Mapping[str, Path],
    scopes: Mapping[str, Scope],
    characters: int | None = None,
) -> Trace:
    """Find out what became of a URL.

    Args:
        corpus: where it is sought.
        url: in any spelling: if it is not known, the same page with another scheme, `www.` or slash is. Or an id:
            ingested documents may have no URL.
        crawls: `urls.parquet` of each source's snapshot.
        scopes: which URLs belong to each source.
        characters: how many of the texts to show; all if left out.
    """
    if _ID.fullmatch(url):
        found = _of(corpus, Trace(url, ""), "id = $wanted", {"wanted": url}, characters)
        return found if found.conclusion else replace(found, conclusion="unknown: no document of that id was read")
    for spellings in _spellings(url):
        crawled = _crawled(corpus, crawls, spellings)
        urls = list(dict.fromkeys([*spellings, *(row.url for row in crawled)]))
        same_page = "list_contains($urls, url) OR list_contains($urls, split_part(url, '#', 1))"
        found = _of(corpus, Trace(url, "", crawled), same_page, {"urls": urls}, characters)
        if found.conclusion:
            return found
    return Trace(url, _unknown(url, scopes, bool(crawls)))


def _spellings(url: str) -> Iterator[list[str]]:
    """The URL itself, then its likely variants."""
    exact = [url.strip()]
    address = url.strip() if "://" in url else f"https://{url.strip()}"
    if normal := normalize(address):
        exact.append(normal)
    yield list(dict.fromkeys(exact))
    if normal:
        parts = urlsplit(normal)
        host, query = parts.netloc.removeprefix("www."), f"?{parts.query}" if parts.query else ""
        path = parts.path.rstrip("/")
        yield [
            f"{scheme}://{prefix}{host}{path}{slash}{query}"
            for scheme in ("https", "http")
            for prefix in ("", "www.")
            for slash in ("", "/")
        ]


def _crawled(corpus: Corpus, crawls: Mapping[str, Path], urls: Sequence[str]) -> list[CrawledUrl]:
    crawled: list[CrawledUrl] = []
    for source, path in crawls.items():
        known: dict[str, CrawledUrl] = {}
        wanted = list(urls)
        for _ in range(_REDIRECTS):
            sql = f"SELECT {CRAWLED} FROM {parquet([path])}"
            rows = corpus.rows(f"{sql} WHERE list_contains(?, url)", [wanted])
            new = [CrawledUrl(source, **row) for row in rows]
            known.update((row.url, row) for row in new)
            wanted = [row.reason for row in new if row.outcome == REDIRECTED and row.reason and row.reason not in known]
            if not wanted:
                break
        crawled += known.values()
    return crawled


def _of(corpus: Corpus, asked: Trace, where: str, parameters: dict[str, Any], characters: int | None) -> Trace:
    """With the documents that a condition selects, and the conclusion."""
    ids = corpus.rows(f"SELECT id FROM documents WHERE {where} ORDER BY id", parameters)
    rows = corpus.rows(f"SELECT {DROPPED}, kept FROM dropped WHERE {where} ORDER BY id", parameters)
    near = {
        row["id"]: row["kept"]  # of what was kept for a time, and then dropped as the near-duplicate of another
        for row in corpus.rows(
            "SELECT id, kept FROM dropped WHERE reason = 'near-duplicate' AND list_contains(?, id)",
            [[row["kept"] for row in rows]],
        )
    }
    instead = [str(near.get(row["kept"], row["kept"])) for row in rows if row["kept"]]
    found = replace(
        asked,
        documents=corpus.documents([row["id"] for row in ids], characters),
        dropped=[Dropped(**{name: value for name, value in row.items() if name != "kept"}) for row in rows],
        kept_instead=corpus.documents(instead, characters),
    )
    return replace(found, conclusion=_conclusion(found))


def _conclusion(found: Trace) -> str:
    documents, dropped, instead, crawled = found.documents, found.dropped, found.kept_instead, found.crawled
    if documents:
        splits = " and ".join(sorted({document.split for document in documents}))
        more = f" as {len(documents)} documents" if len(documents) > 1 else ""
        return f"in the corpus ({splits}){more}"
    if dropped:
        why = f"dropped by prepare: {dropped[0].reason}"
        detail = f" ({dropped[0].detail})" if dropped[0].detail else ""
        place = f"; kept instead: {instead[0].url or instead[0].id}" if instead else ""
        return why + detail + place
    if crawled:
        last = crawled[-1]
        if last.outcome == STORED:
            return "stored by the crawl, but unknown to this corpus: it was made of an earlier snapshot"
        return f"never a page of the corpus; {last.told}"
    return ""


def _unknown(url: str, scopes: Mapping[str, Scope], has_records: bool) -> str:
    """Why nothing is known of a URL."""
    normal = normalize(url if "://" in url else f"https://{url}")
    if normal is None:
        return "unknown: it is not the address of a web page"
    reasons = {name: scope.skip_reason(normal) for name, scope in scopes.items() if scope.has_host(host_of(normal))}
    for name, reason in reasons.items():
        if reason is None:
            return f"unknown: it belongs to {name}, but no page and no sitemap that its crawl read names it"
    if reasons:
        return "unknown, and no source takes it: " + ", ".join(f"{name}: {reason}" for name, reason in reasons.items())
    if scopes:
        return f"unknown: {host_of(normal)} is not a host of {', '.join(scopes)}"
    return "unknown to this corpus" + ("" if has_records else "; the records of its crawls are not in the store")
