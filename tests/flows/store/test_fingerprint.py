"""Fingerprints: equal for equal output, different for everything else, refused without a stable form."""

from __future__ import annotations

import subprocess
import sys
from datetime import datetime, timedelta
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydantic import BaseModel

from flows.engine.assess import identify
from flows.engine.stage import Stage
from flows.store.fingerprint import canonical, digest
from flows.store.local import Store
from textmill.errors import UserError
from textmill.settings import execution_only

values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False, allow_infinity=False) | st.text(),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(), inner, max_size=4),
    max_leaves=12,
)


class Inner(BaseModel):
    width: int = 4


class Settings(BaseModel):
    steps: int = 3
    rate: float = 1e-3
    inner: Inner = Inner()
    workers: int = execution_only(2)


def test_order_of_keys_does_not_matter():
    assert digest({"a": 1, "b": {"c": 2, "d": 3}}) == digest({"b": {"d": 3, "c": 2}, "a": 1})


@given(values, values)
def test_digests_are_equal_exactly_for_equal_canonical_forms(left, right):
    # repr tells 1 from True, as JSON does
    assert (digest(left) == digest(right)) == (repr(_sorted(canonical(left))) == repr(_sorted(canonical(right))))


def _sorted(value):
    if isinstance(value, dict):
        return {key: _sorted(value[key]) for key in sorted(value)}
    return [_sorted(item) for item in value] if isinstance(value, list) else value


def test_settings_that_cannot_change_the_output_are_left_out():
    assert digest(Settings(workers=8)) == digest(Settings())
    assert digest(Settings(steps=4)) != digest(Settings())
    assert digest(Settings(inner=Inner(width=5))) != digest(Settings())


def test_equal_numbers_written_differently_are_one_setting():
    assert digest(Settings(rate="0.001")) == digest(Settings(rate=1e-3))
    assert digest(timedelta(days=1)) == digest(timedelta(hours=24))
    assert digest(Settings.model_construct(rate=2)) == digest(Settings(rate=2))  # a default is not converted


@pytest.mark.parametrize("unstable", [Path("data"), datetime(2026, 1, 1), {1, 2}, object(), {1: "a"}, b"bytes"])
def test_values_without_a_stable_form_are_refused(unstable):
    with pytest.raises(TypeError, match="no canonical form"):
        digest({"settings": [unstable]})


@pytest.mark.parametrize("number", ["nan", "inf", "-inf"])
def test_a_number_json_cannot_hold_is_one_line_that_names_its_key(number, tmp_path):
    class Outer(BaseModel):
        groups: list[Settings]

    class Train(Stage[Outer]):
        name = "train"
        version = 1

        def build(self, job):
            """Never called."""

        def headline(self, stats):
            return "trained"

    with pytest.raises(UserError, match=f"^train.groups.rate is {number}: give a finite number$"):
        identify(Train(), Outer(groups=[Settings(rate=number)]), {}, Store(tmp_path))
    with pytest.raises(UserError, match="a setting is"):
        digest(float(number))


def test_the_digest_is_the_same_in_another_process():
    code = "from flows.store.fingerprint import digest; print(digest({'b': [1, 2.5, None], 'a': 'ü'}))"
    for seed in ("0", "1"):  # string hashing differs between the two
        printed = subprocess.run(
            [sys.executable, "-c", code], env={"PYTHONHASHSEED": seed}, capture_output=True, text=True, check=True
        ).stdout.strip()
        assert printed == digest({"a": "ü", "b": [1, 2.5, None]})
