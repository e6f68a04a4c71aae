"""prepare: pages and documents -> one clean, deduplicated corpus, split into train and validation."""

from __future__ import annotations

import fnmatch
from collections.abc import Iterator
from typing import Any

from pydantic import BaseModel, Field

from flows.engine.page import Bars, Block, Sample, Table
from flows.engine.stage import Job, Stage
from flows.store.local import Artifact, Store
from scraping.corpus.config import PrepareConfig
from scraping.extraction.extract import Extractor, RecordsExtractor, reader_digest


class PrepareSettings(BaseModel, extra="forbid"):
    """The configuration's section, and how to read the pages of each source: an improved extractor re-reads the pages
    that were kept, it never crawls again."""

    corpus: PrepareConfig = Field(default_factory=PrepareConfig)
    extractors: dict[str, Extractor] = Field(default_factory=dict)


class Prepare(Stage[PrepareSettings]):
    """The corpus of a pipeline: pages of all sources and documents of the collection."""

    name = "prepare"
    version = 1
    inputs = ("pages", "documents")
    label_is_subject = True

    def build(self, job: Job[PrepareSettings]) -> None:
        from scraping.corpus.prepare import CorpusInputs
        from scraping.corpus.prepare import prepare as prepare_corpus

        inputs = CorpusInputs(job.paths("pages"), job.paths("documents"), job.config.extractors)
        prepare_corpus(inputs, job.config.corpus, job.out, job.progress, job.executor)

    def identity(self, settings: PrepareSettings, store: Store) -> Any:
        """The settings, and the code of the record readers that they name."""
        extractors = settings.extractors.items()
        readers = {name: reader_digest(chosen) for name, chosen in extractors if isinstance(chosen, RecordsExtractor)}
        return {"settings": settings, "readers": readers} if readers else settings

    def label(self, settings: PrepareSettings) -> str:
        return ", ".join(settings.extractors)

    def headline(self, stats: dict[str, Any]) -> str:
        dropped = ", ".join(f"{reason} {count:,}" for reason, count in sorted(stats["dropped"].items())) or "none"
        return f"{stats['documents']:,} documents, {sum(stats['dropped'].values()):,} dropped ({dropped})"

    def work(self, stats: dict[str, Any]) -> tuple[int, str]:
        return stats["candidates"], "documents"

    def page(self, artifact: Artifact) -> Iterator[Block]:
        sources = artifact.stats["sources"]
        yield Table(
            ("source", "documents read", "kept", "characters", "dropped, and why"),
            [
                (
                    name, source["candidates"], source["documents"], source["characters"],
                    ", ".join(f"{reason} {count:,}" for reason, count in sorted(source["dropped"].items())) or "none",
                )
                for name, source in sorted(sources.items())
            ],
        )  # fmt: skip
        yield Bars("dropped", artifact.stats["dropped"])
        yield Sample("A document", _first_document(artifact))


def _first_document(artifact: Artifact) -> str:
    import pyarrow.parquet as pq

    with artifact.open(min(fnmatch.filter(artifact.manifest.files, "train-*.parquet"))) as file:
        batch = next(pq.ParquetFile(file).iter_batches(batch_size=1, columns=["text"]))
        return str(batch["text"][0].as_py())


prepare = Prepare()
