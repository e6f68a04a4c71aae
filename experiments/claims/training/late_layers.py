"""Layers that join late: most of a training with one layer, the rest with all, at equal FLOPs."""

from experiments.declaration import Better, Experiment, Figure, Published, Quick
from modeling.config.presets import MODERN, MUON

EXPERIMENT = Experiment(
    claim="At equal FLOPs, a model whose layers join half-way learns more than one that trains all from the start.",
    settings={
        "pretrain": {
            "model": {**MODERN, "layers": 8, "width": 192, "heads": 4},
            "optimizer": MUON,
            "steps": 200,
            "evaluate_every": 20,
        }
    },
    variants={
        "all from the start": {},
        "join half-way": {"pretrain": {"progressive": {"layers": 1, "until": 0.5}}},
    },
    figure=Figure(at_equal="flops"),
    contrasts=[Better(better="join half-way", than="all from the start")],
    equal=["parameters"],
    published=[
        Published(
            source="Bu et al. 2025, 'Deep Progressive Training' (2511.04981)",
            says="Growing the depth late saves up to 80 % of the FLOPs at almost the same loss.",
            ours=[Better(better="join half-way", than="all from the start")],
        )
    ],
    quick=Quick(settings={"pretrain": {"steps": 20, "evaluate_every": 5}}),
)
