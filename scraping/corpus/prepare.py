"""From crawled pages and ingested documents to one corpus.

Extract each page's text, remove every site's template, filter, drop duplicates across all sources, and write what is
left sorted by id and split into train and validation by a hash of the id. Everything that is dropped is written too,
with its reason, and the counts add up: `candidates = documents + dropped`.

Nothing here depends on when, in which order or by how many workers pages were fetched and read: recrawling an unchanged
site gives the same bytes. The slow steps (extract, refine) leave one finished file per input shard in `.work`, where a
killed run is taken up again. Memory holds about 250 bytes a document, plus one shard of the output at a time.
"""

import hashlib
import io
import json
import os
import re
import shutil
from collections import Counter, deque
from collections.abc import Callable, Iterator, Mapping
from functools import partial
from itertools import groupby, pairwise
from operator import itemgetter
from pathlib import Path
from typing import Any, NamedTuple
from urllib.parse import urlsplit

import numpy as np
import pyarrow as pa
from pydantic import BaseModel, Field

from scraping.corpus.boilerplate import Sampler, TemplateLearner, remove_template
from scraping.corpus.dedup import DedupConfig, Fingerprints, find_duplicates, fingerprint
from scraping.corpus.filters import FilterConfig, judge
from scraping.corpus.writer import dropped_row, write_corpus
from scraping.extraction.extract import ArticleExtractor, Extractor, MainExtractor, RecordsExtractor, load_reader
from scraping.extraction.normalize import normalize
from scraping.extraction.sandbox import Call, Failure, Sandbox
from scraping.shards import (
    DOCUMENTS,
    DROPPED,
    ROW_GROUP_ROWS,
    count_rows,
    open_parquet,
    read_at,
    read_groups,
    read_rows,
    shards,
    write_shard,
)
from textmill.errors import UserError
from textmill.files import atomic_write, remove_temporary
from textmill.settings import execution_only

_PIECE_GROUPS = 4  # row groups that one call refines
_RECORDS = pa.schema([("id", pa.string()), ("source", pa.string()), ("url", pa.string()), ("record", pa.string())])


class ExtractionLimits(BaseModel, extra="forbid"):
    """What one page may cost; a page that exceeds a limit is dropped with that reason."""

    page_bytes: int = Field(10_000_000, gt=0, description="Largest page in bytes")
    cpu_seconds: float = Field(20, ge=1, description="CPU seconds for one page")
    memory_bytes: int = Field(2 << 30, ge=1 << 28, description="Memory of an extraction process in bytes")


class TemplateConfig(BaseModel, extra="forbid"):
    """Removal of the text that a site repeats on its pages."""

    enabled: bool = Field(True, description="Remove menus, notices and footers that recur over a site's pages")
    share: float = Field(0.05, gt=0, le=1, description="On what share of a site's pages a run of words is template")
    min_pages: int = Field(10, ge=2, description="On how many pages it must occur besides")


class PrepareConfig(BaseModel, extra="forbid"):
    """How pages and documents become a corpus."""

    limits: ExtractionLimits = ExtractionLimits()
    template: TemplateConfig = TemplateConfig()
    filters: FilterConfig = FilterConfig()
    dedup: DedupConfig = DedupConfig()
    validation_fraction: float = Field(0.05, ge=0, lt=1, description="Share of the documents set aside for validation")
    workers: int = execution_only(
        default_factory=lambda: os.cpu_count() or 1, ge=1, description="Child processes that extract and filter"
    )


