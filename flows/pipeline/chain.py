"""The chain: the order of the stages and what each is given, written once.

What becomes of a stage is up to the interpreter that visits it: `flows.service.building.Builder` builds or reuses it as
a Prefect task, `flows.pipeline.plan.Planner` says what would happen, `flows.pipeline.gc.References` which artifacts a
run would work with, `flows.pipeline.selection` what depends on what.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Literal, Protocol, TypeVar

from flows.engine.stage import Config, Stage
from flows.pipeline.config import PipelineConfig
from flows.stages.answering import answering
from flows.stages.finetune import finetune
from flows.stages.import_checkpoint import import_checkpoint
from flows.stages.ingest import ingest
from flows.stages.pairs import pairs
from flows.stages.prepare import PrepareSettings, prepare
from flows.stages.pretokenize import pretokenize
from flows.stages.pretrain import pretrain
from flows.stages.questions import questions
from flows.stages.report import report
from flows.stages.scrape import scrape
from flows.stages.text_pairs import text_pairs
from flows.stages.train_tokenizer import train_tokenizer

_IN_ORDER: tuple[Stage[Any], ...] = (
    scrape, ingest, prepare, import_checkpoint, train_tokenizer, pretokenize, pairs, text_pairs, questions, pretrain,
    finetune, answering, report,
)  # fmt: skip
STAGES: dict[str, Stage[Any]] = {stage.name: stage for stage in _IN_ORDER}

if TYPE_CHECKING:
    StageName = str
else:
    StageName = Literal[tuple(STAGES)]  # so that forms offer the names

Result = TypeVar("Result")


class Interpreter(Protocol[Result]):
    """Visits a stage, and answers with what later stages are given as their input."""

    def __call__(
        self, stage: Stage[Config], config: Config, /, **inputs: Result | list[Result] | None
    ) -> Result | None: ...


def chain(config: PipelineConfig, visit: Interpreter[Any]) -> None:
    """Every stage of the pipeline, in order, each with its configuration and inputs."""
    sources = config.scrape.load()
    pages = [visit(scrape, source) for source in sources]
    collections = [visit(ingest, collection) for collection in config.collections()]
    documents = [made for made in collections if made is not None]
    reading = PrepareSettings(corpus=config.prepare, extractors={source.name: source.extractor for source in sources})
    corpus = visit(prepare, reading, pages=pages, documents=documents)
    if config.import_checkpoint:
        imported = tokenizer = visit(import_checkpoint, config.import_checkpoint)
    else:
        imported, tokenizer = None, visit(train_tokenizer, config.train_tokenizer, corpus=corpus)
    tokens = visit(pretokenize, config.pretokenize, corpus=corpus, tokenizer=tokenizer)
    tuned_on = visit(pairs, config.pairs, corpus=corpus, tokenizer=tokenizer) if config.pairs else tokens
    learned = tokens
    if config.text_pairs:
        made = visit(text_pairs, config.text_pairs, tokenizer=tokenizer)
        learned, tuned_on = (made, tuned_on) if config.text_pairs.use == "pretrain" else (learned, made)
    asked = config.questions and visit(questions, config.questions, corpus=None if config.questions.path else corpus)
    if config.import_checkpoint:
        pretrained = imported
    else:
        pretrained = visit(pretrain, config.pretrain, tokens=learned, tokenizer=tokenizer)
    finetuned = visit(finetune, config.finetune, checkpoint=pretrained, tokens=tuned_on) if config.finetune else None
    answered = None
    if config.answering:
        tuned = finetuned if config.finetune and config.answering.method == "extractive" else pretrained
        answered = visit(answering, config.answering, checkpoint=tuned, questions=asked)
    visit(
        report, config.report,
        corpus=corpus, tokenizer=None if config.import_checkpoint else tokenizer, tokens=tokens, pretrained=pretrained,
        finetuned=finetuned, answering=answered,
    )  # fmt: skip
