"""The class table against the regex engine of the installed tiktoken."""

import importlib.util
from pathlib import Path

import numpy as np
import pytest

from tokenization.kernels import unicode_classes, unicode_data
from tokenization.kernels.unicode_classes import class_table

spec = importlib.util.spec_from_file_location("unicode_oracle", Path(__file__).with_name("unicode_oracle.py"))
oracle = importlib.util.module_from_spec(spec)
spec.loader.exec_module(oracle)


@pytest.mark.parametrize("name", [name for name in oracle.CATEGORIES if name != "UNASSIGNED"])
def test_equals_tiktoken(name):
    expected = set(oracle.members(oracle.CATEGORIES[name]))
    if name == "SPACE":
        expected -= {10, 13}
    assert set(np.flatnonzero(class_table() == getattr(unicode_classes, name)).tolist()) == expected


def test_data_is_what_the_oracle_prints(capsys):
    oracle.main()
    assert capsys.readouterr().out.rstrip() == Path(unicode_data.__file__).read_text().rstrip()
