"""lm-evaluation-harness on a checkpoint, against the harness's own model on the exported one."""

import json

import pytest
import torch
import yaml

from modeling.inference.export import export
from modeling.inference.generate import load
from textmill.errors import UserError

pytest.importorskip("lm_eval", reason="needs textmill[lm-eval]")

from lm_eval.api.instance import Instance

from modeling.inference.harness import HarnessModel, run_tasks

TEXTS = ["the cat sees a tree. a dog hears rain. the bird finds the sea.", "a dog", "the sea"]
PAIRS = [("the cat sees", " a tree"), ("a dog", " sees rain. the bird"), ("", "the bird"), ("the cat ", "hears rain")]


def ask(kind: str, *arguments) -> list[Instance]:
    return [Instance(request_type=kind, doc={}, arguments=given, idx=0) for given in arguments]


@pytest.fixture(scope="module")
def ours(pretrained) -> HarnessModel:
    return HarnessModel(load(pretrained, "cpu"), batch=3)


@pytest.mark.slow
def test_metrics_are_those_of_the_harness_on_the_exported_model(pretrained, ours, tmp_path):
    huggingface = pytest.importorskip("lm_eval.models.huggingface")
    export(pretrained, tmp_path / "exported")
    theirs = huggingface.HFLM(pretrained=str(tmp_path / "exported"), device="cpu", dtype="float32", batch_size=1)
    eot = ours.eot_token_id
    encoded = [ours._encode_pair(*pair) if pair[0] else ([], ours.tok_encode(pair[1])) for pair in PAIRS]
    begun = [(pair, [eot, *context], answer) for pair, (context, answer) in zip(PAIRS, encoded, strict=True)]
    for (log_likelihood, is_greedy), (their_log_likelihood, their_is_greedy) in zip(
        ours.loglikelihood(ask("loglikelihood", *PAIRS)), theirs._loglikelihood_tokens(begun), strict=True
    ):
        assert log_likelihood == pytest.approx(their_log_likelihood, abs=1e-3)
        assert is_greedy == their_is_greedy
    rolling = ask("loglikelihood_rolling", *[(text,) for text in TEXTS])
    assert ours.loglikelihood_rolling(rolling) == pytest.approx(theirs.loglikelihood_rolling(rolling), abs=1e-2)


def test_a_likelihood_is_the_sum_over_the_tokens_of_the_continuation(ours):
    checkpoint = ours.checkpoint
    tokenizer = checkpoint.tokenizer
    ids = torch.tensor([[tokenizer.eot_id, *tokenizer.encode_ordinary("a dog sees rain")]])
    with torch.inference_mode():
        log_probs = checkpoint.model(ids[:, :-1]).float().log_softmax(-1).gather(2, ids[:, 1:, None])[0, :, 0]
    start = 1 + len(tokenizer.encode_ordinary("a dog"))
    [(found, _)] = ours.loglikelihood(ask("loglikelihood", ("a dog", " sees rain")))
    assert found == pytest.approx(float(log_probs[start - 1 :].sum()), abs=1e-4)


def test_answers_end_before_the_stop_string(ours):
    [answer] = ours.generate_until(ask("generate_until", ("the cat sees", {"until": ["."], "max_gen_toks": 40})))
    assert answer
    assert "." not in answer
    again = ours.generate_until(ask("generate_until", ("the cat sees", {"until": ["."], "max_gen_toks": 40})))
    assert again == [answer]


@pytest.fixture
def own_tasks(tmp_path):
    """A folder with one task of two answers to choose from, whose data lies beside it."""
    rows = [{"question": "the cat sees", "choices": [" a tree.", " qqq zzz"], "answer": 0}] * 4
    (tmp_path / "data.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    task = {
        "task": "what-follows", "dataset_path": "json", "test_split": "test",
        "dataset_kwargs": {"data_files": {"test": str(tmp_path / "data.jsonl")}},
        "output_type": "multiple_choice", "doc_to_text": "{{question}}", "doc_to_target": "answer",
        "doc_to_choice": "choices", "target_delimiter": "", "metric_list": [{"metric": "acc"}],
    }  # fmt: skip
    (tmp_path / "what_follows.yaml").write_text(yaml.safe_dump(task))
    return tmp_path


@pytest.mark.slow
def test_a_task_of_ones_own_is_run(pretrained, own_tasks):
    metrics = run_tasks(pretrained, ["what-follows"], include=own_tasks, device="cpu")
    assert metrics["what-follows"]["acc,none"] == 1.0


@pytest.mark.slow
def test_mistakes_are_one_line(pretrained, finetuned, own_tasks):
    with pytest.raises(UserError, match="no task nonsense"):
        run_tasks(pretrained, ["nonsense"], device="cpu")
    with pytest.raises(UserError, match="give a pretrained one"):
        run_tasks(finetuned, ["what-follows"], include=own_tasks, device="cpu")
