"""Whether a decoder uses the source that its cross-attention gives it: spans of a text are hidden (T5), and the decoder
writes them. It is trained with the source that each target was made of, or, as the control, with another text's, and
both are judged with either.

The text is the source code of the interpreter's own library, a token a byte, each batch and each test drawn anew.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor

from experiments.declaration import Better, Experiment, Figure, Measured, Published, Quick
from experiments.library import library_bytes
from experiments.training import Recipe, train
from modeling.checkpoint import CheckpointConfig
from modeling.config.network import EncoderDecoderConfig
from modeling.config.objective import EVALUATED_SPANS
from modeling.config.optimization import OptimizerConfig
from modeling.device import choose
from modeling.networks.encoder_decoder import Sources
from modeling.spans import Spans
from modeling.training.distributed import Ranks
from modeling.training.objectives import generator_at
from modeling.training.seq2seq import Seq2SeqBatch, hidden_spans, summed_loss
from textmill.progress import Progress

BYTES = 256
END = BYTES  # then the sentinels
TRAIN_BYTES, TEST_BYTES = 2_000_000, 200_000
BATCH, TEST_ROWS = 32, 256

MODEL = EncoderDecoderConfig(kind="encoder-decoder", layers=2, width=128, heads=4, context=128)
SPANS = EVALUATED_SPANS.counts(EVALUATED_SPANS.window(MODEL.context))[1]
HIDING = Spans(EVALUATED_SPANS, MODEL.context, range(END + 1, END + 1 + SPANS), END)


def texts(seed: int) -> tuple[Tensor, Tensor]:
    """Bytes to learn from and to be judged by, int64 [N] each."""
    ids = torch.from_numpy(library_bytes(TRAIN_BYTES + TEST_BYTES, seed))
    return ids[:-TEST_BYTES], ids[-TEST_BYTES:]


def windows(text: Tensor, rows: int, generator: torch.Generator) -> Seq2SeqBatch:
    """Windows from anywhere in a text, and what is hidden in them."""
    starts = torch.randint(len(text) - HIDING.window, (rows, 1), generator=generator)
    return hidden_spans(HIDING, text[starts + torch.arange(HIDING.window)], generator)


def with_others(batch: Seq2SeqBatch) -> Seq2SeqBatch:
    """Each target with the source of the one before it."""
    return batch._replace(sources=Sources(batch.sources.ids.roll(1, dims=0)))


def measure(settings: Mapping[str, Any], seed: int, progress: Progress) -> Measured:
    """Loss of hidden bytes, by a decoder that is given their sources, and by the same with others'."""
    compute = choose(precision="fp32")
    torch.manual_seed(seed)
    about = CheckpointConfig(MODEL, END + 1 + SPANS, "denoising", False, {})
    model = about.build_model().to(compute.device)
    text, held_out = texts(seed)
    own = windows(held_out, TEST_ROWS, generator_at(seed, 0))
    tests = {"own_source_loss": own, "other_source_loss": with_others(own)}
    steps = int(settings["steps"])
    recipe = Recipe(steps, OptimizerConfig(matrix_lr=settings["matrix_lr"]), compute)

    def batch_at(step: int) -> Seq2SeqBatch:
        batch = windows(text, BATCH, generator_at(seed, 1 + step))
        return batch if settings["source"] == "own" else with_others(batch)

    curve = []
    for step, loss in train(model, recipe, batch_at):
        progress(step, steps, unit="steps", loss=loss)
        if recipe.looks_at(step):
            with torch.no_grad():
                sums = {name: summed_loss(test, model, Ranks(), compute.device, BATCH) for name, test in tests.items()}
            losses = {name: nats / targets for name, (nats, targets) in sums.items()}
            curve.append({"step": float(step), **losses})
    return Measured(figures=losses, curve=curve)


EXPERIMENT = Experiment(
    claim="A decoder that was trained with its own sources writes hidden bytes better, by more than 0.1 nats each, "
    "than one that was trained with others'; with others' sources it writes them worse than that one.",
    chapter="Cross-attention lets the decoder look at what the encoder has read.",
    settings={"steps": 200},
    variants={"own source": {"source": "own"}, "another's source": {"source": "other"}},
    sweep={"matrix_lr": [0.01, 0.02, 0.04]},
    measure=measure,
    figure=Figure(name="own_source_loss"),
    contrasts=[
        Better(better="own source", than="another's source", by=0.1),
        Better(better="another's source", than="own source", figure="other_source_loss"),
    ],
    published=[
        Published(
            source="Bahdanau et al. 2015, 'Neural Machine Translation by Jointly Learning to Align and Translate', "
            "table 1",
            says="A decoder that looks at all of the source translates better (26.75 BLEU) than one that is given a "
            "summary of it (17.82).",
        ),
        Published(
            source="Elliott 2018, 'Adversarial Evaluation of Multimodal Machine Translation'",
            says="Given another picture than its own, not every system that translates with pictures does worse.",
        ),
    ],
    quick=Quick(settings={"steps": 6}),
)
