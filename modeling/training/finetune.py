"""Fine-tuning a causal checkpoint into a masked model: the same weights, now seeing both sides of a blank.

On token arrays of a corpus the model sees windows of running text. On those that `tokenization.sentence_pairs` wrote,
it sees pairs of sentences, and also learns whether the second follows the first (`modeling.training.sentence_pairs`).
An encoder-decoder is fine-tuned on sources and their targets (`tokenization.text_pairs`).
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np

from modeling.checkpoint import (
    HIDDEN_PADDING,
    NEXT_SENTENCE,
    WEIGHTS,
    CheckpointConfig,
    load_model,
    load_tokenizer_of,
)
from modeling.config.finetune import FinetuneConfig, TuningConfig
from modeling.config.network import EncoderDecoderConfig, TransformerConfig
from modeling.device import choose
from modeling.inference.generate import Blanked, Checkpoint, Sampling, cropped, fill, generate, load
from modeling.networks.language_model import LanguageModel
from modeling.networks.sentence_pairs import NEXT_SENTENCE_PREFIX, SentencePairModel
from modeling.training.distributed import join_ranks, local_rank
from modeling.training.objectives import MaskedLM
from modeling.training.pretrain import fingerprint, guessed, pair_writing, recipe, sources_of
from modeling.training.saving import is_finished, separate_head
from modeling.training.sentence_pairs import SentencePairLM
from modeling.training.state import TrainingRun
from modeling.training.trainer import Trainer
from textmill.errors import UserError
from textmill.progress import Progress
from tokenization.arrays import META, TokenArrays
from tokenization.formats import save_tokenizer
from tokenization.sentence_pairs import SentencePairs, holds_pairs
from tokenization.text_pairs import TextPairs, holds_text_pairs
from tokenization.tokenizer import Tokenizer

__all__ = ["finetune"]

WRITTEN = 4  # targets that the report shows
UNMASKED = FinetuneConfig(shift=True)
MASKED_ONLY = sorted(FinetuneConfig.model_fields.keys() - TuningConfig.model_fields.keys() - {"sample_blank"})


def finetune(checkpoint: Path, tokens: Path, config: FinetuneConfig, out: Path, progress: Progress) -> None:
    """Train the checkpoint's weights on masked text and leave a checkpoint folder in `out`; a second call continues.

    `stats.json` holds the held-out masked accuracy, and that of always guessing the most frequent training token; after
    pairs of sentences also the next-sentence accuracy.

    Args:
        checkpoint: the one to start from, of a causal model.
        tokens: folder of token arrays, of a corpus or of pairs of sentences.
        config: how to train.
        out: folder to fill.
        progress: is told steps and metrics.

    Raises:
        UserError: `checkpoint` is not a checkpoint, its vocabulary is not that of the tokens, its tokenizer has no
            [MASK], or as `pretrain` does.
    """
    compute = choose(config.device, config.precision, local_rank())
    base, origin = load_model(checkpoint)
    if not isinstance(origin.model, TransformerConfig):
        if isinstance(origin.model, EncoderDecoderConfig):
            finetune_on_pairs(checkpoint, (base, origin), tokens, config, out, progress)
            return
        raise UserError(
            f"{checkpoint} is a {origin.model.kind} model, which does not see what follows a blank and cannot learn to "
            "fill it; pretrain one with model.kind: transformer"
        )
    train, tokenizer = TokenArrays(tokens, "train"), load_tokenizer_of(checkpoint, origin)
    if difference := train.differs_from(tokenizer.eot_id, tokenizer.byte_lengths()):
        raise UserError(f"{difference}; pretokenize with the checkpoint's tokenizer")
    if "[MASK]" not in tokenizer.special_tokens:
        raise UserError("the tokenizer has no [MASK]; add it to its special_tokens and train again")
    if config.dropout is None:
        config = config.model_copy(update={"dropout": origin.model.dropout})
    if config.shift is None:
        config = config.model_copy(update={"shift": origin.shift or not origin.fills})
    on_pairs = holds_pairs(tokens)
    if on_pairs:
        refuse_settings_of_running_text(config)
    elif config.attend is None and origin.attends_documents:
        config = config.model_copy(update={"attend": "document"})
    inputs = {"tokens": fingerprint(tokens / META), "origin": fingerprint(checkpoint / WEIGHTS)}
    model_config = origin.model.model_copy(update={"dropout": config.dropout})
    padding = {"padding": HIDDEN_PADDING} if on_pairs else {}
    checkpoint_config = CheckpointConfig(
        model_config, origin.vocab_size, "masked", config.masking.shift, recipe(config, inputs) | padding
    )
    if is_finished(out, checkpoint_config, config):
        return
    objective = objective_on(tokens, origin.model.context, config, tokenizer)
    pair_length = min(config.pair_length, origin.model.context) if on_pairs else None
    blank = sample_text(config, Checkpoint(base, tokenizer, checkpoint_config, pair_length))
    group = join_ranks(compute.device)
    model = SentencePairModel(model_config, origin.vocab_size) if on_pairs else checkpoint_config.build_model()
    model.load_state_dict(model.state_dict() | base.state_dict())
    run = TrainingRun(model, objective, checkpoint_config, config, out)
    trainer = Trainer(run, compute, group, progress)
    trainer.run()
    if group.first:
        metrics = trainer.saver.publish()
        if on_pairs:
            separate_head(out, NEXT_SENTENCE_PREFIX, NEXT_SENTENCE)
        save_tokenizer(tokenizer, out)
        stats = {
            **run.stats(metrics),
            **({} if isinstance(objective, SentencePairLM) else sources_of(train, objective, config)),
            **guessed(train, objective.validation_targets, tokenizer),
            **sample(out, blank),
        }
        trainer.saver.finish(stats)
    group.barrier()


def refuse_settings_of_running_text(config: FinetuneConfig) -> None:
    """
    Raises:
        UserError: pairs of sentences are given a setting that says how windows of running text are made or seen.
    """
    if config.mixture:
        raise UserError("pairs of sentences are not mixed by source; leave finetune.mixture out")
    if config.window_start == "document":
        raise UserError("each pair of sentences is a window of its own; leave finetune.window_start out")
    if config.attend == "document":
        raise UserError("a pair of sentences is seen whole; leave finetune.attend out")


def finetune_on_pairs(
    checkpoint: Path, loaded: tuple[LanguageModel, CheckpointConfig], tokens: Path, config: FinetuneConfig, out: Path,
    progress: Progress,
) -> None:  # fmt: skip
    """`finetune` of an encoder-decoder, which learns to write the targets of sources (`tokenization.text_pairs`).

    `stats.json` holds the held-out loss in nats a target token, and some targets that it writes. `generate` writes the
    target of any source.
    """
    model, origin = loaded
    if not holds_text_pairs(tokens):
        raise UserError(
            f"{checkpoint} is an encoder-decoder, which fills blanks as it is; fine-tune it on pairs of sources and "
            f"targets, which {tokens} does not hold"
        )
    config = config.model_copy(update={"shift": config.masking.shift})
    if masked := [name for name in MASKED_ONLY if getattr(config, name) != getattr(UNMASKED, name)]:
        raise UserError(f"{masked[0]} is of masked models, and pairs are written by an encoder-decoder; leave it out")
    compute = choose(config.device, config.precision, local_rank())
    tokenizer = load_tokenizer_of(checkpoint, origin)
    if difference := TokenArrays(tokens, "train").differs_from(tokenizer.eot_id, tokenizer.byte_lengths()):
        raise UserError(f"{difference}; make the pairs with the checkpoint's tokenizer")
    if config.dropout is None:
        config = config.model_copy(update={"dropout": origin.model.dropout})
    inputs = {"tokens": fingerprint(tokens / META), "origin": fingerprint(checkpoint / WEIGHTS)}
    model_config = origin.model.model_copy(update={"dropout": config.dropout})
    checkpoint_config = CheckpointConfig(model_config, origin.vocab_size, "pairs", False, recipe(config, inputs))
    if is_finished(out, checkpoint_config, config):
        return
    objective = pair_writing(tokens, config, origin.model.context, tokenizer)
    group = join_ranks(compute.device)
    tuned = checkpoint_config.build_model()
    tuned.load_state_dict(model.state_dict())
    run = TrainingRun(tuned, objective, checkpoint_config, config, out)
    trainer = Trainer(run, compute, group, progress)
    trainer.run()
    if group.first:
        metrics = trainer.saver.publish()
        save_tokenizer(tokenizer, out)
        stats = {
            **run.stats(metrics),
            "pairs": len(objective.train),
            "cut_pairs": objective.cut,
            "written": written(out, TextPairs(tokens, "validation")),
        }
        trainer.saver.finish(stats)
    group.barrier()


def written(out: Path, pairs: TextPairs) -> list[dict[str, str]]:
    """For the report, what the model writes for some sources that it was not trained on."""
    checkpoint = load(out, device="cpu")
    decode, context = checkpoint.tokenizer.decode, checkpoint.model.config.context
    fitting = np.flatnonzero(pairs.lengths()[:, 0] <= context)
    chosen = fitting[np.arange(min(len(fitting), WRITTEN)) * len(fitting) // WRITTEN] if len(fitting) else fitting
    sides = [pairs.pair(number) for number in np.unique(chosen).tolist()]
    sources, targets = ([decode(pair[side][:-1].tolist()) for pair in sides] for side in (0, 1))
    texts = generate(checkpoint, sources, Sampling(max_tokens=context, temperature=0))
    return [
        {"source": source, "target": target, "written": text}
        for source, target, text in zip(sources, targets, texts, strict=True)
    ]


def objective_on(tokens: Path, context: int, config: FinetuneConfig, tokenizer: Tokenizer) -> MaskedLM | SentencePairLM:
    """The objective that suits a folder of token arrays: of running text, or of pairs of sentences."""
    if holds_pairs(tokens):
        pairs = SentencePairs(tokens, "train"), SentencePairs(tokens, "validation")
        return SentencePairLM(*pairs, context, config, tokenizer)
    arrays = TokenArrays(tokens, "train"), TokenArrays(tokens, "validation")
    return MaskedLM(*arrays, context, config, tokenizer)


def sample_text(config: FinetuneConfig, checkpoint: Checkpoint) -> str:
    """The text for the report, cropped to the window of the model that is to be trained.

    Raises:
        UserError: even the word with the first blank exceeds the window.
    """
    text = cropped(config.sample_blank, checkpoint)
    if (length := Blanked(text, checkpoint).length) > checkpoint.window:
        raise UserError(
            f"the word with the first [MASK] of sample_blank comes to {length} tokens but the window holds "
            f"{checkpoint.window}; shorten sample_blank"
        )
    return text


def sample(out: Path, text: str) -> dict[str, Any]:
    """What the report shows of the result: the text, and how its blanks are filled."""
    filled = fill(load(out, device="cpu"), text)
    return {
        "sample_blank": text,
        "sample_filled": filled.text,
        "sample_candidates": [[list(candidate) for candidate in blank] for blank in filled.candidates],
    }