def prepare(
    pages: list[Path],
    documents: list[Path],
    extractors: Mapping[str, Extractor],
    config: PrepareConfig,
    out: Path,
    progress: Callable[..., None],
    map_shards: Callable[..., Iterator] | None = None,
) -> None:
    """Build the corpus in `out`: `train-*.parquet`, `validation-*.parquet`, `dropped/part-*.parquet`, `stats.json`, and
    `records/SOURCE.parquet` for sources with a `records` extractor.

    `pages` are folders with crawled pages, `documents` folders with ingested documents, `extractors` maps the name of
    each crawled source to its settings.

    `map_shards(function, items)`, like the builtin `map`, calls a function that can be pickled for each item and yields
    the results in order. Given it, the slow steps run there, a shard or some row groups a call, instead of in
    `config.workers` children of this process; all folders must then be found at the same paths wherever it runs.
    Raises `UserError` if an extractor is missing or if nothing is left.
    """
    for extractor in extractors.values():
        if isinstance(extractor, RecordsExtractor):
            load_reader(extractor)  # a wrong name shows now, not after an hour
    work = out / ".work"
    if (out / "stats.json").exists():  # written last: only the tidying up was cut short
        shutil.rmtree(work, ignore_errors=True)
        return
    work.mkdir(parents=True, exist_ok=True)
    remove_temporary(out)
    extracted = _extract_all(pages, extractors, config, work / "extracted", progress, map_shards)
    ingested = [shard for folder in documents for shard in shards(folder)]
    inputs = [_Input(item.documents, True) for item in extracted] + [_Input(shard, False) for shard in ingested]
    if not inputs:
        raise UserError("there is nothing to make a corpus of: crawl a source or ingest a collection first.")
    templates = _learn_templates(inputs, config.template, work / "site-templates.npz", progress)
    refined = _refine_all(inputs, templates, config, work / "refined", progress, map_shards)
    duplicates = _find_duplicates(refined, config.dedup, work, progress)
    figures = write_corpus(
        [item.documents for item in refined],
        [item.dropped for item in (*extracted, *refined)],
        duplicates,
        config.validation_fraction,
        work / "sorting",
        out,
        progress,
    )
    template = Counter()
    for item in refined:
        template.update(json.loads(item.figures.read_text()))
    pages_read = sum(count_rows(shards(folder)) for folder in pages)
    stats = {**figures, **template, "pages": pages_read, "ingested": count_rows(ingested)}
    _write_records([item.records for item in extracted], out / "records")
    atomic_write(out / "stats.json", json.dumps(stats, indent=1, sort_keys=True, ensure_ascii=False).encode())
    shutil.rmtree(work)


def page_id(source: str, url: str) -> str:
    """Id of a page's document: it stays the same when the page's text changes."""
    return hashlib.blake2b(f"{source}\n{url}".encode("utf-8", "replace"), digest_size=16).hexdigest()


# --- extract ----------------------------------------------------------------------------------------------------------


class _Extracted(NamedTuple):
    """What extracting a shard of pages left."""

    documents: Path  # DOCUMENTS, cleaned
    records: Path
    dropped: Path  # DROPPED


_ADDRESS = re.compile("0x[0-9a-f]+")  # in an exception's text; another one in every process
_TOO_MUCH = {"time", "memory", "died", "error"}
_REASONS = {
    "status": "HTTP status",
    "size": "page too large",
    "rejected": "not text",
    "time": "extraction took too long",
    "memory": "extraction took too much memory",
    "died": "extraction crashed",
    "error": "extraction failed",
}


def _extract_all(
    pages: list[Path],
    extractors: Mapping[str, Extractor],
    config: PrepareConfig,
    folder: Path,
    progress: Callable[..., None],
    map_shards: Callable[..., Iterator] | None,
) -> list[_Extracted]:
    """Extract each shard of pages into `folder`; finished shards of an earlier run are kept."""
    folder.mkdir(exist_ok=True)
    remove_temporary(folder)
    inputs = [shard for artifact in pages for shard in shards(artifact)]
    outputs = [
        _Extracted(*(folder / f"{kind}-{number:05d}.parquet" for kind in ("documents", "records", "dropped")))
        for number in range(len(inputs))
    ]
    finished = set(shards(folder, "dropped"))  # written last
    missing = [(shard, out) for shard, out in zip(inputs, outputs, strict=True) if out.dropped not in finished]
    total = count_rows(inputs)
    done = total - count_rows(shard for shard, _ in missing)

    def report(more: int) -> None:
        progress(done + more, total, unit="pages", phase="extracting")

    if map_shards:
        extracted = map_shards(partial(_extract_alone, extractors=dict(extractors), limits=config.limits), missing)
    else:
        extracted = _extract_here(missing, extractors, config, report)
    for (shard, _), _ in zip(missing, extracted, strict=True):
        done += count_rows([shard])
        report(0)
    return outputs


def _extract_here(
    missing: list[tuple[Path, _Extracted]],
    extractors: Mapping[str, Extractor],
    config: PrepareConfig,
    report: Callable[[int], None],
) -> Iterator[None]:
    """One shard after the other, its pages in several children."""
    with _extraction_sandbox(config.limits, config.workers) as sandbox:
        for shard, output in missing:
            pages_of = partial(_extract_pages, sandbox, shard, config.limits)
            yield _extract_shard(pages_of, extractors, output, report)


