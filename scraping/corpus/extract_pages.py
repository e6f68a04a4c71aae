"""The step from crawled pages to documents: the text of every page, read in children that hostile pages may kill.

A page is dropped here for its HTTP status, for its size, because it is not text or has none, or because its extraction
takes more than the limits allow; a page that is too much for `auto` or trafilatura may still have a container.
"""

from __future__ import annotations

import hashlib
import json
import re
from collections import deque
from collections.abc import Callable, Collection, Iterator, Mapping, Set
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

from scraping.corpus.config import ExtractionLimits
from scraping.corpus.records import RECORDS
from scraping.corpus.steps import Execution
from scraping.extraction.config import Extractor, MainExtractor, RecordsExtractor
from scraping.extraction.sandbox import Call, Failure, Sandbox
from scraping.shards import DOCUMENTS, DROPPED, count_rows, read_rows, shards, write_shard
from textmill.errors import UserError
from textmill.files import remove_temporary

_REASONS = {
    "status": "HTTP status",
    "size": "page too large",
    "rejected": "not text",
    "time": "extraction took too long",
    "memory": "extraction took too much memory",
    "died": "extraction crashed",
    "error": "extraction failed",
}
_TOO_MUCH = {"time", "memory", "died", "error"}
_ADDRESS = re.compile("0x[0-9a-f]+")  # in an exception's text; another one in every process
_COLUMNS = ["url", "final_url", "source", "status", "content_type", "body"]


class ExtractedShard(NamedTuple):
    """What extracting a shard of pages leaves."""

    documents: Path  # DOCUMENTS, in normal form
    records: Path  # RECORDS
    dropped: Path  # DROPPED; written last


def extract_pages(
    pages: Collection[Path],
    extractors: Mapping[str, Extractor],
    limits: ExtractionLimits,
    folder: Path,
    execution: Execution,
) -> list[ExtractedShard]:
    """Extract each shard of the artifacts `pages` into `folder`; what an earlier run finished is kept."""
    folder.mkdir(exist_ok=True)
    remove_temporary(folder)
    inputs = [shard for artifact in pages for shard in shards(artifact)]
    outputs = [
        ExtractedShard(*(folder / f"{kind}-{number:05d}.parquet" for kind in ("documents", "records", "dropped")))
        for number in range(len(inputs))
    ]
    finished = set(shards(folder, "dropped"))
    missing = [(shard, out) for shard, out in zip(inputs, outputs, strict=True) if out.dropped not in finished]
    jobs = [(job, count_rows([job[0]])) for job in missing]
    work = partial(extract_shard, extractors=dict(extractors), limits=limits)
    execution.run(work, jobs, count_rows(inputs), unit="pages", phase="extracting")
    return outputs


def extract_shard(
    job: tuple[Path, ExtractedShard],
    *,
    extractors: Mapping[str, Extractor],
    limits: ExtractionLimits,
    children: int,
    report: Callable[[int], None],
) -> None:
    """Extract one shard of pages, several at a time, each in a child of the sandbox."""
    shard, output = job
    with Sandbox(
        "scraping.extraction.extract:extract_page",
        children,
        cpu_seconds=limits.cpu_seconds,
        memory_bytes=limits.memory_bytes,
    ) as sandbox:
        extraction = _Extraction(shard, limits, sandbox)
        write_shard(output.documents, extraction.documents(extractors, report), DOCUMENTS)  # fills the lists below
        write_shard(output.records, extraction.records, RECORDS)
        write_shard(output.dropped, extraction.dropped, DROPPED)


def page_id(source: str, url: str) -> str:
    """Id of a page's document: it stays the same when the page's text changes."""
    return hashlib.blake2b(f"{source}\n{url}".encode("utf-8", "replace"), digest_size=16).hexdigest()


class _Page(NamedTuple):
    """A page without its body, how to read it, and what came of it: `Extracted` as lists, or a `Failure`."""

    source: str
    url: str
    final_url: str
    extractor: Extractor
    answer: Any = None


