"""Answers to questions by a checkpoint that was tuned on some."""

from __future__ import annotations

import logging
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import safetensors.torch
import torch
from torch import Tensor

from modeling.answering.config import AnsweringConfig
from modeling.answering.extractive import LONGEST, read
from modeling.answering.files import read_questions
from modeling.answering.generative import Prompt, joined, longest_answer, prompts_of
from modeling.answering.metrics import scores
from modeling.answering.questions import Question, read_split, spread
from modeling.answering.spans import COLUMNS, Answer, answers_of, best_spans
from modeling.answering.windows import Layout, QuestionWindows
from modeling.checkpoint import SPAN, CheckpointConfig, load_model, load_tokenizer_of
from modeling.config.network import TransformerConfig
from modeling.device import choose
from modeling.inference.generate import Checkpoint, Sampling, generate, load
from modeling.inference.targets import padded, source_of
from modeling.networks.encoder_decoder import EncoderDecoder, Sources
from modeling.networks.span import SpanModel
from modeling.spans import begun
from textmill.errors import UserError
from textmill.progress import Progress, quiet
from tokenization.tokenizer import Tokenizer

__all__ = ["answer_questions", "answers_questions", "evaluate_answers"]

logger = logging.getLogger(__name__)

TUNED = "longest_answer"  # a setting that no other training has
BATCH = 16  # windows at once


def answer_questions(
    checkpoint: Path, questions: Sequence[Question], device: str = "auto", progress: Progress = quiet
) -> list[Answer]:
    """An answer to each question.

    Args:
        checkpoint: folder of a model that was tuned on questions.
        questions: their `answers` are not looked at.
        device: where to compute.
        progress: is told windows.

    Raises:
        UserError: the folder is not a checkpoint, or not one that answers questions, a question lacks its context, or
            the device is not there.
    """
    config = CheckpointConfig.read(checkpoint)
    settings = settings_of(checkpoint, config)
    if config.objective == "span":
        if without := [question.question for question in questions if question.context is None]:
            raise UserError(f"this checkpoint finds answers in a context; give one for {without[0][:40]!r}")
        return find_answers(checkpoint, questions, settings, device, progress)
    return write_answers(load(checkpoint, device), questions, settings, progress)


def evaluate_answers(
    checkpoint: Path, data: Path, split: str, limit: int | None, device: str = "auto", progress: Progress = quiet
) -> dict[str, float]:
    """How well a checkpoint answers questions whose answers are known.

    Args:
        checkpoint: folder of a model that was tuned on questions.
        data: a file of questions, or a folder that `sets.make_set` filled.
        split: of the folder.
        limit: most questions that are asked, evenly from among them.
        device: where to compute.
        progress: is told windows.

    Returns:
        The number of `questions`, how many were `answered`, `exact_match` and `f1`.

    Raises:
        UserError: as `answer_questions` does, or `data` holds no questions with answers.
    """
    questions = spread(read_split(data, split) if data.is_dir() else read_questions(data), limit)
    answers = answer_questions(checkpoint, questions, device, progress)
    texts = [answer.text for answer in answers]
    return {"questions": len(questions), "answered": sum(map(bool, texts))} | scores(texts, questions)


def answers_questions(checkpoint: Path) -> bool:
    """Whether a checkpoint was tuned on questions.

    Raises:
        UserError: it is not a checkpoint.
    """
    return TUNED in CheckpointConfig.read(checkpoint).run


def settings_of(checkpoint: Path, config: CheckpointConfig) -> AnsweringConfig:
    """What a checkpoint was tuned with.

    Raises:
        UserError: it was not tuned on questions.
    """
    if TUNED not in config.run:
        raise UserError(
            f"{checkpoint} was not tuned to answer questions; give the configuration a section `questions: {{}}` and "
            "run answering"
        )
    known = {name: value for name, value in config.run.items() if name in AnsweringConfig.model_fields}
    return AnsweringConfig.model_validate(known)


