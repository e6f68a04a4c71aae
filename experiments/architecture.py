"""The parts that transformers gained since GPT-2 (RMSNorm, rotary positions, normalized queries and keys, ReLU², zero
initialization) against the block of the report, at the same width, depth and data.

Both learn by Muon, the classic block also at half and at twice the rate that suits the modern one.
"""

from experiments import Experiment
from modeling.config import CLASSIC, MODERN, MUON

EXPERIMENT = Experiment(
    claim="A modern transformer block learns more from the same tokens than the classic one of the report does at the "
    "best of three learning rates.",
    favored="modern",
    variants={
        "modern": {"pretrain": {"model": MODERN, "optimizer": MUON}},
        **{
            f"classic {rate:g}": {"pretrain": {"model": CLASSIC, "optimizer": MUON | {"matrix_lr": rate}}}
            for rate in (0.01, 0.02, 0.04)
        },
    },
)
