"""The configuration of a pipeline: one section a stage, read from YAML, overridable key by key.

Every mistake is found before any work starts, and named with its place in the file and the nearest valid key. Paths in
a file are relative to it, paths in overrides to the working directory, as those on a command line are.
"""

from __future__ import annotations

import difflib
import os
import re
from collections.abc import Callable, Iterable, Mapping, Set
from pathlib import Path
from typing import Any

import yaml
from pydantic import BaseModel, Field, ValidationInfo, field_validator, model_validator

from flows.engine.executors import ExecutorConfig
from flows.stages.report import ReportConfig
from modeling.answering.config import AnsweringConfig, QuestionsConfig
from modeling.config.finetune import FinetuneConfig
from modeling.config.optimization import finetuning_optimizer, refuse_unused_rates
from modeling.config.pretrain import ImportConfig, PretrainConfig
from modeling.config.run import SourceConfig
from scraping.collections.config import IngestConfig
from scraping.corpus.config import PrepareConfig
from scraping.crawling.source import OWN, SHIPPED, Schedule, Source, find_source, load_source
from scraping.extraction.config import RecordsExtractor, load_reader
from textmill.addresses import not_masked
from textmill.errors import UserError
from textmill.settings import layered, read_settings
from tokenization.config import PretokenizeConfig, SentencePairsConfig, TextPairsConfig, TokenizerConfig, sentinel_names

REPLACED = ("train_tokenizer", "pretrain")  # stages in whose place a checkpoint is imported
CONFIGS = "configs"  # the folder of a project's configurations
_IS_RELATIVE = re.compile(r"(?![\w+.-]+://|[~/$])\S")  # neither a URL nor absolute, nor what a variable holds
_EXPONENT = re.compile(r"\s*[-+]?\d+(\.\d*)?[eE][-+]?\d+\s*")  # YAML 1.1 reads 3e-4 as text


