"""Pretraining through its function and its process: results, exact continuation, and mistakes."""

import importlib.util
import json
import os
import re
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import load_file, save_file

from modeling.checkpoint import CHECKSUMS, TRAINING, WEIGHTS, Checkpoints, load_model, publish_weights
from modeling.config.network import TransformerConfig
from modeling.config.optimization import OptimizerConfig
from modeling.device import training_environment
from modeling.networks.transformer import GPT
from modeling.training import state
from modeling.training.objectives import CausalLM
from modeling.training.optim import optimizers
from modeling.training.pretrain import entropy, pretrain, token_counts
from modeling.training.process import command
from textmill.errors import UserError
from textmill.files import sha256
from textmill.processes import python_environment
from textmill.progress import quiet
from tokenization.arrays import META, TokenArrays
from tokenization.formats import save_tokenizer
from tokenization.tokenizer import Tokenizer


def files(folder: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in folder.iterdir() if path.is_file() and path.name != "timing.jsonl"}


@pytest.fixture(scope="module")
def uninterrupted(tokens, tokenizer_folder, tiny, tmp_path_factory) -> dict[str, bytes]:
    out = tmp_path_factory.mktemp("uninterrupted")
    pretrain(tokens, tokenizer_folder, tiny(), out, quiet)
    return files(out)


def test_it_learns_more_than_the_frequencies_of_tokens(pretrained, tokens):
    stats = json.loads((pretrained / "stats.json").read_text())
    assert stats["unigram_entropy"] == pytest.approx(entropy(token_counts(TokenArrays(tokens, "train"))))
    assert stats["validation_loss"] < 0.5 * stats["unigram_entropy"]
    # a byte-level vocabulary: a token is a byte, but for the ends of documents
    assert stats["bits_per_byte"] == pytest.approx(stats["validation_loss"] / np.log(2), rel=0.02)
    assert stats["tokens_seen"] == 120 * 8 * 32


def test_the_folder_holds_a_whole_checkpoint_and_nothing_of_the_way(pretrained, tokenizer_folder):
    ours = {
        "resumable",
        "model.safetensors",
        "config.json",
        "metrics.jsonl",
        "samples.jsonl",
        "timing.jsonl",
        "stats.json",
    }
    assert {path.name for path in pretrained.iterdir()} == ours | {path.name for path in tokenizer_folder.iterdir()}
    rows = [json.loads(line) for line in (pretrained / "metrics.jsonl").read_text().splitlines()]
    assert [row["step"] for row in rows if "loss" in row] == list(range(1, 121))
    assert [row["step"] for row in rows if "validation_loss" in row] == [20, 40, 60, 80, 100, 120]


def test_what_the_model_writes_is_kept_on_the_way_at_ever_longer_intervals(pretrained):
    samples = [json.loads(line) for line in (pretrained / "samples.jsonl").read_text().splitlines()]
    assert [row["step"] for row in samples] == [20, 40, 80]
    assert len({row["sample"] for row in samples}) == 3
    assert json.loads((pretrained / "stats.json").read_text())["sample"] not in [row["sample"] for row in samples]


@pytest.mark.parametrize("place", [None, "/dev/shm"])
def test_a_result_is_published_within_a_file_system_and_across(pretrained, tmp_path, place):
    if place and not os.access(place, os.W_OK):
        pytest.skip(f"no {place} here")
    with tempfile.TemporaryDirectory(dir=place or tmp_path) as out:
        publish_weights(pretrained, Path(out))
        assert files(Path(out)) == {WEIGHTS: (pretrained / WEIGHTS).read_bytes()}
        assert (Path(out) / WEIGHTS).stat().st_nlink == (1 if place else 2)


def test_a_finished_folder_is_left_alone(pretrained, tokens, tokenizer_folder, tiny):
    before = files(pretrained)
    pretrain(tokens, tokenizer_folder, tiny(steps=120), pretrained, pytest.fail)
    assert files(pretrained) == before


def test_the_same_settings_give_the_same_bytes(uninterrupted, tokens, tokenizer_folder, tiny, tmp_path):
    pretrain(tokens, tokenizer_folder, tiny(checkpoint_every=7, keep_checkpoints=1, log_every=3), tmp_path, quiet)
    assert files(tmp_path) == uninterrupted


