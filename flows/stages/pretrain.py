"""pretrain: token arrays -> a language model: causal, masked, or both."""

from __future__ import annotations

import json
from collections.abc import Iterator
from typing import Any

from flows.engine.mixture import fallen_short, foreseen, sources_table
from flows.engine.page import Block, Picture, Sample
from flows.engine.stage import Expected, Job, Stage
from flows.store.local import Artifact
from modeling.config.network import EncoderDecoderConfig, RecurrentConfig
from modeling.config.pretrain import PretrainConfig
from modeling.mixture import WindowPlan, stream_steps

SAMPLES = "samples.jsonl"


class Pretrain(Stage[PretrainConfig]):
    """A model trained from scratch."""

    name = "pretrain"
    noun = "pretraining"
    version = 4
    inputs = ("tokens", "tokenizer")
    records = (SAMPLES, "timing.jsonl", "tensorboard/*", "wandb/*", "resumable/*")

    def build(self, job: Job[PretrainConfig]) -> None:
        from flows.engine.training import train

        train(self, job, origin="tokenizer")

    def foresee(self, config: PretrainConfig, inputs: Expected) -> str:
        if isinstance(config.model, EncoderDecoderConfig):
            return foreseen(inputs["tokens"], config, config.spans.window(config.model.context), extra=0)
        tokens = inputs["tokens"]
        if isinstance(config.model, RecurrentConfig) and isinstance(tokens, Artifact):
            stream_steps(tokens.stats["train"]["tokens"], WindowPlan(config.model.context, 1, 0), config.batch)
        return foreseen(tokens, config, config.model.context, extra=1)

    def label(self, config: PretrainConfig) -> str:
        return f"{config.model.layers} x {config.model.width}, {config.steps:,} steps"

    def headline(self, stats: dict[str, Any]) -> str:
        if "cut_pairs" in stats:
            return f"{pairs_headline(stats)}, {stats['parameters']:,} parameters"
        loss = f"validation loss {stats['validation_loss']:.3f} nats a token"
        if "bits_per_byte" in stats:
            loss += f", {stats['bits_per_byte']:.3f} bits a byte"
        loss += f" (unigram entropy {stats['unigram_entropy']:.3f})"
        if "masked_accuracy" in stats:
            loss += f", {stats['masked_accuracy']:.1%} of masked tokens predicted"
        return f"{loss}, {stats['parameters']:,} parameters" + fallen_short(stats)

    def highlight(self, stats: dict[str, Any]) -> tuple[str, str]:
        return f"{stats['validation_loss']:.3f}", f"nats a {'target ' if 'cut_pairs' in stats else ''}token, held out"

    def work(self, stats: dict[str, Any]) -> tuple[int, str]:
        return stats["tokens_seen"], "tokens"

    def page(self, artifact: Artifact) -> Iterator[Block]:
        from flows.engine.figures import attention_maps, learned_functions, loss_curves

        stats = artifact.stats
        yield Picture("Loss over the steps, and the learning rate", loss_curves(artifact))
        yield from learned_functions(artifact, stats["sample_prompt"] + stats["sample"])
        yield from attention_maps(artifact, stats["sample_prompt"] + stats["sample"])
        yield from sources_table(artifact)
        writes, before = "it writes", stats["sample_prompt"]
        if "cut_pairs" in stats:  # the prompt is a source, and what is written is not its continuation
            writes, before = f"to the source {before!r} it writes", ""
        for step, text in _samples(artifact).items():
            yield Sample(f"After {step:,} of {stats['steps']:,} steps {writes}", before + text)
        if "bits_per_byte" in stats:  # it is one that writes
            yield Sample(writes[0].upper() + writes[1:], before + stats["sample"])


def pairs_headline(stats: dict[str, Any]) -> str:
    """What came of a training on sources and targets."""
    cut = f", {stats['cut_pairs']:,} of them cut" if stats["cut_pairs"] else ""
    return f"validation loss {stats['validation_loss']:.3f} nats a target token, {stats['pairs']:,} pairs{cut}"


def _samples(artifact: Artifact) -> dict[int, str]:
    """What the model wrote on the way, by step."""
    if SAMPLES not in artifact.manifest.files:  # made before they were kept
        return {}
    with artifact.open(SAMPLES) as lines:
        return {row["step"]: row["sample"] for row in map(json.loads, lines)}


pretrain = Pretrain()
