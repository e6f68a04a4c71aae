"""Filling blanks after pretraining against filling blanks from untrained weights, with as many steps of fine-tuning.

The report's claim that pretraining pays for the masked objective although it only ever predicted the next token. Here
pretraining is for free; `transfer_compute` gives the steps that it took to the other side. An untrained model needs
other rates than a trained one, so that each is given the best of its own.
"""

from typing import Any

from experiments.declaration import Better, Experiment, Figure, Published, Quick
from modeling.config.presets import MODERN, MUON

PRETRAIN_STEPS, FINETUNE_STEPS = 400, 100
SETTINGS: dict[str, Any] = {
    "pretrain": {
        "model": {**MODERN, "width": 128, "layers": 4, "heads": 4, "context": 128, "dropout": 0.0},
        "optimizer": MUON,
        "steps": PRETRAIN_STEPS,
        "batch": 16,
        "evaluate_every": 100,
    },
    "finetune": {"steps": FINETUNE_STEPS, "batch": 16, "evaluate_every": 20},
}
UNTRAINED: dict[str, Any] = {"pretrain": {"steps": 1, "schedule": {"warmup": 0}}, "finetune": {"optimizer": MUON}}
RATE = "finetune.optimizer.matrix_lr"  # other rates: pretraining's of the untrained, a tenth of these else
TRAINED_RATES, UNTRAINED_RATES = [0.001, 0.002, 0.004, 0.008], [0.01, 0.02, 0.04]
FIGURE = Figure(stage="finetune", name="masked_accuracy", better="higher", baseline="most_frequent_accuracy")

EXPERIMENT = Experiment(
    claim="A model that was pretrained to predict the next token learns to fill blanks faster than an untrained one.",
    chapter="Pretraining, then masked tuning beats masked training alone: at equal tuning.",
    settings=SETTINGS,
    variants={"pretrained": {}, "untrained": UNTRAINED},
    sweep_of={"pretrained": {RATE: TRAINED_RATES}, "untrained": {RATE: UNTRAINED_RATES}},
    figure=FIGURE,
    contrasts=[Better(better="pretrained", than="untrained", by=0.01)],
    equal=["parameters"],
    seeded=["pretrain.seed", "finetune.seed"],
    published=[
        Published(
            source="BehnamGhader et al. 2024, 'LLM2Vec: Large Language Models Are Secretly Powerful Text Encoders' "
            "(2404.05961), figure 2",
            says="Causal models that were tuned a little on masked next tokens are better at word-level tasks than a "
            "model that was trained to be an encoder.",
        )
    ],
    quick=Quick(settings={"pretrain": {"steps": 20}, "finetune": {"steps": 20}}),
)
