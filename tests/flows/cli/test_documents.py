"""`--json`: one document on standard output, whatever the command; and `status` in a terminal of any width."""

from __future__ import annotations

import json

import pytest
from typer.testing import CliRunner

from flows.cli import app


def run(*arguments: object, columns: int | None = None):
    result = CliRunner().invoke(
        app, [str(part) for part in arguments], env={"COLUMNS": str(columns)} if columns else {}
    )
    assert result.exit_code == 0, result.output
    return result.stdout


def document(*arguments: object):
    return json.loads(run(*arguments, "--json"))


def test_a_plan_names_every_stage_with_what_would_be_done_and_why(write_config):
    plan = document("run", write_config(), "--dry-run")
    assert plan["pipeline"] == "small"
    assert [step["stage"] for step in plan["plan"]] == [
        "scrape", "prepare", "train_tokenizer", "pretokenize", "pretrain", "finetune", "report",
    ]  # fmt: skip
    assert plan["plan"][0] | {"fingerprint": ""} == {
        "stage": "scrape",
        "title": "scrape python-docs",
        "action": "build",
        "reason": "not built yet",
        "fingerprint": "",
    }


def test_status_is_the_store_and_the_plan(write_config, tmp_path):
    work = tmp_path / "store" / "prepare" / ".work-abc"
    work.mkdir(parents=True)
    (work / "half").write_bytes(b"12345")
    config = write_config()
    told = document("status", config, "--set", f"store={tmp_path / 'store'}")
    assert [step["action"] for step in told["plan"]][:1] == ["build"]
    [item] = told["artifacts"]
    assert (item["stage"], item["fingerprint"], item["state"], item["bytes"]) == ("prepare", "abc", "interrupted", 5)
    assert 0 <= item["age"] < 600
    assert "plan" not in document("status", "--store", tmp_path / "store")


@pytest.mark.parametrize(
    ("command", "keys"),
    [
        (["source", "list"], {"name", "hosts", "delay", "max_age"}),
        (["experiment", "list"], {"experiment", "claim", "verdicts"}),
        (["experiment", "plan", "architecture", "--config", "CONFIG"], {"experiment", "runs"}),
        (["cost", "CONFIG"], {"parameters", "tokens", "seconds", "dollars"}),
        (["gc", "CONFIG", "--dry-run"], {"dry_run", "bytes", "removed", "kept_for"}),
        (["verify", "--store", "STORE"], {"damaged"}),
    ],
)
def test_what_a_script_might_want_is_one_document(write_config, tmp_path, command, keys):
    places = {"CONFIG": write_config(), "STORE": tmp_path / "store"}
    told = document(*(places.get(part, part) for part in command))
    assert keys <= (told[0] if isinstance(told, list) else told).keys()


@pytest.mark.parametrize("columns", [50, 80, 140])
def test_status_keeps_to_the_width_of_a_terminal_and_says_state_and_reason_in_each(write_config, columns):
    out = run("status", write_config(), columns=columns)
    table = out.split("textmill run")[0]
    assert max(map(len, table.splitlines())) <= columns
    for told in ("missing", "build", "not", "scrape"):
        assert told in table
    assert ("made for" in table) == (columns >= 110)


def test_without_a_configuration_status_says_which_there_are(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    assert "The store store holds nothing yet." in run("status")
    (tmp_path / "configs").mkdir()
    (tmp_path / "configs" / "mine.yaml").touch()
    assert "textmill run --dry-run configs/mine.yaml" in run("status")


def test_several_experiments_are_planned_in_one_table_with_their_sum(write_config):
    out = run("experiment", "plan", "optimizer", "heads", "--config", write_config(), columns=100)
    counts = {cells[1].strip(): cells[2].strip() for line in out.splitlines() if len(cells := line.split("│")) > 2}
    assert counts == {"heads": "15", "optimizer": "10", "2 experiments": "25"}


def test_without_names_all_experiments_of_the_report_are_planned(write_config, monkeypatch):
    monkeypatch.setattr("experiments.catalog.NAMES", ("heads", "optimizer"))
    told = document("experiment", "plan", "--config", write_config())
    assert [each["experiment"] for each in told] == ["heads", "optimizer"]


@pytest.mark.parametrize("more", [[], ["--json"]])
def test_an_experiment_that_does_not_fit_is_named_whatever_is_printed_of_the_others(write_config, monkeypatch, more):
    monkeypatch.setattr("experiments.catalog.NAMES", ("mask_rate", "optimizer"))
    given = ["--config", str(write_config()), "--set", "finetune=null", *more]
    result = CliRunner().invoke(app, ["experiment", "plan", *given])
    assert result.exit_code == 0
    assert "mask_rate cannot be run on this configuration: " in result.stderr
    assert "muon" in result.stdout
