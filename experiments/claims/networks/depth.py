"""What makes a deep network trainable: residual connections and norms, taken away one at a time, at two depths."""

from typing import Any

from experiments.declaration import Better, Experiment, Published, Quick
from modeling.config.presets import CLASSIC

BLOCKS: dict[str, dict[str, Any]] = {
    "pre-norm": {"norm_place": "pre"},
    "post-norm": {"norm_place": "post"},
    "no norm": {"norm_place": "none"},
    "no residual": {"residual": False},
}

EXPERIMENT = Experiment(
    claim="At sixteen layers a classic block trains better with residual connections than without, and with a norm "
    "before each part better than without norms; without residual connections sixteen layers are worse than four.",
    chapter="Residual connections and layer norm make depth trainable.",
    settings={"pretrain": {"model": {**CLASSIC, "width": 64, "heads": 4}, "optimizer": {"name": "adamw", "clip": 1.0}}},
    variants={
        f"{name}, {layers} layers": {"pretrain": {"model": {**block, "layers": layers}}}
        for layers in (4, 16)
        for name, block in BLOCKS.items()
    },
    sweep={"pretrain.optimizer.lr": [3e-4, 1e-3, 3e-3]},
    contrasts=[
        Better(better="pre-norm, 16 layers", than="no residual, 16 layers"),
        Better(better="pre-norm, 16 layers", than="no norm, 16 layers"),
        Better(better="no residual, 4 layers", than="no residual, 16 layers"),
    ],
    equal=["steps", "tokens"],
    published=[
        Published(
            source="He et al. 2016, 'Deep Residual Learning for Image Recognition', figure 4",
            says="Of plain networks the deeper one trains worse, of residual ones the deeper one trains better.",
            ours=[
                Better(better="no residual, 4 layers", than="no residual, 16 layers"),
                Better(better="pre-norm, 16 layers", than="pre-norm, 4 layers"),
            ],
        ),
    ],
    quick=Quick(
        settings={"pretrain": {"steps": 20, "evaluate_every": 10}},
        variants=["pre-norm, 16 layers", "no residual, 16 layers"],
    ),
)
