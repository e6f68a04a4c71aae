"""The step that learns every site's template (`boilerplate` says how) and keeps it for the children that remove it.

A collection counts as one site, since it may be the text of one. What its documents begin with is template only if most
of them are prose, as pages with menus are: files of code share licenses and imports, which belong to them.
"""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Iterator
from itertools import groupby
from operator import itemgetter
from pathlib import Path
from typing import Any, NamedTuple
from urllib.parse import urlsplit

import numpy as np
import pyarrow.compute as pc

from scraping.corpus.boilerplate import NO_TEMPLATE, Sampler, Template, TemplateLearner, cropped, template_of
from scraping.corpus.config import TemplateConfig
from scraping.corpus.filters import Document
from scraping.corpus.kernels.plain import normalized
from scraping.shards import read_at, read_batches
from textmill.files import atomic_path, atomic_write
from textmill.progress import Progress

_PAGES_AT_ONCE = 10_000  # of how many pages the edges are in memory
_REPORTED_SITES = 100
_REPORTED_PARTS, _REPORTED_CHARACTERS = 5, 300  # of each site


class DocumentShard(NamedTuple):
    """A shard of documents on its way into the corpus."""

    path: Path
    crawled: bool  # extracted from pages, and in normal form; otherwise ingested

    def site(self, source: str, url: str | None) -> str:
        """The key of a template: the URL's host for a crawled page; the source for an ingested document, whose host
        rarely repeats."""
        return (urlsplit(url or "").hostname or source) if self.crawled else source


class _Place(NamedTuple):
    """Where a document lies."""

    shard: int
    row: int


def learn_templates(shards: list[DocumentShard], config: TemplateConfig, path: Path, progress: Progress) -> Path:
    """Write the template of each site to `path`, an .npz file with one array a site; none if templates are to stay.

    What the templates take out of the pages that they were learned from is written beside it; `template_report` reads
    it.
    """
    if path.exists():
        return path
    progress(0, None, unit="sites", phase="learning templates")
    samplers = _sample(shards) if config.enabled else {}
    templates: dict[str, Template] = {}
    report: list[dict[str, Any]] = []
    for sites in _batches(samplers):
        for site, texts in _read(shards, {site: samplers[site].places() for site in sites}).items():
            if _is_collection(shards, samplers[site]) and not _is_prose(texts):
                continue
            learner = TemplateLearner()
            for text in texts:
                learner.add(text)
            template = learner.template(config.share, config.min_pages)
            if len(template):
                templates[site] = template
                report.append({"site": site, **_report(texts, template)})
            progress(len(templates), None, unit="sites", phase="learning templates")
    report.sort(key=lambda row: (-row["removed_share"] * row["changed"], row["site"]))
    atomic_write(path.with_suffix(".json"), json.dumps(report[:_REPORTED_SITES]))
    with atomic_path(path) as unfinished, unfinished.open("wb") as file:
        np.savez(file, **{_key(site): array for site, array in templates.items()})  # type: ignore[arg-type]
    return path


def template_report(path: Path) -> list[dict[str, Any]]:
    """What the templates at `path` take out, by site, those first that take most: `pages` that were looked at, how many
    of them are `changed`, the `removed_share` of their characters, and the most frequent `parts` with their `pages`."""
    report: list[dict[str, Any]] = json.loads(path.with_suffix(".json").read_text())
    return report


class SiteTemplates:
    """What `learn_templates` wrote, each site's read when it is first asked for."""

    def __init__(self, path: Path) -> None:
        self._arrays = np.load(path)
        self._templates: dict[str, Template] = {}

    def of(self, site: str) -> Template:
        """The template of a site; empty if it has none."""
        if site not in self._templates:
            self._templates[site] = self._arrays.get(_key(site), NO_TEMPLATE)
        return self._templates[site]


def _sample(shards: list[DocumentShard]) -> dict[str, Sampler]:
    """The sampled documents of each site."""
    samplers: dict[str, Sampler] = {}
    for number, shard in enumerate(shards):
        first = 0
        for batch in read_batches([shard.path], ["id", "source", "url"]):
            rows = np.arange(batch.num_rows)
            sources = batch["source"].unique().to_pylist() if not shard.crawled else []
            if len(sources) == 1 and (limit := samplers.setdefault(sources[0], Sampler()).limit):
                rows = np.flatnonzero(pc.less(batch["id"], limit))  # of a large collection nearly none
            for row, document in zip(rows.tolist(), batch.take(rows).to_pylist(), strict=True):
                site = shard.site(document["source"], document["url"])
                samplers.setdefault(site, Sampler()).add(document["id"], _Place(number, first + row))
            first += batch.num_rows
    return samplers


def _batches(samplers: dict[str, Sampler]) -> Iterator[list[str]]:
    """Sites that are looked at together, neighbors by where they lie."""
    sizes = {site: len(sampler.places()) for site, sampler in samplers.items()}
    batch: list[str] = []
    pages = 0
    for site in sorted(samplers, key=lambda site: (min(samplers[site].places()), site)):
        if batch and pages + sizes[site] > _PAGES_AT_ONCE:
            yield batch
            batch, pages = [], 0
        batch.append(site)
        pages += sizes[site]
    if batch:
        yield batch


def _read(shards: list[DocumentShard], places: dict[str, list[_Place]]) -> dict[str, list[str]]:
    """The edges of each site's documents."""
    texts: dict[str, list[str]] = {site: [] for site in places}
    chosen = sorted((*place, site) for site, found in places.items() for place in found)
    for number, found in groupby(chosen, key=itemgetter(0)):
        _, rows, sites = zip(*found, strict=True)
        for site, document in zip(sites, read_at(shards[number].path, rows, ["text"]), strict=True):
            texts[site].append(cropped(normalized(document["text"])))
    return texts


def _is_collection(shards: list[DocumentShard], sampler: Sampler) -> bool:
    """Whether a site's documents were ingested."""
    return not any(shards[place.shard].crawled for place in sampler.places())


def _is_prose(texts: list[str]) -> bool:
    """Whether most texts are words of letters."""
    return 2 * sum(Document(text).is_prose for text in texts) > len(texts)


def _report(texts: list[str], template: Template) -> dict[str, Any]:
    parts: Counter[str] = Counter()
    changed = removed = 0
    for text in texts:
        found = template_of(text, template)
        parts.update(part[:_REPORTED_CHARACTERS] for part in found)
        changed += bool(found)
        removed += sum(map(len, found))
    most = sorted(parts.items(), key=lambda item: (-item[1], item[0]))[:_REPORTED_PARTS]
    return {
        "pages": len(texts),
        "changed": changed,
        "removed_share": round(removed / max(1, sum(map(len, texts))), 4),
        "parts": [{"text": text, "pages": pages} for text, pages in most],
    }


def _key(site: str) -> str:
    """What a site's array is called: `np.savez` has parameters that sites may be named like, such as `file`."""
    return f"site:{site}"