def _extract_alone(job: tuple[Path, _Extracted], extractors: Mapping[str, Extractor], limits: ExtractionLimits) -> None:
    """One shard with a child of its own; what a mapped call does."""
    shard, output = job
    with _extraction_sandbox(limits, 1) as sandbox:
        _extract_shard(partial(_extract_pages, sandbox, shard, limits), extractors, output, lambda done: None)


def _extraction_sandbox(limits: ExtractionLimits, workers: int) -> Sandbox:
    return Sandbox(
        "scraping.extraction.extract:extract_page",
        workers,
        cpu_seconds=limits.cpu_seconds,
        memory_bytes=limits.memory_bytes,
    )


def _extract_shard(
    extract: Callable[..., Iterator[tuple[dict, Extractor, Any]]],
    extractors: Mapping[str, Extractor],
    output: _Extracted,
    progress: Callable[[int], None],
) -> None:
    dropped: list[dict] = []
    records: list[dict] = []

    def documents() -> Iterator[dict]:
        again = set()
        for number, (page, extractor, answer) in enumerate(extract(extractors)):
            progress(number)
            if isinstance(answer, Failure) and answer.reason in _TOO_MUCH and isinstance(extractor, ArticleExtractor):
                again.add(page["url"])
            else:
                yield from rows(page, answer)
        if again:  # pages that are too much for trafilatura may still have a container
            containers = dict.fromkeys(extractors, MainExtractor())
            for page, _, answer in extract(containers, only=again):
                yield from rows(page, answer)

    def rows(page: dict, answer: Any) -> Iterator[dict]:
        source, url = page["source"], page["final_url"]
        if isinstance(answer, Failure) or not answer:
            reason, detail = answer if answer else ("no text", "")
            detail = _ADDRESS.sub("0x…", (detail.strip().splitlines() or [""])[-1])
            reason = _REASONS.get(reason, reason)
            dropped.append(
                {"id": page_id(source, url), "source": source, "url": url, "reason": reason, "detail": detail}
            )
            return
        for url, title, text, extractor, record in answer:
            row = {"id": page_id(source, url), "source": source, "url": url}
            yield {**row, "title": title, "text": text, "n_chars": len(text), "extractor": extractor}
            if record is not None:
                records.append({**row, "record": json.dumps(record, sort_keys=True, ensure_ascii=False)})

    write_shard(output.documents, documents(), DOCUMENTS)
    write_shard(output.records, records, _RECORDS)
    write_shard(output.dropped, dropped, DROPPED)


def _extract_pages(
    sandbox: Sandbox,
    shard: Path,
    limits: ExtractionLimits,
    extractors: Mapping[str, Extractor],
    only: set[str] | None = None,
) -> Iterator[tuple[dict, Extractor, Any]]:
    """(page without its body, its extractor, the extractor's answer or a `Failure`) for each page of the shard."""
    refused: deque = deque()
    waiting: deque = deque()

    def calls() -> Iterator[Call]:
        columns = ["url", "final_url", "source", "status", "content_type", "body"]
        for page in read_rows([shard], columns):
            if only is not None and page["url"] not in only:
                continue
            body = page.pop("body") or b""
            page["final_url"] = page["final_url"] or page["url"]
            extractor = _extractor_of(page["source"], extractors)
            if page["status"] != 200:
                refused.append((page, extractor, Failure("status", f"HTTP {page['status']}")))
            elif len(body) > limits.page_bytes:
                refused.append((page, extractor, Failure("size", f"{len(body)} bytes")))
            else:
                waiting.append((page, extractor))
                arguments = {"url": page["final_url"], "content_type": page["content_type"]}
                yield Call({**arguments, "extractor": extractor.model_dump()}, body)

    for answer in sandbox.run(calls()):
        yield *waiting.popleft(), answer
        while refused:
            yield refused.popleft()
    yield from refused


def _extractor_of(source: str, extractors: Mapping[str, Extractor]) -> Extractor:
    try:
        return extractors[source]
    except KeyError:
        known = ", ".join(sorted(extractors)) or "none"
        raise UserError(f"no extractor for the pages of source {source!r} (known: {known}): declare it.") from None


# --- learn templates --------------------------------------------------------------------------------------------------


