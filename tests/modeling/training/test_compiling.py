"""What is compiled: the steps of a run that is long enough, and never its evaluations."""

from types import SimpleNamespace

import pytest
import torch
from torch import nn

from modeling.checkpoint import CheckpointConfig
from modeling.config.network import TransformerConfig
from modeling.config.pretrain import PretrainConfig
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


@pytest.mark.slow
@pytest.mark.parametrize("kind", ["mlp", "kan-spline", "kan-rbf", "kan-rational"])
def test_a_compiled_model_has_the_loss_and_the_gradients_of_the_eager_one(kind):
    torch.manual_seed(0)
    shape = {"layers": 2, "width": 32, "heads": 2, "context": 16, "zero_init": False}
    model = GPT(TransformerConfig.model_validate({**shape, "feed_forward": kind}), 50)
    ids, targets = torch.randint(50, (3, 16)), torch.randint(50, (3, 16))
    compiled = torch.compile(model, fullgraph=True)
    (loss, gradients), (expected, theirs) = (loss_and_gradients(each, ids, targets) for each in (compiled, model))
    torch.testing.assert_close(loss, expected)
    assert gradients.keys() == theirs.keys() == dict(model.named_parameters()).keys()
    for name, gradient in theirs.items():
        assert gradient.abs().max() > 0, name
        torch.testing.assert_close(gradients[name], gradient, atol=1e-6, rtol=1e-3, msg=lambda said, at=name: at + said)


def loss_and_gradients(model, ids, targets):
    model.zero_grad(set_to_none=True)
    loss = model(ids, targets)
    loss.backward()
    return loss.detach(), {
        name.removeprefix("_orig_mod."): parameter.grad.clone() for name, parameter in model.named_parameters()
    }
