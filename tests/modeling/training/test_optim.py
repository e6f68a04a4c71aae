"""Optimizers and the learning rates they really use."""

import json

import pytest
import torch

from modeling.config.network import TransformerConfig
from modeling.config.optimization import OptimizerConfig, ScheduleConfig, finetuning_optimizer
from modeling.networks.sentence_pairs import SentencePairModel
from modeling.networks.span import SpanModel
from modeling.networks.transformer import GPT
from modeling.training.optim import Muon, lr_scale, optimizers, orthogonalized, set_learning_rates
from modeling.training.pretrain import pretrain
from modeling.training.trainer import Trainer

FULL = {"layers": 2, "width": 32, "heads": 2, "context": 16}


@pytest.mark.parametrize("shape", [(16, 16), (16, 64), (64, 16)])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_orthogonalized_matrices_keep_directions_and_level_sizes(shape, dtype):
    torch.manual_seed(0)
    u, _, v = torch.linalg.svd(torch.randn(3, *shape), full_matrices=False)
    sizes = torch.logspace(0, -2, min(shape))
    result = orthogonalized(((u * sizes) @ v).to(dtype))
    assert result.dtype == dtype
    result = result.float()
    values = torch.linalg.svdvals(result)
    assert 0.7 < values.min() < values.max() < 1.3
    exact = u @ v
    assert torch.cosine_similarity(result.flatten(1), exact.flatten(1)).min() > 0.98


def test_a_muon_step_is_nesterov_momentum_orthogonalized():
    weight = torch.nn.Parameter(torch.eye(4, 8))
    optimizer = Muon([weight], lr=0.1, momentum=0.9, weight_decay=0.5, dtype=torch.float32)
    gradient = torch.randn(4, 8, generator=torch.Generator().manual_seed(0))
    weight.grad = gradient.clone()
    optimizer.step()
    expected = torch.eye(4, 8) * (1 - 0.1 * 0.5) - 0.1 * orthogonalized(gradient[None])[0]
    torch.testing.assert_close(weight.data, expected, atol=1e-3, rtol=1e-3)


@pytest.mark.parametrize("name", ["muon", "adamw"])
@pytest.mark.parametrize(
    "extra",
    [
        {},
        {"tied": True},
        {"value_embeddings": True, "smear": True, "x0_skip": True, "bigrams": 97},
        {"activation": "swiglu"},
        {"norm": "layer", "positions": "learned", "bias": True},
        {"feed_forward": "kan-spline", "bias": True},
        {"feed_forward": "kan-rbf"},
        {"feed_forward": "kan-rational"},
    ],
)
def test_every_parameter_is_optimized_once(name, extra):
    model = GPT(TransformerConfig(**FULL | extra), 40)
    chosen = optimizers(model, OptimizerConfig(name=name), torch.float32)
    listed = [p for optimizer in chosen for group in optimizer.param_groups for p in group["params"]]
    assert {id(p) for p in listed} == {id(p) for p in model.parameters()}
    assert len(listed) == len({id(p) for p in listed})
    if name == "muon":
        muon = {id(p) for group in chosen[1].param_groups for p in group["params"]}
        names = {n.split(".", 2)[2] for n, p in model.named_parameters() if id(p) in muon}
        matrices = {f"attention.{part}.weight" for part in ("q", "k", "v", "out")}
        if extra.get("feed_forward") in ("kan-spline", "kan-rbf"):
            parts = [f"{layer}.{part}" for layer in ("up", "down") for part in ("base", "edges")]
        else:
            parts = ["up", "down"]
        matrices |= {f"feed_forward.{part}.weight" for part in parts}
        assert names == matrices | ({"feed_forward.gate.weight"} if extra.get("activation") == "swiglu" else set())


def test_coefficients_of_rationals_do_not_decay_and_those_of_edges_do():
    for kind, name, decay in (("kan-rational", "before.below", 0.0), ("kan-spline", "up.edges.weight", 0.1)):
        model = GPT(TransformerConfig.model_validate(FULL | {"feed_forward": kind}), 40)
        [adamw] = optimizers(model, OptimizerConfig(name="adamw", weight_decay=0.1), torch.float32)
        parameter = model.get_parameter(f"blocks.0.feed_forward.{name}")
        [group] = [group for group in adamw.param_groups if any(p is parameter for p in group["params"])]
        assert group["weight_decay"] == decay


def test_embeddings_and_the_head_decay_with_muon_where_that_is_said():
    model = GPT(TransformerConfig.model_validate(FULL), 40)
    for said, decay in (({}, 0.0), ({"embedding_decay": 0.3}, 0.3)):
        adamw, _ = optimizers(model, OptimizerConfig(weight_decay=0.1, **said), torch.float32)
        for name, parameter in model.named_parameters():
            [group] = [group for group in adamw.param_groups if any(p is parameter for p in group["params"])] or [None]
            if group is not None:
                is_table = "embed" in name or name == "head.weight"
                assert group["weight_decay"] == (decay if is_table else 0.0)


