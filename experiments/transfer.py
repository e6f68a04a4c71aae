"""Filling blanks after pretraining against filling blanks from (nearly) untrained weights, with the same fine-tuning.

The report's claim that pretraining pays for the masked objective although it only ever predicted the next token.
"""

from experiments import Experiment

EXPERIMENT = Experiment(
    claim="A model that was pretrained to predict the next token learns to fill blanks faster than an untrained one.",
    favored="pretrained",
    variants={
        "pretrained": {},
        "untrained": {"pretrain": {"steps": 1}},
    },
    stage="finetune",
    metric="masked_accuracy",
    lower_is_better=False,
)