def test_what_a_killed_run_had_no_time_to_clear_away_goes_and_the_result_stays(
    pretrained, tokens, tokenizer_folder, tiny, tmp_path
):
    out = shutil.copytree(pretrained, tmp_path / "out")
    (out / "checkpoints" / "step-00000010").mkdir(parents=True)
    pretrain(tokens, tokenizer_folder, tiny(steps=120), out, pytest.fail)
    assert files(out) == files(pretrained)


GROWING = {"model": {"layers": 4, "width": 32, "heads": 2, "context": 32}, "progressive": {"until": 0.5}}


@pytest.mark.parametrize("more", [{}, {"preset": "nano-fast", "ema": 0.9}])
def test_layers_join_a_run_and_it_continues_exactly_before_and_after(
    interrupted_at, more, tokens, tokenizer_folder, tiny, tmp_path
):
    settings = GROWING | more
    whole, part = tmp_path / "whole", tmp_path / "part"
    for out in (whole, part):
        out.mkdir()
    pretrain(tokens, tokenizer_folder, tiny(**settings), whole, quiet)
    for step, used in (11, [3]), (31, [0, 1, 2, 3]):
        interrupted_at(step, tokens, tokenizer_folder, tiny(**settings, log_every=1), part)
        checkpoints = Checkpoints(part / "checkpoints", keep=1)
        saved = load_file(checkpoints.path(checkpoints.steps()[-1]) / WEIGHTS)
        assert [layer for layer in range(4) if saved[f"blocks.{layer}.feed_forward.down.weight"].any()] == used
    pretrain(tokens, tokenizer_folder, tiny(**settings), part, quiet)
    assert files(part) == files(whole)


MLP = {"layers": 2, "width": 32, "heads": 2, "context": 32}
KANS = {
    "kan-spline": {"feed_forward": "kan-spline", "activation": "silu"},
    "kan-rbf": {"feed_forward": {"kind": "kan-rbf", "grid": 5}},
    "kan-rational": {"feed_forward": "kan-rational", "activation": "gelu"},
}


@pytest.mark.parametrize("kind", KANS)
def test_a_kan_learns_as_the_mlp_does_and_continues_exactly(
    interrupted_at, kind, pretrained, tokens, tokenizer_folder, tiny, tmp_path
):
    model = MLP | KANS[kind]
    settings = {"model": model, "steps": 120, "ema": 0.9, "precision": "bf16"}
    whole, part = tmp_path / "whole", tmp_path / "part"
    for out in (whole, part):
        out.mkdir()
    pretrain(tokens, tokenizer_folder, tiny(**settings), whole, quiet)
    interrupted_at(31, tokens, tokenizer_folder, tiny(**settings, log_every=1), part)
    pretrain(tokens, tokenizer_folder, tiny(**settings), part, quiet)
    assert files(part) == files(whole)
    losses = [json.loads((out / "stats.json").read_text())["validation_loss"] for out in (whole, pretrained)]
    assert losses[0] < losses[1] + 0.1


@pytest.mark.parametrize("kind", KANS)
def test_a_kan_learns_a_tiny_text_by_heart(kind):
    torch.manual_seed(0)
    model = GPT(TransformerConfig.model_validate(MLP | KANS[kind]), 50)
    ids = torch.randint(50, (4, 33), generator=torch.Generator().manual_seed(1))
    chosen = optimizers(model, OptimizerConfig(), torch.float32)
    for _ in range(60):
        loss = model(ids[:, :-1], ids[:, 1:])
        loss.backward()
        for optimizer in chosen:
            optimizer.step()
            optimizer.zero_grad()
    assert loss.item() < 0.1  # nothing in these ids can be known but by heart: log(50) is 3.9


def test_a_checkpoint_says_nothing_of_a_feed_forward_that_was_always_there(pretrained, tokens, tokenizer_folder, tiny):
    fields = json.loads((pretrained / "config.json").read_text())
    assert "feed_forward" not in fields["model"]
    assert load_model(pretrained)[1].model.feed_forward.kind == "mlp"
    with pytest.raises(UserError, match=r"model.feed_forward.kind: kan-rbf here, mlp there"):
        pretrain(tokens, tokenizer_folder, tiny(model=MLP | {"feed_forward": "kan-rbf"}), pretrained, pytest.fail)


def test_a_run_that_grows_learns_as_much(tokens, tokenizer_folder, tiny, tmp_path):
    losses = []
    for name, changes in {"full": {"progressive": None}, "growing": {}}.items():
        (tmp_path / name).mkdir()
        pretrain(tokens, tokenizer_folder, tiny(**GROWING | {"steps": 120} | changes), tmp_path / name, quiet)
        losses.append(json.loads((tmp_path / name / "stats.json").read_text())["validation_loss"])
    assert losses[1] == pytest.approx(losses[0], rel=0.05)


