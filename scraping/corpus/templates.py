"""The step that learns every site's template (`boilerplate` says how) and keeps it for the children that remove it."""

from __future__ import annotations

from itertools import groupby
from operator import itemgetter
from pathlib import Path
from typing import NamedTuple
from urllib.parse import urlsplit

import numpy as np

from scraping.corpus.boilerplate import Sampler, Template, TemplateLearner
from scraping.corpus.config import TemplateConfig
from scraping.corpus.kernels.plain import normalized
from scraping.shards import read_at, read_rows
from textmill.files import atomic_path
from textmill.progress import Progress


class DocumentShard(NamedTuple):
    """A shard of documents on its way into the corpus."""

    path: Path
    crawled: bool  # extracted from pages, and in normal form; otherwise ingested

    def site(self, source: str, url: str | None) -> str:
        """The key of a template: the URL's host for a crawled page; the source for an ingested document, whose host
        rarely repeats."""
        return (urlsplit(url or "").hostname or source) if self.crawled else source


def learn_templates(shards: list[DocumentShard], config: TemplateConfig, path: Path, progress: Progress) -> Path:
    """Write the template of each site to `path`, an .npz file with one array a site; none if templates are to stay."""
    if path.exists():
        return path
    progress(0, None, unit="sites", phase="learning templates")
    samplers: dict[str, Sampler] = {}
    if config.enabled:
        for number, shard in enumerate(shards):
            for row, document in enumerate(read_rows([shard.path], ["id", "source", "url"])):
                site = shard.site(document["source"], document["url"])
                samplers.setdefault(site, Sampler()).add(document["id"], (number, row))
    chosen = sorted((*place, site) for site, sampler in samplers.items() for place in sampler.places())
    learners = {site: TemplateLearner() for site in samplers}
    for number, places in groupby(chosen, key=itemgetter(0)):
        _, rows, sites = zip(*places, strict=True)
        for site, document in zip(sites, read_at(shards[number].path, rows, ["text"]), strict=True):
            learners[site].add(normalized(document["text"]))
    templates = {_key(site): learner.template(config.share, config.min_pages) for site, learner in learners.items()}
    with atomic_path(path) as unfinished, unfinished.open("wb") as file:
        np.savez(file, **templates)  # type: ignore[arg-type]  # no key is a parameter's name
    return path


class SiteTemplates:
    """What `learn_templates` wrote, each site's read when it is first asked for."""

    def __init__(self, path: Path) -> None:
        self._arrays = np.load(path)
        self._templates: dict[str, Template] = {}

    def of(self, site: str) -> Template:
        """The template of a site, empty where templates are to stay."""
        if site not in self._templates:
            key = _key(site)
            self._templates[site] = self._arrays[key] if key in self._arrays else np.empty(0, np.uint64)
        return self._templates[site]


def _key(site: str) -> str:
    """What a site's array is called: `np.savez` has parameters that sites may be named like, such as `file`."""
    return f"site:{site}"