class _Input(NamedTuple):
    """A shard of documents on its way into the corpus."""

    shard: Path
    crawled: bool

    def site(self, source: str, url: str | None) -> str:
        """What shares a template: a host's pages; of ingested documents, which name few hosts twice, a source's."""
        return (urlsplit(url or "").hostname or source) if self.crawled else source


def _learn_templates(inputs: list[_Input], config: TemplateConfig, path: Path, progress: Callable[..., None]) -> Path:
    """Write the template of each site to `path`, an .npz file with one array a site; none if they are to stay."""
    if path.exists():
        return path
    progress(0, None, unit="sites", phase="learning templates")
    samplers: dict[str, Sampler] = {}
    if config.enabled:
        for number, item in enumerate(inputs):
            for row, document in enumerate(read_rows([item.shard], ["id", "source", "url"])):
                site = item.site(document["source"], document["url"])
                samplers.setdefault(site, Sampler()).add(document["id"], (number, row))
    chosen = sorted((*place, site) for site, sampler in samplers.items() for place in sampler.places())
    learners = {site: TemplateLearner() for site in samplers}
    for number, places in groupby(chosen, key=itemgetter(0)):
        _, rows, sites = zip(*places, strict=True)
        for site, document in zip(sites, read_at(inputs[number].shard, rows, ["text"]), strict=True):
            learners[site].add(normalize(document["text"]))
    templates = {_key(site): learner.template(config.share, config.min_pages) for site, learner in learners.items()}
    _save_arrays(path, templates)
    return path


def _key(site: str) -> str:
    """What a site's array is called: `np.savez` has parameters that sites may be named like, such as `file`."""
    return f"site:{site}"


# --- refine -----------------------------------------------------------------------------------------------------------


class _Refined(NamedTuple):
    """What refining some documents left."""

    documents: Path  # DOCUMENTS that passed the filters
    fingerprints: Path  # .npz: the fields of `Fingerprints`
    dropped: Path  # DROPPED
    figures: Path  # JSON


def _refine_all(
    inputs: list[_Input],
    templates: Path,
    config: PrepareConfig,
    folder: Path,
    progress: Callable[..., None],
    map_shards: Callable[..., Iterator] | None,
) -> list[_Refined]:
    """Remove templates and filter, some row groups a worker; what an earlier run finished is kept."""
    folder.mkdir(exist_ok=True)
    settings = config.model_dump(mode="json")
    finished = set(folder.glob("figures-*.json"))  # written last
    outputs, jobs, sizes = [], [], []
    total = done = 0
    for item in inputs:
        for groups, rows in _pieces(item.shard):
            number = len(outputs)
            output = _Refined(
                folder / f"documents-{number:05d}.parquet",
                folder / f"fingerprints-{number:05d}.npz",
                folder / f"dropped-{number:05d}.parquet",
                folder / f"figures-{number:05d}.json",
            )
            outputs.append(output)
            total += rows
            if output.figures in finished:
                done += rows
                continue
            job = {"shard": str(item.shard), "groups": groups, "crawled": item.crawled}
            paths = {"templates": str(templates), "output": [str(path) for path in output]}
            jobs.append({**job, **paths, "settings": settings})
            sizes.append(rows)
    refined = map_shards(_refine_alone, jobs) if map_shards else _refine_here(jobs, config.workers)
    for rows, _ in zip(sizes, refined, strict=True):
        done += rows
        progress(done, total, unit="documents", phase="filtering")
    return outputs


def _refine_here(jobs: list[dict[str, Any]], workers: int) -> Iterator[None]:
    """The jobs in several children."""
    with Sandbox("scraping.corpus.prepare:refine", min(workers, len(jobs) or 1)) as sandbox:
        for job, answer in zip(jobs, sandbox.run(map(Call, jobs)), strict=True):
            if isinstance(answer, Failure):
                raise RuntimeError(f"refining {job['shard']} failed: {answer.detail}")
            yield


def _refine_alone(job: dict[str, Any]) -> None:
    """One job in this process; what a mapped call does."""
    refine(b"", **job)


def _pieces(shard: Path) -> Iterator[tuple[list[int], int]]:
    """Row groups that are refined together, and their number of rows; a shard without rows is one empty piece."""
    with open_parquet(shard) as file:
        sizes = [file.metadata.row_group(group).num_rows for group in range(file.metadata.num_row_groups)]
    for start in range(0, max(1, len(sizes)), _PIECE_GROUPS):
        groups = list(range(start, min(start + _PIECE_GROUPS, len(sizes))))
        yield groups, sum(sizes[group] for group in groups)


