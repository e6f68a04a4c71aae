"""Muon on the matrices of the blocks against AdamW on everything, which is given three learning rates to choose from.

Source: Jordan et al., "Muon: An optimizer for hidden layers in neural networks" (2024).
"""

from experiments import Experiment
from modeling.config import ADAMW, MUON

EXPERIMENT = Experiment(
    claim="Muon on the matrices learns more from the same tokens than AdamW at the best of its learning rates.",
    favored="muon",
    variants={
        "muon": {"pretrain": {"optimizer": MUON}},
        **{f"adamw {rate:g}": {"pretrain": {"optimizer": ADAMW | {"lr": rate}}} for rate in (1e-3, 3e-3, 6e-3)},
    },
)
