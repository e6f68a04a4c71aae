"""KANs in place of the MLPs of a GPT, with as many weights: from the same tokens, and in the same time."""

from experiments.declaration import Better, Experiment, Published, Quick
from modeling.config.presets import MODERN, MUON

KANS = ("kan-spline", "kan-rational")

EXPERIMENT = Experiment(
    claim="A GPT with MLPs learns more from the same tokens than one with KANs of splines or rationals of as many "
    "weights, and more in the same time.",
    chapter="Kolmogorov-Arnold networks need far fewer neurons, and learn far more slowly.",
    settings={
        "pretrain": {
            "model": {**MODERN, "layers": 2, "width": 128, "heads": 4},
            "optimizer": MUON,
            "steps": 200,
            "evaluate_every": 20,
        }
    },
    variants={kind: {"pretrain": {"model": {"feed_forward": {"kind": kind}}}} for kind in ("mlp", *KANS)},
    sweep={"pretrain.optimizer.matrix_lr": [0.01, 0.02, 0.04]},
    contrasts=[
        *(Better(better="mlp", than=kind) for kind in KANS),
        *(Better(better="mlp", than=kind, at_equal="seconds") for kind in KANS),
    ],
    equal=["steps", "tokens", "parameters"],
    published=[
        Published(
            source="Yu et al. 2024, 'KAN or MLP: A Fairer Comparison' (2407.16674)",
            says="At equal parameters or FLOPs MLPs are generally better than KANs at language, vision and audio.",
            ours=[Better(better="mlp", than="kan-spline")],
        ),
        Published(
            source="Yang & Wang 2024, 'Kolmogorov-Arnold Transformer' (2409.10594)",
            says="In vision transformers of several sizes KANs of grouped rationals are better than MLPs.",
            ours=[Better(better="kan-rational", than="mlp")],
        ),
    ],
    quick=Quick(settings={"pretrain": {"steps": 20, "evaluate_every": 10}}, variants=["mlp", "kan-rational"]),
)
