"""Two processes against one: the same run, whatever the number of ranks."""

import json
import os
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
import safetensors.torch

from modeling.checkpoint import Checkpoints
from modeling.device import training_environment
from modeling.training.pretrain import pretrain
from modeling.training.process import command
from textmill.progress import quiet

pytestmark = pytest.mark.slow


def curve(out: Path) -> list[float]:
    rows = [json.loads(line) for line in (out / "metrics.jsonl").read_text().splitlines()]
    return [row.get("loss", row.get("validation_loss")) for row in rows]


def files(out: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in out.iterdir() if path.is_file() and path.name != "timing.jsonl"}


def launch(config, tokens, tokenizer_folder, out) -> str:
    """Train to the end; what was logged."""
    done = subprocess.run(
        command(config, tokens, tokenizer_folder, out), env=training_environment(), capture_output=True, text=True
    )
    assert done.returncode == 0, done.stderr[-2000:]
    return done.stderr


@pytest.mark.parametrize("progressive", [None, {"until": 0.5}])
@pytest.mark.parametrize("how", ["ddp", "fsdp"])
def test_two_ranks_train_as_one_does(how, progressive, tokens, tokenizer_folder, tiny, tmp_path):
    settings = {
        "precision": "fp32", "steps": 12, "evaluate_every": 4, "optimizer": {"clip": 1.0}, "progressive": progressive,
        "preset": "nano-fast" if progressive else "nano",
    }  # fmt: skip
    one, two = tmp_path / "one", tmp_path / "two"
    one.mkdir()
    pretrain(tokens, tokenizer_folder, tiny(**settings), one, quiet)
    launch(tiny(**settings, parallel=how, micro_batch=3, processes=2), tokens, tokenizer_folder, two)
    assert curve(two) == pytest.approx(curve(one), abs=1e-4)
    left_out = {"samples.jsonl"} if how == "fsdp" else set()  # weights that are shared out write nothing on the way
    assert {path.name for path in two.iterdir()} == {path.name for path in one.iterdir()} - left_out


@pytest.mark.parametrize("how", ["ddp", "fsdp"])
@pytest.mark.parametrize("kind", ["kan-spline", "kan-rational"])
def test_two_ranks_train_a_kan_as_one_does(kind, how, tokens, tokenizer_folder, tiny, tmp_path):
    model = {"layers": 2, "width": 32, "heads": 2, "context": 32, "feed_forward": kind}
    settings = {"precision": "fp32", "steps": 6, "evaluate_every": 3, "model": model, "optimizer": {"clip": 1.0}}
    one, two = tmp_path / "one", tmp_path / "two"
    one.mkdir()
    pretrain(tokens, tokenizer_folder, tiny(**settings), one, quiet)
    launch(tiny(**settings, parallel=how, micro_batch=3, processes=2), tokens, tokenizer_folder, two)
    assert curve(two) == pytest.approx(curve(one), abs=1e-4)


@pytest.mark.parametrize("how", ["ddp", "fsdp"])
@pytest.mark.parametrize("cell", ["gru", "lstm", "mingru"])
def test_two_ranks_carry_a_state_as_one_does_and_either_goes_on_from_the_other(
    interrupted_at, cell, how, tokens, tokenizer_folder, tiny, tmp_path
):
    model = {"kind": "recurrent", "cell": cell, "layers": 2, "width": 32, "context": 32}
    settings = {
        "precision": "fp32", "steps": 12, "evaluate_every": 4, "checkpoint_every": 5, "model": model,
        "optimizer": {"clip": 1.0}, "seed": 16,  # the last row comes to the end of the corpus at step 7
    }  # fmt: skip
    one, more = tmp_path / "one", tmp_path / "more"
    for out in (one, more):
        out.mkdir()
    pretrain(tokens, tokenizer_folder, tiny(**settings), one, quiet)
    interrupted_at(7, tokens, tokenizer_folder, tiny(**settings, log_every=1), more)
    launch(tiny(**settings, parallel=how, micro_batch=3, processes=2), tokens, tokenizer_folder, more)
    assert curve(more) == pytest.approx(curve(one), abs=1e-4)


