"""Which stages are run, and which of them again: by what is made from what, not by the order of the list."""

from __future__ import annotations

import pytest

from flows.pipeline.chain import STAGES
from flows.pipeline.config import PipelineConfig
from flows.pipeline.selection import Selection
from textmill.errors import UserError

SOURCES = {"scrape": {"sources": ["python-docs"]}}
WITH_ALL = PipelineConfig.model_validate(SOURCES | {"pairs": {}, "questions": {}})


@pytest.mark.parametrize(
    ("start", "again"),
    [
        ("pairs", {"pairs", "finetune", "answering", "report"}),
        ("questions", {"questions", "answering", "report"}),
        ("pretrain", {"pretrain", "finetune", "answering", "report"}),
        ("finetune", {"finetune", "answering", "report"}),
        ("train_tokenizer", {"train_tokenizer", "pretokenize", "pairs", "pretrain", "finetune", "answering", "report"}),
        ("scrape", set(STAGES) - {"ingest", "text_pairs", "import_checkpoint"}),
    ],
)
def test_from_a_stage_onward_builds_what_is_made_from_it_and_nothing_else(start, again):
    assert Selection(start=start).forced(WITH_ALL) == again


def test_a_forced_stage_is_built_again_alone():
    assert Selection(force=frozenset(["pairs"])).forced(WITH_ALL) == {"pairs"}


def test_until_a_stage_runs_what_it_is_made_from():
    assert Selection(until="pretrain").leaves_out(WITH_ALL) == {
        "ingest", "import_checkpoint", "pairs", "text_pairs", "questions", "finetune", "answering", "report",
    }  # fmt: skip
    assert Selection(until="finetune").leaves_out(WITH_ALL) == {
        "ingest", "import_checkpoint", "text_pairs", "questions", "answering", "report",
    }  # fmt: skip
    assert Selection().leaves_out(WITH_ALL) == frozenset()


@pytest.mark.parametrize(
    "selection",
    [
        Selection(start="pairs"),
        Selection(force=frozenset(["pairs"])),
        Selection(only="pairs"),
        Selection(until="pairs"),
    ],
)
def test_a_stage_that_the_configuration_lacks_cannot_be_selected(selection):
    with pytest.raises(UserError, match="the configuration has no pairs: give it a section `pairs`"):
        selection.leaves_out(PipelineConfig.model_validate(SOURCES))


def test_a_model_learns_to_answer_where_there_are_questions():
    with pytest.raises(UserError, match="the configuration has no answering: give it a section `questions`"):
        Selection(only="answering").leaves_out(PipelineConfig.model_validate(SOURCES))


def test_what_is_missing_is_built_for_one_stage_only():
    with pytest.raises(UserError, match="--build-missing goes with --only STAGE"):
        Selection(build_missing=True)
