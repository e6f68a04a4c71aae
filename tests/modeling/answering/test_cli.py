"""The commands for questions, as a user types them."""

import json

import pytest
import typer
from typer.testing import CliRunner

from flows.cli import model
from textmill.errors import UserError

app = typer.Typer()
model.register(app)


def textmill(*arguments: object) -> str:
    result = CliRunner().invoke(app, [str(argument) for argument in arguments], catch_exceptions=False)
    assert result.exit_code == 0, result.output
    return result.output


def test_questions_come_from_a_file_and_are_answered_from_anywhere(asked_file, tuned, tmp_path, raw):
    output = textmill("questions", asked_file, tmp_path / "set")
    assert "questions to train on" in output and "do not occur" not in output
    context = "1: a dog finds snow."
    assert textmill("answer", tuned, "-q", "who?", "-c", context, "--device", "cpu").startswith("a dog  ")
    assert textmill("answer", tuned, "-q", "where?", "-c", context, "--device", "cpu").startswith("(no answer)  ")
    line = json.dumps({"id": 7, "question": "what is it?", "context": context})
    (tmp_path / "asked.jsonl").write_text(line + "\n")
    from_file = textmill("answer", tuned, "--file", tmp_path / "asked.jsonl", "--device", "cpu")
    arguments = ["answer", str(tuned), "--file", "-", "--device", "cpu"]
    piped = CliRunner().invoke(app, arguments, input=line, catch_exceptions=False)
    assert from_file == piped.output
    row = json.loads(from_file)
    assert (row["id"], row["answer"], row["start"], row["end"]) == ("7", "snow", 15, 19)
    assert "exact match" in textmill("evaluate", tuned, tmp_path / "set", "--device", "cpu")
    with pytest.raises(UserError, match="was not tuned to answer questions"):
        textmill("evaluate", raw, tmp_path / "set", "--device", "cpu")
    with pytest.raises(UserError, match="give either --question, with its --context, or a --file of both"):
        textmill("answer", tuned, "-q", "who?", "--file", "-")
    with pytest.raises(UserError, match="standard input:1: question is missing"):
        CliRunner().invoke(app, arguments, input="{}", catch_exceptions=False)
