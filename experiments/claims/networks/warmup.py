"""Whether a training needs to begin slowly: warm-up or none, with the norm before each part of a block or after it."""

from typing import Any

from experiments.declaration import Better, Contrast, Experiment, Published, Quick, Same
from modeling.config.presets import CLASSIC

PLACES = {"pre-norm": "pre", "post-norm": "post"}
WARMUPS = {"warm-up": 40, "no warm-up": 0}  # steps


def _settings(place: str, warmup: int) -> dict[str, Any]:
    return {"pretrain": {"model": {"norm_place": place}, "schedule": {"shape": "wsd", "warmup": warmup}}}


CONTRASTS: list[Contrast] = [
    Better(better="post-norm, warm-up", than="post-norm, no warm-up"),
    Same(same=("pre-norm, warm-up", "pre-norm, no warm-up"), within=0.05),
]

EXPERIMENT = Experiment(
    claim="With the norm after each part a transformer of eight layers trains better with warm-up than without; with "
    "the norm before each part warm-up makes a difference of less than 0.05 bits a byte.",
    chapter="Residual connections and layer norm make depth trainable.",
    settings={
        "pretrain": {
            "model": {**CLASSIC, "width": 64, "heads": 4, "layers": 8},
            "optimizer": {"name": "adamw", "clip": 1.0},
            "steps": 200,
        }
    },
    variants={
        f"{norm}, {begin}": _settings(place, steps)
        for norm, place in PLACES.items()
        for begin, steps in WARMUPS.items()
    },
    sweep={"pretrain.optimizer.lr": [1e-3, 2e-3, 4e-3]},
    contrasts=CONTRASTS,
    equal=["steps", "tokens", "parameters", "flops"],
    published=[
        Published(
            source="Xiong et al. 2020, 'On Layer Normalization in the Transformer Architecture', figures 2 and 4",
            says="With the norm after each part a training without warm-up ends far worse; with the norm before, "
            "warm-up can be left out.",
            ours=CONTRASTS,
        )
    ],
    quick=Quick(
        settings={"pretrain": {"steps": 60, "evaluate_every": 30}},
        variants=["post-norm, warm-up", "post-norm, no warm-up"],
    ),
)
