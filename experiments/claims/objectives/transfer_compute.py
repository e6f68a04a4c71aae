"""Filling blanks after pretraining against filling blanks with all the steps, those of pretraining too: the comparison
of `transfer` at equal total compute. What both have in common, either builds for the other."""

from typing import Any

from experiments.claims.objectives import transfer
from experiments.declaration import Better, Experiment, Published, Quick
from textmill.settings import layered

# An untrained model is one that was pretrained for one step
ALL_STEPS = transfer.PRETRAIN_STEPS + transfer.FINETUNE_STEPS - 1
MASKED_ALONE: dict[str, Any] = {"finetune": {"steps": ALL_STEPS}}

EXPERIMENT = Experiment(
    claim="Pretraining to predict the next token, then learning to fill blanks, fills them better than learning "
    "only that with the same total compute.",
    chapter="Pretraining, then masked tuning beats masked training alone: at equal total compute.",
    settings=transfer.SETTINGS,
    variants={"pretrained, then masked": {}, "masked alone": layered(transfer.UNTRAINED, MASKED_ALONE)},
    sweep_of={
        "pretrained, then masked": {transfer.RATE: transfer.TRAINED_RATES},
        "masked alone": {transfer.RATE: transfer.UNTRAINED_RATES},
    },
    figure=transfer.FIGURE,
    contrasts=[Better(better="pretrained, then masked", than="masked alone")],
    equal=["steps", "tokens", "parameters", "flops"],
    seeded=["pretrain.seed", "finetune.seed"],
    published=[
        Published(
            source="Gisserot-Boukhlef et al. 2025, 'Should We Still Pretrain Encoders with Masked Language Modeling?' "
            "(2507.00994)",
            says="Under a fixed compute budget causal, then masked training is better than masked training alone.",
            ours=[Better(better="pretrained, then masked", than="masked alone")],
        )
    ],
    quick=Quick(settings={"pretrain": {"batch": 2}, "finetune": {"batch": 2}}),  # steps are what makes it fair
)
