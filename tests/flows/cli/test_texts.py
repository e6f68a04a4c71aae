"""Texts that are given as arguments."""

import pytest
from typer.testing import CliRunner

from flows.cli import app
from textmill.errors import UserError

BROKEN = "a\udcffb"  # as Python has the bytes a, FF, b of a command line


@pytest.mark.parametrize(
    "call",
    [
        ["generate", "nowhere", BROKEN],
        ["generate", "nowhere", "a", BROKEN],
        ["generate", "nowhere", "a", "--stop", BROKEN],
        ["fill", "nowhere", BROKEN],
        ["next-sentence", "nowhere", BROKEN, "b"],
        ["next-sentence", "nowhere", "a", BROKEN],
        ["corpus", "nowhere", "--search", BROKEN],
        ["tokenizer", "encode", "nowhere", BROKEN],
        ["tokenizer", "inspect", "nowhere", BROKEN],
        ["tokenizer", "train", "nowhere", "-o", "nowhere", "--special", BROKEN],
    ],
)
def test_bytes_that_are_not_utf8_are_refused(call):
    with pytest.raises(UserError, match=r"'a\\udcffb' is not UTF-8 text \(character 1\); convert it first"):
        CliRunner().invoke(app, call, catch_exceptions=False)