@pytest.mark.parametrize(("micro_batch", "progressive"), [(None, None), (3, None), (None, {"layers": 1, "until": 0.5})])
@pytest.mark.parametrize("share", [0.125, 0.6])  # with 0.125 one rank has both kinds of windows, the other one of them
def test_two_ranks_train_both_objectives_as_one_does(
    share, micro_batch, progressive, tokens, tokenizer_folder, tiny, tmp_path
):
    settings = {
        "precision": "fp32", "steps": 6, "evaluate_every": 3, "objective": "mixed", "masked_share": share,
        "optimizer": {"clip": 1.0}, "progressive": progressive,
    }  # fmt: skip
    one, two = tmp_path / "one", tmp_path / "two"
    one.mkdir()
    pretrain(tokens, tokenizer_folder, tiny(**settings), one, quiet)
    launch(tiny(**settings, micro_batch=micro_batch, processes=2), tokens, tokenizer_folder, two)
    assert curve(two) == pytest.approx(curve(one), abs=1e-4)


def stopped_after(step: int, config, tokens, tokenizer_folder, out) -> None:
    """Start training; kill torchrun, which takes the ranks along, once a checkpoint of at least this step is there."""
    child = subprocess.Popen(
        command(config, tokens, tokenizer_folder, out), env=training_environment(), stderr=subprocess.DEVNULL
    )
    wait_for_checkpoint(child, out, step)
    ranks = [Path(f"/proc/{pid}") for pid in children(child)]
    child.kill()
    child.wait(timeout=240)
    deadline = time.monotonic() + 240
    while any(rank.exists() for rank in ranks):
        assert time.monotonic() < deadline, "a rank outlives torchrun"
        time.sleep(0.01)


def children(process: subprocess.Popen) -> list[int]:
    if sys.platform != "linux":
        process.kill()
        pytest.skip("ranks are found in /proc")
    return [int(pid) for pid in Path(f"/proc/{process.pid}/task/{process.pid}/children").read_text().split()]


def wait_for_checkpoint(child: subprocess.Popen, out: Path, step: int) -> None:
    checkpoints = Checkpoints(out / "checkpoints", keep=1)
    deadline = time.monotonic() + 300
    while not any(saved >= step for saved in checkpoints.steps()):
        assert child.poll() is None
        if time.monotonic() > deadline:
            child.kill()
            pytest.fail(f"no checkpoint of step {step} in 300 s")
        time.sleep(0.005)


def test_a_run_goes_on_with_another_number_of_ranks(interrupted_at, tokens, tokenizer_folder, tiny, tmp_path):
    settings = {"precision": "fp32", "steps": 12, "evaluate_every": 4, "checkpoint_every": 5}
    one, more = tmp_path / "one", tmp_path / "more"
    one.mkdir()
    more.mkdir()
    pretrain(tokens, tokenizer_folder, tiny(**settings), one, quiet)
    interrupted_at(7, tokens, tokenizer_folder, tiny(**settings, log_every=1), more)
    launch(tiny(**settings, processes=2), tokens, tokenizer_folder, more)
    assert curve(more) == pytest.approx(curve(one), abs=1e-4)


@pytest.fixture(scope="module")
def sharded_run(tokens, tokenizer_folder, tiny, tmp_path_factory):
    """Two ranks hold a part each of weights, optimizer and average: settings, a whole run, and an interrupted one."""
    settings = {
        "precision": "fp32", "steps": 60, "evaluate_every": 20, "checkpoint_every": 4, "ema": 0.9, "keep": "best",
        "keep_checkpoints": 2, "parallel": "fsdp",
    }  # fmt: skip
    whole, part = tmp_path_factory.mktemp("whole"), tmp_path_factory.mktemp("part")
    launch(tiny(**settings, processes=2), tokens, tokenizer_folder, whole)
    stopped_after(24, tiny(**settings, processes=2), tokens, tokenizer_folder, part)
    return settings, whole, part


@pytest.fixture
def interrupted(sharded_run, tmp_path):
    return shutil.copytree(sharded_run[2], tmp_path / "part")


def test_each_rank_writes_its_part_of_a_sharded_model(sharded_run):
    checkpoints = Checkpoints(sharded_run[2] / "checkpoints", keep=1)
    folder = checkpoints.path(checkpoints.steps()[-1])
    shards = [f"shard-0000{rank}-model-00001-of-00001.safetensors" for rank in (1, 2)]
    assert {path.name for path in folder.iterdir()} == {*shards, "config.json", "metrics.jsonl", "checksums.json"}
    assert set(json.loads((folder / "checksums.json").read_text())) == {*shards, "config.json", "metrics.jsonl"}
    parts = [safetensors.torch.load_file(folder / name) for name in shards]
    whole = safetensors.torch.load_file(sharded_run[1] / "model.safetensors")
    for name, weight in whole.items():
        for prefix in ("", "trained/"):
            assert sum(len(part[prefix + name]) for part in parts) == len(weight)
    moment = "optimizer/embed.weight/exp_avg"
    assert sum(len(part[moment]) for part in parts) == len(whole["embed.weight"])


