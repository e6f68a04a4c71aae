"""The parts that transformers gained since GPT-2 (RMSNorm, rotary positions, normalised queries and keys, ReLU², zero
initialisation) against the block of the report, at the same width, depth, data and optimizer."""

from experiments import Experiment
from modeling.config import CLASSIC

EXPERIMENT = Experiment(
    claim="A modern transformer block learns more from the same tokens than the classic one of the report.",
    favoured="modern",
    variants={
        "modern": {},
        "classic": {"pretrain": {"model": CLASSIC}},
    },
)