class _Extraction:
    """Reads the pages of one shard; `records` and `dropped` fill up while `documents` is consumed."""

    def __init__(self, shard: Path, limits: ExtractionLimits, sandbox: Sandbox) -> None:
        self._shard, self._limits, self._sandbox = shard, limits, sandbox
        self.records: list[dict[str, Any]] = []
        self.dropped: list[dict[str, Any]] = []

    def documents(self, extractors: Mapping[str, Extractor], report: Callable[[int], None]) -> Iterator[dict[str, Any]]:
        """The rows of all documents, in the order of their pages, but for those that are read once more, at the end."""
        again: set[tuple[str, str]] = set()
        for number, page in enumerate(self._pages(extractors)):
            report(number)
            failed = isinstance(page.answer, Failure) and page.answer.reason in _TOO_MUCH
            if failed and not isinstance(page.extractor, MainExtractor | RecordsExtractor):
                again.add((page.source, page.url))
            else:
                yield from self._rows(page)
        if again:  # pages that are too much for a model may still have a container
            containers = {
                name: MainExtractor(format=extractor.format)
                for name, extractor in extractors.items()
                if not isinstance(extractor, RecordsExtractor)
            }
            for page in self._pages(containers, only=again):
                yield from self._rows(page)

    def _pages(self, extractors: Mapping[str, Extractor], only: Set[tuple[str, str]] | None = None) -> Iterator[_Page]:
        """The pages of the shard, or only those of these sources and URLs, with what came of them."""
        refused: deque[_Page] = deque()
        waiting: deque[_Page] = deque()

        def calls() -> Iterator[Call]:
            for row in read_rows([self._shard], _COLUMNS):
                if only is not None and (row["source"], row["url"]) not in only:
                    continue
                body = row["body"] or b""
                extractor = _extractor_of(row["source"], extractors)
                page = _Page(row["source"], row["url"], row["final_url"] or row["url"], extractor)
                if row["status"] != 200:
                    refused.append(page._replace(answer=Failure("status", f"HTTP {row['status']}")))
                elif len(body) > self._limits.page_bytes:
                    refused.append(page._replace(answer=Failure("size", f"{len(body)} bytes")))
                else:
                    waiting.append(page)
                    arguments = {"url": page.final_url, "content_type": row["content_type"]}
                    yield Call({**arguments, "extractor": extractor.model_dump()}, body)

        for answer in self._sandbox.run(calls()):
            yield waiting.popleft()._replace(answer=answer)
            while refused:
                yield refused.popleft()
        yield from refused

    def _rows(self, page: _Page) -> Iterator[dict[str, Any]]:
        """The documents of a page; without any, the page is dropped."""
        if isinstance(page.answer, Failure):
            self._drop(page, _REASONS[page.answer.reason], page.answer.detail)
        elif not page.answer:
            self._drop(page, "no text", "")
        else:
            for url, title, text, extractor, record in page.answer:
                row = {"id": page_id(page.source, url), "source": page.source, "url": url}
                yield {**row, "title": title, "text": text, "n_chars": len(text), "extractor": extractor}
                if record is not None:
                    self.records.append({**row, "record": json.dumps(record, sort_keys=True, ensure_ascii=False)})

    def _drop(self, page: _Page, reason: str, detail: str) -> None:
        row = {"id": page_id(page.source, page.final_url), "source": page.source, "url": page.final_url}
        last_line = (detail.strip().splitlines() or [""])[-1]
        self.dropped.append({**row, "reason": reason, "detail": _ADDRESS.sub("0x…", last_line)})


def _extractor_of(source: str, extractors: Mapping[str, Extractor]) -> Extractor:
    try:
        return extractors[source]
    except KeyError:
        known = ", ".join(sorted(extractors)) or "none"
        raise UserError(f"no extractor for the pages of source {source!r} (known: {known}): declare it.") from None
