"""What is compiled: the steps of a run that is long enough, and never its evaluations."""

from types import SimpleNamespace

import pytest
import torch
from torch import nn

from modeling.checkpoint import CheckpointConfig
from modeling.config import PretrainConfig
from modeling.device import Compute
from modeling.networks.transformer import GPT
from modeling.training.pretrain import pretrain
from modeling.training.state import TrainingRun
from modeling.training.trainer import Trainer, is_worth_compiling
from textmill.progress import quiet


@pytest.mark.parametrize(
    ("settings", "vocab_size", "pays"),
    [
        ({"preset": "nano"}, 8192, False),  # the demo: a few seconds on a GPU
        ({"preset": "nano-fast"}, 8192, False),
        ({"preset": "nano", "steps": 200_000}, 8192, True),  # small steps, but many
        ({"preset": "gpt2-124m"}, 50_304, True),
        ({"preset": "gpt2-124m", "steps": 10, "schedule": {"warmup": 1}}, 50_304, False),
        ({"preset": "gpt2-124m", "steps": 200, "schedule": {"warmup": 1}}, 50_304, True),
        ({"depth": 12}, 32_768, True),
    ],
)
def test_what_takes_longer_to_compile_than_to_train_is_not_compiled(settings, vocab_size, pays, tmp_path):
    config = PretrainConfig.model_validate(settings)
    about = CheckpointConfig(config.model, vocab_size, "causal", False, {})
    run = TrainingRun(None, SimpleNamespace(length=config.model.context), about, config, tmp_path)
    assert is_worth_compiling(run, Compute(torch.device("cpu"), torch.bfloat16), world=1) == pays


def test_evaluations_are_not_compiled(tokens, tokenizer_folder, tiny, tmp_path, monkeypatch):
    compiled, during_evaluations = [], []

    def backend(graph, inputs):
        compiled.append(graph)
        return graph

    original = Trainer.validation_metrics

    def counted(self):
        before = len(compiled)
        metrics = original(self)
        during_evaluations.append(len(compiled) - before)
        return metrics

    monkeypatch.setattr(GPT, "compile", lambda self: nn.Module.compile(self, backend=backend))
    monkeypatch.setattr(Trainer, "validation_metrics", counted)
    pretrain(tokens, tokenizer_folder, tiny(compile=True, steps=4, evaluate_every=2), tmp_path, quiet)
    assert compiled
    assert during_evaluations == [0, 0]
