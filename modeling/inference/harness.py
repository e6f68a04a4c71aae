"""Tasks of EleutherAI's lm-evaluation-harness on a checkpoint as it is, without exporting it first.

Needs the extra `textmill[lm-eval]`. The harness fetches its tasks' data from the Hugging Face hub; tasks of one's own
are YAML files in a folder, which may name local data.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from itertools import groupby
from pathlib import Path
from typing import Any

import torch
from lm_eval import simple_evaluate
from lm_eval.api.instance import Instance
from lm_eval.api.model import TemplateLM
from lm_eval.tasks import TaskManager
from lm_eval.utils import get_rolling_token_windows, make_disjoint_window

from modeling.inference.generate import Checkpoint, Sampling, generate, load
from modeling.networks.encoder_decoder import EncoderDecoder
from textmill.errors import UserError

__all__ = ["HarnessModel", "run_tasks"]

RECURRENT_LENGTH = 2**16  # tokens that are read at once of a text by a model whose state has no bound
MAX_TOKENS = 256  # of an answer whose task sets no limit, as the harness has it


def run_tasks(
    checkpoint: Path,
    tasks: Sequence[str],
    include: Path | None = None,
    limit: int | None = None,
    device: str = "auto",
) -> dict[str, dict[str, float]]:
    """Metrics of every task by name: {task: {"acc,none": 0.31, "acc_stderr,none": 0.02, …}}.

    Args:
        checkpoint: folder of a causal model.
        tasks: names of the harness, or of one's own.
        include: folder with tasks of one's own.
        limit: most examples of a task.
        device: where to compute.

    Raises:
        UserError: the checkpoint is not a causal one, a task is unknown, or its data cannot be had.
    """
    loaded = load(checkpoint, device)
    if isinstance(loaded.model, EncoderDecoder):
        raise UserError("this checkpoint writes targets of sources, tasks need one that continues text")
    if not loaded.model.causal:
        raise UserError("this checkpoint fills blanks, tasks need one that continues text; give a pretrained one")
    manager = TaskManager(include_path=str(include) if include else None)
    if unknown := [task for task in tasks if task not in manager.all_tasks]:
        raise UserError(
            f"there is no task {', '.join(unknown)}; `lm_eval ls tasks` lists those of the harness, and "
            "--include names a folder with tasks of your own"
        )
    try:
        found = simple_evaluate(
            model=HarnessModel(loaded), tasks=list(tasks), task_manager=manager, limit=limit,
            bootstrap_iters=1_000, log_samples=False,
        )  # fmt: skip
    except (ConnectionError, FileNotFoundError) as error:
        raise UserError(
            f"the data of {', '.join(tasks)} cannot be had ({error}): go online, or put it into the hub's cache"
        ) from error
    return {
        task: {name: value for name, value in metrics.items() if isinstance(value, float)}
        for task, metrics in found["results"].items()
    }


class HarnessModel(TemplateLM):
    """A causal checkpoint as the harness asks for it: log-likelihoods in nats, and greedy or sampled answers."""

    def __init__(self, checkpoint: Checkpoint, batch: int = 16):
        super().__init__()
        self.checkpoint, self.batch = checkpoint, batch
        self.context = checkpoint.model.memory_length or RECURRENT_LENGTH

    @property
    def eot_token_id(self) -> int:
        return self.checkpoint.tokenizer.eot_id

    def tok_encode(self, string: str, add_special_tokens: bool | None = None, **options: Any) -> list[int]:
        return list(self.checkpoint.tokenizer.encode_ordinary(string))

    def loglikelihood_rolling(self, requests: list[Instance], disable_tqdm: bool = False) -> list[float]:
        """Log-likelihoods of texts: each token is predicted once, from as much before it as a window holds."""
        return [sum(self._score(self._rolling(request.args[0]))[:, 0].tolist()) for request in requests]

    def generate_until(self, requests: list[Instance], disable_tqdm: bool = False) -> list[str]:
        """Answers, each up to the first of its task's stop strings."""
        answers: list[str] = []
        for options, group in groupby((request.args for request in requests), key=lambda arguments: arguments[1]):
            sampling = _sampling(options)
            prompts = [context for context, _ in group]
            found: dict[int, str] = {}
            order = sorted(range(len(prompts)), key=lambda index: len(prompts[index]))
            for indices in _batches(order, self.batch):  # a batch advances from its shortest prompt's end
                continued = generate(self.checkpoint, [prompts[index] for index in indices], sampling)
                found |= zip(indices, continued, strict=True)
            answers += [found[index] for index in range(len(prompts))]
        return answers

    def _loglikelihood_tokens(
        self, requests: list[tuple[tuple[str, str], list[int], list[int]]], **options: Any
    ) -> list[tuple[float, bool]]:
        eot = self.eot_token_id  # a text begins as the documents of the training did; the empty one has it already
        pairs = [
            (context if context[:1] == [eot] else [eot, *context], continuation)
            for _, context, continuation in requests
        ]
        longest = max((len(continuation) for _, continuation in pairs), default=0)
        if longest > self.context:
            raise UserError(
                f"an answer of {longest} tokens does not fit into the model's context of {self.context}; choose tasks "
                "with shorter answers"
            )
        return [(log_likelihood, bool(is_greedy)) for log_likelihood, is_greedy in self._score(pairs).tolist()]

    def _rolling(self, text: str) -> list[tuple[list[int], list[int]]]:
        windows = get_rolling_token_windows(
            token_list=self.tok_encode(text), prefix_token=self.prefix_token_id, max_seq_len=self.context,
            context_len=1,
        )  # fmt: skip
        return [make_disjoint_window(window) for window in windows]

    @torch.inference_mode()
    def _score(self, pairs: Sequence[tuple[list[int], list[int]]]) -> torch.Tensor:
        """float64 [len(pairs), 2]: the log-likelihood of each continuation, and whether greedy choice gives it."""
        scores = torch.zeros(len(pairs), 2, dtype=torch.float64)
        order = sorted(range(len(pairs)), key=lambda index: -len(pairs[index][0]) - len(pairs[index][1]))
        for indices in _batches(order, self.batch):  # of about equal length, so that little is padding
            windows = [torch.tensor((pairs[i][0] + pairs[i][1])[-self.context - 1 :]) for i in indices]
            padded = torch.nn.utils.rnn.pad_sequence(windows, batch_first=True)
            padded = padded.to(self.checkpoint.model.device)
            nll, is_argmax = (x.cpu() for x in self.checkpoint.model.token_losses(padded[:, :-1], padded[:, 1:]))
            for row, (index, window) in enumerate(zip(indices, windows, strict=True)):
                end = len(window) - 1
                answer = slice(end - len(pairs[index][1]), end)
                log_likelihood = -nll[row, answer].double().sum()
                scores[index] = torch.stack([log_likelihood, is_argmax[row, answer].all().double()])
        return scores


def _sampling(options: dict[str, Any]) -> Sampling:
    until = options.get("until") or []
    return Sampling(
        max_tokens=options.get("max_gen_toks", MAX_TOKENS),
        temperature=options.get("temperature", 0.0) if options.get("do_sample") else 0.0,
        top_p=options.get("top_p"),
        stop=(until,) if isinstance(until, str) else tuple(until),
    )


def _batches(items: Sequence[Any], size: int) -> Iterator[Sequence[Any]]:
    for start in range(0, len(items), size):
        yield items[start : start + size]