class ScrapeSection(BaseModel, extra="forbid"):
    """Which sites to crawl."""

    sources: list[str] = Field(
        default_factory=list, description="Sources by name (yours in sources/, or Textmill's), or paths of YAML files"
    )
    max_pages: int | None = Field(None, gt=0, description="At most so many pages of each source")
    at_once: int = Field(4, gt=0, description="So many sources are crawled at the same time, each host by one crawl")

    @field_validator("sources")
    @classmethod
    def _known(cls, sources: list[str], info: ValidationInfo) -> list[str]:
        """Every source by its path; a shipped one by its name."""
        own = (info.context or {}).get("sources", OWN)
        declared: dict[str, str] = {}  # by the source's name, which tells its pages and extractor from others'
        for entry in sources:
            try:
                path = find_source(entry, own)
                source = load_source(path)
                if isinstance(source.extractor, RecordsExtractor):
                    load_reader(source.extractor)  # a wrong one shows now, not after the crawl
            except UserError as error:
                raise ValueError(str(error)) from error
            if source.name in declared:
                raise ValueError(
                    f"{declared[source.name]} and {entry} are both called {source.name}: give one another `name`"
                )
            declared[source.name] = path.stem if path.parent == SHIPPED else str(path)
        return list(declared.values())

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

    name: str = Field("pipeline", min_length=1, description="Names the runs of this configuration")
    description: str = Field("", description="What it is, in one line, for its deployment's page")
    schedule: Schedule | None = Field(None, description="When the service runs the whole pipeline by itself")
    store: str = Field(
        "store", description="Folder of the finished artifacts, or a URL: s3://bucket/prefix; the project's if left out"
    )
    runner: ExecutorConfig = Field(default_factory=ExecutorConfig)
    scrape: ScrapeSection = Field(default_factory=ScrapeSection)
    ingest: list[IngestConfig] = Field(
        [], description="OpenWebText and its relatives, one or a list; none: only scraped pages"
    )
    prepare: PrepareConfig = Field(default_factory=PrepareConfig)
    import_checkpoint: ImportConfig | None = Field(
        None, description="Weights of others to start from; finetune.from is short for its path; none: pretraining"
    )
    train_tokenizer: TokenizerConfig = Field(default_factory=TokenizerConfig)
    pretokenize: PretokenizeConfig = Field(default_factory=PretokenizeConfig)
    pairs: SentencePairsConfig | None = Field(
        None, description="Fine-tune on pairs of sentences; none: on running text"
    )
    text_pairs: TextPairsConfig | None = Field(
        None, description="Files of sources and targets to train an encoder-decoder on; none: on running text"
    )
    questions: QuestionsConfig | None = Field(
        None,
        description="Questions that a model learns to answer, of a file or made from the corpus; none: no answering",
    )
    pretrain: PretrainConfig = Field(default_factory=PretrainConfig)
    finetune: FinetuneConfig | None = Field(default_factory=FinetuneConfig, description="none: no fine-tuning")
    answering: AnsweringConfig | None = Field(
        None, description="How a model learns to answer the questions; none: they are only made"
    )
    report: ReportConfig = Field(default_factory=ReportConfig)

    def collections(self) -> list[IngestConfig]:
        """The collections in the order of their names, so that the order in the file changes nothing."""
        return sorted(self.ingest, key=lambda collection: collection.name)

    def has(self, stage: str) -> bool:
        """Whether the stage takes part."""
        if stage in REPLACED and self.import_checkpoint:
            return False
        return getattr(self, stage) not in (None, [])

    def check_sources(self, left_out: Set[str] = frozenset()) -> None:
        """Check the names of sites and collections: a document's `source` is one of them, and a mixture names them.

        Args:
            left_out: stages that a run does not need. A crawl alone may be of other sites than a mixture names.

        Raises:
            UserError: two have one name, or a mixture does not fit them.
        """
        training = {"pretrain": self.pretrain, "finetune": self.finetune}
        mixtures = {stage: run.mixture for stage, run in training.items() if run and stage not in left_out}
        if "prepare" in left_out or not (self.ingest or any(mixtures.values())):
            return
        names = [source.name for source in self.scrape.load()]
        for collection in self.ingest:
            if collection.name in names:
                raise UserError(
                    f"two sources of documents are called {collection.name}: give the collection another `name`"
                )
            names.append(collection.name)
        for stage, mixture in mixtures.items():
            _check_mixture(f"{stage}.mixture", mixture, names)

    @field_validator("store")
    @classmethod
    def _store(cls, store: str) -> str:
        return not_masked(store)

    @model_validator(mode="before")
    @classmethod
    def _paths_are_relative_to_the_file(cls, document: Any, info: ValidationInfo) -> Any:
        if not (info.context and isinstance(document, Mapping)):
            return document
        folder: Path = info.context["folder"]
        written = _with_paths(document, lambda place: str(_within(folder, place)))
        return {"store": str(_within(project_folder(folder), "store")), **written}

    @model_validator(mode="before")
    @classmethod
    def _starts_from_weights_of_others(cls, document: Any) -> Any:
        """`finetune.from` is short for the path of the section `import_checkpoint`, which leaves others without use."""
        if not isinstance(document, Mapping):
            return document
        document = dict(document)
        if isinstance(finetune := document.get("finetune"), Mapping) and "from" in finetune:
            document["finetune"] = {key: value for key, value in finetune.items() if key != "from"}
            if (path := finetune["from"]) is not None:
                if not (isinstance(path, str) and path):
                    raise ValueError("finetune.from: give the path of a folder that transformers wrote")
                if document.get("import_checkpoint") is not None:
                    raise ValueError("finetune.from is short for import_checkpoint.path; give one of the two")
                document["import_checkpoint"] = {"path": path}
        if document.get("import_checkpoint") is not None:
            for section in REPLACED:
                if document.pop(section, None) is not None:
                    raise ValueError(
                        f"{section}: a checkpoint is imported with its tokenizer (finetune.from, import_checkpoint), "
                        f"which leaves this section without use; leave it out, or set {section}=null"
                    )
        return document

    @field_validator("ingest", mode="before")
    @classmethod
    def _one_or_several(cls, given: Any) -> Any:
        """One collection may be written without the list."""
        return [] if given is None else [given] if isinstance(given, Mapping) else given

    @model_validator(mode="after")
    def _pairs_are_not_mixed(self) -> PipelineConfig:
        if self.pairs is not None and self.finetune is not None and self.finetune.mixture:
            raise ValueError("finetune.mixture: pairs of sentences are not mixed by source; leave it out")
        if self.pairs is not None and self.finetune is not None and self.finetune.attend == "document":
            raise ValueError("finetune.attend: a pair of sentences is seen whole; leave it out")
        return self

    @model_validator(mode="after")
    def _text_pairs_are_used(self) -> PipelineConfig:
        kind, text_pairs = self.pretrain.model.kind, self.text_pairs
        if self.pairs is not None and kind != "transformer":
            raise ValueError(f"pairs: {kind} models are not tuned on pairs of sentences; leave the section out")
        if text_pairs is None:
            return self
        for stage, run in {"pretrain": self.pretrain, "finetune": self.finetune}.items():
            if stage == text_pairs.use and run is not None and run.mixture:
                raise ValueError(f"{stage}.mixture: sources and targets are not mixed by source; leave it out")
        if kind != "encoder-decoder":
            raise ValueError("text_pairs: sources and targets need pretrain.model.kind: encoder-decoder")
        if text_pairs.use == "pretrain" and self.finetune is not None:
            raise ValueError("finetune: text_pairs.use gives the pairs to pretrain; set finetune: null")
        if text_pairs.use == "finetune" and self.finetune is None:
            raise ValueError("text_pairs: there is no fine-tuning that uses them; set text_pairs.use: pretrain")
        return self

    @model_validator(mode="after")
    def _tokenizer_fits_the_model(self) -> PipelineConfig:
        """The tokenizer gets the sentinels that pretraining needs, unless its section says how many, or names some."""
        wanted, tokenizer = self.pretrain.sentinels(), self.train_tokenizer
        if wanted and tokenizer.sentinels is None and not set(sentinel_names(1)) & set(tokenizer.special_tokens):
            given = tokenizer.model_dump(exclude_unset=True) | {"sentinels": wanted}
            self.train_tokenizer = TokenizerConfig.model_validate(given)  # a vocabulary may be too small for them
        return self

    @model_validator(mode="after")
    def _answering_has_questions(self) -> PipelineConfig:
        if self.questions is None and self.answering is not None:
            raise ValueError("answering: there are no questions to learn from; give a section `questions: {}` too")
        if self.questions is not None and "answering" not in self.model_fields_set:
            self.answering = AnsweringConfig()
        kind = self.pretrain.model.kind
        if self.answering is not None and self.answering.method == "extractive" and kind != "transformer":
            raise ValueError(f"models of kind {kind} cannot point at an answer; set answering.method: generative")
        if self.answering is not None and self.answering.method == "generative" and self.pretrain.objective == "masked":
            raise ValueError(
                "answering.method: generative wants a model that continues text, and pretrain.objective is "
                "masked; set one of the two otherwise"
            )
        return self

    @model_validator(mode="after")
    def _optimizer_fits_the_model(self) -> PipelineConfig:
        """Tuning goes on with the optimizer, the dropout and the shift that the model was pretrained with, but for what
        it is given of its own."""
        for name, tuning in (("finetune", self.finetune), ("answering", self.answering)):
            if tuning is None:
                continue
            given = tuning.optimizer.model_fields_set
            tuning.optimizer = finetuning_optimizer(self.pretrain.optimizer, tuning.optimizer)
            refuse_unused_rates(f"{name}.optimizer", tuning.optimizer.name, given)
            if tuning.dropout is None:
                tuning.dropout = self.pretrain.model.dropout
        if self.finetune is not None and self.finetune.shift is None and self.has("pretrain"):
            self.finetune.shift = self.pretrain.masking.shift
        return self


