"""The configuration of a pipeline: one section a stage, read from YAML, overridable key by key.

Every mistake is found before any work starts, and named with its place in the file and the nearest valid key.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

import yaml
from pydantic import BaseModel, Field, field_validator, model_validator

from flows.engine.executors import ExecutorConfig
from flows.stages.report import ReportConfig
from modeling.config import FinetuneConfig, PretrainConfig
from scraping.collections.config import IngestConfig
from scraping.corpus.config import PrepareConfig
from scraping.crawling.source import Source, load_source
from scraping.extraction.extract import RecordsExtractor, load_reader
from textmill.addresses import not_masked
from textmill.errors import UserError
from textmill.settings import merged, read_settings
from tokenization.config import PretokenizeConfig, SentencePairsConfig, TokenizerConfig

_EXPONENT = re.compile(r"\s*[-+]?\d+(\.\d*)?[eE][-+]?\d+\s*")  # YAML 1.1 reads 3e-4 as text


class ScrapeSection(BaseModel, extra="forbid"):
    """Which sites to crawl."""

    sources: list[str] = Field(default_factory=list, description="Shipped sources by name, or paths of YAML files")
    max_pages: int | None = Field(None, gt=0, description="At most so many pages of each source")
    at_once: int = Field(4, gt=0, description="So many sources are crawled at the same time, each host by one crawl")

    @field_validator("sources")
    @classmethod
    def _known(cls, sources: list[str]) -> list[str]:
        declared: dict[str, str] = {}  # by the source's name, which tells its pages and extractor from others'
        for entry in sources:
            try:
                source = load_source(entry)
                if isinstance(source.extractor, RecordsExtractor):
                    load_reader(source.extractor)  # a wrong one shows now, not after the crawl
            except UserError as error:
                raise ValueError(str(error)) from error
            if source.name in declared:
                raise ValueError(
                    f"{declared[source.name]} and {entry} are both called {source.name}: give one another `name`"
                )
            declared[source.name] = entry
        return sources

    def load(self) -> list[Source]:
        """The declared sources in the order of their names, so that the order in the file changes nothing."""
        sources = sorted((load_source(name) for name in self.sources), key=lambda source: source.name)
        if self.max_pages is None:
            return sources
        return [
            source.model_copy(
                update={"limits": source.limits.model_copy(update={"pages": min(source.limits.pages, self.max_pages)})}
            )
            for source in sources
        ]


class PipelineConfig(BaseModel, extra="forbid"):
    """A whole pipeline. Sections are named after the stages."""

    name: str = Field("pipeline", description="Names the runs of this configuration")
    store: str = Field("store", description="Folder of the finished artifacts, or a URL: s3://bucket/prefix")
    runner: ExecutorConfig = Field(default_factory=ExecutorConfig)
    scrape: ScrapeSection = Field(default_factory=ScrapeSection)
    ingest: IngestConfig | None = Field(None, description="OpenWebText or a relative; none: only scraped pages")
    prepare: PrepareConfig = Field(default_factory=PrepareConfig)
    train_tokenizer: TokenizerConfig = Field(default_factory=TokenizerConfig)
    pretokenize: PretokenizeConfig = Field(default_factory=PretokenizeConfig)
    pairs: SentencePairsConfig | None = Field(
        None, description="Fine-tune on pairs of sentences; none: on running text"
    )
    pretrain: PretrainConfig = Field(default_factory=PretrainConfig)
    finetune: FinetuneConfig | None = Field(default_factory=FinetuneConfig, description="none: no fine-tuning")
    report: ReportConfig = Field(default_factory=ReportConfig)

    @field_validator("store")
    @classmethod
    def _store(cls, store: str) -> str:
        return not_masked(store)

    @model_validator(mode="after")
    def _optimizer_fits_the_model(self) -> PipelineConfig:
        """Fine-tuning goes on with the optimizer that the model was pretrained with, unless it is given its own."""
        if self.finetune is not None and "optimizer" not in self.finetune.model_fields_set:
            self.finetune.optimizer = self.pretrain.optimizer.model_copy()
        return self


def load_config(path: Path, overrides: Mapping[str, Any] | None = None) -> PipelineConfig:
    """Read a configuration, with `overrides` (nested like the file) in place of what the file says.

    Raises:
        UserError: no such file, not YAML, an unknown or ill-typed key.
    """
    return read_settings(path, PipelineConfig, overrides)


def parse_overrides(texts: Iterable[str]) -> dict[str, Any]:
    """Overrides from the command line: `section.key=value` with a YAML value, as a nested mapping.

    Raises:
        UserError: a text that is not of this form.
    """
    overrides: dict[str, Any] = {}
    for text in texts:
        key, equals, value = text.partition("=")
        keys = key.strip().split(".")
        if not equals or not all(keys):
            raise UserError(f"--set {text}: write section.key=value, for example --set pretrain.steps=200")
        try:
            parsed: Any = float(value) if _EXPONENT.fullmatch(value) else yaml.safe_load(value)
        except yaml.YAMLError as error:
            raise UserError(f"--set {text}: the value is not valid YAML") from error
        for part in reversed(keys):
            parsed = {part: parsed}
        overrides = merged(overrides, parsed)
    return overrides
