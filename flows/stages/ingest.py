"""ingest: OpenWebText, or a data set laid out like it -> documents."""

from __future__ import annotations

from typing import Any

from flows.engine.stage import Job, Stage
from flows.store.local import Store
from scraping.collections.ingest import IngestConfig, ingest_files, is_remote


def build(job: Job[IngestConfig]) -> None:
    from scraping.collections.ingest import ingest as ingest_documents

    ingest_documents(job.config, job.out, job.progress, job.map_shards)


def identity(config: IngestConfig, store: Store) -> Any:
    """Local files count by what is in them, wherever they lie; a remote data set counts by its address."""
    if is_remote(config.path):
        return {"settings": config, "address": config.path}
    return {"settings": config, "files": [store.file_digest(file) for file in ingest_files(config)]}


ingest = Stage(
    name="ingest",
    version=1,
    build=build,
    label=lambda config: config.path.rsplit("/", 1)[-1],
    headline=lambda stats: f"{stats['documents']:,} documents",
    identity=identity,
    available=ingest_files,
    optional=lambda config: not config.required,
    retries=2,
)
