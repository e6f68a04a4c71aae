"""The chain, and everything that lists its stages: a stage that is added shows here where it is still missing."""

from __future__ import annotations

import re
import sys
from pathlib import Path
from typing import Any

import pytest
from typer.testing import CliRunner

from flows.cli import app
from flows.engine.stage import Stage
from flows.pipeline.chain import STAGES, chain
from flows.pipeline.config import PipelineConfig
from flows.stages import stage_named

ROOT = Path(__file__).parents[3]
SOURCES = {"scrape": {"sources": ["python-docs"]}, "ingest": {"path": "nowhere"}, "questions": {}}
WRITING = {
    "pretrain": {"model": {"kind": "encoder-decoder"}},
    "text_pairs": {"paths": "pairs.csv"},
    "answering": {"method": "generative"},
}
IMPORTING = {"import_checkpoint": {"path": "nowhere"}, "pairs": {}}
EVERYTHING = [PipelineConfig.model_validate(SOURCES | sections) for sections in (IMPORTING, {"pairs": {}}, WRITING)]


def visited() -> list[tuple[Stage, Any, dict[str, Any]]]:
    """Every visit of chains that together leave nothing out: stage, configuration, inputs by name."""
    visits = {}

    def visit(stage, config, /, **inputs):
        visits[stage.name] = (stage, config, inputs)
        return stage.name

    for config in EVERYTHING:
        chain(config, visit)
    return [visits[name] for name in STAGES]


@pytest.mark.parametrize(
    ("config", "left_out"),
    list(
        zip(
            EVERYTHING,
            (
                {"train_tokenizer", "pretrain", "text_pairs"},
                {"import_checkpoint", "text_pairs"},
                {"import_checkpoint", "pairs"},
            ),
            strict=True,
        )
    ),
)
def test_a_chain_visits_its_stages_in_the_order_of_the_list(config, left_out):
    names = []
    chain(config, lambda stage, *_, **__: names.append(stage.name))
    assert names == [name for name in STAGES if name in names]
    assert set(STAGES) - set(names) == left_out


@pytest.mark.parametrize("use", ["pretrain", "finetune"])
def test_sources_and_targets_go_to_the_training_that_is_to_use_them(use):
    section = {"text_pairs": {"paths": "pairs.csv", "use": use}, "finetune": None if use == "pretrain" else {}}
    given = {}

    def visit(stage, config, /, **inputs):
        given[stage.name] = inputs.get("tokens")
        return stage.name

    chain(PipelineConfig.model_validate(SOURCES | WRITING | section), visit)
    expected = (
        {"pretrain": "pretokenize", "finetune": "text_pairs"} if use == "finetune" else {"pretrain": "text_pairs"}
    )
    assert {stage: given.get(stage) for stage in expected} == expected


@pytest.mark.parametrize(("stage", "config", "inputs"), visited(), ids=list(STAGES))
def test_a_stage_is_given_the_inputs_that_it_declares_and_they_were_made_before(stage, config, inputs):
    assert tuple(inputs) == stage.inputs
    before = list(STAGES)[: list(STAGES).index(stage.name)]
    given = [name for value in inputs.values() for name in (value if isinstance(value, list) else [value])]
    assert set(given) <= set(before)


@pytest.mark.parametrize("name", STAGES)
def test_a_stage_is_the_attribute_of_its_name_in_the_module_of_its_name(name):
    assert stage_named(name) is STAGES[name]
    assert STAGES[name].name == name


@pytest.mark.parametrize("name", ["nothing", "../chain", "html", "figures"])
def test_other_names_are_no_stages(name):
    assert stage_named(name) is None


def readme() -> dict[str, str]:
    """The table of stages in README.md: from what each makes what."""
    rows = re.findall(r"^\| `(\w+)` \| (.* → .*) \|$", (ROOT / "README.md").read_text(), re.MULTILINE)
    return dict(rows)


@pytest.mark.parametrize("name", STAGES)
def test_the_readme_says_of_a_stage_what_its_module_says(name):
    head = sys.modules[type(STAGES[name]).__module__].__doc__.split("\n\n")[0]
    assert " ".join(head.split()).rstrip(".") == f"{name}: {readme()[name].replace(' → ', ' -> ')}"


def test_everything_that_lists_the_stages_lists_them_all_and_in_order():
    shown = CliRunner().invoke(app, ["run", "--help"], env={"COLUMNS": "300"}).stdout
    listed = re.search(r"Stages: ([\w, ]+)\.", shown)[1].split(", ")
    sections = [name for name in PipelineConfig.model_fields if name in STAGES]
    documented = list(readme())
    for place, names in {
        "the help of `textmill run`": listed,
        "the sections of PipelineConfig": sections,
        "the table of stages in README.md": documented,
    }.items():
        assert not (missing := [name for name in STAGES if name not in names]), f"{place} leaves out {missing}"
        assert names == list(STAGES), place
