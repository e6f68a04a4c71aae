"""Pretraining: token arrays to a checkpoint that predicts every next token, hidden tokens, or both."""

from __future__ import annotations

import hashlib
from pathlib import Path
from typing import Any, Literal

import numpy as np
import torch
from torch import Tensor

from modeling.checkpoint import CheckpointConfig
from modeling.config.network import EncoderDecoderConfig, RecurrentConfig, TransformerConfig
from modeling.config.pretrain import PretrainConfig
from modeling.config.run import RunConfig
from modeling.device import choose
from modeling.inference.generate import MASK, Checkpoint, Sampling, generate, load
from modeling.networks.language_model import LanguageModel
from modeling.networks.mixed import MixedModel
from modeling.training.distributed import join_ranks, local_rank
from modeling.training.multi_token import MultiTokenLM
from modeling.training.objectives import CausalLM, MaskedLM, MixedLM, StreamLM
from modeling.training.saving import is_finished
from modeling.training.seq2seq import PairWriting, SpanCorruption, span_corruption
from modeling.training.state import TrainingRun
from modeling.training.trainer import Trainer
from modeling.training.windows import StreamWindows, sources_seen, training_windows
from textmill.errors import UserError
from textmill.files import sha256
from textmill.progress import Progress
from textmill.settings import output_settings
from tokenization.arrays import META, TokenArrays
from tokenization.formats import CONFIG, RANKS, load_tokenizer, save_tokenizer
from tokenization.sources import SampledTokens
from tokenization.text_pairs import TextPairs, holds_text_pairs
from tokenization.tokenizer import Tokenizer

__all__ = [
    "entropy", "fingerprint", "guessed", "pair_writing", "pretrain", "recipe", "sources_of", "token_counts",
]  # fmt: skip

COUNT_CHUNK = 1 << 22


def pretrain(tokens: Path, tokenizer_folder: Path, config: PretrainConfig, out: Path, progress: Progress) -> None:
    """Train a model from scratch and leave a checkpoint folder in `out`; a second call continues a killed one.

    Beside the checkpoint's files, `out` gets the tokenizer, `stats.json` (parameters, tokens seen, validation loss in
    nats and bits per byte, accuracy on hidden tokens where some were hidden, unigram entropy of the training split in
    nats, a sample), `samples.jsonl` (what it wrote on the way) and `timing.jsonl` (clocks). Under torchrun every rank
    calls it, and rank 0 writes.

    Args:
        tokens: folder of token arrays with splits `train` and `validation`; of sources and targets
            (`tokenization.text_pairs`) for an encoder-decoder that is to learn these alone.
        tokenizer_folder: the tokenizer they were made with.
        config: what to train, and how.
        out: folder to fill.
        progress: is told steps and metrics.

    Raises:
        UserError: the data is shorter than a window, `train_share` is of no document, the mixture allows fewer tokens
            than the run asks for, the vocabularies differ, the batch does not divide over the ranks, a loss or the
            weights are not finite, a step does not fit into memory, or `out` holds a run with other settings.
    """
    compute = choose(config.device, config.precision, local_rank())
    train, validation = training_split(tokens, config.train_share), TokenArrays(tokens, "validation")
    tokenizer = load_tokenizer(tokenizer_folder)
    if difference := train.differs_from(tokenizer.eot_id, tokenizer.byte_lengths()):
        raise UserError(f"{difference}; pretokenize with this tokenizer")
    inputs = {
        "tokens": fingerprint(tokens / META),
        "origin": fingerprint(*(tokenizer_folder / name for name in (RANKS, CONFIG))),
    }
    on_pairs = holds_text_pairs(tokens)
    if on_pairs and not isinstance(config.model, EncoderDecoderConfig):
        raise UserError(
            f"{tokens} holds pairs of sources and targets; set model.kind: encoder-decoder to train on them"
        )
    if on_pairs and config.train_share < 1:
        raise UserError("train_share is of running text, not of pairs of sources and targets; leave it out")
    shift = config.learned != "causal" and config.masking.shift
    kind: Literal["causal", "masked", "mixed", "denoising", "pairs"] = config.learned
    if isinstance(config.model, EncoderDecoderConfig):
        kind = "pairs" if on_pairs else "denoising"
    checkpoint_config = CheckpointConfig(config.model, train.vocab_size, kind, shift, recipe(config, inputs))
    if is_finished(out, checkpoint_config, config):
        return
    objective: CausalLM | MaskedLM | SpanCorruption | PairWriting
    if on_pairs:
        objective = pair_writing(tokens, config, config.model.context, tokenizer)
    else:
        objective = objective_on(train, validation, config, tokenizer)
    group = join_ranks(compute.device)
    torch.manual_seed(config.seed)
    # of shared out weights there is no copy
    writes = config.sample_tokens and config.parallel != "fsdp" and config.objective != "masked"

    def sample_of(model: LanguageModel) -> str:
        return sample(Checkpoint(model, tokenizer, checkpoint_config), config)

    if config.objective == "mixed":
        assert isinstance(config.model, TransformerConfig)  # the config refuses others
        model: LanguageModel = MixedModel(config.model, train.vocab_size)
    else:
        model = checkpoint_config.build_model()
    run = TrainingRun(model, objective, checkpoint_config, config, out, sample_of if writes else None)
    trainer = Trainer(run, compute, group, progress)
    trainer.run()
    if group.first:
        metrics = trainer.saver.publish()
        save_tokenizer(tokenizer, out)
        stats = {
            **run.stats(metrics),
            "block_parameters": run.model.block_parameters(),
            "vocab_size": train.vocab_size,
            **(guessed(train, objective.validation_targets, tokenizer) if isinstance(objective, MaskedLM) else {}),
            **told_of(train, objective, config),
            "unigram_entropy": entropy(token_counts(train)),
            "sample_prompt": config.sample_prompt,
            "sample": sample(load(out, device="cpu"), config),
        }
        trainer.saver.finish(stats)
    group.barrier()


