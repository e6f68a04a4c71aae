"""Training to write the answer after a prompt: an objective for the `Trainer` whose loss is on the answers alone.

A row is an end of text, the prompt, the answer and an end of text, padded on the right, where a causal model does not
look. An encoder-decoder reads the prompt as its source and writes the answer as its target. A context that is too long
is read in parts, as in `windows`; a part without the answer is followed by none, where there may be none, and is left
out otherwise.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from functools import lru_cache
from typing import NamedTuple

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from modeling.answering.config import AnsweringConfig
from modeling.answering.questions import NOT_FOUND, Question
from modeling.answering.windows import encoded
from modeling.masking import own_targets
from modeling.networks.encoder_decoder import Sources
from modeling.spans import begun
from modeling.training.distributed import Ranks
from modeling.training.objectives import Batch, epoch_order, evaluation_rows
from modeling.training.seq2seq import Seq2SeqBatch, summed_loss
from textmill.errors import UserError
from tokenization.tokenizer import Tokenizer

__all__ = ["AnswerWriting", "Prompt", "Rows", "SourceRows", "longest_answer", "prompts_of"]

SLACK = 8  # tokens by which a part may grow where it is joined with the rest of its prompt
MIN_LENGTH = 32


def longest_answer(config: AnsweringConfig) -> int:
    """Most tokens of an answer, with its end."""
    return config.longest_answer or config.length // 4


class Prompt(NamedTuple):
    """What is to be continued with an answer.

    Attributes:
        question: number of its question.
        text: the prompt.
        begin, end: the characters of the context in it.
        is_cut: whether the question lost its last words, as it would have left no room for the context.
    """

    question: int
    text: str
    begin: int
    end: int
    is_cut: bool = False


def prompts_of(questions: Sequence[Question], tokenizer: Tokenizer, config: AnsweringConfig) -> list[list[Prompt]]:
    """The prompts of each question: several where its context is too long for one.

    Args:
        questions: the ones asked.
        tokenizer: that of the model.
        config: without open settings.

    Raises:
        UserError: the window is too short, or a question fills it.
    """
    if config.length < MIN_LENGTH:
        raise UserError(
            f"a prompt with its answer needs at least {MIN_LENGTH} tokens, not {config.length}; raise length"
        )
    contexts = encoded((question.context for question in questions if question.context is not None), tokenizer)
    room_for_prompt = config.length - longest_answer(config) - 1
    found = []
    for number, question in enumerate(questions):
        if question.context is None:
            found.append([Prompt(number, question.question, 0, 0)])
            continue
        words, room = question.question.split(" "), 0
        for kept in range(len(words), 0, -1):
            asked = config.template.replace("{question}", " ".join(words[:kept]))
            room = room_for_prompt - len(tokenizer.encode_ordinary(asked.replace("{context}", ""))) - SLACK
            if room >= SLACK:
                break
        else:
            raise UserError(
                f"the question {question.question[:40]!r}… leaves no room for its context in {config.length} tokens; "
                "raise length, lower longest_answer, or shorten it"
            )
        context = contexts[question.context]
        parts = []
        for first, last in context.parts(room, config.stride):
            begin, end = context.characters(question.context, first, last)
            parts.append(
                Prompt(
                    number,
                    asked.replace("{context}", question.context[begin:end].strip()),
                    begin,
                    end,
                    kept < len(words),
                )
            )
        found.append(parts)
    return found


class Rows:
    """Prompts with their answers as ids.

    Attributes:
        cut: how many answers, or prompts at their beginning, did not fit and are cut.
    """

    def __init__(self, questions: Sequence[Question], tokenizer: Tokenizer, config: AnsweringConfig):
        self.tokenizer, self.config, self.cut = tokenizer, config, 0
        self.pad = tokenizer.special_tokens.get("[PAD]", tokenizer.eot_id)
        prompts = prompts_of(questions, tokenizer, config)
        self.cut += sum(own[0].is_cut for own in prompts)
        self.rows = [row for own in prompts for row in self._rows_of(questions[own[0].question], own)]

    def __len__(self) -> int:
        return len(self.rows)

    def _rows_of(self, question: Question, prompts: list[Prompt]) -> Iterator[tuple[np.ndarray, np.ndarray]]:
        answer, start = (question.answers[0], question.starts[0]) if question.answers else ("", NOT_FOUND)
        holding = [p for p in prompts if start != NOT_FOUND and p.begin <= start and start + len(answer) <= p.end]
        holding = holding or prompts[:1]  # what is not found may follow from any part: the first stands for all
        for prompt in prompts:
            told = answer if prompt in holding else None
            if told is not None or self.config.no_answer:
                yield self._row(prompt.text, told or "")

    def _row(self, prompt: str, answer: str) -> tuple[np.ndarray, np.ndarray]:
        longest = longest_answer(self.config)
        asked = self.tokenizer.encode_ordinary(prompt)
        told = self.tokenizer.encode_ordinary(joined(prompt, answer))
        room = self.config.length - 1 - min(len(told), longest - 1)
        self.cut += len(told) + 1 > longest or len(asked) > room
        eot = self.tokenizer.eot_id
        return np.array([eot, *asked[max(0, len(asked) - room) :]]), np.array([*told[: longest - 1], eot])

    def evaluation(
        self, model: Callable[..., Tensor], ranks: Ranks, device: torch.device, batch: int
    ) -> dict[str, float]:
        """The loss of all answers, in nats a token, and which share of them is the most probable to the last token."""
        sums = torch.zeros(3, dtype=torch.float64)  # nats, tokens, and answers that are right to the last token
        for rows, weight in evaluation_rows(len(self), ranks, batch):
            read, counts = self.batch(rows.numpy())
            own = own_targets(read.targets, counts).to(device)
            data = read.to(device)
            targets = data.targets
            logits = model(data.ids, positions=data.positions).float()
            nats = F.cross_entropy(logits[own], targets[own], reduction="sum")
            right = ((logits.argmax(dim=-1) == targets) | ~own).all(dim=1).sum()
            sums += torch.stack((nats.cpu().double(), own.sum().cpu().double(), right.cpu().double())) * weight
        nats, tokens, right = ranks.sum(sums, device).tolist()
        return {"validation_loss": nats / tokens, "answers_right": right / len(self)}

    def batch(self, numbers: np.ndarray) -> tuple[Batch, Tensor]:
        """Rows of these numbers, and how many tokens the answer of each has, int64 [B].

        Shorter answers repeat their tokens, so that every answer weighs about the same, and means over micro-batches
        and ranks are the mean.
        """
        chosen = [self.rows[number] for number in numbers.tolist()]
        counts = torch.tensor([len(answer) for _, answer in chosen])
        most = int(counts.max())
        ids = np.full((len(chosen), self.config.length), self.pad, np.int64)
        targets, positions = np.empty((2, len(chosen), most), np.int64)
        for row, (prompt, answer) in enumerate(chosen):
            ids[row, : len(prompt) + len(answer) - 1] = np.concatenate([prompt, answer[:-1]])
            own = np.arange(most) % len(answer)
            targets[row], positions[row] = answer[own], len(prompt) - 1 + own
        return Batch(*map(torch.from_numpy, (ids, targets, positions))), counts


def joined(prompt: str, answer: str) -> str:
    """An answer as it follows its prompt: after a blank."""
    return answer if not answer or prompt[-1:].isspace() else f" {answer}"


class SourceRows(Rows):
    """Prompts as sources, and answers as their targets, for an encoder-decoder."""

    def _row(self, prompt: str, answer: str) -> tuple[np.ndarray, np.ndarray]:
        longest = longest_answer(self.config)
        asked, told = self.tokenizer.encode_ordinary(prompt), self.tokenizer.encode_ordinary(answer)
        room, eot = self.config.length - 1, self.tokenizer.eot_id
        self.cut += len(told) + 1 > longest or len(asked) > room
        return np.array([*asked[max(0, len(asked) - room) :], eot]), np.array([*told[: longest - 1], eot])

    def pairs(self, numbers: np.ndarray) -> Seq2SeqBatch:
        """Rows of these numbers; each target's count is 1, and 0 in the padding."""
        chosen = [self.rows[number] for number in numbers.tolist()]
        longest = longest_answer(self.config)
        sources = np.full((len(chosen), self.config.length), self.pad, np.int64)
        targets = np.full((len(chosen), longest), self.pad, np.int64)
        counts = np.zeros(targets.shape, np.float32)
        for row, (source, target) in enumerate(chosen):
            sources[row, : len(source)], targets[row, : len(target)], counts[row, : len(target)] = source, target, 1
        lengths = torch.tensor([len(source) for source, _ in chosen])
        read = torch.from_numpy(targets)
        of = Sources(torch.from_numpy(sources), lengths, torch.from_numpy(counts))
        return Seq2SeqBatch(begun(read, self.tokenizer.eot_id), read, None, None, of)

    def evaluation(
        self, model: Callable[..., Tensor], ranks: Ranks, device: torch.device, batch: int
    ) -> dict[str, float]:
        """The loss of all answers, in nats a token."""
        nats, tokens = summed_loss(self.pairs(np.arange(len(self))), model, ranks, device, batch)
        return {"validation_loss": nats / tokens}


