"""Muon on the matrices of the blocks against AdamW on everything, each at the best of its learning rates."""

from experiments.declaration import Better, Experiment, Published, Quick
from modeling.config import ADAMW, MUON

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
            source="Jordan et al. 2024, 'Muon: An optimizer for hidden layers in neural networks'",
            says="Muon reaches the loss of AdamW on GPT-2 with 1.35 times fewer tokens.",
            ours=[Better(better="muon", than="adamw")],
        )
    ],
    quick=Quick(settings={"pretrain": {"steps": 20, "evaluate_every": 10}}),
)
