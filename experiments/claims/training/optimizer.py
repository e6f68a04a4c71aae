"""Muon on the matrices of the blocks against AdamW on everything, each at the best of its learning rates."""

from experiments.declaration import Better, Experiment, Published, Quick
from modeling.config.presets import ADAMW, MUON

EXPERIMENT = Experiment(
    claim="Muon on the matrices learns more from the same tokens than AdamW.",
    variants={"muon": {"pretrain": {"optimizer": MUON}}, "adamw": {"pretrain": {"optimizer": ADAMW}}},
    sweep_of={
        "muon": {"pretrain.optimizer.matrix_lr": [0.01, 0.02, 0.04]},
        "adamw": {"pretrain.optimizer.lr": [1e-3, 3e-3, 6e-3]},
    },
    contrasts=[Better(better="muon", than="adamw")],
    equal=["steps", "tokens", "parameters", "flops"],
    published=[
        Published(
            source="Jordan et al. 2024, modded-nanogpt, record 3 (October 2024)",
            says="Muon reaches AdamW's loss on GPT-2 (small) with 1.35 times fewer tokens: 3.7 instead of 5 billion.",
            ours=[Better(better="muon", than="adamw")],
        )
    ],
    quick=Quick(settings={"pretrain": {"steps": 20, "evaluate_every": 10}}),
)
