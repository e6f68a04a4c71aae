"""Training with a state that is carried from window to window: order, resume, checkpoints, what follows from them."""

import json
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import load_file

from modeling.checkpoint import TRAINING, Checkpoints, load_model
from modeling.device import choose
from modeling.inference.evaluate import Windows, evaluate
from modeling.inference.export import export
from modeling.inference.generate import Sampling, generate, load
from modeling.networks.recurrent import CELLS
from modeling.training.finetune import finetune
from modeling.training.objectives import StreamLM
from modeling.training.pretrain import pretrain
from modeling.training.windows import StreamWindows, validation_windows
from textmill.errors import UserError
from textmill.progress import quiet
from tokenization.arrays import TokenArrays

MODEL = {"kind": "recurrent", "layers": 2, "width": 32, "context": 32}
WRAPPING_SEED = 16  # the last of 8 rows comes to the end of the corpus at step 7


def files(folder: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in folder.glob("*.*") if path.name != "timing.jsonl"}


@pytest.fixture(scope="module", params=CELLS)
def recurrent(request, tokens, tokenizer_folder, tiny, tmp_path_factory) -> Path:
    """A checkpoint of each cell."""
    out = tmp_path_factory.mktemp(request.param)
    pretrain(tokens, tokenizer_folder, tiny(model=MODEL | {"cell": request.param}, steps=120), out, quiet)
    return out


def test_a_rows_windows_follow_each_other_and_an_epoch_reads_every_part(tokens):
    arrays = TokenArrays(tokens, "train")
    windows = StreamWindows(8, arrays, 32, 1, seed=0)
    steps = np.arange(3 * windows.steps)
    starts = windows.starts(np.arange(len(steps) * 8)).reshape(len(steps), 8)
    begins = np.stack([windows.begins(int(step), range(8)) for step in steps])
    follows = np.diff(starts, axis=0) == 32
    np.testing.assert_array_equal(begins[1:], ~follows)  # at an epoch, and where the corpus begins again
    assert begins[0].all()
    inside = np.delete(begins, [0, windows.steps, 2 * windows.steps], axis=0)
    assert 0 < inside.sum() <= 3
    step = 1 + int(np.argmax(begins[1:].any(axis=1)))
    np.testing.assert_array_equal(windows.begins(step, range(2, 7)), begins[step, 2:7])
    for epoch in np.split(starts, 3):
        assert len(np.unique(epoch)) == epoch.size > windows.count - 8
    assert not np.array_equal(starts[0], starts[windows.steps])
    read = windows.read(8 * 3, range(2, 5))
    np.testing.assert_array_equal(read, arrays.windows(starts[3, 2:5], 33))
    assert not np.array_equal(read, StreamWindows(8, arrays, 32, 1, seed=1).read(8 * 3, range(2, 5)))


