"""Filling blanks after pretraining against filling blanks from (nearly) untrained weights, with the same fine-tuning.

The report's claim that pretraining pays for the masked objective although it only ever predicted the next token.
"""

from experiments.declaration import Better, Experiment, Figure, Quick

EXPERIMENT = Experiment(
    claim="A model that was pretrained to predict the next token learns to fill blanks faster than an untrained one.",
    variants={"pretrained": {}, "untrained": {"pretrain": {"steps": 1, "schedule": {"warmup": 0}}}},
    figure=Figure(
        stage="finetune",
        name="masked_accuracy",
        better="higher",
        baseline="most_frequent_accuracy",
    ),
    contrasts=[Better(better="pretrained", than="untrained", by=0.01)],
    seeded=["pretrain.seed", "finetune.seed"],
    quick=Quick(settings={"pretrain": {"steps": 20}, "finetune": {"steps": 20}}),
)
