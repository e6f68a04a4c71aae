"""Finding an answer in its context: windows, spans, and a model that learns it."""

import json
import subprocess
import time
from itertools import pairwise

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from safetensors.torch import load_file

from modeling.answering.answer import answer_questions, evaluate_answers
from modeling.answering.extractive import SpanSearch, read
from modeling.answering.metrics import scores
from modeling.answering.questions import Question, locate, read_split
from modeling.answering.spans import answers_of, best_spans
from modeling.answering.tune import tune
from modeling.answering.windows import Layout, QuestionWindows
from modeling.checkpoint import METRICS, SPAN, WEIGHTS, load_model
from modeling.device import training_environment
from modeling.inference.export import export
from modeling.inference.generate import fill, load
from modeling.networks.span import SpanModel
from modeling.training.distributed import Ranks
from modeling.training.process import command
from textmill.errors import UserError
from textmill.progress import quiet
from tokenization.rules import TextRules
from tokenization.tokenizer import Tokenizer


def question(context: str, *answers: str, asked: str = "who?") -> Question:
    return Question("", "", asked, context, answers, tuple(locate(context, answer) for answer in answers))


@pytest.fixture
def layout(tokenizer) -> Layout:
    return Layout(24, None, tokenizer.special_tokens)


def test_a_window_is_laid_out_like_a_pair_with_the_answers_place(tokenizer, layout):
    windows = QuestionWindows([question("the cat runs", "cat")], tokenizer, layout)
    ids, allowed = windows.batch(np.arange(1))
    special = tokenizer.special_tokens
    text = [special["[CLS]"], *b"who?", special["[SEP]"], *b"the cat runs", special["[SEP]"]]
    assert ids[0].tolist() == text + [special["[PAD]"]] * 5
    assert np.flatnonzero(allowed[0]).tolist() == [0, *range(6, 18)]
    assert bytes(ids[0, windows.starts[0] : windows.ends[0] + 1].tolist()) == b"cat"


