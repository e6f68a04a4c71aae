"""Dividing attention logits by the root of the head size, or, as a slip of the report's code has it, of the width."""

from experiments.declaration import Better, Experiment, Published, Quick
from modeling.config.presets import CLASSIC, MUON

EXPERIMENT = Experiment(
    claim="Dividing attention logits by the root of the head size learns more than dividing by that of the width.",
    chapter="Attention is scaled by the root of d_k; the report's code divides by that of the embedding size.",
    settings={"pretrain": {"model": {**CLASSIC, "heads": 8, "width": 128}, "optimizer": MUON}},
    variants={name: {"pretrain": {"model": {"attention_scale": name}}} for name in ("head", "width")},
    sweep={"pretrain.optimizer.matrix_lr": [0.005, 0.01, 0.02, 0.04]},
    contrasts=[Better(better="head", than="width")],
    equal=["steps", "tokens", "parameters", "flops"],
    seeds=5,
    published=[
        Published(
            source="Vaswani et al. 2017, 'Attention Is All You Need', section 3.2.1",
            says="Without the right scale, large dot products push the softmax where its gradients are small.",
        )
    ],
    quick=Quick(settings={"pretrain": {"steps": 20, "evaluate_every": 10}}),
)
