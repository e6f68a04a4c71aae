"""A miniature scaling law: models of five sizes, each trained on tokens in proportion to its parameters; the law is
fitted without the largest, and foretells it."""

from __future__ import annotations

from typing import Any

from experiments.declaration import Experiment, Figure, Published, Quick, Slope
from modeling.config.presets import MUON
from modeling.config.pretrain import PretrainConfig
from modeling.cost import flops_per_token

WIDTHS = (16, 24, 32, 40, 56)  # at most one and a half epochs of the demo's corpus
TOKENS_PER_WEIGHT = 20  # of the blocks (Hoffmann et al. 2022)
BATCH, CONTEXT, VOCAB_SIZE = 8, 128, 2048


def settings(width: int) -> dict[str, Any]:
    """A model of one block, whose steps go with its weights."""
    steps = round(TOKENS_PER_WEIGHT * 12 * width**2 / (BATCH * CONTEXT))
    model = {"width": width, "layers": 1, "heads": width // 8, "context": CONTEXT, "tied": True}
    return {"pretrain": {"model": model, "steps": max(60, steps), "batch": BATCH}}


def flops(width: int) -> float:
    """What such a run takes."""
    run = PretrainConfig.model_validate(settings(width)["pretrain"])
    return run.steps * run.batch * run.model.context * float(flops_per_token(run.model, VOCAB_SIZE))


SIZES = {f"width {width}": flops(width) for width in WIDTHS}

EXPERIMENT = Experiment(
    claim="Held-out loss falls as a power of the compute, with an exponent between -0.15 and -0.02, and the law of "
    "four smaller models foretells the fifth to within 5 %.",
    chapter="More compute, better models.",
    settings={"train_tokenizer": {"vocab_size": VOCAB_SIZE, "encoding": None}, "pretrain": {"optimizer": MUON}},
    variants={f"width {width}": settings(width) for width in WIDTHS},
    sweep={"pretrain.optimizer.matrix_lr": [0.01, 0.02, 0.04, 0.08]},
    figure=Figure(name="validation_loss"),
    contrasts=[Slope(over=SIZES, between=(-0.15, -0.02), foretells=0.05)],
    published=[
        Published(
            source="Kaplan et al. 2020, 'Scaling Laws for Neural Language Models', equation 1.3",
            says="Loss falls with compute as a power of about -0.05.",
            ours=[Slope(over=SIZES, between=(-0.06, -0.04))],
        ),
        Published(
            source="Hoffmann et al. 2022, 'Training Compute-Optimal Large Language Models'",
            says="Tokens should grow in proportion to parameters; often summed up as about 20 for each.",
        ),
    ],
    quick=Quick(variants=["width 16", "width 24", "width 32"]),
)
