"""finetune: a pretrained model -> one that fills blanks, by masked language modeling on the same token arrays, or on
pairs of sentences; an encoder-decoder -> one that writes the targets of sources."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from flows.engine.mixture import fallen_short, foreseen, sources_table
from flows.engine.page import Bars, Block, Picture, Sample
from flows.engine.stage import Expected, Job, Pending, Stage
from flows.stages.import_checkpoint import import_checkpoint
from flows.stages.pretrain import pairs_headline
from flows.store.local import Artifact
from modeling.config.finetune import FinetuneConfig
from modeling.config.pretrain import PretrainConfig
from textmill.errors import UserError


class Finetune(Stage[FinetuneConfig]):
    """A model that fills blanks; after pairs of sentences it also tells which follow each other."""

    name = "finetune"
    noun = "fine-tuning"
    version = 5
    inputs = ("checkpoint", "tokens")
    records = ("timing.jsonl", "tensorboard/*", "wandb/*", "resumable/*")

    def build(self, job: Job[FinetuneConfig]) -> None:
        from flows.engine.training import train

        train(self, job, origin="checkpoint")

    def foresee(self, config: FinetuneConfig, inputs: Expected) -> str:
        checkpoint, tokens = inputs["checkpoint"], inputs["tokens"]
        if isinstance(checkpoint, Pending) and checkpoint.stage == import_checkpoint.name:
            return ""
        if isinstance(checkpoint, Artifact) and checkpoint.manifest.stage == import_checkpoint.name:
            return foreseen(tokens, config, checkpoint.stats["context"], extra=0)
        model = _pretraining(checkpoint).model
        if (tokens.manifest.stage if isinstance(tokens, Artifact) else getattr(tokens, "stage", "")) == "text_pairs":
            return ""
        if model.kind == "encoder-decoder":
            raise UserError(
                "finetune: an encoder-decoder fills blanks without fine-tuning; set finetune: null, or give text_pairs "
                "to tune it on"
            )
        if model.kind != "transformer":
            raise UserError(
                f"finetune: a {model.kind} network does not see what follows a blank, so that it cannot be tuned to "
                "fill one; set finetune: null"
            )
        return foreseen(tokens, config, model.context, extra=0)

    def label(self, config: FinetuneConfig) -> str:
        return f"{config.steps:,} steps"

    def headline(self, stats: dict[str, Any]) -> str:
        if "written" in stats:
            return pairs_headline(stats)
        next_sentence = stats.get("next_sentence_accuracy")
        return (
            f"{stats['masked_accuracy']:.1%} of masked tokens predicted "
            f"(most frequent token: {stats['most_frequent_accuracy']:.1%}), "
            + (f"{next_sentence:.1%} of pairs of sentences told apart, " if next_sentence is not None else "")
            + repr(stats["sample_filled"])
            + fallen_short(stats)
        )

    def highlight(self, stats: dict[str, Any]) -> tuple[str, str]:
        if "written" in stats:
            return f"{stats['validation_loss']:.3f}", "nats a target token, held out"
        return f"{stats['masked_accuracy']:.1%}", "of masked tokens predicted"

    def work(self, stats: dict[str, Any]) -> tuple[int, str]:
        return stats["tokens_seen"], "tokens"

    def page(self, artifact: Artifact) -> Iterator[Block]:
        from flows.engine.figures import attention_maps, learned_functions, loss_curves

        stats = artifact.stats
        yield Picture("Loss over the steps, and the learning rate", loss_curves(artifact))
        if "written" in stats:
            for pair in stats["written"]:
                text = f"{pair['source']}\n{pair['written']}\n(the target is: {pair['target']})"
                yield Sample("To a source it writes", text)
            return
        yield from learned_functions(artifact, stats["sample_filled"])
        yield from attention_maps(artifact, stats["sample_filled"])
        yield from sources_table(artifact)
        yield Sample("It fills", f"{stats['sample_blank']}\n{stats['sample_filled']}")
        for number, candidates in enumerate(stats["sample_candidates"], start=1):
            guesses = {repr(token): 100 * prob for token, prob in candidates}
            yield Bars(f"what it thinks of for blank {number}", guesses, "%")


def _pretraining(checkpoint: object) -> PretrainConfig:
    """How a model was pretrained, or is to be."""
    if isinstance(checkpoint, Artifact):
        return PretrainConfig.model_validate(checkpoint.manifest.settings)
    assert isinstance(checkpoint, Pending) and isinstance(checkpoint.config, PretrainConfig)
    return checkpoint.config


finetune = Finetune()