def _check_mixture(place: str, mixture: Mapping[str, SourceConfig], names: list[str]) -> None:
    """
    Raises:
        UserError: it names a source that is not declared, or has weights for some sources only.
    """
    for name in mixture:
        if name not in names:
            near = difflib.get_close_matches(name, names, n=1)
            meant = f"did you mean {near[0]}?" if near else f"there are {', '.join(sorted(names)) or 'none'}"
            raise UserError(f"{place}.{name}: no source or collection has this name; {meant}")
    missing = sorted(set(names) - mixture.keys())
    if missing and any(source.weight is not None for source in mixture.values()):
        raise UserError(f"{place}: {missing[0]} has no weight but others have: give it one, 0 leaves it out")


def load_config(path: Path, overrides: Mapping[str, Any] | None = None, without: Iterable[str] = ()) -> PipelineConfig:
    """Read a configuration, with `overrides` (nested like the file) in place of what the file says, and what it says of
    the dotted names `without` left out. With overrides the names of its sources are checked by the plan of a run,
    because they may suit only some of the stages.

    Raises:
        UserError: no such file, not YAML, an unknown or ill-typed key, or names of sources that do not fit.
    """
    folder = path.parent
    here = _with_paths(overrides or {}, lambda place: str(Path.cwd() / place))
    places = {"folder": folder, "sources": project_folder(folder) / OWN}
    config = read_settings(path, PipelineConfig, here, places, without)
    if not overrides:
        try:
            config.check_sources()
        except UserError as error:
            raise UserError(f"{path}: {error}") from error
    return config