@pytest.mark.parametrize("kind", ["kan-spline", "kan-rbf"])
def test_adamw_moves_the_coefficients_of_edges_at_a_share_of_its_rate(kind):
    for given, share in (({}, 0.1), ({"edges_rate": 0.5}, 0.5)):
        model = GPT(TransformerConfig.model_validate(FULL | {"feed_forward": {"kind": kind} | given}), 40)
        chosen = optimizers(model, OptimizerConfig(name="adamw", lr=2e-3), torch.float32)
        set_learning_rates(chosen, 0.25)
        rates = {p: group["lr"] for group in chosen[0].param_groups for p in group["params"]}
        for name, parameter in model.named_parameters():
            rate = 2e-3 * 0.25 * (share if name.endswith(".edges.weight") else 1.0)
            assert rates[parameter] == pytest.approx(rate)


@pytest.mark.parametrize(("kind", "head"), [(SentencePairModel, "next_sentence"), (SpanModel, "span")])
@pytest.mark.parametrize("name", ["muon", "adamw"])
def test_a_head_that_the_checkpoint_does_not_have_learns_at_a_rate_of_its_own(kind, head, name):
    model = kind(TransformerConfig(**FULL), 40)
    config = finetuning_optimizer(OptimizerConfig(name=name), OptimizerConfig())
    chosen = optimizers(model, config, torch.float32)
    rates = {p: group["lr"] for optimizer in chosen for group in optimizer.param_groups for p in group["params"]}
    assert rates.keys() == set(model.parameters())
    new = {name for name, parameter in model.named_parameters() if rates[parameter] == config.new_lr}
    assert new == {f"{head}.weight", f"{head}.bias"}
    assert config.new_lr == OptimizerConfig().new_lr > 10 * max(rates[p] for p in model.blocks.parameters())


def test_a_part_that_does_not_say_what_its_parameters_are_is_not_trained():
    model = GPT(TransformerConfig(**FULL), 40)
    model.blocks[1].feed_forward.up = torch.nn.Bilinear(3, 3, 3)
    with pytest.raises(TypeError, match=r"blocks\.1\.feed_forward\.up\.weight of .*Bilinear"):
        optimizers(model, OptimizerConfig(), torch.float32)


@pytest.mark.parametrize(
    ("schedule", "expected"),
    [
        ({"shape": "wsd", "warmup": 10, "decay": 0.5}, {0: 0.1, 4: 0.5, 9: 1.0, 55: 1.0, 77: 0.511, 99: 0.022}),
        ({"shape": "wsd", "decay": 0.2, "final": 0.1}, {0: 1.0, 80: 1.0, 90: 0.55, 99: 0.145}),
        ({"shape": "cosine", "warmup": 20}, {0: 0.05, 20: 1.0, 60: 0.5, 99: 0.0004}),
        ({"shape": "cosine", "final": 0.1}, {0: 1.0, 50: 0.55, 99: 0.1}),
        ({"shape": "constant", "warmup": 2}, {0: 0.5, 1: 1.0, 99: 1.0}),
    ],
)
def test_schedules_reach_the_optimizers(schedule, expected):
    chosen = optimizers(
        GPT(TransformerConfig(**FULL), 40), OptimizerConfig(matrix_lr=0.02, head_lr=0.004), torch.float32
    )
    for step, share in expected.items():
        set_learning_rates(chosen, lr_scale(ScheduleConfig(**schedule), step, 100))
        rates = {group["lr"] for optimizer in chosen for group in optimizer.param_groups}
        assert any(rate == pytest.approx(0.02 * share, rel=0.03, abs=1e-5) for rate in rates)
        assert any(rate == pytest.approx(0.004 * share, rel=0.03, abs=1e-5) for rate in rates)


def test_training_steps_with_the_scheduled_rate(tokens, tokenizer_folder, tiny, tmp_path, monkeypatch):
    seen = []
    step = Trainer.train_step

    def noting(trainer):
        seen.append(trainer.state.optimizers[0].param_groups[0]["lr"])
        return step(trainer)

    monkeypatch.setattr(Trainer, "train_step", noting)
    optimizer = {"name": "adamw", "lr": 1e-3}
    config = tiny(steps=8, optimizer=optimizer, schedule={"shape": "cosine", "warmup": 2})
    pretrain(tokens, tokenizer_folder, config, tmp_path, lambda *a, **k: None)
    assert seen == pytest.approx([1e-3 * lr_scale(config.schedule, n, 8) for n in range(8)])
    assert seen[0] == 5e-4 and seen[2] == 1e-3 and seen[-1] < 1e-4
    lines = [json.loads(line) for line in (tmp_path / "metrics.jsonl").read_text().splitlines()]
    assert [line["learning_rate"] for line in lines if "learning_rate" in line] == pytest.approx(seen)


def test_the_learning_rate_that_is_told_is_that_of_the_matrices(tokens, tokenizer_folder, tiny, tmp_path):
    told = []

    def progress(done, total=None, **metrics):
        told.append(metrics.get("learning_rate"))

    config = tiny(steps=4, evaluate_every=4, log_every=1, optimizer={"matrix_lr": 0.03, "lr": 0.5})
    pretrain(tokens, tokenizer_folder, config, tmp_path, progress)
    expected = [0.03 * lr_scale(config.schedule, step, 4) for step in range(4)]
    assert told == [*expected, None]  # the last line is the evaluation's
    lines = [json.loads(line) for line in (tmp_path / "metrics.jsonl").read_text().splitlines()]
    assert [line["learning_rate"] for line in lines if "loss" in line] == expected
