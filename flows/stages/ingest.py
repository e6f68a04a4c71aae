"""ingest: OpenWebText, or a data set laid out like it -> documents."""

from __future__ import annotations

from typing import Any

from flows.engine.stage import Job, Stage
from flows.store.local import Store
from scraping.collections.config import IngestConfig
from scraping.collections.files import ingest_files
from scraping.collections.remote import is_remote
from textmill.addresses import expand, is_resolvable, shown, without_secrets


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
        """Local files count by what is in them, wherever they lie; a remote data set counts by its address, but for the
        secrets in that: a fresh signature is no other data set."""
        address = expand(config.path)
        if is_remote(address):
            return {"settings": config, "address": without_secrets(address)}
        return {"settings": config, "files": [store.file_digest(file) for file in ingest_files(config)]}

    def check_available(self, config: IngestConfig) -> None:
        ingest_files(config)

    def optional(self, config: IngestConfig) -> bool:
        """An address that cannot be known here is not a collection that is away."""
        return not config.required and is_resolvable(config.path)

    def label(self, config: IngestConfig) -> str:
        address = shown(config.path)
        return (address.partition("?")[0] if is_remote(address) else address).rsplit("/", 1)[-1]

    def headline(self, stats: dict[str, Any]) -> str:
        return f"{stats['documents']:,} documents"

    def work(self, stats: dict[str, Any]) -> tuple[int, str]:
        return stats["documents"], "documents"


ingest = Ingest()
