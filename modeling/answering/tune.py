"""Tuning a checkpoint on a set of questions, from the folders to `stats.json`."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Literal

from modeling.answering.answer import answer_questions
from modeling.answering.config import AnsweringConfig
from modeling.answering.extractive import LONGEST, SpanSearch
from modeling.answering.generative import AnswerWriting, Rows, SourceRows
from modeling.answering.metrics import scores
from modeling.answering.questions import SPLITS, Question, read_split, spread
from modeling.answering.spans import Answer
from modeling.answering.windows import Layout, QuestionWindows
from modeling.checkpoint import SPAN, WEIGHTS, CheckpointConfig, load_model, load_tokenizer_of
from modeling.config.network import EncoderDecoderConfig, TransformerConfig
from modeling.device import choose
from modeling.networks.language_model import LanguageModel
from modeling.networks.span import SPAN_PREFIX, SpanModel
from modeling.training.distributed import join_ranks, local_rank
from modeling.training.pretrain import fingerprint, recipe
from modeling.training.saving import is_finished, separate_head
from modeling.training.state import TrainingRun
from modeling.training.trainer import Trainer
from textmill.errors import UserError
from textmill.progress import Progress
from tokenization.formats import save_tokenizer
from tokenization.tokenizer import Tokenizer

__all__ = ["tune"]

SAMPLES = 8  # questions that the report shows with their answers


def tune(checkpoint: Path, questions: Path, config: AnsweringConfig, out: Path, progress: Progress) -> None:
    """Train a checkpoint to answer questions and leave a checkpoint folder in `out`; a second call continues.

    `stats.json` holds exact match and F1 on held-out questions, those of the best answer that looks at no question, and
    some answers.

    Args:
        checkpoint: the one to start from; a causal one, where answers are written.
        questions: folder of a set of questions.
        config: how to train.
        out: folder to fill.
        progress: is told steps and metrics.

    Raises:
        UserError: `checkpoint` is not a checkpoint or cannot learn it, `questions` is not a set of questions or has
            none that suit the method, or as `pretrain` does.
    """
    compute = choose(config.device, config.precision, local_rank())
    base, origin = load_model(checkpoint)
    tokenizer = load_tokenizer_of(checkpoint, origin)
    train, validation = (read_split(questions, split) for split in SPLITS)
    config = settled(config, origin, train)
    validation = spread(validation, max(1, config.evaluate_tokens // config.length))
    inputs = {
        "tokens": fingerprint(*(questions / f"{split}.parquet" for split in SPLITS)),
        "origin": fingerprint(checkpoint / WEIGHTS),
    }
    model_config = origin.model.model_copy(update={"dropout": config.dropout})
    checkpoint_config = CheckpointConfig(
        model_config,
        origin.vocab_size,
        learned(config, origin),
        False,
        recipe(config, inputs),
    )
    if is_finished(out, checkpoint_config, config):
        return
    writes_targets = checkpoint_config.objective == "pairs"
    objective, told = objective_on(train, validation, config, tokenizer, writes_targets=writes_targets)
    group = join_ranks(compute.device)
    model = network(checkpoint_config)
    model.load_state_dict(model.state_dict() | base.state_dict())
    run = TrainingRun(model, objective, checkpoint_config, config, out)
    trainer = Trainer(run, compute, group, progress)
    trainer.run()
    if group.first:
        metrics = trainer.saver.publish()
        if config.method == "extractive":
            separate_head(out, SPAN_PREFIX, SPAN)
        save_tokenizer(tokenizer, out)
        answers = answer_questions(out, validation, device=str(compute.device))
        stats = {
            **run.stats(metrics),
            **told,
            **scores([answer.text for answer in answers], validation),
            **baseline(train, validation, may_be_none=bool(config.no_answer)),
            "samples": samples(validation, answers),
        }
        trainer.saver.finish(stats)
    group.barrier()


def learned(config: AnsweringConfig, origin: CheckpointConfig) -> Literal["span", "causal", "pairs"]:
    """The objective of the result: to find an answer, to continue a prompt with one, or to write one of a source."""
    if config.method == "extractive":
        return "span"
    return "pairs" if isinstance(origin.model, EncoderDecoderConfig) else "causal"


def network(config: CheckpointConfig) -> LanguageModel:
    """The model that is trained, with a head for spans where that is what it learns."""
    if config.objective == "span" and isinstance(config.model, TransformerConfig):
        return SpanModel(config.model, config.vocab_size)
    return config.build_model()


def settled(config: AnsweringConfig, origin: CheckpointConfig, train: Sequence[Question]) -> AnsweringConfig:
    """The settings with those filled in that follow from the checkpoint and the questions.

    Raises:
        UserError: the checkpoint cannot learn this.
    """
    if config.method == "extractive" and not isinstance(origin.model, TransformerConfig):
        raise UserError(
            f"models of kind {origin.model.kind} cannot point at an answer; set answering.method: generative"
        )
    writes = origin.continues or isinstance(origin.model, EncoderDecoderConfig)
    if config.method == "generative" and not writes:
        raise UserError(
            "an answer is written by a model that continues text, and this checkpoint sees both sides of a blank; give "
            "the one that pretrain wrote, or set method: extractive"
        )
    length = min(config.length, origin.model.context)
    longest = LONGEST if config.method == "extractive" else length // 4
    no_answer = any(not question.answers for question in train)
    return config.model_copy(
        update={
            "dropout": origin.model.dropout if config.dropout is None else config.dropout,
            "length": length,
            "longest_answer": min(config.longest_answer or longest, length // 2),
            "no_answer": no_answer if config.no_answer is None else config.no_answer,
        }
    )


def objective_on(
    train: Sequence[Question],
    validation: Sequence[Question],
    config: AnsweringConfig,
    tokenizer: Tokenizer,
    *,
    writes_targets: bool,
) -> tuple[SpanSearch | AnswerWriting, dict[str, Any]]:
    """The objective of a method, and for `stats.json` on how many questions, and what is not as it was given.

    Raises:
        UserError: no question suits the method.
    """
    if config.method == "generative":
        kind = SourceRows if writes_targets else Rows
        rows, held_out = kind(train, tokenizer, config), kind(validation, tokenizer, config)
        told = {"questions": len(train), "rows": len(rows), "cut": rows.cut}
        return AnswerWriting(rows, held_out, config), told | {"validation_questions": len(validation)}
    if any(question.context is None for question in (*train, *validation)):
        raise UserError("prompts have no context in which an answer could be found; set answering.method: generative")
    usable = [question for question in train if question.is_found]
    if not config.no_answer:
        usable = [question for question in usable if question.answers]
    if not usable:
        raise UserError("no answer of the questions to train on occurs in its context; look into not_found.jsonl")
    layout = Layout(config.length, config.stride, tokenizer.special_tokens)
    windows, asked = (QuestionWindows(questions, tokenizer, layout) for questions in (usable, validation))
    told = {
        "questions": len(usable),
        "left_out": len(train) - len(usable),
        "windows": len(windows),
        "cut": windows.cut,
        "too_long": int((windows.ends - windows.starts >= (config.longest_answer or LONGEST)).sum()),
        "validation_questions": len(validation),
    }
    return SpanSearch(windows, asked, config), told


def baseline(train: Sequence[Question], validation: Sequence[Question], *, may_be_none: bool) -> dict[str, Any]:
    """How far one gets without a look at the question: by the most frequent answer, by as many first words of the
    context as answers have, or by saying that there is none; the one with the highest F1."""
    answers = [question.answers[0] for question in train if question.answers]
    ways: dict[str, list[str]] = {}
    if answers:
        words = sorted(len(answer.split()) for answer in answers)[len(answers) // 2]
        frequent = Counter(answers).most_common(1)[0][0]
        ways[f"always {frequent!r}"] = [frequent] * len(validation)
        ways[f"the first words of the context, {words}"] = [
            " ".join((question.context or "").split()[:words]) for question in validation
        ]
    if may_be_none:
        ways["never an answer"] = [""] * len(validation)
    scored = {way: scores(texts, validation) for way, texts in ways.items()}
    best = max(scored, key=lambda way: scored[way]["f1"])
    return {"baseline": best} | {f"baseline_{name}": value for name, value in scored[best].items()}


def samples(questions: Sequence[Question], answers: Sequence[Answer]) -> list[dict[str, Any]]:
    """For the report: some questions, what the model answers, and what is right."""
    shown = spread(list(zip(questions, answers, strict=True)), SAMPLES)
    return [
        {"question": asked.question, "answer": given.text, "right": list(asked.answers), "score": round(given.score, 4)}
        for asked, given in shown
    ]
