"""The run forms: what each field is, and what a filled-in form comes to."""

from __future__ import annotations

import itertools
from pathlib import Path

import pytest
from prefect.utilities.schema_tools.validation import validate

from flows.pipeline.chain import STAGES
from flows.pipeline.config import load_config
from flows.service.form import COMMON, overrides_of, parameters_of, run_form, section_of
from textmill.errors import UserError

DEMO = Path(__file__).parents[3] / "configs" / "demo.yaml"
DEFAULTS = {"force", "build_missing", "verify", "quick", "extend", "config"}
FORMS = [*STAGES, "pipeline", "experiment"]


def every_field(properties: dict, place: str = ""):
    for name, field in properties.items():
        yield place + name, field
        yield from every_field(field.get("properties", {}), f"{place}{name}.")


@pytest.mark.parametrize("name", FORMS)
def test_what_is_left_empty_is_not_sent_and_no_field_asks_for_its_type(name):
    form = run_form(name, DEMO)
    assert not validate({"name": "architecture"} if name == "experiment" else {}, form)
    for place, field in every_field(form["properties"]):
        assert not {"anyOf", "oneOf", "allOf", "$ref"} & field.keys(), place
        assert field["description"] or "properties" in field, place
        assert ("default" in field) == (place in DEFAULTS and "items" not in field), place


@pytest.mark.parametrize("stage", STAGES)
def test_a_stage_has_no_setting_that_is_called_like_a_field_of_every_form(stage):
    settings = section_of(stage).model_fields.keys()
    assert not COMMON & settings
    assert COMMON | settings == run_form(stage)["properties"].keys()


def test_a_stage_shows_its_own_settings_between_force_and_those_of_others():
    fields = list(run_form("train_tokenizer", DEMO)["properties"])
    assert fields[:2] == ["force", "vocab_size"]
    assert fields[-4:] == ["overrides", "build_missing", "verify", "config"]
    assert not {"prepare", "pretrain"} & set(fields)
    shown = [field.get("type") for field in run_form("pretrain", DEMO)["properties"].values()]
    kinds = [kind for kind, _ in itertools.groupby(shown, lambda kind: kind == "object")]
    assert kinds == [False, True, False]  # the parts come after the plain settings


def test_descriptions_say_what_the_configuration_says_now():
    fields = dict(every_field(run_form("pretrain", DEMO, {"pretrain": {"ema": 0.9}})["properties"]))
    assert fields["steps"]["description"] == f"Optimizer steps. {DEMO}: 200"
    assert fields["model.layers"]["description"].endswith(f"{DEMO}: 4")  # by the preset
    assert fields["model.bias"]["description"].endswith(f"{DEMO}: false")
    assert fields["depth"]["description"].endswith(f"{DEMO}: none")
    assert fields["ema"]["description"].endswith("result. this deployment: 0.9")
    assert fields["precision"]["description"].endswith(f"{DEMO}: auto")
    fields = run_form("scrape", DEMO, {"scrape": {"sources": ["umb"]}})["properties"]
    assert fields["sources"]["description"].endswith("this deployment: umb")
    assert fields["max_pages"]["description"].endswith(f"{DEMO}: none")
    fields = run_form("finetune", DEMO)["properties"]
    assert fields["sample_blank"]["description"].endswith(f"{DEMO}: `The function returns a [MASK] of strings.`")
    threads = run_form("pretokenize", DEMO)["properties"]["threads"]
    assert str(DEMO) not in threads["description"]  # as many as the worker's machine has
    assert str(DEMO) not in run_form("pairs", DEMO)["properties"]["seed"]["description"]  # it has no such section


def test_fields_are_typed_and_bounded_as_the_settings_are():
    fields = dict(every_field(run_form("pretrain", DEMO)["properties"]))
    assert (fields["steps"]["type"], fields["optimizer.lr"]["type"]) == ("integer", "number")
    assert fields["precision"]["enum"] == ["auto", "fp32", "bf16"]
    assert fields["preset"]["enum"][0] == "test"
    assert fields["model.bias"]["enum"] == fields["compile"]["enum"] == [True, False]
    assert fields["force"]["type"] == "boolean"
    assert run_form("scrape", DEMO)["properties"]["sources"]["items"] == {"type": "string"}
    form = run_form("pretrain", DEMO)
    for given in ({"steps": 0}, {"steps": "many"}, {"precision": "fp8"}, {"model": {"layers": 1.5}}):
        assert validate(given, form), given
    assert not validate({"steps": 7, "ema": None, "model": {"hidden": None, "bias": True}}, form)


def test_a_form_has_the_settings_of_every_kind_of_network_and_says_whose_they_are():
    fields = dict(every_field(run_form("pretrain", DEMO)["properties"]))
    assert fields["model.kind"]["enum"][:2] == ["transformer", "recurrent"]
    assert fields["model.heads"]["description"] == (
        f"transformer, encoder-decoder: Attention heads; must divide width. {DEMO}: 4"
    )
    assert fields["model.cell"]["description"].startswith("recurrent: ")
    assert fields["model.cell"]["enum"] == ["rnn", "gru", "lstm", "mingru"]
    recurrent = {"pretrain": {"model": {"kind": "recurrent", "cell": "gru"}}}
    fields = dict(every_field(run_form("pretrain", DEMO, recurrent)["properties"]))
    assert fields["model.cell"]["description"].endswith("this deployment: gru")
    assert fields["model.width"]["description"].endswith(f"{DEMO}: 256")
    assert str(DEMO) not in fields["model.heads"]["description"]


@pytest.mark.parametrize(
    "overrides",
    [
        {},
        {"pretrain": {"model": {"kind": "recurrent", "cell": "gru"}}},
        {"pretrain": {"steps": 7, "model": {"layers": 2}}},
        {"pretrain": {"ema": None}, "finetune": None, "runner": {"kind": "processes"}},
        {"pretrain": {"stepps": 7}},
        {"pretrain": None},
    ],
)
def test_a_form_comes_to_the_overrides_that_it_was_made_from(overrides):
    parameters = parameters_of("pretrain", overrides)
    assert parameters.keys() <= run_form("pretrain")["properties"].keys()
    others = parameters.pop("overrides", None)
    assert overrides_of("pretrain", parameters, others) == overrides


def test_a_box_that_was_left_empty_clears_nothing():
    assert overrides_of("pretrain", {"model": {}, "optimizer": {}}, None) == {}
    untouched = {"steps": 7, "model": {}, "schedule": {"warmup": 3}}
    assert overrides_of("pretrain", untouched, None) == {"pretrain": {"steps": 7, "schedule": {"warmup": 3}}}


def test_fields_win_over_other_settings():
    assert overrides_of("pretrain", {"steps": 7}, {"pretrain": {"steps": 8, "batch": 2}, "name": "x"}) == {
        "pretrain": {"steps": 7, "batch": 2}, "name": "x"
    }  # fmt: skip


def test_a_mistake_in_a_form_is_one_line_with_its_place():
    with pytest.raises(UserError, match=r"^setting pretrain.model.layer: unknown key; did you mean pretrain.model"):
        load_config(DEMO, overrides_of("pretrain", {}, {"pretrain": {"model": {"layer": 3}}}))
    with pytest.raises(UserError, match=r'^settings: \["x"\] is not an object'):
        overrides_of("pretrain", {}, ["x"])
    with pytest.raises(UserError, match=r"^finetune.steps: another setting makes finetune null"):
        overrides_of("finetune", {"steps": 3}, {"finetune": None})
