"""Questions in the pipeline: where they come from, what they depend on, and the stage that tunes on them."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from flows.engine.assess import identify
from flows.engine.materialize import materialize
from flows.engine.page import Sample, Table
from flows.engine.stage import Context, Options
from flows.pipeline.config import load_config
from flows.pipeline.project import Project
from flows.pipeline.selection import Selection
from flows.service.deployments import declared
from flows.stages.comparison import result_of
from flows.stages.questions import questions
from flows.stages.report import ReportConfig, report
from flows.store.local import Store
from modeling.answering.config import QuestionsConfig
from textmill.errors import UserError

TEXT = (
    "A list is a mutable sequence of objects.\n\nAn index error is raised if it is empty. A tuple is a fixed sequence."
)


def asked(path: Path, count: int = 40) -> Path:
    rows = []
    for n in range(count):
        kind = "odd" if n % 2 else "even"
        rows.append({"question": f"what is {n}?", "context": f"{n} is a number of {kind} kind", "answer": kind})
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return path


@pytest.fixture
def store(tmp_path) -> Store:
    return Store(tmp_path / "store")


def test_questions_are_those_of_a_file_by_its_content(tmp_path, store):
    first, moved = asked(tmp_path / "a.jsonl"), asked(tmp_path / "b.jsonl")
    made = materialize(questions, QuestionsConfig(path=str(first)), {"corpus": None}, Context(store))
    assert made.headline == "36 + 4 questions on 36 + 4 documents"
    assert materialize(questions, QuestionsConfig(path=str(moved)), {"corpus": None}, Context(store)).reused
    other = materialize(questions, QuestionsConfig(path=str(asked(moved, 30))), {"corpus": None}, Context(store))
    assert not other.reused and other.artifact.digest != made.artifact.digest
    again = Context(store, options=Options(force=True))
    forced = materialize(questions, QuestionsConfig(path=str(first)), {"corpus": None}, again)
    assert forced.artifact.digest == made.artifact.digest
    table, sample = questions.page(made.artifact)
    assert isinstance(table, Table) and len(table.rows) == 4 and {row[1] for row in table.rows} <= {"odd", "even"}
    assert isinstance(sample, Sample) and "is a number of" in sample.text


def test_a_file_that_is_missing_is_told_before_a_run(tmp_path):
    with pytest.raises(UserError, match=r"none.jsonl: no such file of questions; mend questions.path"):
        questions.check_available(QuestionsConfig(path=str(tmp_path / "none.jsonl")))


def test_answers_without_a_place_are_in_the_headline(tmp_path, store):
    path = asked(tmp_path / "a.jsonl")
    row = {"question": "why?", "context": "no reason is given", "answer": "because"}
    path.write_text(path.read_text() + json.dumps(row) + "\n" + json.dumps(row | {"answer": ""}) + "\n")
    made = materialize(questions, QuestionsConfig(path=str(path)), {"corpus": None}, Context(store))
    assert made.headline.endswith("1 without an answer, 1 whose answer does not occur in its context (not_found.jsonl)")


def test_the_configuration_names_files_relative_to_itself(write_config, tmp_path):
    config = load_config(write_config(questions={"path": "asked.jsonl"}, answering={"optimizer": {"clip": 1.0}}))
    assert config.questions.path == str(tmp_path / "asked.jsonl")
    assert config.answering.optimizer.matrix_lr == pytest.approx(0.1 * config.pretrain.optimizer.matrix_lr)
    assert config.answering.optimizer.clip == 1.0 and config.answering.dropout == config.pretrain.model.dropout


def test_answering_without_questions_is_a_mistake(write_config):
    with pytest.raises(UserError, match=r"answering: there are no questions to learn from; give a section `questions"):
        load_config(write_config(answering={"steps": 5}))


def test_a_method_that_the_network_cannot_learn_is_a_mistake(write_config):
    path = write_config(pretrain={"model": {"kind": "recurrent"}}, finetune=None, questions={})
    with pytest.raises(UserError, match=r"models of kind recurrent cannot point at an answer; set answering\.method"):
        load_config(path)
    path = write_config(
        pretrain={"objective": "masked"}, finetune=None, questions={}, answering={"method": "generative"}
    )
    with pytest.raises(UserError, match=r"answering\.method: generative wants a model that continues text"):
        load_config(path)


def test_both_stages_have_deployments_where_a_configuration_has_questions(small_config, tmp_path):
    (tmp_path / "configs").mkdir()
    small_config(tmp_path / "configs", questions={})
    queues = {deployment.title: deployment.queue for deployment in declared(Project.open(tmp_path))}
    assert (queues["questions/questions"], queues["answering/answering"]) == ("cpu", "gpu")


def test_questions_make_nothing_else_another(write_config):
    """Beside a report that has more to show."""
    plain = load_config(write_config())
    asking = load_config(write_config(questions={}))
    for stage in ("pretrain", "finetune", "train_tokenizer", "prepare"):
        assert getattr(plain, stage) == getattr(asking, stage)
    assert "report" in Selection(only="answering").leaves_out(asking)
    assert identify(report, ReportConfig(), {"corpus": None, "answering": None}, None) == identify(
        report, ReportConfig(), {"corpus": None}, None
    )


@pytest.mark.slow
def test_a_pipeline_makes_questions_of_its_corpus_and_learns_to_answer_them(write_config, textmill, tmp_path):
    model = {"layers": 1, "width": 32, "heads": 2, "context": 128}
    tuning = {"steps": 6, "batch": 4, "evaluate_every": 6, "evaluate_tokens": 2048, "checkpoint_every": 3}
    path = write_config(pretrain={"model": model}, questions={"context_characters": 200}, answering=tuning)
    process = textmill("run", path)
    out, err = process.communicate(timeout=600)
    assert process.returncode == 0, err
    assert "held-out questions answered exactly" in " ".join(out.split())
    found = {artifact.manifest.stage: artifact for artifact in Store(tmp_path / "store").artifacts()}
    tuned, finetuned = found["answering"], found["finetune"]
    assert [entry.fingerprint for entry in tuned.manifest.inputs["checkpoint"]] == [finetuned.manifest.fingerprint]
    steps = [found[stage].stats["steps"] for stage in ("pretrain", "finetune", "answering")]
    assert result_of("tuned", (), 0, tuned).spent["steps"] == sum(steps)
    page = (found["report"].path / "index.html").read_text()
    assert "held-out question" in page and tuned.stats["samples"][0]["question"].split()[0] in page
    answer = textmill("answer", tuned.path, "-q", "what is it?", "-c", TEXT, "--json")
    assert json.loads(answer.communicate(timeout=120)[0])["answer"] in TEXT
    written = textmill("run", path, "--set", "answering.method=generative", "--only", "answering")
    _, err = written.communicate(timeout=600)
    assert written.returncode == 0, err
    [other] = [
        artifact
        for artifact in Store(tmp_path / "store").artifacts()
        if artifact.manifest.stage == "answering" and artifact.name != tuned.name
    ]
    assert other.manifest.inputs["checkpoint"][0].stage == "pretrain"
