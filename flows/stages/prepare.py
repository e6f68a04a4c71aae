"""prepare: pages and documents -> one clean, deduplicated corpus, split into train and validation."""

from __future__ import annotations

import fnmatch
from collections.abc import Iterator
from typing import Any

from pydantic import BaseModel, Field

from flows.engine.page import Bars, Block, Sample, Table, Text
from flows.engine.stage import Job, Stage
from flows.store.local import Artifact, Store
from scraping.corpus.config import PrepareConfig
from scraping.corpus.safeguards.evaluation import evaluation_files
from scraping.extraction.config import AutoExtractor, Extractor, RecordsExtractor, model_digest, reader_digest

DOCUMENTS = 4  # that are shown of a corpus
EXAMPLES = 2  # of what was dropped, for each reason
TEMPLATES, TEMPLATE_EXAMPLES = 10, 3  # sites that are listed; sites, and parts of each, that are shown
EXCERPT, DROPPED_EXCERPT = 500, 200  # characters


class PrepareSettings(BaseModel, extra="forbid"):
    """The configuration's section, and how to read the pages of each source: an improved extractor re-reads the pages
    that were kept, it never crawls again."""

    corpus: PrepareConfig = Field(default_factory=PrepareConfig)
    extractors: dict[str, Extractor] = Field(default_factory=dict)


class Prepare(Stage[PrepareSettings]):
    """The corpus of a pipeline: pages of all sources and documents of the collection."""

    name = "prepare"
    noun = "corpus"
    version = 2
    inputs = ("pages", "documents")
    label_is_subject = True

    def build(self, job: Job[PrepareSettings]) -> None:
        from scraping.corpus.prepare import CorpusInputs
        from scraping.corpus.prepare import prepare as prepare_corpus

        inputs = CorpusInputs(job.paths("pages"), job.paths("documents"), job.config.extractors)
        prepare_corpus(inputs, job.config.corpus, job.out, job.progress, job.executor)

    def identity(self, settings: PrepareSettings, store: Store) -> Any:
        """The settings, the code of the record readers that they name, the model that chooses a page's text, and the
        evaluation texts by name and contents, wherever they lie."""
        extractors = settings.corpus.reading(settings.extractors).items()
        readers = {name: reader_digest(chosen) for name, chosen in extractors if isinstance(chosen, RecordsExtractor)}
        model = model_digest() if any(isinstance(chosen, AutoExtractor) for _, chosen in extractors) else None
        besides: dict[str, Any] = {"readers": readers} if readers else {}
        besides |= {"model": model} if model else {}
        evaluation = evaluation_files(settings.corpus.decontaminate.paths)
        besides |= {"evaluation": [[file.name, store.file_digest(file)] for file in evaluation]} if evaluation else {}
        return {"settings": settings, **besides} if besides else settings

    def check_available(self, settings: PrepareSettings) -> None:
        evaluation_files(settings.corpus.decontaminate.paths)

    def label(self, settings: PrepareSettings) -> str:
        return ", ".join(settings.extractors)

    def headline(self, stats: dict[str, Any]) -> str:
        dropped = ", ".join(f"{reason} {count:,}" for reason, count in sorted(stats["dropped"].items())) or "none"
        return f"{stats['documents']:,} documents, {sum(stats['dropped'].values()):,} dropped ({dropped})"

    def highlight(self, stats: dict[str, Any]) -> tuple[str, str]:
        return f"{stats['documents']:,}", "documents kept"

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
        yield from _safeguarded(artifact.stats)
        yield from _removed(artifact.stats["templates"])
        for document in sample_documents(artifact):
            yield Sample(f"A document of {document['source']}", document["text"][:EXCERPT], document["url"] or "")
        yield Bars("dropped", artifact.stats["dropped"])
        for row in _dropped_examples(artifact):
            detail = f" ({row['detail']})" if row["detail"] else ""
            text = row["excerpt"] or "(no text was read)"
            yield Sample(f"Dropped: {row['reason']}{detail}", text[:DROPPED_EXCERPT], row["url"] or "")
        yield Text(f"More of it, by source and reason, and a search: textmill corpus {artifact.manifest.fingerprint}")


def _safeguarded(stats: dict[str, Any]) -> Iterator[Block]:
    """What was done about personal data and evaluation texts."""
    redacted = {key.removeprefix("redacted_"): count for key, count in stats.items() if key.startswith("redacted_")}
    if redacted:
        yield Bars("personal data replaced by placeholders", redacted)
    if evaluation := stats.get("evaluation"):
        yield Text(
            f"Documents that hold a part of one of {evaluation['texts']:,} evaluation texts were dropped. "
            f"Texts that are too short to be looked for: {evaluation['too_short']:,}. "
            f"Records without text: {evaluation['without_text']:,}."
        )


def _removed(templates: list[dict[str, Any]]) -> Iterator[Block]:
    """What was taken out of the pages of the sites with the most of it."""
    if not templates:
        return
    yield Table(
        ("site", "pages looked at", "with a template", "its share of their text"),
        [
            (site["site"], site["pages"], site["changed"], f"{site['removed_share']:.1%}")
            for site in templates[:TEMPLATES]
        ],
    )
    for site in templates[:TEMPLATE_EXAMPLES]:
        for part in site["parts"][:TEMPLATE_EXAMPLES]:
            yield Sample(f"Removed from {part['pages']:,} of {site['pages']:,} pages of {site['site']}", part["text"])


def sample_documents(artifact: Artifact) -> list[dict[str, Any]]:
    """Some documents of the first shard of a corpus: the first of each source, then others at equal distances."""
    import pyarrow.parquet as pq

    with artifact.open(min(fnmatch.filter(artifact.manifest.files, "train-*.parquet"))) as file:
        group = pq.ParquetFile(file).read_row_group(0, columns=["source", "url", "text"])
    sources = group["source"].to_pylist()
    firsts = sorted({source: place for place, source in reversed(list(enumerate(sources)))}.values())
    spread = (place * len(sources) // DOCUMENTS for place in range(DOCUMENTS))
    places = list(dict.fromkeys([*firsts[:DOCUMENTS], *spread]))[:DOCUMENTS]
    documents: list[dict[str, Any]] = group.take(places).to_pylist()
    return documents


def _dropped_examples(artifact: Artifact) -> list[dict[str, Any]]:
    """The first few documents that were dropped for each reason, by reason."""
    import pyarrow.parquet as pq

    examples: dict[str, list[dict[str, Any]]] = {}
    wanted = {reason: min(count, EXAMPLES) for reason, count in artifact.stats["dropped"].items()}
    for name in sorted(fnmatch.filter(artifact.manifest.files, "dropped/part-*.parquet")):
        with artifact.open(name) as file:
            columns = ["reason", "detail", "excerpt", "url"]
            for batch in pq.ParquetFile(file).iter_batches(batch_size=1_000, columns=columns):
                for row in batch.to_pylist():
                    found = examples.setdefault(row["reason"], [])
                    if len(found) < EXAMPLES:
                        found.append(row)
                if all(len(examples.get(reason, ())) >= number for reason, number in wanted.items()):
                    return [row for reason in sorted(examples) for row in examples[reason]]
    return [row for reason in sorted(examples) for row in examples[reason]]


prepare = Prepare()