def training_split(tokens: Path, share: float) -> TokenArrays:
    """The tokens to train on: so much of the training split.

    Raises:
        UserError: the folder holds no token arrays, or the share is of no document.
    """
    return TokenArrays(tokens, "train") if share == 1 else SampledTokens(tokens, "train", share)


def objective_on(
    train: TokenArrays, validation: TokenArrays, config: PretrainConfig, tokenizer: Tokenizer
) -> CausalLM | MaskedLM | SpanCorruption:
    """What the run learns to predict.

    Raises:
        UserError: tokens are to be hidden and the tokenizer has no [MASK], or there are too few tokens for a window.
    """
    context = config.model.context
    if isinstance(config.model, EncoderDecoderConfig):
        return span_corruption(train, validation, config, tokenizer)
    if isinstance(config.model, RecurrentConfig):
        streams = StreamWindows(config.batch, train, context, 1, config.seed)
        return StreamLM(streams, validation, context, config.evaluate_tokens)
    if config.multi_token:
        return MultiTokenLM(train, validation, config)
    if config.objective == "causal":
        windows = training_windows(train, config, context, 1)
        return CausalLM(windows, validation, context, config.evaluate_tokens, config.attend)
    if MASK not in tokenizer.special_tokens:
        raise UserError(f"the tokenizer has no {MASK}; add it to its special_tokens and train again")
    objective = MixedLM if config.objective == "mixed" else MaskedLM
    return objective(train, validation, context, config, tokenizer)


def guessed(train: TokenArrays, targets: Tensor, tokenizer: Tokenizer) -> dict[str, Any]:
    """For `stats.json`, the most frequent training token, and the share of the hidden tokens that are this one."""
    guess = most_frequent(train, tokenizer.special_tokens)
    return {
        "most_frequent_token": tokenizer.decode([guess]),
        "most_frequent_accuracy": (targets == guess).double().mean().item(),
    }


def pair_writing(tokens: Path, config: RunConfig, context: int, tokenizer: Tokenizer) -> PairWriting:
    """The objective on a folder of sources and targets.

    Raises:
        UserError: it is damaged, a split has no pairs, or the config asks for a mixture.
    """
    if config.mixture:
        raise UserError("pairs of sources and targets are not mixed by source; leave mixture out")
    pairs = TextPairs(tokens, "train"), TextPairs(tokens, "validation")
    return PairWriting(*pairs, config, context, tokenizer.byte_lengths())


def told_of(train: TokenArrays, objective: Any, config: RunConfig) -> dict[str, Any]:
    """For `stats.json`, what the model was shown: of each source, or how many pairs and which of them were cut."""
    if isinstance(objective, PairWriting):
        return {"pairs": len(objective.train), "cut_pairs": objective.cut}
    return sources_of(train, objective, config)


def sources_of(
    train: TokenArrays, objective: CausalLM | MaskedLM | SpanCorruption, config: RunConfig
) -> dict[str, Any]:
    """For `stats.json`, what the model was shown of each source, where the tokens know their sources."""
    seen = sources_seen(train, objective.train, config)
    return {"sources": {name: source._asdict() for name, source in seen.items()}} if seen else {}


def recipe(config: RunConfig, inputs: dict[str, str]) -> dict[str, Any]:
    """What decides the weights, for `config.json`: the settings, and the fingerprints of what the run reads. The same
    bytes however the run was executed."""
    settings = config.model_dump(include=output_settings(config).keys() - {"model"})
    settings["optimizer"] = config.optimizer.model_dump(include=set(output_settings(config.optimizer)))
    return settings | {"inputs": inputs}


def fingerprint(*files: Path) -> str:
    """The beginning of a digest of these files' contents; those that are not there count too."""
    digests = [sha256(path) if path.is_file() else "" for path in files]
    return hashlib.sha256("\n".join(digests).encode()).hexdigest()[:16]


def token_counts(tokens: TokenArrays) -> np.ndarray:
    """int64 [V]: how often each token occurs."""
    counts = np.zeros(tokens.vocab_size, np.int64)
    for start in range(0, len(tokens), COUNT_CHUNK):
        chunk = tokens.window(start, min(COUNT_CHUNK, len(tokens) - start))
        counts += np.bincount(chunk, minlength=tokens.vocab_size)
    return counts


def most_frequent(tokens: TokenArrays, special_tokens: dict[str, int]) -> int:
    """Id of the token that occurs most often, special ones aside."""
    counts = torch.from_numpy(token_counts(tokens))
    counts[list(special_tokens.values())] = 0
    return int(counts.argmax())


def entropy(counts: np.ndarray) -> float:
    """Entropy in nats of the distribution that the counts describe."""
    probs = counts[counts > 0] / counts.sum()
    return float(-(probs * np.log(probs)).sum())


def sample(checkpoint: Checkpoint, config: PretrainConfig) -> str:
    """Text that continues the configured prompt."""
    if not config.sample_tokens or config.objective == "masked":
        return ""
    sampling = Sampling(max_tokens=config.sample_tokens, seed=config.seed)
    return generate(checkpoint, [config.sample_prompt], sampling)[0]