def project_folder(configurations: Path) -> Path:
    """The folder of the project whose configurations are in this one: it, or the one above if it is called `configs`.

    Example:
        >>> project_folder(Path("my-project/configs"))
        PosixPath('my-project')
    """
    return _within(configurations, "..") if configurations.absolute().name == CONFIGS else configurations


def is_relative(place: str) -> bool:
    """Whether a place is a path that means another one elsewhere: no URL, not absolute, not what a variable holds."""
    return _IS_RELATIVE.match(place) is not None


def _within(folder: Path, place: str) -> Path:
    """A place that is relative to a folder, without the detours: `configs` and `../store` give `store`."""
    return Path(os.path.normpath(folder / place))


def _with_paths(document: Mapping[str, Any], place: Callable[[str], str]) -> dict[str, Any]:
    """A configuration whose relative paths are replaced by what `place` makes of them. URLs, names of sources and what
    is not even of the right type stay as they are."""

    def placed(value: Any) -> Any:
        return place(value) if isinstance(value, str) and is_relative(value) else value

    def whole(value: Any) -> Any:  # because manifests keep it
        path = placed(value)
        return path if path is value else str(Path(path).absolute())

    def entry(value: Any) -> Any:
        return placed(value) if isinstance(value, str) and ("/" in value or Path(value).suffix) else value

    def collection(value: Any) -> Any:
        return {**value, "path": whole(value["path"])} if isinstance(value, Mapping) and "path" in value else value

    def items(value: Any, item: Callable[[Any], Any]) -> Any:
        """Those of a list, or of some of it by their numbers, as overrides give them."""
        if isinstance(value, Mapping):
            return {key: item(below) if str(key).isdigit() else below for key, below in value.items()}
        return [item(below) for below in value] if isinstance(value, list) else value

    result = dict(document)
    if "store" in result:
        result["store"] = placed(result["store"])
    ingest, scrape, runner = result.get("ingest"), result.get("scrape"), result.get("runner")
    job = runner.get("job") if isinstance(runner, Mapping) else None
    if isinstance(runner, Mapping) and isinstance(job, Mapping) and "folder" in job:
        result["runner"] = {**runner, "job": {**job, "folder": placed(job["folder"])}}
    questions = result.get("questions")
    if isinstance(questions, Mapping):
        paths = {key: whole(value) for key, value in questions.items() if key in ("path", "validation")}
        result["questions"] = {**questions, **paths}
    for section, key in (("import_checkpoint", "path"), ("finetune", "from")):
        if isinstance(given := result.get(section), Mapping) and key in given:
            result[section] = {**given, key: whole(given[key])}
    if "ingest" in result:
        result["ingest"] = items(collection(ingest), collection)
    prepare = result.get("prepare")
    decontaminate = prepare.get("decontaminate") if isinstance(prepare, Mapping) else None
    if isinstance(prepare, Mapping) and isinstance(decontaminate, Mapping) and "paths" in decontaminate:
        paths = items(decontaminate["paths"], whole)
        result["prepare"] = {**prepare, "decontaminate": {**decontaminate, "paths": paths}}
    pairs = result.get("text_pairs")
    if isinstance(pairs, Mapping):
        placed_files = {key: items(pairs[key], whole) for key in ("paths", "validation") if key in pairs}
        one = {key: whole(pairs[key]) for key in placed_files if isinstance(pairs[key], str)}
        result["text_pairs"] = {**pairs, **placed_files, **one}
    if isinstance(scrape, Mapping) and "sources" in scrape:
        result["scrape"] = {**scrape, "sources": items(scrape["sources"], entry)}
    return result


def parse_overrides(texts: Iterable[str]) -> dict[str, Any]:
    """Overrides from the command line: `section.key=value` with a YAML value, as a nested mapping.

    Raises:
        UserError: a text that is not of this form, or one of two that contradict each other.
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
        overrides = layered(overrides, parsed)
    return overrides