def test_a_long_context_is_covered_by_overlapping_windows(tokenizer, layout):
    text = "".join(chr(ord("a") + n % 26) for n in range(60)) + " the answer"
    windows = QuestionWindows([question(text, "the answer"), question("short", "short")], tokenizer, layout)
    first, last = windows.bounds[:2]
    pieces = list(zip(windows.first[first:last].tolist(), windows.last[first:last].tolist(), strict=True))
    room = 24 - 4 - 3
    assert pieces[0] == (0, room) and pieces[-1][1] == len(text)
    assert all(after[0] - before[0] == room // 2 for before, after in pairwise(pieces))
    has_answer = windows.ends[first:last] > 0
    assert has_answer.sum() >= 1 and not has_answer[0]
    for number in np.flatnonzero(has_answer):
        assert text[slice(*windows.span(number, windows.starts[number], windows.ends[number]))] == "the answer"


def test_places_are_characters_whatever_their_bytes_and_tokens(layout):
    tokens = {bytes([value]): value for value in range(256)} | {b" \xe2": 256, "né".encode(): 257, b" n": 258}
    special = {name: 300 + place for place, name in enumerate(layout.special_tokens)}
    words = Tokenizer(tokens, "gpt2", special)
    context = "Où est né 漢字 ?"
    for answer in ("né", "漢字", "Où", "字"):
        windows = QuestionWindows(
            [question(context, answer)], words, layout._replace(special_tokens=special, length=32)
        )
        start, end = windows.span(0, int(windows.starts[0]), int(windows.ends[0]))
        assert answer in context[start:end] and len(context[start:end]) <= len(answer) + 1


def test_a_tokenizer_that_changes_texts_is_refused(tokenizer, layout):
    composing = Tokenizer(tokenizer.tokens, "gpt2", tokenizer.special_tokens, TextRules(normalizers=("NFC",)))
    QuestionWindows([question("caf\u00e9", "caf")], composing, layout)
    with pytest.raises(UserError, match="the tokenizer changes the text 'cafe\u0301' before it cuts it"):
        QuestionWindows([question("cafe\u0301", "caf")], composing, layout)


def test_windows_that_are_too_short_are_refused(tokenizer, layout):
    with pytest.raises(UserError, match="needs at least 16 tokens but the window holds 12; pretrain with a larger"):
        QuestionWindows([question("a cat", "cat")], tokenizer, layout._replace(length=12))


def test_the_best_span_is_that_of_all_spans(tokenizer):
    torch.manual_seed(0)
    logits, allowed = torch.randn(3, 10, 2) * 3, torch.rand(3, 10) < 0.7
    allowed[:, 0] = allowed[:, 4] = True
    found = best_spans(logits.masked_fill(~allowed.unsqueeze(2), -torch.inf), allowed, longest=3)
    for row in range(3):
        inside = [place for place in range(1, 10) if allowed[row, place]]
        spans = {
            (i, j): (logits[row, i, 0].double() + logits[row, j, 1].double()).item()
            for i in inside
            for j in inside
            if i <= j < i + 3
        }
        best = max(spans, key=lambda span: spans[span])
        assert found[row, :4].tolist() == pytest.approx([spans[best], *best, logits[row, 0].sum().item()])
        assert found[row, 4].item() == pytest.approx(torch.tensor(list(spans.values())).logsumexp(0).item())


def test_the_surest_window_answers_and_none_must_be_surer_than_all(tokenizer, layout):
    asked = [question("x" * 30 + " the cat", "the cat"), question("a dog", "a dog")]
    windows = QuestionWindows(asked, tokenizer, layout)
    assert windows.bounds.tolist() == [0, 4, 5]
    place = 3  # the last window of the first question
    found = np.array([[1.0, 6, 6, 5.0, 1.1]] * 5)
    found[place] = [4.0, windows.starts[place], windows.ends[place], 3.0, 4.1]
    first, second = answers_of(windows, found, no_answer=True)
    assert (first.text, first.start, first.end) == ("the cat", 31, 38)  # none is at 3 in the window with the answer
    total = np.logaddexp.reduce([1.1, 1.1, 1.1, 4.1, 3.0])
    assert first.score == pytest.approx(np.exp(4 - total))
    assert (second.text, second.start) == ("", None)
    assert [answer.text for answer in answers_of(windows, found, no_answer=False)] == ["the cat", "a"]


def test_the_loss_is_that_of_both_ends_and_padding_is_not_seen(tokenizer, layout, raw):
    base, config = load_model(raw)
    model = SpanModel(config.model, config.vocab_size).eval()
    model.load_state_dict(model.state_dict() | base.state_dict())
    torch.nn.init.normal_(model.span.weight)
    short, long = (
        QuestionWindows([question("the cat", "cat")], tokenizer, layout._replace(length=length)) for length in (16, 40)
    )
    ids, allowed, documents, starts, ends = read(short, np.arange(1))
    logits = model(ids, allowed, documents)
    expected = (F.cross_entropy(logits[..., 0], starts) + F.cross_entropy(logits[..., 1], ends)) / 2
    assert model(ids, allowed, documents, starts, ends).item() == pytest.approx(expected.item())
    padded = model(*read(long, np.arange(1))[:3])
    assert torch.allclose(padded[:, :16][allowed], logits[allowed], atol=1e-5)


def test_ranks_share_a_batch_and_an_evaluation(questions, tokenizer, layout, settings, raw):
    asked = read_split(questions, "validation")
    windows = QuestionWindows(asked, tokenizer, layout._replace(length=48))
    objective = SpanSearch(windows, windows, settings(no_answer=True))
    whole = objective.train_batch(3, 8, range(8))
    for part in (range(3), range(3, 8)):
        for ours, rows in zip(objective.train_batch(3, 8, part), whole, strict=True):
            assert (ours == rows[part.start : part.stop]).all()
    base, config = load_model(raw)
    model = SpanModel(config.model, config.vocab_size).eval()
    model.load_state_dict(model.state_dict() | base.state_dict())

    class Recorded(Ranks):
        def sum(self, values, device):
            sums.setdefault(self.rank, []).append(values)
            return values

    sums: dict[int, list[torch.Tensor]] = {}
    with torch.inference_mode():
        alone = objective.evaluate(model, Ranks(), torch.device("cpu"), 7)
        for rank in range(3):
            objective.evaluate(model, Recorded(rank, 3), torch.device("cpu"), 7)
        direct = best_spans(
            model(*read(windows, np.arange(len(windows)))[:3]), read(windows, np.arange(len(windows)))[1], 12
        )
    found = sum(values[0] for values in sums.values())
    nats = sum(values[1] for values in sums.values())
    assert torch.allclose(found, direct, atol=1e-4)
    assert alone["validation_loss"] == pytest.approx((nats[0] / nats[1]).item())
    texts = [answer.text for answer in answers_of(windows, found.numpy(), no_answer=True)]
    assert {name: alone[name] for name in ("exact_match", "f1")} == pytest.approx(scores(texts, asked))


def test_it_learns_to_find_answers_and_that_there_is_none(tuned, questions, asked_file):
    stats = json.loads((tuned / "stats.json").read_text())
    assert stats["exact_match"] > 0.9 > stats["baseline_f1"] + 0.3
    asked = [
        Question("", "", "who?", "12: my aunt hears snow.", (), ()),
        Question("", "", "what is it?", "12: my aunt hears snow.", (), ()),
        Question("", "", "where?", "12: my aunt hears snow.", (), ()),
    ]
    found = answer_questions(tuned, asked, "cpu")
    assert [answer.text for answer in found] == ["my aunt", "snow", ""]
    assert [(answer.start, answer.end) for answer in found] == [(4, 11), (18, 22), (None, None)]
    assert all(0.5 < answer.score <= 1 for answer in found)
    measured = evaluate_answers(tuned, questions, "validation", None, "cpu")
    assert measured["exact_match"] == pytest.approx(stats["exact_match"])
    assert evaluate_answers(tuned, asked_file, "", 40, "cpu")["questions"] == 40


def test_the_result_is_a_checkpoint_with_its_head_beside(tuned, raw):
    model, config = load_model(tuned)
    assert not model.causal and config.objective == "span"
    assert sorted(load_file(tuned / SPAN)) == ["span.bias", "span.weight"]
    assert (load_file(tuned / WEIGHTS)["head.weight"] == load_file(raw / WEIGHTS)["head.weight"]).all()
    assert config.run["no_answer"] is True and config.run["length"] == 48
    with pytest.raises(UserError, match="this checkpoint answers questions, it does not fill blanks"):
        fill(load(tuned, "cpu"), "a [MASK]")


def test_what_cannot_be_says_so(raw, questions, settings, tokens, tmp_path):
    with pytest.raises(UserError, match=r"was not tuned to answer questions; give the configuration a section"):
        answer_questions(raw, [question("x")], "cpu")
    with pytest.raises(UserError, match=r"holds no set of questions \(train.parquet is missing\)"):
        tune(raw, tokens, settings(), tmp_path, pytest.fail)


def test_prompts_have_nothing_to_be_found_in(tuned):
    with pytest.raises(UserError, match="finds answers in a context; give one for 'who'"):
        answer_questions(tuned, [Question("", "", "who", None, (), ())], "cpu")


@pytest.mark.slow
@pytest.mark.parametrize("ema", [None, 0.9])
def test_a_killed_tuning_ends_with_the_same_weights(raw, questions, settings, tmp_path, ema):
    config = settings(steps=40, checkpoint_every=5, evaluate_every=40, ema=ema)
    undisturbed, killed = tmp_path / "undisturbed", tmp_path / "killed"
    undisturbed.mkdir()
    tune(raw, questions, config, undisturbed, quiet)
    process = subprocess.Popen(
        command(config, questions, raw, killed), stdout=subprocess.DEVNULL, env=training_environment()
    )
    while not list(killed.glob("checkpoints/step-*")):
        assert process.poll() is None
        time.sleep(0.005)
    process.kill()
    process.wait()
    assert not (killed / "stats.json").exists()
    tune(raw, questions, config, killed, quiet)
    for file in (WEIGHTS, SPAN, "stats.json"):
        assert (killed / file).read_bytes() == (undisturbed / file).read_bytes(), file


@pytest.mark.slow
@pytest.mark.parametrize("parallel", ["ddp", "fsdp"])
def test_two_ranks_end_where_one_does(raw, questions, settings, tmp_path, parallel):
    config = settings(steps=6, evaluate_every=3, checkpoint_every=6, precision="fp32")
    (tmp_path / "one").mkdir()
    tune(raw, questions, config, tmp_path / "one", quiet)
    two = config.model_copy(update={"processes": 2, "parallel": parallel})
    done = subprocess.run(
        command(two, questions, raw, tmp_path / "two"), capture_output=True, text=True, env=training_environment()
    )
    assert done.returncode == 0, done.stderr[-2000:]
    one, other = (
        [line.get("loss", line.get("validation_loss")) for line in map(json.loads, lines)]
        for lines in ((tmp_path / name / METRICS).read_text().splitlines() for name in ("one", "two"))
    )
    assert len(one) == 8 and one == pytest.approx(other, abs=1e-4)
    assert sorted(load_file(tmp_path / "two" / SPAN)) == ["span.bias", "span.weight"]


def test_transformers_has_no_form_for_it(tuned, tmp_path):
    with pytest.raises(UserError, match="finds answers has no form in transformers yet; use it with textmill answer"):
        export(tuned, tmp_path / "out")
    assert not (tmp_path / "out").exists()
