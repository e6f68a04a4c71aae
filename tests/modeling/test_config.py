"""Settings of a run: presets, the dial, and mistakes."""

import subprocess
import sys

import pytest
from pydantic import ValidationError

from modeling.config.network import RecurrentConfig, SplineConfig, TransformerConfig
from modeling.config.presets import PRESETS
from modeling.config.pretrain import PretrainConfig
from textmill.processes import python_environment
from textmill.settings import output_settings


def test_a_section_without_keys_leaves_a_preset_as_it_is():
    assert PretrainConfig.model_validate({"preset": "test", "model": {}, "optimizer": {}}) == PretrainConfig(
        preset="test"
    )


def test_presets_give_values_and_explicit_keys_win():
    config = PretrainConfig.model_validate({"preset": "test", "steps": 7, "model": {"layers": 1}})
    assert (config.steps, config.model.layers, config.model.width, config.batch) == (7, 1, 8, 8)
    assert config.optimizer.lr == 1e-3
    assert PretrainConfig.model_validate(config.model_dump()) == config
    for name in PRESETS:
        assert PretrainConfig(preset=name).model_dump(exclude={"preset"}) != PretrainConfig(
            preset="nano" if name != "nano" else "test"
        ).model_dump(exclude={"preset"})


def test_one_dial_derives_the_rest_and_yields_to_explicit_keys():
    shallow, deep = PretrainConfig(depth=4), PretrainConfig(depth=12)
    assert (deep.model.layers, deep.model.width, deep.model.head_size) == (12, 768, 128)
    assert deep.steps * deep.batch * deep.model.context == pytest.approx(20 * 12 * 12 * 768**2, rel=0.02)
    assert shallow.batch * shallow.model.context < deep.batch * deep.model.context
    assert shallow.optimizer.head_lr != deep.optimizer.head_lr
    assert PretrainConfig(depth=12, steps=5, model={"heads": 12}).model.heads == 12


def test_the_dials_batch_is_the_nearest_power_of_two():
    # nanochat's speedrun at depth 20 takes 524,288 tokens a step
    tokens = {
        depth: config.batch * config.model.context for depth in (6, 12, 20) if (config := PretrainConfig(depth=depth))
    }
    assert tokens == {6: 2**17, 12: 2**18, 20: 2**19}


@pytest.mark.parametrize(
    ("wrong", "message"),
    [
        ({"preset": "nono"}, "there is no preset 'nono'; choose from test, chimera"),
        ({"model": {"width": 100, "heads": 3}}, "width 100 is not a multiple of heads 3"),
        ({"model": {"width": 12, "heads": 4}}, "even head size"),
        ({"model": {"kv_heads": 3}}, "heads 4 is not a multiple of kv_heads 3"),
        (
            {"model": {"feed_forward": "kan"}},
            "there is no such kind of feed-forward; choose from mlp, kan-spline, kan-rbf, kan-rational",
        ),
        ({"model": {"feed_forward": {"grid": 3}}}, "say which kind: mlp, kan-spline, kan-rbf, kan-rational"),
        (
            {"model": {"feed_forward": {"kind": "kan-rational", "grid": 3}}},
            "feed_forward.kan-rational.grid\n  Extra in",
        ),
        ({"model": {"feed_forward": {"kind": "kan-spline", "order": 0}}}, "greater than or equal to 1"),
        (
            {"model": {"feed_forward": {"kind": "kan-rational", "groups": 7}}},
            "width 256 is not a multiple of feed_forw",
        ),
        (
            {"model": {"feed_forward": "kan-rational", "hidden": 12}},
            "hidden 12 is not a multiple of feed_forward.groups 8",
        ),
        (
            {"model": {"feed_forward": "kan-rbf", "activation": "swiglu"}},
            "kan-rbf has no gate for activation swiglu; ch",
        ),
        ({"steps": 10, "schedule": {"warmup": 10}}, "leaves nothing of steps 10"),
        ({"stepz": 10}, "Extra inputs"),
        ({"steps": 0}, "greater than 0"),
        ({"seed": -1}, "greater than or equal to 0"),
        ({"batch": 9, "processes": 2}, "batch 9 does not divide over processes 2"),
        ({"preset": "chimera", "progressive": {"until": 0.5}}, "set model.zero_init, or progressive: null"),
    ],
)
def test_senseless_settings_are_errors(wrong, message):
    with pytest.raises(ValidationError, match=message):
        PretrainConfig.model_validate(wrong)


