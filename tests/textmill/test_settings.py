"""YAML into models: mistakes with their place, overrides, and what cannot change an output."""

import pytest
from pydantic import BaseModel, Field

from textmill.errors import UserError
from textmill.settings import added, execution_only, layered, merged, output_settings, read_settings


class Inner(BaseModel, extra="forbid"):
    steps: int = Field(10, gt=0)


class Outer(BaseModel, extra="forbid"):
    name: str
    training: Inner = Inner()
    workers: int = execution_only(2, gt=0, json_schema_extra={"examples": [4]})


@pytest.fixture
def file(tmp_path):
    path = tmp_path / "settings.yaml"
    path.write_text("name: a\ntraining:\n  steps: 20\n")
    return path


def test_overrides_win_over_the_file_and_the_file_over_defaults(file):
    read = read_settings(file, Outer, {"training": {"steps": 30}}, name="unnamed", workers=3)
    assert (read.name, read.training.steps, read.workers) == ("a", 30, 3)


def test_every_mistake_is_a_line_with_its_place_and_the_nearest_key(file):
    file.write_text("name: a\ntraining:\n  stepz: 20\nworkers: 0\n")
    with pytest.raises(UserError) as error:
        read_settings(file, Outer)
    lines = str(error.value).splitlines()
    assert lines[0] == f"{file}:3: training.stepz: unknown key; did you mean training.steps?"
    assert lines[1].startswith(f"{file}:4: workers: input should be greater than 0")


def test_a_mistake_of_an_override_is_not_blamed_on_the_file(file):
    with pytest.raises(UserError, match=r"^setting training\.steps: .*greater than 0"):
        read_settings(file, Outer, {"training": {"steps": -1}})


def test_settings_that_only_say_how_to_work_are_no_output_settings():
    assert output_settings(Outer(name="a")) == {"name": "a", "training": Inner()}
    assert Outer.model_fields["workers"].json_schema_extra == {"examples": [4], "affects_output": False}


def test_a_setting_that_was_added_is_an_output_setting_only_where_it_is_not_as_before():
    class Grown(BaseModel):
        size: int = 1
        inner: Inner = added(Inner(), description="came later")

    assert output_settings(Grown()) == output_settings(Grown(inner=Inner())) == {"size": 1}
    assert output_settings(Grown(inner=Inner(steps=77))) == {"size": 1, "inner": Inner(steps=77)}


def test_merging_goes_down_to_the_leaves_and_changes_neither_argument():
    document, overrides = {"a": {"b": 1, "c": 2}, "d": 3}, {"a": {"b": 9}, "e": {"f": 4}}
    assert merged(document, overrides) == {"a": {"b": 9, "c": 2}, "d": 3, "e": {"f": 4}}
    assert document == {"a": {"b": 1, "c": 2}, "d": 3} and overrides == {"a": {"b": 9}, "e": {"f": 4}}


def test_an_override_without_keys_clears_what_is_there():
    document = {"a": {"b": {"c": 1}, "d": [{"e": 1}]}}
    assert merged(document, {"a": {"b": {}, "d": {}}}) == {"a": {"b": {}, "d": {}}}
    assert merged(document, {}) == document


@pytest.mark.parametrize("nothing", [{}, [], None, 3])
def test_layers_of_overrides_do_what_they_do_one_after_the_other_or_are_refused(nothing):
    document = {"a": {"b": {"c": 1, "d": 2}}, "e": [{"f": 1}]}
    for layers in (
        ({"a": {"b": {"c": 3}}}, {"a": {"b": {"d": 4}}}),
        ({"a": {"b": {"c": 3}}}, {"a": nothing}),
        ({"a": {"b": nothing}}, {"a": {"g": 5}}),
        ({"a": {"b": nothing}}, {"a": {"b": {}}}),
        ({"e": [{"f": nothing}, {"f": 2}]}, {"e": {"0": {"f": {"h": 6}}}}),
    ):
        assert merged(document, layered(*layers)) == merged(merged(document, layers[0]), layers[1])
    with pytest.raises(UserError, match=r"^a.b.c: another setting makes a.b (\{\}|\[\]|null|3), and .* into the file$"):
        layered({"a": {"b": nothing}}, {"a": {"b": {"c": 3}}})


def test_an_override_reaches_an_item_of_a_list_by_its_number():
    document = {"a": [{"b": 1, "c": 1}, {"b": 2}], "d": []}
    assert merged(document, {"a": {"1": {"b": 3}}}) == {"a": [{"b": 1, "c": 1}, {"b": 3}], "d": []}
    assert merged(document, {"a": {1: {"b": 3}}}) == merged(document, {"a": {"1": {"b": 3}}})
    assert merged(document, {"a": [], "d": {"0": 1}}) == {"a": [], "d": {"0": 1}}
    assert merged({"a": [{"b": 1}]}, {"a": {"b": 3}}) == {"a": [{"b": 3}]}  # there is no other
    assert merged({"a": [{"b": 1}]}, {"a": {"0": {"b": 2, "c": 2}, "b": 3}}) == {"a": [{"b": 3, "c": 2}]}
    with pytest.raises(UserError, match=r"^a.b: a is a list of 2, whose first item is a.0: write for example a.0.b,"):
        merged(document, {"a": {"b": 3}})
    with pytest.raises(UserError, match=r"^a.2: there is no such item: a is a list of 2, a.0 to a.1; give the whole"):
        merged(document, {"a": {"2": {"b": 3}}})
    with pytest.raises(UserError, match=r"^a.1: there is no such item: a is a list of 1, a.0; give the whole list"):
        merged({"a": [1]}, {"a": {"1": 2}})