def refine(
    _: bytes,
    shard: str,
    groups: list[int],
    crawled: bool,
    templates: str,
    settings: dict[str, Any],
    output: list[str],
) -> None:
    """Clean, strip of templates, judge and fingerprint the documents of some row groups; runs in the sandbox."""
    item, config, paths = _Input(Path(shard), crawled), PrepareConfig(**settings), _Refined(*map(Path, output))
    template_of = np.load(templates)
    dropped: list[dict] = []
    prints: list[Fingerprints] = []
    figures = Counter(characters_before_template_removal=0, characters_after_template_removal=0)

    def documents() -> Iterator[dict]:
        batch: list[dict] = []
        for row in read_groups(item.shard, groups):
            text = row["text"] if item.crawled else normalize(row["text"])
            figures["characters_before_template_removal"] += len(text)
            if config.template.enabled:
                text = remove_template(text, template_of[_key(item.site(row["source"], row["url"]))])
            figures["characters_after_template_removal"] += len(text)
            verdict = judge(text, config.filters)
            if verdict.reason:
                dropped.append(dropped_row(row, verdict.reason, verdict.detail, text))
                continue
            batch.append({**row, "lang": verdict.lang, "text": text, "n_chars": len(text)})
            if len(batch) == ROW_GROUP_ROWS:
                yield from fingerprinted(batch)
                batch = []
        yield from fingerprinted(batch)

    def fingerprinted(batch: list[dict]) -> list[dict]:
        prints.append(fingerprint([row["id"] for row in batch], [row["text"] for row in batch], config.dedup))
        return batch

    write_shard(paths.documents, documents(), DOCUMENTS)  # fills the lists above
    _save_arrays(paths.fingerprints, _concatenated(prints)._asdict())
    write_shard(paths.dropped, dropped, DROPPED)
    atomic_write(paths.figures, json.dumps(figures).encode())


# --- duplicates -------------------------------------------------------------------------------------------------------


def _find_duplicates(
    refined: list[_Refined], config: DedupConfig, work: Path, progress: Callable[..., None]
) -> dict[int, tuple[str, str]]:
    """Reason and detail for each document to drop, by its position in all refined shards together."""
    prints = _concatenated([Fingerprints(**np.load(item.fingerprints)) for item in refined])
    progress(0, len(prints.ids), unit="documents", phase="removing duplicates")
    starts = np.cumsum([0] + [count_rows([item.documents]) for item in refined])

    def texts(positions: list[int]) -> Iterator[str]:
        places = np.array(positions, np.int64)
        for item, (start, end) in zip(refined, pairwise(starts), strict=True):
            inside = places[(places >= start) & (places < end)] - start
            yield from (row["text"] for row in read_at(item.documents, inside.tolist(), ["text"]))

    return {
        duplicate.document: (
            duplicate.reason,
            f"of {prints.ids[duplicate.kept].decode()}, similarity {duplicate.similarity:.3f}",
        )
        for duplicate in find_duplicates(prints, texts, config, work)
    }


def _concatenated(prints: list[Fingerprints]) -> Fingerprints:
    return Fingerprints(*(np.concatenate(column) for column in zip(*prints, strict=True)))


# --- records and arrays -----------------------------------------------------------------------------------------------


def _write_records(parts: list[Path], folder: Path) -> None:
    """Write the records that `records` extractors read, one file a source, sorted by id, with columns of their own."""
    by_source: dict[str, list[dict]] = {}
    for row in sorted(read_rows(parts), key=itemgetter("id")):
        by_source.setdefault(row["source"], []).append(
            {"document": row["id"], "url": row["url"], **json.loads(row["record"])}
        )
    remove_temporary(folder)
    for source, records in by_source.items():
        folder.mkdir(exist_ok=True)
        names = dict.fromkeys(name for record in records for name in record)  # a record may leave out what another has
        table = pa.table({name: [record.get(name) for record in records] for name in names})
        write_shard(folder / f"{source}.parquet", records, table.schema)


def _save_arrays(path: Path, arrays: Mapping[str, np.ndarray]) -> None:
    """Write an .npz file atomically."""
    buffer = io.BytesIO()
    np.savez(buffer, **arrays)
    atomic_write(path, buffer.getvalue())
