"""The parts that transformers gained since GPT-2 (RMSNorm, rotary positions, normalized queries and keys, ReLU², zero
initialization) against the block of the report, at the same width, depth and data, each at the best of its rates."""

from experiments.declaration import Better, Experiment, Published, Quick
from modeling.config.presets import CLASSIC, MODERN, MUON

EXPERIMENT = Experiment(
    claim="A modern transformer block learns more from the same tokens than the classic one of the report does.",
    variants={
        "modern": {"pretrain": {"model": MODERN, "optimizer": MUON}},
        "classic": {"pretrain": {"model": CLASSIC, "optimizer": MUON}},
    },
    sweep={"pretrain.optimizer.matrix_lr": [0.01, 0.02, 0.04]},
    contrasts=[Better(better="modern", than="classic")],
    equal=["steps", "tokens", "parameters"],
    published=[
        Published(
            source="Jordan et al. 2024, modded-nanogpt, README of June and October 2024 (records 2 and 5)",
            says="Rotary positions, then ReLU², zero initialization and QK norm, added in turn with other changes, "
            "each came with fewer tokens to about the same loss.",
            ours=[Better(better="modern", than="classic")],
        )
    ],
    quick=Quick(settings={"pretrain": {"steps": 20, "evaluate_every": 10}}),
)
