"""What reaches the first block of a deep network: the gradient at the start of a training, block by block, with and
without residual connections and norms.

The text is the source code of the interpreter's own library, a token a byte. Nothing is trained.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor

from experiments.declaration import Better, Experiment, Figure, Measured, Published, Quick
from experiments.library import library_bytes
from modeling.config.network import TransformerConfig
from modeling.config.presets import CLASSIC
from modeling.device import choose
from modeling.networks.transformer import GPT
from modeling.training.objectives import generator_at
from textmill.progress import Progress

LAYERS, ROWS, TEXT_BYTES = 16, 16, 300_000
SHAPE: dict[str, Any] = {**CLASSIC, "width": 64, "heads": 4, "layers": LAYERS, "context": 128}
BLOCKS: dict[str, dict[str, Any]] = {
    "residual and norm": {},
    "residual, norm after": {"norm_place": "post"},
    "residual alone": {"norm_place": "none"},
    "norm alone": {"residual": False},
    "neither": {"residual": False, "norm_place": "none"},
}


def measure(settings: Mapping[str, Any], seed: int, progress: Progress) -> Measured:
    """The decimal logarithm of each block's gradient, as a multiple of the last block's, from the last to the first."""
    norms = gradient_norms(TransformerConfig.model_validate({**SHAPE, **settings}), seed)
    progress(1, 1, unit="gradients")
    curve = [
        {"step": float(back), "log10_gradient": math.log10(norm / norms[-1])}
        for back, norm in enumerate(reversed(norms))
    ]
    return Measured(figures={"log10_gradient": curve[-1]["log10_gradient"]}, curve=curve)


def gradient_norms(config: TransformerConfig, seed: int) -> list[float]:
    """Euclidean norms of the gradients of a new model's blocks on one batch, from the first to the last."""
    compute = choose(precision="fp32")
    torch.manual_seed(seed)
    model = GPT(config, vocab_size=256, causal=True).to(compute.device)
    ids = windows(config.context + 1, seed).to(compute.device)
    model(ids[:, :-1], targets=ids[:, 1:]).backward()
    return [
        math.sqrt(sum(float(weight.grad.square().sum()) for weight in block.parameters() if weight.grad is not None))
        for block in model.blocks
    ]


def windows(length: int, seed: int) -> Tensor:
    """Bytes from anywhere in the text, int64 [ROWS, length]."""
    text = torch.from_numpy(library_bytes(TEXT_BYTES, seed))
    starts = torch.randint(len(text) - length, (ROWS, 1), generator=generator_at(seed, 0))
    return text[starts + torch.arange(length)]


EXPERIMENT = Experiment(
    claim=f"With neither residual connections nor norms, the first of {LAYERS} blocks gets less than a tenth of the "
    "gradient, relative to the last block's, that it gets with either.",
    chapter="Residual connections and layer norm make depth trainable.",
    variants=BLOCKS,
    measure=measure,
    figure=Figure(name="log10_gradient", better="higher"),
    contrasts=[Better(better=name, than="neither", by=1) for name in ("residual alone", "norm alone")],
    seeds=5,
    published=[
        Published(
            source="He et al. 2016, 'Deep Residual Learning for Image Recognition', section 4.1",
            says="Deep plain networks train worse than shallow ones although batch norm keeps their gradients healthy.",
            ours=[Better(better="norm alone", than="neither", by=1)],
        ),
        Published(
            source="Xiong et al. 2020, 'On Layer Normalization in the Transformer Architecture', figure 3",
            says="At the start, gradients are alike in all layers with the norm before each part; with the norm after, "
            "those near the output are large.",
            ours=[Better(better="residual and norm", than="residual, norm after")],
        ),
    ],
    quick=Quick(variants=["norm alone", "neither"]),
)
