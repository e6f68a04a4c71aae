"""ingest: OpenWebText, or a data set laid out like it -> documents."""

from __future__ import annotations

from typing import Any

from flows.engine.stage import Job, Stage
from flows.store.local import Store
from scraping.collections.config import IngestConfig
from scraping.collections.files import ingest_files
from scraping.collections.remote import is_remote


class Ingest(Stage[IngestConfig]):
    """Documents of a collection. Where it is not required and not there, the chain goes on without it."""

    name = "ingest"
    noun = "ingestion"
    version = 1
    retries = 2
    label_is_subject = True

    def build(self, job: Job[IngestConfig]) -> None:
        from scraping.collections.ingest import ingest as ingest_documents

        ingest_documents(job.config, job.out, job.progress, job.executor)

    def identity(self, config: IngestConfig, store: Store) -> Any:
        """Local files count by what is in them, wherever they lie; a remote data set counts by its address."""
        if is_remote(config.path):
            return {"settings": config, "address": config.path}
        return {"settings": config, "files": [store.file_digest(file) for file in ingest_files(config)]}

    def check_available(self, config: IngestConfig) -> None:
        ingest_files(config)

    def optional(self, config: IngestConfig) -> bool:
        return not config.required

    def label(self, config: IngestConfig) -> str:
        return config.path.rsplit("/", 1)[-1]

    def headline(self, stats: dict[str, Any]) -> str:
        return f"{stats['documents']:,} documents"

    def work(self, stats: dict[str, Any]) -> tuple[int, str]:
        return stats["documents"], "documents"


ingest = Ingest()