class AnswerWriting:
    """Predict the tokens of the answer, and that it ends."""

    def __init__(self, train: Rows, validation: Rows, config: AnsweringConfig):
        self.train, self.validation, self.config = train, validation, config
        self.length = config.length

    def train_batch(self, step: int, batch: int, batch_rows: range) -> Batch | Seq2SeqBatch:
        return self.global_batch(step, batch).rows(slice(batch_rows.start, batch_rows.stop))

    @lru_cache(maxsize=1)  # noqa: B019 - an objective lives as long as its run
    def global_batch(self, step: int, batch: int) -> Batch | Seq2SeqBatch:
        """The batch of all ranks, on whose longest answer, or number of tokens, the weight of each depends."""
        numbers = np.arange(step * batch, (step + 1) * batch, dtype=np.int64)
        numbers = epoch_order(numbers, len(self.train), self.config.seed)
        if not isinstance(self.train, SourceRows):
            return self.train.batch(numbers)[0]
        pairs = self.train.pairs(numbers)
        counts = pairs.sources.counts
        assert counts is not None
        mean = counts * (counts.numel() / counts.sum())  # so that the mean over targets is one over those that count
        return pairs._replace(sources=pairs.sources._replace(counts=mean))

    def evaluate(
        self, model: Callable[..., Tensor], ranks: Ranks, device: torch.device, batch: int
    ) -> dict[str, float]:
        return self.validation.evaluation(model, ranks, device, batch)
