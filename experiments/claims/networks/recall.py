"""Copying over a distance: a GPT and recurrent networks of as many weights learn to write a random string again, whose
every token is a given number of tokens back. All distances are trained in turn, and each is judged by itself.

A window is a string, a mark, and the string again. What is to be written follows from what is before it, and it cannot
be guessed from anything else: the tokens of a string are drawn independently.
"""

from __future__ import annotations

from collections.abc import Mapping
from statistics import mean
from typing import Any

import torch
from torch import Tensor

from experiments.declaration import Better, Experiment, Figure, Measured, Published, Quick
from experiments.training import Recipe, train
from modeling.checkpoint import CheckpointConfig
from modeling.config.network import ModelConfig, TransformerConfig
from modeling.config.optimization import OptimizerConfig
from modeling.cost import recurrent_like
from modeling.device import Compute, choose
from modeling.networks.language_model import LanguageModel
from modeling.training.objectives import Batch, generator_at
from textmill.progress import Progress

DISTANCES = (4, 8, 16, 32, 64, 128)  # tokens from what is written back to where it was read
FARTHEST = DISTANCES[-1]
LETTERS = 64
MARK = LETTERS  # the id after those of the letters
STEP_TOKENS, TEST_ROWS = 4096, 128

GPT = TransformerConfig(layers=2, width=64, heads=2, context=2 * FARTHEST)
CELLS = ("lstm", "gru", "mingru")
NETWORKS: dict[str, ModelConfig] = {"gpt": GPT, **{cell: recurrent_like(GPT, cell) for cell in CELLS}}


def strings_twice(distance: int, rows: int, generator: torch.Generator) -> Batch:
    """Windows whose second halves are to be written; each token of these is `distance` tokens after where it was."""
    letters = torch.randint(LETTERS, (rows, distance - 1), generator=generator)
    mark = torch.full((rows, 1), MARK)
    ids = torch.cat((letters, mark, letters[:, :-1]), dim=1)
    return Batch(ids, letters, torch.arange(distance - 1, ids.shape[1]).expand(rows, -1))


def measure(settings: Mapping[str, Any], seed: int, progress: Progress) -> Measured:
    """Accuracy at each distance of one network."""
    compute = choose(precision="fp32")  # a state in half precision would forget by rounding
    torch.manual_seed(seed)
    about = CheckpointConfig(NETWORKS[settings["network"]], LETTERS + 1, "causal", False, {})
    model = about.build_model().to(compute.device)
    tests = {distance: strings_twice(distance, TEST_ROWS, generator_at(0, distance)) for distance in DISTANCES}
    steps = int(settings["steps"])
    recipe = Recipe(steps, OptimizerConfig(matrix_lr=settings["matrix_lr"]), compute)

    def batch_at(step: int) -> Batch:
        distance = DISTANCES[step % len(DISTANCES)]
        return strings_twice(distance, STEP_TOKENS // (2 * distance), generator_at(1 + seed, step))

    curve = []
    for step, loss in train(model, recipe, batch_at):
        progress(step, steps, unit="steps", loss=loss)
        if recipe.looks_at(step):
            accuracies = {f"accuracy_at_{n}": accuracy(model, test, compute) for n, test in tests.items()}
            accuracies["mean_accuracy"] = mean(accuracies.values())
            curve.append({"step": float(step), **accuracies})
    figures = {
        **accuracies,
        "constant_accuracy": mean(constant_accuracy(test.targets) for test in tests.values()),
        "block_parameters": float(model.block_parameters()),
    }
    return Measured(figures=figures, curve=curve)


@torch.no_grad()
def accuracy(model: LanguageModel, test: Batch, compute: Compute) -> float:
    """Share of the targets that the network holds for the most probable token."""
    ids, targets, positions, _ = test.to(compute.device)
    return float((model(ids, positions=positions).argmax(dim=-1) == targets).double().mean())


def constant_accuracy(targets: Tensor) -> float:
    """What the best answer reaches that is always the same."""
    return float(targets.flatten().bincount().max() / targets.numel())


EXPERIMENT = Experiment(
    claim=f"A GPT copies what it read {FARTHEST} tokens before with an accuracy more than 0.5 above that of an LSTM, a "
    "GRU or a minGRU of as many weights.",
    chapter="Recurrent networks suffer from short context.",
    settings={"steps": 420},
    variants={name: {"network": name} for name in NETWORKS},
    sweep={"matrix_lr": [0.005, 0.01, 0.02, 0.04, 0.08]},
    measure=measure,
    figure=Figure(name="mean_accuracy", better="higher", baseline="constant_accuracy"),  # over the distances
    contrasts=[Better(better="gpt", than=cell, by=0.5, figure=f"accuracy_at_{FARTHEST}") for cell in CELLS],
    published=[
        Published(
            source="Jelassi et al. 2024, 'Repeat After Me: Transformers are Better than State Space Models at Copying'",
            says="Transformers learn to copy strings more efficiently than networks with a state of fixed size, Mamba "
            "among them.",
            ours=[Better(better="gpt", than=cell) for cell in CELLS],
        ),
        Published(
            source="Arora et al. 2023, 'Zoology: Measuring and Improving Recall in Efficient Language Models', "
            "abstract",
            says="A transformer of 70M parameters recalls associations better than a model of gated convolutions of "
            "1.4B.",
        ),
    ],
    quick=Quick(settings={"steps": 12}, variants=["gpt", "lstm"]),
)
