"""Writing an answer after a prompt: the loss is on the answer alone."""

import json
from itertools import pairwise

import numpy as np
import pytest
import torch
import torch.nn.functional as F

from modeling.answering.answer import answer_questions
from modeling.answering.config import QuestionsConfig
from modeling.answering.generative import AnswerWriting, Rows, prompts_of
from modeling.answering.questions import Question, locate
from modeling.answering.sets import make_set
from modeling.answering.tune import tune
from modeling.checkpoint import WEIGHTS, CheckpointConfig, load_model, publish_texts, without_tied_head, write_tensors
from modeling.config.network import MODEL_CONFIG
from modeling.inference.generate import Sampling, generate, load
from modeling.training.distributed import Ranks
from textmill.errors import UserError
from textmill.progress import quiet
from tokenization.formats import save_tokenizer


def prompt(text: str, answer: str) -> Question:
    return Question("", "", text, None, (answer,), (-1,))


@pytest.fixture
def config(settings):
    return settings(method="generative", length=48, longest_answer=12, no_answer=False)


def test_a_row_is_prompt_and_answer_and_only_the_answer_is_predicted(tokenizer, config):
    rows = Rows([prompt("2 + 2 =", "4"), prompt("a\n", "bcd")], tokenizer, config)
    (ids, targets, positions, _), counts = rows.batch(np.arange(2))
    eot, pad = tokenizer.eot_id, tokenizer.special_tokens["[PAD]"]
    assert ids[0].tolist() == [eot, *b"2 + 2 = 4"] + [pad] * 38
    assert ids[1].tolist() == [eot, *b"a\nbcd"] + [pad] * 42
    assert counts.tolist() == [3, 4]
    assert targets[0].tolist() == [*b" 4", eot, *b" "]  # repeated up to the longest
    assert targets[1].tolist() == [*b"bcd", eot]
    for row in range(2):
        for target, position in zip(targets[row].tolist(), positions[row].tolist(), strict=True):
            following = ids[row, position + 1].item()
            assert target == (eot if following == pad else following)


def test_the_loss_is_on_answers_alone_and_padding_changes_nothing(tokenizer, config, raw):
    model, _ = load_model(raw)
    [batch] = [Rows([prompt("2 + 2 =", "4")], tokenizer, config).batch(np.arange(1))[0]]
    eot = tokenizer.eot_id
    text = torch.tensor([[eot, *b"2 + 2 = 4", eot]])
    logits = model(text[:, :-1])
    expected = F.cross_entropy(logits[0, -3:], text[0, -3:])
    assert model(**batch._asdict()).item() == pytest.approx(expected.item(), rel=1e-5)


def test_ranks_share_a_batch(tokenizer, config):
    rows = Rows([prompt(f"{n} =", "x" * (n % 7 + 1)) for n in range(20)], tokenizer, config)
    objective = AnswerWriting(rows, rows, config)
    whole = objective.train_batch(3, 8, range(8))
    for part in (range(3), range(3, 8)):
        for ours, all_rows in zip(objective.train_batch(3, 8, part)[:3], whole[:3], strict=True):
            assert (ours == all_rows[part.start : part.stop]).all()


def test_an_evaluation_is_that_of_every_token_of_the_answers(tokenizer, config, raw):
    model, _ = load_model(raw)
    rows = Rows([prompt(f"{n} =", "x" * (n % 7 + 1)) for n in range(20)], tokenizer, config)
    with torch.inference_mode():
        metrics = AnswerWriting(rows, rows, config).evaluate(model, Ranks(), torch.device("cpu"), 7)
        nats = tokens = 0
        for n in range(20):
            answer = torch.tensor([*b" " + b"x" * (n % 7 + 1), tokenizer.eot_id])
            text = torch.tensor([[tokenizer.eot_id, *f"{n} =".encode(), *answer[:-1].tolist()]])
            logits = model(text)[0, -len(answer) :]
            nats += F.cross_entropy(logits, answer, reduction="sum").item()
            tokens += len(answer)
    assert metrics["validation_loss"] == pytest.approx(nats / tokens, rel=1e-5)
    assert metrics["answers_right"] == 0


def test_a_long_context_is_read_in_parts_and_the_answer_follows_those_that_hold_it(tokenizer, config):
    context = "".join(chr(ord("a") + n % 26) for n in range(80)) + " 1984 end"
    asked = Question("", "", "When?", context, ("1984",), (locate(context, "1984"),))
    config = config.model_copy(update={"length": 64, "template": "{context}|{question}"})
    [prompts] = prompts_of([asked], tokenizer, config)
    assert len(prompts) > 3 and prompts[0].begin == 0 and prompts[-1].end == len(context)
    assert all(after.begin < before.end for before, after in pairwise(prompts))
    holding = sum("1984" in each.text for each in prompts)
    assert len(Rows([asked], tokenizer, config)) == holding
    allowed = config.model_copy(update={"no_answer": True})
    rows = Rows([asked], tokenizer, allowed)
    assert len(rows) == len(prompts)
    assert sum(answer.tolist() == [tokenizer.eot_id] for _, answer in rows.rows) == len(prompts) - holding