@torch.inference_mode()
def find_answers(
    checkpoint: Path, questions: Sequence[Question], settings: AnsweringConfig, device: str, progress: Progress
) -> list[Answer]:
    """Answers as parts of the contexts."""
    base, config = load_model(checkpoint)
    tokenizer = load_tokenizer_of(checkpoint, config)
    if not (checkpoint / SPAN).is_file():
        raise UserError(f"{checkpoint} lacks {SPAN}, the head that finds answers; restore it or run answering again")
    assert isinstance(config.model, TransformerConfig)  # no other is tuned to
    model = SpanModel(config.model, config.vocab_size).eval()
    model.load_state_dict(base.state_dict() | safetensors.torch.load_file(checkpoint / SPAN))
    place = choose(device, "fp32").device
    model.to(place)
    windows = QuestionWindows(questions, tokenizer, Layout(settings.length, settings.stride, tokenizer.special_tokens))
    if windows.cut:
        logger.warning(
            "%d questions are longer than %d tokens and were cut at the end", windows.cut, windows.most_asked
        )
    found = np.empty((len(windows), COLUMNS))
    for first in range(0, len(windows), BATCH):
        numbers = np.arange(first, min(first + BATCH, len(windows)))
        ids, allowed, documents, _, _ = read(windows, numbers).to(place)
        found[numbers] = (
            best_spans(model(ids, allowed, documents), allowed, settings.longest_answer or LONGEST).cpu().numpy()
        )
        progress(int(numbers[-1]) + 1, len(windows), unit="windows")
    return answers_of(windows, found, bool(settings.no_answer))


def write_answers(
    loaded: Checkpoint, questions: Sequence[Question], settings: AnsweringConfig, progress: Progress
) -> list[Answer]:
    """Answers as continuations: of several parts of a context the most probable answer, none only if there is no
    other."""
    prompts = [prompt for own in prompts_of(questions, loaded.tokenizer, settings) for prompt in own]
    if cut := len({prompt.question for prompt in prompts if prompt.is_cut}):
        logger.warning("%d questions are too long for the window and were cut at the end", cut)
    sampling = Sampling(max_tokens=longest_answer(settings), temperature=0)
    best: dict[int, Answer] = {}
    for first in range(0, len(prompts), BATCH):
        batch = prompts[first : first + BATCH]
        texts = [text.strip() for text in generate(loaded, [prompt.text for prompt in batch], sampling)]
        for prompt, text, score in zip(batch, texts, probabilities(loaded, batch, texts), strict=True):
            answer, earlier = Answer(text, score), best.get(prompt.question)
            if earlier is None or (bool(text), score) > (bool(earlier.text), earlier.score):
                best[prompt.question] = answer
        progress(min(first + BATCH, len(prompts)), len(prompts), unit="prompts")
    return [best[number] for number in range(len(questions))]


@torch.inference_mode()
def probabilities(loaded: Checkpoint, prompts: Sequence[Prompt], texts: Sequence[str]) -> list[float]:
    """How probable each text is after its prompt, with its end."""
    tokenizer: Tokenizer = loaded.tokenizer
    eot, context = tokenizer.eot_id, loaded.model.config.context
    if isinstance(loaded.model, EncoderDecoder):
        model = loaded.model
        sources = [source_of(prompt.text, model, tokenizer, continues=False) for prompt in prompts]
        state = model.read(Sources(*padded(sources, model.device)))
        targets = [[*tokenizer.encode_ordinary(text), eot][:context] for text in texts]
        written = padded(targets, model.device)[0]
        losses = model.token_losses(begun(written, eot), written, state)[0].double()
        return [losses[row, : len(target)].sum().neg().exp().item() for row, target in enumerate(targets)]
    told = [[*tokenizer.encode_ordinary(joined(p.text, text)), eot] for p, text in zip(prompts, texts, strict=True)]
    asked = [[eot, *tokenizer.encode_ordinary(prompt.text)] for prompt in prompts]
    rows = [(prompt + answer)[-context - 1 :] for prompt, answer in zip(asked, told, strict=True)]
    longest = max(map(len, rows))
    ids = torch.tensor([row + [eot] * (longest - len(row)) for row in rows], device=loaded.model.device)
    nll: Tensor = loaded.model.token_losses(ids[:, :-1], ids[:, 1:])[0].double()
    sums = [nll[i, len(row) - 1 - len(told[i]) : len(row) - 1].sum() for i, row in enumerate(rows)]
    return torch.stack(sums).neg().exp().tolist()
