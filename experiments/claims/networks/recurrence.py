"""What a recurrent network makes of a longer context, beside a GPT of as many weights: the loss late in a window less
that early in it, where nothing before the window is known. All networks are judged on the same windows, so that what is
easier about the later tokens is the same for all of them."""

from typing import Any

from experiments.declaration import Better, Experiment, Figure, Published, Quick, Same
from modeling.config.network import TransformerConfig
from modeling.config.presets import MODERN, MUON
from modeling.cost import recurrent_like

SHAPE: dict[str, Any] = {
    "layers": 2, "width": 128, "context": 256, "norm": "rms", "bias": False, "zero_init": True, "dropout": 0.0
}  # fmt: skip
GPT: dict[str, Any] = {**MODERN, **SHAPE, "heads": 4}
CELLS = {cell: recurrent_like(TransformerConfig.model_validate(GPT), cell) for cell in ("lstm", "gru", "mingru")}
RECURRENT = {
    cell: {"kind": "recurrent", "cell": cell, "hidden": config.hidden, **SHAPE} for cell, config in CELLS.items()
}

EXPERIMENT = Experiment(
    claim="From the second eighth of a window to its last quarter the loss of a GPT falls further than that of an "
    "LSTM, a GRU or a minGRU of as many weights.",
    chapter="Recurrent networks suffer from short context.",
    replaces=["pretrain.model", "pretrain.depth"],
    settings={"pretrain": {"optimizer": MUON, "steps": 200, "batch": 16, "evaluate_tokens": 65_536}},
    variants={name: {"pretrain": {"model": model}} for name, model in {"gpt": GPT, **RECURRENT}.items()},
    sweep={"pretrain.optimizer.matrix_lr": [0.01, 0.02, 0.04]},
    figure=Figure(name="validation_loss"),
    contrasts=[Better(better="gpt", than=cell, figure="late_minus_early") for cell in RECURRENT],
    equal=["steps", "tokens", "parameters"],
    published=[
        Published(
            source="Khandelwal et al. 2018, 'Sharp Nearby, Fuzzy Far Away: How Neural Language Models Use Context', "
            "figures 1 and 2",
            says="An LSTM uses about 200 tokens of context, and knows the order of the nearest 50 only.",
        ),
        Published(
            source="Kaplan et al. 2020, 'Scaling Laws for Neural Language Models', figure 7",
            says="Within a context LSTMs stop improving after fewer than 100 tokens; transformers improve through all "
            "of it.",
            ours=[Better(better="gpt", than="lstm", figure="late_minus_early")],
        ),
        Published(
            source="Feng et al. 2024, 'Were RNNs All We Needed?' (2410.01201)",
            says="In language modeling a minGRU reaches about the loss of a transformer, in fewer steps.",
            ours=[Same(same=("mingru", "gpt"), within=0.05)],
        ),
    ],
    quick=Quick(settings={"pretrain": {"steps": 20, "evaluate_every": 10}}, variants=["gpt", "lstm"]),
)
