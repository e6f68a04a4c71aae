"""Fine-tuning a causal checkpoint into a masked model: the same weights, now seeing both sides of a blank.

On token arrays of a corpus the rows are windows of running text; on those that `tokenization.sentence_pairs` wrote,
they are pairs of sentences, and the model also learns whether the second follows the first
(`modeling.training.sentence_pairs`).
"""

from __future__ import annotations

import logging
from collections.abc import Callable
from pathlib import Path

import torch

from modeling.checkpoint import Description, load_model
from modeling.config import FinetuneConfig
from modeling.device import choose
from modeling.inference import generate
from modeling.training.distributed import local_rank, ranks
from modeling.training.objectives import MaskedLM
from modeling.training.pretrain import recipe, token_counts
from modeling.training.saving import is_finished
from modeling.training.sentence_pairs import PairedLM, PairModel, set_head_apart
from modeling.training.state import TrainingRun
from modeling.training.trainer import Trainer
from textmill.errors import UserError
from tokenization.arrays import TokenArrays
from tokenization.formats import load_tokenizer
from tokenization.sentence_pairs import SentencePairs, holds_pairs

log = logging.getLogger(__name__)


def finetune(checkpoint: Path, tokens: Path, config: FinetuneConfig, out: Path, progress: Callable[..., None]) -> None:
    """Train the checkpoint's weights on masked text and leave a checkpoint folder in `out`; a second call continues.

    `stats.json` holds the held-out masked accuracy, and that of always guessing the most frequent training token; after
    pairs of sentences also the next-sentence accuracy.

    Raises UserError if `checkpoint` is none, if its vocabulary is not that of the tokens, or as `pretrain` does.
    """
    if is_finished(out):
        return
    compute = choose(config.device, config.precision, local_rank())
    base, origin = load_model(checkpoint)
    train, validation = TokenArrays(tokens, "train"), TokenArrays(tokens, "validation")
    if origin.vocab_size != train.vocab_size:
        raise UserError(
            f"the checkpoint has a vocabulary of {origin.vocab_size} but the tokens {train.vocab_size}; "
            "pretokenize with the checkpoint's tokenizer"
        )
    words = load_tokenizer(checkpoint)
    if "[MASK]" not in words.special_tokens:
        raise UserError("the tokenizer has no [MASK]; add it to its special_tokens and train again")
    paired = holds_pairs(tokens)
    if paired:
        pairs = SentencePairs(tokens, "train"), SentencePairs(tokens, "validation")
        objective = PairedLM(*pairs, origin.model.context, config, words.special_tokens)
    else:
        objective = MaskedLM(train, validation, origin.model.context, config, words.special_tokens)
    description = Description(origin.model, origin.vocab_size, "masked", config.shift, recipe(config))
    with ranks(compute.device) as group:
        model = PairModel(origin.model, origin.vocab_size) if paired else description.build()
        model.load_state_dict(model.state_dict() | base.state_dict())
        trainer = Trainer(TrainingRun(model, objective, description, config, out), compute, group, progress)
        trainer.run()
        if group.first:
            metrics = trainer.saver.publish()
            if paired:
                set_head_apart(out)
            words.save(out)
            guess = most_frequent(train, words.special_tokens)
            blank = generate.cropped(config.sample_blank, words, origin.model.context)
            filled = generate.fill(generate.load(out, device="cpu"), blank)
            stats = {
                "parameters": sum(p.numel() for p in model.parameters()),
                "steps": config.steps,
                "tokens_seen": config.steps * config.batch * objective.length,
                **{name: value for name, value in metrics.items() if name != "step"},
                "most_frequent_token": words.decode([guess]),
                "most_frequent_accuracy": (objective.validation_targets == guess).double().mean().item(),
                "sample_blank": blank,
                "sample_filled": filled.text,
                "sample_candidates": [[list(candidate) for candidate in blank] for blank in filled.candidates],
            }
            trainer.saver.finish(stats)
        group.barrier()


def most_frequent(tokens: TokenArrays, special_tokens: dict[str, int]) -> int:
    counts = torch.from_numpy(token_counts(tokens))
    counts[list(special_tokens.values())] = 0
    return int(counts.argmax())