def test_a_corpus_in_which_no_state_can_be_carried_is_refused(tokens, tokenizer_folder, tiny, tmp_path):
    arrays = TokenArrays(tokens, "train")
    windows = (len(arrays) - 32) // 32
    assert StreamWindows(windows // 2, arrays, 32, 1, seed=0).steps == 2
    rows = windows // 2 + 1
    with pytest.raises(
        UserError,
        match=rf"{rows} rows need {2 * rows} windows of 32 tokens but the train split has {windows}; lower batch or",
    ):
        pretrain(tokens, tokenizer_folder, tiny(model=MODEL, batch=rows), tmp_path, quiet)


def test_validation_reads_the_window_before_each(tokens, tiny):
    validation = TokenArrays(tokens, "validation")
    objective = StreamLM(StreamWindows(8, validation, 32, 1, 0), validation, 32, 10**6)
    batch = objective.validation_batch(torch.arange(len(objective.validation)))
    assert torch.equal(batch.ids[1:, :32], objective.validation[:-1, :32])  # they are all there is, in order
    assert (batch.ids[0, :32] == validation.eot_id).all()
    assert torch.equal(batch.ids.gather(1, batch.positions), objective.validation[:, :-1])
    assert torch.equal(batch.targets, objective.validation[:, 1:])


def test_every_cell_learns_the_small_language(recurrent):
    stats = json.loads((recurrent / "stats.json").read_text())
    assert stats["validation_loss"] < 0.5 * stats["unigram_entropy"]
    assert stats["parameters"] == sum(p.numel() for p in load_model(recurrent)[0].parameters())


def test_text_is_the_same_with_and_without_a_state_and_prompts_may_be_longer_than_a_window(recurrent):
    checkpoint = load(recurrent, "cpu")
    prompts = ["the cat", "a dog sees rain. the bird hears the sea. the cat finds a tree. a dog", "the"]
    sampling = Sampling(max_tokens=50, temperature=0)
    with_state = generate(checkpoint, prompts, sampling)
    assert with_state == generate(checkpoint, prompts, sampling, use_state=False)
    assert with_state[0] == generate(checkpoint, prompts[:1], sampling)[0]
    assert len(with_state[0]) > 32 or "\n" in with_state[0]  # a text goes on beyond the window


def test_evaluation_carries_the_state_through_the_whole_text(recurrent, tokens, monkeypatch):
    monkeypatch.setattr("modeling.inference.evaluate.choose", lambda *_: choose("cpu", "fp32"))
    whole = evaluate(recurrent, tokens, device="cpu")
    monkeypatch.setattr("modeling.inference.evaluate.PIECE", 100)
    assert whole == pytest.approx(evaluate(recurrent, tokens, Windows(batch=1), device="cpu"), rel=1e-6)
    model, _ = load_model(recurrent)
    ids = torch.from_numpy(TokenArrays(tokens, "validation").window(0, whole["tokens"] + 1).astype(np.int64))
    nll = model.token_losses(ids[None, :-1], ids[None, 1:])[0]
    assert whole["loss"] == pytest.approx(nll.double().mean().item(), rel=1e-6)
    assert whole["tokens"] == len(TokenArrays(tokens, "validation")) - 1
    apart = model.token_losses(*(part[: len(part) // 32 * 32].view(-1, 32) for part in (ids[:-1], ids[1:])))[0]
    assert whole["loss"] < apart.mean().item()
    with pytest.raises(UserError, match="a recurrent model reads on from window to window; leave the stride out"):
        evaluate(recurrent, tokens, Windows(stride=8), device="cpu")


def test_losses_by_position_are_of_windows_of_which_nothing_before_is_known(recurrent, tokens):
    windows = validation_windows(TokenArrays(tokens, "validation"), 32, 1, 1024)
    model, _ = load_model(recurrent)
    nll = model.token_losses(windows[:, :-1], windows[:, 1:])[0].double()
    early, late = nll[:, 4:8].mean().item(), nll[:, 24:].mean().item()
    stats = json.loads((recurrent / "stats.json").read_text())
    assert (stats["early_loss"], stats["late_loss"]) == pytest.approx((early, late), rel=0.01)  # perhaps in bf16
    assert stats["late_minus_early"] == pytest.approx(stats["late_loss"] - stats["early_loss"])
    assert stats["late_minus_early"] < 0
    rows = [json.loads(line) for line in (recurrent / "metrics.jsonl").read_text().splitlines()]
    assert [row["step"] for row in rows if "late_loss" in row] == [120]  # once, of the weights that are the result


def test_what_needs_the_other_direction_or_a_class_of_transformers_is_refused(recurrent, tokens, tiny, tmp_path):
    from modeling.config.finetune import FinetuneConfig

    with pytest.raises(UserError, match="is a recurrent model, which does not see what follows a blank"):
        finetune(recurrent, tokens, FinetuneConfig(steps=1), tmp_path, quiet)
    with pytest.raises(UserError, match="recurrent models are not exported: no class of `transformers` computes"):
        export(recurrent, tmp_path / "export")
    assert not (tmp_path / "export").exists()


@pytest.mark.parametrize("cell", CELLS)
def test_a_run_continues_exactly_with_the_state_that_it_had(
    interrupted_at, cell, tokens, tokenizer_folder, tiny, tmp_path
):
    settings = {"model": MODEL | {"cell": cell, "feed_forward": 64, "dropout": 0.1}, "ema": 0.9, "precision": "bf16"}
    settings["seed"] = WRAPPING_SEED
    whole, part = tmp_path / "whole", tmp_path / "part"
    for out in (whole, part):
        out.mkdir()
    pretrain(tokens, tokenizer_folder, tiny(**settings), whole, quiet)
    for step in (11, 31):
        interrupted_at(step, tokens, tokenizer_folder, tiny(**settings, log_every=1), part)
    pretrain(tokens, tokenizer_folder, tiny(**settings), part, quiet)
    assert files(part) == files(whole)


@pytest.mark.parametrize("cell", ["lstm", "mingru"])
def test_a_checkpoint_holds_what_was_carried_from_the_rows_windows(
    interrupted_at, cell, tokens, tokenizer_folder, tiny, tmp_path
):
    still = {"name": "adamw", "lr": 1e-30}
    settings = {"optimizer": still, "precision": "fp32", "log_every": 1, "seed": WRAPPING_SEED}
    config = tiny(model=MODEL | {"cell": cell, "zero_init": False}, **settings)
    interrupted_at(11, tokens, tokenizer_folder, config, tmp_path)
    folder = Checkpoints(tmp_path / "checkpoints", keep=1).path(10)
    saved = {
        name.removeprefix("carried/"): tensor
        for name, tensor in load_file(folder / TRAINING).items()
        if name.startswith("carried/")
    }
    model, windows = load_model(folder)[0], StreamWindows(8, TokenArrays(tokens, "train"), 32, 1, config.seed)
    assert windows.steps > 10
    state = model.initial_state(8)
    begun = np.stack([windows.begins(step, range(8)) for step in range(10)])
    assert begun[1:].any()  # a row comes to the end of the corpus
    for step in range(10):
        state.forget(torch.from_numpy(begun[step]))
        model(torch.from_numpy(windows.read(8 * step, range(8))[:, :-1]), state=state)
    assert saved.keys() == state.tensors.keys()
    for name, tensor in saved.items():
        torch.testing.assert_close(tensor, state.tensors[name], atol=1e-5, rtol=1e-5)


def test_micro_batches_change_nothing(tokens, tokenizer_folder, tiny, tmp_path):
    curves = []
    for micro_batch in (None, 3):
        out = tmp_path / str(micro_batch)
        out.mkdir()
        settings = {"model": MODEL | {"cell": "gru"}, "precision": "fp32", "steps": 12, "evaluate_every": 4}
        settings["seed"] = WRAPPING_SEED
        pretrain(tokens, tokenizer_folder, tiny(**settings, micro_batch=micro_batch), out, quiet)
        rows = [json.loads(line) for line in (out / "metrics.jsonl").read_text().splitlines()]
        curves.append([row.get("loss", row.get("validation_loss")) for row in rows])
    assert curves[0] == pytest.approx(curves[1], abs=1e-4)


@pytest.mark.parametrize(
    "name, value", [("mixture", {"a": {"weight": 1}}), ("window_start", "document"), ("attend", "document")]
)
def test_another_order_than_that_of_the_corpus_is_refused(name, value, tiny):
    with pytest.raises(ValueError, match=f"reads the whole corpus in its order; leave {name} out"):
        tiny(model=MODEL, **{name: value})