def test_a_feed_forward_is_named_by_its_kind_alone_or_with_its_settings():
    short, long = ({"model": {"feed_forward": given}} for given in ("kan-spline", {"kind": "kan-spline", "grid": 5}))
    config = PretrainConfig.model_validate(short)
    assert config == PretrainConfig.model_validate(long) == PretrainConfig.model_validate(config.model_dump())
    assert config == PretrainConfig(model=TransformerConfig.model_validate(short["model"]))
    assert config.model.feed_forward == SplineConfig(kind="kan-spline", grid=5, order=3)


def test_settings_are_read_without_importing_torch():
    program = "import sys, modeling.config; sys.exit('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", program], env=python_environment()).returncode == 0


def test_settings_of_a_preset_or_a_depth_that_another_network_does_not_have_are_left_out():
    for given in ({}, {"preset": "gpt2-124m"}, {"depth": 4}):
        config = PretrainConfig.model_validate(given | {"model": {"kind": "recurrent", "cell": "gru"}})
        usual = PretrainConfig.model_validate(given)
        assert isinstance(config.model, RecurrentConfig)
        assert (config.model.layers, config.model.width, config.steps) == (
            usual.model.layers, usual.model.width, usual.steps,
        )  # fmt: skip
        assert config == PretrainConfig.model_validate(config.model_dump())
        assert config == PretrainConfig(**given, model=RecurrentConfig(kind="recurrent", cell="gru"))


def test_a_transformer_is_what_settings_without_a_kind_are_of_and_they_name_none():
    config = PretrainConfig.model_validate({"model": {"layers": 1}})
    assert isinstance(config.model, TransformerConfig)
    assert config == PretrainConfig.model_validate({"model": {"layers": 1, "kind": "transformer"}})
    assert "kind" not in output_settings(config.model)
    assert "kind" in output_settings(RecurrentConfig(kind="recurrent"))


@pytest.mark.parametrize(
    "model, message",
    [
        ({"kind": "recurrent", "heads": 2}, "Extra inputs"),
        ({"kind": "recurrent", "cell": "sru"}, "'rnn', 'gru', 'lstm' or 'mingru'"),
        ({"kind": "recurent"}, "there is no such kind of network; choose from transformer, recurrent"),
        (5, "valid dictionary"),
    ],
)
def test_a_network_takes_the_settings_of_its_kind_alone(model, message):
    with pytest.raises(ValidationError, match=message):
        PretrainConfig.model_validate({"model": model})


@pytest.mark.parametrize(
    ("given", "told"),
    [
        (
            {"optimizer": {"lr": 1e-3}},
            "optimizer: lr would change nothing: muon has matrix_lr, embedding_lr, head_lr, ",
        ),
        (
            {"preset": "chimera", "optimizer": {"head_lr": 1e-3, "matrix_lr": 1e-3}},
            "matrix_lr and head_lr would change",
        ),
        (
            {"depth": 4, "optimizer": {"name": "adamw", "matrix_lr": 0.01}},
            "adamw has lr; give one of these, or name: m",
        ),
    ],
)
def test_rates_of_another_optimizer_are_refused(given, told):
    with pytest.raises(ValidationError, match=told):
        PretrainConfig.model_validate(given)


@pytest.mark.parametrize(
    "given",
    [
        {"depth": 4, "optimizer": {"name": "adamw", "lr": 1e-3}},  # the dial gives rates of Muon
        {"preset": "chimera", "optimizer": {"name": "muon"}},  # the preset one of AdamW
        {"optimizer": {"name": "adamw", "lr": 1e-3, "matrix_lr": 0.03}},  # an override of another's settings
    ],
)
def test_rates_that_a_preset_or_a_record_names_beside_are_not(given):
    config = PretrainConfig.model_validate(given)
    assert PretrainConfig.model_validate(config.model_dump()) == config
    assert PretrainConfig.model_validate_json(config.model_dump_json()) == config
