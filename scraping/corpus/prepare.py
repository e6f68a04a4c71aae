"""From crawled pages and ingested documents to one corpus.

`prepare` reads as the table of contents of this room. Nothing of it depends on when, in which order or by how many
workers pages were fetched and read: recrawling an unchanged site gives the same bytes. The slow steps (extract, refine)
leave finished files in `.work`, from where a killed run goes on. Memory holds some tens of bytes a document (`dedup`),
plus a part of a shard for each worker.

A document is dropped in one of three places, each of which says why: a page in `extract_pages`, a text by the filters
of `recipe`, a duplicate in `dedup`. Everything that is dropped is written too, with its reason, and the counts add up:
`candidates = documents + dropped`. Texts that `ingest` leaves out (empty ones, those not sampled) are counted in its
`stats.json`, pages that a crawl skips are listed in its `urls.parquet`.
"""

from __future__ import annotations

import json
import shutil
from collections.abc import Collection, Mapping
from pathlib import Path
from typing import NamedTuple

from scraping.corpus.config import PrepareConfig
from scraping.corpus.dedup import deduplicate
from scraping.corpus.extract_pages import extract_pages
from scraping.corpus.ranges import count_ranges
from scraping.corpus.records import write_records
from scraping.corpus.refine import RefineConfig, RefineOutput, refine, sum_counts
from scraping.corpus.safeguards.decontaminate import write_index
from scraping.corpus.steps import Execution
from scraping.corpus.templates import DocumentShard, learn_templates, template_report
from scraping.corpus.writer import Candidates, write_corpus
from scraping.extraction.config import Extractor, RecordsExtractor, load_reader
from scraping.shards import count_rows, shards
from textmill.errors import UserError
from textmill.files import atomic_write, remove_temporary
from textmill.mapping import HERE, Executor
from textmill.progress import Progress, quiet


class CorpusInputs(NamedTuple):
    """What a corpus is made of."""

    pages: Collection[Path] = ()  # folders with crawled pages
    documents: Collection[Path] = ()  # folders with ingested documents
    extractors: Mapping[str, Extractor] = {}  # how to read the pages of each crawled source, by its name


def prepare(
    inputs: CorpusInputs,
    config: PrepareConfig,
    out: Path,
    progress: Progress = quiet,
    executor: Executor = HERE,
) -> None:
    """Build a corpus in `out`: `train-*.parquet`, `validation-*.parquet`, `dropped/part-*.parquet`, `stats.json`, and
    `records/SOURCE.parquet` for sources with a `records` extractor.

    Args:
        inputs: what to make a corpus of.
        config: how.
        out: a folder; a killed run goes on there.
        progress: hears of each phase.
        executor: where the slow steps run; the folders must be found at the same paths there.

    Raises:
        UserError: an extractor is missing, evaluation texts cannot be read, or no document is left.
    """
    inputs = inputs._replace(extractors=config.reading(inputs.extractors))
    for extractor in inputs.extractors.values():
        if isinstance(extractor, RecordsExtractor):
            load_reader(extractor)  # a wrong name shows now, not after an hour
    work = out / ".work"
    if (out / "stats.json").exists():  # written last: only the tidying up was cut short
        shutil.rmtree(work, ignore_errors=True)
        return
    work.mkdir(parents=True, exist_ok=True)
    remove_temporary(out)
    execution = Execution(executor, config.workers, progress)
    rules = RefineConfig(filters=config.filters, dedup=config.dedup, redact=config.redact)
    if config.decontaminate.paths:  # first: a mistake in these files shows now, not after an hour
        rules.evaluation = work / "evaluation.npz"
        progress(0, None, unit="texts", phase="reading evaluation texts")
        evaluation = write_index(config.decontaminate, config.redact, rules.evaluation)

    extracted = extract_pages(inputs.pages, inputs.extractors, config.limits, work / "extracted", execution)
    ingested = [shard for folder in inputs.documents for shard in shards(folder)]
    documents = [DocumentShard(item.documents, crawled=True) for item in extracted]
    documents += [DocumentShard(shard, crawled=False) for shard in ingested]
    if not documents:
        raise UserError("there is nothing to make a corpus of: crawl a source or ingest a collection first.")
    templates = learn_templates(documents, config.template, work / "site-templates.npz", progress)
    ranges = count_ranges(document.path for document in documents)
    refined = refine(documents, templates, rules, RefineOutput(work / "refined", ranges), execution)
    passed, signatures = [item.documents for item in refined], [item.signatures for item in refined]
    duplicates = deduplicate(passed, signatures, config.dedup, work, progress)
    dropped = [item.dropped for item in extracted] + [item.dropped for item in refined]
    candidates = Candidates(passed, signatures, ranges, dropped, duplicates)
    stats = write_corpus(candidates, config.validation_fraction, work / "written", out, execution)
    write_records([item.records for item in extracted], out / "records")

    stats["pages"] = sum(count_rows(shards(folder)) for folder in inputs.pages)
    stats["ingested"] = count_rows(ingested)
    stats["templates"] = template_report(templates)
    stats.update(sum_counts(refined))
    if config.decontaminate.paths:
        stats["evaluation"] = evaluation._asdict()
    atomic_write(out / "stats.json", json.dumps(stats, indent=1, sort_keys=True, ensure_ascii=False))
    shutil.rmtree(work)
