"""What a configuration says about a collection. Without the libraries that read one, so that it is read at once."""

from __future__ import annotations

import os

from pydantic import BaseModel, Field, field_validator

from textmill.addresses import not_masked
from textmill.settings import execution_only


class IngestConfig(BaseModel, extra="forbid"):
    """A text collection: which, and how much of it."""

    path: str = execution_only(
        description="File, folder or glob; a file's http(s) URL; hf://datasets/OWNER/NAME on the Hugging Face hub; or "
        "a .paths.gz list of Common Crawl; "
        "`${NAME}` stands for a variable of the environment, as for a password"
    )
    name: str = Field("openwebtext", min_length=1, description="Name of the collection, the documents' source")
    required: bool = execution_only(
        True, description="Whether a missing collection is an error; otherwise the run goes on without it"
    )
    text_column: str = Field("text", description="Column of Parquet or CSV, or JSON key, that holds the text")
    limit: int | None = Field(None, gt=0, description="Stop after this many documents")
    sample: float | None = Field(
        None, gt=0, le=1, description="Keep this share of the documents, by a hash of the text"
    )
    max_skipped: float = Field(
        0.01,
        ge=0,
        le=1,
        description="Largest share of the records that may be unreadable, and of the files that may be damaged; more "
        "is an error. One unreadable place alone (a line, a row group, the rest of a file that breaks off) never is",
    )
    workers: int = execution_only(
        default_factory=lambda: min(4, os.cpu_count() or 1), ge=1, description="Threads that read ahead"
    )

    @field_validator("path")
    @classmethod
    def _path(cls, path: str) -> str:
        if not path.strip():
            raise ValueError("empty path: name a file, a folder, a glob, a URL or hf://datasets/OWNER/NAME")
        return not_masked(path)
