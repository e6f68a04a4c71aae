"""What the experiment on gradients measures."""

from __future__ import annotations

import math

import pytest
import torch

from experiments.catalog import load
from experiments.claims.networks.gradients import BLOCKS, LAYERS, SHAPE, gradient_norms, measure, windows
from modeling.config.network import TransformerConfig
from modeling.networks.transformer import GPT
from textmill.progress import quiet


def test_gradients_are_those_of_one_batch_block_by_block():
    config = TransformerConfig.model_validate({**SHAPE, "layers": 3})
    norms = gradient_norms(config, seed=1)
    torch.manual_seed(1)
    model = GPT(config, vocab_size=256)
    ids = windows(config.context + 1, seed=1)
    model(ids[:, :-1], targets=ids[:, 1:]).backward()
    for number, norm in enumerate(norms):
        inside = [p.grad for name, p in model.named_parameters() if name.startswith(f"blocks.{number}.")]
        assert norm == pytest.approx(torch.nn.utils.get_total_norm(inside).item(), rel=1e-4)
    assert len(norms) == 3


def test_a_run_goes_from_the_last_block_to_the_first():
    measured = measure(BLOCKS["neither"], 0, quiet)
    assert [row["step"] for row in measured.curve] == list(range(LAYERS))
    assert measured.curve[0]["log10_gradient"] == 0
    assert measured.curve[-1]["log10_gradient"] == measured.figures["log10_gradient"] < -1
    assert all(math.isfinite(row["log10_gradient"]) for row in measured.curve)
    assert measure(BLOCKS["neither"], 0, quiet) == measured
    assert measure(BLOCKS["neither"], 1, quiet) != measured


def test_every_variant_is_another_network():
    configs = {TransformerConfig.model_validate({**SHAPE, **block}).model_dump_json() for block in BLOCKS.values()}
    assert len(configs) == len(load("gradients").variants) == 5
