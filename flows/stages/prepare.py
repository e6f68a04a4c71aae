"""prepare: pages and documents -> one clean, deduplicated corpus, split into train and validation."""

from __future__ import annotations

from typing import Any

from pydantic import BaseModel, Field

from flows.engine.stage import Job, Stage
from flows.store.local import Store
from scraping.corpus.prepare import PrepareConfig
from scraping.extraction.extract import Extractor, RecordsExtractor, reader_digest


class PrepareSettings(BaseModel, extra="forbid"):
    """The configuration's section, and how to read the pages of each source: an improved extractor re-reads the pages
    that were kept, it never crawls again."""

    corpus: PrepareConfig = Field(default_factory=PrepareConfig)
    extractors: dict[str, Extractor] = Field(default_factory=dict)


def build(job: Job[PrepareSettings]) -> None:
    from scraping.corpus.prepare import CorpusInputs
    from scraping.corpus.prepare import prepare as prepare_corpus

    documents = [job.path("documents")] if job.inputs["documents"] else []
    inputs = CorpusInputs(job.paths("pages"), documents, job.config.extractors)
    prepare_corpus(inputs, job.config.corpus, job.out, job.progress, job.executor)


def identity(settings: PrepareSettings, store: Store) -> Any:
    """The settings, and the code of the readers of records that they name."""
    extractors = settings.extractors.items()
    readers = {name: reader_digest(chosen) for name, chosen in extractors if isinstance(chosen, RecordsExtractor)}
    return {"settings": settings, "readers": readers} if readers else settings


prepare = Stage(
    name="prepare",
    version=1,
    build=build,
    identity=identity,
    headline=lambda stats: (
        f"{stats['documents']:,} documents, {sum(stats['dropped'].values()):,} dropped "
        f"({', '.join(f'{reason} {count:,}' for reason, count in sorted(stats['dropped'].items())) or 'none'})"
    ),
    label=lambda settings: ", ".join(settings.extractors),
)