def test_a_run_with_other_settings_is_not_continued(interrupted_at, tokens, tokenizer_folder, tiny, tmp_path):
    interrupted_at(11, tokens, tokenizer_folder, tiny(log_every=1), tmp_path)
    with pytest.raises(UserError, match=r"other settings \(run.optimizer.matrix_lr: 0.01 here, 0.02 there\); continue"):
        pretrain(tokens, tokenizer_folder, tiny(optimizer={"matrix_lr": 0.01}), tmp_path, pytest.fail)


def test_a_checkpoint_is_due_after_minutes_too(interrupted_at, tokens, tokenizer_folder, tiny, tmp_path):
    rarely = {"checkpoint_every": 1000, "evaluate_every": 40, "log_every": 1, "keep_checkpoints": 9}
    interrupted_at(6, tokens, tokenizer_folder, tiny(**rarely, checkpoint_minutes=1e-9), tmp_path)
    assert Checkpoints(tmp_path / "checkpoints", keep=9).steps() == [1, 2, 3, 4, 5]


def test_another_seed_gives_another_model(uninterrupted, tokens, tokenizer_folder, tiny, tmp_path):
    pretrain(tokens, tokenizer_folder, tiny(seed=1), tmp_path, quiet)
    assert files(tmp_path)["model.safetensors"] != uninterrupted["model.safetensors"]


def start_and_stop(arguments: list[str], out: Path, after: int, number: signal.Signals) -> int:
    """Start training, send a signal once a checkpoint of at least step `after` is there; the exit status."""
    child = subprocess.Popen(
        arguments, env=training_environment(), stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL
    )
    checkpoints = Checkpoints(out / "checkpoints", keep=1)
    deadline = time.monotonic() + 300
    while child.poll() is None and not any(step >= after for step in checkpoints.steps()):
        assert time.monotonic() < deadline
        time.sleep(0.005)
    child.send_signal(number)
    return child.wait(timeout=300)


def test_after_kill_9_it_continues_to_the_same_bytes(uninterrupted, tokens, tokenizer_folder, tiny, tmp_path):
    arguments = command(tiny(checkpoint_every=3), tokens, tokenizer_folder, tmp_path)
    for after in (6, 21):  # killed twice
        assert start_and_stop(arguments, tmp_path, after, signal.SIGKILL) == -signal.SIGKILL
    assert not (tmp_path / "stats.json").exists()
    assert subprocess.run(arguments, env=training_environment(), capture_output=True).returncode == 0
    assert files(tmp_path) == uninterrupted


def test_sigterm_saves_where_it_is_and_ends(uninterrupted, tokens, tokenizer_folder, tiny, tmp_path):
    arguments = command(tiny(steps=40, checkpoint_every=7), tokens, tokenizer_folder, tmp_path)
    assert start_and_stop(arguments, tmp_path, 7, signal.SIGTERM) == -signal.SIGTERM
    saved = Checkpoints(tmp_path / "checkpoints", keep=1).steps()
    assert saved[-1] >= 7
    assert subprocess.run(arguments, env=training_environment(), capture_output=True).returncode == 0
    assert files(tmp_path) == uninterrupted


class Cancelled(BaseException):
    """What an orchestrator's signal handler raises in the main thread."""


def test_an_orchestrators_handler_gets_its_signal_after_the_checkpoint(
    uninterrupted, tokens, tokenizer_folder, tiny, tmp_path
):
    def handler(number, frame):
        raise Cancelled

    def cancel_at_12(done, total=None, **metrics):
        if done == 12:
            signal.raise_signal(signal.SIGTERM)

    previous = signal.signal(signal.SIGTERM, handler)
    try:
        with pytest.raises(Cancelled):
            pretrain(tokens, tokenizer_folder, tiny(log_every=1), tmp_path, cancel_at_12)
        assert signal.getsignal(signal.SIGTERM) is handler
    finally:
        signal.signal(signal.SIGTERM, previous)
    assert Checkpoints(tmp_path / "checkpoints", keep=1).steps()[-1] == 12
    pretrain(tokens, tokenizer_folder, tiny(), tmp_path, quiet)
    assert files(tmp_path) == uninterrupted


