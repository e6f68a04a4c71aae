"""Formulas against what others published, and against the models themselves."""

import pytest
import torch

from modeling.config.network import TransformerConfig
from modeling.config.pretrain import PretrainConfig
from modeling.cost import flops_per_token, network_cost, training_cost
from modeling.networks.transformer import GPT
from textmill.errors import UserError

CLASSIC = {"norm": "layer", "positions": "learned", "bias": True, "qk_norm": False}


@pytest.mark.parametrize(
    "fields",
    [
        {},
        {"tied": True, "kv_heads": 2},
        {"activation": "swiglu", "bias": True},
        CLASSIC,
        CLASSIC | {"bias": False, "tied": True},
        {"norm": "layer"},
        CLASSIC | {"norm_place": "post"},
        CLASSIC | {"norm_place": "none", "residual": False, "zero_init": False, "activation": "gelu"},
        {"value_embeddings": True, "kv_heads": 2},
        {"value_embeddings": True, "x0_skip": True, "smear": True, "bigrams": 97},
        {"feed_forward": "kan-spline"},
        CLASSIC | {"feed_forward": {"kind": "kan-spline", "grid": 3, "order": 2}, "hidden": 20},
        {"feed_forward": {"kind": "kan-rbf", "grid": 4}, "bias": True},
        {"feed_forward": {"kind": "kan-rational", "groups": 4}, "value_embeddings": True},
        {"layers": 4, "value_embeddings": True, "smear": True, "tied": True, "activation": "swiglu"},
    ],
)
def test_parameters_are_those_of_the_model(fields):
    config = TransformerConfig.model_validate({"layers": 3, "width": 64, "heads": 4, "context": 32} | fields)
    with torch.device("meta"):
        model = GPT(config, 500)
    counted = network_cost(config, 500)
    assert counted.parameters == sum(p.numel() for p in model.parameters())
    assert counted.block_parameters == model.block_parameters()


@pytest.mark.parametrize("kind", ["kan-spline", "kan-rbf", "kan-rational"])
def test_a_kan_has_as_many_weights_as_the_mlp_and_its_products_as_many_flops(kind):
    mlp = TransformerConfig(width=256, heads=4)
    kan = TransformerConfig.model_validate({"width": 256, "heads": 4, "feed_forward": kind})
    taken, usual = network_cost(kan, 500), network_cost(mlp, 500)
    assert taken.block_parameters == pytest.approx(usual.block_parameters, rel=0.02)
    assert flops_per_token(kan, 500) == pytest.approx(flops_per_token(mlp, 500), rel=0.02)
    assert taken.activations > usual.activations


def test_nanochat_d20():
    # karpathy/nanochat, discussion 1 (October 2025): depth 20, vocabulary 65,536, 21,400 steps of 524,288 tokens
    model = {"layers": 20, "width": 1280, "heads": 10, "context": 2048}
    config = PretrainConfig.model_validate({"model": model, "batch": 256, "micro_batch": 32, "steps": 21_400})
    taken = training_cost(config, 65_536, "8xH100", mfu=0.46)
    assert taken.parameters == 560_988_160
    assert taken.flops_per_token == pytest.approx(3.491758e9, rel=1e-5)
    assert taken.tokens == 11_219_763_200
    assert taken.flops == pytest.approx(3.917670e19, rel=1e-5)
    assert taken.seconds / 3600 == pytest.approx(3.0, rel=0.05)  # "about three hours"
    assert taken.fits


def test_nanogpt_124m():
    # karpathy/nanoGPT's README: GPT-2 124M on OpenWebText, one node of 8 A100 40GB, 600,000 steps, about four days
    taken = training_cost(PretrainConfig(preset="gpt2-124m"), 50_257, "8xA100-40GB", mfu=0.30)
    assert taken.parameters == 124_439_808
    assert taken.tokens == 294_912_000_000
    assert taken.seconds / 86_400 == pytest.approx(4, rel=0.2)
    assert taken.fits


def test_gpt3_175b():
    # Brown et al. 2020, tables 2.1 and D.1: 174.6 billion parameters, 300 billion tokens, 3.14e23 FLOPs
    model = CLASSIC | {"layers": 96, "width": 12_288, "heads": 96, "context": 2048, "tied": True, "activation": "gelu"}
    config = PretrainConfig.model_validate({"model": model, "batch": 1536, "steps": 95_367, "parallel": "fsdp"})
    taken = training_cost(config, 50_257, "512xH100")
    assert taken.parameters == pytest.approx(174.6e9, rel=0.005)
    assert taken.flops == pytest.approx(3.14e23, rel=0.05)
    one = training_cost(config, 50_257, "1xH100")
    assert not one.fits
    assert one.state_memory == pytest.approx(512 * taken.state_memory)


@pytest.mark.parametrize(
    ("settings", "vocabulary", "gibibytes"),
    [
        ({"preset": "gpt2-124m", "model": {"bias": False}, "batch": 128, "micro_batch": 32}, 50_304, 12.7),
        (
            {
                "depth": 12, "batch": 64, "micro_batch": 16,
                "model": {"value_embeddings": True, "x0_skip": True, "smear": True, "softcap": 15.0, "heads": 6,
                          "context": 2048},
            },
            32_768,
            17.1,
        ),
    ],
)  # fmt: skip
def test_memory_is_what_a_gpu_measured(settings, vocabulary, gibibytes):
    # benchmarks/RESULTS.md, "On one GPU": the most that tensors took on an H200
    taken = training_cost(PretrainConfig.model_validate(settings), vocabulary, "1xH200")
    assert taken.memory / 2**30 == pytest.approx(gibibytes, rel=0.06)


def test_a_run_that_grows_takes_less():
    progressive = {"layers": 2, "until": 0.5}
    config = PretrainConfig.model_validate({"model": {"layers": 8}, "progressive": progressive, "steps": 100})
    taken, whole = training_cost(config, 1000), training_cost(config.model_copy(update={"progressive": None}), 1000)
    quarter = training_cost(PretrainConfig.model_validate({"model": {"layers": 2}, "steps": 100}), 1000)
    assert taken.flops == pytest.approx((whole.flops + quarter.flops) / 2)
    assert taken.flops_per_token == whole.flops_per_token


def test_more_devices_are_faster_at_the_same_cost():
    config = PretrainConfig(depth=12)
    one, eight = training_cost(config, 32_768, "H100"), training_cost(config, 32_768, "8xH100")
    assert one.seconds == pytest.approx(8 * eight.seconds)
    assert one.dollars == pytest.approx(eight.dollars)
    assert training_cost(config, 32_768, "8xh100", price=0.0).dollars == 0
    assert flops_per_token(config.model, 32_768) == one.flops_per_token


@pytest.mark.parametrize(
    ("gpus", "message"),
    [
        ("8xTPU", "unknown GPUs '8xTPU'; write 8xH100"),
        ("7xH100", "does not divide"),
        ("0xH100", "unknown GPUs"),
        ("", "unknown GPUs ''"),
    ],
)
def test_senseless_gpus_are_errors(gpus, message):
    with pytest.raises(UserError, match=message):
        training_cost(PretrainConfig(preset="gpt2-124m"), 50_257, gpus)