def test_what_does_not_fit_is_cut_and_counted_or_refused(tokenizer, config):
    rows = Rows([prompt("x" * 60, "yes"), prompt("short", "n" * 30), prompt("a", "b")], tokenizer, config)
    assert rows.cut == 2
    (ids, *_), _ = rows.batch(np.arange(3))
    assert ids.shape == (3, 48) and bytes(ids[0, -4:].tolist()) == b" yes"
    asked = Question("", "", "x" * 60, "a context", ("a",), (0,))
    long = Question("", "", "who " * 40, "a context", ("a",), (0,))
    wide = config.model_copy(update={"length": 96})
    [[cut]] = prompts_of([long], tokenizer, wide)
    assert cut.is_cut and 5 < cut.text.count("who") < 40 and cut.text.startswith("a context")
    assert Rows([long], tokenizer, wide).cut == 1
    with pytest.raises(
        UserError, match=r"the question 'x+'… leaves no room for its context in 48 tokens; raise length"
    ):
        Rows([asked], tokenizer, config)


@pytest.fixture(scope="module")
def sums(tmp_path_factory):
    path = tmp_path_factory.mktemp("sums")
    rows = [{"prompt": f"{n % 50}: the color of {thing} is", "answer": color} for n, (thing, color) in enumerate(
        [("snow", "white"), ("coal", "black"), ("blood", "red"), ("grass", "green")] * 60)]  # fmt: skip
    (path / "sums.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    make_set(QuestionsConfig(path=str(path / "sums.jsonl")), None, path / "set")
    return path / "set"


def test_it_learns_to_write_answers(raw, sums, settings, tmp_path):
    config = settings(method="generative", steps=60, length=48, longest_answer=8)
    tune(raw, sums, config, tmp_path, quiet)
    stats = json.loads((tmp_path / "stats.json").read_text())
    assert stats["exact_match"] > 0.9 > stats["baseline_f1"] + 0.4
    [found] = answer_questions(tmp_path, [Question("", "", "7: the color of coal is", None, (), ())], "cpu")
    assert found.text == "black" and found.start is None
    loaded = load(tmp_path, "cpu")
    assert generate(loaded, ["7: the color of coal is"], Sampling(10, temperature=0)) == [" black"]
    eot = loaded.tokenizer.eot_id
    text = torch.tensor([[eot, *b"7: the color of coal is black", eot]])
    nll = F.cross_entropy(loaded.model(text[:, :-1])[0, -7:], text[0, -7:], reduction="sum")
    assert found.score == pytest.approx(torch.exp(-nll).item(), rel=1e-4)
    with pytest.raises(UserError, match=r"prompts have no context .* set answering.method: generative"):
        tune(raw, sums, settings(), tmp_path / "other", pytest.fail)


@pytest.mark.parametrize("kind", ["encoder-decoder", "recurrent"])
def test_other_networks_write_answers_too(kind, sums, tokenizer, settings, tmp_path):
    model = {"kind": kind, "layers": 1, "width": 32, "context": 64} | (
        {"heads": 2} if kind == "encoder-decoder" else {}
    )
    objective = "denoising" if kind == "encoder-decoder" else "causal"
    about = CheckpointConfig(MODEL_CONFIG.validate_python(model), tokenizer.vocab_size, objective, False, {})
    torch.manual_seed(0)
    origin, out = tmp_path / "origin", tmp_path / "out"
    for folder in (origin, out):
        folder.mkdir()
    network = about.build_model()
    write_tensors(origin / WEIGHTS, without_tied_head(network.state_dict(), network))
    publish_texts(origin, about, "")
    save_tokenizer(tokenizer, origin)
    config = settings(method="generative", steps=80, length=48, longest_answer=8)
    tune(origin, sums, config, out, quiet)
    stats = json.loads((out / "stats.json").read_text())
    assert stats["exact_match"] > stats["baseline_exact_match"] + 0.3
    asked = [Question("", "", f"7: the color of {thing} is", None, (), ()) for thing in ("coal", "snow")]
    found = answer_questions(out, asked, "cpu")
    loaded = load(out, "cpu")
    written = generate(loaded, [question.question for question in asked], Sampling(10, temperature=0))
    assert [answer.text for answer in found] == [text.strip() for text in written]
    assert all(0 < answer.score <= 1 for answer in found)
    assert loaded.config.objective == ("pairs" if kind == "encoder-decoder" else "causal")


def test_a_model_that_finds_answers_cannot_write_them(tuned, sums, settings, tmp_path):
    with pytest.raises(UserError, match="this checkpoint sees both sides of a blank; give the one that pretrain wrote"):
        tune(tuned, sums, settings(method="generative"), tmp_path, pytest.fail)
