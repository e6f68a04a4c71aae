"""Which choices about data are better on a pipeline's own pages and documents, and whether small models tell.

Each variant is the configuration with one choice changed. All models are judged by the same text, which the cleanest
variant holds out and no variant trains on. Those of the second size take ten times the compute of the first, with the
same text.
"""

from typing import Any

from experiments.data import Data, choices, cleanest
from experiments.declaration import Agrees, Experiment, Figure, Published, Quick
from modeling.config.pretrain import PretrainConfig
from textmill.settings import affects_output

AS_CONFIGURED, CLEANEST = "as configured", "all cleaning"
SIZES = {  # of which one takes ten times the FLOPs of the other
    "small": {"layers": 2, "width": 64, "heads": 2, "context": 256},
    "large": {"layers": 4, "width": 208, "heads": 4, "context": 256},
}
# What the configuration says of its own model does not matter; how its sources are mixed does.
REPLACED = [
    f"pretrain.{name}"
    for name, field in PretrainConfig.model_fields.items()
    if name in ("preset", "depth") or (affects_output(field) and name != "mixture")
]
TRAINING = {"batch": 8, "steps": 160, "evaluate_every": 80, "evaluate_tokens": 16_384, "sample_tokens": 0}
# Small models have small vocabularies, whatever the configuration's is.
VOCABULARY = {"train_tokenizer": {"vocab_size": 2048, "encoding": None}}
TRIED = (AS_CONFIGURED, CLEANEST, "text of pages by their looks", "near-duplicates kept")


def experiment(data: Data) -> Experiment:
    """The variants of a configuration that says so about its text, at both sizes."""
    variants: dict[str, dict[str, Any]] = {AS_CONFIGURED: {}}
    if everything := cleanest(data):
        variants[CLEANEST] = everything
    variants |= dict(choices(data))
    reference = CLEANEST if everything else AS_CONFIGURED
    agrees = Agrees(small=[f"{name}, small" for name in variants], large=[f"{name}, large" for name in variants])
    return Experiment(
        claim="Models of a tenth of the compute rank choices about data as larger ones do, in four pairs of five.",
        replaces=REPLACED,
        settings={"pretrain": TRAINING, **VOCABULARY},
        variants={
            f"{name}, {size}": {**settings, "pretrain": {**settings.get("pretrain", {}), "model": model}}
            for size, model in SIZES.items()
            for name, settings in variants.items()
        },
        figure=Figure(held_out=f"{reference}, small"),
        contrasts=[agrees],
        published=[
            Published(
                source="Magnusson et al. 2025, 'DataDecide: How to Predict Best Pretraining Data with Small "
                "Experiments'",
                says="The ranking of 25 corpora by models of 150M parameters is that by models of 1B in about 80 % of "
                "the pairs.",
                ours=[agrees],
            )
        ],
        quick=Quick(
            settings={"pretrain": {"steps": 4}},
            variants=[f"{name}, {size}" for size in SIZES for name in variants if name in TRIED],
        ),
    )