def test_a_step_is_left_off_between_two_passes(tokens, tokenizer_folder, tiny, tmp_path, monkeypatch):
    whole, part = tmp_path / "whole", tmp_path / "part"
    for out in (whole, part):
        out.mkdir()
    passes = tiny(micro_batch=2)
    pretrain(tokens, tokenizer_folder, passes, whole, quiet)
    made, original = [], CausalLM.train_batch

    def signalled(self, step, batch, rows):
        made.append((step, rows.start))
        if (step, rows.start) == (12, 2):
            signal.raise_signal(signal.SIGTERM)
        return original(self, step, batch, rows)

    def handler(number, frame):
        raise Cancelled

    monkeypatch.setattr(CausalLM, "train_batch", signalled)
    previous = signal.signal(signal.SIGTERM, handler)
    try:
        with pytest.raises(Cancelled):
            pretrain(tokens, tokenizer_folder, passes, part, quiet)
    finally:
        signal.signal(signal.SIGTERM, previous)
    assert made[-1] == (12, 2)
    assert Checkpoints(part / "checkpoints", keep=1).steps()[-1] == 12
    monkeypatch.undo()
    pretrain(tokens, tokenizer_folder, passes, part, quiet)
    assert files(part) == files(whole)


@pytest.mark.parametrize("name", ["model.safetensors", "training.safetensors", "metrics.jsonl", "config.json"])
def test_a_damaged_checkpoint_gives_way_to_the_one_before(
    interrupted_at, name, uninterrupted, tokens, tokenizer_folder, tiny, tmp_path, caplog
):
    interrupted_at(31, tokens, tokenizer_folder, tiny(log_every=1), tmp_path)
    damaged = tmp_path / "checkpoints" / "step-00000030" / name
    content = bytearray(damaged.read_bytes())
    content[len(content) // 2] ^= 1
    damaged.write_bytes(content)
    pretrain(tokens, tokenizer_folder, tiny(), tmp_path, quiet)
    assert "step-00000030 is damaged" in caplog.text
    assert files(tmp_path) == uninterrupted


def test_old_checkpoints_go_but_the_best_stays(tokens, tokenizer_folder, tiny, tmp_path):
    wild = {"optimizer": {"matrix_lr": 0.05}, "schedule": {"shape": "constant"}}
    config = tiny(steps=60, evaluate_every=10, keep="best", keep_checkpoints=1, log_every=60, **wild)
    kept = {}

    def look(done, total=None, **metrics):
        kept[done] = Checkpoints(tmp_path / "checkpoints", keep=1).steps()

    pretrain(tokens, tokenizer_folder, config, tmp_path, look)
    rows = [json.loads(line) for line in (tmp_path / "metrics.jsonl").read_text().splitlines()]
    losses = {row["step"]: row["validation_loss"] for row in rows if "validation_loss" in row}
    for step in range(10, 51, 10):
        best = min((at for at in losses if at <= step), key=losses.get)
        assert kept[step] == sorted({best, step})
    stats = json.loads((tmp_path / "stats.json").read_text())
    assert stats["validation_loss"] == min(losses.values())
    [best] = [row for row in rows if row.get("validation_loss") == stats["validation_loss"]]
    assert stats["late_minus_early"] == best["late_minus_early"]
    assert [row["step"] for row in rows if "late_loss" in row] == list(range(10, 61, 10))  # any may be the best


def test_micro_batches_change_nothing_but_rounding(tokens, tokenizer_folder, tiny, tmp_path):
    losses = []
    for micro_batch in (8, 3):
        out = tmp_path / str(micro_batch)
        out.mkdir()
        pretrain(tokens, tokenizer_folder, tiny(micro_batch=micro_batch, precision="fp32", steps=20), out, quiet)
        losses.append([json.loads(line).get("loss") for line in (out / "metrics.jsonl").read_text().splitlines()])
    assert losses[1] == pytest.approx(losses[0], abs=1e-4)


@pytest.mark.parametrize(
    ("every", "message", "left"),
    [
        (1, r"the weights became not finite at step 2 \(the checkpoint of step 1 is kept\)", [1]),
        (5, r"the loss became (nan|inf) at step 3 \(there is no checkpoint before it\)", []),
    ],
)
def test_what_is_not_finite_stops_a_run_and_is_not_kept(every, message, left, tokens, tokenizer_folder, tiny, tmp_path):
    wild = tiny(precision="fp32", checkpoint_every=every, optimizer={"name": "adamw", "lr": 1e30})
    for _ in range(2):  # continuing does not pretend that all is well
        with pytest.raises(UserError, match=message + "; lower the learning rates of `optimizer` and run again"):
            pretrain(tokens, tokenizer_folder, wild, tmp_path, quiet)
    assert list(Checkpoints(tmp_path / "checkpoints", keep=1).usable()) == left


def are_finite(checkpoint: Path) -> bool:
    return all(t.isfinite().all() for file in checkpoint.glob("*.safetensors") for t in load_file(file).values())


@pytest.mark.parametrize(
    ("rate", "more"), [(1e30, {}), (1e38, {"precision": "bf16"}), (1e30, {"ema": 0.9, "keep_checkpoints": 1})]
)
def test_after_a_run_diverged_one_with_lower_rates_takes_its_place(
    interrupted_at, rate, more, tokens, tokenizer_folder, tiny, tmp_path
):
    settings = {"checkpoint_every": 1, "evaluate_every": 40, "precision": "fp32", "steps": 40, **more}
    wild, tame = ({"name": "adamw", "lr": lr} for lr in (rate, 1e-3))
    again, anew = tmp_path / "again", tmp_path / "anew"
    for out in (again, anew):
        out.mkdir()
    with pytest.raises(UserError, match="lower the learning rates of `optimizer` and run again, which begins anew"):
        pretrain(tokens, tokenizer_folder, tiny(**settings, optimizer=wild), again, quiet)
    assert all(map(are_finite, (again / "checkpoints").glob("step-*")))
    tame_config = tiny(**settings, optimizer=tame, log_every=1)
    interrupted_at(3, tokens, tokenizer_folder, tame_config, again)
    pretrain(tokens, tokenizer_folder, tame_config, again, quiet)
    pretrain(tokens, tokenizer_folder, tame_config, anew, quiet)
    assert files(again) == files(anew)


def test_a_run_that_begins_anew_leaves_no_records_of_the_one_before(tokens, tokenizer_folder, tiny, tmp_path):
    settings = {"checkpoint_every": 10, "precision": "fp32", "log_every": 1}
    with pytest.raises(UserError, match="there is no checkpoint before it"):
        pretrain(tokens, tokenizer_folder, tiny(**settings, optimizer={"name": "adamw", "lr": 1e30}), tmp_path, quiet)
    assert (tmp_path / "timing.jsonl").is_file()
    pretrain(tokens, tokenizer_folder, tiny(**settings), tmp_path, quiet)
    steps = [json.loads(line)["step"] for line in (tmp_path / "timing.jsonl").read_text().splitlines()]
    assert steps == sorted(steps)
    assert steps.count(1) == 1


def without(name: str, checkpoint: Path) -> None:
    """Leave a tensor out of a checkpoint's training state, as a version did that did not keep it."""
    tensors = load_file(checkpoint / TRAINING)
    save_file({key: tensor for key, tensor in tensors.items() if key != name}, checkpoint / TRAINING)
    checksums = json.loads((checkpoint / CHECKSUMS).read_text()) | {TRAINING: sha256(checkpoint / TRAINING)}
    (checkpoint / CHECKSUMS).write_text(json.dumps(checksums))


def test_a_checkpoint_of_a_version_that_kept_less_is_continued_or_refused(
    interrupted_at, uninterrupted, tokens, tokenizer_folder, tiny, tmp_path, monkeypatch
):
    losses = [json.loads(line) for line in uninterrupted["metrics.jsonl"].splitlines()]
    losses = [row["loss"] for row in losses if "loss" in row]
    monkeypatch.setattr(state, "CURVE_POINTS", 8)
    interrupted_at(13, tokens, tokenizer_folder, tiny(log_every=1, checkpoint_every=12), tmp_path)
    checkpoint = tmp_path / "checkpoints" / "step-00000012"
    without("losses", checkpoint)
    interrupted_at(14, tokens, tokenizer_folder, tiny(log_every=1, checkpoint_every=1), tmp_path)
    pretrain(tokens, tokenizer_folder, tiny(log_every=1), tmp_path, quiet)
    rows = [json.loads(line) for line in (tmp_path / "metrics.jsonl").read_text().splitlines()]
    curve = {row["step"]: row["loss"] for row in rows if "loss" in row}
    assert list(curve) == list(range(5, 41, 5))
    assert curve[10] == pytest.approx(np.mean(losses[5:10]))
    assert curve[15] == pytest.approx(np.mean(losses[12:15]))  # of the steps that it is over
    assert curve[20] == pytest.approx(np.mean(losses[15:20]))
    assert (tmp_path / WEIGHTS).read_bytes() == uninterrupted[WEIGHTS]


def test_a_checkpoint_that_lacks_what_continuing_needs_is_one_line(
    interrupted_at, tokens, tokenizer_folder, tiny, tmp_path
):
    interrupted_at(11, tokens, tokenizer_folder, tiny(log_every=1), tmp_path)
    without("step", tmp_path / "checkpoints" / "step-00000010")
    with pytest.raises(UserError, match="step-00000010 lacks step, which this version keeps; continue the run with"):
        pretrain(tokens, tokenizer_folder, tiny(), tmp_path, pytest.fail)


def test_a_checkpoint_of_weights_that_are_not_finite_is_gone_back_past(
    interrupted_at, uninterrupted, tokens, tokenizer_folder, tiny, tmp_path, caplog
):
    interrupted_at(31, tokens, tokenizer_folder, tiny(log_every=1, keep_checkpoints=3), tmp_path)
    spoilt = tmp_path / "checkpoints" / "step-00000030"
    weights = load_file(spoilt / WEIGHTS)
    weights["embed.weight"][7, 3] = float("nan")
    save_file(weights, spoilt / WEIGHTS)
    checksums = json.loads((spoilt / CHECKSUMS).read_text()) | {WEIGHTS: sha256(spoilt / WEIGHTS)}
    (spoilt / CHECKSUMS).write_text(json.dumps(checksums))
    interrupted_at(21, tokens, tokenizer_folder, tiny(log_every=1), tmp_path)
    assert "step-00000030 holds weights that are not finite; going back past it" in caplog.text
    assert Checkpoints(tmp_path / "checkpoints", keep=1).steps() == [10, 20]  # later ones would count as the newest
    pretrain(tokens, tokenizer_folder, tiny(), tmp_path, quiet)
    assert files(tmp_path) == uninterrupted


def test_a_finished_folder_refuses_other_settings(pretrained, tokens, tokenizer_folder, tiny):
    with pytest.raises(UserError, match=r"holds a finished run with other settings \(run.steps: 40 here, 120 there\)"):
        pretrain(tokens, tokenizer_folder, tiny(), pretrained, pytest.fail)


def test_a_folder_refuses_other_inputs(interrupted_at, pretrained, tokens, tokenizer_folder, tokenizer, tiny, tmp_path):
    fewer = shutil.copytree(tokens, tmp_path / "tokens")
    meta = json.loads((fewer / META).read_text())
    (fewer / META).write_text(json.dumps(meta | {"splits": meta["splits"] | {"train": meta["splits"]["validation"]}}))
    other = tmp_path / "tokenizer"
    save_tokenizer(Tokenizer(tokenizer.tokens, "cl100k", tokenizer.special_tokens), other)
    for name, inputs in {"tokens": (fewer, tokenizer_folder), "origin": (tokens, other)}.items():
        with pytest.raises(UserError, match=rf"finished run with other settings \(run.inputs.{name}: \w+ here, \w+ th"):
            pretrain(*inputs, tiny(steps=120), pretrained, pytest.fail)
    interrupted_at(11, tokens, tokenizer_folder, tiny(log_every=1), tmp_path)
    with pytest.raises(UserError, match=r"unfinished run with other settings \(run.inputs.tokens: "):
        pretrain(fewer, tokenizer_folder, tiny(), tmp_path, pytest.fail)


def test_a_line_of_the_log_tells_the_mean_loss_since_the_last_and_the_gradients_norm(
    tokens, tokenizer_folder, tiny, tmp_path
):
    lines = {}

    def note(done, total=None, **metrics):
        lines.setdefault(done, metrics)

    config = tiny(log_every=8, evaluate_every=40, checkpoint_every=3, optimizer={"clip": 1e-3})
    pretrain(tokens, tokenizer_folder, config, tmp_path, note)
    rows = [json.loads(line) for line in (tmp_path / "metrics.jsonl").read_text().splitlines()]
    losses = {row["step"]: row["loss"] for row in rows if "loss" in row}
    for step in range(8, 41, 8):
        assert lines[step]["loss"] == pytest.approx(np.mean([losses[at] for at in range(step - 7, step + 1)]))
        assert lines[step]["gradient_norm"] > 1e-2  # before it is clipped
        assert lines[step]["learning_rate"] == pytest.approx(0.02 * min(1, (40 - step + 1) / 20))


def test_points_of_a_long_curve_are_means_of_the_steps_between_them_after_an_interruption_too(
    interrupted_at, tokens, tokenizer_folder, tiny, tmp_path, monkeypatch
):
    curves = {}
    for points in (1000, 8):
        monkeypatch.setattr(state, "CURVE_POINTS", points)
        out = tmp_path / str(points)
        out.mkdir()
        interrupted_at(13, tokens, tokenizer_folder, tiny(log_every=1, checkpoint_every=12), out)
        pretrain(tokens, tokenizer_folder, tiny(), out, quiet)
        rows = [json.loads(line) for line in (out / "metrics.jsonl").read_text().splitlines()]
        curves[points] = {row["step"]: row["loss"] for row in rows if "loss" in row}
    assert list(curves[8]) == list(range(5, 41, 5))
    for step, loss in curves[8].items():
        assert loss == pytest.approx(np.mean([curves[1000][at] for at in range(step - 4, step + 1)]))


# Only steps are short of memory: what a process imports late takes memory too, and fails in ways of its own.
WITH_LITTLE_MEMORY = """
import re, resource, sys
from pathlib import Path
from modeling.training.process import main
from modeling.training.trainer import Trainer

limit, (most, _) = None, resource.getrlimit(resource.RLIMIT_DATA)

def with_little_memory(trainer):
    global limit
    if limit is None:
        trainer.objective.train_batch(0, 1, range(1))  # what it compiles or loads is there then
        taken = int(re.search(r"VmData:\\s+(\\d+)", Path("/proc/self/status").read_text())[1]) << 10
        limit = taken + (180 << 20)
    resource.setrlimit(resource.RLIMIT_DATA, (limit, most))
    try:
        return step(trainer)
    finally:
        resource.setrlimit(resource.RLIMIT_DATA, (most, most))

step, Trainer.train_step_if_it_fits = Trainer.train_step_if_it_fits, with_little_memory
sys.exit(main())
"""
# What is freed goes back at once, so that a step that failed takes nothing from the next.
WITHOUT_A_HEAP = {"GLIBC_TUNABLES": "glibc.malloc.mmap_threshold=131072"}


@pytest.mark.slow
@pytest.mark.skipif(sys.platform != "linux", reason="limits memory as Linux does")
def test_out_of_memory_names_a_micro_batch_that_fits(tokens, tokenizer_folder, tiny, tmp_path):
    def start(**settings):
        config = tiny(batch=1024, steps=1, evaluate_every=1, precision="fp32", **settings)
        arguments = command(config, tokens, tokenizer_folder, tmp_path)
        arguments[2:4] = ["-c", WITH_LITTLE_MEMORY]
        environment = python_environment() | WITHOUT_A_HEAP
        return subprocess.run(arguments, env=environment, capture_output=True, text=True)

    error = json.loads(start().stdout)["error"]
    found = re.fullmatch(r"1024 windows at once do not fit into memory, (\d+) do; set micro_batch: \1", error)
    assert found, error
    done = start(micro_batch=int(found[1]))
    assert done.returncode == 0, done.stdout + done.stderr


def test_tensorboard_can_read_what_was_reported(tokens, tokenizer_folder, tiny, tmp_path):
    pytest.importorskip("tensorboard", reason="needs textmill[tensorboard]")
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    pretrain(tokens, tokenizer_folder, tiny(tensorboard=True), tmp_path, quiet)
    events = EventAccumulator(str(tmp_path / "tensorboard"))
    events.Reload()
    rows = [json.loads(line) for line in (tmp_path / "metrics.jsonl").read_text().splitlines()]
    for name, step in {"loss": 10, "validation_loss": 20}.items():
        curve = {row["step"]: row[name] for row in rows if name in row}
        shown = {event.step: event.value for event in events.Scalars(name)}
        since = {at: [curve[before] for before in range(at - step + 1, at + 1) if before in curve] for at in shown}
        assert list(shown) == list(range(step, 41, step))
        assert shown == pytest.approx({at: np.mean(values) for at, values in since.items()})


def test_tensorboard_that_is_not_installed_is_an_error_at_once(tokens, tokenizer_folder, tiny, tmp_path):
    if importlib.util.find_spec("tensorboard"):
        pytest.skip("tensorboard is installed")
    with pytest.raises(UserError, match=r"tensorboard is not installed; pip install textmill\[tensorboard\]"):
        pretrain(tokens, tokenizer_folder, tiny(tensorboard=True), tmp_path, pytest.fail)


def history(run: Path) -> dict[int, dict[str, float]]:
    """What an offline run of Weights & Biases holds, by step. Its file is a log of LevelDB: blocks of 32 KiB, in which
    a record has a checksum, a length and a type (first, middle, last part or all) before it."""
    from wandb.proto import wandb_internal_pb2

    content, place, record = run.read_bytes(), 7, b""
    rows: dict[int, dict[str, float]] = {}
    while place + 7 <= len(content):
        if 32_768 - place % 32_768 < 7:  # no room for another head
            place += 32_768 - place % 32_768
            continue
        size, kind = int.from_bytes(content[place + 4 : place + 6], "little"), content[place + 6]
        record += content[place + 7 : place + 7 + size]
        place += 7 + size
        if kind in (1, 4):
            parsed = wandb_internal_pb2.Record.FromString(record)
            record = b""
            items = {item.key or item.nested_key[0]: item.value_json for item in parsed.history.item}
            if items:
                rows.setdefault(int(items["_step"]), {}).update({k: json.loads(v) for k, v in items.items()})
    return rows


def test_weights_and_biases_can_read_what_was_reported(tokens, tokenizer_folder, tiny, tmp_path, monkeypatch):
    pytest.importorskip("wandb", reason="needs textmill[wandb]")
    monkeypatch.delenv("WANDB_MODE", raising=False)
    pretrain(tokens, tokenizer_folder, tiny(wandb=True), tmp_path, quiet)
    [run] = (tmp_path / "wandb").glob("offline-run-*/*.wandb")
    timing = [json.loads(line) for line in (tmp_path / "timing.jsonl").read_text().splitlines()]
    logged = history(run)
    assert list(logged) == [10, 20, 30, 40]
    for row in timing:
        for name in ("loss", "validation_loss", "learning_rate"):
            if name in row:
                assert logged[row["step"]][name] == pytest.approx(row[name])
    assert (tmp_path / "wandb" / "run-id").read_text() in run.name
    assert not [path for path in (tmp_path / "wandb").rglob("*") if path.is_symlink()]


def test_weights_and_biases_that_is_not_installed_is_an_error_at_once(tokens, tokenizer_folder, tiny, tmp_path):
    if importlib.util.find_spec("wandb"):
        pytest.skip("wandb is installed")
    with pytest.raises(UserError, match=r"wandb is not installed; pip install textmill\[wandb\]"):
        pretrain(tokens, tokenizer_folder, tiny(wandb=True), tmp_path, pytest.fail)


def test_an_average_of_the_weights_is_the_result_and_survives_an_interruption(
    interrupted_at, tokens, tokenizer_folder, tiny, tmp_path
):
    for folder in ("a", "b"):
        (tmp_path / folder).mkdir()
    pretrain(tokens, tokenizer_folder, tiny(ema=0.9), tmp_path / "a", quiet)
    interrupted_at(31, tokens, tokenizer_folder, tiny(ema=0.9, log_every=1), tmp_path / "b")
    pretrain(tokens, tokenizer_folder, tiny(ema=0.9), tmp_path / "b", quiet)
    assert files(tmp_path / "a") == files(tmp_path / "b")
    assert load_model(tmp_path / "a")[1].run["ema"] == 0.9


def test_an_average_over_few_steps_has_forgotten_the_initial_weights(
    uninterrupted, tokens, tokenizer_folder, tiny, tmp_path
):
    pretrain(tokens, tokenizer_folder, tiny(ema=0.9999), tmp_path, quiet)
    averaged, last = json.loads((tmp_path / "stats.json").read_text()), json.loads(uninterrupted["stats.json"])
    assert averaged["validation_loss"] < 1.2 * last["validation_loss"] < averaged["unigram_entropy"]


def test_a_window_longer_than_the_data_is_an_error_at_once(tokens, tokenizer_folder, tiny, tmp_path):
    model = {"layers": 2, "width": 32, "heads": 2, "context": 1_000_000}
    with pytest.raises(UserError, match=r"needs 1000001 tokens but the train split has \d+; lower model.context"):
        pretrain(tokens, tokenizer_folder, tiny(model=model), tmp_path, pytest.fail)


def test_tokens_of_another_vocabulary_are_an_error_at_once(tokens, tokenizer, tiny, tmp_path):
    from tokenization.formats import save_tokenizer
    from tokenization.tokenizer import Tokenizer

    other = Tokenizer(tokenizer.tokens, "gpt2", tokenizer.special_tokens | {"<|more|>": 300})
    save_tokenizer(other, tmp_path)
    with pytest.raises(UserError, match="vocabulary of 261 but the tokenizer 301"):
        pretrain(tokens, tmp_path, tiny(), tmp_path / "out", pytest.fail)
