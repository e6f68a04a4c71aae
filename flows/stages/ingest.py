"""ingest: OpenWebText, or another collection of texts -> documents."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from flows.engine.page import Bars, Block, Table
from flows.engine.stage import Job, Stage
from flows.store.local import Artifact, Store
from scraping.collections.config import IngestConfig
from scraping.collections.files import check_contents, holds_web_archives, ingest_files, listed
from scraping.collections.names import named_layout
from scraping.collections.remote import is_remote, may_hold_web_archives
from scraping.collections.skipped import SKIPPED, by_reason
from scraping.extraction.config import model_digest
from textmill.addresses import expand, is_resolvable, without_secrets

LISTED, LISTED_NAMES = 20, 3  # of what was not read, on the page and in a line


class Ingest(Stage[IngestConfig]):
    """Documents of a collection. Where it is not required and not there, the chain goes on without it; where it is
    there but not what its name says, that is an error all the same."""

    name = "ingest"
    noun = "ingestion"
    version = 2
    records = (SKIPPED, "stats.json")  # what was not read; the digest is of the documents alone
    retries = 2
    label_is_subject = True

    def build(self, job: Job[IngestConfig]) -> None:
        from scraping.collections.ingest import ingest as ingest_documents

        ingest_documents(job.config, job.out, job.progress, job.executor)

    def identity(self, config: IngestConfig, store: Store) -> Any:
        """Local files count by what is in them, wherever they lie, and whether that is to be read as CSV, which their
        names tell; a remote data set counts by its address, but for the secrets in that: a fresh signature is no other
        data set. The text of a web archive's pages depends on the model that extracts them."""
        address = expand(config.path)
        if is_remote(address):
            identity = {"settings": config, "address": without_secrets(address)}
            may_extract = may_hold_web_archives(address)
        else:
            files = _files(config)
            tables = [number for number, file in enumerate(files) if named_layout(file.name) == "csv"]
            identity = {"settings": config, "files": [store.file_digest(file) for file in files]}
            identity |= {"csv": tables} if tables else {}
            may_extract = any(map(holds_web_archives, files))
        return identity | ({"model": model_digest()} if may_extract else {})

    def check_available(self, config: IngestConfig) -> None:
        _files(config)

    def optional(self, config: IngestConfig) -> bool:
        """An address that cannot be known here is not a collection that is away."""
        return not config.required and is_resolvable(config.path)

    def label(self, config: IngestConfig) -> str:
        return config.name

    def timeline(self, label: str, pipeline: str) -> str:
        return f"{self.noun} of {label} for {pipeline}"

    def headline(self, stats: dict[str, Any]) -> str:
        parts = [f"{stats['documents']:,} documents"]
        if stats["empty"]:
            parts.append(f"{stats['empty']:,} without text")
        if stats["marred"]:
            parts.append(f"{stats['marred']:,} with U+FFFD (lost characters)")
        if stats["skipped"]:
            parts.append(f"{sum(stats['skipped'].values()):,} skipped ({by_reason(stats['skipped'])})")
        if damaged := stats["damaged"]:
            names = listed(damaged[:LISTED_NAMES], len(damaged))
            parts.append(f"damaged files: {names}")
        if stats["unread"]:
            parts.append(f"not read: {by_reason(stats['unread'])}")
        return ", ".join(parts)

    def work(self, stats: dict[str, Any]) -> tuple[int, str]:
        return stats["documents"], "documents"

    def page(self, artifact: Artifact) -> Iterator[Block]:
        yield Bars("skipped records", artifact.stats["skipped"])
        yield Bars("files and members that were not read", artifact.stats["unread"])
        if SKIPPED in artifact.manifest.files:
            with artifact.open(SKIPPED) as file:
                found = [json.loads(line) for line, _ in zip(file, range(LISTED), strict=False)]
            rows = [[item[key] for key in ("file", "place", "reason", "detail")] for item in found]
            yield Table(("file", "place", "not read, because", "detail"), rows)


def _files(config: IngestConfig) -> list[Path]:
    """The local files, looked into unless the chain may go on without them: the build looks into them in any case."""
    files = ingest_files(config)
    if config.required:
        check_contents(files, config.text_column)
    return files


ingest = Ingest()