def test_a_sharded_run_goes_on_from_before_a_damaged_shard_to_the_same_bytes(
    sharded_run, interrupted, tokens, tokenizer_folder, tiny
):
    settings, whole, _ = sharded_run
    checkpoints = Checkpoints(interrupted / "checkpoints", keep=1)
    damaged, good = checkpoints.path(checkpoints.steps()[-1]), checkpoints.steps()[-2]
    shard = damaged / "shard-00002-model-00001-of-00001.safetensors"
    content = bytearray(shard.read_bytes())
    content[-1] ^= 1
    shard.write_bytes(content)
    told = launch(tiny(**settings, processes=2), tokens, tokenizer_folder, interrupted)
    assert f"{damaged.name} is damaged" in told
    assert f"continuing from step {good} of 60" in told
    assert files(interrupted) == files(whole)


def test_a_sharded_run_goes_on_in_one_process(sharded_run, interrupted, tokens, tokenizer_folder, tiny):
    settings, whole, _ = sharded_run
    before = Checkpoints(interrupted / "checkpoints", keep=1).steps()[-1]
    steps = []
    pretrain(
        tokens, tokenizer_folder, tiny(**settings, log_every=1), interrupted, lambda done, *_, **__: steps.append(done)
    )
    assert steps[0] == before + 1
    assert curve(interrupted) == pytest.approx(curve(whole), abs=1e-4)
    assert files(interrupted).keys() == files(whole).keys()


def test_a_sharded_run_goes_on_replicated(sharded_run, interrupted, tokens, tokenizer_folder, tiny):
    settings, whole, _ = sharded_run
    told = launch(tiny(**settings | {"parallel": "ddp"}, processes=2), tokens, tokenizer_folder, interrupted)
    assert "continuing from step" in told
    assert curve(interrupted) == pytest.approx(curve(whole), abs=1e-4)


def test_a_rank_that_dies_is_started_again_with_the_others(sharded_run, tokens, tokenizer_folder, tiny, tmp_path):
    settings, whole, _ = sharded_run
    out, log = tmp_path / "out", tmp_path / "log"
    with log.open("w") as told:
        child = subprocess.Popen(
            command(tiny(**settings, processes=2), tokens, tokenizer_folder, out),
            env=training_environment(),
            stdout=told,
            stderr=told,
        )
        wait_for_checkpoint(child, out, 4)
        os.kill(children(child)[-1], signal.SIGKILL)
        assert child.wait(timeout=300) == 0, log.read_text()[-2000:]
    assert "continuing from step" in log.read_text()
    assert files(out) == files(whole)


def test_sigterm_to_all_ranks_saves_one_checkpoint_to_go_on_from(tokens, tokenizer_folder, tiny, tmp_path):
    settings = {"precision": "fp32", "steps": 400, "evaluate_every": 400, "checkpoint_every": 10}
    arguments = command(tiny(**settings, processes=2), tokens, tokenizer_folder, tmp_path)
    child = subprocess.Popen(arguments, env=training_environment(), start_new_session=True, stderr=subprocess.DEVNULL)
    wait_for_checkpoint(child, tmp_path, 10)
    os.killpg(child.pid, signal.SIGTERM)
    assert child.wait(timeout=240) != 0
    checkpoints = Checkpoints(tmp_path / "checkpoints", keep=1)
    assert next(checkpoints.usable()) == checkpoints.steps()[-1] < 400
    assert not (tmp_path / "stats.json").exists()


def test_a_users_mistake_is_told_once_and_not_tried_again(tokens, tokenizer_folder, tiny, tmp_path):
    wild = tiny(precision="fp32", processes=2, checkpoint_every=1, optimizer={"name": "adamw", "lr": 1e30})
    done = subprocess.run(
        command(wild, tokens, tokenizer_folder, tmp_path), env=training_environment(), capture_output=True, text=True
    )
    assert done.returncode != 0
    messages = [json.loads(line) for line in done.stdout.splitlines()]
    assert len(messages) == 1 and "the weights became not finite" in messages[0]["error"]
